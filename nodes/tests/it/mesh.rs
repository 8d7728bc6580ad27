//! The whole protocol between processes: PoETs prove time, miners activate themselves and make blocks,
//! all agree on layers and come to the same state.

use super::support::{Network, Node, poll};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::{Duration, SystemTime};

const MINERS: [&str; 4] = ["miner-0", "miner-1", "miner-2", "miner-3"];
const OTHERS: [&str; 4] = ["gateway-0", "gateway-1", "poet-0", "poet-1"];
const LAYER: Duration = Duration::from_millis(250);
const LAYERS_PER_EPOCH: u64 = 4;
/// Layers up to which states are compared: blocks of the last ones need activations.
const LAYERS: u64 = 18;

/// Miners and gateways by name, and the PoETs, which have to live.
struct World {
    network: Network,
    nodes: BTreeMap<String, Node>,
    poets: Vec<Node>,
}

impl World {
    /// Everything, with PoETs of these names; the other one has an address and is not started.
    fn start(poets: &[&str]) -> Self {
        let names: Vec<&str> = MINERS.iter().chain(&OTHERS).copied().collect();
        let mut network = Network::new(&names);
        network.layer = LAYER;
        // Three epochs: one for registering with round 0, and two to start everything in.
        network.genesis = SystemTime::now() + LAYER * 12;
        let gateways = [network.api("gateway-0"), network.api("gateway-1")];
        let gateways = gateways.map(|gateway| gateway.to_string()).join(",");
        let mut nodes = BTreeMap::new();
        for name in MINERS.iter().chain(&OTHERS[..2]) {
            nodes.insert((*name).to_owned(), network.start(name, &[]));
        }
        let poets = poets
            .iter()
            .map(|poet| network.start(poet, &["--gateway", &gateways]))
            .collect();
        for node in nodes.values_mut() {
            node.event("ready");
        }
        Self {
            network,
            nodes,
            poets,
        }
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap()
    }

    /// The state roots of the layers `layers`, which each node says in order, once.
    fn roots(&mut self, name: &str, layers: std::ops::Range<u64>) -> Vec<(u64, u64, String)> {
        let node = self.node(name);
        layers
            .map(|layer| {
                let verified = node.next("layer-verified");
                assert_eq!(verified["layer"], layer, "{name}: {verified}");
                let root = verified["stateRoot"].as_str().unwrap().to_owned();
                assert!(root.starts_with(&format!("{layer}:")), "{root}");
                (layer, verified["blocks"].as_u64().unwrap(), root)
            })
            .collect()
    }

    /// The activations that a miner publishes, in order, up to one of `epoch` or later. A host that is
    /// busy with other things may cost a miner an epoch, which these tests are not about.
    fn activations(&mut self, name: &str, epoch: u64) -> Vec<Value> {
        let node = self.node(name);
        let mut all: Vec<Value> = Vec::new();
        while all
            .last()
            .is_none_or(|last| last["epoch"].as_u64() < Some(epoch))
        {
            let new = node.next("atx-published");
            let number = new["epoch"].as_u64().unwrap();
            assert_eq!(
                (&new["target"], &new["round"]),
                (&json!(number + 1), &json!(number))
            );
            let before = all.last().and_then(|last| last["epoch"].as_u64());
            assert!(before < Some(number), "{name}: {new} after {all:?}");
            all.push(new);
        }
        all
    }
}

#[test]
fn miners_activate_themselves_and_all_nodes_come_to_the_same_state() {
    let mut world = World::start(&OTHERS[2..]);
    let mut poets: BTreeSet<String> = BTreeSet::new();
    for name in MINERS {
        let atxs = world.activations(name, 4);
        assert!(atxs.len() >= 3, "{name}: {atxs:?}");
        poets.extend(atxs.iter().map(|atx| atx["poet"].to_string()));
        // Both PoETs are registered with, whoever's proof came first.
        let mut registered: BTreeSet<String> = BTreeSet::new();
        while registered.len() < 2 {
            let event = world.node(name).next("challenge-registered");
            registered.insert(event["poet"].to_string());
        }
        poets.extend(registered);
    }
    assert_eq!(poets.len(), 2);

    let all: Vec<String> = world.nodes.keys().cloned().collect();
    let first = world.roots(&all[0], 0..LAYERS);
    for name in &all[1..] {
        assert_eq!(world.roots(name, 0..LAYERS), first, "{name}");
    }
    // Four miners with two slots each fill most layers, also when activations are needed for that.
    let blocks = |from: u64, to: u64| -> u64 {
        let layers = first
            .iter()
            .filter(|(layer, _, _)| (from..to).contains(layer));
        layers.map(|(_, blocks, _)| blocks).sum()
    };
    let needing = 2 * LAYERS_PER_EPOCH;
    assert!(blocks(0, needing) >= 8, "{first:?}");
    assert!(blocks(needing, LAYERS) >= 8, "{first:?}");
    let states: BTreeSet<&str> = first
        .iter()
        .filter_map(|(_, _, root)| root.split(':').nth(1))
        .collect();
    assert!(states.len() > 8, "transactions change the state: {first:?}");

    for (name, node) in &world.nodes {
        let status = || -> Value {
            let (_, text) = super::support::http(node.api, "GET", "/v1/nodestatus");
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(status()["synced"], json!(true), "{name}");
        let verified = || status()["verifiedLayer"].as_u64().unwrap();
        poll(
            &|| format!("{name} to verify more than {}", verified()),
            || verified() >= LAYERS,
        );
    }
    for poet in &mut world.poets {
        assert!(poet.is_running());
    }
    for node in world.nodes.into_values() {
        let events = node.stopped();
        assert!(events.iter().any(|event| event["event"] == "stopping"));
    }
}

#[test]
fn a_miner_that_is_killed_goes_on_where_it_was() {
    let mut world = World::start(&OTHERS[2..]);
    let before = world.activations("miner-0", 1);
    let last = before.last().and_then(|atx| atx["epoch"].as_u64()).unwrap();
    // Killed right after it was published, within the epoch.
    drop(world.nodes.remove("miner-0"));
    let mut again = world.network.start("miner-0", &[]);
    let mut epochs: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    let mut note = |atx: &Value| {
        let id = atx["atx"].as_str().unwrap().to_owned();
        let epoch = atx["epoch"].as_u64().unwrap();
        epochs.entry(epoch).or_default().insert(id);
        epoch
    };
    for atx in &before {
        note(atx);
    }
    while note(&again.event("atx-published")) < last + 3 {}
    assert!(
        epochs.values().all(|ids| ids.len() == 1),
        "one activation per epoch: {epochs:?}"
    );
    let made = again.next("block-made");
    assert!(made["layer"].as_u64().unwrap() >= last * LAYERS_PER_EPOCH);
    // It catches up with the others.
    let theirs = world.roots("miner-1", 0..LAYERS);
    let mut layer = 0;
    while layer + 1 < LAYERS {
        let verified = again.next("layer-verified");
        layer = verified["layer"].as_u64().unwrap();
        let place = usize::try_from(layer).unwrap();
        if let Some((_, _, root)) = theirs.get(place) {
            assert_eq!(verified["stateRoot"], *root);
        }
    }
}

#[test]
fn neither_a_poet_that_never_answers_nor_damaged_labels_hold_up_the_others() {
    let mut world = World::start(&["poet-0"]);
    // Connections are accepted by the kernel, and nobody ever reads from them.
    let silent = TcpListener::bind(world.network.api("poet-1")).unwrap();
    let poet = world.poets[0].event("started")["key"].clone();
    let labels = world
        .network
        .dir
        .path()
        .join("miner-3/activation/labels.bin");
    let mut bytes = fs_err::read(&labels).unwrap();
    bytes[77] ^= 1;
    fs_err::write(&labels, bytes).unwrap();

    for name in &MINERS[..3] {
        let atxs = world.activations(name, 3);
        assert!(
            atxs.iter().all(|atx| atx["poet"] == poet),
            "{name}: {atxs:?}"
        );
        let node = world.node(name);
        // Before it listened it was not there at all, as poet-0 was not before it was started.
        let slow = |error: &str| error.starts_with("poet-1: ") && error.contains("did not answer");
        while !slow(node.next("registration-failed")["error"].as_str().unwrap()) {}
    }
    let damaged = world.node("miner-3");
    let failed = damaged.next("activation-failed");
    let error = failed["error"].as_str().unwrap();
    assert!(error.contains("labels.bin"), "{error}");
    let dropped = damaged.next("challenge-dropped");
    assert_eq!(dropped["reason"], "not-made");
    // Its blocks end with the epochs that need no activation, and it follows the others.
    let roots = world.roots("miner-3", 0..3 * LAYERS_PER_EPOCH);
    assert_eq!(world.roots("miner-0", 0..3 * LAYERS_PER_EPOCH), roots);
    let mut damaged = world.nodes.remove("miner-3").unwrap();
    damaged.signal(rustix::process::Signal::TERM);
    let (_, seen, _) = damaged.wait();
    let about = |name: &'static str| seen.iter().filter(move |event| event["event"] == name);
    assert_eq!(about("atx-published").count(), 0);
    assert!(about("block-made").all(|made| made["layer"].as_u64() < Some(2 * LAYERS_PER_EPOCH)));
    assert!(about("block-made").count() >= 2);
    drop(silent);
}
