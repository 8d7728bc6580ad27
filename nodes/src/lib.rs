//! The bundled network under test.
