//! A running fixture, and what the kernel shows of it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use tweedledum_harness::substrate::process::identity::{ProcStat, bound_in, carriers, snapshot};
use tweedledum_harness::substrate::process::{Nonce, block};
use tweedledum_harness::undo::unfinished;

/// How long anything may take that is not itself under test: the host may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A stub with its run directory, killed when a test fails.
pub(crate) struct Chain {
    pub(crate) runs: tempfile::TempDir,
    pub(crate) stub: Child,
    lines: Receiver<Value>,
}

/// What a run left a record of.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) nonce: Option<Nonce>,
    pub(crate) watchdog: Option<i32>,
    pub(crate) controller: Option<i32>,
    pub(crate) blocks: Vec<[u8; 3]>,
}

impl Chain {
    pub(crate) fn start<S: AsRef<OsStr>>(scenario: &[S]) -> Self {
        let runs = tempfile::tempdir().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the stub is what a user starts")]
        let mut stub = Command::new(env!("CARGO_BIN_EXE_tweedledum-harness-fixture"))
            .arg("run")
            .arg(runs.path())
            .args(scenario)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(stub.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line) {
                    let _ = sender.send(value);
                }
            }
        });
        Self { runs, stub, lines }
    }

    pub(crate) fn stub_pid(&self) -> i32 {
        i32::try_from(self.stub.id()).unwrap()
    }

    /// The next line about this event; earlier lines are passed over.
    pub(crate) fn wait_for(&self, event: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(value) if value["event"] == event => return value,
                Ok(value) => seen.push(value),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no `{event}` among {seen:?}")
                }
            }
        }
    }

    pub(crate) fn wait_for_end(&mut self) -> i32 {
        let mut status = None;
        wait_until(PATIENCE, "the stub's end", || {
            status = self.stub.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap())
    }

    /// What the run's intents say so far.
    pub(crate) fn known(&self) -> Known {
        let mut known = Known::default();
        let Some(nonce) = unfinished(self.runs.path()).unwrap().into_iter().next() else {
            return known;
        };
        known.nonce = Some(nonce);
        let path = self
            .runs
            .path()
            .join(".intents")
            .join(format!("{nonce}.jsonl"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for value in text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        {
            let pid = || {
                value["id"]["pid"]
                    .as_i64()
                    .and_then(|pid| i32::try_from(pid).ok())
            };
            match (value["kind"].as_str(), value["part"].as_str()) {
                (Some("member"), Some("watchdog")) => known.watchdog = pid(),
                (Some("member"), Some("controller")) => known.controller = pid(),
                (Some("block"), _) => {
                    known
                        .blocks
                        .push(serde_json::from_value(value["prefix"].clone()).unwrap());
                }
                _ => {}
            }
        }
        known
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // After a failed assertion the watchdog removes the rest.
        let _ = self.stub.kill();
        let _ = self.stub.wait();
        // Where a test had killed the watchdog too, nobody would: daemons that only their command line betrays live on.
        if std::thread::panicking() {
            for nonce in unfinished(self.runs.path()).unwrap_or_default() {
                kill_marked(&nonce);
            }
        }
    }
}

/// Waits for a condition that has no event to wait for, and says what was missing.
pub(crate) fn wait_until(bound: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + bound;
    while !done() {
        assert!(Instant::now() < deadline, "not within {bound:?}: {what}");
        let pause = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}

pub(crate) fn kill(pid: i32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    // It may be dead already, which is part of what is tested.
    let _ = rustix::process::kill_process(pid, signal);
}

/// Living processes with the run's nonce in their command line, as those of the fixture that hide have it.
fn marked(nonce: &Nonce) -> Vec<ProcStat> {
    let mark = nonce.to_string();
    let all = snapshot().unwrap_or_default().into_values();
    all.filter(|stat| !stat.is_dead())
        .filter(|stat| {
            let path = PathBuf::from(format!("/proc/{}/cmdline", stat.pid));
            let line = std::fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&mark)
        })
        .collect()
}

/// Kills those of a run that hide so well that `clean` cannot find them.
pub(crate) fn kill_marked(nonce: &Nonce) {
    for stat in marked(nonce) {
        kill(stat.pid, rustix::process::Signal::KILL);
    }
}

/// What is left of a run: processes by environment or by the mark in their command line, sockets,
/// locks.
pub(crate) fn remains(nonce: &Nonce, blocks: &[[u8; 3]]) -> Vec<String> {
    let mut left = Vec::new();
    for stat in carriers(nonce).unwrap() {
        left.push(format!(
            "process {} `{}` by its environment",
            stat.pid, stat.comm
        ));
    }
    for stat in marked(nonce) {
        left.push(format!(
            "process {} `{}` by its command line",
            stat.pid, stat.comm
        ));
    }
    for &prefix in blocks {
        left.extend(
            bound_in(prefix)
                .unwrap()
                .iter()
                .map(|socket| format!("{socket:?}")),
        );
        if block::is_locked(prefix).unwrap() {
            left.push(format!("the lock of {prefix:?}"));
        }
    }
    left
}
