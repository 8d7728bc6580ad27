//! A network with PoETs in virtual time: rounds, proofs, ATXs, blocks, layers, state, as the bundled one plays them.
//!
//! Round e closes a quarter of an epoch into epoch e - 1, its proof is due when epoch e begins, a miner that holds it
//! publishes its ATX of epoch e, and makes blocks in e + 1.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tweedledum_core::history::{Body, Event, ExpectInfo, Sample, SignalValue};
use tweedledum_core::time::Span;

use crate::net::*;
use crate::planned::*;

/// Layers in an epoch.
pub(crate) const EPOCH: i64 = 4;

/// A network with PoETs.
pub(crate) struct Rounds {
    pub(crate) net: Net,
    pub(crate) miners: Vec<String>,
    gateways: Vec<String>,
    pub(crate) poets: Vec<String>,
    /// Proofs that a miner or gateway does not get: node, PoET, round.
    pub(crate) withheld: BTreeSet<(String, String, i64)>,
    /// How long the gateways take a proof late: a proof is held this long after it was made.
    pub(crate) spread: u64,
    /// Challenges that a PoET forgets after it acknowledged them: miner, PoET, round.
    pub(crate) forgotten: BTreeSet<(String, String, i64)>,
    /// The PoETs have room for one and a half rounds only.
    pub(crate) narrow: bool,
    kept: BTreeMap<String, i64>,
    full: BTreeSet<String>,
    /// Who holds a proof of an epoch.
    holds: BTreeSet<(String, i64)>,
    verified: i64,
}

pub(crate) fn names(role: &str, count: usize) -> Vec<String> {
    (0..count).map(|index| format!("{role}-{index}")).collect()
}

/// The key a PoET signs with.
pub(crate) fn key(poet: &str) -> String {
    format!("key-of-{poet}")
}

pub(crate) fn proof(poet: &str, round: i64) -> String {
    format!("proof-{round}-of-{poet}")
}

/// The expectations of the incident's plan.
pub(crate) fn expectations() -> Vec<ExpectInfo> {
    vec![
        advance("atx", every_of("miner"), 6),
        advance("block", any_of("miner"), 3),
        advance("verified-layer", every_of("miner"), 6),
        advance("state-root", every_of("miner"), 6),
        recover(12),
        agree("state-root"),
    ]
}

impl Rounds {
    pub(crate) fn new(
        [miners, gateways, poets]: [usize; 3],
        expect: Vec<ExpectInfo>,
        faults: Vec<Fault>,
    ) -> Self {
        let (miners, gateways, poets) = (
            names("miner", miners),
            names("gateway", gateways),
            names("poet", poets),
        );
        let all: Vec<String> = [&miners[..], &gateways, &poets].concat();
        let net = Net::of(&all, expect, faults).with(|header| {
            let roles = &mut header.roles;
            for (role, events) in [
                (
                    "miner",
                    "challenge-registered proof-held atx-published block-made layer-verified equivocation double-atx",
                ),
                (
                    "gateway",
                    "proof-held layer-verified equivocation double-atx",
                ),
                (
                    "poet",
                    "round-executing proof-made broadcast-failed broadcast-acked broadcast-gave-up round-failed",
                ),
            ] {
                let info = roles.get_mut(role).unwrap();
                info.events = events.split(' ').map(str::to_owned).collect();
            }
            let miner = roles.get_mut("miner").unwrap();
            for (signal, period) in [
                ("atx", EPOCH),
                ("block", 1),
                ("verified-layer", 1),
                ("state-root", 1),
            ] {
                miner
                    .signals
                    .insert(signal.to_owned(), Span::layers(period));
            }
            miner.pushed = ["atx", "block", "state-root"].map(str::to_owned).into();
        });
        Self {
            net,
            miners,
            gateways,
            poets,
            withheld: BTreeSet::new(),
            spread: LAYER / 20,
            forgotten: BTreeSet::new(),
            narrow: false,
            kept: BTreeMap::new(),
            full: BTreeSet::new(),
            holds: BTreeSet::new(),
            verified: -1,
        }
    }

    pub(crate) fn say(&mut self, t_ns: u64, node: &str, event: &str, fields: &Value) {
        let fields = fields.as_object().unwrap().clone().into_iter().collect();
        let event = event.to_owned();
        let node = node.to_owned();
        self.net.to_come.push((
            t_ns,
            Body::Event(Event {
                node,
                event,
                fields,
            }),
        ));
    }

    fn sample(&mut self, t_ns: u64, node: &str, signal: &str, value: SignalValue) {
        let (node, signal) = (node.to_owned(), signal.to_owned());
        self.net.to_come.push((
            t_ns,
            Body::Sample(Sample {
                node,
                signal,
                value,
            }),
        ));
    }

    fn lives(&self, node: &str) -> bool {
        let node = &self.net.nodes[node];
        !node.dead && !node.frozen
    }

    /// Plays until the beginning of this layer.
    pub(crate) fn until(&mut self, layer: i64) -> &mut Self {
        while self.net.layer < layer {
            let now = self.net.layer;
            self.registers(now);
            if now % EPOCH == 0 {
                self.proofs(now / EPOCH);
            }
            if now % EPOCH == 1 {
                self.opens();
            }
            if now % EPOCH == 2 {
                self.works(now / EPOCH + 1);
            }
            self.layer(now);
            self.net.until(now + 1);
        }
        self
    }

    /// A quarter of an epoch before it closes, everybody is in round e + 1.
    fn registers(&mut self, layer: i64) {
        if layer % EPOCH != 0 {
            return;
        }
        let round = layer / EPOCH + 1;
        for miner in self.miners.clone() {
            for poet in self.poets.clone() {
                if self.lives(&miner) && self.lives(&poet) {
                    let fields = json!({ "poet": key(&poet), "round": round, "challenge": format!("{miner} {round}") });
                    self.say(
                        at(layer) + LAYER / 2,
                        &miner,
                        "challenge-registered",
                        &fields,
                    );
                }
            }
        }
    }

    /// The proofs of a round are made and handed over, or tried to be.
    fn proofs(&mut self, round: i64) {
        let start = at(round * EPOCH);
        for poet in self.poets.clone() {
            let key = key(&poet);
            if !self.lives(&poet) || self.full.contains(&poet) || round == 0 {
                continue;
            }
            let made = json!({ "poet": key, "round": round, "ref": proof(&poet, round), "members": self.miners.len() });
            self.say(start + LAYER / 50, &poet, "proof-made", &made);
            let gateways: Vec<String> = self.gateways.clone();
            let answers =
                |gateway: &String| self.lives(gateway) && !self.net.nodes[gateway].starved;
            if gateways.iter().any(answers) {
                let acked = json!({ "poet": key, "round": round, "acks": 1, "attempt": 1 });
                self.say(start + LAYER / 40, &poet, "broadcast-acked", &acked);
                self.spreads(&poet, round, start + self.spread);
                continue;
            }
            self.kept.insert(poet.clone(), round);
            for attempt in 0..7_u64 {
                let failed = json!({ "poet": key, "round": round, "attempt": attempt + 1, "acks": 0, "error": "connection refused" });
                let t_ns = start + LAYER / 40 + attempt * LAYER / 5;
                self.say(t_ns, &poet, "broadcast-failed", &failed);
            }
            let gave_up = json!({ "poet": key, "round": round, "attempts": 7 });
            self.say(start + LAYER * 4 / 3, &poet, "broadcast-gave-up", &gave_up);
        }
    }

    /// Everybody gets a proof, and miners publish an ATX with the first.
    fn spreads(&mut self, poet: &str, round: i64, t_ns: u64) {
        let nodes = [&self.miners[..], &self.gateways].concat();
        for (index, node) in (0_u64..).zip(&nodes) {
            let withheld = (node.clone(), poet.to_owned(), round);
            if !self.lives(node) || self.withheld.contains(&withheld) {
                continue;
            }
            let t_ns = t_ns + index * LAYER / 1000;
            let mut held = json!({ "poet": key(poet), "round": round, "ref": proof(poet, round) });
            if self.miners.contains(node) {
                held["member"] = json!(!self.forgotten.contains(&withheld));
            }
            self.say(t_ns, node, "proof-held", &held);
            if self.miners.contains(node) && self.holds.insert((node.clone(), round)) {
                self.publishes(node, poet, round, t_ns + LAYER / 20);
            }
        }
    }

    fn publishes(&mut self, miner: &str, poet: &str, round: i64, t_ns: u64) {
        let atx = json!({
            "epoch": round, "target": round + 1, "atx": format!("atx-{round}-of-{miner}"), "node": format!("id-of-{miner}"),
            "proof": proof(poet, round), "poet": key(poet), "round": round,
        });
        self.say(t_ns, miner, "atx-published", &atx);
        let epoch = SignalValue::Number(round.unsigned_abs());
        self.sample(t_ns, miner, "atx", epoch);
    }

    /// A PoET that keeps a round has no room for another.
    fn works(&mut self, round: i64) {
        for poet in self.poets.clone() {
            if !self.narrow || !self.lives(&poet) || !self.kept.contains_key(&poet) {
                continue;
            }
            let failed = json!({ "poet": key(&poet), "round": round, "cause": "disk-full", "error": "No space left on device" });
            let t_ns = at(self.net.layer) + LAYER / 2;
            self.say(t_ns, &poet, "round-failed", &failed);
            self.full.insert(poet);
        }
    }

    /// A PoET whose disk is full cannot open the next round.
    fn opens(&mut self) {
        for poet in self.poets.clone() {
            if self.full.contains(&poet) && self.lives(&poet) {
                self.net.panics_with(
                    &poet,
                    "new-round",
                    "cannot open round: No space left on device (os error 28)",
                );
            }
        }
    }

    /// Blocks of this layer, and the layer two back is verified.
    fn layer(&mut self, layer: i64) {
        let (epoch, start) = (layer / EPOCH, at(layer));
        let may =
            |it: &Self, miner: &String| epoch < 2 || it.holds.contains(&(miner.clone(), epoch - 1));
        let able: Vec<String> = self
            .miners
            .iter()
            .filter(|it| self.lives(it) && may(self, it))
            .cloned()
            .collect();
        for (index, miner) in (0_u64..).zip(&able) {
            let t_ns = start + LAYER / 10 + index * LAYER / 100;
            let number = SignalValue::Number(layer.unsigned_abs());
            self.sample(t_ns, miner, "block", number);
        }
        if able.len() * 3 > self.miners.len() * 2 && layer >= 2 {
            self.verified = layer - 2;
        }
        for (index, miner) in (0_u64..).zip(self.miners.clone()) {
            if !self.lives(&miner) || self.verified < 0 {
                continue;
            }
            let number = SignalValue::Number(self.verified.unsigned_abs());
            let t_ns = start + LAYER * 6 / 10 + index * LAYER / 100;
            self.sample(t_ns, &miner, "verified-layer", number);
            if self.verified == layer - 2 {
                let forked = self.net.nodes[&miner].forked;
                let state = if forked { "other" } else { "state" };
                let root = format!("{}:{state}-{}", self.verified, self.verified);
                self.sample(t_ns, &miner, "state-root", SignalValue::Text(root));
            }
        }
    }
}
