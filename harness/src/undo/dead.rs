//! What `clean` does with runs: which are dead, and removing what those left.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fs_err as fs;
use serde::Serialize;
use thiserror::Error;

use super::{
    DIRECTORY, ENGINE_BOUND, Intent, Part, entries_of, forget, intent_files, of_engine, of_groups,
    on_engine,
};
use crate::store::{lines, read_marker};
use crate::substrate::docker::remains::{Cleaned, clean_blocking};
use crate::substrate::process::holders::holders;
use crate::substrate::process::remains::Hunt;
use crate::substrate::process::{KillReport, Leftover, Nonce, block, identity};

/// How long `clean` waits for the processes of one run to be gone.
const CLEAN_BOUND: Duration = Duration::from_secs(5);

/// What `clean` found about one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// It runs; nothing was touched.
    Live,
    /// Its processes have other pids here, if any, since it was started in another pid namespace of this machine, so nobody
    /// here can tell whether it lives; nothing was touched.
    Elsewhere,
    /// It was dead; all that it left is gone now, and its intents are forgotten.
    Cleaned {
        /// How many processes were killed.
        killed: usize,
    },
    /// It was dead; some of what it left could not be removed. Its intents stay.
    Left {
        /// How many processes were killed.
        killed: usize,
        /// What is still there.
        left: Vec<Leftover>,
    },
    /// The file does not say whose it is; nothing was touched.
    Unreadable {
        /// What is wrong with it.
        why: String,
    },
}

/// One run in a [`CleanReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CleanedRun {
    /// The intent file.
    pub intents: PathBuf,
    /// The run directories that it made, for the reader to look into.
    pub directories: Vec<PathBuf>,
    /// How many containers, volumes and networks of it were removed.
    pub removed: usize,
    /// How many containers that were not its own, and that it had stopped or paused, were brought up again.
    pub brought_up: usize,
    /// What was found and done.
    pub state: RunState,
}

/// What `clean` did, one entry per intent file, ordered by path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CleanReport {
    /// The runs.
    pub runs: Vec<CleanedRun>,
}

impl CleanReport {
    /// Whether something of a dead run could not be removed, or may be there and cannot be known of.
    pub fn anything_left(&self) -> bool {
        let left =
            |state: &RunState| matches!(state, RunState::Left { .. } | RunState::Unreadable { .. });
        self.runs.iter().any(|run| left(&run.state))
    }
}

/// Why `clean` could not look.
#[derive(Debug, Error)]
#[error("cannot look for leftovers of runs: {0}")]
pub struct CleanError(#[from] io::Error);

/// Removes what dead runs left. A directory without intents is clean.
pub fn clean(runs: &Path) -> Result<CleanReport, CleanError> {
    let mut report = CleanReport::default();
    for (path, nonce) in intent_files(runs)? {
        report.runs.push(clean_one(path, nonce)?);
    }
    remove_unwritten(runs)?;
    Ok(report)
}

/// Removes what is left of intents whose stub was killed before their first line was in place. It
/// had started nothing yet.
fn remove_unwritten(runs: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(runs.join(DIRECTORY)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(writer) = name.and_then(writer_of)
            && identity::read_stat(writer).is_err()
        {
            forget(&path)?;
        }
    }
    Ok(())
}

/// The process that writes `.NONCE.jsonl.PID.tmp`; `None` for any other name.
fn writer_of(name: &str) -> Option<i32> {
    let (nonce, writer) = name.strip_prefix('.')?.split_once(".jsonl.")?;
    Nonce::parse(nonce)?;
    writer.strip_suffix(".tmp")?.parse().ok()
}

fn clean_one(path: PathBuf, name: Option<Nonce>) -> io::Result<CleanedRun> {
    let intents = match lines::read::<Intent>(&path) {
        Ok(intents) => intents,
        Err(error) => {
            let why = error.to_string();
            let place = format!("{}: ", path.display());
            let why = why.strip_prefix(&place).unwrap_or(&why).to_owned();
            return Ok(unreadable(path, why));
        }
    };
    let Some(Intent::Run {
        nonce,
        pid_namespace,
        ..
    }) = intents.first()
    else {
        return Ok(unreadable(
            path,
            "it does not begin with a record of a run".to_owned(),
        ));
    };
    if name != Some(*nonce) {
        return Ok(unreadable(
            path,
            "its name is not the nonce in its first line".to_owned(),
        ));
    }
    let directories = intents
        .iter()
        .filter_map(|intent| match intent {
            Intent::Directory { path } => Some(path.clone()),
            _ => None,
        })
        .collect();
    let (mut removed, mut brought_up) = (0, 0);
    let elsewhere = match pid_namespace {
        Some(namespace) => *namespace != identity::pid_namespace()? && of_this_boot(&intents)?,
        None => false,
    };
    let state = if elsewhere {
        RunState::Elsewhere
    } else if is_live(&intents)? {
        RunState::Live
    } else {
        // Agents and their nodes are on the engine's machine, also where the engine's containers are seen as processes.
        let engine = clean_blocking(&entries_of(&intents), ENGINE_BOUND);
        match engine {
            Cleaned::Live => RunState::Live,
            Cleaned::Dead(removal) => {
                (removed, brought_up) = (removal.removed, removal.brought_up.len());
                remove_remains(&path, nonce, &intents, on_engine(&removal.left))?
            }
            Cleaned::Unknown { why } => {
                let why =
                    format!("what it made on its container engine could not be looked for: {why}");
                remove_remains(&path, nonce, &intents, vec![of_engine(why)])?
            }
        }
    };
    Ok(CleanedRun {
        intents: path,
        directories,
        removed,
        brought_up,
        state,
    })
}

fn unreadable(intents: PathBuf, why: String) -> CleanedRun {
    CleanedRun {
        intents,
        directories: Vec::new(),
        removed: 0,
        brought_up: 0,
        state: RunState::Unreadable { why },
    }
}

/// A run lives while a guard lives, its controller does anything, or its addresses are locked. A
/// stopped controller without guards is what a killed watchdog leaves when it was interrupted in
/// the middle of removing everything; it will never go on, and neither its lock nor it counts.
fn is_live(intents: &[Intent]) -> io::Result<bool> {
    let mut abandoned = false;
    for intent in intents {
        match intent {
            Intent::Run { stub: id, .. }
            | Intent::Member {
                part: Part::Stub | Part::Watchdog,
                id,
            } if id.is_alive() => {
                return Ok(true);
            }
            Intent::Member {
                part: Part::Controller,
                id,
            } => match id.stat() {
                Some(stat) if stat.state == 'T' => abandoned = true,
                Some(stat) if !stat.is_dead() => return Ok(true),
                _ => {}
            },
            _ => {}
        }
    }
    if abandoned {
        return Ok(false);
    }
    // After a reboot no lock is this run's.
    let same_boot = of_this_boot(intents)?;
    for intent in intents {
        if let Intent::Block { prefix } = intent
            && same_boot
            && block::is_locked(*prefix)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn remove_remains(
    path: &Path,
    nonce: &Nonce,
    intents: &[Intent],
    on_engine: Vec<Leftover>,
) -> io::Result<RunState> {
    let deadline = Instant::now() + CLEAN_BOUND;
    let hunt = Hunt {
        nonce: Some(nonce),
        ..Hunt::default()
    };
    let mut report = hunt.run(deadline);
    // After a reboot the addresses and processes are others'.
    if of_this_boot(intents)? {
        let (proved, mut left) = by_their_sockets(nonce, intents)?;
        if !proved.is_empty() {
            let hunt = Hunt {
                also: &proved,
                roots: &proved,
                ..Hunt::default()
            };
            let KillReport { killed, left: more } = hunt.run(deadline);
            report.killed += killed;
            report.left.extend(more);
        }
        left.retain(|left| {
            report
                .left
                .iter()
                .all(|known| known.pid != left.pid || left.pid == 0)
        });
        report.left.extend(left);
    }
    let KillReport { killed, mut left } = report;
    left.extend(on_engine);
    left.extend(of_groups(intents));
    if left.is_empty() {
        forget(path)?;
        Ok(RunState::Cleaned { killed })
    } else {
        Ok(RunState::Left { killed, left })
    }
}

/// What still holds sockets in the run's addresses: processes that are certainly the run's, and the rest.
///
/// The file is only somebody's word: addresses that no run can get, and directories that are not this run's by the marker in
/// them, prove nothing about anybody.
fn by_their_sockets(nonce: &Nonce, intents: &[Intent]) -> io::Result<(Vec<i32>, Vec<Leftover>)> {
    let mut prefixes = Vec::new();
    let mut directories = Vec::new();
    for intent in intents {
        match intent {
            // A run that has it now answers for what is in it; `is_live` leaves an abandoned lock out.
            Intent::Block { prefix } if block::can_be(*prefix) && !block::is_locked(*prefix)? => {
                prefixes.push(*prefix);
            }
            Intent::Directory { path } => {
                let own = read_marker(path).is_some_and(|marker| marker.nonce == *nonce);
                // Links of /proc are absolute and free of links.
                directories.extend(fs::canonicalize(path).ok().filter(|_| own));
            }
            _ => {}
        }
    }
    let (found, unseen) = holders(&prefixes, &directories)?;
    let mut proved = Vec::new();
    let mut left = Vec::new();
    for holder in found {
        if holder.inside {
            proved.push(holder.stat.pid);
            continue;
        }
        let sockets: Vec<String> = holder.sockets.iter().map(ToString::to_string).collect();
        left.push(Leftover {
            pid: holder.stat.pid,
            comm: holder.stat.comm,
            why: format!(
                "it holds {} in the run's addresses, but nothing proves that it is the run's, so it was not touched",
                sockets.join(", ")
            ),
        });
    }
    for socket in unseen {
        left.push(Leftover {
            pid: 0,
            comm: String::new(),
            why: format!("{socket} in the run's addresses is bound by a process that cannot be seen, perhaps another user's"),
        });
    }
    Ok((proved, left))
}

/// Whether the run was of this boot of the machine.
fn of_this_boot(intents: &[Intent]) -> io::Result<bool> {
    let this_boot = identity::boot_id()?;
    Ok(matches!(intents.first(), Some(Intent::Run { stub, .. }) if stub.boot_id == this_boot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::substrate::process::ProcessId;
    use crate::undo::{IntentLog, first_line, unfinished};

    fn dead(own: &ProcessId) -> ProcessId {
        ProcessId {
            start: own.start + 1,
            ..own.clone()
        }
    }

    #[test]
    fn a_live_run_is_not_touched_and_a_dead_one_is_forgotten() {
        let runs = tempfile::tempdir().unwrap();
        let own = ProcessId::own().unwrap();
        let (live, gone) = (Nonce::from_bytes([1; 16]), Nonce::from_bytes([2; 16]));
        let live = IntentLog::create(runs.path(), &live, &own).unwrap();
        let mut gone = IntentLog::create(runs.path(), &gone, &dead(&own)).unwrap();
        gone.append(&Intent::Directory {
            path: "runs/x".into(),
        })
        .unwrap();
        assert_eq!(unfinished(runs.path()).unwrap().len(), 2);
        let report = clean(runs.path()).unwrap();
        let states: Vec<_> = report.runs.iter().map(|run| run.state.clone()).collect();
        assert_eq!(states, [RunState::Live, RunState::Cleaned { killed: 0 }]);
        assert_eq!(report.runs[1].directories, [PathBuf::from("runs/x")]);
        assert!(live.path().exists() && !gone.path().exists());
        assert!(!report.anything_left());
    }

    /// A container and its host may share a directory of runs.
    #[test]
    fn a_run_of_another_pid_namespace_is_left_alone_until_the_next_boot() {
        let runs = tempfile::tempdir().unwrap();
        let nonce = Nonce::from_bytes([7; 16]);
        let own = dead(&ProcessId::own().unwrap());
        let log = IntentLog::create(runs.path(), &nonce, &own).unwrap();
        let here = identity::pid_namespace().unwrap();
        let earlier = ProcessId {
            boot_id: "another".to_owned(),
            ..own.clone()
        };
        for (namespace, stub, want) in [
            (here + 1, own.clone(), RunState::Elsewhere),
            (here + 1, earlier, RunState::Cleaned { killed: 0 }),
            (here, own, RunState::Cleaned { killed: 0 }),
        ] {
            let run = Intent::Run {
                nonce,
                stub,
                pid_namespace: Some(namespace),
            };
            fs::write(log.path(), first_line(&run).unwrap()).unwrap();
            let report = clean(runs.path()).unwrap();
            assert_eq!(report.runs[0].state, want);
            assert_eq!(log.path().exists(), want == RunState::Elsewhere);
        }
    }

    #[test]
    fn any_living_member_or_lock_keeps_a_run_alive() {
        let own = ProcessId::own().unwrap();
        let run = Intent::Run {
            nonce: Nonce::from_bytes([3; 16]),
            stub: dead(&own),
            pid_namespace: None,
        };
        let member = |part, id: &ProcessId| Intent::Member {
            part,
            id: id.clone(),
        };
        assert!(!is_live(std::slice::from_ref(&run)).unwrap());
        for part in [Part::Stub, Part::Watchdog, Part::Controller] {
            assert!(is_live(&[run.clone(), member(part, &own)]).unwrap());
            assert!(!is_live(&[run.clone(), member(part, &dead(&own))]).unwrap());
        }
        let lock = block::AddressBlock::claim(&Nonce::random().unwrap()).unwrap();
        let block = Intent::Block {
            prefix: lock.prefix(),
        };
        assert!(is_live(&[run.clone(), block.clone()]).unwrap());
        drop(lock);
        assert!(!is_live(&[run, block]).unwrap());
    }

    #[test]
    fn files_of_others_are_left_alone() {
        let runs = tempfile::tempdir().unwrap();
        assert_eq!(clean(runs.path()).unwrap(), CleanReport::default());
        let directory = runs.path().join(DIRECTORY);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("notes.txt"), "x").unwrap();
        fs::write(directory.join("a.jsonl"), "").unwrap();
        fs::write(directory.join("b.jsonl"), "{}\n").unwrap();
        let own = ProcessId::own().unwrap();
        let run = Intent::Run {
            nonce: Nonce::from_bytes([4; 16]),
            stub: dead(&own),
            pid_namespace: None,
        };
        fs::write(directory.join("c.jsonl"), first_line(&run).unwrap()).unwrap();
        let report = clean(runs.path()).unwrap();
        assert_eq!(report.runs.len(), 3);
        assert!(report.anything_left());
        for run in report.runs {
            assert!(matches!(run.state, RunState::Unreadable { .. }), "{run:?}");
            assert!(run.intents.exists());
        }
    }

    #[test]
    fn what_a_killed_stub_did_not_finish_writing_is_removed() {
        let runs = tempfile::tempdir().unwrap();
        let directory = runs.path().join(DIRECTORY);
        fs::create_dir(&directory).unwrap();
        let nonce = Nonce::from_bytes([6; 16]);
        // No process has the largest number that the kernel could give.
        let dead = directory.join(format!(".{nonce}.jsonl.{}.tmp", i32::MAX));
        let live = directory.join(format!(".{nonce}.jsonl.{}.tmp", std::process::id()));
        let other = directory.join(format!(".notes.jsonl.{}.tmp", i32::MAX));
        for path in [&dead, &live, &other] {
            fs::write(path, "{").unwrap();
        }
        assert_eq!(clean(runs.path()).unwrap(), CleanReport::default());
        assert!(!dead.exists() && live.exists() && other.exists());
    }

    /// A file that says that the whole machine was a run's: nobody is harmed for it, above all not this test, which holds a
    /// socket where a system's own services live.
    #[test]
    fn a_forged_file_proves_nothing() {
        let _socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let forged = [
            Intent::Block {
                prefix: [127, 0, 0],
            },
            Intent::Directory { path: "/".into() },
        ];
        let (proved, left) = by_their_sockets(&Nonce::random().unwrap(), &forged).unwrap();
        assert_eq!(proved, Vec::<i32>::new());
        assert!(left.is_empty(), "{left:?}");
    }
}
