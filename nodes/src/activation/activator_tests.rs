//! The activator against a network that is a few fields, with real files and real proofs.

use super::super::client::RegisterError;
use super::*;
use crate::protocol::atx::tests::proof;
use crate::protocol::genesis::Genesis;
use crate::protocol::genesis::tests::{key, sample};
use std::cell::{Cell, RefCell};
use tempfile::TempDir;

const RETRY: Duration = Duration::from_nanos(10);

struct World {
    genesis: Genesis,
    data: TempDir,
    proofs: RefCell<Vec<Arc<Proof>>>,
    latest: RefCell<Option<Atx>>,
    synced: Cell<bool>,
    refuses: Cell<Option<&'static str>>,
    published: RefCell<Vec<Atx>>,
    events: RefCell<Vec<(&'static str, Value)>>,
    /// What is registered since the process was started.
    registered: RefCell<Vec<(PoetKey, RoundId)>>,
}

impl Surroundings for World {
    fn proof_of(&self, poet: &PoetKey, round: RoundId) -> Option<Arc<Proof>> {
        let proofs = self.proofs.borrow();
        let found = |proof: &&Arc<Proof>| proof.service == *poet && proof.round == round;
        proofs.iter().find(found).cloned()
    }

    fn own_latest(&self) -> Option<(AtxId, Atx)> {
        let latest = self.latest.borrow();
        latest.as_ref().map(|atx| (atx.id(), atx.clone()))
    }

    fn is_synced(&self) -> bool {
        self.synced.get()
    }

    fn registered(&self, poet: &PoetKey, round: RoundId, challenge: [u8; 32]) {
        let mine = key(0).verifying_key().to_bytes();
        assert_eq!(challenge, atx::challenge(self.genesis.netid, &mine, round));
        self.registered.borrow_mut().push((*poet, round));
    }

    fn publish(&self, atx: &Atx) -> Result<(), &'static str> {
        if let Some(reason) = self.refuses.get() {
            return Err(reason);
        }
        *self.latest.borrow_mut() = Some(atx.clone());
        self.published.borrow_mut().push(atx.clone());
        Ok(())
    }

    fn emit(&self, event: &'static str, fields: Value) {
        self.events.borrow_mut().push((event, fields));
    }

    fn say(&self, _text: &str) {}
}

impl World {
    fn new() -> Self {
        Self {
            genesis: sample(2),
            data: tempfile::tempdir().unwrap(),
            proofs: RefCell::default(),
            latest: RefCell::default(),
            synced: Cell::new(true),
            refuses: Cell::default(),
            published: RefCell::default(),
            events: RefCell::default(),
            registered: RefCell::default(),
        }
    }

    fn open(&self) -> Activator {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Activator, OpenError> {
        let poets = ["p".to_owned()];
        Activator::open(self.data.path(), &key(0), self.genesis.netid, poets, RETRY)
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.data.path().join(DIRECTORY).join(name)
    }

    /// The proof of a round, held by the network.
    fn prove(&self, round: RoundId) -> Arc<Proof> {
        let proof = Arc::new(proof(&self.genesis, 77, round));
        self.proofs.borrow_mut().push(Arc::clone(&proof));
        proof
    }

    fn said(&self, event: &str) -> Vec<Value> {
        let events = self.events.borrow();
        let fields = events.iter().filter(|(name, _)| *name == event);
        fields.map(|(_, fields)| fields.clone()).collect()
    }

    fn assert_published(&self, epochs: &[u32]) {
        let published = self.published.borrow();
        let seen: Vec<u32> = published.iter().map(|atx| atx.epoch).collect();
        assert_eq!(seen, epochs, "{:?}", self.events.borrow());
        for atx in published.iter() {
            assert_eq!(atx.verify_alone(&self.genesis), Ok(()));
            let proof = self.proof_of(&atx.poet, atx.round).unwrap();
            assert_eq!(atx.verify_with(&proof, &self.genesis), Ok(()));
        }
    }
}

/// A time in an epoch; the round after the next is open.
fn during(epoch: u32) -> Moment {
    Moment {
        unix_ns: u64::from(epoch) * 100,
        epoch: Some(epoch),
        open: epoch + 2,
    }
}

fn register(activator: &mut Activator, poet: &Proof) {
    let answer = Asked {
        key: Some(poet.service),
        result: Ok(()),
    };
    activator.asked("p".to_owned(), poet.round, &answer);
}

/// Steps through the rounds as they open, and registers with all of them.
fn registered(world: &World, activator: &mut Activator, rounds: std::ops::Range<u32>) {
    let service = SigningKey::from_bytes(&[77; 32]);
    for round in rounds {
        let moment = Moment {
            unix_ns: u64::from(round) * 100,
            epoch: None,
            open: round,
        };
        let asking = activator.step(moment, world);
        let expected = Asking {
            poet: "p".to_owned(),
            round,
            challenge: atx::challenge(116, &key(0).verifying_key().to_bytes(), round),
        };
        assert_eq!(asking, [expected]);
        let answer = Asked {
            key: Some(service.verifying_key().to_bytes()),
            result: Ok(()),
        };
        activator.asked("p".to_owned(), round, &answer);
    }
}

#[test]
fn activations_follow_each_other() {
    let world = World::new();
    let mut activator = world.open();
    registered(&world, &mut activator, 2..5);
    for epoch in 2..5 {
        activator.step(during(epoch), &world);
        world.prove(epoch);
        activator.step(during(epoch), &world);
        activator.step(during(epoch), &world);
    }
    world.assert_published(&[2, 3, 4]);
    let published = world.published.borrow();
    assert_eq!(published[0].previous, None);
    assert_eq!(published[1].previous, Some(published[0].id()));
    assert_eq!(published[2].sequence, 2);
    assert_eq!(world.said("challenge-registered").len(), 3);
    let said = &world.said("atx-published")[1];
    assert_eq!((&said["epoch"], &said["target"]), (&json!(3), &json!(4)));
    assert_eq!(said["atx"], hex::encode(published[1].id().0));
    assert!(world.said("activation-failed").is_empty());
}

#[test]
fn a_restart_publishes_the_same_again_and_nothing_else() {
    let world = World::new();
    let mut activator = world.open();
    registered(&world, &mut activator, 2..4);
    world.prove(2);
    activator.step(during(2), &world);
    world.prove(3);
    for _ in 0..2 {
        activator = world.open();
        world.registered.borrow_mut().clear();
        // The network has forgotten; the proof is there again, and only the old bytes go out.
        *world.latest.borrow_mut() = None;
        activator.step(during(2), &world);
        let registered: Vec<RoundId> = world.registered.borrow().iter().map(|one| one.1).collect();
        assert_eq!(registered, [2, 3], "told again, and not said again");
    }
    activator.step(during(3), &world);
    world.assert_published(&[2, 2, 2, 3]);
    assert_eq!(world.said("challenge-registered").len(), 2);
    let published = world.published.borrow();
    assert_eq!(published[0], published[2]);
    assert_eq!(published[3].previous, Some(published[0].id()));
}

#[test]
fn damaged_labels_are_noticed_before_anything_is_published() {
    let world = World::new();
    let mut activator = world.open();
    registered(&world, &mut activator, 2..4);
    let path = world.file("labels.bin");
    let good = fs_err::read(&path).unwrap();
    let mut bad = good.clone();
    bad[1_000] ^= 4;
    fs_err::write(&path, bad).unwrap();
    world.prove(2);
    for _ in 0..3 {
        activator.step(during(2), &world);
    }
    world.assert_published(&[]);
    let said = world.said("activation-failed");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0]["error"].as_str().unwrap().contains("labels.bin"));
    activator.step(during(3), &world);
    assert_eq!(
        world.said("challenge-dropped"),
        [json!({ "epoch": 2, "reason": "not-made" })]
    );
    // A restart makes no new labels: they were the miner's space.
    let mut activator = world.open();
    world.prove(3);
    activator.step(during(3), &world);
    world.assert_published(&[]);
    fs_err::write(&path, good).unwrap();
    activator.step(during(3), &world);
    world.assert_published(&[3]);
}

#[test]
fn what_cannot_be_written_is_not_published_until_it_can() {
    let world = World::new();
    let mut activator = world.open();
    registered(&world, &mut activator, 2..3);
    world.prove(2);
    // A directory where the new state is written aside.
    fs_err::create_dir(world.file("state.new")).unwrap();
    activator.step(during(2), &world);
    activator.step(during(2), &world);
    world.assert_published(&[]);
    assert_eq!(world.said("activation-failed").len(), 1);
    fs_err::remove_dir(world.file("state.new")).unwrap();
    activator.step(during(2), &world);
    world.assert_published(&[2]);
}

#[test]
fn what_is_refused_is_published_once_it_is_not() {
    let world = World::new();
    let mut activator = world.open();
    registered(&world, &mut activator, 2..3);
    world.prove(2);
    world.refuses.set(Some("the disk is full"));
    for _ in 0..3 {
        activator.step(during(2), &world);
    }
    world.assert_published(&[]);
    assert!(world.said("atx-published").is_empty());
    assert_eq!(world.said("activation-failed").len(), 1);
    world.refuses.set(None);
    activator.step(during(2), &world);
    activator.step(during(2), &world);
    world.assert_published(&[2]);
}

#[test]
fn a_miner_without_a_past_waits_for_what_the_network_knows_of_it() {
    let world = World::new();
    let mut first = world.open();
    registered(&world, &mut first, 2..3);
    world.prove(2);
    first.step(during(2), &world);
    world.assert_published(&[2]);

    // The disk is lost, and with it the knowledge that there is an activation.
    fs_err::remove_dir_all(world.file("")).unwrap();
    let known = world.latest.take();
    world.synced.set(false);
    let mut second = world.open();
    registered(&world, &mut second, 2..3);
    second.step(during(2), &world);
    world.assert_published(&[2]);
    world.synced.set(true);
    *world.latest.borrow_mut() = known;
    second.step(during(2), &world);
    world.assert_published(&[2, 2]);
    let published = world.published.borrow();
    assert_eq!(published[0], published[1], "the old one, not a second");
}

#[test]
fn a_proof_of_others_is_no_activation() {
    let world = World::new();
    let mut activator = world.open();
    let mut others = sample(2);
    others.miners.remove(&key(0).verifying_key().to_bytes());
    let without = Arc::new(proof(&others, 77, 2));
    world.proofs.borrow_mut().push(Arc::clone(&without));
    let early = Moment {
        open: 2,
        ..during(1)
    };
    activator.step(early, &world);
    register(&mut activator, &without);
    activator.step(during(2), &world);
    activator.step(during(3), &world);
    world.assert_published(&[]);
    let reasons: Vec<_> = world.said("challenge-dropped");
    assert_eq!(reasons, [json!({ "epoch": 2, "reason": "not-a-member" })]);
}

#[test]
fn a_poet_that_refuses_is_reported_once_a_round() {
    let world = World::new();
    let mut activator = world.open();
    for time in 0..5 {
        let moment = Moment {
            unix_ns: 1_000 + time * 100,
            ..during(1)
        };
        let asking = activator.step(moment, &world);
        assert_eq!(asking.len(), 1, "{time}");
        let answer = Asked {
            key: None,
            result: Err(RegisterError::NotStarted),
        };
        activator.asked("p".to_owned(), 3, &answer);
    }
    activator.step(during(1), &world);
    assert_eq!(world.said("registration-failed").len(), 1);
}

#[test]
fn the_directory_of_another_miner_is_refused() {
    let world = World::new();
    world.open();
    let opened = Activator::open(world.data.path(), &key(1), 116, [], RETRY);
    let text = opened.unwrap_err().to_string();
    assert!(text.contains("belongs to the miner"), "{text}");
    fs_err::write(world.file("state.bin"), [1; 50]).unwrap();
    let text = world.try_open().unwrap_err().to_string();
    assert!(text.contains("checksum"), "{text}");
}
