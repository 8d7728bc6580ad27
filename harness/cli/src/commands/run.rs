//! `run`: a plan against its controls, or against one release.
//!
//! What the user starts only checks and supervises; the run itself happens in a child, so that whatever dies, something
//! is left to clean up. The plan is read once, by the first: its very bytes pass to the child and into the run directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tweedledum_core::plan::Plan;
use tweedledum_core::plan::model::{Control, Release};
use tweedledum_core::report::text;
use tweedledum_core::schedule;
use tweedledum_core::substrate::SubstrateKind;
use tweedledum_harness::agent::Dialect;
use tweedledum_harness::controller::{self, Host, Job};
use tweedledum_harness::doctor::steps::FILES_GROW;
use tweedledum_harness::store::{self, RunDirectory};
use tweedledum_harness::substrate::docker::DockerGround;
use tweedledum_harness::substrate::docker::attached::AttachedGround;
use tweedledum_harness::substrate::docker::attached::project::Project;
use tweedledum_harness::substrate::docker::run::Words;
use tweedledum_harness::substrate::process::{ProcessGround, Spawner, disk, let_files_grow};
use tweedledum_harness::substrate::{Executables, Ground};
use tweedledum_harness::supervise::{self, Guards, RunContext, SuperviseConfig};
use tweedledum_harness::undo::{self, IntentLog};

use super::attach::find;
use super::clean::what_is_left;
use super::{Failure, internal, no_file_in_the_way, parse_plan, read_plan_bytes, schedule_of};
use crate::args::RunArgs;
use crate::catalogue;
use crate::dialect::UdpSession2020;
use crate::fit;
use crate::judged::Judged;
use crate::printer::Printer;
use crate::progress::Progress;

/// How long an interrupted controller may take to heal, stop every node and report.
const INTERRUPT_GRACE: Duration = Duration::from_secs(30);
/// How long calls that block may go on after a run's end; each of them is bounded by less, unless the system hangs.
const THREADS_BOUND: Duration = Duration::from_secs(10);

/// One release that is about to be run, and what it must give when it is a control.
type Turn<'a> = (&'a Release, Option<&'a Control>);

/// What the user started: checks everything that can be checked, then supervises the run.
pub(crate) fn supervise(args: &RunArgs, printer: &Printer) -> Result<u8, Failure> {
    nameable(&args.runs)?;
    no_file_in_the_way(&args.runs)?;
    let bytes = read_plan_bytes(&args.plan)?;
    let plan = parse_plan(&args.plan, &bytes, printer)?;
    let turns = turns(&plan, args)?;
    let place = fit::place(args.substrate, &plan);
    let releases = turns.iter().map(|(release, _)| *release);
    executables(&plan, releases, &args.plan, place)?;
    let drawn = schedule_of(&args.plan, &plan, args.seed.unwrap_or(plan.seed))?;
    let held = drawn.steps.iter().any(|step| step.action.holds_disk());
    fit::tried(&args.plan, &args.runs, &plan, &drawn, place)?;
    let process = place == SubstrateKind::Process;
    if process && (held || plan.nodes.iter().any(|node| node.disk.is_some())) {
        disk::supported().map_err(|error| Failure::Usage {
            message: error.to_string(),
                hint: "this machine cannot hold disks of nodes; all other plans run, and this one with --substrate docker".to_owned(),
        })?;
    }
    let mut controller = internal::words("controller");
    // Our own words after `run`: the child parses them as its own.
    controller.extend(std::env::args_os().skip(2));
    supervised(args, controller, bytes, printer)
}

/// Supervises a controller that is started with these words and gets the bytes of its plan.
pub(super) fn supervised(
    args: &RunArgs,
    controller: Vec<OsString>,
    input: Vec<u8>,
    printer: &Printer,
) -> Result<u8, Failure> {
    let_files_grow()
        .map_err(|why| Failure::Substrate(format!("{why}; nothing was started: {FILES_GROW}")))?;
    let config = SuperviseConfig {
        runs: args.runs.clone(),
        watchdog: internal::words("watchdog"),
        controller,
        interrupt_grace: INTERRUPT_GRACE,
        input,
    };
    let supervised =
        supervise::supervise(&config).map_err(|error| Failure::Substrate(error.to_string()))?;
    if let Some(reason) = &supervised.reason {
        printer.note(&format!("error: {reason}"));
    }
    for left in &supervised.left {
        printer.note(&format!("left behind: {}", what_is_left(left)));
    }
    Ok(supervised.code)
}

/// Nodes are told where their data lies in text (arguments, a JSON file), so a path that is no text cannot be told.
fn nameable(runs: &Path) -> Result<(), Failure> {
    let absolute = std::path::absolute(runs)?;
    // What exists already may lead elsewhere.
    let meant = fs_err::canonicalize(&absolute).unwrap_or(absolute);
    if meant.to_str().is_some() {
        return Ok(());
    }
    Err(Failure::Usage {
        message: format!(
            "run directories cannot be made in {}: the path is not UTF-8, and nodes are told theirs as text",
            meant.display()
        ),
        hint: "name another directory with --runs".to_owned(),
    })
}

/// The child of [`supervise()`]: conducts the run. Everything was checked before, so what fails now is not the plan's.
pub(crate) fn control(
    args: &RunArgs,
    attach: Option<&str>,
    printer: &Printer,
) -> Result<u8, Failure> {
    conducted(args, attach, printer).map_err(|failure| match failure {
        Failure::File(error) => Failure::Substrate(error.to_string()),
        other => other,
    })
}

fn conducted(args: &RunArgs, attach: Option<&str>, printer: &Printer) -> Result<u8, Failure> {
    let substrate = |error: &dyn std::fmt::Display| Failure::Substrate(error.to_string());
    let entry = supervise::controller_enter().map_err(|error| substrate(&error))?;
    let bytes = entry.input.clone();
    let plan = parse_plan(&args.plan, &bytes, printer)?;
    let turns = turns(&plan, args)?;
    let place = fit::place(args.substrate, &plan);
    let project = attach.map(|name| find(name, &plan)).transpose()?;
    // What is there already is started from its own images.
    let executables = if project.is_some() {
        Executables::default()
    } else {
        let releases = turns.iter().map(|(release, _)| *release);
        let paths = executables(&plan, releases, &args.plan, place)?;
        Executables::hold(&entry.context.exe, paths)?
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let run = entry.context.clone();
    let conducted = runtime.block_on(async {
        let (context, guards, events) = entry.connect().map_err(|error| substrate(&error))?;
        // Interrupts come through the links to the guards, whoever else needs these.
        let nodes = plan.nodes.len();
        let ground = ground(place, project, &context, guards.clone(), nodes).await?;
        let mut host = Host { context, events };
        let work = Work {
            args,
            plan: &plan,
            bytes: &bytes,
            turns: &turns,
            executables: &executables,
            ground: ground.as_ref(),
        };
        let conducted = conduct(&work, &mut host, printer).await;
        let again = ground.brought_up();
        if !again.is_empty() {
            printer.note(&format!(
                "brought up again after the run: {}",
                again.join(", ")
            ));
        }
        drop(guards);
        conducted
    });
    if !end(runtime, THREADS_BOUND) {
        printer.note(&format!(
            "a call of the run still had not come back {THREADS_BOUND:?} after its end, and is given up; see whether every disk \
             and mount that the run used answers"
        ));
    }
    for left in supervise::end_alone(&run) {
        printer.note(&format!("left behind: {}", what_is_left(&left)));
    }
    conducted
}

/// Ends the runtime; whether all of its threads ended within the bound.
fn end(runtime: tokio::runtime::Runtime, bound: Duration) -> bool {
    let began = Instant::now();
    runtime.shutdown_timeout(bound);
    began.elapsed() < bound
}

/// Constructs the ground that nodes are put on; which there are is in [`SubstrateKind`].
async fn ground(
    place: SubstrateKind,
    project: Option<Project>,
    context: &RunContext,
    guards: Guards,
    nodes: usize,
) -> Result<Box<dyn Ground>, Failure> {
    let substrate = |error: &dyn std::fmt::Display| Failure::Substrate(error.to_string());
    let words = Words {
        agent: vec!["agent".to_owned()],
        keeper: vec!["internal".to_owned(), "keeper".to_owned()],
    };
    let executable = Path::new("/proc/self/exe");
    if let Some(project) = project {
        let ledger = undo::ledger(&context.intents)?;
        let nonce = context.nonce;
        let who = format!(
            "process {} with its runs in {}",
            context.stub.pid,
            std::path::absolute(&context.runs)?.display()
        );
        let reached = AttachedGround::reach(project, nonce, executable, words, who, ledger).await;
        return Ok(Box::new(reached.map_err(Failure::Substrate)?));
    }
    match place {
        SubstrateKind::Process => {
            let blocks = guards.claim_addresses(context, nodes).await;
            let blocks = blocks.map_err(|error| substrate(&error))?;
            let spawner = Spawner::new(context.clone(), guards, internal::words("shim"));
            Ok(Box::new(ProcessGround::new(spawner, blocks)))
        }
        SubstrateKind::Docker => {
            let ledger = undo::ledger(&context.intents)?;
            let reached = DockerGround::reach(context.nonce, executable, words, ledger).await;
            Ok(Box::new(reached.map_err(Failure::Substrate)?))
        }
    }
}

/// What is to be run, and where.
struct Work<'a> {
    args: &'a RunArgs,
    plan: &'a Plan,
    /// The plan as it was written.
    bytes: &'a [u8],
    turns: &'a [Turn<'a>],
    executables: &'a Executables,
    ground: &'a dyn Ground,
}

/// Runs every turn, one after the other, and says how they compare.
async fn conduct(work: &Work<'_>, host: &mut Host, printer: &Printer) -> Result<u8, Failure> {
    let Work {
        args,
        plan,
        bytes,
        turns,
        executables,
        ground,
    } = *work;
    let substrate = |error: &dyn std::fmt::Display| Failure::Substrate(error.to_string());
    let seed = args.seed.unwrap_or(plan.seed);
    let drawn = schedule_of(&args.plan, plan, seed)?;
    let worst = Duration::from_nanos(schedule::wall_ns_max(plan, &drawn, ground.pace()));
    let timeout = args.timeout.unwrap_or(worst * 2);
    let dialects: Vec<Arc<dyn Dialect>> = vec![Arc::new(UdpSession2020)];
    let mut intents = IntentLog::open(&host.context.intents)?;
    let runs = host.context.runs.clone();
    let directory =
        RunDirectory::create(&runs, &plan.name, seed, &host.context.nonce, &mut intents)
            .map_err(|error| substrate(&error))?;
    store::write_atomic(&directory.path().join("plan.yaml"), bytes)?;
    let drawn = serde_json::to_vec_pretty(&drawn).unwrap_or_default();
    store::write_atomic(&directory.path().join("schedule.json"), &drawn)?;
    let mut verdicts = Vec::new();
    for (release, control) in turns {
        let own = directory
            .release(&release.name)
            .map_err(|error| substrate(&error))?;
        let job = Job {
            plan,
            release,
            control: *control,
            seed,
            netid: catalogue::NETID,
            base: directory_of(&args.plan),
            dialects: &dialects,
            timeout,
            ground,
            executables: executables.clone(),
        };
        let mut progress = Progress::new(printer, plan, &release.name);
        let verdict = controller::run(host, &job, &own, &mut |record| progress.saw(record))
            .await
            .map_err(|error| substrate(&error))?;
        progress.done();
        let path = own.path().display().to_string();
        let options = text::Options {
            colour: printer.colour(),
            directory: Some(&path),
            ..text::Options::default()
        };
        printer.note(&text::run(&verdict, &options));
        write_reports(own.path(), &Judged::Plain(Box::new(verdict.clone())))?;
        let interrupted = verdict.interrupted.is_some();
        verdicts.push(verdict);
        if interrupted {
            break;
        }
    }
    let planned = turns.iter().filter_map(|(_, control)| *control);
    let planned = planned.map(|control| control.release.clone()).collect();
    let Some(judged) = Judged::of(verdicts, Ok(planned)) else {
        return Err(Failure::Substrate("nothing was run".to_owned()));
    };
    let code = finish(args, directory.path(), &judged, printer)?;
    for pruned in store::prune(&runs, args.keep)? {
        if let Some(why) = pruned.failed {
            printer.note(&format!(
                "warning: cannot prune {}: {why}",
                pruned.path.display()
            ));
        }
    }
    Ok(code)
}

/// Reports of all releases together, on top of the run directory and on standard output.
fn finish(
    args: &RunArgs,
    directory: &Path,
    judged: &Judged,
    printer: &Printer,
) -> Result<u8, Failure> {
    write_reports(directory, judged)?;
    let path = directory.display().to_string();
    let options = text::Options {
        colour: printer.colour(),
        directory: Some(&path),
        ..text::Options::default()
    };
    if let Some(summary) = judged.summary(&options) {
        printer.note(&summary);
    }
    judged.print(args.format, printer)?;
    Ok(judged.exit_code().code())
}

fn write_reports(directory: &Path, judged: &Judged) -> Result<(), Failure> {
    store::write_atomic(&directory.join("verdict.json"), judged.json()?.as_bytes())?;
    store::write_atomic(&directory.join("junit.xml"), judged.junit()?.as_bytes())?;
    Ok(())
}

/// Which releases are run: the one that is named, else the plan's controls.
fn turns<'a>(plan: &'a Plan, args: &RunArgs) -> Result<Vec<Turn<'a>>, Failure> {
    let known = || plan.releases.keys().cloned().collect::<Vec<_>>().join(", ");
    let release = |name: &str| {
        plan.releases.get(name).ok_or_else(|| Failure::Usage {
            message: format!("there is no release `{name}`"),
            hint: format!("the plan knows {}", known()),
        })
    };
    match &args.release {
        Some(name) => Ok(vec![(release(name)?, None)]),
        None if plan.controls.is_empty() => Err(Failure::Usage {
            message: format!(
                "the plan `{}` has no controls, so a release must be named",
                plan.name
            ),
            hint: format!("add `--release NAME`; the plan knows {}", known()),
        }),
        None => plan
            .controls
            .iter()
            .map(|control| Ok((release(&control.release)?, Some(control))))
            .collect(),
    }
}

/// Where every executable of the plan's own lies that nodes will be started from, by the plan's name for it; a missing
/// one is an error before anything starts. Nothing is read of them: `check` must stay quick.
pub(crate) fn executables<'a>(
    plan: &Plan,
    releases: impl Iterator<Item = &'a Release>,
    file: &Path,
    place: SubstrateKind,
) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let used: BTreeSet<&str> = plan.nodes.iter().map(|node| node.role.as_str()).collect();
    let mut paths = BTreeSet::new();
    for release in releases {
        for role in plan
            .roles
            .values()
            .filter(|role| used.contains(role.name.as_str()))
            // What is in an image is not looked for here.
            .filter(|role| place == SubstrateKind::Process || role.image.is_none())
        {
            match (role.command.first().map(String::as_str), &release.bin) {
                (Some("{release.bin}"), Some(bin)) => paths.insert(bin.clone()),
                (Some("{release.bin}"), None) | (None, _) => false,
                (Some(path), _) => paths.insert(path.to_owned()),
            };
        }
    }
    let mut found = BTreeMap::new();
    for path in paths {
        let resolved = resolve(&path, file);
        executable(&resolved).map_err(|error| Failure::Usage {
            message: format!("the executable `{path}` cannot be used: {error}"),
            hint: "paths of executables are relative to the plan's directory; build it first, or give an absolute path".to_owned(),
        })?;
        found.insert(path, resolved);
    }
    Ok(found)
}

/// Whether a file can be executed.
fn executable(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = fs_err::metadata(path)?;
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        return Ok(());
    }
    let text = format!("{} is no executable file", path.display());
    Err(std::io::Error::new(
        std::io::ErrorKind::PermissionDenied,
        text,
    ))
}

/// Executables are named relative to the plan, so that a plan means the same wherever it is run from.
fn resolve(path: &str, plan: &Path) -> PathBuf {
    directory_of(plan).join(path)
}

/// The directory of a plan, absolute.
fn directory_of(plan: &Path) -> PathBuf {
    let absolute = std::path::absolute(plan).unwrap_or_else(|_| plan.to_owned());
    absolute
        .parent()
        .map_or_else(|| PathBuf::from("/"), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_does_not_hold_the_command() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.build().unwrap()
        };
        assert!(end(runtime(), THREADS_BOUND));
        let stuck = runtime();
        let (release, hangs) = std::sync::mpsc::channel::<()>();
        stuck.spawn_blocking(move || hangs.recv());
        assert!(!end(stuck, Duration::from_millis(20)));
        drop(release);
    }
}
