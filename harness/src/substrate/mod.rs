//! Where nodes live, and the few traits through which everybody else reaches any such place.
//!
//! ```text
//! controller ── Ground ──► Substrate ──► Life      one life of one node
//!   (a run)    (one release's network) ├─► Vantage   what acts and looks inside a node's network
//!                                      └─► DiskHold  what a node's data may take
//! ```
//!
//! Each trait has one subject. What counts as evidence, in which order proofs are made and what is recorded is the
//! controller's, written once; a substrate says what it did and what it sees, in words of its own. To add a substrate,
//! give it a directory here beside [`process`] and implement the traits; the other places are in CONTRIBUTING.md. Nothing
//! in this module decides what to do to a node: that is the schedule's part.

pub mod cgroup;
pub mod disk;
pub mod docker;
pub mod executable;
pub mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tweedledum_core::capability::Resource;
use tweedledum_core::history::ExitStatus;
use tweedledum_core::launch::Launch;
use tweedledum_core::plan::model::{Image, StopSignal};
use tweedledum_core::run::Pace;

use crate::agent::Dialect;
use crate::agent::flood::{FloodReport, FloodSpec};
use crate::agent::operator::{Obeyed, Order};
use crate::agent::request::{Check, PingAt, PingEvery, Poll};
use crate::observe::Observation;
use crate::observe::ready::ExecEnd;
use crate::store::NodeDirectory;
use cgroup::Share;
use disk::{DiskStatus, Probed, Reading, Wanted};
pub use executable::Executables;

/// Something that a substrate does; the error says why it could not, as a lower-case fragment for the history.
pub type Doing<'a, T> = BoxFuture<'a, Result<T, String>>;

/// What was measured, for the record.
pub type Detail = BTreeMap<String, Value>;

/// The place where the releases of a run live, one after the other.
pub trait Ground: Debug + Send + Sync {
    /// What the history's header calls it.
    fn name(&self) -> &'static str;

    /// How long it takes for what it does.
    fn pace(&self) -> Pace;

    /// When a network can begin that could begin at this wall-clock time at the earliest, in nanoseconds since 1970: later
    /// where its nodes count layers already.
    fn genesis_unix_ns(&self, earliest_unix_ns: u64) -> u64 {
        earliest_unix_ns
    }

    /// Which of the nodes' own epochs begins with a network that begins at this wall-clock time.
    fn first_epoch(&self, _genesis_unix_ns: u64) -> u64 {
        0
    }

    /// Makes everything of a network that outlives its nodes' lives. Starts no node; disks are held as the request says
    /// when this returns.
    fn open(&self, request: Request) -> Doing<'_, Arc<dyn Substrate>>;

    /// What was there before, was stopped by a run and not started by its plan, and was brought up at the run's end.
    fn brought_up(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A network that is about to be made.
#[derive(Debug)]
pub struct Request {
    /// Its nodes, in the plan's order.
    pub seats: Vec<Seat>,
    /// Where relative paths of executables start.
    pub base: PathBuf,
    /// What nodes are started from, as it was when the run began.
    pub executables: Executables,
    /// How long a layer is: what agents are late by counts against it.
    pub layer: Duration,
    /// The protocols that agents speak.
    pub dialects: Vec<Arc<dyn Dialect>>,
    /// Who the agents are.
    pub identities: Identities,
    /// Where what agents see goes.
    pub saw: mpsc::Sender<Observation>,
}

/// Who the agents of a network are.
#[derive(Debug, Clone, Copy)]
pub struct Identities {
    /// Secret of those who ping all the time.
    pub watcher: [u8; 32],
    /// Secret of those who ping once for evidence.
    pub prober: [u8; 32],
    /// Network id of the network under test.
    pub netid: u32,
}

/// One node of a network that is about to be made.
#[derive(Debug)]
pub struct Seat {
    /// Its name.
    pub node: String,
    /// Its directory on this machine, with an empty data directory.
    pub directory: NodeDirectory,
    /// What is done to its disk, if anything.
    pub disk: Option<DiskNeed>,
    /// What it will be limited in.
    pub limits: BTreeSet<Resource>,
    /// What it is started from where nodes have images, instead of one with an executable of this machine.
    pub image: Option<Image>,
}

/// What will be done to a node's disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct DiskNeed {
    /// What it holds from the start on, in bytes.
    pub limit: Option<u64>,
    /// The largest that a fault makes it, in bytes.
    pub largest_cap: u64,
}

/// A node's place as the node itself sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// Its address.
    pub address: IpAddr,
    /// Its data directory.
    pub data: String,
    /// Its network file.
    pub network: String,
}

/// The network of one release.
pub trait Substrate: Debug + Send + Sync {
    /// Where a node lives; `None` for a name that is none of its nodes'.
    fn spot(&self, node: &str) -> Option<Spot>;

    /// What acts and looks inside a node's network.
    fn vantage(&self, node: &str) -> Option<Arc<dyn Vantage>>;

    /// A node's disk, where it is held.
    fn disk(&self, node: &str) -> Option<Arc<dyn DiskHold>>;

    /// Begins a life of a node. What is left of its former one is removed first.
    fn start(&self, launch: Launch) -> Doing<'_, (Arc<dyn Life>, NodePipes)>;

    /// Runs a command in a node's surroundings to its end, at most for `bound`.
    fn run(&self, node: &str, argv: Vec<String>, bound: Duration) -> Doing<'_, ExecEnd>;

    /// Images that its nodes are started from and that were not made from executables of this machine: their ids, by the
    /// names that roles have for them, or by node.
    fn images(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Whether its nodes were there before the run and stay: then nobody stops them at its end.
    fn outlives_runs(&self) -> bool {
        false
    }

    /// Ends only when the substrate cannot be trusted any more, and says why.
    fn failed(&self) -> BoxFuture<'_, String>;

    /// Kills and removes everything of this network; what is still there after the substrate's own bound, in words.
    fn tear_down(&self) -> BoxFuture<'_, Vec<String>>;
}

/// The read ends of a node's output, non-blocking.
#[derive(Debug)]
pub struct NodePipes {
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Where the node was there before the run: what earlier lives of it have printed, which is news of this one in nothing.
    pub former: Option<OwnedFd>,
    /// Where somebody carries the output into the pipes: why that cannot be done any more, said while the pipes are open.
    pub cut: Option<watch::Receiver<Option<String>>>,
    /// Where what was printed before the run is read back: why part of that is lost, once that is known.
    pub lost: Option<watch::Receiver<Option<String>>>,
}

/// Why a limit is refused where nodes are somebody else's.
const NOT_OURS: &str = "what it has of its machine is not the harness's to limit";

/// One life of one node, from its start to its death.
pub trait Life: Debug + Send + Sync {
    /// Its process, for people.
    fn pid(&self) -> Option<u32>;

    /// Waits for the death. May be called by several tasks, and dropped at any time.
    fn died(&self) -> BoxFuture<'_, Death>;

    /// The death, if it was seen.
    fn try_died(&self) -> Option<Death>;

    /// Kills it without asking. Returns the instant just before, in nanoseconds of this machine's monotonic clock.
    fn kill(&self) -> Doing<'_, u64>;

    /// Asks it to end by `signal`, frozen or not, and kills it when it does not within `grace`.
    fn terminate(&self, signal: StopSignal, grace: Duration) -> Doing<'_, Stopped>;

    /// Once it is dead: kills what it had started and what lives on, and says whether nobody does. Where all of a node dies
    /// with it, as in a container, there is nothing to do.
    fn extinct(&self) -> BoxFuture<'_, Seen> {
        let holds = true;
        Box::pin(std::future::ready(Seen {
            holds,
            detail: Detail::new(),
        }))
    }

    /// Once it was killed: whether it stays dead until the harness starts it again. Where nobody else can start it, it does.
    fn still_dead(&self) -> BoxFuture<'_, Seen> {
        let holds = true;
        Box::pin(std::future::ready(Seen {
            holds,
            detail: Detail::new(),
        }))
    }

    /// Makes it stand still with everything that it ever started.
    fn freeze(&self) -> Doing<'_, ()>;

    /// Whether all of it stands still; what is seen is kept for [`at_work`](Self::at_work).
    fn at_rest(&self) -> BoxFuture<'_, Seen>;

    /// Who of it was at work since [`at_rest`](Self::at_rest) looked; nobody, if it was frozen all the time.
    fn at_work(&self) -> BoxFuture<'_, Vec<String>>;

    /// Lets all of it go on.
    fn thaw(&self) -> Doing<'_, ()>;

    /// Gives it so much of a resource, or all that its machine has, in this life and later ones, and reads that back.
    /// Where what it has is somebody else's to set, it is not touched.
    fn limit(&self, _resource: Resource, _amount: Option<u64>) -> Doing<'_, Option<u64>> {
        Box::pin(std::future::ready(Err(NOT_OURS.to_owned())))
    }

    /// What the kernel holds it to, found from one of its processes and not from where limits are set.
    fn share(&self, _resource: Resource) -> Doing<'_, Share> {
        Box::pin(std::future::ready(Err(NOT_OURS.to_owned())))
    }

    /// Whether it goes on.
    fn awake(&self) -> BoxFuture<'_, Seen>;
}

/// What a look showed: whether it is as it should be, and the substrate's own words for the record.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// Whether it is.
    pub holds: bool,
    /// What was seen.
    pub detail: Detail,
}

/// The death of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    /// How it ended.
    pub status: ExitStatus,
    /// When that was seen, in nanoseconds of this machine's monotonic clock.
    pub seen_ns: u64,
}

/// An orderly stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// The death.
    pub death: Death,
    /// It ignored being asked for the whole grace and was killed.
    pub forced: bool,
    /// How long it took.
    pub took: Duration,
}

/// What acts and looks inside a node's network: it outlives the node's lives.
pub trait Vantage: Debug + Send + Sync {
    /// The address that what it sends comes from.
    fn address(&self) -> IpAddr;

    /// How late it was at worst since this was asked last, where it can be late without this process being so.
    fn lateness(&self) -> Duration {
        Duration::ZERO
    }

    /// Waits until the node is ready; returns how long that took.
    fn until_ready(&self, check: Check, bound: Duration) -> Doing<'_, Duration>;

    /// Polls these signals and pings the node from now on, in place of what was watched before.
    fn watch(&self, polls: Vec<Poll>, ping: Option<PingEvery>) -> Doing<'_, ()>;

    /// Pings the node once, from a socket of its own; the time of its answer, if one came.
    fn ping(&self, at: PingAt, bound: Duration) -> Doing<'_, Option<Duration>>;

    /// Gives a PoET its operator's order.
    fn operate(&self, order: Order, bound: Duration) -> Doing<'_, Obeyed>;

    /// Opens a flood's sockets and builds its datagrams.
    fn prepare_flood(&self, flood: u32, dialect: String, spec: FloodSpec) -> Doing<'_, ()>;

    /// Sends a prepared flood at this instant of this machine's monotonic clock, and waits until all is sent. Its ports
    /// stay open.
    fn start_flood(&self, flood: u32, at_ns: u64) -> Doing<'_, FloodReport>;

    /// Stops a flood and waits until its ports are closed; `None` if it was never started.
    fn stop_flood(&self, flood: u32) -> Doing<'_, Option<FloodReport>>;
}

/// A node's disk that is held.
pub trait DiskHold: Debug + Send + Sync {
    /// Makes the disk what it shall be, and reads it back.
    fn set(&self, wanted: Wanted) -> Doing<'_, Reading>;

    /// Asks the same disk for this much at once, as somebody else than the node, and gives it back.
    fn probe(&self, bytes: u64) -> Doing<'_, Probed>;

    /// What becomes of it. The channel closes when nobody holds it any more.
    fn status(&self) -> tokio::sync::watch::Receiver<DiskStatus>;
}
