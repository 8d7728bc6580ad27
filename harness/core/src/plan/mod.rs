//! Plans: what the YAML says becomes what it means ([`model`]), or a list of everything wrong with it.
//!
//! ```text
//! bytes ─► raw (tree with places) ─► decode (reader + table of keys) ─► model, or diagnostics ─► render
//! ```
//!
//! [`parse`] is the way in; [`render()`] shows mistakes with the lines they are about; [`schema()`] describes
//! the same keys to editors. Parsing never touches the machine: whether an executable exists is for the caller to ask
//! afterwards.

mod decode;
pub mod diagnostic;
mod keys;
#[cfg(test)]
mod keys_tests;
pub mod listing;
pub mod model;
pub mod placeholders;
mod raw;
mod reader;
pub mod render;
mod schema;
pub mod selector;
mod suggest;
#[cfg(test)]
mod table_tests;
mod units;

pub use decode::{Catalogue, DIAGNOSTICS_MAX, bundled_roles, parse};
pub use diagnostic::{Diagnostic, SourceSpan};
pub use listing::render_role;
pub(crate) use listing::size;
pub use model::Plan;
pub use raw::PLAN_BYTES_MAX;
pub use render::render;
pub use schema::schema;
pub use selector::Selector;
