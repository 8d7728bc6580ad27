//! Disk limits and disk faults, end to end: scripts that fill their disk, and one node that escapes.
//!
//! What every system call does to a disk is tested in the harness; here it is told, judged and undone in real runs.
#![allow(
    unsafe_code,
    reason = "a node that maps a file needs mmap, which has no safe form"
)]

use std::io::Write as _;
use std::path::Path;

use serde_json::Value;
use tweedledum_core::verdict::Outcome;

use crate::support::{Bench, Run};

/// A node that appends 5,000 bytes every 50 ms for as long as there is room, begins anew at 150,000, and never gives up.
const WRITER: &str = "#!/bin/sh
trap 'exit 0' TERM
cd \"$1\" || exit 1
chunk=$(head -c 4999 /dev/zero | tr '\\0' x)
n=0
while :; do
  n=$((n + 1))
  [ -f file ] && [ \"$(wc -c < file)\" -ge 150000 ] && : > file
  echo \"$chunk\" 2>/dev/null >> file
  echo \"{\\\"event\\\":\\\"beat\\\",\\\"n\\\":$n}\"
  sleep 0.05
done
";

fn bench(role: &str, rest: &str) -> (Bench, std::path::PathBuf) {
    let bench = Bench::new();
    let script = bench.file("writer.sh", WRITER);
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let plan = format!(
        "format: 1
plan: disks
{rest}
roles:
  writer:
    {role}
    stop: {{ signal: TERM, grace: 1s }}
    signals: {{ beats: {{ log: beat, value: /n, period: 1 layer }} }}
    round-bytes: 40KiB
releases:
  own: {{ base: fixed }}
expect:
  - {{ advance: {{ signal: beats, of: every writer, within: 4 layers }} }}
"
    );
    let plan = bench.file("plan.yaml", plan);
    (bench, plan)
}

const NETWORK: &str = "network:
  layer: 250ms
  layers-per-epoch: 4
  nodes: { writer: 2 }
  limits:
    writer: { disk: 2 rounds }";

const SCRIPT: &str = "command: [./writer.sh, \"{data}\"]
    ready: { log: beat }";

fn records(run: &Run, kind: &str) -> Vec<Value> {
    let history = run.bytes("own/history.jsonl");
    let lines = history.split(|byte| *byte == b'\n');
    let records = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    records.filter(|record| record["kind"] == kind).collect()
}

fn length(run: &Run, node: &str) -> u64 {
    let path = run.directory.join("own/nodes").join(node).join("data/file");
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn limits_hold_and_faults_come_and_go() {
    let timeline = "timeline:
  - { at: epoch 2.25, for: 1 epoch, must-be-felt: true, cap-disk: { target: writer-0, size: 0.25 rounds } }
  - { at: epoch 2.25, for: 1 epoch, must-be-felt: true, fill-disk: { target: writer-1 } }
  - { at: epoch 4, restart: { target: writer-1 } }
until: epoch 6";
    let (bench, plan) = bench(SCRIPT, &format!("{NETWORK}\n{timeline}"));
    let run = bench.decided(&plan, &["--release", "own"]);
    let verdict = run.verdict("own");
    assert!(verdict.verdict == Outcome::Pass, "{run}");
    for fault in verdict
        .faults
        .iter()
        .filter(|fault| fault.kind != "restart")
    {
        let grades = [fault.armed, fault.applied, fault.gone, fault.felt];
        assert_eq!(grades, [Some(true); 4], "{}: {run}", fault.entry);
    }
    let limits = records(&run, "limit");
    for (grade, count) in [("armed", 2), ("applied", 2), ("felt", 2)] {
        let seen = limits
            .iter()
            .filter(|limit| limit["grade"] == grade && limit["held"] == true);
        assert_eq!(seen.count(), count, "{grade}: {limits:?}");
    }
    let felt = limits
        .iter()
        .find(|limit| limit["grade"] == "felt")
        .unwrap();
    assert_eq!(felt["detail"]["call"], "write", "{felt}");
    // Two rounds are 20 blocks: full before any fault, cut to two by one, and full again by the end.
    for node in ["writer-0", "writer-1"] {
        assert_eq!(length(&run, node), 20 * 4096, "{node}: {run}");
    }
    assert_eq!(run.said.code, 0, "{run}");
}

#[test]
fn a_node_that_maps_what_it_writes_makes_the_run_inconclusive() {
    let node = std::env::current_exe().unwrap();
    let node = node.to_str().unwrap();
    let command = format!(
        "command: [{node}, --exact, disks::a_node_of_the_test_above, --ignored, --nocapture]
    ready: {{ log: beat }}"
    );
    let timeline = "timeline:
  - { at: epoch 2.25, for: 1 epoch, cap-disk: { target: writer-0, size: 8KiB } }
until: epoch 4";
    let free = NETWORK.replace("writer: { disk: 2 rounds }", "writer-1: { disk: 2 rounds }");
    let (bench, plan) = bench(&command, &format!("{free}\n{timeline}"));
    let run = bench.run(&plan, &["--release", "own"]);
    let verdict = run.verdict("own");
    assert!(verdict.verdict == Outcome::Inconclusive, "{run}");
    let codes: Vec<&str> = verdict
        .reasons
        .iter()
        .map(|reason| reason.code.name())
        .collect();
    assert!(codes.contains(&"fault-not-applied"), "{run}");
    assert!(codes.contains(&"steady-state-not-reached"), "{run}");
    assert!(
        run.said
            .stderr
            .contains("maps `mapped` shared and writable"),
        "{run}"
    );
    assert_eq!(run.said.code, 3, "{run}");
}

#[test]
#[ignore = "a node that another test starts; by itself it never ends"]
fn a_node_of_the_test_above() {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(Path::new("mapped"))
        .unwrap();
    file.set_len(4096).unwrap();
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: the kernel chooses the place, and nothing reads or writes there.
    unsafe {
        mmap(
            std::ptr::null_mut(),
            4096,
            access,
            MapFlags::SHARED,
            &file,
            0,
        )
    }
    .unwrap();
    let pause = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 50_000_000,
    };
    for n in 1_u64.. {
        writeln!(std::io::stdout(), "{{\"event\":\"beat\",\"n\":{n}}}").unwrap();
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}
