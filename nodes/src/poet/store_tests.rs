//! States that survive a full disk or do not, by policy; rounds that go on after a kill; disk taken.

use super::*;
use crate::poet::members::Members;
use crate::poet::state::Execution;
use crate::poet::work::{Progress, Worker};

fn service(next_round: RoundId) -> ServiceState {
    ServiceState {
        next_round,
        secret: [8; 32],
    }
}

#[test]
fn states_are_read_back_under_both_policies() {
    for writes in [StateWrites::InPlace, StateWrites::Atomic] {
        let dir = tempfile::tempdir().unwrap();
        let datadir = dir.path().join("poet/data");
        assert_eq!(load_service(&datadir).unwrap(), None);
        for next_round in [300, 2] {
            save_service(&datadir, &service(next_round), writes).unwrap();
            assert_eq!(load_service(&datadir).unwrap(), Some(service(next_round)));
        }
        let names = fs::read_dir(&datadir).unwrap().count();
        assert_eq!(names, 1, "{writes:?} leaves nothing beside the state");
    }
}

/// The difference between 2020 and today, in one place.
#[test]
fn a_full_disk_empties_a_state_in_place_and_spares_an_atomic_one() {
    for (writes, left) in [
        (StateWrites::InPlace, None),
        (StateWrites::Atomic, Some(service(2))),
    ] {
        let dir = tempfile::tempdir().unwrap();
        save_service(dir.path(), &service(2), writes).unwrap();
        let full = save_with(dir.path(), writes, |_| {
            Err(io::ErrorKind::StorageFull.into())
        });
        let error = full.unwrap_err();
        assert!(error.is_disk_full(), "{error:?}");
        assert!(error.to_string().contains("state.bin"), "{error}");
        match left {
            Some(state) => assert_eq!(load_service(dir.path()).unwrap(), Some(state)),
            None => assert!(matches!(
                load_service(dir.path()),
                Err(StoreError::State {
                    source: StateError::Empty,
                    ..
                })
            )),
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{writes:?}");
    }
}

#[test]
fn the_kernels_own_full_disk_is_one() {
    let mut full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let error = full
        .write_all(b"x")
        .map_err(file("written", Path::new("/dev/full")))
        .unwrap_err();
    assert!(error.is_disk_full(), "{error:?}");
}

#[test]
fn rounds_are_found_by_name_and_removed_whole() {
    let dir = tempfile::tempdir().unwrap();
    assert!(rounds(&dir.path().join("none")).unwrap().is_empty());
    for name in ["10", "2", "007", "+3", "state.bin", "9999999999", "x"] {
        fs::create_dir(dir.path().join(name)).unwrap();
    }
    assert_eq!(rounds(dir.path()).unwrap(), [2, 10]);
    let round = RoundDir::new(dir.path(), 10, StateWrites::Atomic);
    round.challenges().unwrap().insert(&[1; 32]).unwrap();
    round.remove().unwrap();
    round.remove().unwrap();
    assert_eq!(rounds(dir.path()).unwrap(), [2]);
}

fn members() -> Members {
    Members::new((0..12).map(|member| [member; 32])).unwrap()
}

fn params() -> Params {
    Params::new(9, 1, 5).unwrap()
}

#[test]
fn a_killed_round_goes_on_from_its_last_checkpoint() {
    let statement = members().statement();
    let dir = tempfile::tempdir().unwrap();
    let reference = RoundDir::new(dir.path(), 0, StateWrites::Atomic);
    reference.create().unwrap();
    let start = Checkpoint::start();
    let files = reference.layers(params(), 0, &start).unwrap();
    let mut whole = Worker::new(statement, params(), &start, files).unwrap();
    let done = whole.run(u64::MAX).unwrap();

    for (round, stop) in (1..).zip([0, 1, 127, 128, 200, 511, 512]) {
        let round = RoundDir::new(dir.path(), round, StateWrites::Atomic);
        round.create().unwrap();
        let files = round.layers(params(), 0, &start).unwrap();
        let mut worker = Worker::new(statement, params(), &start, files).unwrap();
        worker.run(stop).unwrap();
        let checkpoint = worker.checkpoint().unwrap();
        // What comes after the checkpoint is on disk in part when the process dies.
        worker.run(300).unwrap();
        drop(worker);
        let files = round.layers(params(), 0, &checkpoint).unwrap();
        let mut second = Worker::new(statement, params(), &checkpoint, files).unwrap();
        assert_eq!(second.run(u64::MAX).unwrap(), done, "{stop}");
        for layer in 0..9 {
            let read = |round: &RoundDir| fs::read(layer_path(round.path(), layer)).unwrap();
            assert_eq!(read(&round), read(&reference), "{stop}, layer {layer}");
        }
    }
}

#[test]
fn a_layer_that_lost_or_changed_nodes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let round = RoundDir::new(dir.path(), 1, StateWrites::Atomic);
    round.create().unwrap();
    let start = Checkpoint::start();
    let files = round.layers(params(), 0, &start).unwrap();
    let mut worker = Worker::new(members().statement(), params(), &start, files).unwrap();
    worker.run(201).unwrap();
    let checkpoint = worker.checkpoint().unwrap();
    drop(worker);
    assert!(round.layers(params(), 0, &checkpoint).is_ok());
    for layer in 0..8 {
        let path = layer_path(round.path(), layer);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        match round.layers(params(), 0, &checkpoint) {
            Err(StoreError::LayerShort {
                layer: short,
                have,
                need,
                ..
            }) => {
                assert_eq!((short, have + 1, need), (layer, need, whole.len() as u64));
            }
            other => panic!("layer {layer}: {other:?}"),
        }
        let mut damaged = whole.clone();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&path, damaged).unwrap();
        let parked = (201 >> layer) & 1 == 1;
        let refused = matches!(
            round.layers(params(), 0, &checkpoint),
            Err(StoreError::LayerDamaged { .. })
        );
        assert_eq!(
            refused, parked,
            "only a parked node can be compared: layer {layer}"
        );
        fs::write(&path, &whole).unwrap();
    }
}

/// Bytes that the files of a round take on disk, in whole blocks, as the file system counts.
fn blocks(round: &RoundDir) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let files = fs::read_dir(round.path()).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().blocks() * 512)
        .sum()
}

/// A whole round as the role keeps it, measured.
fn allocated(params: Params, memory: u32, count: u32) -> [u64; 2] {
    let dir = tempfile::tempdir().unwrap();
    let round = RoundDir::new(dir.path(), 1, StateWrites::Atomic);
    round.create().unwrap();
    let mut challenges = round.challenges().unwrap();
    for member in 0..count {
        let mut challenge = [0; 32];
        challenge[..4].copy_from_slice(&member.wrapping_mul(0x9e37_79b1).to_be_bytes());
        challenges.insert(&challenge).unwrap();
    }
    let members = challenges.members().unwrap();
    round
        .save(&RoundState {
            opened_ms: 1,
            execution: None,
        })
        .unwrap();
    let open = blocks(&round);
    drop(challenges);
    let start = Checkpoint::start();
    let files = round.layers(params, memory, &start).unwrap();
    let mut worker = Worker::new(members.statement(), params, &start, files).unwrap();
    let Progress::Done { root } = worker.run(u64::MAX).unwrap() else {
        panic!("not done");
    };
    let execution = Execution {
        started_ms: 2,
        params,
        members,
        checkpoint: worker.checkpoint().unwrap(),
        root: Some(root),
    };
    let state = RoundState {
        opened_ms: 1,
        execution: Some(execution),
    };
    round.save(&state).unwrap();
    assert_eq!(round.load().unwrap(), Some(state));
    [open, blocks(&round)]
}

#[test]
fn a_round_takes_what_is_said() {
    for (memory, layers_kib) in [(0, 532), (6, 508), (7, 504), (12, 256), (26, 256)] {
        let rest = round_bytes(Params::DEFAULT, memory, 12) - layers_kib * 1024;
        assert_eq!(
            rest,
            15 * 4096,
            "memory {memory}: a block of state and 14 of database"
        );
    }
    assert_eq!(round_bytes(Params::DEFAULT, 0, 12), 592 * 1024);
}

#[test]
#[ignore = "a measurement that depends on the file system: run it with --ignored --nocapture"]
fn measure() {
    let configurations = [
        (0, 0),
        (0, 1),
        (0, 12),
        (0, 100),
        (0, 300),
        (0, 1000),
        (7, 12),
    ];
    for (memory, members) in configurations {
        let [open, done] = allocated(Params::DEFAULT, memory, members);
        let said = round_bytes(Params::DEFAULT, memory, members as usize);
        println!("memory {memory}, {members} members: open {open}, done {done}, said {said}");
        assert!(done <= said, "{done} of {said}");
    }
}

#[test]
fn the_role_declares_what_a_round_takes() {
    let kib = round_bytes(Params::DEFAULT, 0, 12) / 1024;
    let said = format!("round-bytes: {kib}KiB");
    assert!(crate::ROLES.contains(&said), "{said} is not in roles.yaml");
}
