//! What the builder does in time: stories of inputs, and what comes out of each.

use super::*;
use crate::poet::members::Members;
use crate::protocol::atx::Content;
use crate::protocol::post::Post;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

const RETRY_NS: u64 = 25;
const P: PoetKey = [1; 32];
const Q: PoetKey = [2; 32];

fn key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

fn me() -> NodeId {
    key().verifying_key().to_bytes()
}

fn builder() -> Builder {
    Builder::new(me(), ["p".to_owned(), "q".to_owned()], RETRY_NS)
}

fn atx(epoch: u32) -> Atx {
    let members = Members::new([[3; 32]]).unwrap();
    let content = Content {
        netid: 1,
        node: me(),
        epoch,
        sequence: epoch,
        previous: None,
        proof: [4; 32],
        poet: P,
        round: epoch,
        membership: members.membership(&[3; 32]).unwrap(),
        post: Post::prove(&[], &[4; 32]).unwrap(),
    };
    Atx::sign(content, &key())
}

/// Epochs of 400 ns that begin at 1000; the round of an epoch is open until 300 ns before it.
fn clock(unix_ns: u64) -> Input {
    Input::Clock {
        moment: moment(unix_ns),
        may_publish: true,
    }
}

fn unsure(unix_ns: u64) -> Input {
    Input::Clock {
        moment: moment(unix_ns),
        may_publish: false,
    }
}

fn moment(unix_ns: u64) -> Moment {
    Moment {
        unix_ns,
        epoch: unix_ns
            .checked_sub(1_000)
            .map(|since| u32::try_from(since / 400).unwrap()),
        open: u32::try_from((unix_ns + 400 - 700) / 400).unwrap(),
    }
}

fn asked(poet: &str, round: u32, key: Option<PoetKey>, acknowledged: bool) -> Input {
    Input::Asked {
        poet: poet.to_owned(),
        round,
        key,
        acknowledged,
    }
}

fn proof(poet: PoetKey, round: u32, member: bool) -> Input {
    Input::Proof {
        poet,
        round,
        member,
    }
}

fn brief(outputs: &[Output]) -> String {
    let one = |output: &Output| match output {
        Output::Save => "save".to_owned(),
        Output::Note => "note".to_owned(),
        Output::Registered { poet, round } => format!("registered {} {round}", poet[0]),
        Output::Submit { poet, round } => format!("submit {poet} {round}"),
        Output::Make { epoch, poet } => format!("make {epoch} {}", poet[0]),
        Output::Publish { epoch, .. } => format!("publish {epoch}"),
        Output::Drop { epoch, why } => format!("drop {epoch} {why}"),
    };
    outputs.iter().map(one).collect::<Vec<_>>().join(", ")
}

enum Step {
    In(Input),
    /// The driver made the activation of this epoch.
    Made(u32),
    /// The process ended and started again from what is on disk.
    Restart,
}

use Step::{In, Made, Restart};

fn play(story: &[(Step, &str)]) {
    let mut machine = builder();
    let mut disk = [machine.encode(), machine.encode_notes()];
    for (at, (step, expected)) in story.iter().enumerate() {
        let out = match step {
            In(input) => machine.on(input.clone()),
            Made(epoch) => machine.record(&atx(*epoch)),
            Restart => {
                machine = builder();
                machine.restore(&disk[0]).unwrap();
                machine.restore_notes(&disk[1]).unwrap();
                Vec::new()
            }
        };
        assert_eq!(brief(&out), *expected, "step {at}");
        if out.contains(&Output::Save) {
            disk[0] = machine.encode();
        }
        if out.contains(&Output::Note) {
            disk[1] = machine.encode_notes();
        }
        let now = [machine.encode(), machine.encode_notes()];
        assert_eq!(now, disk, "step {at}: what is new must be written");
    }
}

#[test]
fn a_round_a_proof_an_activation() {
    play(&[
        (In(clock(600)), "submit p 0, submit q 0"),
        (In(asked("p", 0, Some(P), true)), "note, registered 1 0"),
        (In(asked("q", 0, Some(Q), true)), "note, registered 2 0"),
        (In(clock(690)), ""),
        // Round 0 has closed: the next challenge goes out while the first is in flight.
        (In(clock(700)), "submit p 1, submit q 1"),
        (In(asked("p", 1, Some(P), true)), "note, registered 1 1"),
        (In(asked("q", 1, Some(Q), true)), "note, registered 2 1"),
        // A proof before its epoch waits for it.
        (In(proof(P, 0, true)), ""),
        (In(clock(990)), ""),
        (In(clock(1_000)), "make 0 1"),
        // It could not be made or written: again.
        (In(clock(1_010)), "make 0 1"),
        (Made(0), "save"),
        (Made(0), ""),
        (In(clock(1_020)), "publish 0"),
        (In(clock(1_030)), ""),
        (In(clock(1_100)), "submit p 2, submit q 2"),
        (In(proof(Q, 1, true)), ""),
        (In(clock(1_400)), "make 1 2, note"),
    ]);
}

#[test]
fn who_does_not_answer_is_asked_no_second_time_and_the_other_meanwhile() {
    play(&[
        (In(clock(600)), "submit p 0, submit q 0"),
        (In(asked("q", 0, None, false)), ""),
        (In(clock(624)), ""),
        (In(clock(625)), "submit q 0"),
        (In(asked("q", 0, Some(Q), false)), "note"),
        (In(asked("q", 0, Some(Q), false)), ""),
        (In(clock(650)), "submit q 0"),
        (In(asked("q", 0, Some(Q), true)), "note, registered 2 0"),
        (In(clock(699)), ""),
        // The round closes while p still has not answered; its late answer is of no use.
        (In(clock(700)), "submit q 1"),
        (In(asked("p", 0, None, false)), ""),
        (In(clock(701)), "submit p 1"),
        (In(asked("p", 1, Some(P), true)), "note, registered 1 1"),
        (In(asked("p", 1, Some(Q), false)), ""),
    ]);
}

#[test]
fn an_epoch_without_an_activation_says_why() {
    play(&[
        (In(clock(690)), "submit p 0, submit q 0"),
        (In(asked("p", 0, None, false)), ""),
        (In(clock(720)), "submit p 1"),
        (In(asked("p", 1, Some(P), true)), "note, registered 1 1"),
        (In(clock(1_100)), "submit p 2"),
        (In(asked("p", 2, Some(P), true)), "note, registered 1 2"),
        (In(clock(1_399)), ""),
        (In(clock(1_400)), "drop 0 not-registered"),
        (In(clock(1_500)), "submit p 3"),
        (In(asked("p", 3, Some(P), true)), "note, registered 1 3"),
        (In(clock(1_800)), "drop 1 no-proof, note"),
        (In(proof(P, 2, false)), ""),
        (In(clock(1_850)), ""),
        // Too late for epoch 1.
        (In(proof(P, 1, true)), ""),
        (In(clock(1_899)), ""),
        (In(clock(2_200)), "drop 2 not-a-member, note, submit p 4"),
        (In(proof(P, 3, true)), ""),
        (In(clock(2_210)), "make 3 1"),
        (In(clock(2_600)), "drop 3 not-made, note"),
    ]);
}

#[test]
fn a_restart_goes_on_where_it_was() {
    play(&[
        (In(clock(600)), "submit p 0, submit q 0"),
        (In(asked("p", 0, Some(P), true)), "note, registered 1 0"),
        (Restart, ""),
        (In(clock(650)), "submit q 0"),
        (In(asked("q", 0, None, false)), ""),
        (Restart, ""),
        (In(clock(1_000)), "submit p 1, submit q 1"),
        (In(proof(P, 0, true)), ""),
        (In(clock(1_001)), "make 0 1"),
        (Made(0), "save"),
        // Ended before it was published, or after: the same bytes again, and no second one.
        (Restart, ""),
        (In(clock(1_010)), "publish 0, submit p 1, submit q 1"),
        (In(proof(P, 0, true)), ""),
        (In(clock(1_020)), ""),
        (Restart, ""),
        // Even when the epoch is over by then.
        (In(clock(1_450)), "publish 0, note, submit p 2, submit q 2"),
        (In(clock(1_460)), ""),
        (Restart, ""),
        // What it was good for is over too.
        (In(clock(1_800)), "submit p 3, submit q 3"),
    ]);
}

#[test]
fn nothing_is_made_before_it_is_known_what_the_network_holds() {
    let mut machine = builder();
    machine.on(clock(600));
    machine.on(asked("p", 0, Some(P), true));
    machine.on(proof(P, 0, true));
    assert_eq!(brief(&machine.on(unsure(1_000))), "submit p 1");
    assert_eq!(brief(&machine.on(clock(1_001))), "make 0 1");
    machine.record(&atx(0));
    // What was made and is not on disk yet is kept until it is, even beyond its epoch.
    assert_eq!(brief(&machine.on(unsure(1_450))), "");
    assert_eq!(brief(&machine.on(clock(1_460))), "publish 0, note");
}

#[test]
fn what_is_awaited_is_what_was_asked_for_and_is_not_there() {
    let mut machine = builder();
    machine.on(clock(600));
    machine.on(asked("p", 0, Some(P), true));
    machine.on(asked("q", 0, Some(Q), false));
    assert_eq!(machine.awaited(), [(P, 0), (Q, 0)]);
    let registered: Vec<_> = machine.registrations().collect();
    assert_eq!(registered, [(P, 0)], "the other did not acknowledge");
    machine.on(proof(P, 0, false));
    assert_eq!(machine.awaited(), [(Q, 0)]);
    machine.record(&atx(0));
    assert_eq!(machine.awaited(), []);
    let latest = machine.latest().unwrap();
    assert_eq!((latest.id, latest.epoch), (atx(0).id(), 0));
}

#[test]
fn the_state_of_another_miner_is_not_taken() {
    let other = Builder::new([5; 32], [], RETRY_NS).encode();
    let error = builder().restore(&other).unwrap_err();
    assert!(matches!(error, StateError::Node(node) if node == [5; 32]));
}

proptest! {
    #[test]
    fn any_bytes_are_restored_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut machine = builder();
        let bytes = [me().as_slice(), &bytes].concat();
        if machine.restore(&bytes).is_err() {
            prop_assert_eq!(machine.encode(), builder().encode());
        }
        if machine.restore_notes(&bytes).is_err() {
            prop_assert_eq!(machine.encode_notes(), builder().encode_notes());
        }
    }

    #[test]
    fn a_clock_that_jumps_about_neither_fills_memory_nor_activates_twice(
        times in prop::collection::vec(400_u64..100_000, 1..200),
    ) {
        let mut machine = builder();
        let mut made = std::collections::BTreeSet::new();
        for time in times {
            for output in machine.on(clock(time)) {
                match output {
                    Output::Submit { poet, round } => {
                        let key = if poet == "p" { P } else { Q };
                        machine.on(asked(&poet, round, Some(key), true));
                        machine.on(proof(key, round, true));
                    }
                    Output::Make { epoch, .. } => {
                        prop_assert!(made.insert(epoch), "{epoch} twice");
                        machine.record(&atx(epoch));
                    }
                    Output::Save | Output::Note | Output::Registered { .. } | Output::Publish { .. } | Output::Drop { .. } => {}
                }
            }
            prop_assert!(machine.attempts.len() <= ATTEMPTS_MAX);
            let mut again = builder();
            again.restore(&machine.encode()).unwrap();
            again.restore_notes(&machine.encode_notes()).unwrap();
        }
    }
}
