//! Starting a mesh from what the disk holds.
//!
//! The database gives decisions, state and blocks, the voter's log what was said. What either lost is
//! pulled from peers; a voter that lost its log stays out of the layers in which it may have spoken.

use super::state::State;
use super::store::{self, Store, StoreError};
use super::voter_log::{self, LogError, VoterLog};
use super::{Effect, Mesh, pull, waiting};
use crate::protocol::agreement::{
    Agreement, Config, Input, Layer, LayerSet, OpenError, Past, Record, SET_MAX, Voters,
    VotersError,
};
use crate::protocol::genesis::Genesis;
use crate::protocol::mempool::Mempool;
use crate::protocol::votes::VoterKeys;
use crate::runtime::metrics::MeshMetrics;
use ed25519_dalek::SigningKey;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a mesh is made of.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) genesis: Genesis,
    pub(crate) key: SigningKey,
    /// The current layer; 0 before genesis.
    pub(crate) now: Layer,
    /// Keys what the mesh draws.
    pub(crate) seed: u64,
    pub(crate) metrics: MeshMetrics,
}

/// Why a mesh cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MeshError {
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Voters(#[from] VotersError),
    #[error("{0}")]
    Agreement(#[from] OpenError<LogError>),
}

impl Mesh {
    /// Opens what is in the data directory, or begins anew.
    pub(crate) fn open(setup: Setup<'_>) -> Result<Self, MeshError> {
        let Setup {
            dir,
            genesis,
            key,
            now,
            seed,
            metrics,
        } = setup;
        let mut effects = Vec::new();
        let (mut store, state, verified) = open_state(dir, &genesis, &mut effects)?;
        let decided: LayerSet = store.decided().into_iter().collect();
        let decided_newest = store.decided().last().copied();

        let me = key.verifying_key().to_bytes();
        let voter = genesis.voter_of(&me);
        // A network of gateways only decides nothing, and is a network still.
        let voters = Voters::new(genesis.voters.len().max(1))?;
        let config = Config {
            voters,
            me: voter,
            layers_per_epoch: genesis.layers_per_epoch,
            blocks_max: blocks_max(&genesis),
        };
        let (mut log, records) = match voter {
            Some(_) => open_log(dir, &mut store, &mut effects)?,
            None => (None, Vec::new()),
        };
        let past = Past {
            now,
            log: records,
            decided: decided.clone(),
        };
        let agreement = Agreement::open(config, past, |record| match &mut log {
            Some(log) => log.append(std::slice::from_ref(record)),
            None => Ok(()),
        })?;
        let resend = agreement.own_messages().collect();

        let mut mesh = Self {
            keys: VoterKeys::new(&genesis),
            me,
            voters,
            key,
            metrics,
            now,
            store,
            state,
            pool: Mempool::new(),
            agreement,
            log,
            unsent: Vec::new(),
            resend,
            decided,
            decided_newest,
            unannounced: Vec::new(),
            verified,
            waiting_atxs: waiting::Atxs::for_proofs(),
            waiting_blocks: waiting::Blocks::for_atxs(),
            slots: BTreeMap::new(),
            doubles: BTreeMap::new(),
            registered: BTreeMap::new(),
            taken: 0,
            pull: pull::PullState::new(seed),
            effects,
            troubles: BTreeSet::new(),
            disk_failed_at: None,
            ticks_since_commit: 0,
            genesis,
        };
        mesh.metrics
            .verified_layer
            .set(mesh.verified_layer().into());
        mesh.tell_agreement();
        Ok(mesh)
    }

    /// Gives agreement the ATXs and blocks that are on disk and still of interest to it.
    fn tell_agreement(&mut self) {
        let first = self.agreement.first_open().unwrap_or(Layer::MAX);
        let mut inputs = Vec::new();
        for (epoch, node) in self.store.atxs_from(self.genesis.epoch_of(first)) {
            if let Some(voter) = self.genesis.voter_of(&node) {
                inputs.push(Input::Atx(voter, epoch));
            }
        }
        for (layer, id, miner, slot) in self.store.blocks_from(first) {
            if !self.decided.contains(layer) {
                *self.slots.entry((layer, miner, slot)).or_default() += 1;
                inputs.push(Input::Block(layer, id));
            }
        }
        self.drive(inputs);
    }
}

/// The database, the state it holds, and the last applied layer with its root.
type Opened = (Store, State, Option<(Layer, super::Root)>);

fn open_state(
    dir: &Path,
    genesis: &Genesis,
    effects: &mut Vec<Effect>,
) -> Result<Opened, MeshError> {
    let mut opened = Store::open(dir, genesis)?;
    let fresh = || State::genesis(genesis.netid, genesis.miners.iter().copied());
    let state = match opened.store.last_applied() {
        None => Some((fresh(), None)),
        Some(layer) => restore(&mut opened.store, layer, &fresh()),
    };
    if let Some(error) = opened.store.take_failure() {
        return Err(error.into());
    }
    let (state, verified) = if let Some(restored) = state {
        restored
    } else {
        let why = "its accounts do not give the root of its last layer".to_owned();
        opened = opened.store.begin_anew(genesis, why)?;
        (fresh(), None)
    };
    let store::Opened { store, aside } = opened;
    if let Some((why, aside)) = aside {
        let fields = json!({ "what": "database", "reason": why, "kept": aside });
        effects.push(Effect::Event {
            name: "mesh-set-aside",
            fields,
        });
    }
    Ok((store, state, verified))
}

fn restore(
    store: &mut Store,
    layer: Layer,
    genesis: &State,
) -> Option<(State, Option<(Layer, super::Root)>)> {
    let root = store.root(layer)?;
    let before = match layer.checked_sub(1) {
        Some(before) => store.root(before)?,
        None => *genesis.root(),
    };
    let mut accounts = genesis.accounts().clone();
    accounts.extend(store.accounts());
    let state = State::restore(accounts, layer, &before, root)?;
    Some((state, Some((layer, root))))
}

fn open_log(
    dir: &Path,
    store: &mut Store,
    effects: &mut Vec<Effect>,
) -> Result<(Option<VoterLog>, Vec<Record>), MeshError> {
    let mark = store.mark();
    let voter_log::Opened {
        log,
        records,
        cut,
        lost,
    } = VoterLog::open(dir, mark)?;
    if cut > 0 {
        let fields = json!({ "bytes": cut });
        effects.push(Effect::Event {
            name: "voter-log-cut",
            fields,
        });
    }
    let lost = match lost {
        Some((damage, aside)) => {
            Some(json!({ "what": "voter's log", "reason": damage.to_string(), "kept": aside }))
        }
        None if records.is_empty() && mark.len > 0 => {
            Some(json!({ "what": "voter's log", "reason": "the file is gone" }))
        }
        None => None,
    };
    if let Some(fields) = lost {
        effects.push(Effect::Event {
            name: "mesh-set-aside",
            fields,
        });
    }
    Ok((Some(log), records))
}

/// The most blocks of one layer that anybody needs to name: every slot of an epoch may fall into the
/// same layer, and a liar's second block of a slot may be what others saw first.
fn blocks_max(genesis: &Genesis) -> usize {
    let slots = usize::try_from(genesis.slots_per_epoch).unwrap_or(usize::MAX);
    genesis
        .miners
        .len()
        .saturating_mul(slots)
        .saturating_mul(2)
        .clamp(1, SET_MAX)
}
