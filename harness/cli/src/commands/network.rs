//! `network`: the network files of a bundled network that somebody else starts, such as docker-compose.
//!
//! The files are those that runs write, made the same way: from a plan. Identities follow from a seed that is drawn when
//! the files are written, so that no secret needs to be kept anywhere. With `--hold` it stays: the disks that are
//! mounted there then outlive the containers of the nodes, as a tmpfs is emptied when nobody has it mounted.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tweedledum_core::launch::{self, Network, Place};
use tweedledum_core::plan::{self, Plan};
use tweedledum_harness::agent::Dialect as _;
use tweedledum_harness::clock::unix_ns;
use tweedledum_harness::store::write_atomic;
use tweedledum_harness::substrate::process::Nonce;

use super::Failure;
use crate::catalogue;
use crate::dialect::UdpSession2020;
use crate::printer::Printer;

/// Where nodes find their data and their file in containers.
const DATA: &str = "/data";
const FILES: &str = "/network";
/// Written last.
const READY: &str = "ready";

/// `network`
#[derive(Debug, Args)]
pub(crate) struct NetworkArgs {
    /// Where the files are written, one per node
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many nodes of which bundled role there are
    #[arg(
        long,
        value_name = "ROLE=COUNT,...",
        default_value = "miner=6,gateway=5,poet=2",
        value_delimiter = ',',
        value_parser = role_count
    )]
    nodes: Vec<(String, u32)>,
    /// Address of the first node; those of the others follow
    #[arg(long, value_name = "IP")]
    first: Ipv4Addr,
    /// Length of a layer
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = humantime::parse_duration)]
    layer: Duration,
    /// Layers in an epoch
    #[arg(long, value_name = "COUNT", default_value_t = 4)]
    layers_per_epoch: u32,
    /// How long from now on genesis is; all nodes must run an epoch earlier
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = humantime::parse_duration)]
    genesis: Duration,
    /// What the nodes are
    #[arg(long, value_name = "NAME", default_value = "fixed")]
    release: String,
    /// What all identities follow from [default: drawn]
    #[arg(long)]
    seed: Option<u64>,
    /// Stay until asked to end, and keep the disks of nodes that are mounted below this directory; while one of them
    /// has data, the files stay as they are
    #[arg(long, value_name = "DIR")]
    hold: Option<PathBuf>,
}

pub(crate) fn run(args: &NetworkArgs, printer: &Printer) -> Result<u8, Failure> {
    let plan = plan_of(args)?;
    if args.hold.as_deref().is_some_and(has_data) && args.out.join(READY).exists() {
        printer.note("nodes of this network have data, so it goes on; nothing is written");
    } else {
        write(args, &plan, printer)?;
    }
    if args.hold.is_none() {
        return Ok(0);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // The first process of a container is not ended by a signal that it does not handle.
        let mut term = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(0)
    })
}

/// A plan with this network and nothing that is done to it: the rules of plans hold here too.
fn plan_of(args: &NetworkArgs) -> Result<Plan, Failure> {
    let nodes: Vec<String> = args
        .nodes
        .iter()
        .map(|(role, count)| format!("{role}: {count}"))
        .collect();
    let text = format!(
        "format: 1\nplan: network\nnetwork: {{ layer: {}us, layers-per-epoch: {}, nodes: {{ {} }} }}\n\
         expect: [{{ agree: {{ about: state-root }} }}]\n",
        args.layer.as_micros(),
        args.layers_per_epoch,
        nodes.join(", "),
    );
    plan::parse(text.as_bytes(), &catalogue::catalogue()).map_err(|diagnostics| {
        let told = plan::render(
            &diagnostics,
            "the network asked for",
            text.as_bytes(),
            false,
        );
        Failure::Plan { rendered: told }
    })
}

fn write(args: &NetworkArgs, plan: &Plan, printer: &Printer) -> Result<(), Failure> {
    let release = plan.releases.get(&args.release);
    let release = release.ok_or_else(|| Failure::Usage {
        message: format!("there is no release `{}`", args.release),
        hint: "`tweedledum list releases` prints those that there are".to_owned(),
    })?;
    let seed = match args.seed {
        Some(seed) => seed,
        None => drawn()?,
    };
    let places = places(args, plan, seed)?;
    let wait = u64::try_from(args.genesis.as_nanos()).unwrap_or(u64::MAX);
    let network = Network {
        plan,
        release,
        seed,
        netid: catalogue::NETID,
        genesis_unix_ns: unix_ns().saturating_add(wait),
        places: &places,
    };
    fs_err::create_dir_all(&args.out)?;
    let ready = args.out.join(READY);
    if ready.exists() {
        fs_err::remove_file(&ready)?;
    }
    for node in &plan.nodes {
        let Some(role) = plan.roles.get(&node.role) else {
            continue;
        };
        let text = format!("{:#}\n", network.launch(node, role).network);
        let path = args.out.join(format!("{}.json", node.name));
        write_atomic(&path, text.as_bytes())
            .map_err(|error| Failure::Substrate(error.to_string()))?;
    }
    write_atomic(&ready, b"").map_err(|error| Failure::Substrate(error.to_string()))?;
    printer.note(&format!(
        "{} nodes of {}, seed {seed}, genesis in {:?}",
        plan.nodes.len(),
        release.name,
        args.genesis
    ));
    Ok(())
}

fn places(args: &NetworkArgs, plan: &Plan, seed: u64) -> Result<BTreeMap<String, Place>, Failure> {
    let mut next = u32::from(args.first);
    let mut places = BTreeMap::new();
    for node in &plan.nodes {
        let secret = launch::identity(seed, &node.name);
        let speaks = plan.roles.get(&node.role).map(|role| &role.speaks);
        let has_keys = speaks.is_some_and(|speaks| speaks.contains(UdpSession2020.name()));
        let key = |key: [u8; 32]| {
            if has_keys {
                hex::encode(key)
            } else {
                String::new()
            }
        };
        let place = Place {
            address: Ipv4Addr::from(next).to_string(),
            data: DATA.to_owned(),
            network: format!("{FILES}/{}.json", node.name),
            key: key(UdpSession2020.public_key(&secret)),
            id: key(UdpSession2020.signing_key(&secret)),
        };
        places.insert(node.name.clone(), place);
        next = next.checked_add(1).ok_or_else(|| Failure::Usage {
            message: format!("there are not that many addresses from {} on", args.first),
            hint: "give a lower --first".to_owned(),
        })?;
    }
    Ok(places)
}

/// Whether anything lies in a directory of this one.
fn has_data(disks: &Path) -> bool {
    let of = |path: &Path| fs_err::read_dir(path).into_iter().flatten().flatten();
    of(disks).any(|disk| of(&disk.path()).next().is_some())
}

/// A seed that nobody knows.
fn drawn() -> Result<u64, Failure> {
    let drawn = Nonce::random()?.to_string();
    let half = drawn.get(..16).unwrap_or_default();
    u64::from_str_radix(half, 16).map_err(|error| Failure::Substrate(error.to_string()))
}

fn role_count(text: &str) -> Result<(String, u32), String> {
    let (role, count) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is not ROLE=COUNT"))?;
    let count = count
        .parse()
        .map_err(|error| format!("`{count}` is no count: {error}"))?;
    Ok((role.to_owned(), count))
}
