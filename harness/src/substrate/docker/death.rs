//! How a container's death is told.
//!
//! It is seen when the engine tells it, some 60 ms after it happened; whether it was for lack of memory is told with it.

use std::time::Duration;

use bollard::query_parameters::WaitContainerOptions;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::container::{State, inspect};
use super::engine::Engine;
use crate::clock::monotonic_ns;
use crate::substrate::process::{Exit, ExitKind};

/// How often the engine is asked again for a death that it failed to tell.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A death, with what the engine knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Death {
    /// How it ended, and when that was seen.
    pub exit: Exit,
    /// Whether the kernel killed it for lack of memory.
    pub oom: bool,
    /// Whether its memory was limited then. With cgroup v2 engines tell of every kill for lack of memory, also of the host's.
    pub capped: bool,
}

/// How the life that began at `started` has ended, by what the engine says of its container and by the code that it told
/// of an exit; `None` while it goes on. A container that somebody else has started again is in another life, or has ended
/// another.
fn ended(state: &State, started: Option<&str>, told: Option<i64>, seen_ns: u64) -> Option<Death> {
    if started.is_some_and(|started| started != state.started) {
        return Some(plain(told.map_or(ExitKind::Lost, exit_kind), seen_ns));
    }
    if state.lives() {
        return None;
    }
    let death = plain(exit_kind(state.exit_code), seen_ns);
    Some(Death {
        oom: state.oom && death.exit.kind == ExitKind::Signal(9),
        capped: state.limits.memory.is_some(),
        ..death
    })
}

/// A death of which nothing is known but how it ended.
fn plain(kind: ExitKind, seen_ns: u64) -> Death {
    Death {
        exit: Exit { kind, seen_ns },
        oom: false,
        capped: false,
    }
}

/// Waits until the engine tells the death, and asks how it was.
pub(super) async fn watch(
    engine: Engine,
    id: String,
    started: Option<String>,
    tell: watch::Sender<Option<Death>>,
) {
    let death = loop {
        let options = WaitContainerOptions {
            condition: "not-running".to_owned(),
        };
        let mut waiting = std::pin::pin!(engine.docker().wait_container(&id, Some(options)));
        // A code above 0 comes as an error of this client, as does an engine that goes away; what
        // it was is read below, where it can still be read.
        let told = match waiting.next().await {
            Some(Ok(told)) => Some(told.status_code),
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => Some(code),
            _ => None,
        };
        let seen_ns = monotonic_ns();
        let ended = match inspect(&engine, &id).await {
            Ok(state) => ended(&state, started.as_deref(), told, seen_ns),
            Err(error) if error.is_gone() => Some(plain(ExitKind::Lost, seen_ns)),
            Err(error) => {
                tracing::warn!(%error, "the engine does not tell of a death");
                None
            }
        };
        if let Some(death) = ended {
            break death;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    tell.send_replace(Some(death));
}

/// The engine tells a signal as 128 and its number, and no other way. Only a number whose signal ends
/// a process that does not handle it is taken for that; a node that exits with such a code by itself,
/// as a shell does whose command was killed, cannot be told from one that was killed.
fn exit_kind(code: i64) -> ExitKind {
    match i32::try_from(code) {
        Ok(code @ 129..=192) if ends(code - 128) => ExitKind::Signal(code - 128),
        Ok(code) => ExitKind::Code(code),
        Err(_) => ExitKind::Lost,
    }
}

/// Whether a signal ends a process that does nothing about it: all but those that stop or continue it
/// or are ignored, and the two that the C library keeps to itself.
fn ends(signal: i32) -> bool {
    !matches!(
        signal,
        libc::SIGCHLD
            | libc::SIGCONT
            | libc::SIGSTOP
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
            | libc::SIGURG
            | libc::SIGWINCH
            | 32
            | 33
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_ends_when_its_container_is_started_again() {
        let running = |started: &str| State {
            running: true,
            started: started.to_owned(),
            ..State::default()
        };
        let (first, second) = ("2026-03-01T10:00:00Z", "2026-03-01T10:00:07Z");
        let of = |state: &State, started, told| {
            let death = ended(state, started, told, 7)?;
            Some((death.exit.kind, death.oom))
        };
        let of_first = |state: &State, told| of(state, Some(first), told);
        assert_eq!(of_first(&running(first), None), None);
        let restarted = running(second);
        let killed = Some((ExitKind::Signal(9), false));
        assert_eq!(of_first(&restarted, Some(137)), killed);
        assert_eq!(of_first(&restarted, None), Some((ExitKind::Lost, false)));
        assert_eq!(of(&restarted, None, None), None, "nobody knows");
        let dead_again = State {
            running: false,
            exit_code: 3,
            ..running(second)
        };
        assert_eq!(of_first(&dead_again, Some(137)), killed);
        assert_eq!(of_first(&dead_again, None), Some((ExitKind::Lost, false)));
        let restarting = State {
            status: "restarting".to_owned(),
            exit_code: 134,
            ..running(first)
        };
        let aborted = Some((ExitKind::Signal(6), false));
        assert_eq!(of_first(&restarting, None), aborted);
        let oom = State {
            running: false,
            oom: true,
            exit_code: 137,
            ..running(first)
        };
        assert_eq!(of_first(&oom, None), Some((ExitKind::Signal(9), true)));
    }

    #[test]
    fn codes_above_128_are_signals() {
        for (code, want) in [
            (0, ExitKind::Code(0)),
            (3, ExitKind::Code(3)),
            (128, ExitKind::Code(128)),
            (134, ExitKind::Signal(6)),
            (137, ExitKind::Signal(9)),
            (145, ExitKind::Code(145)),
            (255, ExitKind::Code(255)),
            (i64::MAX, ExitKind::Lost),
        ] {
            assert_eq!(exit_kind(code), want);
        }
    }
}
