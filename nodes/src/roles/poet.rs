//! The PoET: a process without a swarm that proves time to miners, by the rules of 2020.

use crate::poet::broadcaster::{Retries, Thresholds};
use crate::poet::schedule::Schedule;
use crate::poet::service::{self, Config, Service, addresses};
use crate::poet::{Params, rest};
use crate::run::{self, RunError, Running, Tasks};
use crate::runtime::client::Client;
use crate::runtime::events;
use crate::runtime::network::Network;
use crate::runtime::process::DataDir;
use crate::settings::{Process, count, count_or_none, duration};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of an answer that is read: gateways say "ok", or why not.
const ANSWER_MAX: usize = 16 << 10;
/// Checkpoints per round, if the flags do not say how many labels lie between them.
const CHECKPOINTS: u64 = 16;
/// Parts of an epoch between two tries of a proof.
const RETRY_PART: u32 = 20;
/// Tries after the first that begin within the third of an epoch after which 2020 gave up.
const RETRIES: usize = 6;
/// Epochs for which gateways that start at the same moment are waited for.
const DIAL_EPOCHS: u32 = 2;

/// Flags of a PoET. Durations are written as `250ms`, `2s`, `24h`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Poet {
    #[command(flatten)]
    process: Process,
    /// HTTP addresses of the gateways that are handed the proofs, separated by commas; empty: wait for /v1/start
    #[arg(long, value_name = "IP:PORT,...", default_value = "", value_parser = gateways)]
    gateway: Gateways,
    /// Make proofs and send them to nobody
    #[arg(long)]
    disable_broadcast: bool,

    /// A round is 2^this labels, alike on all nodes (real network: 30 or more)
    #[arg(long, value_name = "COUNT", default_value_t = Params::DEFAULT.log2_leaves())]
    n: u32,
    /// Nested hashes per label, a count, alike on all nodes (real network: 100)
    #[arg(long, value_name = "COUNT", default_value_t = Params::DEFAULT.depth())]
    depth: u32,
    /// Labels that a proof opens, T, a count, alike on all nodes (real network: 150)
    #[arg(long, value_name = "COUNT", default_value_t = Params::DEFAULT.openings())]
    openings: u32,
    /// Upper merkle layers that are not written to disk, a count (real network: 26)
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = count_or_none)]
    memory: usize,
    /// Labels from one checkpoint to the next, a count; a sixteenth of a round if it is not given (real network: 16777216)
    #[arg(long, value_name = "COUNT", value_parser = count)]
    checkpoint_labels: Option<usize>,

    /// Gateways that must answer when they are set, a count (real network: 1)
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = count)]
    conn_acks: usize,
    /// Gateways that must take a proof, a count (real network: 1)
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = count)]
    broadcast_acks: usize,
    /// Tries of a proof after the first, a count; it is given up after this many intervals (real network: 100)
    #[arg(long, value_name = "COUNT", default_value_t = RETRIES, value_parser = count_or_none)]
    broadcast_num_retries: usize,
    /// Time from one try of a proof to the next; a twentieth of an epoch if it is not given (real network: 5m of 24h)
    #[arg(long, value_parser = duration)]
    broadcast_retries_interval: Option<Duration>,
    /// Within which a gateway must answer a proof or a dial by the API; a layer if it is not given (real network: 30s, 10s)
    #[arg(long, value_parser = duration)]
    ack_timeout: Option<Duration>,
    /// Within which the gateways of --gateway must answer; those that do not are forgotten; two epochs if it is not given (real network: 10s)
    #[arg(long, value_parser = duration)]
    dial_timeout: Option<Duration>,
    /// Leave the rounds of an earlier process as they are
    #[arg(long)]
    norecovery: bool,
}

/// Addresses in one argument, which may be empty.
#[derive(Debug, Clone)]
struct Gateways(Vec<SocketAddr>);

fn gateways(text: &str) -> Result<Gateways, String> {
    let texts: Vec<String> = text
        .split(',')
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect();
    addresses(&texts).map(Gateways)
}

impl Poet {
    pub(crate) fn run(self) -> ExitCode {
        let name = self.process.name.clone();
        run::run_process(&name, || self.prepare())
    }

    fn prepare(self) -> Result<Serving, RunError> {
        let api = self.process.api;
        run::check_own(api)?;
        let network = Network::read(&self.process.network, &self.process.name)?;
        let release = run::release(&self.process, &network)?;
        let params = Params::new(self.n, self.depth, self.openings)?;
        let schedule = Schedule::new(&network);
        let data_dir = DataDir::open(&self.process.data_dir)?;
        let config = self.config(params, &schedule, release.behaviour.poet.state_writes);
        let client =
            Client::new(api.ip(), config.ack_timeout, ANSWER_MAX).map_err(std::io::Error::other)?;
        let service = Service::new(config, schedule, client).map_err(std::io::Error::other)?;
        let mut started = run::started(&self.process, "poet", &release, &network);
        started["key"] = json!(service.poet());
        Ok(Serving {
            service: Arc::new(service),
            api,
            started,
            _data_dir: data_dir,
        })
    }

    fn config(
        &self,
        params: Params,
        schedule: &Schedule,
        writes: crate::poet::store::StateWrites,
    ) -> Config {
        let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let sixteenth = (params.leaves() / CHECKPOINTS).max(1);
        let interval = (schedule.epoch() / RETRY_PART).max(Duration::from_nanos(1));
        Config {
            params,
            memory: narrow(self.memory),
            checkpoint: self
                .checkpoint_labels
                .and_then(|labels| u64::try_from(labels).ok())
                .unwrap_or(sixteenth),
            data_dir: self.process.data_dir.clone(),
            gateways: self.gateway.0.clone(),
            disable_broadcast: self.disable_broadcast,
            thresholds: Thresholds {
                conn_acks: self.conn_acks,
                broadcast_acks: self.broadcast_acks,
            },
            retries: Retries {
                count: narrow(self.broadcast_num_retries),
                interval: self.broadcast_retries_interval.unwrap_or(interval),
            },
            ack_timeout: self.ack_timeout.unwrap_or(schedule.layer()),
            dial_timeout: self
                .dial_timeout
                .unwrap_or(schedule.epoch().saturating_mul(DIAL_EPOCHS)),
            recovery: !self.norecovery,
            writes,
        }
    }
}

/// A PoET with its data directory.
struct Serving {
    service: Arc<Service>,
    api: SocketAddr,
    started: Value,
    _data_dir: DataDir,
}

impl Running for Serving {
    fn start(&mut self) -> Result<Tasks, RunError> {
        let listener = run::listen("the API", self.api)?;
        events::emit("started", self.started.take());
        let mut tasks = Tasks::new();
        tasks.spawn(rest::serve(Arc::clone(&self.service), listener));
        tasks.spawn(service::rounds(Arc::clone(&self.service)));
        tasks.spawn(service::dial_flags(Arc::clone(&self.service)));
        Ok(tasks)
    }

    async fn stop(&mut self) {
        self.service.stop().await;
    }
}
