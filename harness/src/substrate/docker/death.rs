//! How a container's death is told.
//!
//! It is seen when the engine tells it, some 60 ms after it happened; whether it was for lack of memory is told with it.

use std::time::Duration;

use bollard::query_parameters::WaitContainerOptions;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tweedledum_core::history::ExitStatus;

use super::container::{State, inspect};
use super::engine::Engine;
use crate::clock::monotonic_ns;
use crate::substrate::Death;

/// How often the engine is asked again for a death that it failed to tell.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How the life that began at `started` has ended, by what the engine says of its container and by the code that it told
/// of an exit; `None` while it goes on. A container that somebody else has started again is in another life, or has ended
/// another.
fn ended(state: &State, started: Option<&str>, told: Option<i64>, seen_ns: u64) -> Option<Death> {
    if started.is_some_and(|started| started != state.started) {
        let status = told.map_or(ExitStatus::Lost, exit_status);
        return Some(Death { status, seen_ns });
    }
    if state.lives() {
        return None;
    }
    let status = match exit_status(state.exit_code) {
        // With cgroup v2 engines tell of every kill for lack of memory, also of the host's.
        ExitStatus::Signal(libc::SIGKILL) if state.oom => match state.limits.memory {
            Some(_) => ExitStatus::OutOfMemory,
            None => ExitStatus::HostOutOfMemory,
        },
        status => status,
    };
    Some(Death { status, seen_ns })
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
            Err(error) if error.is_gone() => Some(Death {
                status: ExitStatus::Lost,
                seen_ns,
            }),
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
fn exit_status(code: i64) -> ExitStatus {
    match i32::try_from(code) {
        Ok(code @ 129..=192) if ends(code - 128) => ExitStatus::Signal(code - 128),
        Ok(code) => ExitStatus::Code(code),
        Err(_) => ExitStatus::Lost,
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
    use super::super::container::Limits;
    use super::*;

    #[test]
    fn a_life_ends_when_its_container_is_started_again() {
        let running = |started: &str| State {
            running: true,
            started: started.to_owned(),
            ..State::default()
        };
        let (first, second) = ("2026-03-01T10:00:00Z", "2026-03-01T10:00:07Z");
        let of = |state: &State, started, told| Some(ended(state, started, told, 7)?.status);
        let of_first = |state: &State, told| of(state, Some(first), told);
        assert_eq!(of_first(&running(first), None), None);
        let restarted = running(second);
        let killed = Some(ExitStatus::Signal(9));
        assert_eq!(of_first(&restarted, Some(137)), killed);
        assert_eq!(of_first(&restarted, None), Some(ExitStatus::Lost));
        assert_eq!(of(&restarted, None, None), None, "nobody knows");
        let dead_again = State {
            running: false,
            exit_code: 3,
            ..running(second)
        };
        assert_eq!(of_first(&dead_again, Some(137)), killed);
        assert_eq!(of_first(&dead_again, None), Some(ExitStatus::Lost));
        let restarting = State {
            status: "restarting".to_owned(),
            exit_code: 134,
            ..running(first)
        };
        let aborted = Some(ExitStatus::Signal(6));
        assert_eq!(of_first(&restarting, None), aborted);
    }

    #[test]
    fn a_kill_for_lack_of_memory_is_its_own_where_its_memory_was_limited() {
        for (code, oom, memory, want) in [
            (137, true, Some(1 << 26), ExitStatus::OutOfMemory),
            (137, true, None, ExitStatus::HostOutOfMemory),
            (137, false, Some(1 << 26), ExitStatus::Signal(9)),
            // It was a child that the kernel killed.
            (1, true, Some(1 << 26), ExitStatus::Code(1)),
        ] {
            let state = State {
                exit_code: code,
                oom,
                limits: Limits {
                    memory,
                    ..Limits::default()
                },
                ..State::default()
            };
            let seen_ns = 7;
            let want = Some(Death {
                status: want,
                seen_ns,
            });
            assert_eq!(ended(&state, None, None, seen_ns), want);
        }
    }

    #[test]
    fn codes_above_128_are_signals() {
        for (code, want) in [
            (0, ExitStatus::Code(0)),
            (3, ExitStatus::Code(3)),
            (128, ExitStatus::Code(128)),
            (134, ExitStatus::Signal(6)),
            (137, ExitStatus::Signal(9)),
            (145, ExitStatus::Code(145)),
            (255, ExitStatus::Code(255)),
            (i64::MAX, ExitStatus::Lost),
        ] {
            assert_eq!(exit_status(code), want);
        }
    }
}
