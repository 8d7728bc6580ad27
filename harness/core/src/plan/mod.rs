//! Plans: what the YAML says ([`raw`]) becomes what it means ([`model`]), or a list of everything wrong with it.
//!
//! Parsing never touches the machine: whether an executable exists is for the caller to ask afterwards.

pub mod diagnostic;
pub mod model;
pub mod selector;

pub use diagnostic::{Diagnostic, SourceSpan};
pub use model::Plan;
pub use selector::Selector;
