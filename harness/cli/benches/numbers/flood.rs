//! Whether the flooder holds the rate it was asked for, against a lone gateway of the fixed release.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tweedledum_core::launch::{Network, Place, identity};
use tweedledum_harness::agent::evidence::FloodEvidence;
use tweedledum_harness::agent::flood::{FloodReport, FloodSpec, PreparedFlood};
use tweedledum_harness::agent::{DatagramKind, Dialect as _};
use tweedledum_harness::clock::unix_ns;
use tweedledum_harness::substrate::process::{NodePipes, Program};

use crate::dialect::UdpSession2020;
use crate::hundred::{NETID, RELEASE, fixed, plan};
use crate::stage::{Stage, said};
use crate::table::{REPEATS, Row, time};
use crate::{Failure, TWEEDLEDUM};

/// Part of the asked rate that the achieved one may be off.
const TOLERANCE: f64 = 0.05;
const SEED: u64 = 0;

/// The flood of the incident, and a big one.
pub(crate) async fn rows(stage: &Stage) -> Result<(), Failure> {
    for (sources, over) in [
        (320, Duration::from_millis(125)),
        (10_000, Duration::from_secs(1)),
    ] {
        let mut floods = Vec::new();
        for _ in 0..REPEATS {
            let gateway = Gateway::start(stage).await?;
            floods.push(gateway.flood(stage, sources, over).await?);
            stage.clear().await?;
        }
        print(sources, over, &floods)?;
    }
    Ok(())
}

/// The rows of one size of flood: the rate, the sources, and what arrived, which is as much the gateway's doing.
fn print(sources: u32, over: Duration, floods: &[FloodReport]) -> Result<(), Failure> {
    let what = format!("flood of {sources} over {} ms", over.as_millis());
    let off = |flood: &FloodReport| {
        let achieved = flood.achieved_rate().unwrap_or_default();
        (achieved / flood.asked_rate() - 1.0).abs()
    };
    let best = floods.iter().map(off).fold(f64::INFINITY, f64::min);
    let late = floods.iter().map(|flood| flood.max_late).max();
    Row {
        what: &format!("{what}: rate"),
        limit: "within 5 %",
        measured: format!("{:.1} % off", best * 100.0),
        within: Some(best <= TOLERANCE),
        note: format!(
            "best of {}; a datagram was up to {} late",
            list(floods, |flood| format!("{:.1} %", off(flood) * 100.0)),
            time(late.unwrap_or_default())
        ),
    }
    .print()?;
    let exact = |flood: &&FloodReport| flood.bound == sources && flood.sent == sources;
    let exact = floods.iter().filter(exact).count();
    Row {
        what: &format!("{what}: sources"),
        limit: "exact, each time",
        measured: format!("exact {exact} of {}", floods.len()),
        within: Some(exact == floods.len()),
        note: format!("sent: {}", list(floods, |flood| flood.sent.to_string())),
    }
    .print()?;
    let evidence = |flood: &FloodReport| FloodEvidence::of(flood);
    let applied = floods.iter().filter(|flood| evidence(flood).applied());
    Row {
        what: &format!("{what}: counts as applied"),
        limit: "",
        measured: format!("{} of {}", applied.count(), floods.len()),
        within: None,
        note: format!(
            "not dropped at the gateway's socket: {}",
            list(floods, |flood| evidence(flood).reached.to_string())
        ),
    }
    .print()
}

fn list(floods: &[FloodReport], one: impl Fn(&FloodReport) -> String) -> String {
    floods.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A gateway that knows nobody.
struct Gateway {
    address: SocketAddr,
    key: [u8; 32],
    /// Held, so that it can go on writing.
    _pipes: NodePipes,
}

impl Gateway {
    async fn start(stage: &Stage) -> Result<Self, Failure> {
        let plan = plan(
            "nodes: { gateway: 1 }",
            "250ms",
            "{ signal: tx, of: every gateway, within: 2 layers }",
            "",
        )?;
        let node = plan.nodes.first().ok_or("the plan has no node")?;
        let role = plan.roles.get(&node.role).ok_or("the plan has no role")?;
        let directory = tempfile::tempdir_in(&stage.host.context.runs)?.keep();
        let address = stage.ground.blocks().node(0).ok_or("no address")?;
        let secret = identity(SEED, &node.name);
        let key = UdpSession2020.public_key(&secret);
        let place = Place {
            address: address.to_string(),
            data: directory.join("data").display().to_string(),
            network: directory.join("network.json").display().to_string(),
            key: hex::encode(key),
            id: hex::encode(UdpSession2020.signing_key(&secret)),
        };
        let release = fixed();
        let network = Network {
            plan: &plan,
            release: &release,
            seed: SEED,
            netid: NETID,
            genesis_unix_ns: unix_ns(),
            places: &BTreeMap::from([(node.name.clone(), place)]),
        };
        let launch = network.launch(node, role);
        let address = network.socket(node, "p2p").ok_or("no p2p port")?.parse()?;
        fs_err::write(directory.join("network.json"), launch.network.to_string())?;
        fs_err::create_dir(directory.join("data"))?;
        let args = launch.args.into_iter().chain(["--alone".to_owned()]);
        let program = Program::Path(TWEEDLEDUM.into());
        let (_, pipes) = stage
            .start(
                format!("{}-{RELEASE}", node.name),
                program,
                args.map(Into::into),
            )
            .await?;
        said(&pipes, r#""ready""#).await?;
        Ok(Self {
            address,
            key,
            _pipes: pipes,
        })
    }

    async fn flood(
        &self,
        stage: &Stage,
        sources: u32,
        over: Duration,
    ) -> Result<FloodReport, Failure> {
        let agent = stage.ground.blocks().agent(0).ok_or("no address")?;
        let spec = FloodSpec {
            target: self.address,
            target_key: self.key,
            source_ip: IpAddr::V4(agent),
            sources,
            over,
            last_after: None,
            late_max: over,
            kind: DatagramKind::WellFormed,
            seed: [7; 32],
            netid: NETID,
            due_unix_ns: unix_ns(),
        };
        let prepared = PreparedFlood::prepare(&UdpSession2020, spec)?;
        let mut flood = prepared.start(Instant::now())?;
        flood.sent().await?;
        Ok(flood.stop()?)
    }
}
