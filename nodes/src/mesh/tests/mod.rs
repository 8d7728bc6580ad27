//! Several meshes that exchange what nodes exchange, in one thread and without sockets.
//!
//! `world.rs` is the network: gossip that loses, pulls, restarts, and a judge of what must never
//! happen. `life.rs` lets it live through what networks go through; `takes.rs` is about single things.

mod life;
mod takes;
mod world;
