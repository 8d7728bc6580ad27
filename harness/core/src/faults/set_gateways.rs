//! `set-gateways`: an operator names the nodes that a PoET hands its proofs to, through the PoET's own API.
//!
//! It stays done: the API of 2020 does not tell which gateways were set before, and what an operator has set, no heal takes
//! back. To have others later, add another entry.

use super::operate::{Operate, params};
use crate::params::Param;
use crate::schedule::Action;

const PARAMS: &[Param] = &params("The nodes that proofs are handed to from now on.");

pub(super) const SET_GATEWAYS: Operate = Operate {
    name: "set-gateways",
    summary: "Names the nodes that its targets hand their proofs to, as an operator does by the API.",
    example: "{ target: every poet, gateways: gateway-0 }",
    params: PARAMS,
    order: |node, gateways| Action::SetGateways { node, gateways },
};
