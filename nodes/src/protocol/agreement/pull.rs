//! Repair: what a node tells a peer that it has, and what the peer gives in return.
//!
//! Gossip drops what it has seen, so nothing lost comes back that way. Each layer a node sends one
//! random peer a [`Pull`]; the peer answers with the messages that are not in it and names the
//! layers it has decided, for which it sends the proof it stored (the commits handed out with the
//! decision). Both go back into the machine as messages. Blocks and ATXs are pulled beside this,
//! by [`super::Agreement::wanted`] and by whatever else the mesh lacks. Choosing the peer is the
//! caller's, as is the encoding.

use super::message::{BlockId, Epoch, Layer, Round, SetDigest, Signed, Step};
use super::voters::{Voter, VoterSet};

/// One thing said in one layer, and whose word for it is already here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holding {
    /// The round.
    pub round: Round,
    /// The step.
    pub step: Step,
    /// The set's digest; none for a commit to none.
    pub set: Option<SetDigest>,
    /// The voters whose message is here.
    pub voters: VoterSet,
}

/// What a node has of some layers that it has not decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pull {
    /// Per layer, ascending, everything that is here.
    pub layers: Vec<(Layer, Vec<Holding>)>,
}

/// What a peer lacks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Layers that are decided here. The caller adds the proofs that it stored.
    pub decided: Vec<Layer>,
    /// Messages that the peer did not name.
    pub messages: Vec<Signed>,
}

/// What messages wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Blocks that are named and not here.
    pub blocks: Vec<(Layer, BlockId)>,
    /// ATXs that are named and not here.
    pub atxs: Vec<(Epoch, Voter)>,
}
