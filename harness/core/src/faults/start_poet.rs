//! `start-poet`: an operator starts the rounds of a PoET that waits for it, through the PoET's own API.
//!
//! A PoET that was given no gateways when its process began waits for this.

use super::operate::{Operate, params};
use crate::params::Param;
use crate::schedule::Action;

const PARAMS: &[Param] = &params("The nodes that proofs are handed to.");

pub(super) const START_POET: Operate = Operate {
    name: "start-poet",
    summary: "Starts the rounds of its targets, which run and wait for that, as an operator does by the API.",
    example: "{ target: every poet, gateways: every gateway }",
    params: PARAMS,
    order: |node, gateways| Action::StartPoet { node, gateways },
};
