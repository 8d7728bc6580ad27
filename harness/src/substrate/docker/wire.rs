//! What harness and agent say to each other over the agent's standard input and output.
//!
//! A frame is its length as four bytes, big-endian, and that many bytes of JSON. Lengths are
//! bounded, and whatever bytes come, decoding gives messages or an error. Both sides are the same
//! executable, so there are no versions. To add an order, add it to [`Order`], its answer to
//! [`Answer`], and an arm to `inside::serve`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tweedledum_core::capability::Resource;

use crate::agent::flood::{FloodReport, FloodSpec};
use crate::agent::operator;
use crate::agent::request::{Check, PingAt, PingEvery, Poll};
use crate::observe::{Gap, NodeName, Observation, Ping, Sample, Value, duration_ns};
use crate::substrate::cgroup::Share;

/// How often an agent tells how late it was: half a layer.
pub(crate) fn beat(layer: Duration) -> Duration {
    (layer / 2).max(Duration::from_millis(10))
}

/// The longest message. Anything longer is none of ours.
pub(crate) const FRAME_MAX: usize = 512 << 10;

/// Why a stream of frames cannot be read on.
#[derive(Debug, Error)]
pub(crate) enum FrameError {
    /// The length is out of bounds.
    #[error("a frame of {0} bytes, where at most {FRAME_MAX} are allowed")]
    Length(usize),
    /// The content is not a message.
    #[error("a frame that is no message: {0}")]
    Content(#[from] serde_json::Error),
}

/// A message as the bytes of a frame.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - 4;
    let head = u32::try_from(length).ok().filter(|_| length <= FRAME_MAX);
    frame[..4].copy_from_slice(&head.ok_or(FrameError::Length(length))?.to_be_bytes());
    Ok(frame)
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub(crate) struct Frames(Vec<u8>);

impl Frames {
    /// Adds bytes as they come. To be called when [`Self::next`] has nothing more, so that no more
    /// than a frame and a chunk are ever kept.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The next message, if all of it is there. After an error there is nothing to go on with.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((head, rest)) = self.0.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if length > FRAME_MAX {
            return Err(FrameError::Length(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let message = serde_json::from_slice(body)?;
        self.0.drain(..4 + length);
        Ok(Some(message))
    }
}

/// Something that the harness wants, and the number that its answer will carry.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ordered {
    pub(crate) id: u64,
    pub(crate) order: Order,
}

/// What an agent does.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// First: who it is. Answered by the agent's clocks.
    Hello(Hello),
    /// Asks for the agent's clocks.
    Clock,
    /// From now on measures how late it is itself, in layers of this length, and tells it.
    KeepTime { layer: Duration },
    /// Waits until the node is ready, for at most this long.
    Ready { check: Check, bound: Duration },
    /// From now on polls these signals and pings the node; takes the place of what was watched.
    Watch {
        polls: Vec<Poll>,
        ping: Option<PingEvery>,
    },
    /// Pings once.
    Ping { target: PingAt, bound: Duration },
    /// Gives a PoET its operator's order, and looks at what came of it.
    Operate {
        order: operator::Order,
        bound: Duration,
    },
    /// Opens a flood's sockets and builds its datagrams.
    PrepareFlood {
        flood: u32,
        dialect: String,
        spec: FloodSpec,
    },
    /// Sends a prepared flood, at this moment of the agent's monotonic clock. Answered when all is
    /// sent; the ports stay open.
    StartFlood { flood: u32, at_ns: u64 },
    /// Closes a flood's ports. Answered when they are closed.
    StopFlood { flood: u32 },
    /// Takes this much of the data volume, or gives it back; goes on taking while it has less.
    Ballast { bytes: u64 },
    /// How full the data volume is.
    Disk,
    /// Tries to allocate this much at once in the data volume, and gives it back.
    ProbeDisk { bytes: u64 },
    /// The processes of the pod but the agent's own, and how long each has worked.
    Working,
    /// What the kernel holds the node to, as its own control group has it.
    Share { resource: Resource },
}

/// Who the agent is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Whose agent it is.
    pub(crate) node: String,
    /// The pod's own address.
    pub(crate) address: std::net::IpAddr,
    /// Secret of the one who pings all the time.
    pub(crate) watcher: [u8; 32],
    /// Secret of the one who pings once for evidence.
    pub(crate) prober: [u8; 32],
    /// Network id of the network under test.
    pub(crate) netid: u32,
}

/// What an agent says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Said {
    /// The answer to the order with this number.
    Answer {
        id: u64,
        result: Result<Answer, String>,
    },
    /// Something seen.
    Saw(Sight),
    /// It lives; how late it was at worst since it said so last.
    Late(Duration),
    /// What came in cannot be read; the agent exits.
    Broken(String),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    Done,
    Clock(Clocks),
    /// How long it took.
    Ready(Duration),
    Ping(Option<Duration>),
    Obeyed(operator::Obeyed),
    Flood(Box<FloodReport>),
    Disk(Disk),
    /// The error of the attempt; `None` if it succeeded.
    Probe(Option<i32>),
    Working(BTreeMap<i32, Working>),
    Share(Share),
}

/// The agent's clocks at one moment, and what its kernel has counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Clocks {
    pub(crate) monotonic_ns: u64,
    /// The wall clock, by which nodes begin their layers.
    pub(crate) unix_ns: u64,
    /// Of the kernel: with the same one, monotonic clocks are the same too.
    pub(crate) boot: String,
    /// How many processes the kernel has killed for lack of memory so far, where it counts them.
    pub(crate) oom_kills: Option<u64>,
}

/// How full a data volume is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// What it holds at most.
    pub size: u64,
    /// What can still be written.
    pub free: u64,
    /// What the agent has been asked to take.
    pub ballast_wanted: u64,
    /// What it has taken.
    pub ballast: u64,
    /// How often it was found without a free block since the agent began to look, counted once until there is one again.
    pub full: u64,
}

/// What a process has done in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Working {
    /// Its name.
    pub comm: String,
    /// When it began, in the kernel's ticks.
    pub start: u64,
    /// How long its threads were on a processor, in nanoseconds.
    pub ran_ns: Option<u64>,
}

/// An [`Observation`] on its way to the harness: without the node's name, which is the pod's, and
/// at the agent's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sight {
    Sample {
        signal: String,
        value: Value,
        t_ns: u64,
        took: Duration,
    },
    Gap {
        url: String,
        signals: Vec<String>,
        t_ns: u64,
        answered: bool,
        excused: bool,
        why: String,
    },
    Ping {
        t_ns: u64,
        rtt: Option<Duration>,
        send_error: Option<String>,
    },
}

/// What a gap of an agent's own names as its source.
const OWN: &str = "the agent itself";

impl Sight {
    /// For what was asked of the node and not answered, the moment since when that was asked; `layer` is longer than any
    /// probe takes. `None` for what was answered.
    pub(crate) fn unanswered_since(&self, layer: Duration) -> Option<u64> {
        match self {
            Self::Gap {
                t_ns,
                answered: false,
                ..
            } => Some(t_ns.saturating_sub(duration_ns(layer))),
            Self::Ping {
                t_ns, rtt: None, ..
            } => Some(*t_ns),
            _ => None,
        }
    }

    /// The same as a gap for which its node is not answerable, for this reason.
    pub(crate) fn excused(self, reason: &str) -> Self {
        let why = |what: &str| format!("{reason}: {what}");
        match self {
            Self::Gap {
                url,
                signals,
                t_ns,
                why: what,
                ..
            } => Self::Gap {
                url,
                signals,
                t_ns,
                answered: true,
                excused: true,
                why: why(&what),
            },
            Self::Ping { t_ns, .. } => Self::Gap {
                url: OWN.to_owned(),
                signals: Vec::new(),
                t_ns,
                answered: true,
                excused: true,
                why: why("a ping"),
            },
            sample @ Self::Sample { .. } => sample,
        }
    }

    /// `None` for what an agent does not look at.
    pub(crate) fn of(observation: Observation) -> Option<Self> {
        Some(match observation {
            Observation::Event(_) => return None,
            Observation::Sample(Sample {
                signal,
                value,
                t_ns,
                took,
                ..
            }) => Self::Sample {
                signal: signal.to_string(),
                value,
                t_ns,
                took,
            },
            Observation::Gap(Gap {
                url,
                signals,
                t_ns,
                answered,
                excused,
                why,
                ..
            }) => {
                let signals = signals.iter().map(ToString::to_string).collect();
                Self::Gap {
                    url: url.to_string(),
                    signals,
                    t_ns,
                    answered,
                    excused,
                    why,
                }
            }
            Observation::Ping(Ping {
                t_ns,
                rtt,
                send_error,
                ..
            }) => Self::Ping {
                t_ns,
                rtt,
                send_error,
            },
        })
    }

    /// The observation of a node, with its time brought to the harness's clock.
    pub(crate) fn of_node(self, node: &NodeName, time: impl Fn(u64) -> u64) -> Observation {
        let node = Arc::clone(node);
        match self {
            Self::Sample {
                signal,
                value,
                t_ns,
                took,
            } => Observation::Sample(Sample {
                node,
                signal: signal.into(),
                value,
                t_ns: time(t_ns),
                took,
            }),
            Self::Gap {
                url,
                signals,
                t_ns,
                answered,
                excused,
                why,
            } => Observation::Gap(Gap {
                node,
                url: url.into(),
                signals: signals.into_iter().map(Arc::from).collect(),
                t_ns: time(t_ns),
                answered,
                excused,
                why,
            }),
            Self::Ping {
                t_ns,
                rtt,
                send_error,
            } => Observation::Ping(Ping {
                node,
                t_ns: time(t_ns),
                rtt,
                send_error,
            }),
        }
    }
}

/// Those who wait for answers, by the number of their order.
pub(crate) type Waiting<T> = BTreeMap<u64, tokio::sync::oneshot::Sender<Result<T, String>>>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_whatever_the_chunks() {
        let orders = || {
            [
                Order::Clock,
                Order::Ballast { bytes: 7 },
                Order::Ping {
                    target: PingAt {
                        address: "10.1.2.3:7".parse().unwrap(),
                        key: [3; 32],
                        dialect: "text".to_owned(),
                    },
                    bound: Duration::from_millis(5),
                },
            ]
            .into_iter()
            .zip(1..)
            .map(|(order, id)| Ordered { id, order })
        };
        let bytes: Vec<u8> = orders().flat_map(|order| encode(&order).unwrap()).collect();
        for size in [1, 3, 1000] {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(size) {
                frames.feed(chunk);
                while let Some(order) = frames.next::<Ordered>().unwrap() {
                    seen.push(format!("{order:?}"));
                }
            }
            let want: Vec<_> = orders().map(|order| format!("{order:?}")).collect();
            assert_eq!(seen, want);
        }
    }

    #[test]
    fn what_is_too_long_is_refused_at_both_ends() {
        let long = Said::Broken("x".repeat(FRAME_MAX));
        assert!(encode(&long).unwrap_err().to_string().contains("at most"));
        let mut frames = Frames::default();
        frames.feed(&u32::MAX.to_be_bytes());
        assert!(frames.next::<Said>().is_err(), "it is not waited for");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_bytes_give_messages_or_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            length in 0..64u32,
            framed in any::<bool>(),
        ) {
            let mut frames = Frames::default();
            if framed {
                frames.feed(&length.to_be_bytes());
            }
            frames.feed(&bytes);
            while let Ok(Some(_)) = frames.next::<Ordered>() {}
        }

        #[test]
        fn any_json_gives_a_message_or_an_error(
            head in prop::sample::select(vec!["{\"id\":1,\"order\":", "{\"saw\":", "{\"answer\":{\"id\":1,\"result\":", ""]),
            rest in "[{}\\[\\],:\"a-z0-9-]{0,40}",
        ) {
            let body = format!("{head}{rest}");
            let mut frames = Frames::default();
            frames.feed(&u32::try_from(body.len()).unwrap().to_be_bytes());
            frames.feed(body.as_bytes());
            let _ = frames.next::<Ordered>();
            let _ = frames.next::<Said>();
        }
    }
}
