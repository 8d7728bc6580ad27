//! What a test asks of a verdict.

use std::collections::BTreeSet;

use tweedledum_core::history::Record;
use tweedledum_core::history::read::Line;
use tweedledum_core::judge::judge_history;
use tweedledum_core::verdict::{Outcome, Verdict};

use crate::net::Net;

pub(crate) fn judge(records: &[Record]) -> Verdict {
    let lines = records
        .iter()
        .map(|record| Ok(Line::Record(Box::new(record.clone()))));
    judge_history(lines).unwrap()
}

/// `id node` of every finding, causes first.
pub(crate) fn found(verdict: &Verdict) -> Vec<String> {
    verdict
        .findings
        .iter()
        .map(|finding| format!("{} {}", finding.id, finding.of()))
        .collect()
}

pub(crate) fn codes(verdict: &Verdict) -> BTreeSet<&'static str> {
    verdict.reasons.iter().map(|it| it.code.name()).collect()
}

#[track_caller]
pub(crate) fn passes(net: &Net) {
    let verdict = net.verdict();
    assert_eq!(
        verdict.verdict,
        Outcome::Pass,
        "{:#?}\n{:#?}",
        verdict.findings,
        verdict.reasons
    );
}

/// The run fails with exactly these findings.
#[track_caller]
pub(crate) fn fails(net: &Net, findings: &[&str]) {
    let verdict = net.verdict();
    assert_eq!(found(&verdict), findings, "{:#?}", verdict.reasons);
    assert_eq!(verdict.verdict, Outcome::Fail);
}

/// Nothing is found, and the run is inconclusive for exactly these reasons.
#[track_caller]
pub(crate) fn unclear(net: &Net, reasons: &[&str]) {
    let verdict = net.verdict();
    assert_eq!(found(&verdict), Vec::<String>::new());
    let expected: BTreeSet<&str> = reasons.iter().copied().collect();
    assert_eq!(codes(&verdict), expected, "{:#?}", verdict.reasons);
    assert_eq!(verdict.verdict, Outcome::Inconclusive);
}
