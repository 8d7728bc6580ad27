//! The progress line of a run: where it is, which faults are on, who is dead. Only where a person looks.

use std::collections::BTreeSet;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tweedledum_core::history::{Body, NodeState, Record};
use tweedledum_core::plan::Plan;
use tweedledum_core::time::Calendar;

use crate::printer::Printer;

/// Follows the records of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    release: String,
    calendar: Calendar,
    genesis_ns: u64,
    nodes: usize,
    ready: BTreeSet<String>,
    faults: BTreeSet<(String, String)>,
}

impl Progress {
    /// A line for one release; silent where nobody watches.
    pub(crate) fn new(printer: &Printer, plan: &Plan, release: &str) -> Self {
        let bar = if printer.progress() {
            ProgressBar::new_spinner()
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        Self {
            bar,
            release: release.to_owned(),
            calendar: plan.calendar,
            genesis_ns: 0,
            nodes: plan.nodes.len(),
            ready: BTreeSet::new(),
            faults: BTreeSet::new(),
        }
    }

    /// A record was written.
    pub(crate) fn saw(&mut self, record: &Record) {
        match &record.body {
            Body::Header(header) => self.genesis_ns = header.genesis_ns,
            Body::Node(change) if change.state == NodeState::Ready => {
                self.ready.insert(change.node.clone());
            }
            Body::Exit(exit) => {
                self.ready.remove(&exit.node);
            }
            Body::Impact(change) => {
                let key = (change.entry.clone(), change.node.clone());
                if change.on {
                    self.faults.insert(key);
                } else {
                    self.faults.remove(&key);
                }
            }
            Body::Layer(_) => {}
            _ => return,
        }
        let now = self.calendar.instant(self.genesis_ns, record.t_ns);
        let when = if now.0 < 0 {
            "before genesis".to_owned()
        } else {
            self.calendar.describe(now)
        };
        let entries: BTreeSet<&str> = self
            .faults
            .iter()
            .map(|(entry, _)| entry.as_str())
            .collect();
        let faults = if entries.is_empty() {
            "no fault".to_owned()
        } else {
            entries.into_iter().collect::<Vec<_>>().join(", ")
        };
        let (ready, nodes) = (self.ready.len(), self.nodes);
        self.bar.set_message(format!(
            "{} · {when} · {ready} of {nodes} nodes ready · {faults}",
            self.release
        ));
    }

    /// The run is over; the line goes.
    pub(crate) fn done(&self) {
        self.bar.finish_and_clear();
    }
}
