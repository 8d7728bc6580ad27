//! UDP pings: does a node still answer where its protocol lives, whatever its HTTP port says?
//!
//! One long-lived socket asks all nodes, so that each of them has one session entry for all pings
//! of a run. The wire is a [`Dialect`]'s. Silence is an answer here: a node that is deaf on UDP
//! and healthy elsewhere is exactly what this is for.
//!
//! It does not repeat a lost ping; on loopback nothing is lost but by full buffers.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{NodeName, Observation, Ping};
use crate::agent::{Dialect, PingSpec};
use crate::clock::{monotonic_ns, unix_ns};

/// Whom to ping.
#[derive(Debug, Clone)]
pub struct PingTarget {
    /// Name of the node.
    pub node: NodeName,
    /// Its UDP address.
    pub address: SocketAddr,
    /// Its public key.
    pub key: [u8; 32],
}

/// Who pings: the same for all pings of a run.
#[derive(Debug, Clone, Copy)]
pub struct PingFrom {
    /// The agent's own address in the run's block.
    pub ip: IpAddr,
    /// Its secret identity.
    pub identity: [u8; 32],
    /// Network id of the network under test.
    pub netid: u32,
}

/// Pings nodes from one socket. To be used inside one Tokio runtime.
#[derive(Debug)]
pub struct Pinger {
    shared: Arc<Shared>,
    _receiver: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    socket: UdpSocket,
    dialect: Arc<dyn Dialect>,
    from: PingFrom,
    next_request: AtomicU64,
    unexpected: AtomicU64,
    /// Pings without an answer yet, by whom they went to and by request.
    waiting: Mutex<BTreeMap<(SocketAddr, u64), Waiting>>,
}

/// What an answer must fit, and whom to tell.
#[derive(Debug)]
struct Waiting {
    key: [u8; 32],
    sent_unix_ns: u64,
    answered: oneshot::Sender<Instant>,
}

impl Pinger {
    /// Opens the socket.
    pub async fn bind(dialect: Arc<dyn Dialect>, from: PingFrom) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            socket: UdpSocket::bind((from.ip, 0)).await?,
            dialect,
            from,
            next_request: AtomicU64::new(1),
            unexpected: AtomicU64::new(0),
            waiting: Mutex::default(),
        });
        let mut receiver = JoinSet::new();
        receiver.spawn(receive(Arc::clone(&shared)));
        Ok(Self {
            shared,
            _receiver: receiver,
        })
    }

    /// The socket's own address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.shared.socket.local_addr()
    }

    /// Datagrams that answered no ping, or too late.
    #[cfg(test)]
    fn unexpected(&self) -> u64 {
        self.shared.unexpected.load(Ordering::Relaxed)
    }

    /// Pings one node and waits for the answer for at most `bound`. Cancel-safe.
    pub async fn ping(&self, target: &PingTarget, bound: Duration) -> Ping {
        ping(&self.shared, target, bound).await
    }

    /// Pings all `targets` once per `period`, spread evenly over it, until the result or the
    /// pinger is dropped. A ping that is not answered within `bound`, or a period if that is
    /// shorter, counts as not answered.
    pub fn watch(
        &self,
        targets: Vec<PingTarget>,
        period: Duration,
        bound: Duration,
        out: &mpsc::Sender<Observation>,
    ) -> PingWatch {
        let mut tasks = JoinSet::new();
        let (period, began) = (period.max(Duration::from_millis(10)), Instant::now());
        let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        for (index, target) in (0..).zip(targets) {
            let first = began + period * index / count;
            let (shared, out) = (Arc::clone(&self.shared), out.clone());
            tasks.spawn(async move {
                let mut ticks = tokio::time::interval_at(first, period);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
                loop {
                    ticks.tick().await;
                    let ping = ping(&shared, &target, bound.min(period)).await;
                    if out.send(Observation::Ping(ping)).await.is_err() {
                        return;
                    }
                }
            });
        }
        PingWatch { _tasks: tasks }
    }
}

/// Pings periodically until dropped.
#[derive(Debug)]
#[must_use = "dropping a watch stops it"]
pub struct PingWatch {
    _tasks: JoinSet<()>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<(SocketAddr, u64), Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spec<'a>(&'a self, request: u64, key: &'a [u8; 32], now_unix_ns: u64) -> PingSpec<'a> {
        let PingFrom {
            identity, netid, ..
        } = &self.from;
        PingSpec {
            identity,
            request,
            target_key: key,
            netid: *netid,
            now_unix_ns,
        }
    }
}

/// Forgets a ping however its future ends.
#[derive(Debug)]
struct Forget<'a>(&'a Shared, (SocketAddr, u64));

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting().remove(&self.1);
    }
}

async fn ping(shared: &Shared, target: &PingTarget, bound: Duration) -> Ping {
    let request = shared.next_request.fetch_add(1, Ordering::Relaxed);
    let sent_unix_ns = unix_ns();
    let datagram = shared
        .dialect
        .ping(&shared.spec(request, &target.key, sent_unix_ns));
    let (answered, answer) = oneshot::channel();
    let id = (target.address, request);
    shared.waiting().insert(
        id,
        Waiting {
            key: target.key,
            sent_unix_ns,
            answered,
        },
    );
    let _forget = Forget(shared, id);

    let (t_ns, sent) = (monotonic_ns(), Instant::now());
    let mut ping = Ping {
        node: Arc::clone(&target.node),
        t_ns,
        rtt: None,
        send_error: None,
    };
    if let Err(error) = shared.socket.send_to(&datagram, target.address).await {
        ping.send_error = Some(error.to_string());
        return ping;
    }
    let answer = tokio::time::timeout(bound, answer).await;
    ping.rtt = answer
        .ok()
        .and_then(Result::ok)
        .map(|at| at.duration_since(sent));
    ping
}

async fn receive(shared: Arc<Shared>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match shared.socket.recv_from(&mut buffer).await {
            Ok((length, source)) => take_answer(&shared, &buffer[..length], source),
            // Errors of a UDP socket are about single datagrams; the next one may be fine.
            Err(error) => tracing::debug!(%error, "the ping socket reports an error"),
        }
    }
}

fn take_answer(shared: &Shared, datagram: &[u8], source: SocketAddr) {
    let at = Instant::now();
    let mut waiting = shared.waiting();
    let of_source = waiting.range((source, 0)..=(source, u64::MAX));
    let answered = of_source
        .filter(|((_, request), ping)| {
            let spec = shared.spec(*request, &ping.key, ping.sent_unix_ns);
            shared.dialect.is_pong(datagram, &spec)
        })
        .map(|(id, _)| *id)
        .next();
    if let Some(ping) = answered.and_then(|id| waiting.remove(&id)) {
        // The one who waited may just have given up.
        ping.answered.send(at).ok();
    } else {
        shared.unexpected.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::testing::TextDialect;
    use crate::observe::testing::block;

    const LONG: Duration = Duration::from_secs(5);

    /// Answers pings until dropped; with `garbage`, sends that before each answer.
    async fn node(ip: std::net::Ipv4Addr, answers: bool) -> (SocketAddr, JoinSet<()>) {
        let socket = UdpSocket::bind((ip, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok((length, source)) = socket.recv_from(&mut buffer).await {
                let text = String::from_utf8_lossy(&buffer[..length]).replace("ping", "pong");
                socket.send_to(b"\xff garbage", source).await.unwrap();
                if answers {
                    socket.send_to(text.as_bytes(), source).await.unwrap();
                }
            }
        });
        (address, tasks)
    }

    async fn pinger(ip: std::net::Ipv4Addr) -> Pinger {
        let from = PingFrom {
            ip: ip.into(),
            identity: [1; 32],
            netid: 116,
        };
        Pinger::bind(Arc::new(TextDialect), from).await.unwrap()
    }

    fn target(node: &str, address: SocketAddr) -> PingTarget {
        PingTarget {
            node: node.into(),
            address,
            key: [2; 32],
        }
    }

    #[tokio::test]
    async fn answers_and_silence_are_told_apart() {
        let at = block();
        let pinger = pinger(at(250)).await;
        let (alive, _alive) = node(at(5), true).await;
        let (deaf, _deaf) = node(at(6), false).await;
        let gone = std::net::UdpSocket::bind((at(7), 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let short = Duration::from_millis(50);
        for _ in 0..3 {
            let ping = pinger.ping(&target("alive", alive), LONG).await;
            assert!(
                ping.rtt.unwrap() < LONG && ping.send_error.is_none(),
                "{ping:?}"
            );
        }
        for address in [deaf, gone] {
            let ping = pinger.ping(&target("x", address), short).await;
            assert_eq!((ping.rtt, ping.send_error), (None, None));
        }
        assert_eq!(pinger.unexpected(), 4, "the garbage of four pings");
        assert!(
            pinger.shared.waiting().is_empty(),
            "nothing is remembered of what is over"
        );
    }

    #[tokio::test]
    async fn a_node_cannot_answer_for_another_and_late_answers_do_not_count() {
        let at = block();
        let pinger = pinger(at(250)).await;
        let silent = UdpSocket::bind((at(5), 0)).await.unwrap();
        let other = UdpSocket::bind((at(6), 0)).await.unwrap();
        let asked = target("silent", silent.local_addr().unwrap());
        let mine = pinger.local_addr().unwrap();
        let answering = async {
            let mut buffer = [0; 64];
            let length = silent.recv(&mut buffer).await.unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).replace("ping", "pong");
            other.send_to(text.as_bytes(), mine).await.unwrap();
            text
        };
        let short = Duration::from_millis(80);
        let (ping, text) = tokio::join!(pinger.ping(&asked, short), answering);
        assert_eq!(ping.rtt, None, "an answer from elsewhere is none");

        silent.send_to(text.as_bytes(), mine).await.unwrap();
        let again = tokio::join!(pinger.ping(&asked, short), async {
            silent.recv(&mut [0; 64]).await.unwrap();
        });
        assert_eq!(
            again.0.rtt, None,
            "the answer to the first ping does not answer the second"
        );
        assert_eq!(pinger.unexpected(), 2);
    }

    #[tokio::test]
    async fn a_watch_pings_everyone_each_period() {
        let at = block();
        let pinger = pinger(at(250)).await;
        let (alive, _alive) = node(at(5), true).await;
        let gone = std::net::UdpSocket::bind((at(7), 0))
            .unwrap()
            .local_addr()
            .unwrap();
        let (out, mut seen) = mpsc::channel(100);
        let targets = vec![target("alive", alive), target("gone", gone)];
        let watch = pinger.watch(targets, Duration::from_millis(40), LONG, &out);
        let mut answered: BTreeMap<NodeName, Vec<bool>> = BTreeMap::new();
        for _ in 0..10 {
            let Observation::Ping(ping) = seen.recv().await.unwrap() else {
                panic!()
            };
            answered
                .entry(ping.node)
                .or_default()
                .push(ping.rtt.is_some());
        }
        drop(watch);
        assert!(answered["alive"].iter().all(|yes| *yes) && answered["alive"].len() >= 4);
        assert!(answered["gone"].iter().all(|yes| !*yes) && answered["gone"].len() >= 4);
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_said() {
        let pinger = pinger(block()(250)).await;
        let unreachable = "192.0.2.1:9".parse().unwrap();
        let ping = pinger.ping(&target("x", unreachable), LONG).await;
        assert!(ping.send_error.is_some() && ping.rtt.is_none(), "{ping:?}");
    }
}
