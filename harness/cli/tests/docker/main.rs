//! The real executable in containers: the bundled network on a real engine, seen through agents.
//!
//! Run with `cargo test --release -p tweedledum --test docker -- --ignored`; needs an engine, and
//! fails where none answers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tweedledum_core::launch::identity;
use tweedledum_harness::clock::unix_ns;
use tweedledum_harness::observe::{Observation, Value};
use tweedledum_harness::substrate::docker::engine::Engine;
use tweedledum_harness::substrate::docker::image::own_image;
use tweedledum_harness::substrate::docker::ledger::Ledger;
use tweedledum_harness::substrate::docker::node::NodeSpec;
use tweedledum_harness::substrate::docker::pod::{Data, PodSpec};
use tweedledum_harness::substrate::docker::run::{DockerRun, RunSpec, Words};
use tweedledum_harness::substrate::docker::{Check, Limits, PingAt, PingEvery, Poll, Read};
use tweedledum_harness::substrate::process::Nonce;
use tweedledum_nodes::{node_id, wire};

const BOUND: Duration = Duration::from_mins(2);
const LAYER: Duration = Duration::from_millis(250);
/// From the first pod's making to genesis: fifteen pods are up in half of that.
const START: Duration = Duration::from_secs(15);

#[test]
#[ignore = "needs a Docker engine"]
fn the_bundled_network_advances_in_containers() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let engine = Engine::find()
            .await
            .unwrap_or_else(|error| panic!("needs an engine: {error}"));
        let began = Instant::now();
        let image = own_image(&engine, Path::new(env!("CARGO_BIN_EXE_tweedledum")))
            .await
            .unwrap();
        println!(
            "the image of the real executable, imported: {}, took {:?}",
            image.made,
            began.elapsed()
        );
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::in_file(&dir.path().join("ledger.jsonl")).unwrap();
        let names =
            |role: &'static str, count| (0..count).map(move |index| format!("{role}-{index}"));
        let nodes: Vec<String> = names("miner", 12).chain(names("gateway", 3)).collect();
        let words = Words {
            agent: vec!["agent".into()],
            keeper: vec!["internal".into(), "keeper".into()],
        };
        let spec = RunSpec {
            nonce: Nonce::random().unwrap(),
            nodes: nodes.clone(),
            image: image.clone(),
            words,
        };
        let run = DockerRun::begin(&engine, spec, &ledger).await.unwrap();
        let mut playing = JoinSet::new();
        let (of_play, of_image) = (run.clone(), image.clone());
        playing.spawn(async move { play(&of_play, of_image, nodes).await });
        let ended = playing.join_next().await.unwrap();
        let removal = run.tear_down(BOUND).await;
        let docker = bollard::Docker::connect_with_defaults().unwrap();
        let _ = docker
            .remove_image(
                &image.name,
                None::<bollard::query_parameters::RemoveImageOptions>,
                None,
            )
            .await;
        assert_eq!(removal.left, Vec::new());
        ended.unwrap();
    });
}

async fn play(
    run: &DockerRun,
    image: tweedledum_harness::substrate::docker::image::Image,
    nodes: Vec<String>,
) {
    let began = Instant::now();
    let genesis = unix_ns() + u64::try_from(START.as_nanos()).unwrap();
    let entry = |name: &String| {
        let (secret, address) = (identity(0, name), run.address(name).unwrap());
        let miner = name.starts_with("miner");
        let speaks = if miner {
            vec!["layer-votes", "nodestatus", "udp-session-2020"]
        } else {
            vec!["nodestatus", "udp-session-2020"]
        };
        json!({
            "name": name, "role": name.split('-').next(), "speaks": speaks,
            "key": hex::encode(wire::public_key(&secret)), "id": hex::encode(node_id(&secret)),
            "p2p": format!("{address}:7513"), "api": format!("{address}:9090"),
        })
    };
    let entries: Vec<_> = nodes.iter().map(entry).collect();
    let (seen, mut sights) = tokio::sync::mpsc::channel(1000);
    let specs = nodes.iter().map(|node| PodSpec {
        node: node.clone(),
        data: Data::Sized(16 << 20),
        identity: identity(0, "the agent"),
        netid: 116,
        seen: seen.clone(),
    });
    let pods = run.pods(specs.collect(), |_| {}).await.unwrap();
    println!("{} pods after {:?}", pods.len(), began.elapsed());
    let mut starting = JoinSet::new();
    for pod in pods {
        let (image, name) = (image.clone(), pod.name().to_owned());
        let network = json!({
            "format": 1, "netid": 116, "genesis_unix_ns": genesis, "layer_ns": 250_000_000, "layers_per_epoch": 4,
            "seed": 0, "self": { "name": name, "role": name.split('-').next(), "identity": hex::encode(identity(0, &name)) },
            "release": { "name": "fixed", "base": "fixed", "without": [] }, "nodes": entries,
        });
        starting.spawn(async move {
            let (p2p, api) = (
                format!("{}:7513", pod.address()),
                format!("{}:9090", pod.address()),
            );
            let command = [
                "node",
                name.split('-').next().unwrap(),
                "--name",
                &name,
                "--network",
                "/run/network.json",
                "--p2p",
                &p2p,
                "--api",
                &api,
                "--data-dir",
                "/data",
            ];
            let spec = NodeSpec {
                image,
                command: command.map(str::to_owned).to_vec(),
                replace_entry_point: false,
                env: BTreeMap::new(),
                data: "/data".to_owned(),
                files: BTreeMap::from([(
                    "/run/network.json".to_owned(),
                    network.to_string().into_bytes(),
                )]),
                limits: Limits::default(),
            };
            let (life, pipes) = pod.node(spec).await.unwrap().start().await.unwrap();
            let url = format!("http://{api}/v1/nodestatus");
            let ready = Check::Http {
                url: url.clone(),
                status: 200,
            };
            tokio::select! {
                ready = pod.agent().until_ready(ready, BOUND) => { ready.unwrap(); }
                death = life.died() => panic!("{name} died: {death:?}: {}", words_of(pipes.stderr).await),
            }
            let poll = Poll {
                signal: "verified-layer".into(),
                url,
                read: Read::Json("/verifiedLayer".into()),
                period: LAYER,
            };
            let key = wire::public_key(&identity(0, &name));
            let target = PingAt {
                address: p2p.parse().unwrap(),
                key,
                dialect: "udp-session-2020".into(),
            };
            pod.agent()
                .watch(
                    vec![poll],
                    Some(PingEvery {
                        target,
                        period: LAYER,
                    }),
                )
                .await
                .unwrap();
            (pod, life, pipes)
        });
    }
    let living = starting.join_all().await;
    println!("{} nodes ready after {:?}", living.len(), began.elapsed());
    let (mut advanced, mut answered) = (BTreeSet::new(), BTreeSet::new());
    let deadline = tokio::time::Instant::now() + BOUND;
    while advanced.len() < living.len() || answered.len() < living.len() {
        let sight = tokio::time::timeout_at(deadline, sights.recv()).await;
        match sight
            .unwrap_or_else(|_| panic!("only {advanced:?} advanced, only {answered:?} answered"))
            .unwrap()
        {
            Observation::Sample(sample) if matches!(sample.value, Value::Int(8..)) => {
                advanced.insert(sample.node);
            }
            Observation::Ping(ping) if ping.rtt.is_some() => {
                answered.insert(ping.node);
            }
            _ => {}
        }
    }
    println!("layer 8 verified by all after {:?}", began.elapsed());
}

/// What a dead node said last.
async fn words_of(stderr: std::os::fd::OwnedFd) -> String {
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(stderr).unwrap();
    let mut text = String::new();
    let _ = pipe.read_to_string(&mut text).await;
    text
}
