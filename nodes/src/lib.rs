//! The bundled network under test.
pub mod protocol;
