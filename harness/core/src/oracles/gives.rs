//! What oracles can find in a plan: controls may name nothing else. Each oracle says in its own file which findings it gives
//! and what of a plan each of them takes.

use std::collections::BTreeSet;

use super::ALL;
use crate::findings::FindingKind;
use crate::plan::model::{Expectation, Plan, Role};

/// A finding that an oracle can give.
#[derive(Debug)]
pub struct Gives {
    /// Its kind.
    pub kind: FindingKind,
    /// Whether it can be given in a plan, as far as the plan alone can tell. What a machine or a project brings along, as
    /// a disk or a limit of its own, counts as there.
    pub can: fn(&Asked<'_>) -> Result<(), Never>,
}

/// What a plan's control names.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The role of the node it is about; `None` for any.
    pub role: Option<&'a str>,
    /// What completes its id where its kind leaves that open, else nothing.
    pub what: &'a str,
}

/// Why a finding cannot be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Never {
    /// What it lacks.
    pub why: String,
    /// What would have it given.
    pub hint: String,
}

/// Any node of any plan can be found so.
#[expect(
    clippy::unnecessary_wraps,
    reason = "it stands where others have something to refuse"
)]
pub(super) fn anywhere(_: &Asked<'_>) -> Result<(), Never> {
    Ok(())
}

impl<'a> Asked<'a> {
    /// The same of a node of any role.
    pub(super) fn of_any(self) -> Self {
        Self { role: None, ..self }
    }

    /// The roles it may be about.
    pub(super) fn roles(self) -> impl Iterator<Item = &'a Role> + Clone {
        let only = self.role;
        let roles = self.plan.roles.values();
        roles.filter(move |role| only.is_none_or(|only| only == role.name))
    }

    /// One of the roles must have something; `[has, has not]` say what, `otherwise` what to do where no role has it.
    pub(super) fn has(
        &self,
        has: impl Fn(&Role) -> bool,
        words: [&str; 2],
        otherwise: &str,
    ) -> Result<(), Never> {
        if self.roles().any(&has) {
            return Ok(());
        }
        let why = match self.role {
            Some(_) => format!("the role {}", words[1]),
            None => format!("no role of the network {}", words[0]),
        };
        let others = self.of_any().roles().filter(|role| has(role));
        let others: Vec<String> = others.map(|role| format!("`{}`", role.name)).collect();
        let hint = match others.as_slice() {
            [] => otherwise.to_owned(),
            others => format!("name a role that can give it: {}", others.join(", ")),
        };
        Err(Never { why, hint })
    }

    /// One of the roles must report these events.
    pub(super) fn reports(&self, events: &[&str]) -> Result<(), Never> {
        let list: Vec<String> = events.iter().map(|event| format!("`{event}`")).collect();
        let list = list.join(" and ");
        let has = |role: &Role| events.iter().all(|event| role.events.contains(*event));
        let words = [
            &format!("reports {list}"),
            &format!("does not report {list}"),
        ];
        let otherwise = format!("add {list} to the `events` of a role whose nodes report it");
        self.has(has, words.map(String::as_str), &otherwise)
    }

    /// The expectations of this kind that the plan has.
    pub(super) fn expected<'k>(
        self,
        kind: &'k str,
    ) -> impl Iterator<Item = &'a Expectation> + use<'a, 'k> {
        let expect = self.plan.expect.iter();
        expect.filter(move |it| it.kind == kind)
    }

    /// One of the roles must have nodes of which an `advance` expects the signal.
    pub(super) fn advances(&self) -> Result<(), Never> {
        let asked = self.expected("advance");
        let asked = asked.filter(|it| it.params.text("signal") == self.what);
        let nodes: BTreeSet<String> = asked
            .flat_map(|it| it.params.nodes("of").members(&self.plan.nodes))
            .collect();
        let mut nodes = self.plan.nodes.iter().filter(|it| nodes.contains(&it.name));
        if nodes.any(|node| self.role.is_none_or(|role| role == node.role)) {
            return Ok(());
        }
        let signal = self.what;
        let mut roles = self.roles().filter_map(|role| {
            let found = role.signals.get(signal)?;
            Some((if found.any_only { "any" } else { "every" }, &role.name))
        });
        let of = roles.next();
        let of = of.map_or_else(|| "...".to_owned(), |(how, role)| format!("{how} {role}"));
        let whose = self.role.map_or("", |_| " of the role");
        Err(Never {
            why: format!("no `advance` expects `{signal}`{whose}"),
            hint: format!(
                "add `- advance: {{ signal: {signal}, of: {of}, within: ... }}` to `expect`"
            ),
        })
    }
}

/// What to add so that a kind of expectation is there.
pub(super) fn add(kind: &str) -> String {
    let kinds = ALL.iter().find(|it| it.name() == kind);
    let example = kinds.map_or("...", |kind| kind.example());
    format!("add one to `expect`, as `- {kind}: {example}`")
}
