//! What a control group says of the processes in it: limits and how often they were met, in either generation of cgroups.
//!
//! Used from outside, for groups that the harness has made, and from inside a pod, for the group that an engine has made.
//! Nothing here makes or changes a group.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tweedledum_core::capability::Resource;

/// A page, in which cgroups of memory count.
const PAGE: u64 = 4096;
/// From here on a limit of memory is none: the largest that version 1 shows, less whatever a page may be.
const NO_MEMORY: u64 = 0x7fff_ffff_ffff_0000;
/// The most that the kernel asks for at once and kills for: eight pages, beyond which it does without.
const LAST_REQUEST: u64 = 8 * PAGE;
/// What quotas of processors are counted in, in microseconds.
pub const PERIOD_US: u64 = 100_000;

/// What the kernel lets some processes have together of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Share {
    /// In the resource's own unit; `None` without a limit.
    pub limit: Option<u64>,
    /// How often they came up against it.
    pub hits: u64,
}

/// The name of a resource's controller.
pub const fn controller(resource: Resource) -> &'static str {
    match resource {
        Resource::Memory => "memory",
        Resource::Cpu => "cpu",
        Resource::Pids => "pids",
    }
}

/// The directory of a resource below the place where cgroups are mounted, and whether it is of version 2.
pub fn below(mounted: &Path, resource: Resource) -> (PathBuf, bool) {
    if mounted.join("cgroup.controllers").exists() {
        return (mounted.to_owned(), true);
    }
    (mounted.join(controller(resource)), false)
}

/// What a group says.
pub fn look(group: &Path, v2: bool, resource: Resource) -> io::Result<Share> {
    let read = |file: &str| {
        let path = group.join(file);
        let text = std::fs::read_to_string(&path).map_err(|error| about(&path, &error))?;
        Ok::<_, io::Error>(text)
    };
    let strange = |text: &str| io::Error::other(format!("a limit that says `{}`", text.trim()));
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| strange(text));
    let count = |file: &str, key: &str| Ok::<_, io::Error>(field(&read(file)?, key).unwrap_or(0));
    let limit = |text: &str| match text.trim() {
        "max" => Ok(None),
        text => number(text).map(Some),
    };
    Ok(match (resource, v2) {
        (Resource::Memory, false) => {
            let bytes = number(&read("memory.limit_in_bytes")?)?;
            Share {
                limit: (bytes < NO_MEMORY).then_some(bytes),
                hits: number(&read("memory.failcnt")?)?,
            }
        }
        (Resource::Memory, true) => Share {
            limit: limit(&read("memory.max")?)?,
            hits: count("memory.events", "max")?,
        },
        (Resource::Cpu, false) => {
            let quota = read("cpu.cfs_quota_us")?;
            let quota = match quota.trim() {
                "-1" => None,
                text => Some(number(text)?),
            };
            Share {
                limit: milli_cpus(quota, number(&read("cpu.cfs_period_us")?)?),
                hits: count("cpu.stat", "nr_throttled")?,
            }
        }
        (Resource::Cpu, true) => {
            let text = read("cpu.max")?;
            let mut words = text.split_whitespace();
            let quota = limit(words.next().unwrap_or_default())?;
            Share {
                limit: milli_cpus(quota, number(words.next().unwrap_or_default())?),
                hits: count("cpu.stat", "nr_throttled")?,
            }
        }
        (Resource::Pids, _) => Share {
            limit: limit(&read("pids.max")?)?,
            hits: count("pids.events", "max")?,
        },
    })
}

/// What a group has counted of lack of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lack {
    /// How many of its processes the kernel has killed for it, wherever memory was lacking.
    pub kills: u64,
    /// How often the group's own limit left no room.
    pub met: u64,
    /// Whether its own limit leaves no room now, or did at its peak.
    pub full: bool,
}

/// What a group has counted of lack of memory.
pub fn lack(group: &Path, v2: bool) -> io::Result<Lack> {
    let read = |file: &str| {
        let path = group.join(file);
        std::fs::read_to_string(&path).map_err(|error| about(&path, &error))
    };
    if v2 {
        // The local file leaves out what met the limit of a group that the node made below its own.
        let text = read("memory.events.local").or_else(|_| read("memory.events"))?;
        let count = |key| field(&text, key).unwrap_or(0);
        return Ok(Lack {
            kills: count("oom_kill"),
            met: count("oom"),
            full: false,
        });
    }
    // Where swap is counted only the limit with swap is met, and newer kernels (seen with 6.18) do not count that at all: a peak
    // at the limit says as much. Memory is counted in batches, so the peak is never shown too low.
    let number = |file: &str| read(file).ok()?.trim().parse::<u64>().ok();
    let kinds = ["memory", "memory.memsw"];
    let failed = kinds.map(|kind| number(&format!("{kind}.failcnt")).unwrap_or(0));
    let full = kinds.map(|kind| {
        let limit = number(&format!("{kind}.limit_in_bytes"));
        let peak = number(&format!("{kind}.max_usage_in_bytes")).unwrap_or(0);
        limit.is_some_and(|limit| limit < NO_MEMORY && peak.saturating_add(LAST_REQUEST) >= limit)
    });
    Ok(Lack {
        kills: field(&read("memory.oom_control")?, "oom_kill").unwrap_or(0),
        met: failed.iter().sum(),
        full: full.contains(&true),
    })
}

/// Whether a group that shows `is` does what was wanted: memory is counted in whole pages.
pub fn as_wanted(resource: Resource, wanted: u64, is: Option<u64>) -> bool {
    let counted = |amount: u64| match resource {
        Resource::Memory => amount / PAGE,
        Resource::Cpu | Resource::Pids => amount,
    };
    is.is_some_and(|is| counted(is) == counted(wanted))
}

fn milli_cpus(quota: Option<u64>, period: u64) -> Option<u64> {
    quota?.saturating_mul(1000).checked_div(period)
}

fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok())?
    })
}

/// An error that keeps its number and names the file.
fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        directory
    }

    #[test]
    fn both_generations_are_read() {
        let one = group(&[
            ("memory.limit_in_bytes", "67108864\n"),
            ("memory.failcnt", "3\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            ),
            ("cpu.cfs_quota_us", "25000\n"),
            ("cpu.cfs_period_us", "100000\n"),
            (
                "cpu.stat",
                "nr_periods 9\nnr_throttled 4\nthrottled_time 77\n",
            ),
            ("pids.max", "20\n"),
            ("pids.events", "max 5\n"),
        ]);
        let two = group(&[
            ("memory.max", "67108864\n"),
            ("memory.events", "low 0\nmax 3\noom 2\noom_kill 2\n"),
            ("cpu.max", "25000 100000\n"),
            ("cpu.stat", "usage_usec 1\nnr_periods 9\nnr_throttled 4\n"),
            ("pids.max", "20\n"),
            ("pids.events", "max 5\n"),
        ]);
        for (directory, v2) in [(one, false), (two, true)] {
            let look = |resource| {
                let share = look(directory.path(), v2, resource).unwrap();
                (share.limit, share.hits)
            };
            assert_eq!(look(Resource::Memory), (Some(64 << 20), 3));
            assert_eq!(look(Resource::Cpu), (Some(250), 4));
            assert_eq!(look(Resource::Pids), (Some(20), 5));
            let (kills, met) = (2, if v2 { 2 } else { 3 });
            let full = false;
            assert_eq!(
                lack(directory.path(), v2).unwrap(),
                Lack { kills, met, full }
            );
        }
    }

    /// A kill for lack of memory is counted in the victim's group whoever lacked it.
    #[test]
    fn a_limit_that_was_met_is_told_from_a_host_that_is_full() {
        let met = |files: &[(&str, &str)], v2| {
            let lack = lack(group(files).path(), v2).unwrap();
            lack.met > 0 || lack.full
        };
        let kill = ("memory.oom_control", "under_oom 0\noom_kill 1\n");
        let v1 = |kind: &str, peak: &str, limit: &str| {
            let name = |file| format!("{kind}.{file}");
            let (failed, most, cap) = (
                name("failcnt"),
                name("max_usage_in_bytes"),
                name("limit_in_bytes"),
            );
            met(
                &[kill, (&failed, "0\n"), (&most, peak), (&cap, limit)],
                false,
            )
        };
        // As a 6.18 kernel left it after a kill within a limit of 40 MiB.
        assert!(v1("memory.memsw", "41943040\n", "41943040\n"));
        assert!(v1("memory", "41914368\n", "41943040\n"));
        assert!(!v1("memory", "30000000\n", "41943040\n"));
        assert!(!v1("memory", "30000000\n", "9223372036854771712\n"));
        let events = |text| [("memory.events", text)];
        assert!(met(&events("max 3\noom 1\noom_kill 1\n"), true));
        assert!(!met(&events("max 3\noom 0\noom_kill 1\n"), true));
        let both = [
            ("memory.events", "oom 1\noom_kill 1\n"),
            ("memory.events.local", "oom 0\noom_kill 1\n"),
        ];
        assert!(!met(&both, true));
    }

    #[test]
    fn no_limit_is_none_and_a_missing_file_is_named() {
        let one = group(&[
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.failcnt", "0\n"),
            ("cpu.cfs_quota_us", "-1\n"),
            ("cpu.cfs_period_us", "100000\n"),
            ("cpu.stat", "nr_periods 0\n"),
            ("pids.max", "max\n"),
        ]);
        let look = |resource| look(one.path(), false, resource);
        assert_eq!(look(Resource::Memory).unwrap().limit, None);
        let cpu = look(Resource::Cpu).unwrap();
        assert_eq!((cpu.limit, cpu.hits), (None, 0));
        let missing = look(Resource::Pids).unwrap_err();
        assert!(missing.to_string().contains("pids.events"), "{missing}");
    }

    #[test]
    fn memory_counts_in_pages_and_nothing_else_does() {
        assert!(as_wanted(
            Resource::Memory,
            10_000_000,
            Some(9_998_336 + 100)
        ));
        assert!(!as_wanted(
            Resource::Memory,
            10_000_000,
            Some(10_002_432 + 4096)
        ));
        assert!(as_wanted(Resource::Pids, 20, Some(20)));
        assert!(!as_wanted(Resource::Pids, 20, Some(21)));
        assert!(!as_wanted(Resource::Cpu, 20, None));
    }
}
