//! JUnit XML: one case per expectation and unasked check, one per fault; for a parent run one per control besides.
//!
//! CI systems show each red case with its message. What cannot be judged is an *error* in JUnit's words, a violation a
//! *failure*.

use std::fmt::Write as _;

use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

use super::hostile::{line, lines};
use super::text;
use crate::control::{Comparison, ControlResult, Gave};
use crate::verdict::{Expectation, FaultReport, Finding, Held, Outcome, Verdict};

/// A run by itself.
///
/// # Errors
/// When the XML writer fails, which it does not on a string.
pub fn run(verdict: &Verdict) -> Result<String, SerializeError> {
    let mut report = Report::new(line(&verdict.run.plan));
    report.add_test_suite(suite(verdict, true));
    report.to_string()
}

/// Several controls: a case for each, and a suite for each with what was seen. In a control that must fail the seen
/// violations are what is wanted, so there only the control's own case can be red.
///
/// # Errors
/// As [`run`].
pub fn comparison(comparison: &Comparison) -> Result<String, SerializeError> {
    let mut report = Report::new(line(&comparison.plan));
    let mut controls = TestSuite::new("controls");
    for result in &comparison.controls {
        controls.add_test_case(control(result));
    }
    for control in &comparison.not_run {
        let name = format!(
            "{} is run",
            line(control.release.as_deref().unwrap_or("every control"))
        );
        let status = red(NonSuccessKind::Error, &lines(&control.why));
        controls.add_test_case(case(name, "control", status));
    }
    report.add_test_suite(controls);
    for result in &comparison.controls {
        let strict = result.control.must_pass;
        report.add_test_suite(suite(&result.verdict, strict));
    }
    report.to_string()
}

fn control(result: &ControlResult) -> TestCase {
    let demanded = if result.control.must_pass {
        "passes"
    } else {
        "fails for its stated reasons"
    };
    let name = format!("{} {demanded}", line(&result.control.release));
    let status = match result.gave {
        Gave::Right => TestCaseStatus::success(),
        Gave::Wrong => red(NonSuccessKind::Failure, &text::differences(result)),
        Gave::Undecided => red(NonSuccessKind::Error, &text::differences(result)),
    };
    case(name, "control", status)
}

fn suite(verdict: &Verdict, strict: bool) -> TestSuite {
    let mut suite = TestSuite::new(line(&verdict.run.release));
    suite.add_property(("run", line(&verdict.run.run).as_str()));
    suite.add_property(("seed", verdict.run.seed.to_string().as_str()));
    suite.add_property(("substrate", line(&verdict.run.substrate).as_str()));
    suite.add_property(("verdict", verdict.verdict.name()));
    for expectation in &verdict.expectations {
        suite.add_test_case(expected(expectation, verdict, strict));
    }
    for fault in &verdict.faults {
        suite.add_test_case(faulted(fault, verdict, strict));
    }
    let mut told = findings(&verdict.findings.iter().collect::<Vec<_>>());
    let doubtful: Vec<&Finding> = verdict.doubtful.iter().collect();
    if !doubtful.is_empty() {
        let separate = if told.is_empty() { "" } else { "\n" };
        let doubtful = findings(&doubtful);
        let _ = write!(told, "{separate}{}:\n{doubtful}", text::NOT_HELD_AGAINST);
    }
    if !told.is_empty() {
        suite.set_system_out(told);
    }
    suite
}

fn expected(expectation: &Expectation, verdict: &Verdict, strict: bool) -> TestCase {
    let status = match expectation.held {
        Held::Yes => TestCaseStatus::success(),
        _ if !strict => TestCaseStatus::skipped(),
        Held::No => {
            let own = expectation.findings.iter();
            let own: Vec<&Finding> = own.map(|place| &verdict.findings[*place]).collect();
            red(NonSuccessKind::Failure, &findings(&own))
        }
        // What a run that was cut short had no time to show is not an error of its own.
        Held::Unknown if expectation.doubts.is_empty() => TestCaseStatus::skipped(),
        Held::Unknown => {
            let doubts: Vec<String> = expectation.doubts.iter().map(|it| line(it)).collect();
            red(NonSuccessKind::Error, &doubts.join("\n"))
        }
    };
    let kind = format!("expectation.{}", expectation.kind);
    case(line(&expectation.what), &kind, status)
}

fn faulted(fault: &FaultReport, verdict: &Verdict, strict: bool) -> TestCase {
    let gone = !fault.restores || fault.gone == Some(true);
    let shown = fault.applied == Some(true) || fault.felt == Some(true);
    let cut_short = verdict.verdict == Outcome::Fail || !strict;
    let status = if shown && gone {
        TestCaseStatus::success()
    } else if cut_short {
        TestCaseStatus::skipped()
    } else {
        red(NonSuccessKind::Error, &reasons(verdict))
    };
    let name = format!("{} on {}", line(&fault.entry), line(&fault.node));
    case(name, "fault", status)
}

fn case(name: String, class: &str, status: TestCaseStatus) -> TestCase {
    let mut case = TestCase::new(name, status);
    case.set_classname(class);
    case
}

/// A red status; the first line is its message.
fn red(kind: NonSuccessKind, text: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_message(text.lines().next().unwrap_or("no details"));
    status.set_description(text.to_owned());
    status
}

fn findings(findings: &[&Finding]) -> String {
    let told: Vec<String> = findings
        .iter()
        .map(|finding| {
            let mut told = lines(&format!("{}: {}", finding.id, line(&finding.text)));
            for row in &finding.tail {
                told.push_str("\n    | ");
                told.push_str(&line(row));
            }
            told
        })
        .collect();
    told.join("\n")
}

fn reasons(verdict: &Verdict) -> String {
    let told: Vec<String> = verdict.reasons.iter().map(text::reason).collect();
    told.join("\n")
}
