//! Several nodes: gossip reaches everybody, foreign networks reach nobody, and dead peers are
//! replaced.

use super::support::{Network, Node, SOON, http, poll};
use std::collections::BTreeSet;
use std::io::Read as _;
use std::net::{TcpListener, UdpSocket};
use std::time::{Duration, SystemTime};
use tweedledum_nodes::wire;

const NODES: [&str; 7] = [
    "miner-0",
    "miner-1",
    "miner-2",
    "miner-3",
    "miner-4",
    "gateway-0",
    "gateway-1",
];
const MINERS: u64 = 5;

fn start_all(network: &Network) -> Vec<Node> {
    let mut nodes: Vec<Node> = network
        .names
        .iter()
        .map(|name| network.start(name, &[]))
        .collect();
    for node in &mut nodes {
        node.event("ready");
    }
    nodes
}

#[test]
fn every_transaction_reaches_every_node_once() {
    let mut network = Network::new(&NODES);
    network.genesis = SystemTime::now() + Duration::from_secs(1);
    let mut nodes = start_all(&network);
    for node in &nodes {
        // Before genesis there is nothing to count.
        assert!(node.metric("layer") == 0);
        let (status, body) = http(node.api, "POST", "/v1/nodestatus");
        assert_eq!(status, 200);
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert!(status["peers"].as_u64().unwrap() >= 1, "{body}");
        assert_eq!(
            (&status["synced"], &status["verifiedLayer"]),
            (&true.into(), &0.into())
        );
    }
    for miner in &mut nodes[..5] {
        for layer in 0..3 {
            assert_eq!(miner.event("layer")["layer"], layer);
            let made = miner.event("tx-made");
            assert_eq!((&made["layer"], &made["count"]), (&layer.into(), &1.into()));
        }
    }
    for node in &nodes {
        node.until("mempool_txs_total", |txs| txs >= 3 * MINERS);
    }
    // Nothing is counted twice: there are never more than were made.
    for node in &nodes {
        let txs = node.metric("mempool_txs_total");
        let made = (node.metric("layer") + 1) * MINERS;
        assert!(txs <= made, "{txs} transactions of {made}");
    }
    for node in nodes {
        node.stop();
    }
}

#[test]
fn gossip_travels_over_nodes_that_make_nothing() {
    // A line: everybody knows the neighbours only, and the one miner is at its end.
    let line = ["miner-0", "gateway-0", "gateway-1", "gateway-2"];
    let network = Network::new(&line);
    let mut nodes: Vec<Node> = line
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let mut json = network.json(name);
            let all = json["nodes"].as_array_mut().unwrap();
            let mut index = 0..;
            all.retain(|_| {
                index
                    .next()
                    .is_some_and(|other: usize| other.abs_diff(at) <= 1)
            });
            network.run(name, network.command_with(name, &json, &[]))
        })
        .collect();
    for node in &mut nodes {
        node.event("ready");
    }
    let ends = (&nodes[0], &nodes[3]);
    let far = ends.1.until("mempool_txs_total", |txs| txs >= 10);
    assert!(ends.0.metric("mempool_txs_total") >= far);
    assert_eq!((ends.0.metric("peers"), ends.1.metric("peers")), (1, 1));
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn miners_keep_gossip_going_when_gateways_and_a_miner_die_and_a_restarted_node_is_taken_back() {
    let network = Network::new(&NODES);
    let mut nodes = start_all(&network);
    for dead in [6, 5, 4] {
        drop(nodes.remove(dead));
    }
    for node in &nodes {
        let before = node.metric("mempool_txs_total");
        node.until("mempool_txs_total", |txs| txs >= before + 5 * 4);
        node.until("peers", |peers| peers == 3);
    }
    let mut again = network.start("miner-4", &[]);
    again.event("ready");
    again.until("mempool_txs_total", |txs| txs >= 5 * MINERS);
    for node in nodes {
        node.stop();
    }
    again.stop();
}

#[test]
fn a_node_of_another_network_is_refused() {
    let mut network = Network::new(&NODES[..3]);
    // Sessions of each other would be in the way of counting those of strangers.
    let quiet = ["--discovery-interval", "1day"];
    let mut home = ["miner-0", "miner-1"].map(|name| network.start(name, &quiet));
    for node in &mut home {
        node.event("ready");
    }
    network.netid = 117;
    let mut foreign = network.start("miner-2", &["--discovery-interval", "50ms"]);
    foreign.event("started");
    foreign.until("handshakes_rejected_total{reason=\"io\"}", |refused| {
        refused >= 2
    });
    foreign.until("discovery_dials_total", |dials| dials >= 2);
    assert_eq!(
        (
            foreign.metric("peers"),
            foreign.metric("discovery_answers_total")
        ),
        (0, 0)
    );
    let (status, body) = http(foreign.api, "GET", "/v1/nodestatus");
    assert_eq!(status, 503);
    assert!(body.contains("no swarm peer"), "{body}");
    for node in &home {
        node.until("handshakes_rejected_total{reason=\"netid\"}", |refused| {
            refused >= 1
        });
        node.until("datagrams_rejected_total{reason=\"netid\"}", |refused| {
            refused >= 1
        });
        assert_eq!((node.metric("peers"), node.metric("sessions")), (1, 0));
    }
    home.into_iter().for_each(Node::stop);
    assert!(foreign.is_running());
    foreign.stop();
}

#[test]
fn all_dials_leave_from_the_own_address_and_each_udp_dial_from_a_fresh_port() {
    let network = Network::new(&["miner-0", "gateway-0"]);
    // We are the gateway, and look at who comes.
    let at = network.p2p("gateway-0");
    let udp = UdpSocket::bind(at).unwrap();
    udp.set_read_timeout(Some(SOON)).unwrap();
    let tcp = TcpListener::bind(at).unwrap();
    let node = network.start("miner-0", &["--discovery-interval", "20ms"]);
    let mut ports = BTreeSet::new();
    for n in 0..10 {
        let mut buffer = [0; 2_000];
        let (len, from) = udp.recv_from(&mut buffer).unwrap();
        assert_eq!(from.ip(), node.p2p.ip());
        assert!(
            ports.insert(from.port()),
            "port {} was used before",
            from.port()
        );
        let (sender, plain) = wire::open(&Network::secret("gateway-0"), &buffer[..len]).unwrap();
        assert_eq!(sender, node.key);
        let message = wire::Message::decode(&plain).unwrap();
        let wire::Payload::Wrapped(request) = message.payload else {
            panic!("a bare payload")
        };
        let kind = if n == 0 {
            wire::KIND_GET_ADDRESSES
        } else {
            wire::KIND_PING
        };
        assert!(request.request && request.kind == kind);
    }
    let (mut stream, from) = tcp.accept().unwrap();
    assert_eq!(from.ip(), node.p2p.ip());
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut first = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut first).unwrap();
    wire::open(&Network::secret("gateway-0"), &first).unwrap();
    node.stop();
}

#[test]
fn a_node_asks_all_its_peers_in_turn() {
    let network = Network::new(&NODES);
    let start = |name: &&str| network.start(name, &["--alone"]);
    let mut others: Vec<Node> = NODES[1..].iter().map(start).collect();
    for other in &mut others {
        other.event("ready");
    }
    let mut node = network.start("miner-0", &["--discovery-interval", "10ms"]);
    node.event("ready");
    node.until("discovery_answers_total", |answers| answers >= 60);
    // Alone, the others hear nobody but this node.
    let heard: Vec<u64> = others
        .iter()
        .map(|peer| peer.metric("sessions_created_total"))
        .collect();
    assert!(heard.iter().all(|n| *n >= 9), "{heard:?}");
    let spread = heard.iter().max().unwrap() - heard.iter().min().unwrap();
    assert!(spread <= 20, "{heard:?}");
    poll(&|| "a session of every dial".to_owned(), || {
        let made: u64 = others
            .iter()
            .map(|peer| peer.metric("sessions_created_total"))
            .sum();
        made >= 60
    });
    node.stop();
}
