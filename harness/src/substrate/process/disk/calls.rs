//! Which system calls are told to the supervisor, and the filter program that says so. Pure; tested by interpreting it.
//!
//! The program sees numbers and registers only, never a path or what a descriptor is, so every write is told, also those
//! to sockets and pipes. Calls that take room in ways nobody could account for (`io_uring`, kernel AIO) answer ENOSYS, as on
//! a kernel without them. Code of another architecture (a 32-bit program on a 64-bit machine) has other numbers: it is
//! killed, since none of its calls could be told apart; x32 calls, which share the architecture, answer ENOSYS.
//!
//! `unlink` and `close` are not told: that the last link and the last descriptor of a file are gone is seen by inotify.
//! `O_CREAT` is told only with `O_TRUNC`: an empty file takes no block.

use libc::{c_long, sock_filter};

/// A call that is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Write,
    Pwrite,
    Writev,
    Pwritev,
    Pwritev2,
    Fallocate,
    Ftruncate,
    Truncate,
    CopyFileRange,
    Sendfile,
    Splice,
    Open,
    Openat,
    Openat2,
    Creat,
    Rename,
    Renameat,
    Renameat2,
    Link,
    Linkat,
    Ioctl,
    Mmap,
    Seccomp,
}

impl Call {
    /// As people know it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Pwrite => "pwrite",
            Self::Writev => "writev",
            Self::Pwritev => "pwritev",
            Self::Pwritev2 => "pwritev2",
            Self::Fallocate => "fallocate",
            Self::Ftruncate => "ftruncate",
            Self::Truncate => "truncate",
            Self::CopyFileRange => "copy_file_range",
            Self::Sendfile => "sendfile",
            Self::Splice => "splice",
            Self::Open => "open",
            Self::Openat => "openat",
            Self::Openat2 => "openat2",
            Self::Creat => "creat",
            Self::Rename | Self::Renameat | Self::Renameat2 => "rename",
            Self::Link | Self::Linkat => "link",
            Self::Ioctl => "ioctl",
            Self::Mmap => "mmap",
            Self::Seccomp => "seccomp",
        }
    }
}

/// When a call is told.
#[derive(Debug, Clone, Copy)]
enum When {
    Always,
    /// Some of these bits are set in an argument, and none of those.
    Bits {
        argument: u32,
        some: u32,
        none: u32,
    },
    /// An argument is one of two values.
    Either(u32, [u32; 2]),
    /// It makes a listener: what it does (argument 0) and flags (argument 1).
    Listens,
}

const TRUNCATES: u32 = libc::O_TRUNC.unsigned_abs();
/// `_IOW(0x94, 9, int)` and `_IOW(0x94, 13, struct file_clone_range)`.
pub(super) const FICLONE: u32 = 0x4004_9409;
pub(super) const FICLONERANGE: u32 = 0x4020_940d;

const fn bits(argument: u32, some: u32) -> When {
    When::Bits {
        argument,
        some,
        none: 0,
    }
}

/// The libc crate has no name for it on every aarch64 target.
#[cfg(target_arch = "aarch64")]
const RENAMEAT: c_long = 38;
#[cfg(not(target_arch = "aarch64"))]
const RENAMEAT: c_long = libc::SYS_renameat;

/// Frequent calls first: the program compares in this order.
const TABLE: &[(c_long, Call, When)] = &[
    (libc::SYS_write, Call::Write, When::Always),
    (libc::SYS_writev, Call::Writev, When::Always),
    (libc::SYS_pwrite64, Call::Pwrite, When::Always),
    (libc::SYS_openat, Call::Openat, bits(2, TRUNCATES)),
    (
        libc::SYS_mmap,
        Call::Mmap,
        When::Bits {
            argument: 3,
            some: libc::MAP_SHARED.unsigned_abs(),
            none: libc::MAP_ANONYMOUS.unsigned_abs(),
        },
    ),
    (
        libc::SYS_ioctl,
        Call::Ioctl,
        When::Either(1, [FICLONE, FICLONERANGE]),
    ),
    (libc::SYS_pwritev, Call::Pwritev, When::Always),
    (libc::SYS_pwritev2, Call::Pwritev2, When::Always),
    (libc::SYS_fallocate, Call::Fallocate, When::Always),
    (libc::SYS_ftruncate, Call::Ftruncate, When::Always),
    (libc::SYS_truncate, Call::Truncate, When::Always),
    (libc::SYS_copy_file_range, Call::CopyFileRange, When::Always),
    (libc::SYS_sendfile, Call::Sendfile, When::Always),
    (libc::SYS_splice, Call::Splice, When::Always),
    (libc::SYS_openat2, Call::Openat2, When::Always),
    (RENAMEAT, Call::Renameat, When::Always),
    (libc::SYS_renameat2, Call::Renameat2, When::Always),
    (libc::SYS_linkat, Call::Linkat, When::Always),
    (libc::SYS_seccomp, Call::Seccomp, When::Listens),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Call::Open, bits(1, TRUNCATES)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_creat, Call::Creat, When::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, Call::Rename, When::Always),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, Call::Link, When::Always),
];

/// Calls that answer ENOSYS.
const ABSENT: &[c_long] = &[libc::SYS_io_uring_setup, libc::SYS_io_setup];

/// The kernel's name of the architecture (`AUDIT_ARCH_*`), where the numbers above are those of its kernel.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_00B7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

/// x32 calls carry this bit; no native number on either architecture comes near it.
const FIRST_X32: u32 = 0x4000_0000;

/// The call of a number.
pub(super) fn call(number: i32) -> Option<Call> {
    let number = c_long::from(number);
    let row = TABLE.iter().find(|(known, ..)| *known == number)?;
    Some(row.1)
}

// Offsets in `struct seccomp_data`, whose words are of the machine's order, little on both architectures.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

#[expect(clippy::cast_possible_truncation, reason = "codes have 16 bits")]
const fn code(code: u32) -> u16 {
    code as u16
}

const LOAD: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
const EQUAL: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
const AT_LEAST: u16 = code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K);
const SET: u16 = code(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K);
const RETURN: u16 = code(libc::BPF_RET | libc::BPF_K);

const ALLOW: sock_filter = step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
const TELL: sock_filter = step(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0);
const NO_SUCH_CALL: sock_filter = step(
    RETURN,
    libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs(),
    0,
    0,
);
const KILL: sock_filter = step(RETURN, libc::SECCOMP_RET_KILL_PROCESS, 0, 0);

const fn step(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

const fn argument(index: u32) -> sock_filter {
    step(LOAD, ARGUMENTS + 8 * index, 0, 0)
}

fn word(number: c_long) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The filter; `None` on an architecture whose numbers are not known here.
pub(super) fn program() -> Option<Vec<sock_filter>> {
    let mut program = vec![
        step(LOAD, ARCH, 0, 0),
        step(EQUAL, ARCHITECTURE?, 1, 0),
        KILL,
        step(LOAD, NUMBER, 0, 0),
        step(AT_LEAST, FIRST_X32, 0, 1),
        NO_SUCH_CALL,
    ];
    for (number, _, when) in TABLE {
        let body: Vec<sock_filter> = match *when {
            When::Always => vec![TELL],
            When::Bits {
                argument: index,
                some,
                none,
            } => vec![
                argument(index),
                step(SET, none, 2, 0),
                step(SET, some, 0, 1),
                TELL,
                ALLOW,
            ],
            When::Either(index, [one, other]) => vec![
                argument(index),
                step(EQUAL, one, 1, 0),
                step(EQUAL, other, 0, 1),
                TELL,
                ALLOW,
            ],
            When::Listens => vec![
                argument(0),
                step(EQUAL, libc::SECCOMP_SET_MODE_FILTER, 0, 3),
                argument(1),
                step(
                    SET,
                    word(libc::SECCOMP_FILTER_FLAG_NEW_LISTENER.cast_signed()),
                    0,
                    1,
                ),
                TELL,
                ALLOW,
            ],
        };
        let over = u8::try_from(body.len()).ok()?;
        program.push(step(EQUAL, word(*number), 0, over));
        program.extend(body);
    }
    for number in ABSENT {
        program.push(step(EQUAL, word(*number), 0, 1));
        program.push(NO_SUCH_CALL);
    }
    program.push(ALLOW);
    Some(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel does with a program, as far as ours uses it.
    fn interpret(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |offset: u32| match offset {
            NUMBER => number,
            ARCH => arch,
            _ => {
                assert_eq!(offset % 8, 0, "the low word of an argument");
                let index = usize::try_from((offset - ARGUMENTS) / 8).unwrap();
                u32::try_from(arguments[index] & 0xffff_ffff).unwrap()
            }
        };
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let step = program[at];
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            at += 1 + match step.code {
                LOAD => {
                    accumulator = load(step.k);
                    0
                }
                EQUAL => jump(accumulator == step.k),
                AT_LEAST => jump(accumulator >= step.k),
                SET => jump(accumulator & step.k != 0),
                RETURN => return step.k,
                other => panic!("unknown code {other}"),
            };
        }
    }

    fn native(number: c_long, arguments: [u64; 6]) -> u32 {
        let program = program().unwrap();
        interpret(&program, ARCHITECTURE.unwrap(), word(number), arguments)
    }

    #[test]
    fn exactly_what_the_table_says_is_told() {
        let always = TABLE
            .iter()
            .filter(|(_, _, when)| matches!(when, When::Always));
        for (number, call, _) in always {
            assert_eq!(
                native(*number, [0; 6]),
                libc::SECCOMP_RET_USER_NOTIF,
                "{call:?}"
            );
            assert_eq!(super::call(i32::try_from(*number).unwrap()), Some(*call));
        }
        for number in 0..600 {
            let told = TABLE.iter().any(|(known, ..)| *known == number);
            let verdict = native(number, [0; 6]);
            if ABSENT.contains(&number) {
                assert_eq!(verdict, NO_SUCH_CALL.k, "{number}");
            } else if !told {
                assert_eq!(verdict, libc::SECCOMP_RET_ALLOW, "{number}");
            }
        }
    }

    #[test]
    fn arguments_decide_where_they_can() {
        let trunc = u64::from(TRUNCATES);
        let shared = u64::from(libc::MAP_SHARED.unsigned_abs());
        let anonymous = shared | u64::from(libc::MAP_ANONYMOUS.unsigned_abs());
        let at = |index: usize, value: u64| {
            let mut arguments = [0; 6];
            arguments[index] = value;
            arguments
        };
        let both = |a: u64, b: u64| [a, b, 0, 0, 0, 0];
        let listen = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        for (number, arguments, told) in [
            (libc::SYS_openat, at(2, trunc | 1), true),
            (libc::SYS_openat, at(2, 0o102), false),
            (libc::SYS_mmap, at(3, shared), true),
            (libc::SYS_mmap, at(3, 3), true),
            (libc::SYS_mmap, at(3, 2), false),
            (libc::SYS_mmap, at(3, anonymous), false),
            (libc::SYS_ioctl, at(1, u64::from(FICLONE)), true),
            (libc::SYS_ioctl, at(1, u64::from(FICLONERANGE)), true),
            (libc::SYS_ioctl, at(1, 0x5401), false),
            (libc::SYS_seccomp, both(1, listen), true),
            (libc::SYS_seccomp, both(1, 0), false),
            (libc::SYS_seccomp, both(2, listen), false),
        ] {
            let verdict = native(number, arguments);
            let wanted = if told {
                libc::SECCOMP_RET_USER_NOTIF
            } else {
                libc::SECCOMP_RET_ALLOW
            };
            assert_eq!(verdict, wanted, "{number} {arguments:?}");
        }
    }

    #[test]
    fn foreign_code_does_not_get_past() {
        let program = program().unwrap();
        let i386 = 0x4000_0003;
        assert_eq!(
            interpret(&program, i386, 4, [0; 6]),
            libc::SECCOMP_RET_KILL_PROCESS
        );
        assert_eq!(native(0x4000_0001, [0; 6]), NO_SUCH_CALL.k);
        assert!(program.len() < 4096, "the kernel takes no longer ones");
    }
}
