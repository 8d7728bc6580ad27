//! The effects.

pub mod store;
pub mod substrate;
pub mod supervise;
pub mod undo;
