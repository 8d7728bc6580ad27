//! `identities`: nobody says two things where only one may be said. Runs in every plan whose nodes report ATXs or
//! equivocation.
//!
//! Two ATXs of one identity for one epoch are seen from what nodes publish and from what others saw; two votes for one
//! question only from what others saw. Each identity is found once for each: a liar lies often.

use std::collections::{BTreeMap, BTreeSet};

use super::said::{Said, overheard, reported, said, short};
use super::world::World;
use super::{Asked, Gives, Never, Oracle, Output, Unasked};
use crate::findings;
use crate::history::{Header, Record};
use crate::verdict::{Data, Expectation, Finding};

const PUBLISHED: &str = "atx-published";
const DOUBLE: &str = "double-atx";
const EQUIVOCATION: &str = "equivocation";

/// Identities and ATXs kept: a thousand nodes over eight epochs. ATXs of the oldest epochs go first.
const KEPT_MAX: usize = 8192;

/// What it gives, and how it is built.
pub(super) const UNASKED: Unasked = Unasked {
    gives: &[
        Gives {
            kind: findings::FORK_ATXS,
            can: two_atxs,
        },
        Gives {
            kind: findings::FORK_VOTES,
            can: two_votes,
        },
    ],
    build: unasked,
};

/// Nodes are known by what they publish; of others only their identity can be told, which has no role.
fn two_atxs(asked: &Asked<'_>) -> Result<(), Never> {
    let published = asked.reports(&[PUBLISHED]);
    match asked.role {
        Some(_) => published,
        None => published.or_else(|never| asked.reports(&[DOUBLE]).map_err(|_| never)),
    }
}

fn two_votes(asked: &Asked<'_>) -> Result<(), Never> {
    if asked.role.is_some() {
        asked.reports(&[PUBLISHED])?;
    }
    asked.of_any().reports(&[EQUIVOCATION])
}

fn unasked(header: &Header) -> Option<Box<dyn Oracle>> {
    let any = [PUBLISHED, DOUBLE, EQUIVOCATION]
        .iter()
        .any(|event| reported(header, &[*event]));
    any.then(|| Box::new(Identities::new(header)) as Box<dyn Oracle>)
}

/// The fold behind `identities`.
#[derive(Debug, Clone)]
struct Identities {
    /// Which node an identity is, as far as nodes have published under it.
    names: BTreeMap<String, String>,
    /// The first ATX of an epoch and identity, and its record.
    atxs: BTreeMap<(u64, String), (String, u64)>,
    /// Finding id and identity of what was found.
    found: BTreeSet<(&'static str, String)>,
    least: u64,
    seen: u64,
}

impl Identities {
    fn new(header: &Header) -> Self {
        Self {
            names: BTreeMap::new(),
            atxs: BTreeMap::new(),
            found: BTreeSet::new(),
            // Nobody publishes an ATX where nobody makes proofs.
            least: u64::from(reported(header, &[PUBLISHED, "proof-made"])),
            seen: 0,
        }
    }

    fn published(&mut self, said: &Said<'_>, world: &World, out: &mut Output) {
        let read = || Some((said.text("node")?, said.number("epoch")?, said.text("atx")?));
        let Some((identity, epoch, atx)) = said.need(read(), "`node`, `epoch` and `atx`", out)
        else {
            return;
        };
        self.seen += 1;
        if self.names.len() < KEPT_MAX {
            let name = self.names.entry(identity.to_owned());
            name.or_insert_with(|| said.node.to_owned());
        }
        let key = (epoch, identity.to_owned());
        match self.atxs.get(&key) {
            Some((first, seq)) if first != atx => {
                let (first, seq) = (first.clone(), *seq);
                self.two_atxs(said, identity, [&first, atx], Some(seq), world, out);
            }
            // Published again, as after a restart.
            Some(_) => {}
            None => {
                if self.atxs.len() >= KEPT_MAX {
                    self.atxs.pop_first();
                }
                self.atxs.insert(key, (atx.to_owned(), said.at.seq));
            }
        }
    }

    fn two_atxs(
        &mut self,
        said: &Said<'_>,
        identity: &str,
        [first, second]: [&str; 2],
        record: Option<u64>,
        world: &World,
        out: &mut Output,
    ) {
        let what = format!(
            "made two ATXs in epoch {}: {} and {}",
            said.number("epoch").unwrap_or_default(),
            short(first),
            short(second)
        );
        self.find(
            findings::FORK_ATXS.id,
            said,
            identity,
            &what,
            record,
            world,
            out,
        );
    }

    fn equivocated(&mut self, said: &Said<'_>, world: &World, out: &mut Output) {
        let Some(identity) = said.need(said.text("node"), "`node`", out) else {
            return;
        };
        let number = |key| {
            let number = said.number(key);
            number.map_or_else(|| "?".to_owned(), |number| number.to_string())
        };
        let what = format!(
            "voted twice in layer {}, round {} ({})",
            number("layer"),
            number("round"),
            said.words("step")
        );
        self.find(
            findings::FORK_VOTES.id,
            said,
            identity,
            &what,
            None,
            world,
            out,
        );
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "who, what, seen by whom and on what it rests, for two kinds of finding"
    )]
    fn find(
        &mut self,
        id: &'static str,
        said: &Said<'_>,
        identity: &str,
        what: &str,
        record: Option<u64>,
        world: &World,
        out: &mut Output,
    ) {
        if self.found.len() >= KEPT_MAX || !self.found.insert((id, identity.to_owned())) {
            return;
        }
        let node = self.names.get(identity).cloned();
        let role = node.as_ref().and_then(|node| world.nodes.get(node));
        let who = match &node {
            Some(node) => format!("{node} ({})", short(identity)),
            None => format!("identity {}", short(identity)),
        };
        out.find(Finding {
            id: id.to_owned(),
            role: role.map(|view| view.role.clone()),
            due_ns: said.at.t_ns,
            proved_ns: said.at.t_ns,
            records: record.into_iter().chain([said.at.seq]).collect(),
            text: format!("{who} {what}, says {}", said.node),
            node,
            counts: true,
            ..Finding::default()
        });
    }
}

impl Oracle for Identities {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        overheard(record, &[PUBLISHED, DOUBLE, EQUIVOCATION], world, out);
        let Some(said) = said(record, world) else {
            return;
        };
        match said.event {
            PUBLISHED => self.published(&said, world, out),
            EQUIVOCATION => self.equivocated(&said, world, out),
            DOUBLE => {
                let read = || {
                    let (first, second) = (said.text("first")?, said.text("second")?);
                    Some((said.text("node")?, [first, second]))
                };
                let read = said.need(read(), "`node`, `first` and `second`", out);
                if let Some((identity, both)) = read {
                    self.two_atxs(&said, identity, both, None, world, out);
                }
            }
            _ => {}
        }
    }

    fn report(&self, _world: &World) -> Expectation {
        let data = Data {
            what: "ATXs compared".to_owned(),
            least: self.least,
            had: self.seen,
        };
        let what = "nobody makes two ATXs for an epoch or votes twice";
        Expectation::new(what, "identities", true, data)
    }

    fn owns(&self, finding: &Finding) -> bool {
        [findings::FORK_ATXS.id, findings::FORK_VOTES.id].contains(&finding.id.as_str())
    }
}
