//! `flood-sessions`: datagrams from many sources, each with an ip:port of its own, so that each asks for a session.
//!
//! This is the traffic that reached the defect of 2020: a session table keyed by remote ip:port, filled before any
//! check. A flood of `cap + 1` sources makes a table evict; whether an *old* entry is evicted depends on the target's
//! own age limit, or on `last-after`, which holds the last source back until the first has aged.

use super::{Among, Effect, FaultKind, Impact};
use crate::capability::Capability;
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Node;
use crate::schedule::{Action, Class, Datagrams};
use crate::time::Calendar;

#[derive(Debug)]
pub(super) struct FloodSessions;

/// Every source needs an open socket in one process, and the usual hard limit of descriptors is 2^20 shared by all
/// targets of a run; a table of 2020 held 2,048 sessions.
const SOURCES_MAX: u64 = 20_000;

const PARAMS: &[Param] = &[
    Param {
        name: "target",
        shape: Shape::Nodes,
        need: Need::Required,
        doc: "Which nodes are flooded.",
    },
    Param {
        name: "sources",
        shape: Shape::Count {
            min: 1,
            max: SOURCES_MAX,
        },
        need: Need::Required,
        doc: "How many distinct ip:port send one datagram each to each target, and stay open; at most 20,000, a descriptor each.",
    },
    Param {
        name: "over",
        shape: Shape::Span,
        need: Need::Default("0.5 layers"),
        doc: "The time over which they are spread evenly; a target that reads slower drops what its socket cannot hold (some 256), and then the flood does not count as applied: bundled nodes read about 5,000 a second on two busy cores.",
    },
    Param {
        name: "datagrams",
        shape: Shape::OneOf(&["well-formed", "foreign-netid", "garbage"]),
        need: Need::Default("well-formed"),
        doc: "Pings of this network, sealed pings of another network, or random bytes long enough to name a sender.",
    },
    Param {
        name: "last-after",
        shape: Shape::Duration,
        need: Need::Optional,
        doc: "Holds the last source back until this long after the first, so that the first sessions are old by then.",
    },
];

impl FaultKind for FloodSessions {
    fn name(&self) -> &'static str {
        "flood-sessions"
    }

    fn summary(&self) -> &'static str {
        "Sends one datagram from each of many sources, so that each asks its targets for a session."
    }

    fn example(&self) -> &'static str {
        "{ target: every gateway, sources: 320 }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn impact(&self) -> Impact {
        Impact::Stressed
    }

    fn needs(&self) -> &'static [Capability] {
        &[Capability::Flood]
    }

    fn requires(&self) -> Option<&'static str> {
        Some("udp-session-2020")
    }

    fn check(&self, params: &Params, calendar: &Calendar) -> Vec<(&'static str, String)> {
        let over_ns = calendar.ns_of(params.span("over")).max(1);
        let rate = u128::from(params.count("sources")) * 1_000_000_000 / u128::from(over_ns);
        // One sender thread was measured to hold about 150,000 datagrams a second on loopback.
        if rate > 50_000 {
            let why = format!(
                "{rate} datagrams a second to each target are more than one sender can pace (50,000)"
            );
            return vec![("over", why)];
        }
        Vec::new()
    }

    fn expand(&self, params: &Params, target: &Node, _among: &Among) -> Vec<Effect> {
        let datagrams = match params.text("datagrams") {
            "foreign-netid" => Datagrams::ForeignNetid,
            "garbage" => Datagrams::Garbage,
            _ => Datagrams::WellFormed,
        };
        let action = Action::Flood {
            node: target.name.clone(),
            sources: params.count("sources"),
            over: params.span("over"),
            datagrams,
            last_after_ns: params.duration("last-after"),
        };
        vec![Effect {
            action,
            class: Class::Restores(Action::EndFlood {
                node: target.name.clone(),
            }),
        }]
    }
}
