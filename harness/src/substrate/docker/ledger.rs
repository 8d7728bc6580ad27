//! What a run records before it makes anything on an engine, and what it is called.
//!
//! First the engine and the nonce, then the names of everything that will be made, in one entry
//! that is on the disk before the first of them is made; then the id of each as the engine gives
//! it. Names hold the nonce, and everything carries it as a label. What is removed later is what
//! was recorded: by its id, or, where the id did not reach the disk any more, by kind, nonce and
//! the exact recorded name.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::address::EngineAddress;
use crate::store::lines;
use crate::substrate::process::Nonce;

/// The label that carries the run's nonce.
pub const NONCE_LABEL: &str = "org.tweedledum.nonce";
/// The label that says what a thing is for.
pub const ROLE_LABEL: &str = "org.tweedledum.role";
/// The label that carries the node's name.
pub const NODE_LABEL: &str = "org.tweedledum.node";

/// What kind of thing the engine holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A container. Removed first.
    Container,
    /// A volume; its name is its id.
    Volume,
    /// A network.
    Network,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::Volume => "volume",
            Self::Network => "network",
        })
    }
}

/// What a thing is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Shows that the run lives.
    Keeper,
    /// Connects the pods.
    Network,
    /// Owns a pod.
    Agent,
    /// A node of the network under test.
    Node,
    /// A node's data.
    Data,
}

impl Role {
    /// Its kind.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Keeper | Self::Agent | Self::Node => Kind::Container,
            Self::Data => Kind::Volume,
            Self::Network => Kind::Network,
        }
    }

    /// Its name in labels.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Keeper => "keeper",
            Self::Network => "network",
            Self::Agent => "agent",
            Self::Node => "node",
            Self::Data => "data",
        }
    }
}

/// One thing that a run makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Thing {
    /// What it is for.
    pub role: Role,
    /// Its name on the engine, which holds the nonce.
    pub name: String,
}

impl Thing {
    /// The thing of this role that belongs to a node, or to the run where there is none.
    pub fn of(nonce: &Nonce, role: Role, node: Option<&str>) -> Self {
        let word = role.word();
        let name = match node {
            Some(node) => format!("tweedledum-{nonce}-{node}-{word}"),
            None => format!("tweedledum-{nonce}-{word}"),
        };
        Self { role, name }
    }

    /// Its labels.
    pub(super) fn labels(&self, nonce: &Nonce, node: Option<&str>) -> HashMap<String, String> {
        let mut labels = HashMap::from([
            (NONCE_LABEL.to_owned(), nonce.to_string()),
            (ROLE_LABEL.to_owned(), self.role.word().to_owned()),
        ]);
        if let Some(node) = node {
            labels.insert(NODE_LABEL.to_owned(), node.to_owned());
        }
        labels
    }
}

/// What a run does to a container that is not its own, and takes back by its own means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Halt {
    /// It is paused; unpausing takes that back.
    Pause,
    /// It is killed or asked to end; a start takes that back.
    Stop,
}

/// Builds before this one did not record which it was.
fn either() -> BTreeSet<Halt> {
    [Halt::Pause, Halt::Stop].into()
}

/// One entry, in the order in which a run writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "entry")]
pub enum Entry {
    /// Where, and by which nonce.
    Engine {
        /// How the engine is reached.
        address: EngineAddress,
        /// Its own id: another engine at the same address is not the run's.
        id: String,
        /// The run's nonce.
        nonce: Nonce,
    },
    /// What will be made.
    Planned {
        /// All of it.
        things: Vec<Thing>,
    },
    /// Something was made.
    Made {
        /// What.
        thing: Thing,
        /// Its id.
        id: String,
    },
    /// A container that is not the run's is about to be stopped or paused by it.
    Down {
        /// Its id.
        id: String,
        /// Its name on the engine.
        name: String,
        /// When the life that is stopped was started, as the engine writes it: a later one is somebody else's affair.
        started: String,
        /// All that the run has done or is about to do to that life. Nothing else is taken back.
        #[serde(default = "either")]
        halts: BTreeSet<Halt>,
    },
    /// The run has brought it up again, or has not stopped it after all.
    Up {
        /// Its id.
        id: String,
    },
    /// All that was recorded so far is removed or brought up again, and that was looked at.
    Gone,
}

/// Where entries go. A handle that can be cloned. It returns when an entry is on the disk.
#[derive(Clone)]
pub struct Ledger(Arc<Inner>);

type Write = Box<dyn Fn(&Entry) -> io::Result<()> + Send + Sync>;

struct Inner {
    write: Write,
    entries: Mutex<Vec<Entry>>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ledger({} entries)", self.entries().len())
    }
}

impl Ledger {
    /// A ledger over whatever keeps entries, such as the run's intents.
    pub fn new(write: impl Fn(&Entry) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            write: Box::new(write),
            entries: Mutex::default(),
        }))
    }

    /// A ledger in a file of its own, one entry a line.
    pub fn in_file(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(path)?;
        let file = Mutex::new(file);
        Ok(Self::new(move |entry| {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            lines::append(&mut file, entry)
        }))
    }

    /// Records an entry.
    pub(super) fn record(&self, entry: Entry) -> io::Result<()> {
        (self.0.write)(&entry)?;
        self.entries_mut().push(entry);
        Ok(())
    }

    /// What was recorded so far.
    pub fn entries(&self) -> Vec<Entry> {
        self.entries_mut().clone()
    }

    fn entries_mut(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads entries back.
pub fn read_entries(path: &Path) -> io::Result<Vec<Entry>> {
    lines::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_and_a_cut_line_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.jsonl");
        let ledger = Ledger::in_file(&path).unwrap();
        let nonce = Nonce::from_bytes([7; 16]);
        let thing = Thing::of(&nonce, Role::Agent, Some("miner-0"));
        assert_eq!(thing.name, format!("tweedledum-{nonce}-miner-0-agent"));
        let address = EngineAddress {
            url: "unix:///x".to_owned(),
            from: "a test".to_owned(),
        };
        ledger
            .record(Entry::Engine {
                address,
                id: "E".to_owned(),
                nonce,
            })
            .unwrap();
        ledger
            .record(Entry::Planned {
                things: vec![thing.clone()],
            })
            .unwrap();
        ledger
            .record(Entry::Made {
                thing,
                id: "abc".to_owned(),
            })
            .unwrap();
        assert_eq!(read_entries(&path).unwrap(), ledger.entries());
        assert!(Ledger::in_file(&path).is_err(), "one run, one ledger");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 5]).unwrap();
        assert_eq!(read_entries(&path).unwrap().len(), 2);
        std::fs::write(&path, "x").unwrap();
        assert!(read_entries(&path).is_err());
    }

    #[test]
    fn what_was_done_to_a_container_is_told_and_may_be_either_where_it_is_not() {
        let down = |halts: BTreeSet<Halt>| Entry::Down {
            id: "i".to_owned(),
            name: "p_gateway-0_1".to_owned(),
            started: "t".to_owned(),
            halts,
        };
        let earlier = r#"{"entry":"down","id":"i","name":"p_gateway-0_1","started":"t"}"#;
        let read: Entry = serde_json::from_str(earlier).unwrap();
        assert_eq!(read, down([Halt::Pause, Halt::Stop].into()));
        let paused = down([Halt::Pause].into());
        let line = serde_json::to_string(&paused).unwrap();
        assert!(line.contains(r#""halts":["pause"]"#), "{line}");
        assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), paused);
    }
}
