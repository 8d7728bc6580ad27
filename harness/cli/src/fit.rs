//! Whether a plan can be carried out where its nodes shall live: by the rules of the place, by what its tiers are built for,
//! and as far as that can be seen without doing anything by what this machine allows.

use std::collections::BTreeSet;
use std::path::Path;

use tweedledum_core::capability::Resource;
use tweedledum_core::faults::{self, FaultKind};
use tweedledum_core::plan::model::Deed;
use tweedledum_core::plan::{DIAGNOSTICS_MAX, Plan};
use tweedledum_core::schedule::{Action, Schedule};
use tweedledum_core::substrate::{SubstrateKind, Unfit, place_of, unfit};
use tweedledum_harness::doctor::tiers;
use tweedledum_harness::substrate::process::group::{self, GroupError, REMEDY};

use crate::commands::Failure;

/// Where nodes live: where the command line says, else where the plan does.
pub(crate) fn place(asked: Option<SubstrateKind>, plan: &Plan) -> SubstrateKind {
    asked.unwrap_or(plan.substrate)
}

/// What of a plan cannot be carried out there, by the plan alone.
pub(crate) fn by_rules(
    path: &Path,
    plan: &Plan,
    schedule: &Schedule,
    place: SubstrateKind,
) -> Result<(), Failure> {
    let mut found = unfit(plan, schedule, place);
    let hint = "`tweedledum list conformance` prints what each substrate can do";
    found.extend(lacking(plan, hint, |kind| tiers::lacks(place, kind)));
    told(path, place.word(), &found)
}

/// What of a plan cannot be carried out on a project that is attached to. No kind of fault needs more or less by whom it
/// hits, so this holds for the project's seed as for any.
pub(crate) fn attached(path: &Path, plan: &Plan) -> Result<(), Failure> {
    let hint = "run the plan with --substrate docker, which makes its own containers, or take out what is named";
    let mut found = lacking(plan, hint, tiers::lacks_attached);
    let disks = plan.nodes.iter().filter(|node| node.disk.is_some());
    found.extend(disks.map(|node| Unfit {
        at: plan.limits_text,
        why: format!(
            "`limits` gives {} a disk, which the compose file has to give it",
            node.name
        ),
        hint: hint.to_owned(),
    }));
    told(path, "an attached project", &found)
}

/// Faults of a plan that lack something, whatever machine that is.
fn lacking(
    plan: &Plan,
    hint: &str,
    lacks: impl Fn(&dyn FaultKind) -> Option<String>,
) -> Vec<Unfit> {
    let lacking = plan.timeline.iter().filter_map(|entry| {
        let Deed::Fault(kind, _) = &entry.what else {
            return None;
        };
        let why = lacks(faults::by_name(kind)?)?;
        Some(Unfit {
            at: Some(entry.at_text),
            why: format!("`{}` cannot be carried out there: {why}", entry.name),
            hint: hint.to_owned(),
        })
    });
    lacking.collect()
}

/// What of a plan cannot be carried out on this machine, too. Nothing is made to find that out.
pub(crate) fn check(
    path: &Path,
    plan: &Plan,
    schedule: &Schedule,
    place: SubstrateKind,
) -> Result<(), Failure> {
    by_rules(path, plan, schedule, place)?;
    told(
        path,
        place.word(),
        &limits(plan, schedule, place, &group::looks_possible),
    )
}

/// The same, by doing it: what is made for that is gone again, and recorded in the directory of runs until then.
pub(crate) fn tried(
    path: &Path,
    runs: &Path,
    plan: &Plan,
    schedule: &Schedule,
    place: SubstrateKind,
) -> Result<(), Failure> {
    by_rules(path, plan, schedule, place)?;
    let possible = |resource| group::possible(runs, resource);
    let found = limits(plan, schedule, place, &possible);
    told(path, place.word(), &found)
}

/// Limits of nodes as processes need more than other faults do.
fn limits(
    plan: &Plan,
    schedule: &Schedule,
    place: SubstrateKind,
    possible: &dyn Fn(Resource) -> Result<(), GroupError>,
) -> Vec<Unfit> {
    if place != SubstrateKind::Process {
        return Vec::new();
    }
    let (mut unfit, mut seen) = (Vec::new(), BTreeSet::new());
    for step in &schedule.steps {
        let Action::Limit { resource, .. } = &step.action else {
            continue;
        };
        if seen.insert(*resource)
            && let Err(error) = possible(*resource)
        {
            unfit.push(Unfit {
                at: place_of(plan, &step.entry),
                why: format!(
                    "`{}` cannot be carried out here: the {} of processes cannot be limited: {error}",
                    step.entry,
                    resource.word()
                ),
                hint: REMEDY.to_owned(),
            });
        }
    }
    unfit
}

fn told(path: &Path, place: &str, found: &[Unfit]) -> Result<(), Failure> {
    let Some(first) = found.first() else {
        return Ok(());
    };
    let path = path.display();
    let shown = found.iter().take(DIAGNOSTICS_MAX);
    let mut lines: Vec<String> = shown
        .map(|unfit| {
            let why = &unfit.why;
            match unfit.at {
                Some(at) => format!("{path}:{}:{}: on {place}, {why}", at.line, at.column),
                None => format!("{path}: on {place}, {why}"),
            }
        })
        .collect();
    let more = found.len().saturating_sub(DIAGNOSTICS_MAX);
    if more > 0 {
        lines.push(format!("and {more} more like these"));
    }
    Err(Failure::Usage {
        message: lines.join("\nerror: "),
        hint: first.hint.clone(),
    })
}
