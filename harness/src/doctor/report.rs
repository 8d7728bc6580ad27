//! What `doctor` found, as data and as text. Drawing it touches nothing.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use tweedledum_core::capability::Capability;
use tweedledum_core::faults;
use tweedledum_core::history::Grade;
use tweedledum_core::substrate::SubstrateKind;

use super::steps::{Serves, StepRow};
use super::tiers::{self, Tier};
use crate::substrate::process::Nonce;

/// What was found on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Of the report itself.
    pub format: u32,
    /// What everything that was made carries.
    pub nonce: Nonce,
    /// The kernel that the harness runs on.
    pub kernel: String,
    /// Every tier of what was asked for.
    pub tiers: Vec<TierReport>,
    /// What was made and could not be removed.
    pub left: Vec<String>,
}

/// One tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TierReport {
    /// Its name.
    pub tier: String,
    /// Its substrate.
    pub substrate: SubstrateKind,
    /// Why no run can use it on any machine yet.
    pub not_built: Option<String>,
    /// Whether something can run in it here.
    pub usable: bool,
    /// What was tried, in order.
    pub steps: Vec<StepReport>,
    /// What that means for each fault kind.
    pub faults: Vec<FaultReport>,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It worked.
    Works,
    /// It did not.
    Fails,
    /// It could not be tried, since something before it failed.
    Untried,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StepReport {
    /// Its name.
    pub step: String,
    /// What it tries.
    pub tries: String,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen, or why it failed or was not tried.
    pub seen: String,
    /// The system's error number, where the failure had one.
    pub errno: Option<i32>,
    /// What to do about a failure.
    pub fix: Option<String>,
    /// Capabilities that need it; `None` is everything.
    pub serves: Option<Vec<Capability>>,
    /// How long it took.
    pub took_ms: u64,
}

/// One fault kind in a tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FaultReport {
    /// The kind.
    pub fault: String,
    /// What it needs.
    pub needs: Vec<Capability>,
    /// Whether it can be carried out and proved here.
    pub available: bool,
    /// The best grade of evidence, where it is available.
    pub grade: Option<Grade>,
    /// The step that stands in its way.
    pub failing_step: Option<String>,
    /// Why it is not available.
    pub why: Option<String>,
    /// What to do about it.
    pub fix: Option<String>,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) why: String,
    pub(super) errno: Option<i32>,
    /// Where the failure itself says more than the step's row.
    pub(super) fix: Option<String>,
}

impl Trouble {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            errno: None,
            fix: None,
        }
    }

    /// What could not be done, and what the system said.
    pub(super) fn system(what: &str, error: &std::io::Error) -> Self {
        Self {
            why: format!("{what}: {error}"),
            errno: error.raw_os_error(),
            fix: None,
        }
    }
}

/// What a step saw.
pub(super) type Tried = Result<String, Trouble>;

impl StepReport {
    pub(super) fn of(row: &StepRow, tried: Tried, took: std::time::Duration) -> Self {
        let (outcome, seen, errno, fix) = match tried {
            Ok(seen) => (Outcome::Works, seen, None, None),
            Err(trouble) => {
                let fix = trouble.fix.unwrap_or_else(|| row.fix.to_owned());
                (Outcome::Fails, trouble.why, trouble.errno, Some(fix))
            }
        };
        Self {
            outcome,
            seen,
            errno,
            fix,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            ..Self::untried(row, String::new())
        }
    }

    pub(super) fn untried(row: &StepRow, why: String) -> Self {
        Self {
            step: row.name.to_owned(),
            tries: row.tries.to_owned(),
            outcome: Outcome::Untried,
            seen: why,
            errno: None,
            fix: None,
            serves: match row.serves {
                Serves::Everything => None,
                Serves::Only(capabilities) => Some(capabilities.to_vec()),
            },
            took_ms: 0,
        }
    }
}

impl TierReport {
    /// What the steps of a tier mean for every fault kind.
    pub(super) fn of(tier: &Tier, steps: Vec<StepReport>) -> Self {
        let blocking = |needs: &[Capability]| {
            let rows = tier.steps.iter().zip(&steps);
            let stands = rows
                .filter(|(row, step)| row.serves.any_of(needs) && step.outcome != Outcome::Works);
            // A step that was tried and failed says more than those that were not tried because of it.
            let stands: Vec<&StepReport> = stands.map(|(_, step)| step).collect();
            let failed = stands.iter().find(|step| step.outcome == Outcome::Fails);
            failed.or(stands.first()).copied().cloned()
        };
        let of = |kind: &&dyn faults::FaultKind| {
            let mut fault = FaultReport {
                fault: kind.name().to_owned(),
                needs: kind.needs().to_vec(),
                available: false,
                grade: None,
                failing_step: None,
                why: None,
                fix: None,
            };
            if let Some(why) = tiers::never(tier, *kind) {
                fault.why = Some(why);
            } else if let Some(step) = blocking(kind.needs()) {
                // What was not tried is explained by the step that kept it from being tried.
                let root = root_of(tier, &steps, &step);
                fault.failing_step = Some(root.step);
                fault.why = Some(root.seen);
                fault.fix = root.fix;
            } else {
                fault.available = true;
                fault.grade = tiers::grade(tier, *kind);
            }
            fault
        };
        Self {
            tier: tier.name.to_owned(),
            substrate: tier.substrate,
            not_built: tier.built.err().map(str::to_owned),
            usable: tier.built.is_ok() && blocking(&[]).is_none(),
            faults: faults::ALL.iter().map(of).collect(),
            steps,
        }
    }
}

/// The failed step that an untried one waited for, or the step itself.
fn root_of(tier: &Tier, steps: &[StepReport], step: &StepReport) -> StepReport {
    let mut at = step.clone();
    // Each turn goes to an earlier row, so there are no more turns than rows.
    for _ in tier.steps {
        if at.outcome != Outcome::Untried {
            break;
        }
        let row = tier.steps.iter().find(|row| row.name == at.step);
        let waited_for = row.and_then(|row| {
            let rows = tier.steps.iter().zip(steps);
            rows.into_iter()
                .find(|(other, step)| {
                    row.after.contains(&other.step) && step.outcome != Outcome::Works
                })
                .map(|(_, step)| step.clone())
        });
        match waited_for {
            Some(earlier) => at = earlier,
            None => break,
        }
    }
    at
}

impl Report {
    /// Whether every substrate that was asked for can run something.
    pub fn everything_asked_runs(&self) -> bool {
        SubstrateKind::ALL.iter().all(|kind| {
            let mut of_kind = self
                .tiers
                .iter()
                .filter(|tier| tier.substrate == *kind)
                .peekable();
            of_kind.peek().is_none() || of_kind.any(|tier| tier.usable)
        })
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut out = format!("kernel {}\n", self.kernel);
        for tier in &self.tiers {
            tier.draw(&mut out);
        }
        if !self.left.is_empty() {
            out.push_str("\nleft behind:\n");
            for left in &self.left {
                let _ = writeln!(out, "  {left}");
            }
        }
        out
    }
}

impl TierReport {
    fn draw(&self, out: &mut String) {
        let state = match (&self.not_built, self.usable) {
            (Some(why), _) => why.as_str(),
            (None, true) => "available",
            (None, false) => "nothing can run here",
        };
        let _ = writeln!(out, "\n{}: {state}", self.tier);
        for step in &self.steps {
            let word = match step.outcome {
                Outcome::Works => "works",
                Outcome::Fails => "FAILS",
                Outcome::Untried => "-",
            };
            let _ = writeln!(out, "  {word:<6} {:<18} {}", step.step, step.seen);
            if step.outcome == Outcome::Fails {
                let _ = writeln!(out, "{:27}tried: {}", "", step.tries);
                if let Some(errno) = step.errno {
                    let _ = writeln!(out, "{:27}errno: {}", "", errno_in_words(errno));
                }
            }
            if let Some(fix) = &step.fix {
                let _ = writeln!(out, "{:27}fix: {fix}", "");
            }
        }
        if self.not_built.is_some() {
            return;
        }
        out.push_str("  faults\n");
        for fault in &self.faults {
            let name = &fault.fault;
            if fault.available {
                let grade = fault.grade.map_or("", tiers::word);
                let _ = writeln!(out, "    {name:<16} available, evidence up to {grade}");
                continue;
            }
            let why = match (&fault.failing_step, &fault.why) {
                (Some(step), _) => format!("not here: {step} fails"),
                (None, Some(why)) => why.clone(),
                (None, None) => "not here".to_owned(),
            };
            let _ = writeln!(out, "    {name:<16} {why}");
        }
    }
}

fn errno_in_words(errno: i32) -> String {
    let name = nix::errno::Errno::from_raw(errno);
    format!("{name:?} ({errno})")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::steps::Step;
    use super::super::tiers::TIERS;
    use super::*;

    /// A tier of which these steps fail and all others work.
    fn tier(name: &str, failing: &[Step]) -> TierReport {
        let tier = TIERS.iter().find(|tier| tier.name == name).unwrap();
        let mut reports: Vec<StepReport> = Vec::new();
        for row in tier.steps {
            let waits = tier.steps.iter().zip(&reports).find(|(other, step)| {
                row.after.contains(&other.step) && step.outcome != Outcome::Works
            });
            reports.push(match waits {
                Some((other, _)) => StepReport::untried(row, format!("{} fails", other.name)),
                None if failing.contains(&row.step) => {
                    let error = std::io::Error::from_raw_os_error(libc::EPERM);
                    let trouble = Trouble::system("it", &error);
                    StepReport::of(row, Err(trouble), Duration::ZERO)
                }
                None => StepReport::of(row, Ok("seen".to_owned()), Duration::ZERO),
            });
        }
        TierReport::of(tier, reports)
    }

    fn available(report: &TierReport) -> Vec<&str> {
        let available = report.faults.iter().filter(|fault| fault.available);
        available.map(|fault| fault.fault.as_str()).collect()
    }

    #[test]
    fn a_step_that_fails_takes_what_needs_it_and_nothing_else() {
        let all = tier("process/shared", &[]);
        assert!(all.usable && all.faults.iter().all(|fault| fault.available));
        let no_disk = tier("process/shared", &[Step::DiskFilter]);
        assert!(no_disk.usable);
        let without: Vec<&str> = no_disk
            .faults
            .iter()
            .filter(|fault| !fault.available)
            .map(|fault| fault.fault.as_str())
            .collect();
        assert_eq!(without, ["cap-disk", "fill-disk"]);
        let cap = no_disk
            .faults
            .iter()
            .find(|fault| fault.fault == "cap-disk")
            .unwrap();
        assert_eq!(cap.failing_step.as_deref(), Some("disk-filter"));
        assert!(cap.fix.as_deref().unwrap().contains("5.19"));
    }

    #[test]
    fn without_ground_nothing_runs_and_the_first_cause_is_named() {
        let down = tier("docker", &[Step::EngineAnswers]);
        assert!(!down.usable && available(&down).is_empty());
        for fault in &down.faults {
            assert_eq!(
                fault.failing_step.as_deref(),
                Some("engine-answers"),
                "{}",
                fault.fault
            );
        }
        let report = Report {
            format: 1,
            nonce: Nonce::from_bytes([1; 16]),
            kernel: "6".to_owned(),
            tiers: vec![
                tier("process/shared", &[]),
                tier("process/isolated", &[]),
                down,
            ],
            left: Vec::new(),
        };
        assert!(!report.everything_asked_runs(), "docker was asked for");
        let text = report.text();
        assert!(
            text.contains("EPERM (1)") && text.contains("docker: nothing can run here"),
            "{text}"
        );
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }

    #[test]
    fn limits_that_fail_take_their_faults_and_no_others() {
        let all = tier("process/shared", &[]);
        let all = available(&all).len();
        let report = tier(
            "process/shared",
            &[Step::LimitCpu, Step::LimitMemory, Step::LimitPids],
        );
        assert!(report.usable);
        let left = available(&report);
        assert_eq!(left.len(), all - 3);
        for gone in ["cap-memory", "throttle-cpu", "cap-pids"] {
            assert!(!left.contains(&gone), "{left:?}");
        }
    }

    #[test]
    fn the_isolated_tier_is_told_as_not_built() {
        let report = tier("process/isolated", &[]);
        assert!(!report.usable && available(&report).is_empty());
        assert!(report.not_built.unwrap().starts_with("not built yet"));
    }
}
