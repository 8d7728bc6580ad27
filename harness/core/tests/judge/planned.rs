//! What a network of tests is planned to go through, and what is expected of it.

use std::collections::{BTreeMap, BTreeSet};

use tweedledum_core::capability::Resource;
use tweedledum_core::faults::Impact;
use tweedledum_core::history::{
    ExpectInfo, FORMAT, FaultInfo, Header, HealInfo, NodeInfo, RoleInfo,
};
use tweedledum_core::params::{Params, Value};
use tweedledum_core::plan::Selector;
use tweedledum_core::plan::model::{Amount, Control, FindingPattern, Relation, Tolerance};
use tweedledum_core::schedule::{Action, Class, Datagrams, Part, Schedule, Step};
use tweedledum_core::time::{Calendar, ProtocolTime, Span};

pub(crate) const LAYER: u64 = 1_000_000_000;
pub(crate) const GENESIS: u64 = 10_000_000_000;

/// A fault of the schedule.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) entry: &'static str,
    pub(crate) node: String,
    pub(crate) action: Action,
    pub(crate) undo: Option<Action>,
    pub(crate) at: i64,
    pub(crate) to: i64,
}

/// When a layer begins.
pub(crate) fn at(layer: i64) -> u64 {
    GENESIS + u64::try_from(layer).unwrap() * LAYER
}

pub(crate) fn flood(node: &str, at: i64, to: i64) -> Fault {
    Fault {
        entry: "flood",
        node: node.to_owned(),
        action: Action::Flood {
            node: node.to_owned(),
            sources: 320,
            over: Span::layers(1),
            datagrams: Datagrams::WellFormed,
            last_after_ns: None,
        },
        undo: Some(Action::EndFlood {
            node: node.to_owned(),
        }),
        at,
        to,
    }
}

pub(crate) fn pause(node: &str, at: i64, to: i64) -> Fault {
    let node = node.to_owned();
    Fault {
        entry: "pause",
        action: Action::Freeze { node: node.clone() },
        undo: Some(Action::Thaw { node: node.clone() }),
        node,
        at,
        to,
    }
}

pub(crate) fn throttle(node: &str, at: i64, to: i64) -> Fault {
    let node = node.to_owned();
    let resource = Resource::Cpu;
    Fault {
        entry: "throttle",
        action: Action::Limit {
            node: node.clone(),
            resource,
            amount: 100,
        },
        undo: Some(Action::Unlimit {
            node: node.clone(),
            resource,
        }),
        node,
        at,
        to,
    }
}

pub(crate) fn kill(node: &str, at: i64, to: Option<i64>) -> Fault {
    let node = node.to_owned();
    Fault {
        entry: "kill",
        action: Action::Kill { node: node.clone() },
        undo: to.map(|_| Action::Start { node: node.clone() }),
        node,
        at,
        to: to.unwrap_or(i64::MAX),
    }
}

pub(crate) fn advance(signal: &str, of: Selector, layers: i64) -> ExpectInfo {
    let mut params = Params::default();
    params.set("signal", Value::Text(signal.into()));
    params.set("of", Value::Nodes(of));
    params.set("within", Value::Span(Span::layers(layers)));
    ExpectInfo {
        kind: "advance".into(),
        params,
    }
}

pub(crate) fn recover(layers: i64) -> ExpectInfo {
    let mut params = Params::default();
    params.set("after", Value::Text("heal all".into()));
    params.set("within", Value::Span(Span::layers(layers)));
    ExpectInfo {
        kind: "recover".into(),
        params,
    }
}

pub(crate) fn agree(signal: &str) -> ExpectInfo {
    let mut params = Params::default();
    params.set("about", Value::Text(signal.into()));
    ExpectInfo {
        kind: "agree".into(),
        params,
    }
}

pub(crate) fn every_of(role: &str) -> Selector {
    Selector::Every(role.into())
}

pub(crate) fn any_of(role: &str) -> Selector {
    Selector::Any(role.into())
}

pub(crate) fn must_fail(findings: &[(&str, Option<&str>)]) -> Control {
    Control {
        release: "x".into(),
        must_pass: false,
        findings: findings
            .iter()
            .map(|(id, role)| FindingPattern {
                id: (*id).into(),
                role: role.map(str::to_owned),
                says: None,
            })
            .collect(),
        also_allowed: Vec::new(),
    }
}

pub(crate) fn more_than_two_thirds(role: &str) -> Tolerance {
    Tolerance {
        amount: Amount::MoreThan {
            numerator: 2,
            denominator: 3,
        },
        of: every_of(role),
        relation: Relation::Unimpaired,
    }
}

pub(crate) fn impact(action: &Action) -> Impact {
    match action {
        Action::Flood { .. } | Action::EndFlood { .. } | Action::Limit { .. } => Impact::Stressed,
        _ => Impact::Impaired,
    }
}

pub(crate) fn header(
    nodes: &[(String, String)],
    expect: Vec<ExpectInfo>,
    faults: &[Fault],
) -> Header {
    let period = |layers: i64| Span::layers(layers);
    let role = |signals: &[&str]| RoleInfo {
        signals: signals
            .iter()
            .map(|name| ((*name).to_owned(), period(1)))
            .collect(),
        expect_exit: BTreeSet::from([0]),
        pinged: true,
        pushed: BTreeSet::new(),
        events: BTreeSet::new(),
    };
    Header {
        format: FORMAT.into(),
        run: "0123456789abcdef".into(),
        boot: "boot".into(),
        started_unix_ns: 0,
        plan: "plan".into(),
        plan_digest: "digest".into(),
        release: "x".into(),
        executables: BTreeMap::new(),
        substrate: "virtual".into(),
        genesis_ns: GENESIS,
        calendar: Calendar {
            layer_ns: LAYER,
            layers_per_epoch: 4,
        },
        nodes: nodes
            .iter()
            .map(|(name, role)| NodeInfo {
                name: name.clone(),
                role: role.clone(),
                address: "127.0.0.1".into(),
                disk: None,
            })
            .collect(),
        roles: BTreeMap::from([
            ("miner".to_owned(), role(&["tx", "verified", "root"])),
            ("gateway".to_owned(), role(&[])),
            ("poet".to_owned(), role(&[])),
        ]),
        tolerates: Vec::new(),
        expect,
        faults: faults
            .iter()
            .map(|fault| {
                let info = FaultInfo {
                    kind: "kind".into(),
                    must_be_felt: false,
                };
                (fault.entry.to_owned(), info)
            })
            .collect(),
        heals: healed_at(faults)
            .map(|at| ("heal all".to_owned(), HealInfo { at, of: None }))
            .into_iter()
            .collect(),
        schedule: schedule(faults),
        control: None,
        fixed_end: false,
        nodes_stay: false,
        first_epoch: 0,
    }
}

pub(crate) fn layers(layers: i64) -> ProtocolTime {
    ProtocolTime::GENESIS.plus(Span::layers(layers))
}

/// When the last fault that is taken back is.
fn healed_at(faults: &[Fault]) -> Option<ProtocolTime> {
    let ends = faults.iter().filter(|fault| fault.undo.is_some());
    ends.map(|fault| layers(fault.to)).max()
}

pub(crate) fn schedule(faults: &[Fault]) -> Schedule {
    let mut steps = Vec::new();
    for fault in faults {
        let id = u32::try_from(steps.len()).unwrap();
        let class = fault.undo.clone();
        steps.push(Step {
            id,
            at: layers(fault.at),
            entry: fault.entry.into(),
            action: fault.action.clone(),
            part: Part::Begins {
                impact: impact(&fault.action),
                class: class.map_or(Class::EndsWithRun, Class::Restores),
            },
        });
        if let Some(undo) = &fault.undo {
            steps.push(Step {
                id: id + 1,
                at: layers(fault.to),
                entry: fault.entry.into(),
                action: undo.clone(),
                part: Part::Ends(id),
            });
        }
    }
    Schedule {
        version: 1,
        plan: "plan".into(),
        seed: 7,
        healed_at: healed_at(faults),
        steps,
        windows: Vec::new(),
        ends_at: layers(100),
    }
}
