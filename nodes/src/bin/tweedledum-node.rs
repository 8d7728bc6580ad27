//! The bundled roles as an executable of their own.
fn main() {}
