//! Containers that are not a run's own, and that it has stopped or paused: whoever is left brings them up again.
//!
//! Each is recorded before it is touched, and again when the run itself has brought it up. One that died by itself is not
//! recorded, and stays as it is, and so does one that was started since, whatever became of it.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;

use super::container::{DockerError, State, inspect, start};
use super::engine::Engine;
use super::ledger::{Entry, Kind};
use super::remains::Left;

/// A container that a run has stopped or paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Downed {
    name: String,
    /// When the life that was stopped was started.
    pub(super) started: String,
}

/// What was stopped or paused and not recorded to be up again, by ids.
pub(super) fn down(entries: &[Entry]) -> BTreeMap<String, Downed> {
    let mut down = BTreeMap::new();
    for entry in entries {
        match entry {
            Entry::Down { id, name, started } => {
                let (name, started) = (name.clone(), started.clone());
                down.insert(id.clone(), Downed { name, started });
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

/// Brings all of these up, and says which were down, and which still are.
pub(super) async fn bring_up(
    engine: &Engine,
    down: &BTreeMap<String, Downed>,
) -> (BTreeSet<String>, Vec<Left>) {
    let all = down.iter().map(|(id, downed)| async move {
        let done = bring_up_one(engine, id, downed).await;
        (downed.name.clone(), done)
    });
    let (mut up, mut left) = (BTreeSet::new(), Vec::new());
    for (name, done) in join_all(all).await {
        match done {
            Ok(false) => {}
            Ok(true) => {
                up.insert(name);
            }
            Err(why) => left.push(Left {
                kind: Kind::Container,
                name,
                why,
            }),
        }
    }
    (up, left)
}

/// All of these, where nobody can look at them.
pub(super) fn unseen(down: &BTreeMap<String, Downed>, why: &str) -> Vec<Left> {
    let all = down.values().map(|Downed { name, .. }| Left {
        kind: Kind::Container,
        name: name.clone(),
        why: unknown(name, why),
    });
    all.collect()
}

fn unknown(name: &str, why: &str) -> String {
    format!(
        "the run may have stopped or paused it, and it cannot be looked at: {why}; `docker unpause {name}; docker start \
         {name}` brings it back"
    )
}

/// True if it was down. One that somebody has removed meanwhile is nobody's any more.
async fn bring_up_one(engine: &Engine, id: &str, downed: &Downed) -> Result<bool, String> {
    let Downed { name, started } = downed;
    let unknown = |error: &DockerError| unknown(name, &error.to_string());
    let state = match inspect(engine, id).await {
        Err(error) if error.is_gone() => return Ok(false),
        Err(error) => return Err(unknown(&error)),
        Ok(state) => state,
    };
    if is_up(&state) || state.started != *started {
        return Ok(false);
    }
    let (was, command) = if state.paused {
        ("paused", "unpause")
    } else {
        ("stopped", "start")
    };
    let back = |why: &dyn std::fmt::Display| {
        format!("it was {was} by the run: {why}; `docker {command} {name}` brings it back")
    };
    let brought = if state.paused {
        let unpaused = engine.docker().unpause_container(id).await;
        unpaused.map_err(|error| DockerError::engine(format!("continue {name}"), &error))
    } else {
        start(engine, id, name).await
    };
    brought.map_err(|error| back(&error))?;
    match inspect(engine, id).await {
        Ok(state) if is_up(&state) => Ok(true),
        Ok(state) => {
            let code = state.exit_code;
            Err(back(&format!(
                "it was brought up and ended at once with exit code {code}"
            )))
        }
        Err(error) => Err(unknown(&error)),
    }
}

fn is_up(state: &State) -> bool {
    state.running && !state.paused
}

#[cfg(test)]
#[path = "bring_up_tests.rs"]
mod tests;
