//! The rules one by one, with one machine and scripted others.

use std::convert::Infallible;

use proptest::prelude::*;

use super::super::machine::{
    Agreement, Config, Input, OVERDUE_STARTS_PER_TICK, OpenError, Output, Past, Refusal,
};
use super::super::message::{BlockSet, Body, Epoch, Layer, Message, Round, Signed};
use super::super::outgoing::Record;
use super::super::pull::Pull;
use super::super::rules::Rules;
use super::super::voters::{Voter, Voters};
use super::block;
use super::node::{Deed, Node};

const X: Layer = 0;

fn config(count: usize, me: u8) -> Config {
    let voters = Voters::new(count).unwrap();
    Config {
        voters,
        me: Some(Voter(me)),
        layers_per_epoch: 8,
        blocks_max: 8,
    }
}

/// Voter `me` of `count`, in layer 0.
fn node(count: usize, me: u8) -> Node {
    Node::new(Rules::REAL, config(count, me), Voter(me), 0)
}

fn set(producers: &[u8]) -> BlockSet {
    BlockSet::new(producers.iter().map(|producer| block(X, *producer)))
}

fn vote(producers: &[u8]) -> Body {
    Body::Vote(set(producers))
}

fn commit(producers: &[u8]) -> Body {
    Body::Commit(Some(set(producers)))
}

const NONE: Body = Body::Commit(None);

fn said(voter: u8, round: Round, body: Body) -> Signed {
    let message = Message {
        layer: X,
        round,
        epoch: 0,
        body,
    };
    Signed {
        voter: Voter(voter),
        message,
        signature: [voter; 64],
    }
}

fn hear(node: &mut Node, voter: u8, round: Round, body: Body) -> Vec<(Round, Body)> {
    said_by(node.feed(Input::Message(said(voter, round, body))))
}

fn tick(node: &mut Node, layer: Layer) -> Vec<(Round, Body)> {
    said_by(node.feed(Input::Tick(layer)))
}

/// What was said about layer X.
fn said_by(deeds: Vec<Deed>) -> Vec<(Round, Body)> {
    let words = deeds.into_iter().filter_map(|deed| match deed {
        Deed::Said(signed) if signed.message.layer == X => {
            Some((signed.message.round, signed.message.body))
        }
        _ => None,
    });
    words.collect()
}

fn refusals(machine: &mut Agreement, signed: Signed) -> Vec<Refusal> {
    let outputs = machine.step(Input::Message(signed)).into_iter();
    outputs
        .filter_map(|output| match output {
            Output::Refused(refusal) => Some(refusal),
            _ => None,
        })
        .collect()
}

/// Four voters; this is voter 3, which has voted for block 1 in round 1 and holds blocks 1 and 2.
fn voted() -> Node {
    let mut node = node(4, 3);
    node.feed(Input::Block(X, block(X, 1)));
    assert_eq!(tick(&mut node, 2), [(1, vote(&[1]))]);
    node.feed(Input::Block(X, block(X, 2)));
    node
}

/// The same in round 2, locked on block 1 of round 1. The leader of round 2 is voter 2.
fn locked_in_round_two() -> Node {
    let mut node = voted();
    assert_eq!(hear(&mut node, 0, 1, vote(&[1])), []);
    assert_eq!(hear(&mut node, 1, 1, vote(&[1])), [(1, commit(&[1]))]);
    hear(&mut node, 1, 1, NONE);
    hear(&mut node, 2, 1, NONE);
    assert_eq!(tick(&mut node, 3), []);
    node
}

#[test]
fn one_voter_decides_alone() {
    let mut node = node(1, 0);
    node.feed(Input::Block(X, block(X, 7)));
    assert_eq!(tick(&mut node, 1), []);
    assert_eq!(tick(&mut node, 2), [(1, vote(&[7])), (1, commit(&[7]))]);
    assert_eq!(node.decided[&X].0, set(&[7]));
}

#[test]
fn a_layer_without_blocks_is_voted_empty_and_late_blocks_stay_out() {
    let mut node = node(4, 0);
    assert_eq!(tick(&mut node, 2), [(1, vote(&[]))]);
    assert_eq!(said_by(node.feed(Input::Block(X, block(X, 1)))), []);
}

#[test]
fn a_certificate_is_committed_and_a_quorum_of_commits_decides() {
    let mut node = voted();
    hear(&mut node, 0, 1, vote(&[2]));
    assert_eq!(hear(&mut node, 1, 1, vote(&[1])), []);
    assert_eq!(hear(&mut node, 2, 1, vote(&[1])), [(1, commit(&[1]))]);
    hear(&mut node, 1, 1, commit(&[1]));
    assert!(node.decided.is_empty());
    hear(&mut node, 0, 1, commit(&[1]));
    assert_eq!(node.decided[&X].0, set(&[1]));
    assert_eq!(node.decided[&X].1.len(), 3);
}

#[test]
fn votes_without_a_certificate_end_in_none_after_the_rounds_ticks() {
    let mut node = voted();
    hear(&mut node, 0, 1, vote(&[2]));
    assert_eq!(hear(&mut node, 1, 1, vote(&[])), []);
    assert_eq!(tick(&mut node, 3), [(1, NONE)]);
    // The certificate that comes too late changes nothing in this round.
    assert_eq!(hear(&mut node, 2, 1, vote(&[1])), []);
    assert_eq!(hear(&mut node, 0, 1, vote(&[1])), []);
}

#[test]
fn a_message_counts_only_once_its_blocks_are_here() {
    let mut node = voted();
    hear(&mut node, 0, 1, vote(&[1, 5]));
    hear(&mut node, 1, 1, vote(&[1, 5]));
    hear(&mut node, 2, 1, vote(&[1, 5]));
    assert_eq!(node.machine.wanted().blocks, [(X, block(X, 5))]);
    assert_eq!(
        said_by(node.feed(Input::Block(X, block(X, 5)))),
        [(1, commit(&[1, 5]))]
    );
    assert_eq!(node.machine.wanted().blocks, []);
}

#[test]
fn a_message_counts_only_once_its_atx_is_here() {
    let mut node = voted();
    for layer in 3..=16 {
        tick(&mut node, layer);
    }
    let mut late = said(0, 1, vote(&[1]));
    late.message.epoch = 2;
    node.feed(Input::Message(late.clone()));
    node.feed(Input::Atx(Voter(3), 2));
    assert_eq!(node.machine.wanted().atxs, [(2, Voter(0))]);
    assert_eq!(hear(&mut node, 1, 1, vote(&[1])), []);
    assert_eq!(
        said_by(node.feed(Input::Atx(Voter(0), 2))),
        [(1, commit(&[1]))]
    );
}

#[test]
fn a_voter_without_an_atx_waits_and_chooses_when_it_has_one() {
    let mut node = node(4, 0);
    node.confine(X, 40);
    node.restart(20);
    assert_eq!(tick(&mut node, 21), []);
    node.feed(Input::Block(X, block(X, 1)));
    let deeds = node.feed(Input::Atx(Voter(0), 2));
    let Some(Deed::Said(signed)) = deeds.first() else {
        panic!("{deeds:?}")
    };
    assert_eq!(
        (signed.message.epoch, &signed.message.body),
        (2, &vote(&[1]))
    );
}

#[test]
fn the_leader_leads_and_others_wait_for_it() {
    for me in [2, 3] {
        let mut node = node(4, me);
        tick(&mut node, 2);
        for voter in (0..4).filter(|voter| *voter != me) {
            hear(&mut node, voter, 1, vote(&[voter]));
            hear(&mut node, voter, 1, NONE);
            node.feed(Input::Block(X, block(X, voter)));
        }
        // Voter 2 leads round 2 of layer 0 and proposes all blocks held.
        let all: Vec<u8> = (0..4).filter(|voter| *voter != me).collect();
        let words = tick(&mut node, 3);
        if me == 2 {
            assert_eq!(words, [(1, NONE), (2, vote(&all))]);
        } else {
            assert_eq!(words, [(1, NONE)]);
            assert_eq!(hear(&mut node, 1, 2, vote(&[0])), []);
            assert_eq!(hear(&mut node, 2, 2, vote(&[1])), [(2, vote(&[1]))]);
        }
    }
}

#[test]
fn a_lock_refuses_the_leader_and_outlives_a_restart() {
    for restart in [false, true] {
        let mut node = locked_in_round_two();
        if restart {
            node.restart(3);
            // The round comes from the log too; what others said comes again from them.
            hear(&mut node, 1, 1, NONE);
            hear(&mut node, 2, 1, NONE);
            assert_eq!(tick(&mut node, 4), []);
            tick(&mut node, 5);
        }
        assert!(
            hear(&mut node, 2, 2, vote(&[2])).is_empty(),
            "restart: {restart}"
        );
        // Its own set, after as many ticks as the round's number.
        let (one, two) = if restart { (6, 7) } else { (4, 5) };
        let words = [tick(&mut node, one), tick(&mut node, two)];
        let own = vec![(2, vote(&[1]))];
        let expected = if restart {
            [own, vec![]]
        } else {
            [vec![], own]
        };
        assert_eq!(words, expected, "restart: {restart}");
    }
}

#[test]
fn a_later_certificate_opens_the_lock() {
    let mut node = locked_in_round_two();
    // One vote is the leader's, and the lock refuses it; three make a certificate.
    assert_eq!(hear(&mut node, 2, 2, vote(&[2])), []);
    assert_eq!(hear(&mut node, 0, 2, vote(&[2])), []);
    let words = [(2, vote(&[2])), (2, commit(&[2]))];
    assert_eq!(hear(&mut node, 1, 2, vote(&[2])), words);
}

/// Voter 2, which leads round 2 of layer 0, and heard of round 1 only that it ended and one vote.
fn leader_that_skipped_round_one() -> Node {
    let mut node = node(4, 2);
    node.confine(X, 40);
    node.restart(0);
    for voter in [0, 1, 3] {
        hear(&mut node, voter, 1, NONE);
    }
    assert_eq!(tick(&mut node, 1), []);
    node.feed(Input::Block(X, block(X, 0)));
    // Without an ATX it stays silent in round 1, and the ATX comes in round 2.
    assert_eq!(tick(&mut node, 16), []);
    assert_eq!(node.machine.open_layers().next(), Some((X, Some(2))));
    assert_eq!(hear(&mut node, 0, 1, vote(&[0])), []);
    assert_eq!(said_by(node.feed(Input::Atx(Voter(2), 2))), []);
    node
}

#[test]
fn after_round_one_a_choice_waits_for_the_votes_of_round_one() {
    let mut node = leader_that_skipped_round_one();
    assert_eq!(hear(&mut node, 3, 1, vote(&[0])), []);
    node.feed(Input::Block(X, block(X, 1)));
    assert_eq!(hear(&mut node, 1, 1, vote(&[1])), [(2, vote(&[0, 1]))]);
}

#[test]
fn what_a_voter_acted_on_outlives_a_restart() {
    // The liar, voter 0, tells voter 3 alone what completes the quorum, and never again.
    let mut node = voted();
    hear(&mut node, 0, 1, vote(&[2]));
    hear(&mut node, 1, 1, vote(&[1]));
    assert_eq!(tick(&mut node, 3), [(1, NONE)]);
    hear(&mut node, 0, 1, NONE);
    node.restart(3);
    let words: Vec<(u8, Body)> = node
        .machine
        .answer(&other_pull(), 100)
        .messages
        .into_iter()
        .map(|signed| (signed.voter.0, signed.message.body))
        .collect();
    // What it heard after its last word is forgotten: it did not act on that.
    let kept = [(0, vote(&[2])), (1, vote(&[1])), (3, vote(&[1])), (3, NONE)];
    assert_eq!(words, kept);
    // And nothing is logged twice.
    let heard = node.log.iter().filter_map(|record| match record {
        Record::Sent { own, heard } if own.message.layer == X => Some(heard.len()),
        _ => None,
    });
    assert_eq!(heard.collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn a_decision_that_a_crash_kept_from_the_disk_is_found_in_the_log() {
    // The set is empty, so that no block that comes in after the restart brings the layer up.
    let mut node = node(4, 3);
    assert_eq!(tick(&mut node, 2), [(1, vote(&[]))]);
    hear(&mut node, 0, 1, commit(&[]));
    hear(&mut node, 1, 1, commit(&[]));
    hear(&mut node, 0, 1, vote(&[]));
    assert_eq!(hear(&mut node, 1, 1, vote(&[])), [(1, commit(&[]))]);
    assert!(node.decided.remove(&X).is_some());
    node.restart(3);
    tick(&mut node, 4);
    assert_eq!(node.decided[&X].0, set(&[]));
}

/// What a node asks that knows nothing about layer X.
fn other_pull() -> Pull {
    Pull {
        layers: vec![(X, Vec::new())],
    }
}

#[test]
fn a_voter_that_lost_its_log_stays_out_and_remembers_that() {
    let open = |now, log| {
        let mut saved = Vec::new();
        let past = Past {
            now,
            log,
            ..Past::default()
        };
        let append = |record: &Record| {
            saved.push(record.clone());
            Ok::<_, Infallible>(())
        };
        let machine = Agreement::open(config(4, 0), past, append).unwrap();
        (machine, saved)
    };
    let layers = |machine: &mut Agreement, to: Layer| -> Vec<Layer> {
        let outputs = (1..=to).flat_map(|layer| machine.step(Input::Tick(layer)));
        outputs
            .filter_map(|output| match output {
                Output::Speak(unsent) => Some(unsent.layer()),
                _ => None,
            })
            .collect()
    };
    for (now, first) in [(0, 0), (1, 0), (2, 4), (9, 11)] {
        let (mut machine, log) = open(now, Vec::new());
        assert_eq!(layers(&mut machine, 15).first(), Some(&first), "from {now}");
        // A second restart, before anything was said, must not forget the first.
        let (mut machine, nothing) = open(now + 1, log);
        assert_eq!(
            layers(&mut machine, 15).first(),
            Some(&first),
            "from {now}, again"
        );
        assert_eq!(nothing, []);
    }
}

#[test]
fn a_log_that_cannot_be_is_refused_with_its_reason() {
    let begin = Record::Begin {
        abstain_through: None,
    };
    let sent = |voter, round, body| Record::Sent {
        own: said(voter, round, body),
        heard: Vec::new(),
    };
    let open = |me, log| {
        let past = Past {
            now: 5,
            log,
            ..Past::default()
        };
        Agreement::open(config(4, me), past, |_| Ok::<_, Infallible>(())).unwrap_err()
    };
    let text = |error: OpenError<Infallible>| error.to_string();
    let headless = text(open(0, vec![sent(0, 1, vote(&[1]))]));
    assert!(headless.contains("does not begin"), "{headless}");
    let other = text(open(0, vec![begin.clone(), sent(1, 1, vote(&[1]))]));
    assert!(
        other.contains("voter 1") && other.contains("voter 0"),
        "{other}"
    );
    let twice = vec![begin, sent(0, 1, vote(&[1])), sent(0, 1, vote(&[2]))];
    let twice = text(open(0, twice));
    assert!(twice.contains("layer 0, round 1"), "{twice}");
    let nobody = text(open(4, Vec::new()));
    assert!(nobody.contains("voter 4 is not one of the 4"), "{nobody}");
    let past = Past {
        now: 5,
        ..Past::default()
    };
    let full = Agreement::open(config(4, 0), past, |_| Err(std::fmt::Error));
    assert!(matches!(full, Err(OpenError::Save(_))));
}

#[test]
fn what_no_honest_voter_can_have_sent_is_refused() {
    let with = |change: &dyn Fn(&mut Signed)| {
        let mut node = node(4, 0);
        tick(&mut node, 10);
        let mut signed = said(1, 1, vote(&[1]));
        change(&mut signed);
        refusals(&mut node.machine, signed)
    };
    let many: Vec<u8> = (0..9).collect();
    assert_eq!(with(&|_| ()), []);
    assert_eq!(with(&|s| s.voter = Voter(4)), [Refusal::NotAVoter]);
    assert_eq!(
        with(&|s| s.message.body = vote(&many)),
        [Refusal::TooManyBlocks]
    );
    assert_eq!(with(&|s| s.message.layer = 8), [Refusal::Impossible]);
    assert_eq!(
        with(&|s| (s.message.layer, s.message.epoch) = (13, 1)),
        [Refusal::Early]
    );
    assert_eq!(with(&|s| s.message.epoch = 2), [Refusal::Early]);
    assert_eq!(with(&|s| s.message.round = 5), []);
    assert_eq!(with(&|s| s.message.round = 6), [Refusal::Early]);
    assert_eq!(
        with(&|s| s.message.layer = Layer::MAX),
        [Refusal::Impossible]
    );
    assert_eq!(with(&|s| s.message.round = Round::MAX), [Refusal::Early]);
}

#[test]
fn a_liar_is_reported_once_per_step_and_its_share_is_bounded() {
    let mut node = voted();
    let mut accusations = 0;
    for value in 10..60 {
        for body in [vote(&[value]), commit(&[value])] {
            let deeds = node.feed(Input::Message(said(0, 1, body)));
            accusations += deeds
                .iter()
                .filter(|d| matches!(d, Deed::Accused(_)))
                .count();
        }
    }
    assert_eq!(accusations, 2);
    // Its own vote, and two values in each step of the liar's.
    assert_eq!(node.machine.messages_kept(), 1 + 2 * 2);
    // A value that counts is taken while no other of the liar's does.
    hear(&mut node, 0, 1, vote(&[2]));
    assert_eq!(node.machine.messages_kept(), 6);
    assert_eq!(
        refusals(&mut node.machine, said(0, 1, vote(&[]))),
        [Refusal::Surplus]
    );
    // And so is one that the honest part of a quorum names: here voters 1 and 3.
    assert_eq!(
        refusals(&mut node.machine, said(0, 1, vote(&[1]))),
        [Refusal::Surplus]
    );
    hear(&mut node, 1, 1, vote(&[1]));
    assert_eq!(hear(&mut node, 0, 1, vote(&[1])), [(1, commit(&[1]))]);
}

#[test]
fn a_proof_decides_even_if_it_rests_on_a_liar_whose_share_is_used_up() {
    let mut node = voted();
    for value in [2, 50, 51] {
        hear(&mut node, 0, 4, commit(&[value]));
    }
    tick(&mut node, 10);
    for value in [2, 50] {
        hear(&mut node, 0, 4, commit(&[value]));
    }
    let proof = (0..3).map(|voter| said(voter, 4, commit(&[1]))).collect();
    node.feed(Input::Messages(proof));
    assert_eq!(node.decided[&X].0, set(&[1]));
}

#[test]
fn an_epoch_without_an_atx_cannot_keep_out_the_one_that_has_it() {
    let mut node = voted();
    tick(&mut node, 24);
    let of = |epoch: Epoch| {
        let mut signed = said(0, 1, vote(&[1]));
        signed.message.epoch = epoch;
        signed
    };
    node.feed(Input::Atx(Voter(3), 3));
    node.feed(Input::Atx(Voter(0), 3));
    assert_eq!(node.feed(Input::Message(of(2))).len(), 0);
    let deeds = node.feed(Input::Message(of(3)));
    assert!(matches!(deeds[..], [Deed::Accused(_)]), "{deeds:?}");
    assert_eq!(hear(&mut node, 1, 1, vote(&[1])), [(1, commit(&[1]))]);
}

#[test]
fn a_gap_of_a_thousand_layers_is_worked_off_in_bounded_steps() {
    let mut node = node(4, 0);
    let spoken = |node: &mut Node, layer| -> Vec<Layer> {
        node.machine
            .step(Input::Tick(layer))
            .into_iter()
            .filter_map(|output| match output {
                Output::Speak(unsent) => Some(unsent.layer()),
                _ => None,
            })
            .collect()
    };
    for epoch in 2..140 {
        node.feed(Input::Atx(Voter(0), epoch));
    }
    let mut all: Vec<Layer> = Vec::new();
    for now in 1000..1020 {
        let layers = spoken(&mut node, now);
        assert!(
            layers.len() <= OVERDUE_STARTS_PER_TICK + 1,
            "{}",
            layers.len()
        );
        assert!(layers.contains(&(now - 2)), "the newest layer waits");
        all.extend(layers);
    }
    all.sort_unstable();
    assert_eq!(all, (0..1018).collect::<Vec<_>>());
    assert!(
        spoken(&mut node, 1019).is_empty(),
        "a tick that does not advance"
    );
    assert!(spoken(&mut node, 5).is_empty(), "a tick that goes back");
}

#[test]
fn pull_brings_what_is_missing_and_nothing_else() {
    let (mut full, mut bare) = (voted(), node(4, 1));
    hear(&mut full, 0, 1, vote(&[1]));
    hear(&mut full, 2, 1, NONE);
    tick(&mut bare, 2);
    hear(&mut bare, 0, 1, vote(&[1]));
    let answer = full.machine.answer(&bare.machine.pull(10), 100);
    let voters: Vec<u8> = answer
        .messages
        .iter()
        .map(|signed| signed.voter.0)
        .collect();
    assert_eq!((voters, answer.decided), (vec![3, 2], vec![]));
    bare.feed(Input::Messages(answer.messages));
    assert_eq!(
        full.machine.answer(&bare.machine.pull(10), 100).messages,
        []
    );
    // A liar's words come last, so that a small answer has room for the others'.
    hear(&mut full, 0, 1, vote(&[2]));
    hear(&mut full, 1, 1, vote(&[2]));
    let nothing = node(4, 2).machine.pull(10);
    assert!(nothing.layers.is_empty(), "no layer is due in layer 0");
    let mut other = node(4, 2);
    tick(&mut other, 2);
    let answer = full.machine.answer(&other.machine.pull(10), 3);
    assert!(
        answer
            .messages
            .iter()
            .all(|signed| signed.voter != Voter(0)),
        "{answer:?}"
    );
}

#[test]
fn a_decided_layer_is_named_in_the_answer() {
    let (mut done, mut behind) = (node(1, 0), node(1, 0));
    for node in [&mut done, &mut behind] {
        tick(node, 1);
    }
    let pull = |node: &mut Node| {
        tick(node, 3);
        node.machine.pull(10)
    };
    tick(&mut done, 3);
    behind.machine = Agreement::open(
        Config {
            me: None,
            ..config(1, 0)
        },
        Past {
            now: 1,
            ..Past::default()
        },
        |_| Ok::<_, Infallible>(()),
    )
    .unwrap();
    let answer = done.machine.answer(&pull(&mut behind), 10);
    assert_eq!((answer.decided, answer.messages.len()), (vec![0, 1], 0));
    assert_eq!(done.machine.answer(&pull(&mut behind), 1).decided, [0]);
    behind.feed(Input::Messages(done.decided[&0].1.clone()));
    assert_eq!(behind.decided[&0].0, set(&[]));
}

#[test]
fn pulls_ask_about_every_open_layer_in_turn_and_always_about_the_newest() {
    let mut node = node(4, 0);
    tick(&mut node, 101);
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let layers: Vec<Layer> = node
            .machine
            .pull(24)
            .layers
            .into_iter()
            .map(|(layer, _)| layer)
            .collect();
        assert_eq!(layers.len(), 24);
        assert!(
            layers.is_sorted() && (92..100).all(|layer| layers.contains(&layer)),
            "{layers:?}"
        );
        asked.extend(layers);
    }
    assert_eq!(asked.len(), 100);
}

/// Any message about a few layers, sensible or not.
fn any_message() -> impl Strategy<Value = Signed> {
    let body = (0..3_u8, proptest::collection::vec(0..4_u8, 0..3));
    (0..5_u8, 0..4_u32, 0..5_u32, 0..3_u32, body).prop_map(|(voter, layer, round, epoch, body)| {
        let set = BlockSet::new(body.1.iter().map(|producer| block(layer, *producer)));
        let body = match body.0 {
            0 => Body::Vote(set),
            1 => Body::Commit(Some(set)),
            _ => Body::Commit(None),
        };
        Signed {
            voter: Voter(voter),
            message: Message {
                layer,
                round,
                epoch,
                body,
            },
            signature: [0; 64],
        }
    })
}

fn any_input() -> impl Strategy<Value = Input> {
    prop_oneof![
        1 => (0..30_u32).prop_map(Input::Tick),
        6 => any_message().prop_map(Input::Message),
        1 => proptest::collection::vec(any_message(), 0..4).prop_map(Input::Messages),
        2 => (0..6_u32, 0..4_u8).prop_map(|(layer, p)| Input::Block(layer, block(layer, p))),
        1 => (0..5_u8, 0..4_u32).prop_map(|(voter, epoch)| Input::Atx(Voter(voter), epoch)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_inputs_are_survived_within_the_bound(inputs in proptest::collection::vec(any_input(), 0..150)) {
        let mut node = node(4, 0);
        for input in inputs {
            node.feed(input);
            let layers = node.machine.open_layers().count();
            // Four voters, at most four rounds asked for, two steps, 2 + 1 + N values each.
            prop_assert!(node.machine.messages_kept() <= layers * 4 * 8 * 2 * 7);
            // What a node has, it does not ask for, except what waits for an ATX.
            let pull = node.machine.pull(8);
            prop_assert_eq!(node.machine.answer(&pull, 1000).messages.iter()
                .filter(|signed| signed.message.epoch <= 1).count(), 0);
        }
        let log = node.log.clone();
        node.restart(30);
        prop_assert_eq!(node.log, log, "a restart alone says nothing new");
    }
}
