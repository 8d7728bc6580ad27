//! The report on a terminal: the verdict first, then what it rests on, short unless asked for everything.
//!
//! What is alike (twelve miners that stall together) is told once, with how many there are.

use std::fmt::Write as _;

use super::hostile::line;
use super::whom::whom;
use super::why;
use crate::control::{Comparison, ControlResult, Gave};
use crate::plan::model::FindingPattern;
use crate::time::layers;
use crate::verdict::{
    Cleanup, Expectation, FaultReport, Finding, Held, Link, Outcome, Reason, Verdict,
};

/// What stands above findings that are in doubt, in every report that people read.
pub(super) const NOT_HELD_AGAINST: &str = "not held against the release, since the host was unfit";

/// How to draw.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// With ANSI colours.
    pub colour: bool,
    /// Everything, instead of one of each kind.
    pub verbose: bool,
    /// The run's directory, to say where logs are.
    pub directory: Option<&'a str>,
}

#[derive(Debug, Clone, Copy)]
enum Colour {
    Red,
    Green,
    Yellow,
    Bold,
    Dim,
}

impl Options<'_> {
    fn paint(&self, colour: Colour, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Red => "1;31",
            Colour::Green => "1;32",
            Colour::Yellow => "1;33",
            Colour::Bold => "1",
            Colour::Dim => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    fn outcome(&self, outcome: Outcome) -> String {
        let colour = match outcome {
            Outcome::Pass => Colour::Green,
            Outcome::Fail => Colour::Red,
            Outcome::Inconclusive | Outcome::Error => Colour::Yellow,
        };
        self.paint(colour, outcome.name())
    }
}

/// A run by itself.
pub fn run(verdict: &Verdict, options: &Options) -> String {
    let mut page = Page {
        text: String::new(),
        options,
        verdict,
    };
    page.head();
    page.reasons();
    page.findings();
    page.chain();
    page.expectations();
    page.faults();
    page.tail();
    page.text
}

/// Several controls side by side.
pub fn comparison(comparison: &Comparison, options: &Options) -> String {
    let mut text = String::new();
    let ran = comparison.controls.iter().map(|it| &it.control.release);
    let not_run = comparison
        .not_run
        .iter()
        .filter_map(|it| it.release.as_ref());
    let width = ran
        .chain(not_run)
        .map(|release| line(release).chars().count())
        .max()
        .unwrap_or(0);
    let heading = format!("controls of {}", line(&comparison.plan));
    push(&mut text, &options.paint(Colour::Bold, &heading));
    for result in &comparison.controls {
        let (mark, colour) = match result.gave {
            Gave::Right => ("right", Colour::Green),
            Gave::Wrong => ("wrong", Colour::Red),
            Gave::Undecided => ("undecided", Colour::Yellow),
        };
        let must = if result.control.must_pass {
            "must pass"
        } else {
            "must fail"
        };
        let release = line(&result.control.release);
        let mark = options.paint(colour, &format!("{mark:<9}"));
        let outcome = options.outcome(result.verdict.verdict);
        push(
            &mut text,
            &format!("  {mark}  {release:<width$}  {must}: {outcome}"),
        );
        for difference in differences(result).lines() {
            push(&mut text, &format!("             {difference}"));
        }
    }
    for control in &comparison.not_run {
        let mark = options.paint(Colour::Yellow, &format!("{:<9}", "not run"));
        let release = line(control.release.as_deref().unwrap_or("?"));
        let why = line(&control.why);
        push(&mut text, &format!("  {mark}  {release:<width$}  {why}"));
    }
    text
}

/// What a control gave that it should not, or did not give that it should; one line each, harmless; else what matched.
pub fn differences(result: &ControlResult) -> String {
    let mut told: Vec<String> = Vec::new();
    let verdict = &result.verdict;
    for pattern in &result.missing {
        told.push(format!("missing: {}", named(pattern)));
    }
    for (label, places) in [
        ("wrong reason", &result.wrong_reasons),
        ("not linked to a cause", &result.unlinked),
    ] {
        let found: Vec<&Finding> = places
            .iter()
            .map(|place| &verdict.findings[*place])
            .collect();
        for group in alike(&found) {
            told.push(format!("{label}: {}", title(&group)));
        }
    }
    if result.gave == Gave::Right && !result.control.must_pass {
        let found: Vec<&Finding> = verdict.findings.iter().collect();
        let kinds: Vec<String> = alike(&found).iter().map(|group| title(group)).collect();
        told.push(format!("as demanded: {}", kinds.join("; ")));
    }
    if result.control.must_pass && verdict.verdict == Outcome::Fail {
        let found: Vec<&Finding> = verdict.findings.iter().filter(|it| it.counts).collect();
        for group in alike(&found) {
            told.push(format!("found: {}", title(&group)));
        }
    }
    if result.gave != Gave::Right {
        told.extend(verdict.reasons.iter().map(reason));
    }
    match &verdict.cleanup {
        Cleanup::Left(left) => told.push(format!("left behind: {}", line(&left.join(", ")))),
        Cleanup::Clean | Cleanup::Unknown => {}
    }
    told.join("\n")
}

/// A reason on one harmless line.
pub fn reason(reason: &Reason) -> String {
    let measurement = if reason.measurement.is_empty() {
        String::new()
    } else {
        format!(" ({})", line(&reason.measurement))
    };
    format!(
        "{}: {}{measurement}",
        reason.code.name(),
        line(&reason.text)
    )
}

fn named(pattern: &FindingPattern) -> String {
    let role = pattern.role.as_ref();
    let role = role.map_or_else(String::new, |role| format!(" of {role}"));
    let says = pattern.says.as_ref();
    let says = says.map_or_else(String::new, |says| format!(" that says \"{says}\""));
    line(&format!("{}{role}{says}", pattern.id))
}

fn push(text: &mut String, row: &str) {
    text.push_str(row.trim_end());
    text.push('\n');
}

/// Findings of one id and role, in order of their first.
pub(super) fn alike<'a>(findings: &[&'a Finding]) -> Vec<Vec<&'a Finding>> {
    let mut groups: Vec<Vec<&Finding>> = Vec::new();
    for finding in findings {
        let group = groups
            .iter_mut()
            .find(|group| group[0].id == finding.id && group[0].role == finding.role);
        match group {
            Some(group) => group.push(finding),
            None => groups.push(vec![finding]),
        }
    }
    groups
}

/// `crash/session-table of gateway-0`, or `… of 5 gateway nodes`, however often each.
fn title(group: &[&Finding]) -> String {
    let first = group[0];
    let mut nodes: Vec<Option<&str>> = group.iter().map(|it| it.node.as_deref()).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let whose = match (nodes.len(), first.role.as_deref()) {
        (1, role) => first
            .node
            .as_deref()
            .or(role)
            .unwrap_or("the network")
            .to_owned(),
        (many, Some(role)) => format!("{many} {role} nodes"),
        (many, None) => format!("{many} nodes"),
    };
    let often = match group.len() {
        times if times > nodes.len() => format!(" ({times} times)"),
        _ => String::new(),
    };
    line(&format!("{} of {whose}{often}", first.id))
}

/// Last lines of a dead node's output that are shown unasked.
const TAIL_LINES: usize = 5;

struct Page<'a> {
    text: String,
    options: &'a Options<'a>,
    verdict: &'a Verdict,
}

impl Page<'_> {
    fn row(&mut self, row: &str) {
        push(&mut self.text, row);
    }

    fn heading(&mut self, heading: &str) {
        let heading = self.options.paint(Colour::Bold, heading);
        self.text.push('\n');
        self.row(&heading);
    }

    fn head(&mut self) {
        let info = &self.verdict.run;
        let outcome = self.options.outcome(self.verdict.verdict);
        let rest = format!(
            "(seed {}, {}, {}, {} void, {} records)",
            info.seed,
            line(&info.substrate),
            layers(info.layers),
            info.void_layers,
            info.records
        );
        let rest = self.options.paint(Colour::Dim, &rest);
        let (plan, release) = (line(&info.plan), line(&info.release));
        let must = match &info.control {
            Some(control) if !control.must_pass => ", which must fail",
            _ => "",
        };
        self.row(&format!("{outcome}  {plan} on {release}{must}  {rest}"));
        if info.first_epoch > 0 {
            let row = format!(
                "epoch 0 of this run is the network's epoch {}; nodes count from their own genesis",
                info.first_epoch
            );
            self.row(&self.options.paint(Colour::Dim, &row));
        }
    }

    fn reasons(&mut self) {
        if self.verdict.reasons.is_empty() {
            return;
        }
        self.heading("what keeps this from being a pass");
        for it in &self.verdict.reasons {
            let row = format!("  {}", reason(it));
            self.row(&row);
        }
    }

    fn findings(&mut self) {
        let found: Vec<&Finding> = self.verdict.findings.iter().collect();
        if !found.is_empty() {
            self.heading("findings, causes first");
        }
        let groups = if self.options.verbose {
            found.iter().map(|finding| vec![*finding]).collect()
        } else {
            alike(&found)
        };
        for group in groups {
            self.finding(&group);
        }
        if self.verdict.more_findings > 0 {
            let row = format!("  and {} more", self.verdict.more_findings);
            self.row(&row);
        }
        let doubtful: Vec<&Finding> = self.verdict.doubtful.iter().collect();
        if !doubtful.is_empty() {
            self.heading(NOT_HELD_AGAINST);
            for group in alike(&doubtful) {
                self.finding(&group);
            }
        }
    }

    fn finding(&mut self, group: &[&Finding]) {
        let first = group[0];
        let colour = if first.counts {
            Colour::Red
        } else {
            Colour::Yellow
        };
        let name = self.options.paint(colour, &title(group));
        let when = self.verdict.when(first.due_ns);
        self.row(&format!("  {name}, from {when} on"));
        self.row(&format!("      {}", line(&first.text)));
        let recovered = group.iter().filter(|it| it.recovered_ns.is_some()).count();
        if recovered > 0 && group.len() == 1 {
            let when = first.recovered_ns.map(|t_ns| self.verdict.when(t_ns));
            self.row(&format!("      recovered at {}", when.unwrap_or_default()));
        } else if recovered > 0 {
            self.row(&format!("      {recovered} of {} recovered", group.len()));
        }
        if let Some(note) = first.notes.first() {
            self.row(&format!("      {}", line(note)));
        }
        // A panic tells itself; of any other death its last words are all there is.
        let unexplained = ["crash/exit", "crash/signal"].contains(&first.id.as_str());
        let shown = match (self.options.verbose, unexplained) {
            (true, _) => first.tail.len(),
            (false, true) => TAIL_LINES,
            (false, false) => 0,
        };
        for row in &first.tail[first.tail.len().saturating_sub(shown)..] {
            self.row(&format!("      | {}", line(row)));
        }
    }

    /// What led to what, as a tree; all of its sentences only when asked for everything.
    fn chain(&mut self) {
        if self.verdict.chain.is_empty() {
            return;
        }
        self.heading("why");
        if self.options.verbose {
            for link in &self.verdict.chain {
                let row = format!("  {}  {}", line(&link.text), self.records(link));
                self.row(&row);
            }
            return;
        }
        for twig in why::twigs(self.verdict) {
            let (heading, how, when) = match &twig.what {
                why::What::Fault { entry, nodes } => {
                    let heading = format!("{} on {}", entry, whom(nodes));
                    (line(&heading), "", twig.from_ns)
                }
                why::What::Findings(group) => (title(group), twig.how, Some(group[0].due_ns)),
            };
            let mut row = format!("  {}{heading}", twig.branch);
            if let Some(when) = when {
                row.extend([", ", &self.verdict.when(when)]);
            }
            if !how.is_empty() {
                row.extend([": ", how]);
            }
            if let Some(link) = twig.link {
                row.push_str("  ");
                row.push_str(&self.records(link));
            }
            self.row(&row);
        }
    }

    fn records(&self, link: &Link) -> String {
        let [cause, effect] = link.records;
        let records = format!("records {cause} and {effect}");
        self.options.paint(Colour::Dim, &records)
    }

    fn expectations(&mut self) {
        self.heading("expectations");
        for expectation in &self.verdict.expectations {
            let (word, colour) = match expectation.held {
                Held::Yes => ("held", Colour::Green),
                Held::No => ("broken", Colour::Red),
                Held::Unknown => ("unknown", Colour::Yellow),
            };
            let word = self.options.paint(colour, &format!("{word:<7}"));
            let row = format!(
                "  {word}  {}{}",
                line(&expectation.what),
                known(expectation)
            );
            self.row(&row);
            if expectation.held == Held::Unknown {
                let row = format!("           {}", line(&why_unknown(expectation)));
                self.row(&row);
            }
        }
    }

    fn faults(&mut self) {
        if self.verdict.faults.is_empty() {
            return;
        }
        self.heading("faults");
        let mut told: Vec<(&FaultReport, Vec<&str>)> = Vec::new();
        for fault in &self.verdict.faults {
            let same = told.iter_mut().find(|(other, _)| {
                !self.options.verbose
                    && other.entry == fault.entry
                    && evidence(other) == evidence(fault)
            });
            match same {
                Some((_, nodes)) => nodes.push(&fault.node),
                None => told.push((fault, vec![&fault.node])),
            }
        }
        for (fault, nodes) in told {
            let begun = fault.begun_ns;
            let when =
                begun.map_or_else(String::new, |t_ns| format!(", {}", self.verdict.when(t_ns)));
            let whom = whom(&nodes);
            let row = format!("{} on {whom}{when}: {}", fault.entry, evidence(fault));
            let row = format!("  {}", line(&row));
            self.row(&row);
        }
    }

    fn tail(&mut self) {
        match &self.verdict.cleanup {
            Cleanup::Clean => {}
            Cleanup::Unknown => {
                self.heading("clean-up: the history does not say whether everything is gone");
            }
            Cleanup::Left(left) => {
                self.heading("left behind");
                for it in left {
                    let row = format!("  {}", line(it));
                    self.row(&row);
                }
            }
        }
        let Some(directory) = self.options.directory else {
            return;
        };
        self.text.push('\n');
        self.row(&line(&format!("everything recorded: {directory}")));
        // Causes come first, so the first that names a node is where to begin to read.
        let mut nodes = self.verdict.findings.iter().map(|it| it.node.as_deref());
        if let Some(node) = nodes.find_map(|node| node) {
            self.row(&line(&format!("logs: {directory}/nodes/{node}/")));
        }
    }
}

/// Why nothing can be said of an expectation: its first doubt, which the reasons above tell with all others.
fn why_unknown(expectation: &Expectation) -> String {
    match expectation.doubts.as_slice() {
        [] => "since the run ended before it could be decided".to_owned(),
        [only] => format!("since {only}"),
        [first, rest @ ..] => format!("since {first} (and {} more)", rest.len()),
    }
}

/// What an expectation rests on.
fn known(expectation: &Expectation) -> String {
    let mut parts: Vec<String> = Vec::new();
    // A recovery is measured from its heal on, and may be over before the first layer is.
    let recovery = expectation.kind == "recover";
    match expectation.worst_layers {
        Some(worst) if recovery => parts.push(format!("fresh {worst:.1} layers after the heal")),
        Some(worst) => parts.push(format!("worst {worst:.1} layers")),
        None => {}
    }
    match expectation.demanded_layers {
        Some(_) if recovery && expectation.worst_layers.is_some() => {}
        Some(looked) if recovery => {
            parts.push(format!("watched for {} after the heal", layers(looked)));
        }
        Some(demanded) => parts.push(format!("demanded for {}", layers(demanded))),
        None => {}
    }
    if expectation.void_layers > 0 {
        parts.push(format!("{} void", expectation.void_layers));
    }
    let data = &expectation.data;
    if data.had < data.least {
        parts.push(format!(
            "{} {} of at least {}",
            data.had, data.what, data.least
        ));
    }
    if parts.is_empty() {
        return String::new();
    }
    format!(": {}", parts.join(", "))
}

/// `stressed, armed, applied (sent 320), gone, not felt`: what was not asked for is left out.
fn evidence(fault: &FaultReport) -> String {
    let mut text = match fault.impact {
        crate::faults::Impact::Impaired => "impaired".to_owned(),
        crate::faults::Impact::Stressed => "stressed".to_owned(),
    };
    if fault.begun_ns.is_none() {
        text.push_str(", not begun");
        return text;
    }
    let open = fault.restores && fault.gone.is_none() && fault.ended_ns.is_none();
    // What was there and of which nothing shows that it hit was not felt.
    let felt = fault
        .felt
        .or((fault.applied == Some(true)).then_some(false));
    let owed_gone = fault.gone.or((fault.restores && !open).then_some(false));
    for (name, seen) in [
        ("armed", fault.armed),
        ("applied", Some(fault.applied.unwrap_or(false))),
        ("gone", owed_gone),
        ("felt", felt),
    ] {
        // Writing to a string cannot fail.
        let _ = match seen {
            Some(true) => write!(text, ", {name}"),
            Some(false) => write!(text, ", not {name}"),
            None => Ok(()),
        };
        if name == "applied" && !fault.detail.is_empty() {
            let detail: Vec<String> = fault
                .detail
                .iter()
                .map(|(key, value)| format!("{key} {value}"))
                .collect();
            let _ = write!(text, " ({})", detail.join(", "));
        }
    }
    if open {
        text.push_str(", still on at the end");
    }
    if let Some(why) = &fault.failed {
        let _ = write!(text, ", failed: {why}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_tells_what_was_measured() {
        let mut it = Expectation::new("recover", "recover", false, crate::verdict::Data::default());
        it.demanded_layers = Some(0);
        it.worst_layers = Some(0.4);
        assert_eq!(known(&it), ": fresh 0.4 layers after the heal");
        it.demanded_layers = Some(12);
        it.worst_layers = None;
        assert_eq!(known(&it), ": watched for 12 layers after the heal");
    }
}
