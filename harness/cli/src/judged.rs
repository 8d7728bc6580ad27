//! One or several verdicts and what becomes of them: reports in every form, and the exit code.

use tweedledum_core::control::{Comparison, NotRun, compare};
use tweedledum_core::report::{json, junit, text};
use tweedledum_core::verdict::{ExitCode, Verdict};

use crate::args::Format;
use crate::commands::Failure;
use crate::printer::Printer;

const NO_HISTORY: &str =
    "the plan has this control and there is no history of it; the run was stopped before";

/// What a command judged.
#[derive(Debug)]
pub(crate) enum Judged {
    /// One release by itself.
    Plain(Box<Verdict>),
    /// The controls of a plan, each against what it must give.
    Controls(Comparison),
}

impl Judged {
    /// The verdicts of one plan: compared with what their controls demand, where they are controls. `planned` are the
    /// releases of all the plan's controls, or why nobody knows them: some of the controls say nothing of the whole.
    pub(crate) fn of(
        mut verdicts: Vec<Verdict>,
        planned: Result<Vec<String>, String>,
    ) -> Option<Self> {
        if verdicts.len() == 1 && verdicts[0].run.control.is_none() {
            return verdicts.pop().map(|verdict| Self::Plain(Box::new(verdict)));
        }
        let plan = verdicts.first()?.run.plan.clone();
        let (mut controls, mut not_run) = (Vec::new(), Vec::new());
        for verdict in verdicts {
            match verdict.run.control.clone() {
                Some(control) => controls.push(compare(&control, verdict)),
                None => not_run.push(NotRun {
                    release: Some(verdict.run.release),
                    why: "its history names no control, so nothing says what it must give"
                        .to_owned(),
                }),
            }
        }
        match planned {
            Ok(releases) => {
                for release in releases {
                    let known = controls.iter().any(|it| it.control.release == release);
                    let told = |it: &NotRun| it.release.as_ref() == Some(&release);
                    if !known && !not_run.iter().any(told) {
                        not_run.push(NotRun {
                            release: Some(release),
                            why: NO_HISTORY.to_owned(),
                        });
                    }
                }
            }
            Err(why) if !controls.is_empty() => not_run.push(NotRun { release: None, why }),
            Err(_) => {}
        }
        Some(Self::Controls(
            Comparison::new(plan, controls).without(not_run),
        ))
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Plain(verdict) => verdict.exit_code(),
            Self::Controls(comparison) => comparison.exit_code(),
        }
    }

    pub(crate) fn json(&self) -> Result<String, Failure> {
        let text = match self {
            Self::Plain(verdict) => json::run(verdict),
            Self::Controls(comparison) => json::comparison(comparison),
        };
        text.map_err(|error| Failure::Substrate(format!("the verdict cannot be written: {error}")))
    }

    pub(crate) fn junit(&self) -> Result<String, Failure> {
        let text = match self {
            Self::Plain(verdict) => junit::run(verdict),
            Self::Controls(comparison) => junit::comparison(comparison),
        };
        text.map_err(|error| {
            Failure::Substrate(format!("the JUnit report cannot be written: {error}"))
        })
    }

    /// The comparison for people; a plain verdict has been told in full already.
    pub(crate) fn summary(&self, options: &text::Options<'_>) -> Option<String> {
        match self {
            Self::Plain(_) => None,
            Self::Controls(comparison) => Some(text::comparison(comparison, options)),
        }
    }

    /// Everything on standard output that the user asked for.
    pub(crate) fn print(&self, format: Format, printer: &Printer) -> Result<(), Failure> {
        match format {
            Format::Text => {}
            Format::Json => printer.text(&self.json()?),
            Format::Junit => printer.text(&self.junit()?),
        }
        Ok(())
    }
}
