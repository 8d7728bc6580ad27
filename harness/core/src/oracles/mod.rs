//! Oracles: one file each, and one line in [`ALL`], or in `UNASKED` for those that run without being asked.
//!
//! An oracle is a fold over the history. It knows signals and impacts, never fault kinds, keeps bounded state, states the
//! least data it needs and reports how much it had. To add one: copy `advance.rs`, give it its line, name its findings in
//! [`crate::findings`] and say in its own file what of a plan each takes ([`Gives`]), add what they may follow from to the table in [`crate::causes`], and in `tests/judge` a history it must catch and one it must leave
//! alone.

use crate::findings::FindingKind;
use crate::history::{Header, Record};
use crate::params::{Param, Params};
use crate::plan::model::Plan;
use crate::time::Span;
use crate::verdict::{Code, Expectation, Finding, Fresh, Reason};

mod advance;
mod agree;
mod alive;
mod challenges;
mod cited;
mod course;
mod delivered;
mod disk;
mod gives;
mod groups;
mod identities;
mod recover;
mod responds;
mod safety;
mod said;
mod stretches;
mod world;

pub use gives::{Asked, Gives, Never};
pub use stretches::Stretches;
pub use world::{Ended, LATE_PART, Mark, NodeView, STEAL_MAX_PPM, Track, World};

/// Every kind a plan may expect, in the order of the reference page.
pub static ALL: &[&dyn OracleKind] = &[&advance::Advance, &recover::Recover, &agree::Agree];

/// The kind of this name.
pub fn by_name(name: &str) -> Option<&'static dyn OracleKind> {
    ALL.iter().copied().find(|kind| kind.name() == name)
}

/// A kind of expectation.
pub trait OracleKind: Sync + std::fmt::Debug {
    /// The key in a plan, in kebab-case.
    fn name(&self) -> &'static str;

    /// One sentence: what must hold.
    fn summary(&self) -> &'static str;

    /// Sensible parameters as a plan would spell them.
    fn example(&self) -> &'static str;

    /// Its parameters.
    fn params(&self) -> &'static [Param];

    /// Rules that the table cannot say: the offending key and why.
    fn check(&self, params: &Params, plan: &Plan) -> Vec<(&'static str, String)>;

    /// The kind of expectation without which this one has nothing to look at.
    fn rests_on(&self) -> Option<&'static str> {
        None
    }

    /// The findings it can give, and what of a plan they take.
    fn gives(&self) -> &'static [Gives];

    /// The bound that must still be waited for after the last heal.
    fn bound(&self, params: &Params) -> Option<Span>;

    /// The oracle for one run.
    fn build(&self, params: &Params, header: &Header) -> Box<dyn Oracle>;
}

/// A check that no plan switches off.
#[derive(Debug)]
struct Unasked {
    /// The findings it can give, and what of a plan they take.
    gives: &'static [Gives],
    /// The oracle for one run. Some are about what nodes report; where none reports it, they are not for this network.
    build: fn(&Header) -> Option<Box<dyn Oracle>>,
}

static UNASKED: &[Unasked] = &[
    alive::UNASKED,
    responds::UNASKED,
    safety::UNASKED,
    agree::UNASKED,
    delivered::UNASKED,
    disk::UNASKED,
    identities::UNASKED,
    challenges::UNASKED,
    cited::UNASKED,
];

/// The checks that run in every plan and that no plan switches off.
pub fn always(header: &Header) -> Vec<Box<dyn Oracle>> {
    let built = UNASKED.iter().filter_map(|it| (it.build)(header));
    built.collect()
}

/// Whether some oracle of a plan can give a finding of this kind.
///
/// # Errors
/// Why none can, and what in the plan would change that.
pub fn can_give(kind: &FindingKind, asked: &Asked<'_>) -> Result<(), Never> {
    let mut first = Ok(());
    for gives in givers().filter(|gives| gives.kind == *kind) {
        let can = (gives.can)(asked);
        if can.is_ok() {
            return can;
        }
        first = first.and(can);
    }
    first
}

fn givers() -> impl Iterator<Item = &'static Gives> {
    let expected = ALL.iter().map(|kind| kind.gives());
    let unasked = UNASKED.iter().map(|it| it.gives);
    expected.chain(unasked).flatten()
}

/// Whether more than a tenth of a time was of a kind that it should not be: in less a bound of some layers, which are longer
/// than what they wait for, is met all the same.
pub(crate) const fn too_much(part: u64, all: u64) -> bool {
    part.saturating_mul(10) > all
}

/// A fold over the records of one run. It is cloned to ask what the verdict would be if the history ended here.
pub trait Oracle: Boxed + Send + std::fmt::Debug {
    /// Takes a record in; `world` has seen it already.
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output);

    /// The history is over.
    fn finish(&mut self, _world: &World, _out: &mut Output) {}

    /// How it fared and how much data it had. `held` is decided by the judge.
    fn report(&self, world: &World) -> Expectation;

    /// Whether nothing more is to be learnt from going on after the last heal: what it waited for has held.
    fn settled(&self, _world: &World) -> bool {
        true
    }

    /// Whether a finding is this oracle's.
    fn owns(&self, finding: &Finding) -> bool;

    /// Whether an unfit host may have made this finding of its own.
    fn unfit(&self, _finding: &Finding) -> bool {
        false
    }

    /// Measured times after the last heal.
    fn fresh(&self, _world: &World) -> Vec<Fresh> {
        Vec::new()
    }
}

/// Clones an oracle in its box; every oracle that is [`Clone`] has it.
pub trait Boxed {
    /// A copy with the same state.
    fn boxed(&self) -> Box<dyn Oracle>;
}

impl<T: Oracle + Clone + 'static> Boxed for T {
    fn boxed(&self) -> Box<dyn Oracle> {
        Box::new(self.clone())
    }
}

impl Clone for Box<dyn Oracle> {
    fn clone(&self) -> Self {
        self.as_ref().boxed()
    }
}

/// Findings kept; more are counted. A thousand nodes that all crash still fit, and a report stays readable.
pub const FINDINGS_MAX: usize = 4096;

/// Reasons kept per code: enough to see a pattern.
pub const REASONS_MAX: usize = 16;

/// What oracles have said so far. Findings are never taken back, so their places are stable.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// Findings in the order they were proved.
    pub findings: Vec<Finding>,
    /// How many did not fit.
    pub more_findings: u64,
    /// Why this cannot be a pass.
    pub reasons: Vec<Reason>,
    /// How many doubts were raised, those not kept included.
    pub doubts: u64,
}

impl Output {
    /// Adds a finding; its place, unless there are too many.
    pub fn find(&mut self, finding: Finding) -> Option<usize> {
        if self.findings.len() >= FINDINGS_MAX {
            self.more_findings += 1;
            return None;
        }
        self.findings.push(finding);
        Some(self.findings.len() - 1)
    }

    /// Records that what was found is over.
    pub fn recovered(&mut self, place: Option<usize>, t_ns: u64) {
        if let Some(finding) = place.and_then(|place| self.findings.get_mut(place)) {
            finding.recovered_ns.get_or_insert(t_ns);
        }
    }

    /// Adds a reason why this cannot be a pass, unless it was given or there are enough of its code.
    pub fn doubt(
        &mut self,
        code: Code,
        text: impl Into<String>,
        measurement: impl Into<String>,
        records: Vec<u64>,
    ) {
        self.doubts += 1;
        let text = text.into();
        let same = self.reasons.iter().filter(|reason| reason.code == code);
        if same.clone().count() >= REASONS_MAX || same.clone().any(|reason| reason.text == text) {
            return;
        }
        self.reasons.push(Reason {
            code,
            text,
            measurement: measurement.into(),
            records,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_an_oracle_that_gives_it() {
        for kind in crate::findings::ALL {
            assert!(givers().any(|gives| gives.kind == *kind), "{}", kind.id);
        }
    }
}
