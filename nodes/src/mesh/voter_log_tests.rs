//! What crashes, damage and roll-backs do to a voter's log.

use super::*;
use crate::protocol::agreement::{BlockId, BlockSet, Body, Message, Signed, Voter};
use proptest::prelude::*;

fn begin() -> Record {
    Record::Begin {
        abstain_through: None,
    }
}

fn sent(layer: u32) -> Record {
    let message = Message {
        layer,
        round: 1,
        epoch: layer / 4,
        body: Body::Vote(BlockSet::new([BlockId([u8::try_from(layer).unwrap(); 32])])),
    };
    let signed = |voter| Signed {
        voter,
        message: message.clone(),
        signature: [9; 64],
    };
    Record::Sent {
        own: signed(Voter(1)),
        heard: vec![signed(Voter(2))],
    }
}

/// A log with these syncs, and the length after each.
fn write(dir: &Path, syncs: &[Vec<Record>]) -> Vec<u64> {
    let mut log = VoterLog::open(dir, Mark::default()).unwrap().log;
    let mut ends = vec![log.len];
    for records in syncs {
        log.append(records).unwrap();
        ends.push(log.len);
    }
    ends
}

fn syncs() -> Vec<Vec<Record>> {
    vec![vec![begin()], vec![sent(3)], vec![sent(4), sent(5)]]
}

#[test]
fn every_cut_gives_the_frames_before_it_and_the_log_goes_on_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let ends = write(dir.path(), &syncs());
    let whole = fs::read(dir.path().join(NAME)).unwrap();
    assert_eq!(whole.len() as u64, *ends.last().unwrap());
    for cut in HEADER_LEN..=whole.len() {
        fs::write(dir.path().join(NAME), &whole[..cut]).unwrap();
        let opened = VoterLog::open(dir.path(), Mark::default()).unwrap();
        let frames = ends.iter().filter(|end| **end <= cut as u64).count() - 1;
        let expected: Vec<Record> = syncs()[..frames].concat();
        assert_eq!(opened.records, expected, "cut at {cut}");
        assert_eq!(opened.cut, cut as u64 - ends[frames]);
        assert!(opened.lost.is_none());
        let mut log = opened.log;
        log.append(&[sent(9)]).unwrap();
        let again = VoterLog::open(dir.path(), log.mark()).unwrap();
        assert_eq!(again.records, [expected, vec![sent(9)]].concat());
    }
}

#[test]
fn a_flipped_bit_anywhere_in_what_was_synced_makes_the_log_count_as_lost_and_it_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &syncs());
    let whole = fs::read(dir.path().join(NAME)).unwrap();
    // One bit of each byte: every opening takes syncs.
    for bit in (0..whole.len()).map(|byte| byte * 8 + byte % 8) {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        fs::write(dir.path().join(NAME), &damaged).unwrap();
        let opened = VoterLog::open(dir.path(), Mark::default()).unwrap();
        let (damage, aside) = opened
            .lost
            .unwrap_or_else(|| panic!("bit {bit} was not noticed"));
        assert!(opened.records.is_empty(), "bit {bit}: {damage}");
        assert_eq!(fs::read(&aside).unwrap(), damaged);
        fs::remove_file(aside).unwrap();
    }
}

#[test]
fn a_log_that_is_behind_what_the_database_remembers_was_rolled_back() {
    let dir = tempfile::tempdir().unwrap();
    let ends = write(dir.path(), &syncs());
    let whole = fs::read(dir.path().join(NAME)).unwrap();
    let mark = Mark {
        generation: 1,
        len: ends[2],
    };
    for (cut, lost) in [
        (ends[2], false),
        (ends[3] - 1, false),
        (ends[2] - 1, true),
        (8, true),
        (0, true),
    ] {
        fs::write(
            dir.path().join(NAME),
            &whole[..usize::try_from(cut).unwrap()],
        )
        .unwrap();
        let opened = VoterLog::open(dir.path(), mark).unwrap();
        assert_eq!(opened.lost.is_some(), lost, "cut at {cut}");
        assert_eq!(opened.log.generation, if lost { 2 } else { 1 });
    }
    let earlier = Mark {
        generation: 9,
        len: 0,
    };
    fs::write(dir.path().join(NAME), &whole).unwrap();
    let opened = VoterLog::open(dir.path(), earlier).unwrap();
    assert!(matches!(opened.lost, Some((Damage::RolledBack { .. }, _))));
}

/// Runs in a process of its own, since all tests of one share their descriptors.
#[test]
#[ignore = "run by the test below, with few descriptors"]
fn a_rewrite_with_one_descriptor() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use std::os::fd::AsRawFd as _;
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &syncs());
    let mut log = VoterLog::open(dir.path(), Mark::default()).unwrap().log;
    let next = fs::File::open("/dev/null").unwrap().file().as_raw_fd();
    let usual = getrlimit(Resource::Nofile);
    let few = |more: u64| Rlimit {
        current: Some(u64::try_from(next).unwrap() + more),
        ..usual
    };
    // One at a time is enough for all but the directory beside the new file.
    setrlimit(Resource::Nofile, few(1)).unwrap();
    log.rewrite(&[3].into_iter().collect()).unwrap_err();
    let appended = log.append(&[sent(9)]);
    setrlimit(Resource::Nofile, usual).unwrap();
    let found = VoterLog::open(dir.path(), log.mark()).unwrap().records;
    // What was said to be on disk is found, or it was refused.
    let expected = [&syncs().concat()[..], &[sent(9)]].concat();
    assert!(appended.is_err() || found == expected, "{found:?}");
    // Nothing was replaced, so it goes on, and can be rewritten when there is room again.
    appended.unwrap();
    log.rewrite(&[3].into_iter().collect()).unwrap();
    log.append(&[sent(10)]).unwrap();
    let found = VoterLog::open(dir.path(), log.mark()).unwrap().records;
    assert_eq!(found, [begin(), sent(4), sent(5), sent(9), sent(10)]);
}

#[test]
fn a_rewrite_that_cannot_open_its_directory_costs_nothing_that_was_said() {
    #[expect(
        clippy::disallowed_methods,
        reason = "a process of its own for a limit that holds for whole processes"
    )]
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let name = "mesh::voter_log::tests::a_rewrite_with_one_descriptor";
    let child = child.args(["--exact", name, "--ignored", "--nocapture"]);
    let ended = child.output().unwrap();
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && told.contains("1 passed"),
        "{ended:?}"
    );
}

/// The directory is gone from its path: nothing can be put in the log's place there, and the file that was at it still is.
#[test]
fn a_rewrite_in_a_directory_that_was_moved_away_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    fs::create_dir(&here).unwrap();
    write(&here, &syncs());
    let mut log = VoterLog::open(&here, Mark::default()).unwrap().log;
    fs::rename(&here, &there).unwrap();
    log.rewrite(&[3].into_iter().collect()).unwrap_err();
    log.append(&[sent(9)]).unwrap();
    let found = VoterLog::open(&there, log.mark()).unwrap().records;
    assert_eq!(found, [&syncs().concat()[..], &[sent(9)]].concat());
}

#[test]
fn a_rewrite_keeps_the_first_record_and_what_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let opened = VoterLog::open(dir.path(), Mark::default()).unwrap();
    let mut log = opened.log;
    log.append(&[begin()]).unwrap();
    log.append(&[sent(3), sent(4), sent(5)]).unwrap();
    let before = log.mark();
    log.rewrite(&[3, 5].into_iter().collect()).unwrap();
    assert!(
        before < log.mark(),
        "a rewritten log is later, though shorter"
    );
    log.append(&[sent(6)]).unwrap();
    let again = VoterLog::open(dir.path(), log.mark()).unwrap();
    assert_eq!(again.records, [begin(), sent(4), sent(6)]);
}

#[test]
fn a_log_becomes_long_and_is_short_after_it_was_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = VoterLog::open(dir.path(), Mark::default()).unwrap().log;
    log.append(&[begin()]).unwrap();
    let many: Vec<Record> = (0..250).map(sent).collect();
    while !log.is_long() {
        log.append(&many).unwrap();
    }
    assert!(log.len >= REWRITE_FROM);
    log.rewrite(&(0..250).collect()).unwrap();
    assert!(!log.is_long() && log.len < 100);
}

#[test]
fn after_a_write_that_failed_the_next_one_cuts_its_rest_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = VoterLog::open(dir.path(), Mark::default()).unwrap().log;
    log.append(&[begin()]).unwrap();
    // As a disk that was full halfway leaves it.
    fs::write(
        dir.path().join(NAME),
        [fs::read(dir.path().join(NAME)).unwrap(), vec![7; 400]].concat(),
    )
    .unwrap();
    log.state = State::Torn;
    log.append(&[sent(3)]).unwrap();
    assert_eq!(
        VoterLog::open(dir.path(), log.mark()).unwrap().records,
        [begin(), sent(3)]
    );
    log.state = State::Broken;
    assert!(matches!(log.append(&[sent(4)]), Err(LogError::Broken)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_bytes_are_scanned_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = scan(&bytes, Mark::default());
        let framed = [&header(1)[..], &bytes].concat();
        let _ = scan(&framed, Mark::default());
        let _ = read_records(&bytes, &mut Vec::new());
    }
}
