//! Starts nodes as a user would, and waits for what they do.
//!
//! Every wait has a bound and says what was missing. Nodes are killed when their handle is dropped.

use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tweedledum_nodes::wire;

pub(crate) const NETID: u32 = 116;
/// A bound for everything that should take milliseconds, on a machine that does much else.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A free 127.A.B.0/24 block; the socket of its name keeps others away while it lives.
pub(crate) struct Block {
    a: u8,
    b: u8,
    _lock: UnixListener,
}

impl Block {
    pub(crate) fn take() -> Self {
        for _ in 0..100 {
            let mut draw = [0; 2];
            getrandom::fill(&mut draw).unwrap();
            let [a, b] = [draw[0] % 200 + 20, draw[1]];
            let name = format!("tweedledum-127.{a}.{b}");
            let name = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
            if let Ok(lock) = UnixListener::bind_addr(&name) {
                return Self { a, b, _lock: lock };
            }
        }
        panic!("no free address block in 100 tries")
    }

    pub(crate) fn ip(&self, n: usize) -> Ipv4Addr {
        Ipv4Addr::new(127, self.a, self.b, u8::try_from(n + 1).unwrap())
    }
}

/// A network file in the making.
pub(crate) struct Network {
    pub(crate) block: Block,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) names: Vec<String>,
    pub(crate) netid: u32,
    pub(crate) layer: Duration,
    pub(crate) genesis: SystemTime,
    pub(crate) release: Value,
}

impl Network {
    pub(crate) fn new(names: &[&str]) -> Self {
        Self {
            block: Block::take(),
            dir: tempfile::tempdir().unwrap(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            netid: NETID,
            layer: Duration::from_millis(100),
            genesis: SystemTime::now(),
            release: json!({ "name": "candidate", "base": "fixed", "without": [] }),
        }
    }

    pub(crate) fn secret(name: &str) -> [u8; 32] {
        let mut secret = [3; 32];
        secret[..name.len()].copy_from_slice(name.as_bytes());
        secret
    }

    pub(crate) fn p2p(&self, name: &str) -> SocketAddr {
        let at = self.names.iter().position(|known| known == name).unwrap();
        SocketAddr::from((self.block.ip(at), 7513))
    }

    pub(crate) fn api(&self, name: &str) -> SocketAddr {
        let port = if is_poet(name) { 8080 } else { 9090 };
        SocketAddr::new(self.p2p(name).ip(), port)
    }

    pub(crate) fn key(name: &str) -> wire::PublicKey {
        wire::public_key(&Self::secret(name))
    }

    pub(crate) fn json(&self, me: &str) -> Value {
        let nodes: Vec<_> = self
            .names
            .iter()
            .map(|name| {
                // Roles under names that no code knows: only what a node speaks may count.
                let speaks: &[&str] = if name.starts_with("miner") {
                    &["udp-session-2020", "nodestatus", "layer-votes"]
                } else if is_poet(name) {
                    &["poet-2020"]
                } else {
                    &["udp-session-2020", "nodestatus"]
                };
                json!({
                    "name": name, "role": "digger", "speaks": speaks, "p2p": self.p2p(name),
                    "api": self.api(name), "key": hex::encode(Self::key(name)),
                    "id": hex::encode(tweedledum_nodes::node_id(&Self::secret(name))),
                })
            })
            .collect();
        let genesis = self.genesis.duration_since(UNIX_EPOCH).unwrap();
        json!({
            "format": 1, "netid": self.netid, "seed": 7, "layers_per_epoch": 4,
            "genesis_unix_ns": u64::try_from(genesis.as_nanos()).unwrap(),
            "layer_ns": u64::try_from(self.layer.as_nanos()).unwrap(),
            "release": self.release, "later": "fields of the future are ignored",
            "self": { "name": me, "role": "digger", "identity": hex::encode(Self::secret(me)) },
            "nodes": nodes,
        })
    }

    fn write(&self, me: &str, json: &Value) -> PathBuf {
        let path = self.dir.path().join(format!("{me}.json"));
        fs_err::write(&path, json.to_string()).unwrap();
        path
    }

    /// The command that starts `name` with further flags.
    pub(crate) fn command(&self, name: &str, flags: &[&str]) -> Command {
        self.command_with(name, &self.json(name), flags)
    }

    /// As [`Self::command`], with a network file of its own.
    pub(crate) fn command_with(&self, name: &str, json: &Value, flags: &[&str]) -> Command {
        let role = if name.starts_with("miner") {
            "miner"
        } else if is_poet(name) {
            "poet"
        } else {
            "gateway"
        };
        let mut command = binary();
        command
            .args([role, "--name", name, "--network"])
            .arg(self.write(name, json))
            .args(["--api", &self.api(name).to_string()]);
        if !is_poet(name) {
            command.args(["--p2p", &self.p2p(name).to_string()]);
        }
        command
            .arg("--data-dir")
            .arg(self.dir.path().join(name))
            .args(flags);
        command
    }

    pub(crate) fn start(&self, name: &str, flags: &[&str]) -> Node {
        self.run(name, self.command(name, flags))
    }

    pub(crate) fn run(&self, name: &str, command: Command) -> Node {
        Node::start(command, self.p2p(name), self.api(name), Self::key(name))
    }
}

/// PoETs have no swarm.
fn is_poet(name: &str) -> bool {
    name.starts_with("poet")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test is the one who starts processes here"
)]
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tweedledum-node"));
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A running node.
pub(crate) struct Node {
    child: Owned,
    pub(crate) p2p: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) key: wire::PublicKey,
    events: mpsc::Receiver<Value>,
    seen: VecDeque<Value>,
}

impl Node {
    pub(crate) fn start(
        mut command: Command,
        p2p: SocketAddr,
        api: SocketAddr,
        key: wire::PublicKey,
    ) -> Self {
        let mut child = Owned(command.spawn().unwrap());
        let stdout = BufReader::new(child.0.stdout.take().unwrap());
        let (sender, events) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.unwrap();
                let event = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "bad": line }));
                if sender.send(event).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            p2p,
            api,
            key,
            events,
            seen: VecDeque::new(),
        }
    }

    /// The next event of this name; earlier ones of other names are kept in `seen`.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        let end = Instant::now() + SOON;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if event["event"] == name => return event,
                Ok(event) => self.seen.push_back(event),
                Err(error) => panic!("no event `{name}` ({error}); seen: {:?}", self.seen),
            }
        }
    }

    /// The next event of this name that was not given yet, even if another one was waited for when it
    /// came.
    pub(crate) fn next(&mut self, name: &str) -> Value {
        let earlier = self.seen.iter().position(|event| event["event"] == name);
        match earlier.and_then(|at| self.seen.remove(at)) {
            Some(event) => event,
            None => self.event(name),
        }
    }

    /// Waits until the node ends by itself: its status, the rest of its events, its stderr.
    pub(crate) fn wait(&mut self) -> (ExitStatus, Vec<Value>, String) {
        let end = Instant::now() + SOON;
        let mut events: Vec<_> = self.seen.drain(..).collect();
        // Stdout closes when the process ends, so this waits for the end.
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => events.push(event),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("still running; seen: {events:?}"),
            }
        }
        let status = self.child.0.wait().unwrap();
        let mut text = String::new();
        self.child
            .0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        (status, events, text)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Asks for a clean end, and expects it within a second. What was under way may still be said after it was begun.
    pub(crate) fn stop(self) {
        let events = self.stopped();
        assert!(events.iter().any(|event| event["event"] == "stopping"));
    }

    /// As [`Self::stop`], of one that may still be at work meanwhile: the rest of its events.
    pub(crate) fn stopped(mut self) -> Vec<Value> {
        let before = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        let (status, events, text) = self.wait();
        assert!(status.success(), "{status}, {text}");
        assert!(
            before.elapsed() < Duration::from_secs(1),
            "{:?}",
            before.elapsed()
        );
        events
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.0.try_wait().unwrap().is_none()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        let (status, text) = http(self.api, "GET", "/metrics");
        assert_eq!(status, 200);
        let line = text
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until a metric satisfies `enough`.
    pub(crate) fn until(&self, name: &str, enough: impl Fn(u64) -> bool) -> u64 {
        let mut last = 0;
        poll(
            &|| {
                format!(
                    "{name} of {} to change from {}",
                    self.api,
                    self.metric(name)
                )
            },
            || {
                last = self.metric(name);
                enough(last)
            },
        );
        last
    }
}

/// A process that does not outlive the test, not even a failed one.
pub(crate) struct Owned(pub(crate) Child);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks again and again, a few times a second, until it is true.
pub(crate) fn poll(what: &dyn Fn() -> String, mut ask: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !ask() {
        assert!(
            Instant::now() < end,
            "waited {SOON:?} in vain for {}",
            what()
        );
        pause(Duration::from_millis(20));
    }
}

/// Lets time pass where time itself is what is tested, or between two questions.
pub(crate) fn pause(time: Duration) {
    std::thread::park_timeout(time);
}

pub(crate) fn http(api: SocketAddr, method: &str, path: &str) -> (u16, String) {
    request(api, method, path, b"")
}

/// A request with a body: the status and the text of the answer.
pub(crate) fn request(api: SocketAddr, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(api).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {api}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A server may answer and close before it has read a body that is too long.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// One UDP source: its own port and its own key.
pub(crate) struct Source {
    socket: UdpSocket,
    secret: [u8; 32],
    sent: u64,
}

impl Source {
    pub(crate) fn new(ip: Ipv4Addr) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).unwrap();
        Self {
            socket,
            secret,
            sent: 0,
        }
    }

    pub(crate) fn send(&self, to: &Node, datagram: &[u8]) {
        self.socket.send_to(datagram, to.p2p).unwrap();
    }

    pub(crate) fn ping(&mut self, to: &Node, netid: u32) {
        self.sent += 1;
        let mut nonce = [0; 24];
        nonce[..8].copy_from_slice(&self.sent.to_be_bytes());
        self.send(
            to,
            &wire::ping(&self.secret, &to.key, &nonce, netid, 1, self.sent),
        );
    }

    /// The answer to the last ping, if one comes.
    pub(crate) fn pong(&self, from: &Node) -> Result<wire::Pong, String> {
        let mut buffer = vec![0; wire::MAX_DATAGRAM];
        let len = self
            .socket
            .recv(&mut buffer)
            .map_err(|error| error.to_string())?;
        wire::parse_pong(&self.secret, &from.key, NETID, self.sent, &buffer[..len])
            .map_err(|error| error.to_string())
    }

    pub(crate) fn assert_answered(&mut self, node: &Node) {
        self.ping(node, NETID);
        self.pong(node).unwrap();
    }
}

pub(crate) fn aborted(status: ExitStatus) -> bool {
    status.signal() == Some(rustix::process::Signal::ABORT.as_raw())
}
