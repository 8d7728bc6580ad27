//! The real executable in containers: the bundled network on a real engine, seen through agents.
//!
//! Run with `cargo test --release --workspace --test docker -- --ignored`; needs an engine, and
//! fails where none answers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "times that are worth reading")]

mod compose;
mod doctor;
mod killed;
mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tweedledum_core::launch::identity;
use tweedledum_harness::clock::unix_ns;
use tweedledum_harness::observe::{Observation, Value};
use tweedledum_harness::substrate::Identities;
use tweedledum_harness::substrate::docker::engine::Engine;
use tweedledum_harness::substrate::docker::image::{Image, own_image};
use tweedledum_harness::substrate::docker::ledger::Ledger;
use tweedledum_harness::substrate::docker::node::{Life, NodeSpec};
use tweedledum_harness::substrate::docker::pod::{Data, Pod, PodSpec};
use tweedledum_harness::substrate::docker::run::{DockerRun, RunSpec, Words};
use tweedledum_harness::substrate::docker::{Check, Limits, PingAt, PingEvery, Poll, Read};
use tweedledum_harness::substrate::process::{NodePipes, Nonce};
use tweedledum_nodes::{node_id, wire};

const BOUND: Duration = Duration::from_mins(2);
const LAYER: Duration = Duration::from_millis(250);
/// From the first pod's making to genesis: fifteen pods are up in half of that.
const START: Duration = Duration::from_secs(15);

/// Held by every test that uses the image, since one of them removes it at its end.
static ONE_IMAGE: Mutex<()> = Mutex::new(());

/// Asks the engine something, by a client of the tests' own that does not go through what is tested.
fn ask<T>(question: impl AsyncFnOnce(bollard::Docker) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { question(bollard::Docker::connect_with_defaults().unwrap()).await })
}

/// The image of the real executable, on the engine.
fn image() -> Image {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let engine = Engine::find().await.unwrap();
        own_image(&engine, Path::new(env!("CARGO_BIN_EXE_tweedledum")))
            .await
            .unwrap()
    })
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn the_bundled_network_advances_in_containers() {
    let _alone = ONE_IMAGE.lock().unwrap_or_else(PoisonError::into_inner);
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
        let nodes: Vec<String> = names("miner", 12)
            .chain(names("gateway", 3))
            .chain(names("poet", 1))
            .collect();
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

/// What the bundled roles are started with.
struct Net {
    run: DockerRun,
    image: Image,
    entries: Vec<serde_json::Value>,
    genesis_unix_ns: u64,
}

fn role(name: &str) -> &str {
    name.split('-').next().unwrap()
}

impl Net {
    fn new(run: &DockerRun, image: Image, nodes: &[String]) -> Self {
        let entry = |name: &String| {
            let (secret, address) = (identity(0, name), run.address(name).unwrap());
            let mut entry = json!({ "name": name, "role": role(name), "api": format!("{address}:9090"), "id": "", "key": "" });
            entry["speaks"] = match role(name) {
                "miner" => json!(["layer-votes", "nodestatus", "udp-session-2020"]),
                "gateway" => json!(["nodestatus", "udp-session-2020"]),
                _ => json!(["poet-2020"]),
            };
            if role(name) != "poet" {
                entry["p2p"] = json!(format!("{address}:7513"));
                entry["key"] = json!(hex::encode(wire::public_key(&secret)));
                entry["id"] = json!(hex::encode(node_id(&secret)));
            }
            entry
        };
        Self {
            run: run.clone(),
            image,
            entries: nodes.iter().map(entry).collect(),
            genesis_unix_ns: unix_ns() + u64::try_from(START.as_nanos()).unwrap(),
        }
    }

    fn spec(&self, name: &str) -> NodeSpec {
        let address = self.run.address(name).unwrap();
        let command = format!(
            "node {} --name {name} --network /run/network.json --api {address}:9090 --data-dir /data",
            role(name)
        );
        let more = match role(name) {
            "poet" => {
                let gateways = self
                    .entries
                    .iter()
                    .filter(|entry| entry["role"] == "gateway");
                let apis: Vec<&str> = gateways
                    .map(|entry| entry["api"].as_str().unwrap())
                    .collect();
                format!(" --gateway {}", apis.join(","))
            }
            _ => format!(" --p2p {address}:7513"),
        };
        let network = json!({
            "format": 1, "netid": 116, "genesis_unix_ns": self.genesis_unix_ns, "layer_ns": 250_000_000,
            "layers_per_epoch": 4, "seed": 0, "nodes": self.entries,
            "self": { "name": name, "role": role(name), "identity": hex::encode(identity(0, name)) },
            "release": { "name": "fixed", "base": "fixed", "without": [] },
        });
        NodeSpec {
            image: self.image.clone(),
            command: [command, more]
                .concat()
                .split(' ')
                .map(str::to_owned)
                .collect(),
            replace_entry_point: false,
            env: BTreeMap::new(),
            data: "/data".to_owned(),
            files: BTreeMap::from([(
                "/run/network.json".to_owned(),
                network.to_string().into_bytes(),
            )]),
            limits: Limits::default(),
        }
    }

    /// Starts a node, waits until it is ready, and begins to look at it.
    async fn start(&self, pod: Pod) -> (Pod, Life, NodePipes) {
        let (name, address) = (pod.name(), pod.address());
        let (life, pipes) = pod
            .node(self.spec(name))
            .await
            .unwrap()
            .start()
            .await
            .unwrap();
        let poet = role(name) == "poet";
        let page = if poet { "info" } else { "nodestatus" };
        let url = format!("http://{address}:9090/v1/{page}");
        let ready = Check::Http {
            url: url.clone(),
            status: 200,
        };
        tokio::select! {
            ready = pod.agent().until_ready(ready, BOUND) => { ready.unwrap(); }
            death = life.died() => panic!("{name} died: {death:?}: {}", words_of(pipes.stderr).await),
        }
        if !poet {
            let read = Read::Json("/verifiedLayer".into());
            let poll = Poll {
                signal: "verified-layer".into(),
                url,
                read,
                period: LAYER,
            };
            let key = wire::public_key(&identity(0, name));
            let target = PingAt {
                address: (address, 7513).into(),
                key,
                dialect: "udp-session-2020".into(),
            };
            let ping = PingEvery {
                target,
                period: LAYER,
            };
            pod.agent().watch(vec![poll], Some(ping)).await.unwrap();
        }
        (pod, life, pipes)
    }
}

async fn play(run: &DockerRun, image: Image, nodes: Vec<String>) {
    let began = Instant::now();
    let net = Arc::new(Net::new(run, image, &nodes));
    let (seen, mut sights) = tokio::sync::mpsc::channel(1000);
    let specs = nodes.iter().map(|node| PodSpec {
        node: node.clone(),
        data: Data::Sized(16 << 20),
        identities: Identities {
            watcher: identity(0, "the agent"),
            prober: identity(0, "the agent"),
            netid: 116,
        },
        seen: seen.clone(),
        looks_into: false,
    });
    let pods = run.pods(specs.collect(), |_| {}).await.unwrap();
    println!("{} pods after {:?}", pods.len(), began.elapsed());
    let mut starting = JoinSet::new();
    for pod in pods {
        let net = Arc::clone(&net);
        starting.spawn(async move { net.start(pod).await });
    }
    let living = starting.join_all().await;
    println!("{} nodes ready after {:?}", living.len(), began.elapsed());
    let watched = nodes.iter().filter(|node| role(node) != "poet").count();
    let (mut advanced, mut answered, mut last) = (BTreeSet::new(), BTreeSet::new(), None);
    let deadline = tokio::time::Instant::now() + BOUND;
    while advanced.len() < watched || answered.len() < watched {
        let Ok(sight) = tokio::time::timeout_at(deadline, sights.recv()).await else {
            panic!("only {advanced:?} advanced, only {answered:?} answered; last of all {last:?}");
        };
        match sight.unwrap() {
            // From epoch 2 on layers advance only with activations, and so with proofs.
            Observation::Sample(sample) if matches!(sample.value, Value::Int(12..)) => {
                advanced.insert(sample.node);
            }
            Observation::Ping(ping) if ping.rtt.is_some() => {
                answered.insert(ping.node);
            }
            other => last = Some(other),
        }
    }
    println!(
        "layer 12 verified by all after {:?}, genesis was at {START:?}",
        began.elapsed()
    );
}

/// What a dead node said last.
async fn words_of(stderr: std::os::fd::OwnedFd) -> String {
    let mut pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(stderr).unwrap();
    let mut text = String::new();
    let _ = pipe.read_to_string(&mut text).await;
    text
}
