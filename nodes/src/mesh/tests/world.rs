//! A network of meshes on temporary directories, ticked together, with a judge.

use super::super::exchange::{Answer, Request};
use super::super::{Effect, Mesh, Origin, Setup, Validity};
use crate::protocol::agreement::{Body, Layer, Message, Step, Voter};
use crate::protocol::atx::tests::{atx, proof};
use crate::protocol::block::Block;
use crate::protocol::eligibility::own_slots;
use crate::protocol::genesis::Genesis;
use crate::protocol::genesis::tests::{key, sample};
use crate::protocol::transaction::{self, Transaction};
use crate::protocol::{atx_gossip, block_gossip, poet_proof, votes};
use crate::runtime::draw;
use crate::runtime::metrics::MeshMetrics;
use ed25519_dalek::SigningKey;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tempfile::TempDir;

/// Whose proofs all ATXs cite.
const POET: u8 = 200;
/// Exchanges of one pull and its follow-ups.
const EXCHANGES_MAX: usize = 200;

/// The number after the miners' is a node that does not mine.
pub(super) struct World {
    pub(super) genesis: Genesis,
    pub(super) nodes: Vec<Node>,
    pub(super) layer: Layer,
    /// Gossip messages of a hundred that are lost between two nodes.
    pub(super) loss: u64,
    /// Nodes hear only those of their own group.
    pub(super) groups: Vec<usize>,
    /// Miners that get no ATXs from now on.
    pub(super) without_atx: BTreeSet<usize>,
    pub(super) proofs_stop: bool,
    judge: Judge,
    seed: u64,
    rolls: u64,
}

pub(super) struct Node {
    pub(super) dir: TempDir,
    /// None while the node is down.
    pub(super) mesh: Option<Mesh>,
    /// Layers verified by this process, and the events it sent.
    pub(super) verified: Vec<Layer>,
    pub(super) events: Vec<(&'static str, serde_json::Value)>,
}

#[derive(Default)]
struct Judge {
    /// Voters whose disk was tampered with.
    liars: BTreeSet<Voter>,
    roots: BTreeMap<Layer, String>,
    said: BTreeMap<(Voter, Layer, u32, Step), Body>,
}

impl World {
    /// Miners, and followers behind them.
    pub(super) fn new(miners: u8, followers: u8, seed: u64) -> Self {
        let genesis = sample(miners);
        let mut world = Self {
            genesis,
            nodes: Vec::new(),
            layer: 0,
            loss: 0,
            groups: vec![0; usize::from(miners + followers)],
            without_atx: BTreeSet::new(),
            proofs_stop: false,
            judge: Judge::default(),
            seed,
            rolls: 0,
        };
        for n in 0..usize::from(miners + followers) {
            world.nodes.push(Node {
                dir: tempfile::tempdir().unwrap(),
                mesh: None,
                verified: Vec::new(),
                events: Vec::new(),
            });
            world.start(n);
        }
        world
    }

    pub(super) fn start(&mut self, n: usize) {
        let setup = Setup {
            dir: self.nodes[n].dir.path(),
            genesis: self.genesis.clone(),
            key: key(u8::try_from(n).unwrap()),
            now: self.layer,
            seed: self.seed,
            metrics: MeshMetrics::default(),
        };
        let mesh = Mesh::open(setup).unwrap();
        self.nodes[n].verified = mesh
            .verified()
            .map(|(layer, _)| layer)
            .into_iter()
            .collect();
        self.nodes[n].mesh = Some(mesh);
        self.perform(n);
    }

    /// As SIGKILL does: what was not committed is gone, and what was to be sent was not.
    pub(super) fn kill(&mut self, n: usize) {
        self.nodes[n].mesh = None;
    }

    pub(super) fn mesh(&mut self, n: usize) -> &mut Mesh {
        self.nodes[n].mesh.as_mut().unwrap()
    }

    pub(super) fn roll(&mut self, below: u64) -> u64 {
        self.rolls += 1;
        draw(self.seed, "dice", &[&self.rolls.to_be_bytes()]) % below
    }

    fn up(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|n| self.nodes[*n].mesh.is_some())
            .collect()
    }

    /// One layer in the life of all nodes that are up.
    pub(super) fn live(&mut self) {
        let epoch = self.genesis.epoch_of(self.layer);
        let up = self.up();
        if self.layer.is_multiple_of(self.genesis.layers_per_epoch) && !self.proofs_stop {
            self.publish_proof(epoch);
        }
        for n in &up {
            self.tick(*n);
        }
        for n in &up {
            self.mine(*n, epoch);
        }
        for n in &up {
            self.pull(*n);
        }
        self.layer += 1;
    }

    pub(super) fn live_until(&mut self, layer: Layer) {
        while self.layer < layer {
            self.live();
        }
    }

    pub(super) fn tick(&mut self, n: usize) {
        let layer = self.layer;
        if let Some(mesh) = &mut self.nodes[n].mesh {
            mesh.tick(layer, true);
            assert!(mesh.take_failure().is_none());
            self.perform(n);
        }
    }

    /// The PoET finds a gateway on each side of a split.
    fn publish_proof(&mut self, epoch: u32) {
        let bytes = proof(&self.genesis, POET, epoch).encode();
        let mut served = BTreeSet::new();
        for n in self.up() {
            if served.insert(self.groups[n]) {
                self.bring(n, poet_proof::TOPIC, bytes.clone());
            }
        }
    }

    /// A miner that holds the proof of the epoch publishes its ATX, in whichever layer that is.
    fn activate(&mut self, n: usize, epoch: u32) {
        let key = key(u8::try_from(n).unwrap());
        let me = key.verifying_key().to_bytes();
        let poet = SigningKey::from_bytes(&[POET; 32])
            .verifying_key()
            .to_bytes();
        if self.without_atx.contains(&n) || self.mesh(n).atx_targeting(&me, epoch + 1).is_some() {
            return;
        }
        if let Some(proof) = self.mesh(n).proof_of(&poet, epoch) {
            let atx = atx(&self.genesis, &proof, &key);
            self.bring(n, atx_gossip::TOPIC, atx.encode());
        }
    }

    fn mine(&mut self, n: usize, epoch: u32) {
        let key = key(u8::try_from(n).unwrap());
        let me = key.verifying_key().to_bytes();
        if !self.genesis.is_miner(&me) || self.nodes[n].mesh.is_none() {
            return;
        }
        self.activate(n, epoch);
        let transaction = Transaction::of_layer(&self.genesis, &key, self.layer.into(), 0);
        self.bring(n, transaction::TOPIC, transaction.encode());
        let layer = self.layer;
        let atx = self.mesh(n).atx_targeting(&me, epoch);
        if !self.mesh(n).is_synced() || (Genesis::needs_atx(epoch) && atx.is_none()) {
            return;
        }
        let atx = atx.filter(|_| Genesis::needs_atx(epoch));
        for slot in own_slots(&self.genesis, &key, epoch).unwrap() {
            if slot.layer == layer {
                let transactions = self.mesh(n).transactions_for(layer);
                let block = Block::sign(&key, self.genesis.netid, &slot, atx, transactions);
                self.bring(n, block_gossip::TOPIC, block.encode());
            }
        }
    }

    /// One question to a random peer, and what follows from it.
    pub(super) fn pull(&mut self, n: usize) {
        let up = self.up();
        let peer = up[usize::try_from(self.roll(up.len() as u64)).unwrap()];
        if self.nodes[n].mesh.is_some() && peer != n && self.groups[peer] == self.groups[n] {
            self.pull_from(n, peer);
        }
    }

    /// How many exchanges it took.
    pub(super) fn pull_from(&mut self, n: usize, peer: usize) -> usize {
        for exchange in 1..EXCHANGES_MAX {
            let request = self.mesh(n).request().encode();
            let request = Request::decode(&request).unwrap();
            let answer = self.mesh(peer).answer(&request, 64 << 10).encode();
            assert!(answer.len() < 80 << 10, "{}", answer.len());
            let answer = Answer::decode(&answer).unwrap();
            let more = self
                .mesh(n)
                .take_answer([u8::try_from(peer).unwrap(); 32], answer);
            self.perform(n);
            if !more {
                return exchange;
            }
        }
        panic!("a pull went on for ever")
    }

    /// Node `n` makes something, and it goes to all others.
    pub(super) fn bring(&mut self, n: usize, topic: u8, body: Vec<u8>) {
        assert_eq!(self.give(n, topic, &body), Validity::Valid, "topic {topic}");
        self.perform_and(n, [(topic, body)]);
    }

    /// As gossip from a peer.
    pub(super) fn give(&mut self, n: usize, topic: u8, body: &[u8]) -> Validity {
        let netid = self.genesis.netid;
        let mesh = self.mesh(n);
        match topic {
            transaction::TOPIC => {
                let transaction = Transaction::decode(body).unwrap();
                transaction.verify(netid).unwrap();
                mesh.transaction(transaction);
                Validity::Valid
            }
            poet_proof::TOPIC => mesh.proof(body, Origin::Gossip),
            atx_gossip::TOPIC => mesh.atx(body, Origin::Gossip),
            block_gossip::TOPIC => mesh.block(body, Origin::Gossip),
            votes::TOPIC => mesh.vote(body, Origin::Gossip),
            other => panic!("no topic {other}"),
        }
    }

    fn perform(&mut self, n: usize) {
        self.perform_and(n, []);
    }

    /// Carries out what `n` wants done, and all that follows from it.
    fn perform_and(&mut self, n: usize, more: impl IntoIterator<Item = (u8, Vec<u8>)>) {
        let mut queue: VecDeque<(usize, u8, Vec<u8>)> = more
            .into_iter()
            .map(|(topic, body)| (n, topic, body))
            .collect();
        queue.extend(self.effects(n));
        while let Some((from, topic, body)) = queue.pop_front() {
            for to in self.up() {
                let lost = self.groups[to] != self.groups[from] || self.roll(100) < self.loss;
                if to != from && !lost {
                    let verdict = self.give(to, topic, &body);
                    assert!(
                        !matches!(verdict, Validity::Invalid(_)),
                        "{verdict:?} {topic}"
                    );
                    queue.extend(self.effects(to));
                }
            }
        }
    }

    fn effects(&mut self, n: usize) -> Vec<(usize, u8, Vec<u8>)> {
        let mut gossip = Vec::new();
        for effect in self.mesh(n).take_effects() {
            match effect {
                Effect::Gossip { topic, body } => {
                    if topic == votes::TOPIC {
                        self.judge
                            .hear(&votes::decode(116, &body).unwrap().message, &body);
                    }
                    gossip.push((n, topic, body));
                }
                Effect::Event { name, fields } => {
                    if name == "layer-verified" {
                        self.judge.verified(&fields);
                        let layer = u32::try_from(fields["layer"].as_u64().unwrap()).unwrap();
                        let node = &mut self.nodes[n];
                        let next = node.verified.last().map_or(0, |last| last + 1);
                        assert_eq!(layer, next, "in order, each once");
                        node.verified.push(layer);
                    }
                    self.nodes[n].events.push((name, fields));
                }
            }
        }
        gossip
    }

    pub(super) fn verified(&self, n: usize) -> Layer {
        self.nodes[n].verified.last().copied().unwrap_or(0)
    }

    pub(super) fn count(&self, n: usize, event: &str) -> usize {
        let events = &self.nodes[n].events;
        events.iter().filter(|(name, _)| *name == event).count()
    }

    /// From now on this voter may contradict itself.
    pub(super) fn expect_lies_of(&mut self, n: usize) {
        self.judge.liars.insert(Voter(u8::try_from(n).unwrap()));
    }

    /// All that are up have verified up to a few layers before now.
    pub(super) fn assert_going(&self) {
        for n in self.up() {
            let verified = self.verified(n);
            assert!(
                verified + 4 >= self.layer,
                "node {n}: {verified} at {}",
                self.layer
            );
        }
    }
}

impl Judge {
    fn verified(&mut self, fields: &serde_json::Value) {
        let root = fields["stateRoot"].as_str().unwrap().to_owned();
        let layer = u32::try_from(fields["layer"].as_u64().unwrap()).unwrap();
        assert!(root.starts_with(&format!("{layer}:")));
        let known = self.roots.entry(layer).or_insert_with(|| root.clone());
        assert_eq!(*known, root, "two roots of layer {layer}");
    }

    fn hear(&mut self, message: &Message, body: &[u8]) {
        let voter = Voter(body[4]);
        let question = (voter, message.layer, message.round, message.body.step());
        let known = self
            .said
            .entry(question)
            .or_insert_with(|| message.body.clone());
        let honest = !self.liars.contains(&voter);
        assert!(
            !honest || *known == message.body,
            "{question:?} was answered twice"
        );
    }
}
