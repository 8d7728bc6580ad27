//! A run for a test, and its end whatever the test does.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bollard::Docker;
use bollard::query_parameters::{ListContainersOptions, ListNetworksOptions, ListVolumesOptions};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tweedledum_harness::observe::Observation;
use tweedledum_harness::substrate::Identities;
use tweedledum_harness::substrate::docker::engine::Engine;
use tweedledum_harness::substrate::docker::image::{Image, own_image};
use tweedledum_harness::substrate::docker::ledger::{Ledger, NONCE_LABEL};
use tweedledum_harness::substrate::docker::node::{Life, Node, NodeSpec};
use tweedledum_harness::substrate::docker::pod::{Data, Pod, PodSpec};
use tweedledum_harness::substrate::docker::run::{DockerRun, RunSpec, Words};
use tweedledum_harness::substrate::process::{NodePipes, Nonce};

pub(crate) const LONG: Duration = Duration::from_secs(30);
pub(crate) const FIXTURE: &str = env!("CARGO_BIN_EXE_tweedledum-harness-fixture");

/// Tests that use the image; the last one removes it.
static USERS: AtomicUsize = AtomicUsize::new(0);

pub(crate) struct Ground {
    pub(crate) run: DockerRun,
    pub(crate) image: Image,
    pub(crate) nonce: Nonce,
    /// How long that took, if no test before this one had done it.
    pub(crate) imported: Option<Duration>,
    pub(crate) _dir: tempfile::TempDir,
}

pub(crate) async fn engine() -> Engine {
    match Engine::find().await {
        Ok(engine) => engine,
        Err(error) => panic!("these tests need a Docker engine: {error}"),
    }
}

/// A client of the tests' own, which does not go through what is tested.
pub(crate) fn docker() -> Docker {
    Docker::connect_with_defaults().unwrap()
}

/// Plays a test in a run of these nodes, tears the run down, and then lets the test fail.
pub(crate) fn play<F>(nodes: &[&str], test: impl FnOnce(Ground) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        USERS.fetch_add(1, Ordering::SeqCst);
        let engine = engine().await;
        let began = std::time::Instant::now();
        let image = own_image(&engine, Path::new(FIXTURE)).await.unwrap();
        let imported = image.made.then(|| began.elapsed());
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::in_file(&dir.path().join("ledger.jsonl")).unwrap();
        let nonce = Nonce::random().unwrap();
        let spec = RunSpec {
            nonce,
            nodes: nodes.iter().map(ToString::to_string).collect(),
            image: image.clone(),
            words: words(),
        };
        let run = DockerRun::begin(&engine, spec, &ledger).await;
        let ended = match run {
            Ok(run) => {
                let ground = Ground {
                    run: run.clone(),
                    image: image.clone(),
                    nonce,
                    imported,
                    _dir: dir,
                };
                let mut playing = JoinSet::new();
                playing.spawn(test(ground));
                let ended = playing.join_next().await.unwrap();
                let removal = run.tear_down(LONG).await;
                assert_eq!(removal.left, Vec::new());
                ended.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(
            carrying(&nonce).await,
            Vec::<String>::new(),
            "everything with the nonce is gone"
        );
        forget_image(&image).await;
        ended.unwrap();
    });
}

/// Removes the image unless another test uses it.
pub(crate) async fn forget_image(image: &Image) {
    if USERS.fetch_sub(1, Ordering::SeqCst) == 1 {
        // A test that begins right now imports it again.
        let _ = docker()
            .remove_image(
                &image.name,
                None::<bollard::query_parameters::RemoveImageOptions>,
                None,
            )
            .await;
    }
}

pub(crate) fn use_image() {
    USERS.fetch_add(1, Ordering::SeqCst);
}

pub(crate) fn words() -> Words {
    Words {
        agent: vec!["agent".to_owned()],
        keeper: vec!["keeper".to_owned()],
    }
}

/// Names of everything on the engine that carries the nonce.
pub(crate) async fn carrying(nonce: &Nonce) -> Vec<String> {
    let docker = docker();
    let filters = Some(HashMap::from([(
        "label".to_owned(),
        vec![format!("{NONCE_LABEL}={nonce}")],
    )]));
    let mut names = Vec::new();
    let containers = ListContainersOptions {
        all: true,
        filters: filters.clone(),
        ..ListContainersOptions::default()
    };
    for container in docker.list_containers(Some(containers)).await.unwrap() {
        names.extend(container.names.unwrap());
    }
    let volumes = docker
        .list_volumes(Some(ListVolumesOptions {
            filters: filters.clone(),
        }))
        .await
        .unwrap();
    names.extend(
        volumes
            .volumes
            .into_iter()
            .flatten()
            .map(|volume| volume.name),
    );
    let networks = docker
        .list_networks(Some(ListNetworksOptions { filters }))
        .await
        .unwrap();
    names.extend(networks.into_iter().filter_map(|network| network.name));
    names
}

impl Ground {
    pub(crate) async fn pod(&self, node: &str, data: Data) -> (Pod, mpsc::Receiver<Observation>) {
        let (seen, sights) = mpsc::channel(1000);
        let spec = PodSpec {
            node: node.to_owned(),
            data,
            identities: Identities {
                watcher: [1; 32],
                prober: [1; 32],
                netid: 1,
            },
            seen,
            looks_into: false,
        };
        (self.run.pod(spec).await.unwrap(), sights)
    }

    pub(crate) fn spec(&self, words: &[&str]) -> NodeSpec {
        NodeSpec {
            image: self.image.clone(),
            command: ["pod-node"]
                .iter()
                .chain(words)
                .map(ToString::to_string)
                .collect(),
            replace_entry_point: false,
            env: BTreeMap::new(),
            data: "/data".to_owned(),
            files: BTreeMap::from([("/run/network.json".to_owned(), b"{}".to_vec())]),
        }
    }

    pub(crate) async fn start(&self, pod: &Pod, words: &[&str]) -> (Node, Life, NodePipes) {
        let node = pod.node(self.spec(words)).await.unwrap();
        let (life, pipes) = node.start().await.unwrap();
        (node, life, pipes)
    }
}

/// The next line of a node's standard output.
pub(crate) async fn line(pipes: &mut NodePipes) -> serde_json::Value {
    let stdout = pipes.stdout.try_clone().unwrap();
    let flags = rustix::fs::fcntl_getfl(&stdout).unwrap();
    rustix::fs::fcntl_setfl(&stdout, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
    let read = tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::from(stdout);
        let mut line = Vec::new();
        let mut byte = [0];
        while file.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        line
    });
    let line = tokio::time::timeout(LONG, read)
        .await
        .expect("a line of output in time")
        .unwrap();
    serde_json::from_slice(&line)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&line)))
}
