//! A recorded run judged again: the same verdict from the same history, and none that is better from less.
//!
//! [`gives_the_live_verdict`] is held for every run that any test makes, the other two for every plan of the tree.

use std::fs;
use std::path::Path;

use tweedledum_core::history::read::{self, Line, ReadError};
use tweedledum_core::history::{Body, FORMAT};
use tweedledum_core::judge::Judge;
use tweedledum_core::verdict::Outcome;

use crate::plans::as_declared;
use crate::support::{Bench, Run, Said, call, plan};

/// Holds that `judge` gives the live verdict and exit code again, of each release and of all together.
#[track_caller]
pub(crate) fn gives_the_live_verdict(run: &Run) {
    let live = String::from_utf8(run.bytes("verdict.json")).unwrap();
    same(&judge(&run.directory), &live, run.said.code, run);
    for release in run.releases() {
        let name = release.file_name().unwrap().to_str().unwrap();
        let live = String::from_utf8(run.bytes(&format!("{name}/verdict.json"))).unwrap();
        same(
            &judge(&release),
            &live,
            i32::from(run.verdict(name).exit_code().code()),
            run,
        );
    }
}

#[track_caller]
fn same(again: &Said, live: &str, code: i32, run: &Run) {
    assert!(
        again.code == code,
        "judged again: exit code {} instead of {code}\n{again}\n{run}",
        again.code
    );
    let line = again
        .stdout
        .lines()
        .zip(live.lines())
        .position(|(again, live)| again != live);
    assert!(
        again.stdout == live,
        "judged again it is another verdict, first in line {line:?}\n{again}\n{run}"
    );
}

pub(crate) fn judge(directory: &Path) -> Said {
    call(&["judge", directory.to_str().unwrap(), "--format", "json"])
}

/// Holds that a history that is cut after any record but the last, or in the middle of any, is never a pass.
#[track_caller]
pub(crate) fn no_cut_history_passes(run: &Run) {
    for release in run.releases() {
        let text = fs::read(release.join("history.jsonl")).unwrap();
        let lines: Vec<Result<Line, ReadError>> = read::lines(&text).collect();
        assert!(
            lines.len() > 100,
            "{} has only {} records\n{run}",
            release.display(),
            lines.len()
        );
        let Some(Ok(Line::Record(first))) = lines.first() else {
            panic!("{} does not begin with a record\n{run}", release.display());
        };
        let Body::Header(header) = &first.body else {
            panic!("{} does not begin with a header\n{run}", release.display());
        };
        let mut judge = Judge::new(header).unwrap();
        judge.observe(first);
        for (count, line) in lines.iter().enumerate().skip(1) {
            let mut torn = judge.clone();
            torn.unreadable(&ReadError::Truncated {
                line: count as u64 + 1,
            });
            for verdict in [judge.clone().finish(), torn.finish()] {
                let passes = verdict.verdict == Outcome::Pass || verdict.exit_code().code() == 0;
                assert!(
                    !passes,
                    "{}: cut after {count} records it passes\n{run}",
                    release.display()
                );
            }
            judge.read(line.as_ref());
        }
        let whole = judge.finish();
        assert!(
            whole.verdict != Outcome::Inconclusive,
            "{}: the whole history says nothing\n{run}",
            release.display()
        );
    }
}

/// Holds that a run of several controls is the same run wherever it is copied and in whatever order its files are made,
/// and that a part of it does not stand for the whole.
#[track_caller]
pub(crate) fn a_copy_is_the_same_run(run: &Run) {
    let copy = tempfile::tempdir_in(run.directory.parent().unwrap()).unwrap();
    let copied = |file: &Path| {
        let to = copy.path().join(file.strip_prefix(&run.directory).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    };
    copied(&run.directory.join("plan.yaml"));
    let ran = run.comparison().controls;
    for control in ran.iter().rev() {
        copied(
            &run.directory
                .join(&control.control.release)
                .join("history.jsonl"),
        );
    }
    let live = String::from_utf8(run.bytes("verdict.json")).unwrap();
    same(&judge(copy.path()), &live, run.said.code, run);

    let last = &ran.last().unwrap().control.release;
    fs::remove_dir_all(copy.path().join(last)).unwrap();
    let part = judge(copy.path())
        .gave(3)
        .tells(&["not run", last, "there is no history of it"]);
    assert!(part.stdout.contains("\"not_run\": ["), "{part}");
    // With another plan, or without one, nobody knows what is missing.
    let other = [&run.bytes("plan.yaml")[..], b"# another"].concat();
    fs::write(copy.path().join("plan.yaml"), other).unwrap();
    judge(copy.path())
        .gave(3)
        .tells(&["not run", "plan.yaml is not the plan"]);
    fs::remove_file(copy.path().join("plan.yaml")).unwrap();
    judge(copy.path())
        .gave(3)
        .tells(&["plan.yaml cannot be read"]);
}

/// What can happen to the file of a history, and what is then said.
struct Harm {
    what: &'static str,
    to: fn(&str) -> Option<Vec<u8>>,
    code: i32,
    says: &'static [&'static str],
}

/// A line's end somewhere in the middle.
fn middle(text: &str) -> usize {
    let half = text.len() / 2;
    half + text[half..].find('\n').unwrap() + 1
}

const HARMS: &[Harm] = &[
    Harm {
        what: "its last record is missing",
        to: |text| {
            Some(
                text.trim_end()
                    .rsplit_once('\n')?
                    .0
                    .as_bytes()
                    .iter()
                    .copied()
                    .chain([b'\n'])
                    .collect(),
            )
        },
        code: 3,
        says: &["history-unfinished", "the history has no end"],
    },
    Harm {
        what: "half of it is missing",
        to: |text| Some(text[..middle(text)].into()),
        code: 3,
        says: &["history-unfinished"],
    },
    Harm {
        what: "it ends in the middle of a record",
        to: |text| Some(text[..middle(text) - 7].into()),
        code: 3,
        says: &["breaks off in the middle"],
    },
    Harm {
        what: "a record in the middle is missing",
        to: |text| {
            let (before, after) = text.split_at(middle(text));
            Some([before, after.split_once('\n')?.1].concat().into_bytes())
        },
        code: 3,
        says: &["history-gap"],
    },
    Harm {
        what: "a record in the middle is no record",
        to: |text| {
            let (before, after) = text.split_at(middle(text));
            Some(
                [before, "{\"seq\":", after.split_once('\n')?.1]
                    .concat()
                    .into_bytes(),
            )
        },
        code: 3,
        says: &["history-damaged", "is not a record"],
    },
    Harm {
        what: "a value in the middle is another",
        to: |text| {
            let (before, after) = text.split_at(middle(text));
            let other = after.replacen("\"steal_ppm\":", "\"steal_ppm\":1", 1);
            Some([before, &other].concat().into_bytes())
        },
        code: 3,
        says: &[
            "history-damaged",
            "the file was changed after it was written",
        ],
    },
    Harm {
        what: "only its header is left",
        to: |text| Some([text.split_once('\n')?.0, "\n"].concat().into_bytes()),
        code: 3,
        says: &["history-unfinished"],
    },
    Harm {
        what: "it is of a foreign major version",
        to: |text| {
            let format = |version| format!("\"format\":\"{version}\"");
            Some(
                text.replacen(&format(FORMAT), &format("7.3"), 1)
                    .into_bytes(),
            )
        },
        code: 2,
        says: &["history.jsonl", "format 7.3", "reads 1.", "hint: "],
    },
    Harm {
        what: "its header is missing",
        to: |text| Some(text.split_once('\n')?.1.as_bytes().to_vec()),
        code: 2,
        says: &["history.jsonl", "does not begin with a header", "hint: "],
    },
    Harm {
        what: "it is garbage",
        to: |_| Some(b"\xff\x00\x1b[31mnot a history\n\n{}\n".to_vec()),
        code: 2,
        says: &["history.jsonl", "does not begin with a header"],
    },
    Harm {
        what: "it is empty",
        to: |_| Some(Vec::new()),
        code: 2,
        says: &["history.jsonl", "it is empty"],
    },
    Harm {
        what: "it is missing",
        to: |_| None,
        code: 2,
        says: &["holds no history.jsonl", "hint: "],
    },
];

#[test]
fn less_or_other_than_the_whole_history_never_passes() {
    let bench = Bench::new();
    let run = bench.decided(&plan("faults/kill"), &[]);
    as_declared(&run);
    let text = fs::read_to_string(run.directory.join("fixed/history.jsonl")).unwrap();
    for harm in HARMS {
        let parent = tempfile::tempdir_in(bench.path()).unwrap();
        let release = parent.path().join("fixed");
        fs::create_dir(&release).unwrap();
        if let Some(bytes) = (harm.to)(&text) {
            let harmed = bytes != text.as_bytes();
            assert!(harmed, "{}: nothing was done to it", harm.what);
            fs::write(release.join("history.jsonl"), bytes).unwrap();
        }
        for directory in [parent.path(), &release] {
            let said = judge(directory);
            assert!(
                said.code == harm.code,
                "{}: exit code {} expected\n{said}",
                harm.what,
                harm.code
            );
            for says in harm.says {
                assert!(
                    said.stderr.contains(says),
                    "{}: `{says}` is not said\n{said}",
                    harm.what
                );
            }
            assert!(
                !said.stderr.contains('\u{1b}'),
                "{}: control characters reach the terminal\n{said}",
                harm.what
            );
        }
    }
    // The same text, untouched, does pass in the same place: what fails above is the harm.
    let parent = tempfile::tempdir_in(bench.path()).unwrap();
    fs::create_dir(parent.path().join("fixed")).unwrap();
    fs::write(parent.path().join("fixed/history.jsonl"), &text).unwrap();
    let told = run.directory.join("plan.yaml");
    fs::copy(told, parent.path().join("plan.yaml")).unwrap();
    judge(parent.path()).gave(0);
    // Beside it one that does not say what it must give: whatever that is, it is not left out.
    fs::create_dir(parent.path().join("other")).unwrap();
    let (header, rest) = text.split_once('\n').unwrap();
    let mut header: serde_json::Value = serde_json::from_str(header).unwrap();
    header["control"] = serde_json::Value::Null;
    let other = format!("{header}\n{rest}");
    fs::write(parent.path().join("other/history.jsonl"), other).unwrap();
    judge(parent.path())
        .gave(3)
        .tells(&["not run", "its history names no control"]);
    judge(&parent.path().join("nowhere"))
        .gave(2)
        .tells(&["nowhere"]);
}
