//! Support of the tests of what goes wrong: a directory for plans and scripts, runs as child processes, what is left.
//!
//! Whoever starts a network holds a [`crate::support::Machine`]. Waits are for conditions and say what was missing. It knows
//! nothing of what a test expects.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde_json::Value;
use tweedledum_harness::substrate::process::identity::{bound_in, carriers, read_stat};
use tweedledum_harness::substrate::process::{Nonce, block};

use crate::support::{TRIES, UNDECIDED};

/// How long anything that should happen at once may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How long a whole run of these tests may take.
pub(crate) const RUN_BOUND: Duration = Duration::from_mins(1);

/// A directory of its own with plans, scripts and runs.
#[derive(Debug)]
pub(crate) struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.path().join("runs")
    }

    /// Writes a file and says where.
    pub(crate) fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// Writes a shell script that can be executed. Its loops end when its `sleep` cannot be found or it is told to stop.
    pub(crate) fn script(&self, name: &str, body: &str) {
        let path = self.file(name, format!("#!/bin/sh\n{body}\n"));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `tweedledum WORDS`, in this directory, so that the default directory of runs is [`Scene::runs`].
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        #[expect(clippy::disallowed_methods, reason = "the substrate is what is tested")]
        let mut command = Command::new(env!("CARGO_BIN_EXE_tweedledum"));
        command
            .args(words)
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts `tweedledum WORDS`. Its output goes to files, so that no full pipe can hold it up.
    pub(crate) fn start(&self, words: &[&str]) -> Going {
        Going::start(self.command(words))
    }

    /// `tweedledum WORDS`, to its end.
    pub(crate) fn call(&self, words: &[&str]) -> Ended {
        self.start(words).end(RUN_BOUND)
    }

    /// The directory of the only run of one release.
    pub(crate) fn release(&self, release: &str) -> PathBuf {
        let runs = self.run_directories();
        let [run] = runs.as_slice() else {
            panic!("there should be one run, not {runs:?}")
        };
        run.join(release)
    }

    /// All run directories.
    pub(crate) fn run_directories(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.runs()) else {
            return Vec::new();
        };
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| !path.ends_with(".intents")).collect()
    }

    /// The verdict of the only run.
    pub(crate) fn verdict(&self, release: &str) -> Value {
        let path = self.release(release).join("verdict.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// The records so far of the only run; a line that is still being written is left out.
    pub(crate) fn records(&self, release: &str) -> Vec<Value> {
        let runs = self.run_directories();
        let Some(run) = runs.first() else {
            return Vec::new();
        };
        let text =
            std::fs::read_to_string(run.join(release).join("history.jsonl")).unwrap_or_default();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Waits for a record that the run is yet to write.
    pub(crate) fn wait_for_record(
        &self,
        release: &str,
        what: &str,
        is_it: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut found = None;
        wait_until(PATIENCE, what, || {
            found = self.records(release).into_iter().find(&is_it);
            found.is_some()
        });
        found.unwrap()
    }

    /// The process of a node's first life.
    pub(crate) fn pid(&self, release: &str, node: &str) -> i32 {
        let what = format!("the start of {node}");
        let record = self.wait_for_record(release, &what, |record| {
            record["kind"] == "node"
                && record["node"] == node
                && record["state"] == "starting"
                && record["pid"] != 0
        });
        i32::try_from(record["pid"].as_i64().unwrap()).unwrap()
    }

    /// What the run that this process supervises has recorded about itself so far.
    pub(crate) fn known(&self, stub: i32) -> Option<Known> {
        let entries = std::fs::read_dir(self.runs().join(".intents")).ok()?;
        let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
        texts
            .filter_map(|text| Known::read(&text))
            .find(|known| known.stub == stub)
    }

    /// Waits until the run has told that much.
    pub(crate) fn wait_for_known(
        &self,
        going: &Going,
        what: &str,
        enough: impl Fn(&Known) -> bool,
    ) -> Known {
        let mut known = None;
        wait_until(PATIENCE, what, || {
            known = self.known(going.pid()).filter(|known| enough(known));
            let over = known.is_none() && read_stat(going.pid()).unwrap().is_dead();
            assert!(!over, "it ended before {what}; it said:\n{}", going.told());
            known.is_some()
        });
        known.unwrap()
    }

    /// The intent files of runs that are not over, or that nobody cleaned.
    pub(crate) fn intents(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.runs().join(".intents")) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// A run by its intents.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) nonce: Nonce,
    pub(crate) stub: i32,
    pub(crate) watchdog: Option<i32>,
    pub(crate) controller: Option<i32>,
    pub(crate) blocks: Vec<[u8; 3]>,
}

impl Known {
    fn read(text: &str) -> Option<Self> {
        let pid = |value: &Value| i32::try_from(value["pid"].as_i64()?).ok();
        let mut values = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let first = values.next()?;
        let nonce = Nonce::parse(first["nonce"].as_str()?)?;
        let mut known = Self {
            nonce,
            stub: pid(&first["stub"])?,
            watchdog: None,
            controller: None,
            blocks: Vec::new(),
        };
        for value in values {
            match (value["kind"].as_str(), value["part"].as_str()) {
                (Some("member"), Some("watchdog")) => known.watchdog = pid(&value["id"]),
                (Some("member"), Some("controller")) => known.controller = pid(&value["id"]),
                (Some("block"), _) => known
                    .blocks
                    .push(serde_json::from_value(value["prefix"].clone()).ok()?),
                _ => {}
            }
        }
        Some(known)
    }

    /// What is left of the run: processes by their environment, sockets in its blocks, locks of them.
    pub(crate) fn remains(&self) -> Vec<String> {
        let processes = carriers(&self.nonce).unwrap();
        let mut left: Vec<String> = processes
            .iter()
            .map(|stat| format!("process {} `{}`", stat.pid, stat.comm))
            .collect();
        for prefix in &self.blocks {
            left.extend(
                bound_in(*prefix)
                    .unwrap()
                    .iter()
                    .map(|socket| format!("{socket:?}")),
            );
            if block::is_locked(*prefix).unwrap() {
                left.push(format!("the lock of {prefix:?}"));
            }
        }
        left
    }
}

/// A `tweedledum` that runs. It is killed when a test fails; its watchdog then removes the rest.
#[derive(Debug)]
pub(crate) struct Going {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    output: tempfile::TempDir,
    began: Instant,
}

/// How a `tweedledum` ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// As a shell gives it: 128 and the signal for one that was killed.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Going {
    pub(crate) fn start(mut command: Command) -> Self {
        let output = tempfile::tempdir().unwrap();
        let (stdout, stderr) = (output.path().join("stdout"), output.path().join("stderr"));
        command
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap());
        Self {
            child: command.spawn().unwrap(),
            stdout,
            stderr,
            output,
            began: Instant::now(),
        }
    }

    /// The process that the user started: the stub of a run.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// What it has told people so far.
    fn told(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Waits for its end.
    pub(crate) fn end(mut self, bound: Duration) -> Ended {
        let pidfd = pidfd_open(Pid::from_raw(self.pid()).unwrap(), PidfdFlags::empty()).unwrap();
        let timeout = Timespec {
            tv_sec: i64::try_from(bound.as_secs()).unwrap(),
            tv_nsec: 0,
        };
        let ready = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap();
        assert!(
            ready == 1,
            "it did not end within {bound:?}; it said:\n{}",
            self.told()
        );
        let status = self.child.wait().unwrap();
        let took = self.began.elapsed();
        let code = status
            .code()
            .or_else(|| Some(128 + status.signal()?))
            .unwrap();
        let read = |path: &Path| String::from_utf8(std::fs::read(path).unwrap()).unwrap();
        let ended = Ended {
            code,
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
            took,
        };
        assert!(self.output.path().is_dir());
        ended
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What decides something; what does not is made again, each time from the beginning.
pub(crate) fn decided<T>(mut attempt: impl FnMut() -> (Ended, T)) -> (Ended, T) {
    let mut made = attempt();
    for _ in 1..TRIES {
        if made.0.code != UNDECIDED {
            break;
        }
        println!("undecided, made again\n{}", made.0.stderr);
        made = attempt();
    }
    made
}

impl Ended {
    /// Asserts the exit code and shows what was said when it is another.
    #[track_caller]
    pub(crate) fn gave(self, code: i32) -> Self {
        assert!(
            self.code == code,
            "exit code {} instead of {code}; it said:\n{}",
            self.code,
            self.stderr
        );
        self
    }

    /// Asserts that people were told all of these.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "it does not say `{part}`:\n{}",
                self.stderr
            );
        }
        self
    }
}

/// Waits for a condition that has no event to wait for, and says what was missing.
#[track_caller]
pub(crate) fn wait_until(bound: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + bound;
    while !done() {
        assert!(Instant::now() < deadline, "not within {bound:?}: {what}");
        pause(Duration::from_millis(2));
    }
}

/// Lets a moment pass, where a moment is what is wanted.
pub(crate) fn pause(time: Duration) {
    let time = Timespec {
        tv_sec: i64::try_from(time.as_secs()).unwrap(),
        tv_nsec: i64::from(time.subsec_nanos()),
    };
    let _ = poll(&mut [], Some(&time));
}

pub(crate) fn kill(pid: i32, signal: Signal) {
    // It may be dead already, which is part of what is tested.
    let _ = rustix::process::kill_process(Pid::from_raw(pid).unwrap(), signal);
}

/// A layer has ended that is this one or a later one.
pub(crate) fn layer(number: i64) -> impl Fn(&Value) -> bool {
    move |record| {
        record["kind"] == "layer"
            && record["layer"]
                .as_i64()
                .is_some_and(|layer| layer >= number)
    }
}
