//! What the harness sees of a running network: logs, polls, pings, the kernel's own counters.
//!
//! Every observer puts what it saw as an [`Observation`] into one bounded channel that the
//! controller's event loop reads; what it could not see is a [`Gap`], never silence. To add an
//! observer, add a file and, if it sees something new, a variant here.
//!
//! Observers judge nothing and act on nothing. Every task they start lives in a `JoinSet` that
//! their owner holds: dropping the observer ends it.

pub(crate) mod http;
pub mod lateness;
mod lines;
mod log_events;
mod log_loss;
mod log_sink;
pub mod logs;
pub mod ping;
pub mod poll;
pub mod procfs;
pub mod prometheus;
pub mod ready;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Name of a node, shared by everything that is said about it.
pub type NodeName = Arc<str>;

/// A duration as whole nanoseconds; 584 years is the most that fits.
pub(crate) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A value of a signal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Truth.
    Bool(bool),
    /// A whole number that fits.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// A string, such as a state root.
    Text(String),
}

/// One thing seen, or one thing that could not be seen.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// A line that a node logged and that somebody asked for.
    Event(LogEvent),
    /// A poll's value of one signal.
    Sample(Sample),
    /// A poll that brought nothing, and why.
    Gap(Gap),
    /// A UDP ping, answered or not.
    Ping(Ping),
}

/// One JSON line of a node's stdout.
#[derive(Debug, Clone, PartialEq)]
pub struct LogEvent {
    /// Who logged it.
    pub node: NodeName,
    /// Whether an earlier life of the node said it, before the harness looked.
    pub former: bool,
    /// When it was read, monotonic nanoseconds.
    pub t_ns: u64,
    /// The line's `event`.
    pub event: String,
    /// The whole object, `event` included.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// One value of one signal.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Whose.
    pub node: NodeName,
    /// Which signal.
    pub signal: Arc<str>,
    /// Its value.
    pub value: Value,
    /// When the answer was complete, monotonic nanoseconds.
    pub t_ns: u64,
    /// How long the request took.
    pub took: Duration,
}

/// A request that gave no value, or lines of a log that were lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    /// Who was asked.
    pub node: NodeName,
    /// What was asked for; `tweedledum_core::history::LOG` for a log.
    pub url: Arc<str>,
    /// The signals that are missing because of it; for a log nobody knows.
    pub signals: Vec<Arc<str>>,
    /// When it was given up, monotonic nanoseconds.
    pub t_ns: u64,
    /// Whether there was an answer, only none that could be read; also when nobody asked.
    pub answered: bool,
    /// Whether the node is not answerable for it: who asked was late, or the node was given no processor.
    pub excused: bool,
    /// A lower-case fragment saying why.
    pub why: String,
}

/// Outcome of one UDP ping.
#[derive(Debug, Clone, PartialEq)]
pub struct Ping {
    /// Who was pinged.
    pub node: NodeName,
    /// When the ping was sent, monotonic nanoseconds.
    pub t_ns: u64,
    /// How long the answer took; `None` if none came within the bound.
    pub rtt: Option<Duration>,
    /// What kept the ping from being sent, if it was not.
    pub send_error: Option<String>,
}

/// Text of a node made fit for a message: one line, no control characters, at most `chars` long.
pub(crate) fn excerpt(text: &str, chars: usize) -> String {
    let mut out = String::new();
    for (count, word) in text.split_whitespace().enumerate() {
        if count > 0 {
            out.push(' ');
        }
        out.extend(
            word.chars()
                .map(|c| if c.is_control() { '\u{fffd}' } else { c }),
        );
        if out.chars().count() > chars {
            out = out.chars().take(chars).collect();
            out.push('…');
            break;
        }
    }
    out
}

#[cfg(test)]
pub(crate) mod testing {
    //! Addresses and file limits for tests that open real sockets.

    use std::net::Ipv4Addr;

    /// A random 127.A.B of its own for each test, so that tests and other runs do not meet.
    pub(crate) fn block() -> impl Fn(u8) -> Ipv4Addr {
        let mut random = [0u8; 2];
        getrandom::fill(&mut random).unwrap();
        move |host| Ipv4Addr::new(127, random[0] | 1, random[1], host)
    }

    /// Lifts the soft limit of open files to the hard one, as the controller does.
    pub(crate) fn many_files() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let limit = getrlimit(Resource::Nofile);
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                ..limit
            },
        )
        .unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::excerpt;

    #[test]
    fn excerpts_are_one_clean_bounded_line() {
        for (text, want) in [
            ("", ""),
            ("no swarm\n\tpeer yet\n", "no swarm peer yet"),
            ("a\u{1b}[31mred\u{0}", "a\u{fffd}[31mred\u{fffd}"),
            (
                "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "aaaaaaaaaaaaaaaaaaaa…",
            ),
        ] {
            assert_eq!(excerpt(text, 20), want);
        }
    }
}
