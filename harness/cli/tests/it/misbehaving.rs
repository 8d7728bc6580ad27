//! Nodes that misbehave: each is classified, told with its last words, and gone after the run.
//!
//! The nodes are shell scripts next to the plan. To add one: a script and a role in [`scene`], and a test. Faults
//! that the harness makes are not here.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tweedledum_harness::substrate::process::identity::carriers;

use crate::bad_support::{Ended, PATIENCE, RUN_BOUND, Scene, decided, kill, layer, wait_until};
use crate::support::Machine;

/// The scripts, all in one directory, and a plan `plan.yaml` over them.
fn scene(nodes: &str, advancing: &str) -> Scene {
    let beat = "signals: { beats: { log: beat, value: /n, period: 1 layer } }";
    let stop = "stop: { signal: TERM, grace: 300ms }";
    let gateway = "[\"{release.bin}\", node, gateway, --name, \"{name}\", --network, \"{network}\", --p2p, \"{p2p.addr}\", \
         --api, \"{api.addr}\", --data-dir, \"{data}\"]";
    let scene = Scene::new();
    let steady = |trap: &str| {
        format!(
            "{trap}\nn=0\nwhile :; do n=$((n + 1)); echo \"{{\\\"event\\\":\\\"beat\\\",\\\"n\\\":$n}}\"; sleep 0.05; done"
        )
    };
    let told =
        |ending: &str| format!("echo up\nuntil [ -e \"$1/now\" ]; do sleep 0.01; done\n{ending}");
    scene.script("beat.sh", &steady("trap 'exit 0' TERM"));
    scene.script("stubborn.sh", &steady("trap '' TERM"));
    scene.script("by-int.sh", &steady("trap '' TERM\ntrap 'exit 0' INT"));
    scene.script(
        "exits.sh",
        "echo opening the database\nprintf 'no database: \\033[31mred\\033[0m\\n' >&2\nexit 7",
    );
    scene.script("waits.sh", "echo warming up\nwhile :; do sleep 0.05; done");
    scene.script("no.sh", "echo 'still syncing: 3 of 7'\nexit 1");
    scene.script(
        "late.sh",
        "trap 'exit 0' TERM\n: > \"$1/up\"\nwhile :; do sleep 0.05; done",
    );
    scene.script("yes.sh", "test -e \"$1/up\"");
    scene.script(
        "garbage.sh",
        "trap 'exit 0' TERM\necho up\nwhile :; do head -c 300 /dev/urandom; echo; echo '{\"event\":\"beat\"'\n\
         echo '{\"event\":\"beat\",\"n\":-1.5}'; echo '{\"event\":\"beat\",\"n\":{\"a\":[]}}'; sleep 0.05; done",
    );
    scene.script("forks.sh", "echo up\nsleep 1000 &\nsetsid sleep 1000 &\n(setsid sh -c 'sleep 1000 & sleep 1000' &)\nexec sleep 1000");
    scene.script(
        "loud.sh",
        "echo up\nexec yes \"$(head -c 2000 /dev/zero | tr '\\0' x)\"",
    );
    scene.script(
        "chatty.sh",
        "trap 'exit 0' TERM\nn=0\necho up\nwhile :; do n=$((n + 1)); echo \"{\\\"event\\\":\\\"beat\\\",\\\"n\\\":$n}\"; sleep 0.05\n\
         head -c 3000000 /dev/zero | tr '\\0' x; echo; done",
    );
    scene.script(
        "quits.sh",
        &told("printf '\\033[2J::error::owned\\n::error::owned\\n##[error]owned\\n' >&2\nexit 3"),
    );
    scene.script(
        "panics.sh",
        &told(
            "printf '%s\n' '{\"event\":\"panic\",\"component\":\"../../x\",\"message\":\"\\u001b[2J::error::\\n::error::owned\",\"file\":\"##[x].rs\",\"line\":1}'\nexit 101",
        ),
    );
    let plan = format!(
        "format: 1
plan: misbehaving
network: {{ layer: 100ms, layers-per-epoch: 4, nodes: {{ {nodes} }} }}
roles:
  beat: {{ command: [./beat.sh], ready: {{ log: beat }}, {stop}, expect-exit: [0], {beat} }}
  victim: {{ command: [./beat.sh], ready: {{ log: beat }}, {stop}, expect-exit: [0], {beat} }}
  stubborn: {{ command: [./stubborn.sh], ready: {{ log: beat }}, {stop}, expect-exit: [0], {beat} }}
  lenient: {{ command: [./stubborn.sh], ready: {{ log: beat }}, {stop}, {beat} }}
  by-int: {{ command: [./by-int.sh], ready: {{ log: beat }}, stop: {{ signal: INT, grace: 300ms }}, expect-exit: [0], {beat} }}
  garbage: {{ command: [./garbage.sh], ready: {{ log: up }}, {stop}, expect-exit: [0], {beat} }}
  chatty: {{ command: [./chatty.sh], ready: {{ log: up }}, {stop}, expect-exit: [0], {beat} }}
  exits: {{ command: [./exits.sh], ready: {{ log: up }} }}
  forks: {{ command: [./forks.sh], ready: {{ log: up }} }}
  loud: {{ command: [./loud.sh], ready: {{ log: up }} }}
  quits: {{ command: [./quits.sh, \"{{data}}\"], ready: {{ log: up }} }}
  panics: {{ command: [./panics.sh, \"{{data}}\"], ready: {{ log: up }} }}
  no-tcp: {{ command: [./waits.sh], ports: {{ api: tcp }}, ready: {{ tcp: \"{{api.addr}}\" }} }}
  no-http: {{ command: [./waits.sh], ports: {{ api: tcp }}, ready: {{ http: \"http://{{api.addr}}/x\", status: 200 }} }}
  no-log: {{ command: [./waits.sh], ready: {{ log: 'listening on \\d+' }} }}
  no-exec: {{ command: [./waits.sh], ready: {{ exec: [./no.sh] }} }}
  by-exec: {{ command: [./late.sh, \"{{data}}\"], ready: {{ exec: [./yes.sh, \"{{data}}\"] }} }}
  by-tcp: {{ command: {gateway}, ports: {{ p2p: udp+tcp, api: tcp }}, ready: {{ tcp: \"{{api.addr}}\" }} }}
expect:
  - {{ advance: {{ signal: {advancing}, within: 4 layers }} }}
"
    );
    scene.file("plan.yaml", plan);
    scene
}

fn run(scene: &Scene) -> Ended {
    scene.call(&["run", "plan.yaml", "--release", "fixed"])
}

/// Nothing of the only run is left: no process, no socket, no intents.
fn nothing_is_left(scene: &Scene) {
    assert_eq!(scene.intents(), Vec::<std::path::PathBuf>::new());
    let nonce = scene.records("fixed")[0]["run"]
        .as_str()
        .unwrap()
        .to_owned();
    let nonce = tweedledum_harness::substrate::process::Nonce::parse(&nonce).unwrap();
    assert_eq!(carriers(&nonce).unwrap().len(), 0);
}

/// Nothing that a terminal or a CI server would obey.
fn is_harmless(text: &str, what: &str) {
    let obeyed = text.lines().find(|line| {
        line.trim_start().starts_with("::") || line.contains("##[") || line.contains('\u{1b}')
    });
    assert_eq!(obeyed, None, "in {what}");
}

/// Ids and nodes of findings, and whether each counts.
fn findings(verdict: &Value) -> BTreeSet<(String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = verdict["findings"].as_array().unwrap().iter();
    findings
        .map(|it| (text(&it["id"]), text(&it["node"]), it["counts"] == true))
        .collect()
}

fn reasons(verdict: &Value) -> BTreeSet<String> {
    let reasons = verdict["reasons"].as_array().unwrap().iter();
    reasons
        .map(|it| it["code"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_node_that_exits_at_once_ends_the_run_with_its_last_words() {
    let _machine = Machine::alone();
    let scene = scene("beat: 1, exits: 1", "beats, of: every beat");
    let ended = run(&scene).gave(4).says(&[
        "exits-0 exited with code 7 before genesis",
        "opening the database",
        "no database: \\u{1b}[31mred",
    ]);
    assert!(
        ended.took < Duration::from_secs(5),
        "it took {:?}",
        ended.took
    );
    is_harmless(&ended.stderr, "the report");
    assert_eq!(
        reasons(&scene.verdict("fixed")),
        ["not-ready".to_owned()].into()
    );
    nothing_is_left(&scene);
}

#[test]
fn nodes_that_never_get_ready_are_named_with_what_they_answered_last() {
    let _machine = Machine::shared();
    let scene = scene(
        "beat: 1, no-tcp: 1, no-http: 1, no-log: 1, no-exec: 1",
        "beats, of: every beat",
    );
    run(&scene).gave(4).says(&[
        "not ready before genesis: no-exec-0, no-http-0, no-log-0, no-tcp-0",
        "node no-tcp-0 was not ready within",
        "waited for a TCP connection to 127.",
        "waited for status 200 from http://127.",
        "Connection refused",
        "waited for a line of output that matches `listening on \\d+`",
        "exit code 1 still syncing: 3 of 7",
    ]);
    assert_eq!(
        reasons(&scene.verdict("fixed")),
        ["not-ready".to_owned()].into()
    );
    nothing_is_left(&scene);
}

#[test]
fn nodes_get_ready_in_every_way_and_children_of_nodes_end_with_the_run() {
    let _machine = Machine::alone();
    let scene = scene(
        "beat: 1, by-exec: 1, by-tcp: 1, forks: 2",
        "beats, of: every beat",
    );
    let going = scene.start(&["run", "plan.yaml", "--release", "fixed"]);
    let known = scene.wait_for_known(&going, "the run's blocks", |known| !known.blocks.is_empty());
    // Each of the two has the node itself, a child, a session leader, and two processes of another session's shell.
    wait_until(PATIENCE, "the nodes' children", || {
        let carriers = carriers(&known.nonce).unwrap();
        carriers.iter().filter(|stat| stat.comm == "sleep").count() >= 10
    });
    going.end(RUN_BOUND).gave(0);
    assert_eq!(known.remains(), Vec::<String>::new());
    nothing_is_left(&scene);
}

#[test]
fn garbage_on_stdout_is_no_data() {
    let _machine = Machine::shared();
    let scene = scene("beat: 1, garbage: 1", "beats, of: every garbage");
    run(&scene).gave(3).says(&["no-data", "0 of at least 1"]);
    let verdict = scene.verdict("fixed");
    assert_eq!(findings(&verdict), BTreeSet::new());
    assert!(reasons(&verdict).contains("no-data"), "{verdict}");
    nothing_is_left(&scene);
}

#[test]
fn a_gigabyte_a_second_on_stdout_is_judged_on_within_bounds() {
    const MIB: u64 = 1 << 20;
    let _machine = Machine::alone();
    let scene = scene("beat: 1, loud: 1", "beats, of: every beat");
    let going = scene.start(&["run", "plan.yaml", "--release", "fixed"]);
    let known = scene.wait_for_known(&going, "the controller", |known| known.controller.is_some());
    let loud = scene.pid("fixed", "loud-0");
    scene.wait_for_record("fixed", "the end of layer 12", layer(12));
    let field = |path: String, name: &str| -> u64 {
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let written = field(format!("/proc/{loud}/io"), "wchar:") / MIB;
    let memory = field(
        format!("/proc/{}/status", known.controller.unwrap()),
        "VmHWM:",
    ) / 1024;
    let ended = going.end(RUN_BOUND);
    println!("{written} MiB were written, the controller took {memory} MiB at most");
    assert!(
        written > 100,
        "only {written} MiB were written, so nothing was tested"
    );
    assert!(memory < 100, "the controller took {memory} MiB");
    let log = scene.release("fixed").join("nodes/loud-0/stdout.log");
    let kept = std::fs::metadata(log).unwrap().len() / MIB;
    assert!(kept < 10, "{kept} MiB of log were kept");
    // A host that is too slow for this may make layers void, but nothing may be held against anybody.
    let verdict = scene.verdict("fixed");
    assert_eq!(findings(&verdict), BTreeSet::new());
    if ended.code != 0 {
        assert_eq!(
            reasons(&verdict),
            ["void-layers".to_owned()].into(),
            "{}",
            ended.stderr
        );
    }
    nothing_is_left(&scene);
}

/// It prints more than is read, and what it says in between may be lost: nobody knows that it was well, and nothing that it
/// was not.
#[test]
fn a_node_that_prints_more_than_is_read_ends_inconclusive() {
    let _machine = Machine::alone();
    let scene = scene("chatty: 1", "beats, of: every chatty");
    run(&scene).gave(3).says(&[
        "observer-gap",
        "part of what chatty-0 printed was lost, so what it did not say proves nothing",
        "bytes were thrown away unread: more than 4000000 a second",
    ]);
    let verdict = scene.verdict("fixed");
    assert_eq!(findings(&verdict), BTreeSet::new());
    assert!(reasons(&verdict).contains("observer-gap"), "{verdict}");
    let records = scene.records("fixed");
    let gaps: Vec<&Value> = records
        .iter()
        .filter(|it| it["kind"] == "gap" && it["source"] == "log/stdout")
        .collect();
    let layers = records.iter().filter(|it| it["kind"] == "layer").count();
    // Twice a layer at the very most, and these are short.
    assert!(
        !gaps.is_empty() && gaps.len() <= 2 * layers + 20,
        "{}",
        gaps.len()
    );
    nothing_is_left(&scene);
}

#[test]
fn every_way_to_die_hang_or_refuse_to_stop_is_told_apart() {
    let _machine = Machine::alone();
    let nodes =
        "beat: 1, quits: 1, panics: 1, victim: 1, stubborn: 1, lenient: 1, by-int: 1, miner: 2";
    let scene = scene(nodes, "beats, of: every beat");
    let going = scene.start(&[
        "run",
        "plan.yaml",
        "--release",
        "fixed",
        "--format",
        "junit",
    ]);
    scene.wait_for_record("fixed", "the end of layer 2", layer(2));
    let directory = scene.release("fixed");
    kill(scene.pid("fixed", "victim-0"), Signal::KILL);
    kill(scene.pid("fixed", "miner-0"), Signal::STOP);
    for node in ["quits-0", "panics-0"] {
        std::fs::write(directory.join("nodes").join(node).join("data/now"), "").unwrap();
    }
    let ended = going.end(RUN_BOUND).gave(1).says(&[
        "crash/exit of quits-0",
        "quits-0 exited with code 3 without being asked to stop",
        "| \\u{1b}[2J::error::owned",
        "| : :error::owned",
        "| # #[error]owned",
        "crash/panic of panics-0",
        "crash/signal of victim-0",
        "killed by signal 9, which the harness did not send",
        "hang/api of miner-0",
        "ignored its stop signal",
    ]);
    let expected = [
        ("crash/exit", "quits-0", true),
        ("crash/panic", "panics-0", true),
        ("crash/signal", "victim-0", true),
        ("hang/api", "miner-0", true),
        ("stop/ignored", "stubborn-0", true),
        // Its role does not say how it ends, so this is told and not held against it.
        ("stop/ignored", "lenient-0", false),
    ];
    let expected = expected
        .map(|(id, node, counts)| (id.to_owned(), node.to_owned(), counts))
        .into();
    assert_eq!(findings(&scene.verdict("fixed")), expected);
    is_harmless(&ended.stderr, "the report");
    is_harmless(&ended.stdout, "JUnit");
    assert!(
        ended.stdout.contains("quits-0 exited with code 3"),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains("| : :error::owned"),
        "no last words in {}",
        ended.stdout
    );
    nothing_is_left(&scene);
}

#[test]
fn who_only_ignores_its_stop_signal_fails_where_its_role_says_how_it_ends() {
    let _machine = Machine::alone();
    for (role, code) in [("stubborn", 1), ("lenient", 0)] {
        let (ended, scene) = decided(|| {
            let scene = scene(&format!("{role}: 1"), &format!("beats, of: every {role}"));
            (run(&scene), scene)
        });
        ended.gave(code).says(&["stop/ignored"]);
        nothing_is_left(&scene);
    }
}
