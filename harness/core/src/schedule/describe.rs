//! A schedule in words: what `tweedledum plan` prints.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::{Action, Class, Part, Schedule};
use crate::capability::Resource;
use crate::faults::Impact;
use crate::plan::{Plan, size};
use crate::run;
use crate::substrate::SubstrateKind;
use crate::time::{MICRO, ProtocolTime, Span};

/// Wall time one release takes at the most: start, genesis, schedule, undo and orderly stop.
pub fn wall_ns_max(plan: &Plan, schedule: &Schedule, pace: run::Pace) -> u64 {
    let grace_ns = plan
        .roles
        .values()
        .map(|role| role.stop.grace_ns)
        .max()
        .unwrap_or(0);
    run::genesis_after_ns(plan, pace)
        .saturating_add(plan.calendar.ns_of(Span(schedule.ends_at.0.max(0))))
        .saturating_add(run::HEAL_BOUND_NS)
        .saturating_add(grace_ns)
}

/// The schedule of a plan for people.
pub fn describe(plan: &Plan, schedule: &Schedule, substrate: SubstrateKind) -> String {
    let mut out = String::new();
    let layer = Duration::from_nanos(plan.calendar.layer_ns);
    let epoch = humantime::format_duration(Duration::from_nanos(
        plan.calendar.ns_of(plan.calendar.epoch()),
    ));
    let _ = writeln!(
        out,
        "plan {} · seed {} · {} nodes · layer {} · epoch {epoch}",
        schedule.plan,
        schedule.seed,
        plan.nodes.len(),
        humantime::format_duration(layer),
    );
    out.push_str("\nsteps\n");
    if schedule.steps.is_empty() {
        out.push_str("  none: a run without faults\n");
    }
    let ends = schedule.ends();
    for step in &schedule.steps {
        let when = format!(
            "{:>10}  {:<12}",
            step.at.to_string(),
            plan.calendar.describe(step.at)
        );
        let _ = writeln!(
            out,
            "  {when} {:<12} {} {}",
            step.entry,
            action(&step.action),
            part(&ends, step.id, &step.part)
        );
    }
    out.push_str("\nliveness is demanded\n");
    if schedule.windows.is_empty() {
        out.push_str("  never\n");
    }
    for window in &schedule.windows {
        let length = window.to.since(window.from);
        let _ = writeln!(out, "  {} to {}  ({length})", window.from, window.to);
    }
    let controls = plan.controls.len() as u64;
    // Whole seconds, rounded up: nobody plans by the millisecond.
    let seconds = wall_ns_max(plan, schedule, substrate.pace()).div_ceil(1_000_000_000);
    let _ = writeln!(out, "\nends at {} at the latest", schedule.ends_at);
    let wall = |seconds| humantime::format_duration(Duration::from_secs(seconds));
    let of_all = match controls {
        0 | 1 => String::new(),
        several => format!(", {} for {several} of them", wall(seconds * several)),
    };
    let _ = writeln!(
        out,
        "wall time on {} at most {} for one release{of_all}",
        substrate.word(),
        wall(seconds),
    );
    out
}

fn action(action: &Action) -> String {
    match action {
        Action::Kill { node } => format!("kill {node}"),
        Action::Terminate { node } => format!("terminate {node}"),
        Action::Start { node } => format!("start {node}"),
        Action::Freeze { node } => format!("freeze {node}"),
        Action::Thaw { node } => format!("thaw {node}"),
        Action::Flood {
            node,
            sources,
            over,
            datagrams,
            ..
        } => {
            let kind = format!("{datagrams:?}");
            let per_layer =
                u128::from(*sources) * MICRO as u128 / u128::from(over.0.max(1).unsigned_abs());
            format!("flood {node} from {sources} sources ({kind}, {per_layer} a layer)")
        }
        Action::EndFlood { node } => format!("end the flood of {node}"),
        Action::CapDisk { node, bytes } => format!("cap the disk of {node} at {}", size(*bytes)),
        Action::FillDisk { node, leave } => {
            format!("fill the disk of {node}, leaving {}", size(*leave))
        }
        Action::SetGateways { node, gateways } => {
            format!("set the gateways of {node} to {}", gateways.join(", "))
        }
        Action::StartPoet { node, gateways } => {
            format!("start the rounds of {node} with {}", gateways.join(", "))
        }
        Action::Limit {
            node,
            resource,
            amount,
        } => format!(
            "limit the {} of {node} to {}",
            resource.word(),
            self::amount(*resource, *amount)
        ),
        Action::Unlimit { node, resource } => {
            format!("lift the limit on the {} of {node}", resource.word())
        }
        Action::FreeDisk { node, limit: None } => format!("free the disk of {node}"),
        Action::FreeDisk {
            node,
            limit: Some(limit),
        } => format!(
            "free the disk of {node} up to its limit of {}",
            size(*limit)
        ),
    }
}

/// So much of a resource, in words.
pub fn amount(resource: Resource, amount: u64) -> String {
    match resource {
        Resource::Memory => size(amount),
        Resource::Cpu => {
            let (whole, thousandths) = (amount / 1000, amount % 1000);
            let fraction = format!("{thousandths:03}");
            match fraction.trim_end_matches('0') {
                "" => whole.to_string(),
                fraction => format!("{whole}.{fraction}"),
            }
        }
        Resource::Pids => amount.to_string(),
    }
}

fn part(ends: &BTreeMap<u32, ProtocolTime>, id: u32, part: &Part) -> String {
    match part {
        Part::Begins { impact, class } => {
            let impact = match impact {
                Impact::Impaired => "impaired",
                Impact::Stressed => "stressed",
            };
            let end = match class {
                Class::Restores(_) => match ends.get(&id) {
                    Some(end) => format!("restored at {end}"),
                    None => "restored at the end".to_owned(),
                },
                Class::EndsWithRun => "ends with the run".to_owned(),
                Class::Permanent => "permanent".to_owned(),
            };
            format!("· {impact}, {end}")
        }
        Part::Ends(begun) => format!("· undoes step {begun}"),
    }
}
