//! Containers that are not a run's own, and that it has stopped or paused: whoever is left brings them up again.
//!
//! Each is recorded before it is touched, and again when the run itself has brought it up. One that died by itself is not
//! recorded, and stays as it is, and so does one that was started since, whatever became of it. What was paused is only
//! unpaused, and what was stopped is only started: the rest is somebody else's doing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use futures_util::future::join_all;

use super::container::{DockerError, State, in_time, inspect, start};
use super::engine::Engine;
use super::ledger::{Entry, Halt, Kind};
use super::remains::Left;

/// A container that a run has stopped or paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Downed {
    pub(super) name: String,
    /// When the life that was stopped was started.
    pub(super) started: String,
    /// What was done to that life.
    pub(super) halts: BTreeSet<Halt>,
}

/// What was stopped or paused and not recorded to be up again, by ids.
pub(super) fn down(entries: &[Entry]) -> BTreeMap<String, Downed> {
    let mut down = BTreeMap::new();
    for entry in entries {
        match entry {
            Entry::Down {
                id,
                name,
                started,
                halts,
            } => {
                let downed = Downed {
                    name: name.clone(),
                    started: started.clone(),
                    halts: halts.clone(),
                };
                down.insert(id.clone(), downed);
            }
            Entry::Up { id } => {
                down.remove(id);
            }
            Entry::Gone => down.clear(),
            Entry::Engine { .. } | Entry::Planned { .. } | Entry::Made { .. } => {}
        }
    }
    down
}

/// Starts or continues all of these that are down; which those were, by ids, and which could not be by the deadline. Whether
/// they stay up is [seen later](still_up).
pub(super) async fn bring_up(
    engine: &Engine,
    down: &BTreeMap<String, Downed>,
    deadline: Instant,
) -> (BTreeMap<String, Downed>, Vec<Left>) {
    let all = down.iter().map(|(id, downed)| async move {
        let done = bring_up_one(engine, id, downed, deadline).await;
        (id, downed, done)
    });
    let (mut up, mut failed) = (BTreeMap::new(), Vec::new());
    for (id, downed, done) in join_all(all).await {
        match done {
            Ok(false) => {}
            Ok(true) => {
                up.insert(id.clone(), downed.clone());
            }
            Err(why) => failed.push(left(&downed.name, why)),
        }
    }
    (up, failed)
}

/// Which of those that were brought up are down again.
pub(super) async fn still_up(
    engine: &Engine,
    up: &BTreeMap<String, Downed>,
    deadline: Instant,
) -> Vec<Left> {
    let all = up.iter().map(|(id, downed)| async move {
        let name = &downed.name;
        let why = match in_time(deadline, "show it", inspect(engine, id)).await {
            Ok(state) if is_up(&state) => return None,
            Ok(state) => back(name, &state, "it was brought up, and did not stay up"),
            Err(error) if error.is_gone() => return None,
            Err(error) => unknown(downed, &error.to_string()),
        };
        Some(left(name, why))
    });
    join_all(all).await.into_iter().flatten().collect()
}

fn left(name: &str, why: String) -> Left {
    Left {
        kind: Kind::Container,
        name: name.to_owned(),
        why,
    }
}

/// All of these, where nobody can look at them.
pub(super) fn unseen(down: &BTreeMap<String, Downed>, why: &str) -> Vec<Left> {
    let all = down
        .values()
        .map(|downed| left(&downed.name, unknown(downed, why)));
    all.collect()
}

fn unknown(Downed { name, halts, .. }: &Downed, why: &str) -> String {
    let mut commands = Vec::new();
    let mut done = Vec::new();
    for halt in halts {
        let (did, command) = match halt {
            Halt::Pause => ("paused", "unpause"),
            Halt::Stop => ("stopped", "start"),
        };
        done.push(did);
        commands.push(format!("docker {command} {name}"));
    }
    let (done, commands) = (done.join(" or "), commands.join("; "));
    format!(
        "the run may have {done} it, and it cannot be looked at: {why}; `{commands}` brings it back"
    )
}

/// How a container that the run has stopped comes back that is in this state.
fn back(name: &str, state: &State, why: &str) -> String {
    let (how, command) = if state.paused {
        ("paused".to_owned(), "unpause")
    } else {
        (format!("down with exit code {}", state.exit_code), "start")
    };
    format!(
        "the run had stopped it, and it is {how}: {why}; `docker {command} {name}` brings it back"
    )
}

/// True if it was down. One that somebody has removed meanwhile is nobody's any more.
async fn bring_up_one(
    engine: &Engine,
    id: &str,
    downed: &Downed,
    deadline: Instant,
) -> Result<bool, String> {
    let Downed {
        name,
        started,
        halts,
    } = downed;
    let state = match in_time(deadline, "show it", inspect(engine, id)).await {
        Err(error) if error.is_gone() => return Ok(false),
        Err(error) => return Err(unknown(downed, &error.to_string())),
        Ok(state) => state,
    };
    let halted_by = if state.paused {
        Halt::Pause
    } else {
        Halt::Stop
    };
    if is_up(&state) || state.started != *started || !halts.contains(&halted_by) {
        return Ok(false);
    }
    let bringing = async {
        if !state.paused {
            return start(engine, id, name).await;
        }
        let unpaused = engine.docker().unpause_container(id).await;
        unpaused.map_err(|error| DockerError::engine(format!("continue {name}"), &error))
    };
    let brought = in_time(deadline, "bring it up", bringing).await;
    brought.map_err(|error| back(name, &state, &error.to_string()))?;
    Ok(true)
}

fn is_up(state: &State) -> bool {
    state.running && !state.paused
}

#[cfg(test)]
#[path = "bring_up_tests.rs"]
mod tests;
