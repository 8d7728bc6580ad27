//! Limits of a process of this machine by a cgroup of its own, in either generation of cgroups.
//!
//! A group is made below the one that this process is in, holds one child, and is removed with it. The kernel removes none
//! by itself: if this process is killed in between, an empty directory stays. Errors are the system's own, with their
//! number, and what was being done names the file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tweedledum_core::capability::Capability;

use super::report::Trouble;
use crate::substrate::process::Nonce;

/// A limit to write, and the value that is read back.
#[derive(Debug, Clone, Copy)]
struct Setting {
    controller: &'static str,
    file_v1: &'static str,
    value_v1: &'static str,
    file_v2: &'static str,
    value_v2: &'static str,
}

/// 64 MiB; a tenth of a processor; twenty processes.
fn setting(capability: Capability) -> Option<Setting> {
    let of = |controller, file_v1, value_v1, file_v2, value_v2| {
        Some(Setting {
            controller,
            file_v1,
            value_v1,
            file_v2,
            value_v2,
        })
    };
    match capability {
        Capability::Memory => of(
            "memory",
            "memory.limit_in_bytes",
            "67108864",
            "memory.max",
            "67108864",
        ),
        Capability::Cpu => of(
            "cpu",
            "cpu.cfs_quota_us",
            "10000",
            "cpu.max",
            "10000 100000",
        ),
        Capability::Pids => of("pids", "pids.max", "20", "pids.max", "20"),
        _ => None,
    }
}

/// A group of our own. Dropping it removes it, which works once nobody is in it.
#[derive(Debug)]
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(%error, "a scratch cgroup is left");
        }
    }
}

/// Puts a child under a limit, reads that back, and takes the group away again. Says what was done.
pub(super) async fn limit(
    capability: Capability,
    nonce: &Nonce,
    child: &super::child::Child,
) -> Result<String, Trouble> {
    let setting = setting(capability)
        .ok_or_else(|| Trouble::new(format!("{} is no limit", capability.word())))?;
    let place = Place::find(setting.controller)?;
    let group = place.make(setting.controller, nonce)?;
    let (file, value) = if place.v2 {
        (setting.file_v2, setting.value_v2)
    } else {
        (setting.file_v1, setting.value_v1)
    };
    let limited = put(&group, file, value, child.process.pid());
    // Nobody can be removed from under a process.
    child.end().await?;
    limited?;
    let generation = if place.v2 { 2 } else { 1 };
    Ok(format!(
        "cgroup v{generation}, {file} = {value}, with a child in it"
    ))
}

fn put(group: &Group, file: &str, value: &str, pid: i32) -> Result<(), Trouble> {
    let limit = group.0.join(file);
    let system = |what: String| move |error: io::Error| Trouble::system(&what, &error);
    fs::write(&limit, value).map_err(system(format!("writing {value} to {file}")))?;
    let read = fs::read_to_string(&limit).map_err(system(format!("reading {file}")))?;
    if read.trim() != value {
        let read = read.trim();
        return Err(Trouble::new(format!(
            "{file} was set to {value} and says {read}"
        )));
    }
    fs::write(group.0.join("cgroup.procs"), pid.to_string())
        .map_err(system("putting the child into its group".to_owned()))?;
    let members = fs::read_to_string(group.0.join("cgroup.procs"))
        .map_err(system("reading who is in the group".to_owned()))?;
    if members.lines().any(|line| line == pid.to_string()) {
        Ok(())
    } else {
        Err(Trouble::new(
            "the child is not in the group that it was put into",
        ))
    }
}

/// The group that this process is in.
#[derive(Debug)]
struct Place {
    directory: PathBuf,
    v2: bool,
}

impl Place {
    fn find(controller: &str) -> Result<Self, Trouble> {
        let read = |path: &str| {
            fs::read_to_string(path)
                .map_err(|error| Trouble::system("finding this process's cgroup", &error))
        };
        let (groups, mounts) = (read("/proc/self/cgroup")?, read("/proc/self/mountinfo")?);
        find(controller, &groups, &mounts, Path::is_dir)
            .ok_or_else(|| Trouble::new(format!("no {controller} cgroup is mounted here")))
    }

    fn make(&self, controller: &str, nonce: &Nonce) -> Result<Group, Trouble> {
        let path = self.directory.join(format!("tweedledum-doctor-{nonce}"));
        let system = |what: String| move |error: io::Error| Trouble::system(&what, &error);
        fs::create_dir(&path).map_err(system(format!("making {}", path.display())))?;
        let group = Group(path);
        if self.v2 {
            let has = |group: &Group| {
                fs::read_to_string(group.0.join("cgroup.controllers"))
                    .is_ok_and(|text| text.split_whitespace().any(|word| word == controller))
            };
            if !has(&group) {
                let switch = self.directory.join("cgroup.subtree_control");
                fs::write(switch, format!("+{controller}"))
                    .map_err(system(format!("handing the {controller} controller down")))?;
            }
        }
        Ok(group)
    }
}

/// The directory of this process's group for a controller: of its own hierarchy where there is one, else of the common one.
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
        let nonce = Nonce::from_bytes([7; 16]);
        let trouble = place.make("cpu", &nonce).unwrap_err();
        assert_eq!(trouble.errno, Some(libc::ENOENT));
        assert!(trouble.why.contains("/no/such/cgroup/"), "{}", trouble.why);
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
