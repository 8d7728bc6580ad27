//! Reports: pure renderers from a verdict, or from several side by side, to text, JSON and JUnit.
//!
//! Texts that come from nodes (panic messages, signal values, log tails) are hostile. Every renderer passes them through
//! [`hostile`] or through a serializer that escapes. To add a format, add a file with a `run` and a `comparison`.

pub mod hostile;
pub mod json;
pub mod junit;
pub mod text;
mod whom;
mod why;
