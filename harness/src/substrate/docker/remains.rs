//! How everything of a run is removed from an engine, whoever is left to do it, and what it has stopped is brought up.
//!
//! Acts on what the run recorded and on nothing else: by id; where the id was not recorded, on the
//! thing that has the recorded name and kind *and* carries the run's nonce. Labels alone are never
//! enough, since anybody can copy them. Removing what is gone already is fine, so a run's own
//! teardown, its watchdog and `clean` may all do it, even at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::future::Future;
use std::time::{Duration, Instant};

use bollard::query_parameters::{ListContainersOptions, ListNetworksOptions, ListVolumesOptions};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use super::address::EngineAddress;
use super::bring_up::{Downed, bring_up, down, still_up, unseen};
use super::container::{DockerError, MOMENT, in_time, inspect};
use super::engine::{Engine, EngineError};
use super::inside::AFTER;
use super::ledger::{Entry, Kind, NONCE_LABEL, Role, Thing};
use super::thing::{self, AGAIN};
use crate::substrate::process::Nonce;

/// How long nothing of a dead run may appear until nothing more is expected: a request that was under way when its run
/// died was seen to be carried out within 2 s on a busy host.
const QUIET: Duration = Duration::from_secs(4);
/// How much later than it should a keeper may go.
const KEEPER_LATE: Duration = Duration::from_secs(10);

/// Something that could not be removed, or not be brought up again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Why it is still there.
    pub why: String,
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}: {}", self.kind, self.name, self.why)
    }
}

/// What a removal did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// How many things were there and are gone now.
    pub removed: usize,
    /// The containers that are not the run's and were brought up again, by name.
    pub brought_up: Vec<String>,
    /// What is still there, or still down.
    pub left: Vec<Left>,
}

/// What a run recorded, in order.
#[derive(Debug)]
struct Recorded {
    engine: String,
    nonce: Nonce,
    /// Every planned thing, with its id if one was recorded.
    things: BTreeMap<Thing, Option<String>>,
    /// What is not the run's and was stopped by it, by ids.
    down: BTreeMap<String, Downed>,
}

impl Default for Cleaned {
    fn default() -> Self {
        Self::Dead(Removal::default())
    }
}

impl Recorded {
    fn read(entries: &[Entry]) -> Option<Self> {
        let (engine, nonce) = entries.iter().find_map(|entry| match entry {
            Entry::Engine { id, nonce, .. } => Some((id.clone(), *nonce)),
            _ => None,
        })?;
        let mut things = BTreeMap::new();
        for entry in entries {
            match entry {
                Entry::Engine { .. } | Entry::Down { .. } | Entry::Up { .. } => {}
                Entry::Planned { things: planned } => {
                    // A later release of the run has things of the same names.
                    for thing in planned {
                        things.insert(thing.clone(), None);
                    }
                }
                Entry::Made { thing, id } => {
                    things.insert(thing.clone(), Some(id.clone()));
                }
                Entry::Gone => things.clear(),
            }
        }
        Some(Self {
            engine,
            nonce,
            things,
            down: down(entries),
        })
    }

    fn is_empty(&self) -> bool {
        self.things.is_empty() && self.down.is_empty()
    }
}

/// What became of a run's keeper.
#[derive(Debug)]
enum Keeping {
    /// It is gone, or was not made.
    Over,
    /// It runs.
    Runs,
    /// It is there and cannot end, nor say by that that its run is dead: somebody has paused it.
    Paused { id: String, name: String },
}

/// Whether a recorded run is dead: its keeper does not run. A run whose keeper was not made yet
/// counts as dead too; whoever asks must know by other means that nobody is about to make it.
pub async fn is_dead(engine: &Engine, entries: &[Entry]) -> Result<bool, DockerError> {
    let keeping = keeping(engine, entries).await?;
    Ok(matches!(keeping, Keeping::Over))
}

async fn keeping(engine: &Engine, entries: &[Entry]) -> Result<Keeping, DockerError> {
    let Some(recorded) = Recorded::read(entries) else {
        return Ok(Keeping::Over);
    };
    if recorded.engine != engine.about().id {
        return Err(another_engine(engine, &recorded));
    }
    for (thing, id) in &recorded.things {
        if thing.role != Role::Keeper {
            continue;
        }
        let Some(id) = thing::find(engine, &recorded.nonce, thing, id.as_deref()).await? else {
            continue;
        };
        match inspect(engine, &id).await {
            Ok(state) if state.running && state.paused => {
                let name = thing.name.clone();
                return Ok(Keeping::Paused { id, name });
            }
            Ok(state) if state.running => return Ok(Keeping::Runs),
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
    }
    Ok(Keeping::Over)
}

/// Brings up what a run has stopped, and removes everything that it recorded: containers, then volumes, then networks, and
/// the keeper last. Gives up after `bound`, and says what is left.
pub async fn remove_recorded(engine: &Engine, entries: &[Entry], bound: Duration) -> Removal {
    remove_until_quiet(engine, entries, bound, Duration::ZERO).await
}

/// Removes everything of a run whose own process is dead. What that had asked for last may be made after this has
/// looked.
async fn remove_of_dead(engine: &Engine, entries: &[Entry], bound: Duration) -> Removal {
    remove_until_quiet(engine, entries, bound, QUIET).await
}

/// Removes everything that a run recorded, and looks again until nothing has appeared for `quiet`; until then the keeper
/// stays.
async fn remove_until_quiet(
    engine: &Engine,
    entries: &[Entry],
    bound: Duration,
    quiet: Duration,
) -> Removal {
    let deadline = Instant::now() + bound;
    let Some(recorded) = Recorded::read(entries) else {
        return Removal::default();
    };
    let mut removal = Removal::default();
    if recorded.engine != engine.about().id {
        let why = another_engine(engine, &recorded).to_string();
        for (thing, id) in recorded.things {
            if id.is_some() {
                removal.left.push(Left {
                    kind: thing.role.kind(),
                    name: thing.name,
                    why: why.clone(),
                });
            }
        }
        removal.left.extend(unseen(&recorded.down, &why));
        return removal;
    }
    if recorded.is_empty() {
        return removal;
    }
    let (mut up, _) = bring_up(engine, &recorded.down, deadline).await;
    let mut up_since = Instant::now();
    let mut removed = BTreeSet::new();
    let ours = (engine, &recorded);
    let left = remove_in_order(ours, &BEFORE_KEEPER, deadline, quiet, &mut removed).await;
    removal.left = left;
    // What a dead run had asked for last may have been done to these as well after the first look.
    let (more, not_up) = bring_up(engine, &recorded.down, deadline).await;
    if !more.is_empty() {
        up_since = Instant::now();
        up.extend(more);
    }
    if !up.is_empty() {
        // One that cannot run takes a moment to end.
        tokio::time::sleep_until((up_since + QUIET).into()).await;
    }
    let down_again = still_up(engine, &up, deadline).await;
    let names = up.into_values().map(|it| it.name);
    removal.brought_up = names
        .filter(|name| !down_again.iter().any(|left| left.name == *name))
        .collect();
    removal.left.extend(not_up.into_iter().chain(down_again));
    let deadline = deadline.max(Instant::now() + MOMENT);
    let left = remove_in_order(ours, &KEEPER, deadline, Duration::ZERO, &mut removed).await;
    removal.left.extend(left);
    removal.removed = removed.len();
    removal.left.sort_by(|a, b| a.name.cmp(&b.name));
    removal
}

/// Nodes are joined to their agents, volumes and networks are in use by both.
const BEFORE_KEEPER: [&[Role]; 3] = [&[Role::Node], &[Role::Agent], &[Role::Data, Role::Network]];

const KEEPER: [&[Role]; 1] = [&[Role::Keeper]];

/// Removes things in this order, again and again until nothing is left and nothing has appeared for `quiet`: a volume that
/// is in use may be so by a container that was not there yet when containers were removed. Returns what is left.
async fn remove_in_order(
    (engine, recorded): (&Engine, &Recorded),
    order: &[&[Role]],
    deadline: Instant,
    quiet: Duration,
    removed: &mut BTreeSet<Thing>,
) -> Vec<Left> {
    let (mut left, mut gone_since) = (Vec::new(), None::<Instant>);
    loop {
        let there = match gone_since {
            None => true,
            Some(_) => appeared(engine, recorded, deadline).await.unwrap_or(true),
        };
        if there {
            left = remove_once((engine, recorded), order, deadline, removed).await;
            gone_since = left.is_empty().then(Instant::now);
        }
        let quiet = gone_since.is_some_and(|since| since.elapsed() >= quiet);
        if quiet || Instant::now() >= deadline {
            return left;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn remove_once(
    (engine, recorded): (&Engine, &Recorded),
    order: &[&[Role]],
    deadline: Instant,
    removed: &mut BTreeSet<Thing>,
) -> Vec<Left> {
    let mut left = Vec::new();
    for roles in order {
        let mut removing = JoinSet::new();
        for (thing, id) in &recorded.things {
            if roles.contains(&thing.role) {
                let (engine, nonce) = (engine.clone(), recorded.nonce);
                let (thing, id) = (thing.clone(), id.clone());
                removing.spawn(async move {
                    let done =
                        thing::remove(&engine, &nonce, &thing, id.as_deref(), deadline).await;
                    (thing, done)
                });
            }
        }
        while let Some(done) = removing.join_next().await {
            let (thing, done) = match done {
                Ok(done) => done,
                Err(error) => {
                    left.push(everything(error.to_string()));
                    continue;
                }
            };
            match done {
                Ok(false) => {}
                Ok(true) => {
                    removed.insert(thing);
                }
                Err(error) => left.push(Left {
                    kind: thing.role.kind(),
                    name: thing.name,
                    why: error.to_string(),
                }),
            }
        }
    }
    left
}

/// Whether anything that was recorded, but the keeper, is there.
async fn appeared(
    engine: &Engine,
    recorded: &Recorded,
    deadline: Instant,
) -> Result<bool, DockerError> {
    let docker = engine.docker();
    let label = vec![format!("{NONCE_LABEL}={}", recorded.nonce)];
    let filters = HashMap::from([("label".to_owned(), label)]);
    let containers = docker.list_containers(Some(ListContainersOptions {
        all: true,
        filters: Some(filters.clone()),
        ..ListContainersOptions::default()
    }));
    let volumes = docker.list_volumes(Some(ListVolumesOptions {
        filters: Some(filters.clone()),
    }));
    let networks = docker.list_networks(Some(ListNetworksOptions {
        filters: Some(filters),
    }));
    let what = "list what it has";
    let listing = async {
        let listed = tokio::try_join!(containers, volumes, networks);
        listed.map_err(|error| DockerError::engine(what, &error))
    };
    let (containers, volumes, networks) = in_time(deadline, what, listing).await?;
    let containers = containers
        .into_iter()
        .flat_map(|it| it.names.unwrap_or_default());
    let containers = containers.map(|name| name.trim_start_matches('/').to_owned());
    let volumes = volumes
        .volumes
        .unwrap_or_default()
        .into_iter()
        .map(|it| it.name);
    let networks = networks.into_iter().filter_map(|it| it.name);
    let there: BTreeSet<String> = containers.chain(volumes).chain(networks).collect();
    let mut ours = recorded.things.keys();
    Ok(ours.any(|thing| thing.role != Role::Keeper && there.contains(&thing.name)))
}

/// What clean-up found of one recorded run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cleaned {
    /// Its keeper runs; nothing was touched.
    Live,
    /// It was dead; this was removed, or could not be.
    Dead(Removal),
    /// The engine cannot be asked; nothing was touched.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// Removes everything of a recorded run if it is dead to others.
pub async fn clean(engine: &Engine, entries: &[Entry], bound: Duration) -> Cleaned {
    match is_dead(engine, entries).await {
        Ok(false) => Cleaned::Live,
        Ok(true) => Cleaned::Dead(remove_of_dead(engine, entries, bound).await),
        Err(error) => Cleaned::Unknown {
            why: error.to_string(),
        },
    }
}

/// What a guard does that has no event loop: reaches the recorded engine and removes everything of
/// the run, whether its keeper still runs or not, since the guard knows that the run is over.
pub fn remove_blocking(entries: &[Entry], bound: Duration) -> Removal {
    let removed = on_recorded_engine(entries, |engine| async move {
        remove_of_dead(&engine, entries, bound).await
    });
    removed.unwrap_or_else(|why| {
        let mut left = unseen(&down(entries), &why);
        left.push(everything(why));
        Removal {
            left,
            ..Removal::default()
        }
    })
}

/// What `clean` does that has no event loop, with a run whose processes are dead: waits until its keeper is gone, which
/// it is soon after them, and removes everything. A keeper that stays belongs to a run that lives where its processes
/// cannot be seen from here.
pub fn clean_blocking(entries: &[Entry], bound: Duration) -> Cleaned {
    let cleaned = on_recorded_engine(entries, |engine| async move {
        clean_when_over(&engine, entries, bound, AFTER + KEEPER_LATE).await
    });
    cleaned.unwrap_or_else(|mut why| {
        for left in unseen(&down(entries), "of that") {
            let _ = write!(why, "\n  {left}");
        }
        Cleaned::Unknown { why }
    })
}

/// Cleans a run when its keeper is gone, for which it has this patience. A keeper that somebody has paused is continued and
/// has it anew: it goes if its run is dead, and one whose run lives elsewhere loses nothing by that.
async fn clean_when_over(
    engine: &Engine,
    entries: &[Entry],
    bound: Duration,
    patience: Duration,
) -> Cleaned {
    let mut until = Instant::now() + patience;
    let mut continued = false;
    loop {
        let too_late = Instant::now() >= until;
        match keeping(engine, entries).await {
            Ok(Keeping::Runs) if too_late => return Cleaned::Live,
            Ok(Keeping::Runs) => {}
            Ok(Keeping::Paused { id, name }) => {
                let done = unpause(engine, &id, &name).await;
                if too_late && continued {
                    return stays_paused(&name, done);
                }
                if !continued {
                    until = Instant::now() + patience;
                    continued = true;
                }
            }
            Ok(Keeping::Over) | Err(_) => return clean(engine, entries, bound).await,
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn unpause(engine: &Engine, id: &str, name: &str) -> Result<(), DockerError> {
    let unpaused = engine.docker().unpause_container(id).await;
    unpaused.map_err(|error| DockerError::engine(format!("continue {name}"), &error))
}

fn stays_paused(name: &str, done: Result<(), DockerError>) -> Cleaned {
    let why = match done {
        Ok(()) => "it was continued, and is paused again and again".to_owned(),
        Err(error) => error.to_string(),
    };
    Cleaned::Unknown {
        why: format!(
            "whether the run lives nobody can tell while its keeper is paused: {why}; `docker unpause {name}` and clean again"
        ),
    }
}

fn everything(why: String) -> Left {
    Left {
        kind: Kind::Container,
        name: "everything on the engine".to_owned(),
        why,
    }
}

/// Reaches the engine that a run was on, with a runtime of its own.
fn on_recorded_engine<'a, T: Default, F: Future<Output = T> + 'a>(
    entries: &'a [Entry],
    act: impl FnOnce(Engine) -> F,
) -> Result<T, String> {
    let address = entries.iter().find_map(|entry| match entry {
        Entry::Engine { address, .. } => Some(address.clone()),
        _ => None,
    });
    let recorded = Recorded::read(entries).filter(|recorded| !recorded.is_empty());
    let (Some(address), Some(recorded)) = (address, recorded) else {
        return Ok(T::default());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let engine = reach(&recorded.engine, address, Engine::find()).await;
        Ok(act(engine.map_err(|error| error.to_string())?).await)
    })
}

/// The engine with this id: where it was, or, since a socket may have been forwarded, where the user says that one is now.
async fn reach(
    id: &str,
    address: EngineAddress,
    elsewhere: impl Future<Output = Result<Engine, EngineError>>,
) -> Result<Engine, EngineError> {
    let is_it = |engine: &Engine| engine.about().id == id;
    let there = Engine::connect(address).await;
    if there.as_ref().is_ok_and(is_it) {
        return there;
    }
    match elsewhere.await {
        Ok(engine) if is_it(&engine) => Ok(engine),
        _ => there,
    }
}

fn another_engine(engine: &Engine, recorded: &Recorded) -> DockerError {
    DockerError::Spec(format!(
        "the run was on the engine {}, and at {} is the engine {}; set DOCKER_HOST to the former and look again",
        recorded.engine,
        engine.about().address.url,
        engine.about().id
    ))
}

#[cfg(test)]
#[path = "remains_tests.rs"]
mod tests;
