//! When each step is made ready: its intent is on disk, and what takes time is done before it is due.
//!
//! An intent is there at least a layer before it is due (design invariant 5). A flood needs more: every source is a socket
//! and a sealed datagram of its own, and a flood that is not ready when it is due begins late, or is ended by its heal
//! before it has said all it had to. Steps are staged in their order, so what needs long takes those before it along.

use std::collections::BTreeMap;

use crate::history::Header;
use crate::schedule::Action;
use crate::time::{ProtocolTime, Span};

/// What a source takes on one core that others want too: 160 µs were measured with twice as many busy threads as cores.
const SOURCE_NS: u64 = 250_000;

/// Begun so much earlier still: sources are made at a low priority, so that they take nothing from nodes that are busy with
/// an epoch's beginning.
const PATIENCE_NS: u64 = 1_000_000_000;

/// When each step is staged, by its id.
pub(super) fn stage_times(header: &Header) -> BTreeMap<u32, u64> {
    let at_ns = |at| header.calendar.at_ns(header.genesis_ns, at);
    // Floods that are due together are made ready side by side, on the same few cores.
    let mut sources: BTreeMap<ProtocolTime, u64> = BTreeMap::new();
    for step in &header.schedule.steps {
        if let Action::Flood { sources: more, .. } = &step.action {
            let all = sources.entry(step.at).or_default();
            *all = all.saturating_add(*more);
        }
    }
    let mut latest = u64::MAX;
    let times = header.schedule.steps.iter().rev().map(|step| {
        let a_layer_before = ProtocolTime(step.at.0.saturating_sub(Span::layers(1).0));
        let takes = sources.get(&step.at).map_or(0, |all| {
            all.saturating_mul(SOURCE_NS).saturating_add(PATIENCE_NS)
        });
        let own = at_ns(a_layer_before).min(at_ns(step.at).saturating_sub(takes));
        latest = latest.min(own);
        (step.id, latest)
    });
    times.collect()
}
