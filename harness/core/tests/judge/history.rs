//! Damaged histories: never a pass, and never a panic.

use proptest::prelude::*;
use tweedledum_core::history::read::{self, ReadError};
use tweedledum_core::history::{Body, Ending, FORMAT, Record};
use tweedledum_core::judge::{Judge, judge_history};
use tweedledum_core::verdict::{Outcome, Verdict};

use crate::judged::*;
use crate::net::*;
use crate::planned::*;

fn format_of(version: &str) -> String {
    format!("\"format\":\"{version}\"")
}

fn good() -> Net {
    let faults = vec![flood("gateway-0", 10, 14), kill("miner-0", 9, Some(12))];
    let expect = vec![
        advance("tx", every_of("miner"), 3),
        recover(6),
        agree("root"),
    ];
    let mut net = Net::new(expect, faults);
    net.until(22).end();
    net
}

fn written(records: &[Record]) -> String {
    let lines = records
        .iter()
        .map(|record| serde_json::to_string(record).unwrap() + "\n");
    lines.collect()
}

fn read(text: &str) -> Result<Verdict, ReadError> {
    judge_history(read::lines(text.as_bytes()))
}

#[test]
fn what_is_written_is_judged_as_what_was_live() {
    let net = good();
    passes(&net);
    let later = read(&written(&net.records)).unwrap();
    let mut judge = Judge::new(&net.header).unwrap();
    net.records.iter().for_each(|record| judge.observe(record));
    assert_eq!(later, judge.finish());
    assert_eq!(later.verdict, Outcome::Pass);
}

#[test]
fn cut_at_any_record_it_is_no_pass() {
    let net = good();
    let mut judge = Judge::new(&net.header).unwrap();
    // One pass over all prefixes by judging each from the start would be quadratic; every seventh is enough, and all
    // of the last fifty, where a pass could come too early.
    let count = net.records.len();
    for end in (1..count).filter(|end| end % 7 == 0 || count - end < 50) {
        assert_ne!(
            judge_prefix(&net, end).verdict,
            Outcome::Pass,
            "cut at {end}"
        );
    }
    net.records.iter().for_each(|record| judge.observe(record));
    assert_eq!(judge.finish().verdict, Outcome::Pass);
}

fn judge_prefix(net: &Net, end: usize) -> Verdict {
    judge(&net.records[..end])
}

#[test]
fn with_any_record_missing_it_is_no_pass() {
    let net = good();
    for missing in 1..net.records.len() {
        if missing % 5 != 0 && net.records.len() - missing > 20 {
            continue;
        }
        let mut records = net.records.clone();
        records.remove(missing);
        let verdict = judge(&records);
        assert_ne!(verdict.verdict, Outcome::Pass, "without {missing}");
    }
}

#[test]
fn without_a_header_nothing_can_be_judged() {
    let net = good();
    let text = written(&net.records[1..]);
    assert!(matches!(read(&text), Err(ReadError::NoHeader { .. })));
    assert!(matches!(read(""), Err(ReadError::NoHeader { .. })));
    let future = written(&net.records).replacen(&format_of(FORMAT), &format_of("2.0"), 1);
    assert_eq!(
        read(&future),
        Err(ReadError::Format {
            found: "2.0".into()
        })
    );
}

#[test]
fn a_later_minor_version_is_read() {
    let net = good();
    let mut records = net.records.clone();
    let at = records.len() / 2;
    let text: String = {
        let before = written(&records[..at]);
        for record in &mut records[at..] {
            record.seq += 1;
            if let Body::End(end) = &mut record.body {
                end.count += 1;
            }
        }
        let unknown = format!("{{\"seq\":{at},\"t_ns\":5,\"kind\":\"weather\",\"rain\":true}}\n");
        before + &unknown + &written(&records[at..])
    };
    let text = text.replacen(&format_of(FORMAT), &format_of("1.7"), 1);
    assert_eq!(read(&text).unwrap().verdict, Outcome::Pass);
}

/// A crash whose kind lost a letter is no record of a later version, as long as the header names none.
#[test]
fn a_kind_that_nobody_wrote_is_damage() {
    let mut net = Net::new(vec![advance("tx", any_of("miner"), 3)], vec![]);
    net.until(10).panics("gateway-0", "mesh");
    net.until(20).end();
    let text = written(&net.records);
    assert_eq!(read(&text).unwrap().verdict, Outcome::Fail);
    let verdict = read(&text.replacen("\"kind\":\"exit\"", "\"kind\":\"exi\"", 1)).unwrap();
    assert!(codes(&verdict).contains("history-damaged"));
    assert_eq!(verdict.verdict, Outcome::Inconclusive);
}

/// Without its exit, or with the exit of somebody else, a crashed node is no healthy one, however well the rest fits.
#[test]
fn every_end_is_told_of_a_node_of_the_run() {
    let mut net = Net::new(vec![advance("tx", any_of("miner"), 3)], vec![]);
    net.until(19).panics("gateway-0", "mesh");
    net.until(20).end();
    let death = |record: &Record| matches!(&record.body, Body::Exit(exit) if exit.panic.is_some());
    let place = net.records.iter().position(death).unwrap();
    assert_eq!(judge(&net.records).verdict, Outcome::Fail);

    let mut renamed = net.records.clone();
    if let Body::Exit(exit) = &mut renamed[place].body {
        exit.node = "gateway-7".into();
    }
    assert!(codes(&judge(&renamed)).contains("history-damaged"));
    assert_ne!(judge(&renamed).verdict, Outcome::Pass);

    let mut removed = net.records.clone();
    removed.remove(place);
    for (seq, record) in (0..).zip(&mut removed) {
        record.seq = seq;
        if let Body::End(end) = &mut record.body {
            end.count = seq + 1;
        }
    }
    assert_eq!(codes(&judge(&removed)), ["history-gap"].into());
    assert_eq!(judge(&removed).verdict, Outcome::Inconclusive);
}

#[test]
fn damage_is_no_pass_and_facts_stay_facts() {
    let mut net = good();
    let text = written(&net.records);
    let lines: Vec<&str> = text.lines().collect();
    let garbage = |lines: &[&str], place: usize| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        lines[place] = "\u{0}\u{0}garbage".to_owned();
        lines.join("\n") + "\n"
    };
    let verdict = read(&garbage(&lines, 40)).unwrap();
    assert!(codes(&verdict).contains("history-damaged"));
    assert_eq!(verdict.verdict, Outcome::Inconclusive);

    let truncated = &text[..text.len() - 3];
    let verdict = read(truncated).unwrap();
    assert!(codes(&verdict).contains("history-unfinished"));
    assert_eq!(verdict.verdict, Outcome::Inconclusive);

    let twice = text.clone() + lines[lines.len() - 1] + "\n";
    assert_eq!(read(&twice).unwrap().verdict, Outcome::Inconclusive);

    net = Net::new(vec![advance("tx", any_of("miner"), 3)], vec![]);
    net.until(10).panics("gateway-0", "mesh");
    net.until(20).end();
    let text = written(&net.records);
    let lines: Vec<&str> = text.lines().collect();
    let verdict = read(&garbage(&lines, lines.len() - 5)).unwrap();
    assert_eq!(verdict.verdict, Outcome::Fail);
}

/// As the controller writes it: the end tells the digest of what is before it.
fn sealed(records: &[Record]) -> String {
    let (end, before) = records.split_last().unwrap();
    let before = written(before);
    let mut end = end.clone();
    if let Body::End(end) = &mut end.body {
        let mut seen = read::Running::default();
        seen.take(before.as_bytes());
        end.digest = Some(seen.extent().sha256);
    }
    before + &written(&[end])
}

#[test]
fn what_was_edited_afterwards_is_damage_wherever_it_was() {
    let net = good();
    let text = sealed(&net.records);
    assert_eq!(read(&text).unwrap().verdict, Outcome::Pass);
    // The values mean nothing to any oracle, and each line is a sound record still.
    for (from, to) in [
        ("\"rtt_us\":80", "\"rtt_us\":81"),
        ("\"steal_ppm\":", "\"steal_ppm\":1"),
        ("\"boot\":\"", "\"boot\":\"x"),
        ("{\"seq\":0,", "{ \"seq\":0,"),
    ] {
        assert!(text.contains(from), "{from}");
        let verdict = read(&text.replacen(from, to, 1)).unwrap();
        assert_eq!(codes(&verdict), ["history-damaged"].into(), "{from}");
        assert_eq!(verdict.verdict, Outcome::Inconclusive, "{from}");
    }
    // Older writers did not say, and are believed.
    assert_eq!(read(&written(&net.records)).unwrap().verdict, Outcome::Pass);
}

#[test]
fn what_its_writer_disowned_is_not_believed() {
    let text = sealed(&good().records);
    let (written, found) = (read::Running::default(), read::Running::default());
    let line = read::rewritten(written.extent(), found.extent());
    let line = serde_json::to_string(&line).unwrap();
    let verdict = read(&format!("{text}{line}\n")).unwrap();
    assert_eq!(codes(&verdict), ["history-damaged"].into());
    assert_eq!(verdict.verdict, Outcome::Inconclusive);
    // Nor when it accuses somebody.
    let mut net = Net::new(
        vec![advance("tx", every_of("miner"), 3), recover(6)],
        vec![flood("gateway-0", 10, 16)],
    );
    net.until(12).panics("gateway-0", "session-table");
    net.until(20).stop(Ending::Early);
    let text = sealed(&net.records);
    assert_eq!(read(&text).unwrap().verdict, Outcome::Fail);
    let verdict = read(&format!("{text}{line}\n")).unwrap();
    assert_eq!(verdict.verdict, Outcome::Inconclusive);
}

#[test]
fn an_edited_header_is_no_panic() {
    let net = good();
    let text = written(&net.records);
    for (from, to) in [
        ("\"layer_ns\":1000000000", "\"layer_ns\":0"),
        ("\"layers_per_epoch\":4", "\"layers_per_epoch\":0"),
        (
            "\"genesis_ns\":10000000000",
            "\"genesis_ns\":18446744073709551615",
        ),
        (
            "\"layer_ns\":1000000000",
            "\"layer_ns\":18446744073709551615",
        ),
        ("{\"within\":{\"span\":", "{\"without\":{\"span\":"),
        (
            "\"within\":{\"span\":3000000}",
            "\"within\":{\"span\":-9223372036854775808}",
        ),
        ("\"within\":{\"span\":3000000}", "\"within\":{\"count\":3}"),
        ("\"kind\":\"advance\"", "\"kind\":\"vanish\""),
        ("\"nodes\":[{", "\"nodes\":[],\"nodez\":[{"),
    ] {
        if !text.contains(from) {
            continue;
        }
        let verdict = read(&text.replace(from, to));
        let outcome = verdict.map(|verdict| verdict.verdict);
        assert_ne!(outcome, Ok(Outcome::Pass), "{from} -> {to}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any bytes in place of a line, any line twice or out of place: judged or refused, never a panic, never a pass.
    #[test]
    fn mangled_histories_never_pass(
        place in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
        how in 0..4_u8,
        byte in any::<u8>(),
        noise in ".{0,40}",
    ) {
        let net = good();
        let text = written(&net.records);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let at = place.index(lines.len());
        let to = other.index(lines.len());
        match how {
            0 => lines[at] = noise.replace('\n', " ") + "x",
            1 => lines.insert(to, lines[at].clone()),
            2 if at != to => lines.swap(at, to),
            2 => lines.truncate(at),
            _ => {
                let line = &mut lines[at];
                let cut = (usize::from(byte) % line.len().max(1)).min(line.len());
                if line.is_char_boundary(cut) {
                    line.truncate(cut);
                }
            }
        }
        let text = lines.join("\n") + "\n";
        if let Ok(verdict) = read(&text) {
            prop_assert_ne!(verdict.verdict, Outcome::Pass);
        }
    }

    #[test]
    fn numbers_gone_wild_do_not_panic(
        place in any::<prop::sample::Index>(),
        t_ns in prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
        layer in prop_oneof![Just(i64::MIN), Just(i64::MAX), any::<i64>()],
        late_us in prop_oneof![Just(u64::MAX), 0..1_000_000_u64],
    ) {
        let mut net = good();
        let at = 1 + place.index(net.records.len() - 1);
        for record in &mut net.records[at..] {
            record.t_ns = t_ns;
            if let Body::Layer(it) = &mut record.body {
                it.layer = layer;
                it.late_us = late_us;
            }
        }
        let _ = net.verdict();
    }
}
