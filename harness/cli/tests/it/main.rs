//! End-to-end tests of the shipped executable, and tests of the tree itself.

mod tidy;
