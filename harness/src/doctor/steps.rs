//! Every step that `doctor` tries, in one table per tier: its name, what it tries, what needs it, what to do if it fails.
//!
//! To add a step: a variant of [`Step`], a row in a tier's table, an arm in that tier's module. Tests below hold that every
//! capability that a tier says it has is tried by at least one step. Nothing here touches the machine.

use tweedledum_core::capability::Capability;

use crate::substrate::process::group::REMEDY as CGROUP;

/// A step. Closed: what a tier tries is in its table and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Files may grow.
    FileSize,
    /// A child of our own is started, held, killed, and its death seen.
    Spawn,
    /// A block of loopback addresses is locked and bound.
    Addresses,
    /// The child stands still and goes on.
    Freeze,
    /// A small flood arrives.
    UdpSources,
    /// A socket that overflows says so.
    UdpDrops,
    /// A filter tells a child's calls, and its disk is full.
    DiskFilter,
    /// A write over the cap is shortened.
    DiskShortWrite,
    /// The child's descriptor is replaced by another.
    DiskDescriptor,
    /// Memory is limited, live.
    LimitMemory,
    /// Processors are limited, live.
    LimitCpu,
    /// Processes are limited, live.
    LimitPids,
    /// A user namespace with this user mapped.
    UserNamespace,
    /// A mount of its own.
    MountNamespace,
    /// A network of its own.
    NetworkNamespace,
    /// A TUN device in it.
    Tun,
    /// Where the engine would be.
    EngineAddress,
    /// It answers.
    EngineAnswers,
    /// It is new enough.
    EngineApi,
    /// Our executable becomes an image.
    Image,
    /// A keeper, a network, a pod with its agent.
    Pod,
    /// A node's container in the pod.
    Node,
    /// What the agent may do to the pod's network.
    NetAdmin,
    /// A volume of a size.
    SizedVolume,
    /// The node is killed through the API and its death told.
    KillNode,
    /// It is started again.
    StartNode,
    /// Everything is removed.
    Removal,
}

/// What needs a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// Whatever runs in this tier.
    Everything,
    /// Faults that need one of these; none is for what comes later.
    Only(&'static [Capability]),
}

impl Serves {
    /// Whether something that needs these capabilities needs the step.
    pub fn any_of(self, needs: &[Capability]) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(served) => served.iter().any(|capability| needs.contains(capability)),
        }
    }
}

/// One row of a tier's table.
#[derive(Debug, Clone, Copy)]
pub struct StepRow {
    /// Which step.
    pub step: Step,
    /// Its name in reports.
    pub name: &'static str,
    /// What it tries.
    pub tries: &'static str,
    /// What needs it.
    pub serves: Serves,
    /// Without these it cannot be tried.
    pub after: &'static [Step],
    /// What to do if it fails and the failure itself does not say.
    pub fix: &'static str,
}

const DISK: Serves = Serves::Only(&[Capability::Disk]);
const FLOOD: Serves = Serves::Only(&[Capability::Flood]);
const SECCOMP: &str = "use a kernel of at least 5.19 (`uname -r`), and in a container one whose profile allows seccomp(2): `docker run --security-opt seccomp=unconfined …`";
const NAMESPACES: &str = "allow user namespaces: `sysctl -w user.max_user_namespaces=10000`, where they exist also `kernel.unprivileged_userns_clone=1` and `kernel.apparmor_restrict_unprivileged_userns=0`; in a container `docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined …`";

/// What to do where files may not grow.
pub const FILES_GROW: &str = "raise the hard limit on the size of files to 1 GiB at least (`ulimit -Hf`, in blocks of 512 or 1024 bytes), or run where there is none";

/// Runs on every substrate refuse to start without it.
const FILE_SIZE: StepRow = StepRow {
    step: Step::FileSize,
    name: "file-size",
    tries: "raises the limit on the size of files to its hard limit, as runs do, which start nothing where that is under 1 GiB",
    serves: Serves::Everything,
    after: &[],
    fix: FILES_GROW,
};

/// process/shared.
pub const SHARED: &[StepRow] = &[
    FILE_SIZE,
    StepRow {
        step: Step::Spawn,
        name: "spawn",
        tries: "starts our own executable as a child, holds it by pidfd, kills it by that, sees its death",
        serves: Serves::Everything,
        after: &[],
        fix: "use a kernel of at least 5.4 and raise the limits of processes and open files (`ulimit -u`, `ulimit -n`); in a container `docker run --security-opt seccomp=unconfined …`",
    },
    StepRow {
        step: Step::Addresses,
        name: "addresses",
        tries: "locks a block 127.A.B.0/24 by an abstract socket, binds UDP and TCP in it, connects between two of its addresses",
        serves: Serves::Everything,
        after: &[],
        fix: "bring the loopback interface up (`ip link set lo up`) and leave 127.0.0.0/8 on it; run `tweedledum clean` where every block is taken",
    },
    StepRow {
        step: Step::Freeze,
        name: "freeze",
        tries: "stops a child, sees every thread of it stopped and not at work, lets it go on",
        serves: Serves::Only(&[Capability::Freeze]),
        after: &[Step::Spawn],
        fix: "mount /proc so that this user sees its own children (no `hidepid` without its `gid`)",
    },
    StepRow {
        step: Step::UdpSources,
        name: "udp-sources",
        tries: "floods a socket of its own from 320 ports of another address in 200 ms and counts what arrived",
        serves: FLOOD,
        after: &[Step::Addresses],
        fix: "raise the limit of open files above the number of sources (`ulimit -n`)",
    },
    StepRow {
        step: Step::UdpDrops,
        name: "udp-drops",
        tries: "overflows a socket of its own and sees `drops` rise in /proc/net/udp",
        serves: FLOOD,
        after: &[Step::Addresses],
        fix: "mount /proc with its `net` readable: no `subset=pid`",
    },
    StepRow {
        step: Step::DiskFilter,
        name: "disk-filter",
        tries: "puts the filter of a capped node on a child (seccomp user notification, WAIT_KILLABLE_RECV), which then is refused room over the cap, gets room below it, and without the cap all",
        serves: DISK,
        after: &[Step::Spawn],
        fix: SECCOMP,
    },
    StepRow {
        step: Step::DiskShortWrite,
        name: "disk-short-write",
        tries: "lets a capped child write over its cap in one call, as runs do: through its own descriptor",
        serves: DISK,
        after: &[Step::DiskFilter],
        fix: SECCOMP,
    },
    StepRow {
        step: Step::DiskDescriptor,
        name: "disk-descriptor",
        tries: "the same where pidfd_getfd is refused: the file opened again and put in the descriptor's place (ADDFD)",
        serves: DISK,
        after: &[Step::DiskFilter],
        fix: SECCOMP,
    },
    StepRow {
        step: Step::LimitMemory,
        name: "limit-memory",
        tries: "limits a child's memory by a cgroup of its own and finds it so from the child (prlimit limits address space, which is not memory, so it is no substitute)",
        serves: Serves::Only(&[Capability::Memory]),
        after: &[Step::Spawn],
        fix: CGROUP,
    },
    StepRow {
        step: Step::LimitCpu,
        name: "limit-cpu",
        tries: "limits a child to a tenth of a processor by a cgroup of its own and finds it so from the child",
        serves: Serves::Only(&[Capability::Cpu]),
        after: &[Step::Spawn],
        fix: CGROUP,
    },
    StepRow {
        step: Step::LimitPids,
        name: "limit-pids",
        tries: "limits a child's processes by a cgroup of its own and finds it so from the child (prlimit counts all of a user's, so it is no substitute)",
        serves: Serves::Only(&[Capability::Pids]),
        after: &[Step::Spawn],
        fix: CGROUP,
    },
];

/// process/isolated.
pub const ISOLATED: &[StepRow] = &[
    StepRow {
        step: Step::UserNamespace,
        name: "user-namespace",
        tries: "a child enters a user namespace and maps this user to root in it",
        serves: Serves::Everything,
        after: &[],
        fix: NAMESPACES,
    },
    StepRow {
        step: Step::MountNamespace,
        name: "mount-namespace",
        tries: "it mounts a sized tmpfs that only it sees",
        serves: Serves::Everything,
        after: &[Step::UserNamespace],
        fix: NAMESPACES,
    },
    StepRow {
        step: Step::NetworkNamespace,
        name: "network-namespace",
        tries: "it enters a network of its own and brings its loopback up",
        serves: Serves::Everything,
        after: &[Step::MountNamespace],
        fix: NAMESPACES,
    },
    StepRow {
        step: Step::Tun,
        name: "tun",
        tries: "it opens /dev/net/tun and makes a device in its network",
        serves: Serves::Everything,
        after: &[Step::NetworkNamespace],
        fix: "load the module and let this user open it: `modprobe tun`, `chmod 666 /dev/net/tun`; in a container `docker run --device /dev/net/tun …`",
    },
];

const PULLED_DOWN: &str = "remove what carries the label org.tweedledum.nonce and is named above: `docker rm -f`, `docker volume rm`, `docker network rm`";
const ENGINE: &str =
    "start the engine (`systemctl start docker`), or set DOCKER_HOST to where it listens";

/// docker.
pub const DOCKER: &[StepRow] = &[
    FILE_SIZE,
    StepRow {
        step: Step::EngineAddress,
        name: "engine-address",
        tries: "finds the engine's address as the docker CLI does: DOCKER_HOST, DOCKER_CONTEXT, the current context, the default socket",
        serves: Serves::Everything,
        after: &[],
        fix: "set DOCKER_HOST to unix:///PATH or tcp://HOST:PORT",
    },
    StepRow {
        step: Step::EngineAnswers,
        name: "engine-answers",
        tries: "asks the engine for its version",
        serves: Serves::Everything,
        after: &[Step::EngineAddress],
        fix: ENGINE,
    },
    StepRow {
        step: Step::EngineApi,
        name: "engine-api",
        tries: "negotiates an API of at least 1.40 with an engine of Linux containers for this processor",
        serves: Serves::Everything,
        after: &[Step::EngineAnswers],
        fix: "update the engine to 19.03 or later",
    },
    StepRow {
        step: Step::Image,
        name: "image",
        tries: "imports our own executable with the shared objects that it names; the image stays, and runs use it",
        serves: Serves::Everything,
        after: &[Step::EngineApi],
        fix: "make room where the engine keeps images (`docker system df`)",
    },
    StepRow {
        step: Step::Pod,
        name: "pod",
        tries: "makes a keeper, an internal network, a volume and an agent that owns the pod and has NET_ADMIN, and greets the agent",
        serves: Serves::Everything,
        after: &[Step::Image],
        fix: "let the engine give containers NET_ADMIN, and free subnets (`docker network prune`)",
    },
    StepRow {
        step: Step::Node,
        name: "node",
        tries: "starts a node's container without added rights in the pod; the agent connects to it by its address",
        serves: Serves::Everything,
        after: &[Step::Pod],
        fix: "look at the engine's own log (`journalctl -u docker`)",
    },
    StepRow {
        step: Step::NetAdmin,
        name: "net-admin",
        tries: "reads the agent's rights in the kernel: what link faults, which come later, will need",
        serves: Serves::Only(&[]),
        after: &[Step::Node],
        fix: "let the engine give containers NET_ADMIN (`docker run --cap-add NET_ADMIN` must work)",
    },
    StepRow {
        step: Step::SizedVolume,
        name: "sized-volume",
        tries: "asks a tmpfs volume of 1 MiB for more than it has, fills it with ballast, empties it again",
        serves: DISK,
        after: &[Step::Pod],
        fix: "use an engine whose `local` volume driver mounts tmpfs: `docker volume create --opt type=tmpfs --opt device=tmpfs --opt o=size=1m NAME`",
    },
    StepRow {
        step: Step::UdpSources,
        name: "udp-sources",
        tries: "lets the agent flood the node's socket from 320 ports in 500 ms and counts what arrived, drops included",
        serves: FLOOD,
        after: &[Step::Node],
        fix: "raise the engine's limit of open files for containers (`default-ulimits` in daemon.json)",
    },
    StepRow {
        step: Step::LimitMemory,
        name: "limit-memory",
        tries: "limits the node's memory while it runs, reads it back, and lets the agent find it so from the node",
        serves: Serves::Only(&[Capability::Memory]),
        after: &[Step::Node],
        fix: "give the engine a memory cgroup (`docker info` warns where it has none)",
    },
    StepRow {
        step: Step::LimitCpu,
        name: "limit-cpu",
        tries: "limits the node to a tenth of a processor while it runs, reads it back, and lets the agent find it so from the node",
        serves: Serves::Only(&[Capability::Cpu]),
        after: &[Step::Node],
        fix: "give the engine a cpu cgroup with CFS quotas (`docker info` warns where it has none)",
    },
    StepRow {
        step: Step::LimitPids,
        name: "limit-pids",
        tries: "limits the node's processes while it runs, reads it back, and lets the agent find it so from the node",
        serves: Serves::Only(&[Capability::Pids]),
        after: &[Step::Node],
        fix: "give the engine a pids cgroup (`docker info` warns where it has none)",
    },
    StepRow {
        step: Step::Freeze,
        name: "freeze",
        tries: "pauses the node through the API, sees it shown paused and the agent see nothing of it at work, lets it go on and reaches it",
        serves: Serves::Only(&[Capability::Freeze]),
        after: &[Step::Node],
        fix: "give the engine a freezer cgroup",
    },
    StepRow {
        step: Step::KillNode,
        name: "kill",
        tries: "kills the node through the API and is told its death by signal 9",
        serves: Serves::Only(&[Capability::Kill]),
        after: &[Step::Node],
        fix: "look at the engine's own log (`journalctl -u docker`)",
    },
    StepRow {
        step: Step::StartNode,
        name: "start",
        tries: "starts the node again in the same pod; the agent connects to it by the same address",
        serves: Serves::Only(&[Capability::Start]),
        after: &[Step::KillNode],
        fix: "look at the engine's own log (`journalctl -u docker`)",
    },
    StepRow {
        step: Step::Removal,
        name: "removal",
        tries: "removes everything that was made but the image, and looks whether it is gone",
        serves: Serves::Everything,
        after: &[Step::Image],
        fix: PULLED_DOWN,
    },
];
