//! The PoET as it runs: rounds by protocol time, members, work, proofs, gateways, and recovery.
//!
//! One task ([`rounds`]) opens and closes rounds; each closed round has a task of its own that works,
//! proves, hands the proof to the gateways and, when they took it, removes the round. As in 2020:
//!
//! - a round takes the gateways that are set when its proof is made; setting others changes nothing
//!   for proofs that are already being tried;
//! - a round that was given up is neither sent again nor removed until the PoET is restarted;
//! - a round that fails, for lack of disk or anything else, stays as it is, and the PoET goes on.
//!
//! What a release may do differently one day belongs into `releases.rs` as a behaviour, and is handed
//! in by [`Config`].

use super::broadcaster::{Broadcaster, Retries, Thresholds};
use super::execution::{Failure, Plan, Round};
use super::hash::Node;
use super::messages::{Gateways, Info};
use super::new_round::{OpenRound, Registered, new_round};
use super::rest::Refusal;
use super::schedule::Schedule;
use super::store::{self, RoundDir, StateWrites, StoreError};
use super::work::Checkpoint;
use super::{Execution, Params, RoundId, ServiceState, rate, told};
use crate::runtime::client::Client;
use crate::runtime::{clock, events, lock};
use ed25519_dalek::SigningKey;
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};

/// The clock is asked again this often at least, since it may be set while we wait.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Proofs that are kept for whoever asks: two epochs' worth of late askers, and some.
const PROOFS_KEPT: usize = 4;
/// Gateways that one call may name.
const GATEWAYS_MAX: usize = 256;
/// Rounds that a registration is tried with, when each closes as it comes.
const ROUNDS_TRIED: usize = 3;
/// How long a stopping PoET waits for its checkpoints.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// What a PoET is told by its flags and its release.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) params: Params,
    pub(crate) memory: u32,
    /// Labels from one checkpoint to the next.
    pub(crate) checkpoint: u64,
    pub(crate) data_dir: PathBuf,
    /// Those of the flags; without any, nothing begins before `/v1/start`.
    pub(crate) gateways: Vec<SocketAddr>,
    pub(crate) disable_broadcast: bool,
    pub(crate) thresholds: Thresholds,
    pub(crate) retries: Retries,
    /// Within which gateways answer, and calls that dial them.
    pub(crate) ack_timeout: Duration,
    /// Within which the gateways of the flags are dialled.
    pub(crate) dial_timeout: Duration,
    /// Rounds of an earlier process are taken up.
    pub(crate) recovery: bool,
    pub(crate) writes: StateWrites,
}

/// A PoET.
#[derive(Debug)]
pub(crate) struct Service {
    config: Config,
    schedule: Schedule,
    client: Client,
    key: SigningKey,
    /// The public key, as events name it.
    poet: String,
    /// The round that takes members; none before the start.
    open: Mutex<Option<Arc<OpenRound>>>,
    executing: Mutex<BTreeSet<RoundId>>,
    proofs: Mutex<VecDeque<(RoundId, Arc<[u8]>)>>,
    /// None while the gateways of the flags are being dialled.
    broadcaster: watch::Sender<Option<Arc<Broadcaster>>>,
    started: watch::Sender<bool>,
    stopping: watch::Sender<bool>,
    /// Parts of the work that must not be cut off in the middle of a write.
    busy: watch::Sender<usize>,
}

impl Service {
    /// A PoET with the identity that its data directory holds, or a new one.
    ///
    /// # Errors
    /// A state that cannot be read, is empty or damaged, or cannot be written.
    pub(crate) fn new(
        config: Config,
        schedule: Schedule,
        client: Client,
    ) -> Result<Self, IdentityError> {
        let state = match store::load_service(&config.data_dir)? {
            Some(state) => state,
            None => first_state(&config)?,
        };
        let starts = config.disable_broadcast || !config.gateways.is_empty();
        let disabled = config
            .disable_broadcast
            .then(|| Arc::new(Broadcaster::disabled(client.clone())));
        Ok(Self {
            schedule,
            client,
            key: state.signing_key(),
            poet: hex::encode(state.public_key()),
            open: Mutex::default(),
            executing: Mutex::default(),
            proofs: Mutex::default(),
            broadcaster: watch::Sender::new(disabled),
            started: watch::Sender::new(starts),
            stopping: watch::Sender::new(false),
            busy: watch::Sender::new(0),
            config,
        })
    }

    /// The public key in hex.
    pub(crate) fn poet(&self) -> &str {
        &self.poet
    }

    /// `/v1/start`.
    pub(super) async fn start(&self, gateways: &Gateways) -> Result<(), Refusal> {
        let twice = || {
            let why = "this PoET was started before; set its gateways with /v1/updategateway";
            Refusal::bad(why.to_owned())
        };
        if *self.started.borrow() {
            return Err(twice());
        }
        let broadcaster = self.dial(gateways).await?;
        if self.started.send_replace(true) {
            return Err(twice());
        }
        self.broadcaster.send_replace(Some(Arc::new(broadcaster)));
        Ok(())
    }

    /// `/v1/updategateway`: for proofs that are made from now on.
    pub(super) async fn update_gateways(&self, gateways: &Gateways) -> Result<(), Refusal> {
        if !*self.started.borrow() {
            let why = "this PoET was not started yet; start it with /v1/start";
            return Err(Refusal::bad(why.to_owned()));
        }
        let broadcaster = self.dial(gateways).await?;
        self.broadcaster.send_replace(Some(Arc::new(broadcaster)));
        Ok(())
    }

    async fn dial(&self, gateways: &Gateways) -> Result<Broadcaster, Refusal> {
        let client = self.client.clone();
        if gateways.disable_broadcast {
            return Ok(Broadcaster::disabled(client));
        }
        let addresses = addresses(&gateways.gateway_addresses).map_err(Refusal::bad)?;
        let or = |threshold: u32, flag| match usize::try_from(threshold) {
            Ok(threshold) if threshold > 0 => threshold,
            _ => flag,
        };
        let flags = self.config.thresholds;
        let thresholds = Thresholds {
            conn_acks: or(gateways.conn_acks_threshold, flags.conn_acks),
            broadcast_acks: or(gateways.broadcast_acks_threshold, flags.broadcast_acks),
        };
        Broadcaster::dial(client, &addresses, thresholds, self.config.ack_timeout)
            .await
            .map_err(|error| Refusal::unavailable(error.to_string()))
    }

    /// `/v1/submit`: the round that has the challenge on disk.
    pub(super) async fn submit(&self, challenge: Node) -> Result<RoundId, Refusal> {
        for _ in 0..ROUNDS_TRIED {
            let Some(open) = lock(&self.open).clone() else {
                return Err(self.no_round());
            };
            let round = open.round;
            let registered = spawn_blocking(move || open.register(&challenge)).await;
            match registered.map_err(|error| Refusal::internal(error.to_string()))? {
                Ok(Registered::Durably) => return Ok(round),
                Ok(Registered::Closed) => {}
                Ok(Registered::Full) => {
                    let why = format!("round {round} has all the members it can take");
                    return Err(Refusal::unavailable(why));
                }
                Err(error) => return Err(Refusal::internal(told(&error))),
            }
        }
        let why = "rounds close faster than they take members; try again";
        Err(Refusal::unavailable(why.to_owned()))
    }

    fn no_round(&self) -> Refusal {
        let why = if *self.started.borrow() {
            "the first round is being opened; try again"
        } else {
            "this PoET was not started yet; start it with /v1/start"
        };
        Refusal::unavailable(why.to_owned())
    }

    /// `/v1/info`; unavailable until a PoET that is to run has taken up what it had.
    pub(super) fn info(&self) -> Result<Info, Refusal> {
        let open = lock(&self.open).as_ref().map(|open| open.round);
        if open.is_none() && *self.started.borrow() {
            return Err(self.no_round());
        }
        Ok(Info {
            open_round_id: open,
            executing_rounds_ids: lock(&self.executing).iter().copied().collect(),
            service_pub_key: self.key.verifying_key().to_bytes().to_vec(),
            gateway_addresses: self.gateways(),
        })
    }

    fn gateways(&self) -> Vec<String> {
        let broadcaster = self.broadcaster.borrow();
        let connected = broadcaster.as_ref().map(|it| it.connected());
        let connected = connected.unwrap_or_default();
        connected.iter().map(SocketAddr::to_string).collect()
    }

    /// The encoded proof of a round, if it is still at hand.
    pub(super) fn proof(&self, round: RoundId) -> Option<Arc<[u8]>> {
        let proofs = lock(&self.proofs);
        let found = proofs.iter().find(|(of, _)| *of == round)?;
        Some(Arc::clone(&found.1))
    }

    /// Has checkpoints written, and waits for them.
    pub(crate) async fn stop(&self) {
        self.stopping.send_replace(true);
        let mut busy = self.busy.subscribe();
        let idle = busy.wait_for(|busy| *busy == 0);
        if tokio::time::timeout(STOP_WITHIN, idle).await.is_err() {
            events::say("stopped before all work was checkpointed; it goes on from the last one");
        }
    }

    fn keep(&self, round: RoundId, proof: Arc<[u8]>) {
        let mut proofs = lock(&self.proofs);
        proofs.retain(|(of, _)| *of != round);
        while proofs.len() >= PROOFS_KEPT {
            proofs.pop_front();
        }
        proofs.push_back((round, proof));
    }

    fn failed(&self, round: RoundId, failure: &Failure) {
        let cause = if failure.disk_full { "disk-full" } else { "io" };
        let fields = json!({ "cause": cause, "error": failure.error });
        self.tell("round-failed", round, fields);
    }

    fn tell(&self, event: &str, round: RoundId, mut fields: Value) {
        fields["poet"] = json!(self.poet);
        fields["round"] = json!(round);
        events::emit(event, fields);
    }
}

/// Why a PoET has no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(
        "the PoET's identity: {}; without it this would be another PoET, for whose proofs nobody waits: restore it from a copy",
        told(.0)
    )]
    Store(#[from] StoreError),
    #[error("the kernel gives no random bytes for the PoET's key: {0}")]
    Entropy(getrandom::Error),
}

/// A key from the kernel, on disk before it is used.
fn first_state(config: &Config) -> Result<ServiceState, IdentityError> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(IdentityError::Entropy)?;
    let next_round = 0;
    let state = ServiceState { next_round, secret };
    store::save_service(&config.data_dir, &state, config.writes)?;
    Ok(state)
}

/// Addresses as a call names them.
pub(crate) fn addresses(texts: &[String]) -> Result<Vec<SocketAddr>, String> {
    if texts.len() > GATEWAYS_MAX {
        return Err(format!(
            "{} gateways are more than {GATEWAYS_MAX}",
            texts.len()
        ));
    }
    let parse = |text: &String| {
        text.parse()
            .map_err(|_| format!("`{text}` is not an address such as 127.1.2.3:9090"))
    };
    texts.iter().map(parse).collect()
}

/// Counts as busy while it lives.
struct Busy<'a>(&'a watch::Sender<usize>);

impl<'a> Busy<'a> {
    fn new(busy: &'a watch::Sender<usize>) -> Self {
        busy.send_modify(|count| *count += 1);
        Self(busy)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// Dials the gateways of the flags. It ends, and the process with it, if too few answer; in 2020 so
/// did the start. Rounds do not wait for it, since all processes of a network start at once.
pub(crate) async fn dial_flags(service: Arc<Service>) -> io::Result<()> {
    let config = &service.config;
    if !config.gateways.is_empty() && !config.disable_broadcast {
        let dialled = Broadcaster::dial(
            service.client.clone(),
            &config.gateways,
            config.thresholds,
            config.dial_timeout,
        );
        let dialled = dialled.await.map(Arc::new);
        // Gateways that were set meanwhile are newer.
        if service.broadcaster.borrow().is_none() {
            service
                .broadcaster
                .send_replace(Some(dialled.map_err(io::Error::other)?));
        }
    }
    std::future::pending().await
}

/// Opens and closes rounds by protocol time, for ever.
pub(crate) async fn rounds(service: Arc<Service>) -> io::Result<()> {
    let rate = calibrate(&service).await?;
    // It is a part of the service, so it cannot be gone.
    let _ = service
        .started
        .subscribe()
        .wait_for(|started| *started)
        .await;
    let mut tasks = JoinSet::new();
    // Looked up once: a round that closed between two looks would be neither taken up nor opened.
    let now_open = service.schedule.open_at(clock::unix_ns());
    if service.config.recovery {
        recover(&service, rate, now_open, &mut tasks);
    }
    let mut open = open(&service, now_open).await?;
    events::emit("ready", json!({}));
    loop {
        let closes = service.schedule.closes_ns(open.round);
        loop {
            let left = Duration::from_nanos(closes.saturating_sub(clock::unix_ns()));
            if left.is_zero() {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK_AGAIN)) => {}
                // Their tasks end without a result; a panic has already ended the process.
                Some(_) = tasks.join_next() => {}
            }
        }
        // A process that was stopped for long skips the rounds that went by.
        let next = service.schedule.open_at(clock::unix_ns());
        let next = next.max(open.round.saturating_add(1));
        let closed = std::mem::replace(&mut open, self::open(&service, next).await?);
        tasks.spawn(close(Arc::clone(&service), closed, rate));
    }
}

async fn calibrate(service: &Service) -> io::Result<f64> {
    let params = service.config.params;
    let rate = spawn_blocking(move || rate::calibrate(params)).await?;
    let opens = service.schedule.due_ns(1) - service.schedule.closes_ns(1);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate needs three digits, not sixteen"
    )]
    let need = params.leaves() as f64 / Duration::from_nanos(opens).as_secs_f64().max(1e-9);
    let fields = json!({ "labels_per_second": rate.round(), "needed": need.round() });
    events::emit("calibrated", fields.clone());
    if rate < need {
        // Proofs will be late: take fewer labels (--n), less depth, or longer layers.
        events::emit("work-too-slow", fields);
    }
    Ok(rate)
}

async fn open(service: &Arc<Service>, round: RoundId) -> io::Result<Arc<OpenRound>> {
    let busy = Busy::new(&service.busy);
    let Config {
        data_dir, writes, ..
    } = &service.config;
    let (data_dir, writes) = (data_dir.clone(), *writes);
    let secret = service.key.to_bytes();
    let open = spawn_blocking(move || new_round(&data_dir, round, secret, writes)).await?;
    drop(busy);
    let open = Arc::new(open);
    *lock(&service.open) = Some(Arc::clone(&open));
    service.tell("round-opened", round, json!({}));
    Ok(open)
}

/// The life of a round from its closing on.
async fn close(service: Arc<Service>, open: Arc<OpenRound>, rate: f64) {
    let number = open.round;
    let busy = Busy::new(&service.busy);
    let closing = Arc::clone(&open);
    let members = match spawn_blocking(move || closing.close()).await {
        Ok(Ok(members)) => members,
        Ok(Err(error)) => return service.failed(number, &error.into()),
        // The process ends, or it would not have been cancelled.
        Err(_) => return,
    };
    let round = Round {
        number,
        dir: open.dir.clone(),
        opened_ms: open.opened_ms,
        execution: Execution {
            started_ms: clock::unix_ns() / 1_000_000,
            params: service.config.params,
            members,
            checkpoint: Checkpoint::start(),
            root: None,
        },
    };
    if let Err(error) = round.save() {
        return service.failed(number, &error.into());
    }
    drop(busy);
    live(service, round, rate).await;
}

/// Work, proof, delivery, removal.
async fn live(service: Arc<Service>, round: Round, rate: f64) {
    let number = round.number;
    lock(&service.executing).insert(number);
    let proven = prove(&service, round, rate).await;
    lock(&service.executing).remove(&number);
    match proven {
        Ok(Some((dir, proof))) => deliver(&service, number, &dir, &proof).await,
        Ok(None) => {}
        Err(failure) => service.failed(number, &failure),
    }
}

async fn prove(
    service: &Arc<Service>,
    mut round: Round,
    rate: f64,
) -> Result<Option<(RoundDir, Arc<[u8]>)>, Failure> {
    let busy = Busy::new(&service.busy);
    let number = round.number;
    let members = round.execution.members.len();
    service.tell("round-executing", number, json!({ "members": members }));
    let Config {
        memory, checkpoint, ..
    } = service.config;
    let plan = Plan {
        due_ns: service.schedule.due_ns(number),
        rate,
        memory,
        checkpoint,
    };
    let worked = round.work(plan, &mut service.stopping.subscribe()).await?;
    drop(busy);
    if worked.is_none() {
        return Ok(None);
    }
    let (dir, maker) = (round.dir.clone(), Arc::clone(service));
    let made = spawn_blocking(move || round.prove(memory, &maker.key)).await;
    let Ok(proof) = made else {
        // The process ends, or it would not have been cancelled.
        return Ok(None);
    };
    let proof = proof?;
    let made = json!({ "ref": hex::encode(proof.reference()), "members": members });
    let bytes: Arc<[u8]> = proof.encode().into();
    // Told before anybody can have it: an ATX that cites a proof nobody told of counts as forged.
    service.tell("proof-made", number, made);
    service.keep(number, Arc::clone(&bytes));
    Ok(Some((dir, bytes)))
}

async fn deliver(service: &Service, round: RoundId, dir: &RoundDir, proof: &[u8]) {
    let mut broadcaster = service.broadcaster.subscribe();
    // Whatever is set from now on is for later rounds.
    let broadcaster = match broadcaster.wait_for(Option::is_some).await {
        Ok(broadcaster) => broadcaster.clone(),
        Err(_) => None,
    };
    let Some(broadcaster) = broadcaster else {
        return;
    };
    let retries = service.config.retries;
    if broadcaster
        .deliver(&service.poet, round, proof, retries)
        .await
    {
        match dir.remove() {
            Ok(()) => service.tell("round-removed", round, json!({})),
            Err(error) => events::say(&format!(
                "round {round} was delivered and stays on disk: {}",
                told(&error)
            )),
        }
    }
}

/// Takes up the rounds of an earlier process: those below `now_open`, which were closed. That one and later ones are
/// opened again like new ones, with the members they have; even if `now_open` closes meanwhile, its turn comes.
fn recover(service: &Arc<Service>, rate: f64, now_open: RoundId, tasks: &mut JoinSet<()>) {
    let Config {
        data_dir, writes, ..
    } = &service.config;
    let rounds = match store::rounds(data_dir) {
        Ok(rounds) => rounds,
        Err(error) => {
            events::say(&format!("no round is taken up: {}", told(&error)));
            return;
        }
    };
    for number in rounds.into_iter().filter(|round| *round < now_open) {
        let dir = RoundDir::new(data_dir, number, *writes);
        match taken_up(&dir, number, service.config.params) {
            Ok(Some(round)) => {
                let phase = match &round.execution {
                    Execution { root: Some(_), .. } => "executed",
                    _ => "executing",
                };
                let next = round.execution.checkpoint.next_leaf;
                let fields = json!({ "phase": phase, "next_leaf": next });
                service.tell("round-recovered", number, fields);
                tasks.spawn(live(Arc::clone(service), round, rate));
            }
            Ok(None) => match dir.remove() {
                Ok(()) => service.tell("round-removed", number, json!({})),
                Err(error) => service.failed(number, &error.into()),
            },
            Err(error) => service.failed(number, &error.into()),
        }
    }
}

/// A closed round as its directory has it; none if it was never quite opened, and so has no members.
fn taken_up(dir: &RoundDir, number: RoundId, params: Params) -> Result<Option<Round>, StoreError> {
    let Some(state) = dir.load()? else {
        return Ok(None);
    };
    let was_open = state.execution.is_none();
    let execution = match state.execution {
        Some(execution) => execution,
        // It closed while nobody was there.
        None => Execution {
            started_ms: clock::unix_ns() / 1_000_000,
            params,
            members: dir.challenges()?.members()?,
            checkpoint: Checkpoint::start(),
            root: None,
        },
    };
    let round = Round {
        number,
        dir: dir.clone(),
        opened_ms: state.opened_ms,
        execution,
    };
    if was_open {
        round.save()?;
    }
    Ok(Some(round))
}
