//! The effects.

pub mod agent;
pub mod observe;
