//! `attach`: a plan against a compose project that runs. Says first which containers it would touch; the project stays.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tweedledum_core::capability::Capability;
use tweedledum_core::plan::Plan;
use tweedledum_core::schedule::Schedule;
use tweedledum_harness::substrate::docker::attached::project::{Project, Unfit};

use super::{Failure, internal, parse_plan, read_plan_bytes, run, schedule_of};
use crate::args::{Format, RunArgs};
use crate::catalogue;
use crate::fit;
use crate::printer::Printer;

/// `attach`
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The compose project, as its containers are labelled; `docker-compose -p` or the directory's name
    project: String,
    /// The plan; its nodes are services of the project
    plan: PathBuf,
    /// Only say which containers would be touched
    #[arg(long)]
    dry_run: bool,
    /// Where run directories are kept
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// How many finished runs are kept there
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    keep: usize,
    /// Give up after this much wall time for the start, and again for the run, as 5m [default: twice the plan's worst case]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// What is written to standard output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(crate) fn attach(args: &AttachArgs, printer: &Printer) -> Result<u8, Failure> {
    let bytes = read_plan_bytes(&args.plan)?;
    let plan = parse_plan(&args.plan, &bytes, printer)?;
    fit::attached(&args.plan, &plan)?;
    let project = find(&args.project, &plan)?;
    let seed = project.facts.seed;
    let schedule = schedule_of(&args.plan, &plan, seed)?;
    let told = told(&project, &schedule);
    if args.dry_run {
        printer.text(&told);
        return Ok(0);
    }
    printer.note(told.trim_end());
    let release = project.facts.release.name.clone();
    let mut words = internal::words("controller");
    let mut add = |flag: &str, value: OsString| words.extend([OsString::from(flag), value]);
    add("--attach", project.name.into());
    add("--release", release.clone().into());
    add("--seed", seed.to_string().into());
    add("--runs", args.runs.clone().into());
    add("--keep", args.keep.to_string().into());
    add("--format", args.format.word().into());
    if let Some(timeout) = args.timeout {
        add(
            "--timeout",
            humantime::format_duration(timeout).to_string().into(),
        );
    }
    words.extend([OsString::from("--"), args.plan.clone().into()]);
    let own = RunArgs {
        plan: args.plan.clone(),
        release: Some(release),
        substrate: None,
        seed: Some(seed),
        runs: args.runs.clone(),
        keep: args.keep,
        timeout: args.timeout,
        format: args.format,
    };
    run::supervised(&own, words, bytes, printer)
}

/// Finds a project that is the plan's network.
pub(super) fn find(name: &str, plan: &Plan) -> Result<Project, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let found = runtime.block_on(Project::find(name, plan));
    let project = found.map_err(|unfit| {
        let hint = format!("nothing was touched; {}", unfit.next());
        match unfit {
            Unfit::Engine(why) => Failure::Substrate(format!("{why}; {hint}")),
            unfit => Failure::Usage {
                message: unfit.to_string(),
                hint,
            },
        }
    })?;
    if project.facts.netid != catalogue::NETID {
        return Err(Failure::Usage {
            message: format!(
                "project {name} has network id {}, and its nodes are spoken to with {}",
                project.facts.netid,
                catalogue::NETID
            ),
            hint: "write its network files with `tweedledum network`".to_owned(),
        });
    }
    Ok(project)
}

/// What is done to each node that is touched.
fn deeds(schedule: &Schedule) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut deeds: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for step in &schedule.steps {
        let of = deeds.entry(step.action.node()).or_default();
        let needs = step.action.needs();
        of.insert(needs.word());
        // What the plan does not heal is started at the end of the run.
        if needs == Capability::Kill {
            of.insert(Capability::Start.word());
        }
    }
    deeds
}

/// What is touched, and what is only looked at.
fn told(project: &Project, schedule: &Schedule) -> String {
    let deeds = deeds(schedule);
    let facts = &project.facts;
    let mut out = format!(
        "project {} on {}: release {}, seed {}, layers of {:?}\n",
        project.name,
        project.engine.about().address.url,
        facts.release.name,
        facts.seed,
        Duration::from_nanos(facts.layer_ns),
    );
    for (node, member) in &project.members {
        let id = member.id.get(..12).unwrap_or(&member.id);
        let deeds = match deeds.get(node.as_str()) {
            Some(deeds) => format!(
                "touched ({})",
                deeds.iter().copied().collect::<Vec<_>>().join(", ")
            ),
            None => "looked at".to_owned(),
        };
        let _ = writeln!(out, "  {deeds:<24} {node:<12} {} {id}", member.container);
    }
    out.push_str("  nothing else of the engine, and none of these is removed\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_killed_is_told_to_be_started_also_without_a_heal() {
        let gateways = include_str!("../../../../compose/gateways.yaml");
        let heal = "  - { at: epoch 3, heal: all }\n";
        let recover = "  - { recover: { after: heal all, within: 2 epochs } }\n";
        assert!(gateways.contains(heal) && gateways.contains(recover));
        let one = gateways.replace("target: every gateway", "target: gateway-0");
        let one = one.replace("[every miner, every gateway]", "[every miner]");
        let unhealed = one.replace(heal, "").replace(recover, "");
        for (text, want) in [
            (gateways.to_owned(), &["kill", "start"][..]),
            (unhealed.clone(), &["kill", "start"]),
            (unhealed.replace("kill: {", "pause: {"), &["freeze"]),
        ] {
            let plan = tweedledum_core::plan::parse(text.as_bytes(), &catalogue::catalogue());
            let plan = plan.unwrap_or_else(|wrong| panic!("{wrong:?}"));
            let schedule = tweedledum_core::schedule::resolve(&plan, plan.seed);
            let deeds = deeds(&schedule);
            assert_eq!(deeds["gateway-0"], want.iter().copied().collect());
            assert!(!deeds.contains_key("miner-0"));
        }
    }
}
