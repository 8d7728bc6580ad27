//! The judge: a history in, a verdict out, record by record, the same while a run is live and years later.
//!
//! It folds [`World`], feeds every oracle, collects the evidence of every planned fault, and watches that the history
//! itself is whole. A pass needs all of it: no finding, no missing record, every check fed, every fault applied and gone.
//! It reads no file and no clock; what is not in the history does not exist.

mod doubt;
mod evidence;

use std::collections::BTreeMap;

use crate::causes::{self, Clock};
use crate::history::read::{Line, ReadError};
use crate::history::{Body, Ending, FORMAT, FULL, Header, NodeState, Record};
use crate::oracles::{self, Oracle, Output, World};
use crate::params::{Need, Params, Shape, Value};
use crate::run::Watch;
use crate::verdict::{
    Cause, Cleanup, Code, Expectation, Finding, Held, Outcome, RunInfo, SCHEMA, Timings, Verdict,
};

use evidence::{Evidences, Limits};

/// An oracle and its doubts.
#[derive(Debug, Clone)]
struct Seat {
    oracle: Box<dyn Oracle>,
    doubted: bool,
    doubts: Vec<String>,
}

impl Seat {
    /// Lets the oracle speak and remembers which doubts are its own.
    fn hears(&mut self, out: &mut Output, speak: impl FnOnce(&mut dyn Oracle, &mut Output)) {
        let (doubts, kept) = (out.doubts, out.reasons.len());
        speak(self.oracle.as_mut(), out);
        self.doubted |= out.doubts > doubts;
        let own = out.reasons.iter().skip(kept);
        self.doubts.extend(own.map(|reason| reason.text.clone()));
    }
}

/// Judges one run. Give it every record in order, then ask for the verdict.
#[derive(Debug, Clone)]
pub struct Judge {
    header: Header,
    world: World,
    seats: Vec<Seat>,
    evidence: Evidences,
    limits: Limits,
    out: Output,
    next_seq: u64,
    ended: Option<Ending>,
    left: Option<Vec<String>>,
    interrupted: Option<i32>,
    /// What nodes that were not ready in time answered last.
    unready: BTreeMap<String, (String, u64)>,
    stopped_ns: Option<u64>,
    /// Whether the history is not what its writer wrote.
    disowned: bool,
}

impl Judge {
    /// A judge for the run that this header describes.
    ///
    /// # Errors
    /// [`ReadError::NoHeader`] when the header cannot be true, as a calendar without length.
    pub fn new(header: &Header) -> Result<Self, ReadError> {
        if header.calendar.layer_ns == 0 || header.calendar.layers_per_epoch == 0 {
            return Err(ReadError::NoHeader {
                why: "its layers or epochs have no length".to_owned(),
            });
        }
        let mut out = Output::default();
        let mut built = oracles::always(header);
        for expect in &header.expect {
            match oracles::by_name(&expect.kind) {
                Some(kind) if declared(kind.params(), &expect.params) => {
                    built.push(kind.build(&expect.params, header));
                }
                _ => out.doubt(
                    Code::NoData,
                    format!(
                        "the expectation `{}` cannot be judged by this version; judge it with the one that ran it",
                        expect.kind
                    ),
                    "",
                    vec![0],
                ),
            }
        }
        let seat = |oracle| Seat {
            oracle,
            doubted: false,
            doubts: Vec::new(),
        };
        Ok(Self {
            world: World::new(header),
            seats: built.into_iter().map(seat).collect(),
            evidence: Evidences::new(header),
            limits: Limits::default(),
            out,
            next_seq: 0,
            ended: None,
            left: None,
            interrupted: None,
            unready: BTreeMap::new(),
            stopped_ns: None,
            disowned: false,
            header: header.clone(),
        })
    }

    /// Takes in what was read from a line after the header's.
    pub fn read(&mut self, line: Result<&Line, &ReadError>) {
        match line {
            Ok(Line::Record(record)) => self.observe(record),
            Ok(Line::Unknown { seq, kind, .. }) => self.skip(*seq, kind),
            Err(error) => self.unreadable(error),
        }
    }

    /// Takes a record in, the header included.
    pub fn observe(&mut self, record: &Record) {
        self.number(record.seq);
        if let Body::Layer(layer) = &record.body {
            self.layer(layer.layer, record);
        }
        self.stranger(record);
        self.world.fold(record);
        self.evidence.observe(record);
        self.limits.observe(record, &self.header);
        match &record.body {
            Body::Node(change) if record.t_ns < self.header.genesis_ns => {
                if let Some(why) = &change.detail {
                    let seen = (why.clone(), record.seq);
                    self.unready.insert(change.node.clone(), seen);
                }
            }
            Body::Interrupt(interrupt) => self.interrupted = Some(interrupt.signal),
            Body::TornDown(torn_down) => self.left = Some(torn_down.left.clone()),
            Body::End(end) => {
                if end.count != self.next_seq {
                    let text = format!(
                        "the history says it has {} records and has {}",
                        end.count, self.next_seq
                    );
                    self.out.doubt(Code::HistoryGap, text, "", vec![record.seq]);
                }
                self.ended = Some(end.why.clone());
            }
            _ => {}
        }
        if self.world.stopping {
            self.stopped_ns.get_or_insert(self.world.now.t_ns);
        }
        let world = &self.world;
        for seat in &mut self.seats {
            seat.hears(&mut self.out, |oracle, out| {
                oracle.observe(record, world, out);
            });
        }
    }

    /// Takes note of a record of a kind that this version does not know. Only a later version may have written one.
    pub fn skip(&mut self, seq: u64, kind: &str) {
        self.number(seq);
        if self.header.format == FORMAT && kind != FULL {
            let text = format!(
                "format {FORMAT} has no records of kind `{}`",
                kind.escape_debug()
            );
            self.out.doubt(Code::HistoryDamaged, text, "", vec![seq]);
        }
    }

    /// Takes note of a line that could not be read.
    pub fn unreadable(&mut self, error: &ReadError) {
        let code = match error {
            ReadError::Truncated { .. } | ReadError::Io { .. } => Code::HistoryUnfinished,
            ReadError::Garbage { .. }
            | ReadError::Format { .. }
            | ReadError::NoHeader { .. }
            | ReadError::Digest { .. }
            | ReadError::Rewritten { .. } => Code::HistoryDamaged,
        };
        self.disowned |= matches!(
            error,
            ReadError::Digest { .. } | ReadError::Rewritten { .. }
        );
        self.out.doubt(code, error.to_string(), "", Vec::new());
    }

    /// Whether nothing more is to be learnt from going on at this time. A run that must pass may end once every fault
    /// is applied and gone and all it waited for after the last heal has held; a control that must fail, one epoch after
    /// the last finding it demands is proved; neither where the plan itself says when it ends. What the host has put in
    /// doubt may be decided by more layers that are fit.
    pub fn settled(&self, t_ns: u64) -> bool {
        if self.header.fixed_end {
            return false;
        }
        let must_fail = self
            .header
            .control
            .as_ref()
            .filter(|control| !control.must_pass);
        if let Some(control) = must_fail {
            let epoch_ns = self.world.calendar.ns_of(self.world.calendar.epoch());
            let all = &self.out.findings;
            // What the host may have made is weighed only once it matters.
            let found = |pattern| all.iter().find(|it| crate::control::is_meant(pattern, it));
            let due = |it: &Finding| t_ns >= it.proved_ns.saturating_add(epoch_ns);
            if !control
                .findings
                .iter()
                .all(|pattern| found(pattern).is_some_and(due))
            {
                return false;
            }
            let doubtful = self.doubtful(all, &self.evidence.reports(&self.header));
            let proved = control.findings.iter().map(|pattern| {
                let mut findings = all.iter().zip(&doubtful);
                findings
                    .find(|(it, doubtful)| crate::control::is_meant(pattern, it) && !**doubtful)
                    .map(|(finding, _)| finding.proved_ns)
            });
            let last = proved.collect::<Option<Vec<u64>>>();
            return last
                .and_then(|proved| proved.into_iter().max())
                .is_some_and(|last| t_ns >= last.saturating_add(epoch_ns));
        }
        let waits = self.header.expect.iter().any(|it| it.kind == "recover");
        waits
            && self.out.reasons.is_empty()
            && self.evidence.complete()
            && self.seats.iter().all(|seat| {
                let data = seat.oracle.report(&self.world).data;
                data.had >= data.least && seat.oracle.settled(&self.world)
            })
    }

    /// The verdict on everything seen so far; without an `end` record it cannot be a pass.
    pub fn finish(mut self) -> Verdict {
        let cut_short = self.cut_short();
        self.finish_oracles(cut_short);
        self.finish_history();
        let mut findings = std::mem::take(&mut self.out.findings);
        let mut faults = self.evidence.reports(&self.header);
        let doubtful = self.take_doubtful(&mut findings, &faults);
        let clock = Clock::of(&self.header);
        let chain = causes::explain(&mut findings, &faults, &clock);
        let expectations = self.expectations(&findings, &doubtful, cut_short);
        evidence::feel(&mut faults, &chain);
        let early = cut_short || self.out.more_findings > 0;
        let hits = self.evidence.hits(&chain);
        evidence::doubt(&faults, &hits, &self.header, early, &mut self.out);
        self.limits.doubt(&self.header, early, &mut self.out);
        let reasons = std::mem::take(&mut self.out.reasons);
        let verdict = if self.disowned {
            // What somebody else wrote accuses nobody either.
            Outcome::Inconclusive
        } else if findings.iter().any(|finding| finding.counts) {
            Outcome::Fail
        } else if reasons.iter().any(|reason| reason.code.is_error()) {
            Outcome::Error
        } else if reasons.is_empty() {
            Outcome::Pass
        } else {
            Outcome::Inconclusive
        };
        let mut timings = self.timings();
        for link in &chain {
            if let Cause::Fault { entry, .. } = &link.cause
                && let Some(begun) = first_begun(&faults, entry)
            {
                let after = findings[link.effect].proved_ns.saturating_sub(begun);
                let layers = self.world.in_layers(after);
                let least = timings
                    .detected_after
                    .entry(entry.clone())
                    .or_insert(layers);
                *least = least.min(layers);
            }
        }
        Verdict {
            schema: SCHEMA,
            verdict,
            cleanup: match self.left.take() {
                None => Cleanup::Unknown,
                Some(left) if left.is_empty() => Cleanup::Clean,
                Some(left) => Cleanup::Left(left),
            },
            interrupted: self.interrupted,
            run: self.run_info(),
            findings,
            more_findings: self.out.more_findings,
            doubtful,
            reasons,
            chain,
            expectations,
            faults,
            timings,
        }
    }

    /// Whether the run ended before its schedule did, so that what it did not get to see is nobody's fault.
    fn cut_short(&self) -> bool {
        match &self.ended {
            Some(Ending::Early) => self.out.findings.iter().any(|finding| finding.counts),
            Some(
                Ending::NotReady(_)
                | Ending::Interrupted(_)
                | Ending::Substrate(_)
                | Ending::TimedOut,
            ) => true,
            Some(Ending::Scheduled) | None => false,
        }
    }

    fn number(&mut self, seq: u64) {
        if self.ended.is_some() {
            let text = "records follow the end of the history";
            self.out.doubt(Code::HistoryDamaged, text, "", vec![seq]);
        }
        if seq != self.next_seq {
            let text = format!("record {} should follow and {seq} does", self.next_seq);
            let missing = seq.abs_diff(self.next_seq);
            let measurement = format!("{missing} records");
            self.out
                .doubt(Code::HistoryGap, text, measurement, vec![seq]);
        }
        self.next_seq = seq.saturating_add(1);
    }

    /// What is said of a node that the header does not know would be said of nobody.
    fn stranger(&mut self, record: &Record) {
        let node = match &record.body {
            Body::Node(it) => &it.node,
            Body::Exit(it) => &it.node,
            Body::Sample(it) => &it.node,
            Body::Gap(it) => &it.node,
            Body::Ping(it) => &it.node,
            Body::Event(it) => &it.node,
            Body::Evidence(it) => &it.node,
            Body::Limit(it) => &it.node,
            Body::Impact(it) => &it.node,
            Body::Header(_)
            | Body::Step(_)
            | Body::Layer(_)
            | Body::Interrupt(_)
            | Body::TornDown(_)
            | Body::End(_) => return,
        };
        if !self.world.nodes.contains_key(node) {
            let text = "there is a record of a node that the header does not know";
            let name: String = node.escape_debug().take(64).collect();
            self.out
                .doubt(Code::HistoryDamaged, text, name, vec![record.seq]);
        }
    }

    /// Every layer from genesis on has a record; oracles decide at layers, so a missing one is a hole.
    fn layer(&mut self, layer: i64, record: &Record) {
        let seq = record.seq;
        let expected = match self.world.last_layer {
            Some(last) => last.saturating_add(1),
            None => layer.min(0),
        };
        if layer != expected && !self.world.stopping {
            let text = format!("layer {expected} should have ended and {layer} did");
            let missing = crate::time::layers(layer.abs_diff(expected));
            self.out.doubt(Code::ObserverGap, text, missing, vec![seq]);
        }
        // Layers and times must tell the same story, or every bound is a guess.
        let end = self.world.layer_start_ns(layer.saturating_add(1));
        let slack = self.world.layer_ns() / oracles::LATE_PART;
        if record.t_ns.saturating_add(slack) < end {
            let text = format!("layer {layer} is recorded as over before its time");
            let early = format!("{} ns", end - record.t_ns);
            self.out.doubt(Code::HistoryDamaged, text, early, vec![seq]);
        }
    }

    fn finish_oracles(&mut self, cut_short: bool) {
        let kept = self.out.reasons.len();
        let world = &self.world;
        for seat in &mut self.seats {
            seat.hears(&mut self.out, |oracle, out| {
                oracle.finish(world, out);
                let report = oracle.report(world);
                if report.data.had < report.data.least {
                    let (what, data) = (report.what, report.data);
                    let text = format!("`{what}` had too little data: {}", data.what);
                    let measurement = format!("{} of at least {}", data.had, data.least);
                    out.doubt(Code::NoData, text, measurement, vec![world.now.seq]);
                }
            });
        }
        if cut_short {
            let mut place = 0;
            let mut moot = Vec::new();
            self.out.reasons.retain(|reason| {
                place += 1;
                let kept =
                    place <= kept || !matches!(reason.code, Code::NoData | Code::NotDemanded);
                if !kept {
                    moot.push(reason.text.clone());
                }
                kept
            });
            for seat in &mut self.seats {
                seat.doubts.retain(|doubt| !moot.contains(doubt));
            }
        }
    }

    fn finish_history(&mut self) {
        let last = vec![self.world.now.seq];
        let out = &mut self.out;
        match &self.ended {
            None => out.doubt(
                Code::HistoryUnfinished,
                "the history has no end: the harness was stopped, or the file was cut",
                format!("{} records", self.next_seq),
                last,
            ),
            Some(Ending::NotReady(missing)) => {
                let text = format!("not ready before genesis: {}", missing.join(", "));
                out.doubt(Code::NotReady, text, "", last);
                for (node, (why, seq)) in &self.unready {
                    if missing.contains(node) {
                        out.doubt(Code::NotReady, format!("{node} is {why}"), "", vec![*seq]);
                    }
                }
            }
            Some(Ending::Substrate(why)) => {
                out.doubt(
                    Code::Substrate,
                    format!("the substrate failed: {why}"),
                    "",
                    last,
                );
            }
            Some(Ending::TimedOut) => out.doubt(
                Code::TimedOut,
                "the run took longer than --timeout allows",
                "",
                last,
            ),
            Some(Ending::Interrupted(signal)) => {
                self.interrupted.get_or_insert(*signal);
            }
            Some(Ending::Scheduled | Ending::Early) => {
                if self.left.is_none() {
                    let text = "the history does not say whether everything of the run is gone";
                    out.doubt(Code::HistoryUnfinished, text, "", last.clone());
                }
                let mut unended = self.world.nodes.iter().filter(|(_, view)| {
                    // One that was there before and stays is as it should be while it is ready.
                    let stays = self.header.nodes_stay && view.state == Some(NodeState::Ready);
                    !stays && view.state.is_some_and(|state| state != NodeState::Dead)
                });
                if let Some((node, _)) = unended.next() {
                    let text = format!("the history does not say how {node} ended");
                    let measurement = format!("{} nodes", 1 + unended.count());
                    out.doubt(Code::HistoryGap, text, measurement, last.clone());
                }
                let stopped = self.stopped_ns.unwrap_or(self.world.now.t_ns);
                let instant = self.world.calendar.instant(self.world.genesis_ns, stopped);
                // The layer that was running has no record, and the one before may still be on its way.
                let least = instant.layer().saturating_sub(2);
                if least >= 0 && self.world.last_layer.is_none_or(|layer| layer < least) {
                    let text = format!("no layer record up to layer {least}");
                    out.doubt(Code::ObserverGap, text, "", last);
                }
            }
        }
        if let Some(signal) = self.interrupted {
            let text = format!("signal {signal} interrupted the run");
            let records = vec![self.world.now.seq];
            self.out.doubt(Code::Interrupted, text, "", records);
        }
    }

    fn expectations(
        &self,
        findings: &[Finding],
        doubtful: &[Finding],
        cut_short: bool,
    ) -> Vec<Expectation> {
        let judged = |seat: &Seat| {
            let mut report = seat.oracle.report(&self.world);
            let own = findings.iter().enumerate();
            let own = own.filter(|(_, it)| seat.oracle.owns(it));
            report.findings = own.map(|(place, _)| place).collect();
            report.doubts.clone_from(&seat.doubts);
            for finding in doubtful.iter().filter(|it| seat.oracle.owns(it)) {
                let why = self.why_doubtful(seat, finding);
                if let Some(why) = why.filter(|why| !report.doubts.iter().any(|it| it == why)) {
                    report.doubts.push(why.to_owned());
                }
            }
            let mut broken = report.findings.iter();
            let broken = broken.any(|place| findings[*place].counts);
            let unsure = seat.doubted
                || !report.doubts.is_empty()
                || cut_short && !report.always
                || self.ended.is_none();
            report.held = match (broken, unsure) {
                (true, _) => Held::No,
                (false, true) => Held::Unknown,
                (false, false) => Held::Yes,
            };
            report
        };
        self.seats.iter().map(judged).collect()
    }

    fn timings(&self) -> Timings {
        let mut fresh = Vec::new();
        for seat in &self.seats {
            fresh.extend(seat.oracle.fresh(&self.world));
        }
        Timings {
            fresh_after: fresh,
            ..Timings::default()
        }
    }

    fn run_info(&self) -> RunInfo {
        let header = &self.header;
        RunInfo {
            run: header.run.clone(),
            plan: header.plan.clone(),
            release: header.release.clone(),
            seed: header.schedule.seed,
            substrate: header.substrate.clone(),
            genesis_ns: header.genesis_ns,
            calendar: header.calendar,
            first_epoch: header.first_epoch,
            records: self.next_seq,
            layers: self.world.layers,
            void_layers: self.world.void_layers,
            control: header.control.clone(),
        }
    }
}

impl Watch for Judge {
    fn observe(&mut self, record: &Record) {
        Self::observe(self, record);
    }

    fn may_end(&self, t_ns: u64) -> bool {
        self.settled(t_ns)
    }
}

/// Judges a whole history.
///
/// # Errors
/// When nothing can be judged at all: no header, or one of another major version.
pub fn judge_history(
    lines: impl IntoIterator<Item = Result<Line, ReadError>>,
) -> Result<Verdict, ReadError> {
    let mut lines = lines.into_iter();
    let no_header = |why: &str| ReadError::NoHeader {
        why: why.to_owned(),
    };
    let first = match lines.next() {
        None => return Err(no_header("it is empty")),
        Some(Err(error @ ReadError::Format { .. })) => return Err(error),
        Some(Err(error)) => return Err(no_header(&error.to_string())),
        Some(Ok(Line::Unknown { kind, .. })) => return Err(no_header(&kind)),
        Some(Ok(Line::Record(record))) => record,
    };
    let Body::Header(header) = &first.body else {
        return Err(no_header("another record comes first"));
    };
    let mut judge = Judge::new(header)?;
    judge.observe(&first);
    for line in lines {
        judge.read(line.as_ref());
    }
    Ok(judge.finish())
}

fn first_begun(faults: &[crate::verdict::FaultReport], entry: &str) -> Option<u64> {
    let of_entry = faults.iter().filter(|fault| fault.entry == entry);
    of_entry.filter_map(|fault| fault.begun_ns).min()
}

/// Whether parameters are as their table declares them: a history is a file, and files get edited.
fn declared(table: &[crate::params::Param], params: &Params) -> bool {
    table.iter().all(|param| match params.get(param.name) {
        None => param.need == Need::Optional,
        Some(value) => matches!(
            (param.shape, value),
            (Shape::Nodes, Value::Nodes(_))
                | (
                    Shape::Count { .. } | Shape::Size | Shape::Cpus,
                    Value::Count(_)
                )
                | (Shape::Span, Value::Span(_))
                | (Shape::Duration, Value::Duration(_))
                | (
                    Shape::OneOf(_) | Shape::Signal | Shape::Heal,
                    Value::Text(_)
                )
                | (Shape::Flag, Value::Flag(_))
                | (Shape::Capacity, Value::Capacity(_))
        ),
    })
}
