//! Entering the namespaces of the isolated tier, step by step, in a child that is thrown away. The first refusal ends it.
//!
//! `unsafe` because neither `unshare` nor `mount` nor the ioctls of network devices have a safe form without more features
//! of crates than this one use is worth; each block says why it is sound. The process must have one thread.
#![allow(
    unsafe_code,
    reason = "unshare, mount and network ioctls; see each SAFETY"
)]

use std::io;
use std::os::fd::AsRawFd as _;

use serde::{Deserialize, Serialize};

/// `TUNSETIFF`, `_IOW('T', 202, int)`: the same number on x86-64 and aarch64.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// One step and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entered {
    /// The name of the step's row.
    pub step: String,
    /// What was being done when it was refused, and the refusal.
    pub failed: Option<(String, String)>,
    /// The system's error number.
    pub errno: Option<i32>,
}

type Way = (&'static str, fn() -> Result<(), (&'static str, io::Error)>);

const WAYS: [Way; 4] = [
    ("user-namespace", user),
    ("mount-namespace", mount),
    ("network-namespace", network),
    ("tun", tun),
];

/// Enters all, as far as it is let.
pub(super) fn enter() -> Vec<Entered> {
    let mut entered = Vec::new();
    for (step, way) in WAYS {
        let refused = way().err();
        let over = refused.is_some();
        entered.push(Entered {
            step: step.to_owned(),
            errno: refused.as_ref().and_then(|(_, error)| error.raw_os_error()),
            failed: refused.map(|(what, error)| (what.to_owned(), error.to_string())),
        });
        if over {
            break;
        }
    }
    entered
}

fn user() -> Result<(), (&'static str, io::Error)> {
    let (uid, gid) = (
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    unshare(libc::CLONE_NEWUSER).map_err(|error| ("unshare(CLONE_NEWUSER)", error))?;
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        // Not through `fs_err`: its errors have no number.
        let file = std::fs::OpenOptions::new().write(true).open(file);
        let written = file.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes()));
        written.map_err(|error| ("mapping this user to root", error))?;
    }
    Ok(())
}

fn mount() -> Result<(), (&'static str, io::Error)> {
    unshare(libc::CLONE_NEWNS).map_err(|error| ("unshare(CLONE_NEWNS)", error))?;
    // SAFETY: the strings are constants that end in zero; the kernel copies them. The mount is seen by this process only,
    // whose namespace came with a less privileged user namespace and so passes nothing on.
    let mounted = unsafe {
        libc::mount(
            c"tmpfs".as_ptr(),
            c".".as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            c"size=1m".as_ptr().cast(),
        )
    };
    checked(mounted).map_err(|error| ("mounting a tmpfs", error))
}

fn network() -> Result<(), (&'static str, io::Error)> {
    unshare(libc::CLONE_NEWNET).map_err(|error| ("unshare(CLONE_NEWNET)", error))?;
    up(c"lo").map_err(|error| ("bringing its loopback up", error))
}

fn tun() -> Result<(), (&'static str, io::Error)> {
    let device = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|error| ("opening /dev/net/tun", error))?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    let mut request = named(c"td-doctor");
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
    // SAFETY: the request is an `ifreq` that lives until the call returns; the device ends with its descriptor.
    let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) };
    checked(made).map_err(|error| ("making a TUN device", error))?;
    up(c"td-doctor").map_err(|error| ("bringing the TUN device up", error))
}

fn unshare(flag: libc::c_int) -> io::Result<()> {
    // SAFETY: it takes a number and changes what this process sees; the process has one thread and is thrown away.
    checked(unsafe { libc::unshare(flag) })
}

fn up(name: &std::ffi::CStr) -> io::Result<()> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let mut request = named(name);
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP).unwrap_or_default();
    // SAFETY: the request is an `ifreq` with a name that ends in zero, and lives until the call returns.
    checked(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

/// A request about a device. Names are shorter than the field, so it ends in zero.
fn named(name: &std::ffi::CStr) -> libc::ifreq {
    // SAFETY: the structure holds integers and a union of them, for which zeros are values.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (place, byte) in request.ifr_name.iter_mut().take(room).zip(name.to_bytes()) {
        *place = byte.cast_signed();
    }
    request
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
