//! What the nodes of the bundled network agree about, as pure state machines.
pub mod agreement;
