//! `kill -9` of the controller at any instant of a run in containers: soon nothing of it is left, and nothing else is hurt.
//!
//! Instants follow from a seed. `scripts/campaigns/killed-docker` runs many rounds by setting [`ROUNDS`], and reads one
//! line a round from the file that [`OUTCOMES`] names.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use bollard::models::{ContainerCreateBody, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, RemoveContainerOptions, RemoveVolumeOptions,
};
use tweedledum_core::launch::identity;
use tweedledum_harness::substrate::docker::ledger::{NODE_LABEL, NONCE_LABEL, ROLE_LABEL};
use tweedledum_harness::substrate::process::Nonce;

use crate::runs::{kill, nonces, on_engine, parts, tweedledum, until};
use crate::{alone, ask, image};

/// How many rounds.
const ROUNDS: &str = "TWEEDLEDUM_KILLED_ROUNDS";
/// From which round on, as every number is a seed.
const FROM: &str = "TWEEDLEDUM_KILLED_FROM";
/// Where the outcome of each round is written.
const OUTCOMES: &str = "TWEEDLEDUM_KILLED_OUTCOMES";

/// How long everything of a run may outlive its controller.
const BOUND: Duration = Duration::from_secs(10);
/// Until its processes are there, and until they have ended.
const LONG: Duration = Duration::from_mins(1);

/// When the controller is killed after its birth: half of the rounds hit the making of containers, the others anything up
/// to the faults.
fn instant(number: u64) -> Duration {
    let drawn = identity(number, "the instant of a kill");
    let drawn = u64::from_le_bytes(drawn[..8].try_into().unwrap());
    let span = if number.is_multiple_of(2) {
        2_500_000
    } else {
        12_000_000
    };
    Duration::from_micros(drawn % span)
}

/// What is somebody else's on the engine, though some of it is labelled as ours.
struct Others {
    name: String,
    image: String,
    nonce: Nonce,
}

impl Others {
    fn new() -> Self {
        let image = image().id;
        let nonce = Nonce::random().unwrap();
        let others = Self {
            name: format!("others-{nonce}"),
            image,
            nonce,
        };
        let name = Some(others.name.clone());
        ask(async |docker| {
            let labels = Some(others.labels(&others.nonce.to_string(), "data"));
            let volume = VolumeCreateRequest {
                name: name.clone(),
                labels,
                ..VolumeCreateRequest::default()
            };
            docker.create_volume(volume).await.unwrap();
            let network = NetworkCreateRequest {
                name: others.name.clone(),
                ..NetworkCreateRequest::default()
            };
            docker.create_network(network).await.unwrap();
        });
        others.container(&others.name, HashMap::new());
        others
    }

    fn labels(&self, nonce: &str, role: &str) -> HashMap<String, String> {
        HashMap::from([
            (NONCE_LABEL.to_owned(), nonce.to_owned()),
            (ROLE_LABEL.to_owned(), role.to_owned()),
            (NODE_LABEL.to_owned(), "miner-0".to_owned()),
        ])
    }

    fn container(&self, name: &str, labels: HashMap<String, String>) {
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            labels: Some(labels),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptions {
            name: Some(name.to_owned()),
            ..CreateContainerOptions::default()
        };
        ask(async |docker| docker.create_container(Some(options), body).await.unwrap());
    }

    fn are_there(&self) -> bool {
        ask(async |docker| {
            docker.inspect_container(&self.name, None).await.is_ok()
                && docker.inspect_volume(&self.name).await.is_ok()
                && docker.inspect_network(&self.name, None).await.is_ok()
        })
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        remove_container(&self.name);
        ask(async |docker| {
            let volume = docker.remove_volume(&self.name, None::<RemoveVolumeOptions>);
            let _ = volume.await;
            let _ = docker.remove_network(&self.name).await;
        });
    }
}

/// A container that copies the labels of a run.
struct Copied(String);

impl Drop for Copied {
    fn drop(&mut self) {
        remove_container(&self.0);
    }
}

fn remove_container(name: &str) {
    let options = RemoveContainerOptions {
        force: true,
        ..RemoveContainerOptions::default()
    };
    let _ = ask(async |docker| docker.remove_container(name, Some(options)).await);
}

/// One round; the error is what was wrong.
fn round(number: u64, others: &Others) -> Result<String, String> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let words = [
        "run",
        "plans/faults/kill.yaml",
        "--substrate",
        "docker",
        "--release",
        "fixed",
    ];
    let mut child = tweedledum(&words, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let controller = until(LONG, "a controller and its intents", || {
        let controller = parts(child.id()).get("controller").copied()?;
        (!nonces(dir.path()).is_empty()).then_some(controller)
    });
    let born = Instant::now();
    let ours = nonces(dir.path());
    let name = format!("copy-{number}-of-{}", others.name);
    others.container(&name, others.labels(ours.first().unwrap(), "agent"));
    let copied = BTreeSet::from([format!("/{name}")]);
    let copy = Copied(name);
    let wait = instant(number).saturating_sub(born.elapsed());
    #[expect(
        clippy::disallowed_methods,
        reason = "the instant is what the round is about"
    )]
    std::thread::sleep(wait);
    if child.try_wait().unwrap().is_some() {
        return Ok("over before the kill".to_owned());
    }
    kill(controller);
    let (after, killed) = (born.elapsed(), Instant::now());
    let (mut gone, mut others_hurt) = (None, false);
    while killed.elapsed() < LONG && gone.is_none() && !others_hurt {
        let left = on_engine(&ours);
        others_hurt = !left.is_superset(&copied);
        gone = (left == copied).then(|| killed.elapsed());
    }
    drop(copy);
    let code = until(LONG, "the end of the command", || child.try_wait().unwrap()).code();
    let left = std::fs::read_dir(dir.path().join(".intents"))
        .unwrap()
        .count();
    let what = format!(
        "round {number}, the controller killed {after:?} after its birth: gone after {gone:?}, exit {code:?}, {left} intents"
    );
    println!("{what}");
    match gone {
        _ if others_hurt => Err(format!("{what}; what only has our labels was removed")),
        Some(gone) if gone <= BOUND && code == Some(4) && left == 0 => Ok("gone".to_owned()),
        _ => Err(what),
    }
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/campaign killed-docker"]
fn kill_9_of_the_controller_at_any_instant_leaves_nothing() {
    let _alone = alone();
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().unwrap())
    };
    let (rounds, from) = (number(ROUNDS, 3), number(FROM, 0));
    let others = Others::new();
    let (mut outcomes, mut wrong) = (String::new(), Vec::new());
    for number in from..from + rounds {
        let outcome = round(number, &others).unwrap_or_else(|error| {
            wrong.push(error);
            "wrong".to_owned()
        });
        writeln!(outcomes, "{outcome}").unwrap();
    }
    if !others.are_there() {
        wrong.push("what is not ours was removed".to_owned());
    }
    if let Ok(path) = std::env::var(OUTCOMES) {
        std::fs::write(path, outcomes).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
