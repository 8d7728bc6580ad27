//! Everything that has no effects.
