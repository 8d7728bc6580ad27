//! A control against its verdict: did the release pass, or fail for exactly the stated reasons?
//!
//! A plan's controls are the plan's own test. Listed findings are all-of; one that is neither listed nor also allowed is
//! a wrong reason; listed ones must be linked by the cause table; inconclusive never counts as the demanded fail.

use serde::{Deserialize, Serialize};

use crate::causes::{CauseKind, TABLE, matches};
use crate::findings;
use crate::plan::model::{Control, FindingPattern};
use crate::verdict::{Cause, Code, ExitCode, Finding, Outcome, Verdict, exit_code};

/// What a control gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gave {
    /// What it must.
    Right,
    /// Something else: plan, release or harness is broken.
    Wrong,
    /// Not enough to tell.
    Undecided,
}

/// A control, compared with its verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlResult {
    /// The control.
    pub control: Control,
    /// What it gave.
    pub gave: Gave,
    /// Listed findings that were not found.
    pub missing: Vec<FindingPattern>,
    /// Places of findings that are neither listed nor also allowed.
    pub wrong_reasons: Vec<usize>,
    /// Places of listed findings that should follow from something and were not linked to it.
    pub unlinked: Vec<usize>,
    /// The verdict it is about.
    pub verdict: Verdict,
}

/// Several runs of one plan, side by side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// [`crate::verdict::SCHEMA`].
    pub schema: u32,
    /// The plan.
    pub plan: String,
    /// One per control, in the plan's order.
    pub controls: Vec<ControlResult>,
    /// Controls that there is nothing to compare of: with any of them, the others say nothing of the whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_run: Vec<NotRun>,
}

/// A control of the plan without a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotRun {
    /// Its release; `None` when nobody knows which ones there must be.
    pub release: Option<String>,
    /// What is known of it.
    pub why: String,
}

impl Comparison {
    /// Compares the controls of a plan.
    pub fn new(plan: impl Into<String>, controls: Vec<ControlResult>) -> Self {
        Self {
            schema: crate::verdict::SCHEMA,
            plan: plan.into(),
            controls,
            not_run: Vec::new(),
        }
    }

    /// The same, of a plan that has these controls besides.
    #[must_use]
    pub fn without(self, not_run: Vec<NotRun>) -> Self {
        Self { not_run, ..self }
    }

    /// The exit code of the whole: the one of its runs' that counts most, and no pass when one was not run.
    pub fn exit_code(&self) -> ExitCode {
        let ran = self.controls.iter().map(ControlResult::exit_code);
        let not_run = self.not_run.iter().map(|_| ExitCode::Inconclusive);
        exit_code(&ran.chain(not_run).collect::<Vec<_>>())
    }
}

impl ControlResult {
    /// The exit code of this control in its plan: not that of its verdict, since a must-fail control succeeds by failing.
    pub fn exit_code(&self) -> ExitCode {
        self.verdict.disturbed().unwrap_or(match self.gave {
            Gave::Right => ExitCode::Pass,
            Gave::Wrong => ExitCode::Fail,
            Gave::Undecided if self.verdict.reasons.iter().any(|it| it.code.is_error()) => {
                ExitCode::Substrate
            }
            Gave::Undecided => ExitCode::Inconclusive,
        })
    }
}

/// Whether a finding is what a pattern names.
pub fn is_meant(pattern: &FindingPattern, finding: &Finding) -> bool {
    pattern.id == finding.id
        && (pattern.role.is_none() || pattern.role == finding.role)
        && pattern
            .says
            .as_ref()
            .is_none_or(|says| contains(&finding.text, says))
}

/// Without regard to case: what a node says is mostly what its system or its library says, in any spelling.
pub fn contains(text: &str, says: &str) -> bool {
    text.to_lowercase().contains(&says.to_lowercase())
}

/// Compares a verdict with what its control demands.
pub fn compare(control: &Control, verdict: Verdict) -> ControlResult {
    let mut result = ControlResult {
        control: control.clone(),
        gave: Gave::Undecided,
        missing: Vec::new(),
        wrong_reasons: Vec::new(),
        unlinked: Vec::new(),
        verdict,
    };
    result.gave = if control.must_pass {
        match result.verdict.verdict {
            Outcome::Pass => Gave::Right,
            Outcome::Fail => Gave::Wrong,
            Outcome::Inconclusive | Outcome::Error => Gave::Undecided,
        }
    } else {
        must_fail(&mut result)
    };
    result
}

fn must_fail(result: &mut ControlResult) -> Gave {
    let (control, verdict) = (&result.control, &result.verdict);
    result.missing = control
        .findings
        .iter()
        .filter(|pattern| !verdict.findings.iter().any(|it| is_meant(pattern, it)))
        .cloned()
        .collect();
    for (place, finding) in verdict.findings.iter().enumerate() {
        if !control.patterns().any(|pattern| is_meant(pattern, finding)) {
            // What does not count as a failure is no reason for one, right or wrong.
            if finding.counts {
                result.wrong_reasons.push(place);
            }
        } else if control
            .findings
            .iter()
            .any(|pattern| is_meant(pattern, finding))
            && !linked(place, control, verdict)
        {
            result.unlinked.push(place);
        }
    }
    let facts =
        result.missing.is_empty() && result.wrong_reasons.is_empty() && result.unlinked.is_empty();
    // A failure counts as the demanded one only if the faults are known to have caused it and to be gone, and if the run was let
    // end, since wrong reasons may come last; other doubts (a void layer somewhere, an end cut short by what was found) take
    // nothing from facts that are all there.
    let unproved = verdict.reasons.iter().any(|reason| {
        reason.code.is_error()
            || matches!(
                reason.code,
                Code::FaultNotApplied
                    | Code::FaultNotFelt
                    | Code::FaultNotGone
                    | Code::SteadyStateNotReached
                    | Code::HistoryDamaged
                    | Code::HistoryGap
                    | Code::HistoryUnfinished
            )
    });
    // A death that nobody listed may be the release's, although the host may have made it too. That something came late says
    // nothing of the release then.
    let unlisted = verdict.doubtful.iter().any(|it| {
        let late = findings::by_id(&it.id).is_some_and(|kind| kind.late.is_some());
        let mut meant = control.findings.iter().chain(&control.also_allowed);
        it.counts && !late && !meant.any(|pattern| is_meant(pattern, it))
    });
    match verdict.verdict {
        Outcome::Fail if facts && !unproved && !unlisted => Gave::Right,
        Outcome::Fail if !result.wrong_reasons.is_empty() => Gave::Wrong,
        // What is missing because of the host is among the doubtful ones.
        Outcome::Fail if unproved || !verdict.reasons.is_empty() => Gave::Undecided,
        Outcome::Fail | Outcome::Pass => Gave::Wrong,
        Outcome::Inconclusive | Outcome::Error => Gave::Undecided,
    }
}

/// Whether a listed finding follows from another listed one, where the table knows one that it could follow from, or
/// else from a fault, where the table knows faults as its cause and the run had any.
fn linked(place: usize, control: &Control, verdict: &Verdict) -> bool {
    let id = &verdict.findings[place].id;
    let rows = || TABLE.iter().filter(|row| matches(row.effect, id));
    let from_listed = rows().any(|row| match row.cause {
        // One of the kind itself is no other listed one.
        CauseKind::Finding(pattern) if matches(pattern, id) => false,
        CauseKind::Finding(pattern) => control
            .findings
            .iter()
            .any(|listed| matches(pattern, &listed.id)),
        CauseKind::Fault => false,
    });
    let from_fault = !verdict.faults.is_empty() && rows().any(|row| row.cause == CauseKind::Fault);
    let mut links = verdict.chain.iter().filter(|link| link.effect == place);
    if from_listed {
        links.any(|link| match &link.cause {
            Cause::Finding(cause) => control
                .findings
                .iter()
                .any(|pattern| is_meant(pattern, &verdict.findings[*cause])),
            Cause::Fault { .. } => false,
        })
    } else if from_fault {
        links.next().is_some()
    } else {
        true
    }
}
