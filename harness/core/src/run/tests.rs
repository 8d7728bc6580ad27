//! The machine in virtual time: a network that does what it is told, one that does not, and one that does anything.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Command, Event, Machine, TEARDOWN_BOUND_NS, Watch};
use crate::faults::Impact;
use crate::history::{
    Body, Death, Ending, ExitStatus, Grade, Header, LayerRecord, NodeInfo, Phase, Record, RoleInfo,
};
use crate::plan::model::Source;
use crate::schedule::{Action, Class, Part, Schedule, Step};
use crate::time::{Calendar, ProtocolTime, Span};

const LAYER: u64 = 250_000_000;
const GENESIS: u64 = 2_000_000_000;
const STOP: u64 = 2_000_000_000;

#[derive(Debug)]
struct Never;

impl Watch for Never {
    fn observe(&mut self, _record: &Record) {}
    fn may_end(&self, _t_ns: u64) -> bool {
        false
    }
}

fn layers(count: i64) -> ProtocolTime {
    ProtocolTime::GENESIS.plus(Span::layers(count))
}

fn at(layer: i64) -> u64 {
    GENESIS + u64::try_from(layer).unwrap() * LAYER
}

fn header(action: Action, undo: Option<Action>, impact: Impact) -> Header {
    let class = undo.clone().map_or(Class::EndsWithRun, Class::Restores);
    let begins = Step {
        id: 0,
        at: layers(8),
        entry: "it".into(),
        action,
        part: Part::Begins { impact, class },
    };
    let ends = undo.map(|action| Step {
        id: 1,
        at: layers(12),
        entry: "it".into(),
        action,
        part: Part::Ends(0),
    });
    Header {
        format: "1.0".into(),
        run: "r".into(),
        boot: "b".into(),
        started_unix_ns: 0,
        plan: "p".into(),
        plan_digest: String::new(),
        release: "x".into(),
        executables: BTreeMap::new(),
        substrate: "virtual".into(),
        genesis_ns: GENESIS,
        calendar: Calendar {
            layer_ns: LAYER,
            layers_per_epoch: 4,
        },
        nodes: ["a-0", "a-1"]
            .map(|name| NodeInfo {
                name: name.into(),
                role: "a".into(),
                address: String::new(),
                disk: None,
            })
            .into(),
        roles: BTreeMap::from([(
            "a".to_owned(),
            RoleInfo {
                signals: BTreeMap::new(),
                expect_exit: BTreeSet::from([0]),
                pinged: false,
                pushed: BTreeSet::new(),
                events: BTreeSet::new(),
            },
        )]),
        tolerates: Vec::new(),
        expect: Vec::new(),
        faults: BTreeMap::new(),
        schedule: Schedule {
            version: 1,
            plan: "p".into(),
            seed: 1,
            steps: [begins].into_iter().chain(ends).collect(),
            windows: Vec::new(),
            healed_at: None,
            ends_at: layers(20),
        },
        heals: BTreeMap::new(),
        control: None,
        fixed_end: false,
        nodes_stay: false,
        first_epoch: 0,
    }
}

/// Drives a machine through a network that obeys at once; what it does not answer itself comes back.
struct Obedient {
    machine: Machine<Never>,
    records: Vec<Record>,
    wake: u64,
    carried: Vec<Action>,
    finished: bool,
}

impl Obedient {
    fn start(header: Header) -> Self {
        let machine = Machine::new(header, &BTreeMap::new(), STOP, Never);
        let mut it = Self {
            machine,
            records: Vec::new(),
            wake: 0,
            carried: Vec::new(),
            finished: false,
        };
        it.feed(0, Event::Begun);
        it
    }

    fn feed(&mut self, now: u64, event: Event) {
        for command in self.machine.on(now, event) {
            match command {
                Command::Record(record) => self.records.push(record),
                Command::Spawn {
                    node, incarnation, ..
                } => {
                    self.feed(
                        now,
                        Event::Spawned {
                            node: node.clone(),
                            pid: 1,
                        },
                    );
                    self.feed(now, Event::Ready { node, incarnation });
                }
                Command::Carry(step) => {
                    self.carried.push(step.action.clone());
                    let node = step.action.node().to_owned();
                    self.feed(
                        now,
                        Event::Carried {
                            step: step.id,
                            result: Ok(()),
                        },
                    );
                    match step.action {
                        Action::Kill { .. } => self.dies(now, &node, ExitStatus::Signal(9)),
                        Action::Thaw { .. } => {
                            let detail = BTreeMap::new();
                            self.feed(
                                now,
                                Event::Proved {
                                    step: 0,
                                    grade: Grade::Gone,
                                    held: true,
                                    detail,
                                },
                            );
                        }
                        _ => {}
                    }
                }
                Command::WakeAt(ns) => self.wake = ns,
                Command::TearDown => self.feed(now, Event::TornDown { left: Vec::new() }),
                Command::Finish => self.finished = true,
                Command::Sync | Command::Prepare(_) | Command::Drop(_) => {}
            }
        }
    }

    fn dies(&mut self, now: u64, node: &str, status: ExitStatus) {
        let event = Event::Exited {
            node: node.into(),
            incarnation: 0,
            status,
            forced: false,
            tail: Vec::new(),
        };
        self.feed(now, event);
    }

    fn run_out(&mut self) {
        for _ in 0..100 {
            if self.finished {
                return;
            }
            self.feed(self.wake, Event::Tick);
        }
        panic!("the run did not end: it waits for {}", self.wake);
    }

    fn time_of(&self, wanted: impl Fn(&Body) -> bool) -> u64 {
        self.records
            .iter()
            .find(|record| wanted(&record.body))
            .expect("it is recorded")
            .t_ns
    }
}

fn phase(body: &Body, id: u32, wanted: &Phase) -> bool {
    matches!(body, Body::Step(change) if change.step == id && change.phase == *wanted)
}

fn kill() -> Header {
    header(
        Action::Kill { node: "a-0".into() },
        Some(Action::Start { node: "a-0".into() }),
        Impact::Impaired,
    )
}

#[test]
fn a_kill_is_staged_a_layer_ahead_and_healed_by_a_new_life() {
    let mut run = Obedient::start(kill());
    run.run_out();
    assert_eq!(run.time_of(|body| phase(body, 0, &Phase::Staged)), at(7));
    assert_eq!(run.time_of(|body| phase(body, 0, &Phase::Begun)), at(8));
    let killed = |body: &Body| matches!(body, Body::Exit(exit) if matches!(exit.death, Death::Harness { step: Some(0), .. }));
    assert_eq!(run.time_of(killed), at(8));
    let gone = |body: &Body| matches!(body, Body::Evidence(evidence) if evidence.grade == Grade::Gone && evidence.held);
    assert_eq!(run.time_of(gone), at(12));
    let free = |body: &Body| matches!(body, Body::Impact(change) if !change.on);
    assert_eq!(run.time_of(free), at(12));
    let Body::End(end) = &run.records.last().expect("records").body else {
        panic!("no end")
    };
    assert_eq!(
        (end.count, &end.why),
        (run.records.len() as u64, &Ending::Scheduled)
    );
}

#[test]
fn a_node_that_dies_by_itself_is_not_ours() {
    let mut run = Obedient::start(kill());
    run.feed(at(5), Event::Tick);
    run.dies(at(6), "a-0", ExitStatus::Signal(6));
    run.run_out();
    let own = |body: &Body| matches!(body, Body::Exit(exit) if exit.death == Death::Itself(ExitStatus::Signal(6)));
    assert_eq!(run.time_of(own), at(6));
    // The planned kill then has nothing to kill, and says so instead of passing for applied.
    let failed = |body: &Body| matches!(body, Body::Step(change) if matches!(change.phase, Phase::Failed(_)));
    assert_eq!(run.time_of(failed), at(8));
    // Nor does its heal start what it did not kill; there is nothing to take back, which is told as well.
    let lives = run.records.iter().filter(
        |record| matches!(&record.body, Body::Node(change) if change.node == "a-0" && change.incarnation > 0),
    );
    assert_eq!(lives.count(), 0);
    let gone = |body: &Body| matches!(body, Body::Evidence(evidence) if evidence.grade == Grade::Gone && evidence.held);
    assert_eq!(run.time_of(gone), at(12));
    let impaired = |record: &Record| matches!(&record.body, Body::Impact(change) if change.on);
    assert!(!run.records.iter().any(impaired));
}

/// A log goes on through a container's lives: a panic of the one before is no cause for the harness's own kill, and a value
/// of it is not how the node is now.
#[test]
fn what_an_earlier_life_said_is_not_of_this_one() {
    for former in [true, false] {
        let pushed = Source::Log {
            event: "made".into(),
            value: "/layer".into(),
        };
        let signals = BTreeMap::from([("block".to_owned(), pushed)]);
        let sources = BTreeMap::from([("a".to_owned(), signals)]);
        let mut run = Obedient::start(kill());
        run.machine = Machine::new(kill(), &sources, STOP, Never);
        run.records.clear();
        run.feed(0, Event::Begun);
        for (event, key) in [("panic", "message"), ("made", "layer")] {
            let logged = Event::Logged {
                node: "a-0".into(),
                former,
                event: event.into(),
                fields: BTreeMap::from([(key.to_owned(), 7.into())]),
            };
            run.feed(at(1), logged);
        }
        run.run_out();
        let panicked =
            |record: &&Record| matches!(&record.body, Body::Exit(exit) if exit.panic.is_some());
        let sampled = |record: &&Record| matches!(record.body, Body::Sample(_));
        let told = |record: &&Record| matches!(&record.body, Body::Event(it) if it.event == "made");
        let counts = [
            run.records.iter().filter(panicked).count(),
            run.records.iter().filter(sampled).count(),
            run.records.iter().filter(told).count(),
        ];
        assert_eq!(counts, if former { [0, 0, 1] } else { [1, 1, 1] });
    }
}

/// The undo of a flood that met a dead node is no riddle: nothing was sent, nothing is left, and it is told at its time.
#[test]
fn a_flood_on_a_dead_node_is_dropped() {
    let flood = Action::Flood {
        node: "a-0".into(),
        sources: 10,
        over: Span::layers(1),
        datagrams: crate::schedule::Datagrams::WellFormed,
        last_after_ns: None,
    };
    let end = Action::EndFlood { node: "a-0".into() };
    let mut machine = Machine::new(
        header(flood, Some(end), Impact::Stressed),
        &BTreeMap::new(),
        STOP,
        Never,
    );
    let mut commands = machine.on(0, Event::Begun);
    for node in ["a-0", "a-1"] {
        let (node, pid, incarnation) = (node.to_owned(), 1, 0);
        let spawned = Event::Spawned {
            node: node.clone(),
            pid,
        };
        commands.extend(machine.on(1, spawned));
        commands.extend(machine.on(2, Event::Ready { node, incarnation }));
    }
    let exited = Event::Exited {
        node: "a-0".into(),
        incarnation: 0,
        status: ExitStatus::Signal(6),
        forced: false,
        tail: Vec::new(),
    };
    machine.on(at(7) + 1, exited);
    assert!(machine.on(at(8), Event::Tick).contains(&Command::Drop(0)));
    let at_its_end = machine.on(at(12), Event::Tick);
    let gone = at_its_end.iter().any(|command| {
        matches!(command, Command::Record(Record { body: Body::Evidence(evidence), .. })
            if evidence.grade == Grade::Gone && evidence.held)
    });
    assert!(gone, "{at_its_end:?}");
    assert!(
        !at_its_end
            .iter()
            .any(|command| matches!(command, Command::Carry(_)))
    );
}

/// A restart whose node takes longer to stop than it is planned to be down starts it when it is dead.
#[test]
fn a_start_waits_for_the_stop_before_it() {
    let stop = Action::Terminate { node: "a-0".into() };
    let start = Action::Start { node: "a-0".into() };
    let mut run = Obedient::start(header(stop, Some(start), Impact::Impaired));
    run.feed(at(13), Event::Tick);
    run.dies(at(14), "a-0", ExitStatus::Code(0));
    let again = |body: &Body| matches!(body, Body::Node(change) if change.incarnation == 1);
    assert_eq!(run.time_of(again), at(14));
    run.run_out();
    let failed = |record: &Record| matches!(&record.body, Body::Step(change) if matches!(change.phase, Phase::Failed(_)));
    assert!(!run.records.iter().any(failed));
}

#[test]
fn an_interrupted_run_thaws_before_it_tears_down() {
    let pause = header(
        Action::Freeze { node: "a-1".into() },
        Some(Action::Thaw { node: "a-1".into() }),
        Impact::Impaired,
    );
    let mut run = Obedient::start(pause);
    run.feed(at(9), Event::Tick);
    assert_eq!(run.carried, [Action::Freeze { node: "a-1".into() }]);
    run.feed(at(10), Event::Interrupted { signal: 2 });
    assert!(run.finished);
    assert_eq!(
        run.carried.last(),
        Some(&Action::Thaw { node: "a-1".into() })
    );
    let Body::End(end) = &run.records.last().expect("records").body else {
        panic!("no end")
    };
    assert_eq!(end.why, Ending::Interrupted(2));
}

/// A teardown that lasts is no time in which hosts or nodes are judged; the layer that ends with the run is.
#[test]
fn layers_of_which_teardown_took_most_are_unwatched() {
    let mut machine = Machine::new(kill(), &BTreeMap::new(), STOP, Never);
    machine.on(0, Event::Begun);
    let torn_ns = at(12) + 5;
    assert!(
        machine
            .on(torn_ns, Event::TimedOut)
            .contains(&Command::TearDown)
    );
    for (layer, want) in [(10, false), (11, false), (12, true), (13, true)] {
        assert_eq!(
            unwatched(&mut machine, torn_ns + 10, layer),
            want,
            "layer {layer}"
        );
    }
}

/// Whether a layer that ends now is recorded as one in which nodes were not watched.
fn unwatched(machine: &mut Machine<Never>, now_ns: u64, layer: i64) -> bool {
    let ended = LayerRecord {
        layer,
        late_us: 500_000,
        steal_ppm: 0,
        cpu_pressure_ppm: None,
        wall_step_us: None,
        unwatched: false,
    };
    let commands = machine.on(now_ns, Event::LayerEnded(ended));
    let unwatched = commands.iter().find_map(|it| match it {
        Command::Record(Record {
            body: Body::Layer(it),
            ..
        }) => Some(it.unwatched),
        _ => None,
    });
    unwatched.expect("the layer is recorded")
}

/// Something may have been done to any node then, so that nothing is demanded while what is imposed is taken back.
#[test]
fn what_comes_after_the_substrate_failed_is_unwatched() {
    let why = || "somebody else paused a-0".to_owned();
    for (event, want) in [
        (Event::SubstrateFailed { why: why() }, true),
        (Event::Interrupted { signal: 2 }, false),
    ] {
        let pause = header(
            Action::Freeze { node: "a-1".into() },
            Some(Action::Thaw { node: "a-1".into() }),
            Impact::Impaired,
        );
        let mut run = Obedient::start(pause);
        run.feed(at(9), Event::Tick);
        let commands = run.machine.on(at(10) + 5, event);
        assert!(!commands.contains(&Command::TearDown), "{commands:?}");
        assert_eq!(unwatched(&mut run.machine, at(11), 10), want);
    }
}

/// A run that ends while a node is only just being started kills it: that is no crash of the node's.
#[test]
fn a_start_in_flight_at_the_end_is_no_death_of_its_own() {
    let mut machine = Machine::new(kill(), &BTreeMap::new(), STOP, Never);
    machine.on(0, Event::Begun);
    assert!(machine.on(5, Event::TimedOut).contains(&Command::TearDown));
    let exited = Event::Exited {
        node: "a-0".into(),
        incarnation: 0,
        status: ExitStatus::Signal(9),
        forced: false,
        tail: Vec::new(),
    };
    let commands = machine.on(10, exited);
    let ours = commands.iter().any(|command| {
        matches!(command, Command::Record(Record { body: Body::Exit(exit), .. })
            if matches!(exit.death, Death::Harness { step: None, .. }))
    });
    assert!(ours, "{commands:?}");
}

/// How a run ended by what was told of it.
fn ended(commands: &[Command]) -> Option<(Ending, Vec<String>)> {
    let bodies = || {
        commands.iter().filter_map(|command| match command {
            Command::Record(record) => Some(&record.body),
            _ => None,
        })
    };
    let left = bodies().find_map(|body| match body {
        Body::TornDown(down) => Some(down.left.clone()),
        _ => None,
    })?;
    let why = bodies().find_map(|body| match body {
        Body::End(end) => Some(end.why.clone()),
        _ => None,
    })?;
    assert!(commands.contains(&Command::Finish));
    Some((why, left))
}

/// Two nodes, of which one died; the other is told to stop at 10.
fn tearing_down() -> Machine<Never> {
    let mut machine = Machine::new(kill(), &BTreeMap::new(), STOP, Never);
    machine.on(0, Event::Begun);
    for node in ["a-0", "a-1"] {
        let (node, pid) = (node.to_owned(), 1);
        machine.on(1, Event::Spawned { node, pid });
    }
    let exited = Event::Exited {
        node: "a-0".into(),
        incarnation: 0,
        status: ExitStatus::Signal(9),
        forced: false,
        tail: Vec::new(),
    };
    assert!(machine.on(10, exited).contains(&Command::TearDown));
    machine
}

/// A teardown that never ends does not keep the run: what was not seen dead is listed.
#[test]
fn a_teardown_that_does_not_end_is_given_up() {
    let mut machine = tearing_down();
    let due = 10 + STOP + TEARDOWN_BOUND_NS;
    let before = machine.on(due - 1, Event::Tick);
    assert_eq!(ended(&before), None);
    assert!(before.contains(&Command::WakeAt(due)), "{before:?}");
    let (_, left) = ended(&machine.on(due, Event::Tick)).expect("the end");
    let told = [
        "teardown did not end within 122 s",
        "a-1: its death was not seen",
    ];
    assert_eq!(left, told);
    let late = Event::TornDown { left: Vec::new() };
    assert!(machine.on(due + 1, late).is_empty());
}

#[test]
fn a_teardown_that_died_is_not_waited_for() {
    let mut machine = tearing_down();
    let why = "the task `teardown` panicked: no thread".to_owned();
    let commands = machine.on(20, Event::TeardownFailed { why: why.clone() });
    let (_, left) = ended(&commands).expect("the end");
    assert_eq!(left, [why, "a-1: its death was not seen".to_owned()]);
}

/// Whatever a task of ours died of, the run does not pass, also when it ended on schedule before.
#[test]
fn a_task_that_died_fails_the_run() {
    let why = || "the task `freeze a-0` panicked: no thread".to_owned();
    for scheduled in [false, true] {
        let mut run = Obedient::start(kill());
        let mut commands = Vec::new();
        if scheduled {
            commands.extend(run.machine.on(at(21), Event::Tick));
        }
        commands.extend(run.machine.on(at(21), Event::TaskFailed { why: why() }));
        assert!(commands.contains(&Command::TearDown), "{commands:?}");
        let down = Event::TornDown { left: Vec::new() };
        let (ending, _) = ended(&run.machine.on(at(22), down)).expect("the end");
        assert_eq!(ending, Ending::Substrate(why()));
    }
}

/// A host without memory accuses nobody: the run is over, and no fault is told to have been felt.
#[test]
fn a_node_that_the_host_killed_ends_the_run() {
    for (status, says) in [
        (ExitStatus::HostOutOfMemory, "killed a-0 for lack of memory"),
        (ExitStatus::HostGone, "killed a-0 because what the harness"),
    ] {
        ends_the_run(status, says);
    }
}

fn ends_the_run(status: ExitStatus, says: &str) {
    let mut run = Obedient::start(kill());
    run.feed(at(5), Event::Tick);
    run.dies(at(6), "a-0", status);
    run.run_out();
    let felt = |record: &Record| matches!(&record.body, Body::Evidence(evidence) if evidence.grade == Grade::Felt);
    assert!(!run.records.iter().any(felt));
    let Body::End(end) = &run.records.last().expect("records").body else {
        panic!("no end")
    };
    let Ending::Substrate(why) = &end.why else {
        panic!("{:?}", end.why)
    };
    assert!(why.contains(says), "{why}");
}

/// What takes long to make ready is begun early, and takes along what comes before it.
#[test]
fn a_large_flood_is_made_ready_in_time() {
    let flood = |node: &str, sources| Action::Flood {
        node: node.into(),
        sources,
        over: Span::layers(4),
        datagrams: crate::schedule::Datagrams::WellFormed,
        last_after_ns: None,
    };
    let staged = |steps: Vec<(i64, Action)>| {
        let mut header = header(flood("a-0", 1), None, Impact::Stressed);
        let begins = header.schedule.steps.remove(0);
        header.schedule.steps = (0..)
            .zip(steps)
            .map(|(id, (layer, action))| Step {
                id,
                at: layers(layer),
                action,
                ..begins.clone()
            })
            .collect();
        super::staging::stage_times(&header)
            .into_values()
            .collect::<Vec<_>>()
    };
    // A second, four layers, is for patience.
    assert_eq!(staged(vec![(8, flood("a-0", 1))]), [at(4) - 250_000]);
    // 8,000 sources take 2 s, eight layers; two floods at once take both their times.
    assert_eq!(staged(vec![(16, flood("a-0", 8_000))]), [at(4)]);
    let two = vec![(16, flood("a-0", 4_000)), (16, flood("a-1", 4_000))];
    assert_eq!(staged(two), [at(4), at(4)]);
    let kill = Action::Kill { node: "a-1".into() };
    let steps = vec![(12, kill.clone()), (16, flood("a-0", 8_000)), (18, kill)];
    assert_eq!(staged(steps), [at(4), at(4), at(17)]);
}

#[test]
fn who_is_not_ready_is_named() {
    let mut machine = Machine::new(kill(), &BTreeMap::new(), STOP, Never);
    machine.on(0, Event::Begun);
    machine.on(
        10,
        Event::Spawned {
            node: "a-0".into(),
            pid: 1,
        },
    );
    machine.on(
        20,
        Event::Ready {
            node: "a-0".into(),
            incarnation: 0,
        },
    );
    let commands = machine.on(GENESIS - 4 * LAYER, Event::Tick);
    assert!(commands.contains(&Command::TearDown));
    let commands = machine.on(GENESIS, Event::TornDown { left: Vec::new() });
    let ended = commands.iter().any(|command| {
        matches!(command, Command::Record(Record { body: Body::End(end), .. })
            if end.why == Ending::NotReady(vec!["a-1".to_owned()]))
    });
    assert!(ended, "{commands:?}");
}

fn any_event() -> impl Strategy<Value = Event> {
    let node = prop_oneof![
        Just("a-0".to_owned()),
        Just("a-1".to_owned()),
        Just("stranger".to_owned())
    ];
    let life = 0_u32..2;
    prop_oneof![
        Just(Event::Tick),
        node.clone()
            .prop_map(|node| Event::Spawned { node, pid: 7 }),
        (node.clone(), life.clone())
            .prop_map(|(node, incarnation)| Event::Ready { node, incarnation }),
        (node.clone(), life.clone(), 0_i32..12).prop_map(|(node, incarnation, code)| {
            Event::Exited {
                node,
                incarnation,
                status: ExitStatus::Signal(code),
                forced: false,
                tail: Vec::new(),
            }
        }),
        (node.clone(), life).prop_map(|(node, incarnation)| Event::NotReady {
            node,
            incarnation,
            last_seen: "x".into()
        }),
        (0_u32..4).prop_map(|step| Event::Carried {
            step,
            result: Ok(())
        }),
        (0_u32..4).prop_map(|step| Event::Proved {
            step,
            grade: Grade::Gone,
            held: true,
            detail: BTreeMap::new()
        }),
        Just(Event::Interrupted { signal: 2 }),
        Just(Event::TornDown { left: Vec::new() }),
        node.prop_map(|node| Event::Pinged { node, rtt_us: None }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    /// Whatever happens in whatever order: no panic, no gap in the history, nothing before its intent, nothing after the end.
    #[test]
    fn any_order_of_events_is_survived(events in prop::collection::vec((0_u64..2 * LAYER, any_event()), 0..80)) {
        let mut machine = Machine::new(kill(), &BTreeMap::new(), STOP, Never);
        let mut commands = machine.on(0, Event::Begun);
        let mut now = 0;
        for (later, event) in events {
            now += later;
            commands.extend(machine.on(now, event));
        }
        let records: Vec<&Record> = commands.iter().filter_map(|command| match command {
            Command::Record(record) => Some(record),
            _ => None,
        }).collect();
        for (seq, record) in records.iter().enumerate() {
            prop_assert_eq!(record.seq, seq as u64);
        }
        for (index, command) in commands.iter().enumerate() {
            if let Command::Carry(step) = command {
                let before = &commands[..index];
                let synced = before.iter().rposition(|other| *other == Command::Sync).unwrap_or(0);
                let staged = before[..synced].iter().any(|other| {
                    matches!(other, Command::Record(record) if phase(&record.body, step.id, &Phase::Staged))
                });
                prop_assert!(staged || matches!(step.part, Part::Ends(_)), "{:?} had no synced intent", step);
            }
        }
        if let Some(end) = records.iter().position(|record| matches!(record.body, Body::End(_))) {
            prop_assert_eq!(end + 1, records.len());
        }
    }
}
