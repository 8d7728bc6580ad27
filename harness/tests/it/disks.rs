//! Disks of nodes that are held: what fits is written, byte for byte, and nothing more.
//!
//! Every case runs twice: written through the node's own descriptor, and through one that replaces it.

use serde_json::{Value, json};

use crate::chain::{Chain, kill};

const MEANS: [&str; 2] = ["own", "reopen"];
const ENOSPC: i32 = libc::ENOSPC;

/// What a node told, what the scenario told of it, and its files.
struct Ran {
    chain: Chain,
    all: Value,
}

impl Ran {
    fn new(cap: &str, means: &str, kind: &str) -> Self {
        let mut chain = Chain::start(&["disk", cap, means, kind]);
        let all = chain.wait_for("disk");
        assert_eq!(chain.wait_for_end(), 0, "{all}");
        assert_eq!(all["exit"], json!({"code": 0}), "{kind} {means}: {all}");
        Self { chain, all }
    }

    fn told(&self) -> &Value {
        &self.all["told"]
    }

    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.chain.runs.path().join("data").join(name)).unwrap()
    }

    /// Everything that must hold on every full or half-full disk.
    fn sound(&self, used: u64) {
        assert_eq!(self.all["used"], used, "{}", self.all);
        assert_eq!(self.all["broken"], json!(null), "{}", self.all);
        let probes = json!({"capped": ENOSPC, "free": 0, "used-after": used});
        assert_eq!(self.all["probes"], probes, "{}", self.all);
    }
}

fn byte(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]
}

fn bytes(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(byte).collect()
}

#[test]
fn the_cap_holds_to_the_last_byte_of_the_last_block_that_fits() {
    for means in MEANS {
        // 600 KiB and a bit, which is no block.
        for kind in ["fill", "small"] {
            let ran = Ran::new("615000", means, kind);
            assert_eq!(ran.told()["written"], 150 * 4096);
            assert_eq!(ran.told()["errno"], ENOSPC);
            assert!(ran.file("file") == bytes(0, 150 * 4096), "{kind} {means}");
            ran.sound(150 * 4096);
        }
        let ran = Ran::new("32768", means, "append");
        assert_eq!(ran.told()["rest"]["written"], 32768);
        assert_eq!(ran.told()["position"], 10_000);
        assert!(ran.file("file") == bytes(0, 32768));
        ran.sound(32768);
    }
}

#[test]
fn a_thousand_signals_a_second_change_no_byte() {
    for means in MEANS {
        // Once with room for all, once with less, which the three ways share.
        for (cap, used) in [("2000000", None), ("400000", Some(97 * 4096))] {
            let ran = Ran::new(cap, means, "signals");
            let lengths: [usize; 3] =
                serde_json::from_value(ran.told()["lengths"].clone()).unwrap();
            for (name, length) in ["plain", "append", "placed"].iter().zip(lengths) {
                assert!(ran.file(name) == bytes(0, length), "{name} {means} {cap}");
            }
            match used {
                Some(used) => ran.sound(used),
                None => assert!(lengths.iter().all(|length| *length > 200_000)),
            }
        }
    }
}

#[test]
fn a_disk_that_is_raised_is_written_on_at_the_right_place() {
    for means in MEANS {
        let ran = Ran::new("45000", means, "raise");
        assert_eq!(ran.told()["written"], 100_000);
        assert_eq!(ran.told()["refused"], true);
        assert_eq!(ran.told()["shortened"], 1);
        assert!(ran.file("file") == bytes(0, 100_000), "{means}");
    }
}

#[test]
fn every_way_to_write_is_accounted_for() {
    let cases = [
        // 8 blocks: one at the start, and five from 40,000 on, of which the write before takes one more.
        (
            "pwrite",
            json!({"far": 20_000, "over": 0, "again": 100, "position": 4}),
            8,
        ),
        (
            "writev",
            json!({"first": 32768, "errno": ENOSPC, "position": 32768}),
            8,
        ),
        (
            "sparse",
            json!({"grown": 0, "far": 100, "too-much": ENOSPC, "fits": 0, "full": ENOSPC,
                   "punched": 0, "after": 0, "full-again": ENOSPC, "shrunk": 0, "rest": 0}),
            7,
        ),
        (
            "unlink",
            json!({"filled": {"written": 32768, "last": 2768, "errno": ENOSPC},
                   "open": ENOSPC, "closed": 0}),
            8,
        ),
        (
            "rename",
            json!({"large": ENOSPC, "small": 0, "full": ENOSPC, "out": 0}),
            6,
        ),
        (
            "truncate",
            json!({"sum": 30 * 8 * 4096, "full": ENOSPC, "refused": libc::ENOTDIR, "still": ENOSPC}),
            8,
        ),
        (
            "fork",
            json!({"child": {"written": 5 * 4096, "last": 19, "errno": ENOSPC}, "rest": ENOSPC}),
            8,
        ),
        (
            "copy",
            json!({"errno": ENOSPC, "length": 32768, "sendfile": ENOSPC}),
            8,
        ),
        (
            "borders",
            json!({"tree-in": libc::EXDEV, "tree-within": 0, "exchange-out": libc::EXDEV,
                   "exchange-in": libc::EXDEV, "tree-exchange": libc::EXDEV, "exchange-within": 0,
                   "link-in": libc::EXDEV, "link-fd": libc::EXDEV, "link-followed": libc::EXDEV,
                   "link-within": 0, "link-nameless": 0, "full": ENOSPC, "away": libc::EBUSY,
                   "tree-out": 0, "after": 0, "full-again": ENOSPC}),
            8,
        ),
        (
            "transfer",
            json!({"copied": [32768, -ENOSPC, [32768, 32768], true],
                   "placed": [32763, 32863, 32768, [0, 0], true],
                   "sent": [32768, -ENOSPC, 32775, [0, 32768], true],
                   "spliced": [32768, -ENOSPC, true, 0, 32768, true]}),
            8,
        ),
        (
            "outside",
            json!({"through": 60_000,
                   "inside": {"written": 32768, "last": 2768, "errno": ENOSPC}}),
            8,
        ),
        (
            "absent",
            json!({"io_uring_setup": libc::ENOSYS, "io_setup": libc::ENOSYS}),
            0,
        ),
    ];
    for (kind, told, blocks) in cases {
        for means in MEANS {
            let ran = Ran::new("32768", means, kind);
            assert_eq!(*ran.told(), told, "{kind} {means}: {}", ran.all);
            ran.sound(blocks * 4096);
        }
    }
}

#[test]
fn clones_are_what_they_are_on_this_file_system_until_they_do_not_fit() {
    let ran = Ran::new("32768", "own", "reflink");
    let told = ran.told();
    assert_eq!(told["fits"], told["free"], "{}", ran.all);
    if told["free"] == 0 {
        assert_eq!(told["over"], ENOSPC, "{}", ran.all);
    } else {
        assert_eq!(told["free"], libc::EOPNOTSUPP, "{}", ran.all);
        assert_eq!(told["over"], libc::EOPNOTSUPP, "{}", ran.all);
    }
}

#[test]
fn aligned_writes_past_the_page_cache_are_cut_as_well() {
    for means in MEANS {
        let ran = Ran::new("20480", means, "direct");
        if !ran.told()["skipped"].is_null() {
            return;
        }
        let told = json!({"first": 16384, "first-errno": 0, "second": 4096, "errno": 0});
        assert_eq!(*ran.told(), told, "{means}: {}", ran.all);
        ran.sound(20480);
    }
}

#[test]
fn descriptors_that_share_a_position_go_on_sharing_it() {
    for means in MEANS {
        let ran = Ran::new("32768", means, "dup");
        let told = ran.told();
        assert_eq!(
            (&told["short"], &told["position"], &told["close-on-exec"]),
            (&json!(2768), &json!(32768), &json!(true)),
            "{means}: {}",
            ran.all
        );
        // Without the node's own descriptor its twin stays behind: known, and said.
        let twin = if means == "own" && takes_descriptors() {
            32768
        } else {
            30_000
        };
        assert_eq!(told["twin"], twin, "{means}");
        assert!(ran.file("file") == bytes(0, 32768));
        ran.sound(32768);
    }
}

/// Whether the kernel lets us take a child's descriptors, which ordinary containers do not.
fn takes_descriptors() -> bool {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(own, 0, PidfdGetfdFlags::empty()).is_ok()
}

#[test]
fn locks_stay_where_the_descriptor_does() {
    for means in MEANS {
        let ran = Ran::new("32768", means, "lock");
        let stays = means == "own" && takes_descriptors();
        let told = json!({"short": 2768, "before": true, "after": stays});
        assert_eq!(*ran.told(), told, "{means}: {}", ran.all);
    }
}

#[test]
fn many_threads_together_get_what_there_is() {
    for means in MEANS {
        let ran = Ran::new("3000000", means, "threads");
        let cap = 732 * 4096;
        let used = ran.all["used"].as_u64().unwrap();
        // Where a position cannot be held, what is under way at the last moment may pass.
        let passes = if means == "own" && takes_descriptors() {
            0
        } else {
            8 * 4096
        };
        assert!(used <= cap + passes, "{means}: {}", ran.all);
        let sums: [u64; 3] = serde_json::from_value(ran.told()["sums"].clone()).unwrap();
        // What was said to be written is there; a shared position may be overtaken only where it is replaced.
        assert!(sums.iter().sum::<u64>() > cap * 9 / 10, "{means}: {sums:?}");
        assert_eq!(ran.file("append").len() as u64, sums[1], "{means}");
        ran.sound(used);
    }
}

#[test]
fn what_cannot_be_counted_is_told() {
    let ran = Ran::new("32768", "own", "mmap");
    let why = ran.all["broken"].as_str().unwrap();
    assert!(why.contains("`mapped` shared and writable"), "{why}");
    let ran = Ran::new("32768", "own", "listen");
    assert_eq!(ran.told()["errno"], libc::EFAULT);
    let why = ran.all["refused"].as_str().unwrap();
    assert!(why.contains("listener of its own"), "{why}");
}

#[test]
fn a_filter_that_cannot_be_installed_is_told_with_what_to_do() {
    let ran = Ran::new("none", "own", "nested");
    let told = ran.told();
    let text = told["error"]["text"].as_str().unwrap();
    for part in ["node `d`", "seccomp filter", "os error 16", "already"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn a_node_whose_supervisor_is_gone_fails_and_does_not_hang() {
    let mut chain = Chain::start(&["disk", "32768", "own", "endless"]);
    let told = chain.wait_for("disk");
    assert_eq!(told["exit"], json!({"code": libc::ENOSYS}));
    assert_eq!(chain.wait_for_end(), 0);
}

#[test]
fn killing_the_controller_of_a_held_node_leaves_nothing() {
    let mut chain = Chain::start(&["disk", "none", "own", "endless"]);
    chain.wait_for("up");
    let known = chain.known();
    kill(known.controller.unwrap(), rustix::process::Signal::KILL);
    let ended = chain.wait_for("ended");
    assert_eq!(ended["how"]["left"], json!([]), "{ended}");
    assert_eq!(chain.wait_for_end(), 4);
    let left = crate::chain::remains(&known.nonce.unwrap(), &known.blocks);
    assert!(left.is_empty(), "{left:#?}");
}

/// Not a test of anything but that it runs; `--nocapture` shows the numbers.
#[test]
fn the_cost_of_a_told_call() {
    for (cap, means) in [("free", "own"), ("none", "own"), ("400000000", "own")] {
        let ran = Ran::new(cap, means, "bench");
        println!(
            "{cap}: {} ({} answered, slowest {} us)",
            ran.told(),
            ran.all["answered"],
            ran.all["slowest-us"]
        );
    }
}
