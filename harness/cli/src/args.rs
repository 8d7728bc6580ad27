//! What may stand on the command line. Parsing only: nothing here looks at the machine.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _, ValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use tweedledum_core::substrate::SubstrateKind;

/// Starts a network of real processes, breaks it as a plan says, and judges whether it kept advancing.
#[derive(Debug, Parser)]
#[command(name = "tweedledum", version, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 pass, 1 fail, 2 bad plan or command line (nothing was started), 3 inconclusive, \
    4 could not be run or its results not written, 5 something was left behind or a record of it cannot be read, 130 or 143 interrupted."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One file of `commands/` each.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a plan against its controls, or against one release, and judge it
    Run(RunArgs),
    /// Run a plan's faults against a compose project that runs, judge it, and leave it running
    Attach(crate::commands::attach::AttachArgs),
    /// Report everything that is wrong with plans; starts nothing
    Check(CheckArgs),
    /// Print what a plan would do when: its schedule, when liveness is demanded, how long it may take
    Plan(PlanArgs),
    /// Judge a recorded run again from its history
    Judge(JudgeArgs),
    /// List fault kinds, oracles, findings, roles or releases, or how each substrate carries faults out
    List(ListArgs),
    /// Print the JSON Schema of the plan format
    Schema,
    /// Try for real what faults need of this machine and of an engine: what works, what fails with which errno, and the fix
    Doctor(crate::commands::doctor::DoctorArgs),
    /// Remove what dead runs have left; never touches a live run or anything that is not ours
    Clean(CleanArgs),
    /// Import this executable as an image into the Docker engine, and print its tag; docker-compose.yml needs it
    Image,
    /// Write the network files of a bundled network that something else starts, as docker-compose.yml does
    Network(crate::commands::network::NetworkArgs),
    /// Whether a page answers or a file is there, for health checks of containers
    #[command(hide = true)]
    Healthy(crate::commands::healthy::HealthyArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Be one node of the bundled network
    Node(tweedledum_nodes::NodeArgs),
    /// Be the agent of a node's pod, as runs start it in containers
    #[command(hide = true)]
    Agent,
    /// Parts of a run that it starts itself
    #[command(hide = true)]
    Internal(crate::commands::internal::InternalArgs),
}

/// `run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The plan
    pub(crate) plan: PathBuf,
    /// Judge this one release plainly, instead of running the plan's controls
    #[arg(long, value_name = "NAME")]
    pub(crate) release: Option<String>,
    /// Where nodes live [default: the plan's own, else process]
    #[arg(long, value_parser = substrates(), value_name = "WHERE")]
    pub(crate) substrate: Option<SubstrateKind>,
    /// Seed of everything random [default: the plan's own, else 0]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Where run directories are kept
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub(crate) runs: PathBuf,
    /// How many finished runs are kept there
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    pub(crate) keep: usize,
    /// Give up a release after this much wall time for its start, and again for its run, as 5m [default: twice the plan's worst case]
    #[arg(long, value_name = "DURATION", value_parser = humantime_duration)]
    pub(crate) timeout: Option<std::time::Duration>,
    /// What is written to standard output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// `check`
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Plans
    #[arg(required = true)]
    pub(crate) plans: Vec<PathBuf>,
    /// Where nodes would live [default: each plan's own, else process]
    #[arg(long, value_parser = substrates(), value_name = "WHERE")]
    pub(crate) substrate: Option<SubstrateKind>,
    /// What is written to standard output
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub(crate) format: Form,
}

/// `plan`
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The plan
    pub(crate) plan: PathBuf,
    /// Where nodes would live, which decides how long a run takes [default: the plan's own, else process]
    #[arg(long, value_parser = substrates(), value_name = "WHERE")]
    pub(crate) substrate: Option<SubstrateKind>,
    /// Seed of everything random [default: the plan's own, else 0]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// What is written to standard output
    #[arg(long, value_enum, default_value_t = Form::Text)]
    pub(crate) format: Form,
}

/// `judge`
#[derive(Debug, Args)]
pub(crate) struct JudgeArgs {
    /// A run directory, or the directory that holds the runs of all controls
    pub(crate) run: PathBuf,
    /// What is written to standard output
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
}

/// `list`
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Of what
    #[arg(value_enum)]
    pub(crate) what: Listed,
}

/// `clean`
#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// Where run directories are kept
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub(crate) runs: PathBuf,
}

/// Reads the name of a substrate.
pub(crate) fn substrates() -> ValueParser {
    let about = |kind| match kind {
        SubstrateKind::Process => "Processes on this machine's loopback; no rights, no containers",
        SubstrateKind::Docker => "Containers on a Docker engine",
    };
    let all = SubstrateKind::ALL.iter();
    let all = all.map(|kind| PossibleValue::new(kind.word()).help(about(*kind)));
    let named = |word: String| SubstrateKind::named(&word).ok_or("no substrate has this name");
    PossibleValuesParser::new(all).try_map(named).into()
}

/// What can be listed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Listed {
    /// Fault kinds and their parameters
    Faults,
    /// Expectations and their parameters
    Oracles,
    /// Ids of findings and what they mean
    Findings,
    /// The bundled roles, in the form a plan declares its own, and the placeholders that roles may use
    Roles,
    /// The bundled releases and their switches
    Releases,
    /// Every fault kind on every substrate: how it is done and proved (Markdown)
    Conformance,
}

/// Forms of output where nothing is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Nothing there: people read standard error
    Text,
    /// For programs
    Json,
    /// For CI servers
    Junit,
}

impl Format {
    /// As it stands on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
            Self::Junit => "junit",
        }
    }
}

fn humantime_duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}
