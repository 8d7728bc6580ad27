//! A PoET as a process, and gateways that answer as they are told.

use super::support::{Block, Node, SOON, binary, poll, request};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tweedledum_nodes::poet::Params;
use tweedledum_nodes::poet::proof::Proof;

/// A PoET's place in the world: its address, network file and data directory, across restarts.
pub(crate) struct Place {
    pub(crate) block: Block,
    dir: tempfile::TempDir,
    pub(crate) layer: Duration,
    pub(crate) genesis: SystemTime,
}

impl Place {
    /// Round 0 closes `lead` from now.
    pub(crate) fn new(layer: Duration, lead: Duration) -> Self {
        Self {
            block: Block::take(),
            dir: tempfile::tempdir().unwrap(),
            layer,
            genesis: SystemTime::now() + lead + 3 * layer,
        }
    }

    pub(crate) fn api(&self) -> SocketAddr {
        SocketAddr::from((self.block.ip(0), 8080))
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn start(&self, flags: &[&str]) -> Poet {
        let genesis = self.genesis.duration_since(UNIX_EPOCH).unwrap();
        let network = json!({
            "format": 1, "netid": 116, "seed": 7, "layers_per_epoch": 4,
            "genesis_unix_ns": u64::try_from(genesis.as_nanos()).unwrap(),
            "layer_ns": u64::try_from(self.layer.as_nanos()).unwrap(),
            "release": { "name": "candidate", "base": "fixed" },
            "self": { "name": "poet-0", "role": "clock", "identity": hex::encode([9; 32]) },
            "nodes": [{ "name": "poet-0", "role": "clock", "speaks": ["poet-2020"], "api": self.api() }],
        });
        let file = self.dir.path().join("network.json");
        fs_err::write(&file, network.to_string()).unwrap();
        let mut command = binary();
        command
            .args(["poet", "--name", "poet-0", "--network"])
            .arg(file)
            .args(["--api", &self.api().to_string(), "--data-dir"])
            .arg(self.data())
            .args(flags);
        let api = self.api();
        Poet(Node::start(command, api, api, [0; 32]))
    }
}

/// A running PoET.
pub(crate) struct Poet(pub(crate) Node);

impl Poet {
    /// The next event of this name that is about this round.
    pub(crate) fn event(&mut self, name: &str, round: u32) -> Value {
        loop {
            let event = self.0.event(name);
            if event["round"] == round {
                return event;
            }
        }
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = request(self.0.api, "POST", path, body.to_string().as_bytes());
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        let (status, text) = request(self.0.api, "GET", path, b"");
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// Registers a challenge, and says for which round.
    pub(crate) fn register(&self, challenge: [u8; 32]) -> u32 {
        let body = json!({ "challenge": STANDARD.encode(challenge) });
        let mut round = None;
        poll(&|| format!("{} to take a challenge", self.0.api), || {
            let (status, answer) = self.post("/v1/submit", &body);
            round = answer["roundId"].as_str().map(str::to_owned);
            status == 200
        });
        round.unwrap().parse().unwrap()
    }

    /// A clean end within a second; rounds go on until their checkpoint is written.
    pub(crate) fn stop(self) {
        let events = self.0.stopped();
        assert!(events.iter().any(|event| event["event"] == "stopping"));
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.0.signal(rustix::process::Signal::KILL);
        self.0.wait();
    }
}

/// A server on an address of its own that takes proofs, or refuses them.
pub(crate) struct Gateway {
    pub(crate) at: SocketAddr,
    takes: Arc<AtomicBool>,
    taken: Arc<Mutex<Vec<Proof>>>,
}

impl Gateway {
    pub(crate) fn start(at: SocketAddr, takes: bool) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let gateway = Self {
            at,
            takes: Arc::new(AtomicBool::new(takes)),
            taken: Arc::default(),
        };
        let (takes, taken) = (Arc::clone(&gateway.takes), Arc::clone(&gateway.taken));
        // It lives as long as the test's process, like its address.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (takes, taken) = (Arc::clone(&takes), Arc::clone(&taken));
                std::thread::spawn(move || answer(&stream.unwrap(), &takes, &taken));
            }
        });
        gateway
    }

    pub(crate) fn take_from_now_on(&self) {
        self.takes.store(true, Ordering::Release);
    }

    /// The rounds whose proofs it took, in order; every one is verified.
    pub(crate) fn rounds(&self, params: Params) -> Vec<u32> {
        let taken = self.taken.lock().unwrap();
        for proof in taken.iter() {
            proof.verify(params).unwrap();
        }
        taken.iter().map(|proof| proof.round).collect()
    }

    /// The proof of a round, verified.
    pub(crate) fn proof(&self, round: u32, params: Params) -> Proof {
        let taken = self.taken.lock().unwrap();
        let proof = taken.iter().find(|proof| proof.round == round).unwrap();
        proof.verify(params).unwrap();
        proof.clone()
    }
}

fn answer(mut stream: &TcpStream, takes: &AtomicBool, taken: &Mutex<Vec<Proof>>) {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut length, mut first) = (0, None);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) < 3 {
            break;
        }
        let line = line.to_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        first.get_or_insert(line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let (mut status, mut text) = ("404 Not Found", String::new());
    if first.is_some_and(|line| line.starts_with("post /v1/broadcastpoet ")) {
        if takes.load(Ordering::Acquire) {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let data = STANDARD.decode(body["data"].as_str().unwrap()).unwrap();
            taken.lock().unwrap().push(Proof::decode(&data).unwrap());
            (status, text) = ("200 OK", json!({ "value": "ok" }).to_string());
        } else {
            status = "503 Service Unavailable";
        }
    }
    let length = text.len();
    let answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}");
    // The other end may be gone.
    let _ = stream.write_all(answer.as_bytes());
}
