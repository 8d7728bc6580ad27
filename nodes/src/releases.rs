//! The bundled releases, and what each gets wrong, as switches.
//!
//! A switch names a fix: with it on the node does right, without it the node does what history did.
//! To add a release, add a line to [`BASES`]; to add a switch, a field to [`Behaviour`] and a line
//! to [`SWITCHES`]. This file says *which* behaviour; the behaviours themselves live where history
//! had them (session tables in `p2p/session_table.rs`).

use crate::poet::store::StateWrites;
use std::collections::BTreeMap;

/// What a release does in each place where releases differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behaviour {
    /// Which session table the UDP listener uses.
    pub session_table: SessionTable,
    /// What PoETs do where releases differ.
    pub poet: Poet,
}

/// What a PoET does where releases differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poet {
    /// How states replace those before them.
    pub state_writes: StateWrites,
}

/// The session tables of history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionTable {
    /// go-spacemesh v0.1.12: eviction looks up what it just deleted, or closes twice.
    Netid116,
    /// Bounded, evicts the stalest, no entry before the sender is authentic.
    Fixed,
}

/// A release that plans and flags can name.
#[derive(Debug)]
pub struct Base {
    /// Its name.
    pub name: &'static str,
    /// One line for help and `list`.
    pub about: &'static str,
    /// What it does.
    pub behaviour: Behaviour,
}

/// A fix that can be taken out of a release.
#[derive(Debug)]
pub struct Switch {
    /// Its name: the fix, not the defect.
    pub name: &'static str,
    /// One line for help and `list`.
    pub about: &'static str,
    remove: fn(&mut Behaviour),
    is_on: fn(&Behaviour) -> bool,
}

const FIXED: Behaviour = Behaviour {
    session_table: SessionTable::Fixed,
    poet: POET_2020,
};

/// The PoET that all releases have: its own fixes have no switches yet.
const POET_2020: Poet = Poet {
    state_writes: StateWrites::InPlace,
};

/// Every release, best first.
pub const BASES: &[Base] = &[
    Base {
        name: "fixed",
        about: "every fix in place",
        behaviour: FIXED,
    },
    Base {
        name: "netid-116",
        about: "the testnet of June 2020 (go-spacemesh v0.1.12): evicting a UDP session panics",
        behaviour: Behaviour {
            session_table: SessionTable::Netid116,
            poet: POET_2020,
        },
    },
];

/// Every switch.
pub const SWITCHES: &[Switch] = &[Switch {
    name: "session-table",
    about: "evict sessions without looking up the deleted one and without closing twice (item 1)",
    remove: |behaviour| behaviour.session_table = SessionTable::Netid116,
    is_on: |behaviour| behaviour.session_table == SessionTable::Fixed,
}];

/// A release with its switches resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The name it goes by in reports.
    pub name: String,
    /// The name of the base it was made from.
    pub base: &'static str,
    /// What it does.
    pub behaviour: Behaviour,
}

/// A release or a switch that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// No such base.
    #[error("there is no release `{name}`; the bundled ones are {}", listed(BASES.iter().map(|base| base.name)))]
    UnknownRelease {
        /// What was asked for.
        name: String,
    },
    /// No such switch.
    #[error("there is no switch `{name}`; the switches are {}", listed(SWITCHES.iter().map(|switch| switch.name)))]
    UnknownSwitch {
        /// What was asked for.
        name: String,
    },
}

impl Release {
    /// The release called `name`: `base` with the fixes in `without` taken out.
    ///
    /// # Errors
    /// A base or a switch that does not exist; the message lists those that do.
    pub fn resolve(name: &str, base: &str, without: &[String]) -> Result<Self, ReleaseError> {
        let base = BASES
            .iter()
            .find(|known| known.name == base)
            .ok_or_else(|| ReleaseError::UnknownRelease {
                name: base.to_owned(),
            })?;
        let mut behaviour = base.behaviour;
        for asked in without {
            let switch = SWITCHES
                .iter()
                .find(|known| known.name == asked)
                .ok_or_else(|| ReleaseError::UnknownSwitch {
                    name: asked.clone(),
                })?;
            (switch.remove)(&mut behaviour);
        }
        Ok(Self {
            name: name.to_owned(),
            base: base.name,
            behaviour,
        })
    }

    /// Each switch by name, true where the fix is in place.
    pub fn switches(&self) -> BTreeMap<&'static str, bool> {
        let on = |switch: &Switch| (switch.is_on)(&self.behaviour);
        SWITCHES
            .iter()
            .map(|switch| (switch.name, on(switch)))
            .collect()
    }

    /// The fixes this release lacks, whether by its base or by `without`.
    pub fn missing(&self) -> Vec<&'static str> {
        let switches = self.switches();
        let lacks = switches.iter().filter(|(_, on)| !**on);
        lacks.map(|(name, _)| *name).collect()
    }
}

fn listed(names: impl Iterator<Item = &'static str>) -> String {
    names
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_every_switch_changes_something() {
        let bases: BTreeSet<_> = BASES.iter().map(|base| base.name).collect();
        assert_eq!(bases.len(), BASES.len());
        let switches: BTreeSet<_> = SWITCHES.iter().map(|switch| switch.name).collect();
        assert_eq!(switches.len(), SWITCHES.len());
        for switch in SWITCHES {
            assert!((switch.is_on)(&FIXED), "{}", switch.name);
            let without = Release::resolve("x", "fixed", &[switch.name.to_owned()]).unwrap();
            assert_eq!(without.missing(), [switch.name]);
        }
        assert!(
            Release::resolve("x", "fixed", &[])
                .unwrap()
                .missing()
                .is_empty()
        );
    }

    #[test]
    fn fixed_without_the_session_table_has_that_of_116() {
        let bare = Release::resolve("x", "fixed", &["session-table".to_owned()]).unwrap();
        let old = Release::resolve("x", "netid-116", &[]).unwrap();
        assert_eq!(bare.behaviour.session_table, old.behaviour.session_table);
    }

    #[test]
    fn unknown_names_are_refused_with_those_that_exist() {
        let error = Release::resolve("x", "netid-11", &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`netid-11`") && error.contains("`netid-116`"),
            "{error}"
        );
        let error = Release::resolve("x", "fixed", &["pool".to_owned()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`pool`") && error.contains("`session-table`"),
            "{error}"
        );
    }
}
