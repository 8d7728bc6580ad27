//! End-to-end tests of the shipped executable, and tests of the tree itself.

mod golden;
mod judge;
mod plans;
mod roles;
mod support;
mod tidy;
