//! Oracles: one file each, and one line in [`ALL`].
//!
//! An oracle is a fold over the history. It knows signals and impacts, never fault kinds, keeps bounded state, states the
//! least data it needs and reports how much it had. Some run in every plan without being asked.

use crate::params::{Param, Params};
use crate::plan::model::Plan;
use crate::time::Span;

mod advance;
mod agree;
mod recover;

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

    /// The bound that must still be waited for after the last heal.
    fn bound(&self, params: &Params) -> Option<Span>;
}
