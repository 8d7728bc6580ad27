//! The table of what may follow from what.

use crate::time::{Calendar, Span};

/// What a cause is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CauseKind {
    /// A finding whose id matches this, as `crash/*`.
    Finding(&'static str),
    /// A fault of the plan.
    Fault,
}

/// How cause and effect must be related.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// They are about the same node.
    SameNode,
    /// They are about the same role.
    SameRole,
    /// They are about different roles.
    OtherRole,
    /// The cause is about a round, and the effect was missed in the epoch that uses the proof of that round: it last
    /// happened before that epoch, and was due in it or later.
    RoundMissed,
    /// Anywhere in the run.
    Anywhere,
}

impl Relation {
    /// As in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SameNode => "same-node",
            Self::SameRole => "same-role",
            Self::OtherRole => "other-role",
            Self::RoundMissed => "round-missed",
            Self::Anywhere => "anywhere",
        }
    }
}

/// One relation.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Which findings it explains, as `stalled/*`.
    pub effect: &'static str,
    /// By what.
    pub cause: CauseKind,
    /// How they must be related.
    pub relation: Relation,
    /// How long after the cause is over the effect may still be due.
    pub lag: Lag,
    /// Whether it is used beside others.
    pub used: Used,
    /// The sentence, from `{cause}` and `{effect}`. What stands between them and ends in a colon says why.
    pub template: &'static str,
}

/// Whether a row is used beside others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// Whatever else explains the effect.
    Always,
    /// Unless a step before it fits: it names the step next before the effect, and the nearest comes first.
    Step,
    /// Unless a step fits: what is further back is told by the steps.
    Directly,
    /// Only for effects that no row before it explains.
    Otherwise,
}

/// A time that some effect takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    /// Of what is counted in layers.
    Layers(i64),
    /// Of what waits for its epoch, however many layers that has.
    Epochs(i64),
}

impl Lag {
    pub(super) fn ns(self, calendar: &Calendar) -> u64 {
        calendar.ns_of(match self {
            Self::Layers(layers) => Span::layers(layers),
            Self::Epochs(epochs) => Span(calendar.epoch().0.saturating_mul(epochs)),
        })
    }
}

/// Effects of a load or of a restart show within an epoch of four layers.
const SOON: Lag = Lag::Layers(4);
/// A stall is due a bound after what stopped it; bounds are a few layers, and some signals have one value an epoch.
const LATER: Lag = Lag::Layers(16);
/// What a round that failed has written stays for some rounds, also when one of them finds room.
const SOME_ROUNDS: Lag = Lag::Epochs(8);
/// What is not taken from a PoET is not used in its epoch, and not built upon in the next.
const NEXT_EPOCH: Lag = Lag::Epochs(2);

/// All relations, the strongest explanation of an effect first.
pub const TABLE: &[Row] = &[
    row(
        "crash/*",
        CauseKind::Fault,
        Relation::SameNode,
        SOON,
        "{cause}; {effect}",
    ),
    row(
        "hang/*",
        CauseKind::Fault,
        Relation::SameNode,
        SOON,
        "{cause}; {effect}",
    ),
    row(
        "deaf/*",
        CauseKind::Fault,
        Relation::SameNode,
        SOON,
        "{cause}; {effect}",
    ),
    row(
        "stop/*",
        CauseKind::Fault,
        Relation::SameNode,
        SOON,
        "{cause}; {effect}",
    ),
    row(
        "role/all-dead",
        CauseKind::Finding("crash/*"),
        Relation::SameRole,
        LATER,
        "{cause}; at the end {effect}",
    ),
    row(
        "stalled/*",
        CauseKind::Finding("crash/*"),
        Relation::SameNode,
        LATER,
        "{cause}, and so {effect}",
    ),
    row(
        "stalled/*",
        CauseKind::Finding("hang/*"),
        Relation::SameNode,
        LATER,
        "{cause}, and so {effect}",
    ),
    // A PoET hands its proofs to nodes of another role; when all of those are dead, nobody takes them.
    row(
        "proof/undelivered",
        CauseKind::Finding("role/all-dead"),
        Relation::OtherRole,
        NEXT_EPOCH,
        "{cause}, so nobody could take proofs: {effect}",
    ),
    row(
        "proof/undelivered",
        CauseKind::Finding("crash/*"),
        Relation::SameNode,
        NEXT_EPOCH,
        "{cause}, and its proof with it: {effect}",
    ),
    fallback(
        "proof/undelivered",
        CauseKind::Finding("crash/*"),
        "{cause}, and then {effect}",
    ),
    fallback(
        "proof/undelivered",
        CauseKind::Finding("hang/*"),
        "{cause}, and then {effect}",
    ),
    fallback(
        "proof/undelivered",
        CauseKind::Finding("deaf/*"),
        "{cause}, and then {effect}",
    ),
    fallback(
        "proof/undelivered",
        CauseKind::Fault,
        "{cause}, and then {effect}",
    ),
    // One branch: a PoET keeps a round until its proof is taken, and the next one needs the room.
    row(
        "disk/full",
        CauseKind::Finding("proof/undelivered"),
        Relation::SameNode,
        NEXT_EPOCH,
        "{cause}; what is not taken is kept, and the next round found no room: {effect}",
    ),
    fallback("disk/full", CauseKind::Fault, "{cause}, and then {effect}"),
    Row {
        relation: Relation::SameNode,
        lag: SOME_ROUNDS,
        ..fallback(
            "disk/full",
            CauseKind::Finding("disk/full"),
            "{cause}; what a round that failed has written stays, and a later one found no room: {effect}",
        )
    },
    row(
        "crash/new-round",
        CauseKind::Finding("disk/full"),
        Relation::SameNode,
        SOME_ROUNDS,
        "{cause}; it could not open another: {effect}",
    ),
    // The other branch: no proof, no ATX; a blockless epoch later; and with neither nothing is verified or applied.
    step(
        "stalled/atx",
        "proof/undelivered",
        Relation::RoundMissed,
        "{cause}, and without a proof there is no ATX: {effect}",
    ),
    Row {
        relation: Relation::RoundMissed,
        lag: NEXT_EPOCH,
        ..fallback(
            "stalled/atx",
            CauseKind::Finding("disk/full"),
            "{cause}, and without a proof there is no ATX: {effect}",
        )
    },
    step(
        "stalled/atx",
        "stalled/proof",
        Relation::Anywhere,
        "{cause}, and without a proof there is no ATX: {effect}",
    ),
    step(
        "stalled/proof",
        "disk/full",
        Relation::SameNode,
        "{cause}, and so {effect}",
    ),
    step(
        "stalled/block",
        "stalled/atx",
        Relation::Anywhere,
        "{cause}, and without ATXs nobody may make blocks in the next epoch: {effect}",
    ),
    step(
        "stalled/verified-layer",
        "stalled/block",
        Relation::Anywhere,
        "{cause}, and without blocks and votes no layer is verified: {effect}",
    ),
    step(
        "stalled/verified-layer",
        "stalled/atx",
        Relation::Anywhere,
        "{cause}, and without ATXs nobody may vote: {effect}",
    ),
    step(
        "stalled/state-root",
        "stalled/verified-layer",
        Relation::SameNode,
        "{cause}, and nothing is applied: {effect}",
    ),
    step(
        "stalled/state-root",
        "stalled/verified-layer",
        Relation::Anywhere,
        "{cause}, and nothing is applied: {effect}",
    ),
    step(
        "stalled/state-root",
        "stalled/block",
        Relation::Anywhere,
        "{cause}, and nothing is applied: {effect}",
    ),
    step(
        "stalled/state-root",
        "stalled/atx",
        Relation::Anywhere,
        "{cause}, and nothing is applied: {effect}",
    ),
    Row {
        used: Used::Directly,
        ..fallback(
            "stalled/*",
            CauseKind::Finding("role/all-dead"),
            "{cause}, and then {effect}",
        )
    },
    fallback(
        "stalled/*",
        CauseKind::Finding("crash/*"),
        "{cause}, and then {effect}",
    ),
    fallback(
        "stalled/*",
        CauseKind::Finding("deaf/*"),
        "{cause}, and then {effect}",
    ),
    fallback(
        "stalled/*",
        CauseKind::Finding("hang/*"),
        "{cause}, and then {effect}",
    ),
    fallback("stalled/*", CauseKind::Fault, "{cause}, and then {effect}"),
    row(
        "unrecovered/*",
        CauseKind::Finding("role/all-dead"),
        Relation::Anywhere,
        LATER,
        "{cause}, and then {effect}",
    ),
    fallback(
        "unrecovered/*",
        CauseKind::Finding("crash/*"),
        "{cause}, and then {effect}",
    ),
    // What was done to the node itself says more than what was done elsewhere.
    Row {
        relation: Relation::SameNode,
        ..fallback(
            "unrecovered/*",
            CauseKind::Fault,
            "{cause}, and then {effect}",
        )
    },
    fallback(
        "unrecovered/*",
        CauseKind::Fault,
        "{cause}, and then {effect}",
    ),
];

const fn row(
    effect: &'static str,
    cause: CauseKind,
    relation: Relation,
    lag: Lag,
    template: &'static str,
) -> Row {
    Row {
        effect,
        cause,
        relation,
        lag,
        used: Used::Always,
        template,
    }
}

const fn fallback(effect: &'static str, cause: CauseKind, template: &'static str) -> Row {
    Row {
        used: Used::Otherwise,
        ..row(effect, cause, Relation::Anywhere, LATER, template)
    }
}

const fn step(
    effect: &'static str,
    cause: &'static str,
    relation: Relation,
    template: &'static str,
) -> Row {
    Row {
        used: Used::Step,
        ..row(
            effect,
            CauseKind::Finding(cause),
            relation,
            NEXT_EPOCH,
            template,
        )
    }
}
