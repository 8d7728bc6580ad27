//! `list`: fault kinds, oracles, findings, roles, releases and the conformance table, from their registries.

use std::fmt::Write as _;

use tweedledum_core::faults::Impact;
use tweedledum_core::params::{Need, Param, Shape};
use tweedledum_core::{faults, findings, oracles, plan};

use super::Failure;
use crate::args::{ListArgs, Listed};
use crate::catalogue;
use crate::printer::Printer;

pub(crate) fn run(args: &ListArgs, printer: &Printer) -> Result<u8, Failure> {
    let mut out = String::new();
    match args.what {
        Listed::Faults => {
            for kind in faults::ALL {
                kind_in_words(
                    &mut out,
                    kind.name(),
                    kind.summary(),
                    kind.example(),
                    kind.params(),
                );
                out.truncate(out.trim_end().len());
                let _ = writeln!(out, "\n    {}\n", owed(kind.impact()));
            }
        }
        Listed::Oracles => {
            for kind in oracles::ALL {
                kind_in_words(
                    &mut out,
                    kind.name(),
                    kind.summary(),
                    kind.example(),
                    kind.params(),
                );
            }
        }
        Listed::Roles => {
            out.push_str("roles:\n");
            for role in catalogue::roles()? {
                for line in plan::render_role(&role, &catalogue::LONG_EPOCHS).lines() {
                    let _ = writeln!(out, "  {line}");
                }
            }
            out.push_str(
                "\n# placeholders of `command`, `env`, `ready` (not of `log`) and `signals`\n",
            );
            for (written, meaning) in plan::placeholders::meanings() {
                let _ = writeln!(out, "# {written:<22} {meaning}");
            }
        }
        Listed::Findings => {
            for kind in findings::ALL {
                let _ = writeln!(out, "{:<20} {}", kind.written(), kind.meaning);
            }
        }
        Listed::Conformance => out.push_str(&tweedledum_harness::doctor::tiers::conformance()),
        Listed::Releases => {
            for base in tweedledum_nodes::releases::BASES {
                let _ = writeln!(out, "{:<12} {}", base.name, base.about);
            }
            out.push_str(
                "\nswitches, each a fix that `{ base: fixed, without: [SWITCH] }` takes out\n",
            );
            for switch in tweedledum_nodes::releases::SWITCHES {
                let _ = writeln!(out, "{:<16} {}", switch.name, switch.about);
            }
        }
    }
    printer.text(&out);
    Ok(0)
}

/// What the targets of a fault owe while it is on.
fn owed(impact: Impact) -> &'static str {
    match impact {
        Impact::Impaired => "Its targets are impaired: nothing is demanded of them meanwhile.",
        Impact::Stressed => "Its targets are stressed: they owe what they owe without it.",
    }
}

fn kind_in_words(out: &mut String, name: &str, summary: &str, example: &str, params: &[Param]) {
    let _ = writeln!(out, "{name}: {example}\n    {summary}");
    for param in params {
        let need = match param.need {
            Need::Required => "required".to_owned(),
            Need::Optional => "optional".to_owned(),
            Need::Default(value) => format!("default {value}"),
        };
        let _ = writeln!(
            out,
            "    {:<12} {} ({}; {need})",
            param.name,
            param.doc,
            shape(param.shape)
        );
    }
    out.push('\n');
}

fn shape(shape: Shape) -> String {
    match shape {
        Shape::Nodes => "nodes".to_owned(),
        Shape::Count { min, max } => format!("{min} to {max}"),
        Shape::Span => "protocol time".to_owned(),
        Shape::Duration => "wall time".to_owned(),
        Shape::Size => "a size".to_owned(),
        Shape::Cpus => "processors, as 0.5".to_owned(),
        Shape::Capacity => "a size or rounds".to_owned(),
        Shape::OneOf(words) => words.join(" | "),
        Shape::Signal => "a signal".to_owned(),
        Shape::Heal => "a heal".to_owned(),
        Shape::Flag => "true | false".to_owned(),
    }
}
