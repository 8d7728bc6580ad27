//! Groups of processes that a node's limits are put on: a cgroup of its own per node, in either generation.
//!
//! They are made below the group that the harness itself is in, before the node is started, and the node is put in before
//! its go, so that everything it ever starts is in them too. In version 2 a group with processes in it hands no controllers
//! down (EBUSY), so there they are made beside it. The kernel removes none by itself: their place is an intent of the run,
//! and they are found by the run's nonce in their names. Limits of single processes (`setrlimit`) are no substitute: address
//! space is not memory, and processes are counted per user.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use thiserror::Error;
use tweedledum_core::capability::Resource;

use super::{Nonce, ProcessId};
use crate::substrate::cgroup::{Lack, PERIOD_US, Share, controller, lack, look};
use crate::undo::{Intent, IntentLog, forget};

/// What file systems of cgroups say that they are, of either generation.
const CGROUP: rustix::fs::FsWord = 0x0027_e0eb;
const CGROUP2: rustix::fs::FsWord = 0x6367_7270;
/// What the names of our groups begin with.
const PREFIX: &str = "tweedledum";
/// How long a group may be busy after its last process is dead: the kernel lets go of it a moment later.
const REMOVE_BOUND: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What to do where limits cannot be put on processes.
pub const REMEDY: &str = "run as a user who may write cgroups: as root on the host, or in a container with `docker run --privileged`; with cgroup v2 as a user `systemd-run --user --scope -p Delegate=yes sh -c 'g=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); mkdir $g/run; echo $$ > $g/run/cgroup.procs; exec tweedledum …'`; or use the docker substrate";

/// Why processes cannot be limited: the step that failed.
#[derive(Debug, Error)]
#[error("{doing}: {source}")]
pub struct GroupError {
    /// What was being done, with the file.
    pub doing: String,
    /// The system's answer.
    pub source: io::Error,
}

fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> GroupError {
    let doing = doing.into();
    move |source| GroupError { doing, source }
}

/// Whether limits of this kind can be put on processes of this machine, as far as can be seen without doing it.
pub fn looks_possible(resource: Resource) -> Result<(), GroupError> {
    let place = Place::find(resource)?;
    let directory = &place.directory;
    access(directory, Access::WRITE_OK).map_err(|error| {
        let doing = format!("a cgroup cannot be made in {}", directory.display());
        failed(doing)(error.into())
    })
}

/// Whether limits of this kind can be put on processes of this machine: makes a group and removes it. If this process is
/// killed in between, `clean` does, of this directory of runs.
pub fn possible(runs: &Path, resource: Resource) -> Result<(), GroupError> {
    let nonce = Nonce::random().map_err(failed("a name for a group"))?;
    let trial = Trial::make(runs, &nonce, resource)?;
    let set = trial.group.set(resource, None).map(drop);
    let set = set.map_err(failed(format!("setting a limit of {}", resource.word())));
    trial.remove().map_err(failed("removing the group again"))?;
    set
}

/// A group that something is tried on outside of any run. Its place is an intent below a directory of runs.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) group: Group,
    intents: PathBuf,
}

impl Trial {
    pub(crate) fn make(runs: &Path, nonce: &Nonce, resource: Resource) -> Result<Self, GroupError> {
        let resources = BTreeSet::from([resource]);
        let places = places(&resources)?;
        let recorded = ProcessId::own().and_then(|own| {
            let mut log = IntentLog::create(runs, nonce, &own)?;
            log.append(&Intent::Groups { places })?;
            Ok(log.path().to_owned())
        });
        let intents = recorded.map_err(failed("recording where a cgroup is made"))?;
        match Group::make(nonce, "try", &resources) {
            Ok(group) => Ok(Self { group, intents }),
            Err(error) => {
                forget(&intents).map_err(failed("forgetting a cgroup that was not made"))?;
                Err(error)
            }
        }
    }

    /// Removes the group, which works once nobody is in it.
    pub(crate) fn remove(self) -> io::Result<()> {
        self.group.remove()?;
        forget(&self.intents)
    }
}

/// Where groups of a resource are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    directory: PathBuf,
    v2: bool,
}

impl Place {
    fn find(resource: Resource) -> Result<Self, GroupError> {
        let read =
            |path: &str| std::fs::read_to_string(path).map_err(failed(format!("reading {path}")));
        let (groups, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        let name = controller(resource);
        find(name, &groups, &mounts, Path::is_dir).ok_or_else(|| {
            let none = io::Error::from_raw_os_error(libc::ENOENT);
            failed(format!("no {name} cgroup is mounted here"))(none)
        })
    }

    /// The same place, or in version 2 the one beside this process where it hands nothing down itself.
    fn candidates(self, mounted: &Path) -> Vec<Self> {
        let above = self.directory.parent().filter(|_| self.v2);
        let above = above.filter(|above| above.starts_with(mounted));
        let above = above.map(|above| Self {
            directory: above.to_owned(),
            v2: true,
        });
        std::iter::once(self).chain(above).collect()
    }

    fn make(&self, resource: Resource, name: &str) -> Result<PathBuf, GroupError> {
        let path = self.directory.join(name);
        // Above a cgroup there may be a tmpfs that holds the mounts of all: what is made there is no group.
        let kind = rustix::fs::statfs(&self.directory).map(|about| about.f_type);
        if kind.is_ok_and(|kind| ![CGROUP, CGROUP2].contains(&kind)) {
            let none = io::Error::new(
                io::ErrorKind::Unsupported,
                "that is on no cgroup file system",
            );
            return Err(failed(format!("making {}", path.display()))(none));
        }
        match std::fs::create_dir(&path) {
            // In version 2 one directory is of all resources.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.v2 => {}
            made => made.map_err(failed(format!("making {}", path.display())))?,
        }
        if self.v2 {
            let wanted = controller(resource);
            let has = std::fs::read_to_string(path.join("cgroup.controllers"))
                .is_ok_and(|text| text.split_whitespace().any(|word| word == wanted));
            if !has {
                let switch = self.directory.join("cgroup.subtree_control");
                let on = std::fs::write(&switch, format!("+{wanted}"));
                if let Err(error) = on {
                    // A directory that is shared with another resource stays; nobody else made it just now.
                    let _ = std::fs::remove_dir(&path);
                    let doing = format!(
                        "handing the {wanted} controller down in {}",
                        switch.display()
                    );
                    return Err(failed(doing)(error));
                }
            }
        }
        Ok(path)
    }
}

/// The group of one node. A handle that can be cloned.
#[derive(Debug, Clone)]
pub struct Group(Arc<BTreeMap<Resource, Held>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    path: PathBuf,
    v2: bool,
}

/// The directories in which groups for these resources may be made: what a run's intents name.
pub fn places(resources: &BTreeSet<Resource>) -> Result<Vec<PathBuf>, GroupError> {
    let mut all = BTreeSet::new();
    for resource in resources {
        let place = Place::find(*resource)?;
        let mounted = PathBuf::from("/sys/fs/cgroup");
        all.extend(
            place
                .candidates(&mounted)
                .into_iter()
                .map(|place| place.directory),
        );
    }
    Ok(all.into_iter().collect())
}

impl Group {
    /// Makes it, without a limit yet. What was made is removed again if some of it fails.
    pub fn make(
        nonce: &Nonce,
        node: &str,
        resources: &BTreeSet<Resource>,
    ) -> Result<Self, GroupError> {
        let name = format!("{PREFIX}-{nonce}-{node}");
        let mut made = BTreeMap::new();
        for resource in resources {
            match make_one(*resource, &name) {
                Ok(held) => {
                    made.insert(*resource, held);
                }
                Err(error) => {
                    let _ = Self(Arc::new(made)).remove();
                    return Err(error);
                }
            }
        }
        Ok(Self(Arc::new(made)))
    }

    fn of(&self, resource: Resource) -> io::Result<&Held> {
        let held = self.0.get(&resource);
        held.ok_or_else(|| io::Error::other(format!("no group was made for {}", resource.word())))
    }

    /// One of version 2 whose files are in this directory.
    #[cfg(test)]
    pub(super) fn of_memory(directory: &Path) -> Self {
        let held = Held {
            path: directory.to_owned(),
            v2: true,
        };
        Self(Arc::new(BTreeMap::from([(Resource::Memory, held)])))
    }

    /// Puts a process in.
    pub fn join(&self, pid: i32) -> io::Result<()> {
        let paths: BTreeSet<&PathBuf> = self.0.values().map(|held| &held.path).collect();
        for path in paths {
            std::fs::write(path.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Gives everybody in it so much together, or all there is, and reads that back.
    pub fn set(&self, resource: Resource, amount: Option<u64>) -> io::Result<Option<u64>> {
        let Held { path, v2 } = self.of(resource)?;
        let write = |file: &str, text: &str| {
            std::fs::write(path.join(file), text).map_err(|error| {
                let why = format!("writing {text} to {}: {error}", path.join(file).display());
                io::Error::new(error.kind(), why)
            })
        };
        let or = |none: &str| amount.map_or_else(|| none.to_owned(), |amount| amount.to_string());
        match (resource, v2) {
            (Resource::Memory, false) => {
                // The limit with swap is never under the one without, and exists only where swap is counted.
                let swap = path.join("memory.memsw.limit_in_bytes").exists();
                let mut files = vec!["memory.limit_in_bytes"];
                files.extend(swap.then_some("memory.memsw.limit_in_bytes"));
                if amount.is_none() {
                    files.reverse();
                }
                for file in files {
                    write(file, &or("-1"))?;
                }
            }
            (Resource::Memory, true) => {
                if path.join("memory.swap.max").exists() {
                    write(
                        "memory.swap.max",
                        if amount.is_some() { "0" } else { "max" },
                    )?;
                }
                write("memory.max", &or("max"))?;
            }
            (Resource::Cpu, v2) => {
                let quota = amount.map(|milli| milli.saturating_mul(PERIOD_US) / 1000);
                let text = |none: &str| quota.map_or_else(|| none.to_owned(), |us| us.to_string());
                if *v2 {
                    write("cpu.max", &format!("{} {PERIOD_US}", text("max")))?;
                } else {
                    write("cpu.cfs_period_us", &PERIOD_US.to_string())?;
                    write("cpu.cfs_quota_us", &text("-1"))?;
                }
            }
            (Resource::Pids, _) => write("pids.max", &or("max"))?,
        }
        Ok(look(path, *v2, resource)?.limit)
    }

    /// What it has counted of lack of memory; `None` where memory is not counted.
    pub(super) fn lack(&self) -> Option<Lack> {
        let Held { path, v2 } = self.0.get(&Resource::Memory)?;
        lack(path, *v2).ok()
    }

    /// Forgets how much memory was used at most, which with cgroup v1 says whether the limit was met.
    pub(super) fn forget_peak(&self) {
        let held = self.0.get(&Resource::Memory).filter(|held| !held.v2);
        for file in [
            "memory.max_usage_in_bytes",
            "memory.memsw.max_usage_in_bytes",
        ] {
            if let Some(held) = held {
                // Where swap is not counted there is no such file; a peak that stays is of an earlier life under the same limit.
                let _ = std::fs::write(held.path.join(file), "0");
            }
        }
    }

    /// Removes it, which works once nobody is in it. Blocks for at most two seconds.
    pub fn remove(&self) -> io::Result<()> {
        let paths: BTreeSet<&Path> = self.0.values().map(|held| held.path.as_path()).collect();
        let deadline = Instant::now() + REMOVE_BOUND;
        paths
            .into_iter()
            .try_for_each(|path| remove(path, deadline))
    }
}

fn make_one(resource: Resource, name: &str) -> Result<Held, GroupError> {
    let place = Place::find(resource)?;
    let mounted = PathBuf::from("/sys/fs/cgroup");
    let mut first = None;
    for place in place.candidates(&mounted) {
        match place.make(resource, name) {
            Ok(path) => return Ok(Held { path, v2: place.v2 }),
            Err(error) => {
                first.get_or_insert(error);
            }
        }
    }
    Err(first.unwrap_or_else(|| {
        let none = io::Error::from_raw_os_error(libc::ENOENT);
        failed("no place for a cgroup")(none)
    }))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the kernel tells nobody when a dead process has left its group; this runs beside the event loop, and is bounded"
)]
fn remove(path: &Path, deadline: Instant) -> io::Result<()> {
    loop {
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline =>
            {
                std::thread::sleep(LOOK_AGAIN);
            }
            Err(error) => {
                let why = format!("the cgroup {} cannot be removed: {error}", path.display());
                return Err(io::Error::new(error.kind(), why));
            }
        }
    }
}

/// Removes every group of a run in these places, by its nonce; what cannot be removed, in words. Groups hold nothing but
/// limits, so one that is empty is nobody's loss.
pub fn remove_all(nonce: &Nonce, places: &[PathBuf]) -> Vec<String> {
    let begins = format!("{PREFIX}-{nonce}-");
    let mut left = Vec::new();
    for place in places {
        let Ok(entries) = std::fs::read_dir(place) else {
            continue;
        };
        for entry in entries.flatten() {
            let ours = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(&begins));
            if ours && let Err(error) = remove(&entry.path(), Instant::now() + REMOVE_BOUND) {
                left.push(error.to_string());
            }
        }
    }
    left
}

/// What the kernel holds a process to: found from the process itself, not from where a limit was set.
pub fn of_process(pid: i32, resource: Resource) -> io::Result<Share> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let name = controller(resource);
    let place = find(name, &groups, &mounts, Path::is_dir);
    let place =
        place.ok_or_else(|| io::Error::other(format!("process {pid} is in no {name} cgroup")))?;
    look(&place.directory, place.v2, resource)
}

/// The directory of a process's group for a controller: of its own hierarchy where there is one, else of the common one.
/// In a container the path may be that of the host; then the mount itself is the group.
fn find(
    controller: &str,
    groups: &str,
    mounts: &str,
    is_dir: impl Fn(&Path) -> bool,
) -> Option<Place> {
    let mounted = |kind: &str, option: Option<&str>| {
        mounts.lines().find_map(|line| {
            let (place, rest) = line.split_once(" - ")?;
            let mut rest = rest.split(' ');
            if rest.next()? != kind {
                return None;
            }
            let options = rest.nth(1)?;
            let fits = option.is_none_or(|wanted| options.split(',').any(|word| word == wanted));
            fits.then(|| place.split(' ').nth(4).map(PathBuf::from))?
        })
    };
    let group = |fits: &dyn Fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let controllers = parts.next()?;
            fits(controllers).then(|| parts.next())?
        })
    };
    let below = |mount: PathBuf, path: &str| {
        let inside = mount.join(path.trim_start_matches('/'));
        if is_dir(&inside) { inside } else { mount }
    };
    let own = group(&|controllers| controllers.split(',').any(|word| word == controller));
    if let (Some(path), Some(mount)) = (own, mounted("cgroup", Some(controller))) {
        return Some(Place {
            directory: below(mount, path),
            v2: false,
        });
    }
    let path = group(&str::is_empty)?;
    let mount = mounted("cgroup2", None)?;
    Some(Place {
        directory: below(mount, path),
        v2: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "31 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_refusal_has_its_number_and_names_the_file() {
        let place = Place {
            directory: "/no/such/cgroup".into(),
            v2: false,
        };
        let error = place.make(Resource::Cpu, "x").unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(libc::ENOENT));
        assert!(error.doing.contains("/no/such/cgroup/x"), "{error}");
    }

    /// As in the tmpfs that holds the mounts where both generations are used.
    #[test]
    fn a_plain_directory_is_not_taken_for_a_group() {
        let plain = tempfile::tempdir().unwrap();
        for v2 in [false, true] {
            let place = Place {
                directory: plain.path().to_owned(),
                v2,
            };
            let error = place.make(Resource::Memory, "x").unwrap_err();
            assert!(error.to_string().contains("no cgroup file"), "{error}");
        }
        assert_eq!(std::fs::read_dir(plain.path()).unwrap().count(), 0);
    }

    /// Where this machine lets nobody make groups, nothing is left of the try but that.
    #[test]
    fn what_a_killed_try_left_is_removed_by_its_intents() {
        let runs = tempfile::tempdir().unwrap();
        let nonce = Nonce::random().unwrap();
        let trial = Trial::make(runs.path(), &nonce, Resource::Pids);
        let Ok(trial) = trial else {
            assert_eq!(crate::undo::unfinished(runs.path()).unwrap_or_default(), []);
            return;
        };
        let paths: Vec<PathBuf> = trial
            .group
            .0
            .values()
            .map(|held| held.path.clone())
            .collect();
        assert!(paths.iter().all(|path| path.exists()));
        assert!(crate::undo::remove_recorded(&trial.intents).is_empty());
        assert!(!paths.iter().any(|path| path.exists()));
        trial.remove().unwrap();
        assert_eq!(crate::undo::unfinished(runs.path()).unwrap(), []);
        possible(runs.path(), Resource::Pids).unwrap();
        assert_eq!(crate::undo::unfinished(runs.path()).unwrap(), []);
    }

    #[test]
    fn only_version_2_looks_beside_itself_and_never_above_the_mount() {
        let of = |directory: &str, v2| {
            let directory = directory.into();
            let all = Place { directory, v2 }.candidates(Path::new("/sys/fs/cgroup"));
            all.into_iter()
                .map(|place| place.directory.display().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of("/sys/fs/cgroup/memory/a", false),
            ["/sys/fs/cgroup/memory/a"]
        );
        assert_eq!(
            of("/sys/fs/cgroup/a/b", true),
            ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a"]
        );
        assert_eq!(of("/sys/fs/cgroup", true), ["/sys/fs/cgroup"]);
    }

    #[test]
    fn a_runs_groups_are_removed_by_its_nonce_and_no_other() {
        let place = tempfile::tempdir().unwrap();
        let (own, other) = (Nonce::from_bytes([1; 16]), Nonce::from_bytes([2; 16]));
        let names = [
            format!("{PREFIX}-{own}-miner-0"),
            format!("{PREFIX}-{other}-miner-0"),
            format!("{own}-miner-0"),
        ];
        for name in &names {
            std::fs::create_dir(place.path().join(name)).unwrap();
        }
        let places = [place.path().to_owned(), "/no/such/place".into()];
        assert_eq!(remove_all(&own, &places), Vec::<String>::new());
        let there = names.map(|name| place.path().join(name).exists());
        assert_eq!(there, [false, true, true]);
    }

    #[test]
    fn both_generations_are_found() {
        let at = |controller, groups, mounts, dirs: bool| {
            find(controller, groups, mounts, |_| dirs).map(|place| (place.directory, place.v2))
        };
        let groups = "4:memory:/a/b\n1:cpu:/\n0::/\n";
        assert_eq!(
            at("memory", groups, V1, true),
            Some(("/sys/fs/cgroup/memory/a/b".into(), false))
        );
        assert_eq!(
            at("memory", groups, V1, false),
            Some(("/sys/fs/cgroup/memory".into(), false)),
            "the host's path in a container"
        );
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            at("pids", "0::/user.slice/x\n", v2, true),
            Some(("/sys/fs/cgroup/user.slice/x".into(), true))
        );
        assert_eq!(at("pids", "0::/\n", "", true), None);
    }
}
