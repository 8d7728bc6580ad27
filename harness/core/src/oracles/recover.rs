//! `recover`: after the named heal every expected signal advances freshly, then the network converges.

use super::gives::add;
use super::groups::{Group, groups};
use super::world::{Mark, World};
use super::{Asked, Gives, Never, Oracle, OracleKind, Output, too_much};
use crate::findings;
use crate::history::{Body, Header, HealInfo, Record};
use crate::params::{Need, Param, Params, Shape};
use crate::plan::model::Plan;
use crate::time::{ProtocolTime, Span, layers};
use crate::verdict::{Code, Data, Expectation, Finding, Fresh};

#[derive(Debug)]
pub(super) struct Recover;

const PARAMS: &[Param] = &[
    Param {
        name: "after",
        shape: Shape::Heal,
        need: Need::Required,
        doc: "Which heal, as `heal all`.",
    },
    Param {
        name: "within",
        shape: Shape::Span,
        need: Need::Required,
        doc: "How long fresh progress of every expected signal may take.",
    },
];

impl OracleKind for Recover {
    fn name(&self) -> &'static str {
        "recover"
    }

    fn summary(&self) -> &'static str {
        "Every signal that some expectation names advances freshly after the heal, within the bound."
    }

    fn example(&self) -> &'static str {
        "{ after: heal all, within: 3 epochs }"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn check(&self, _params: &Params, _plan: &Plan) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn rests_on(&self) -> Option<&'static str> {
        Some("advance")
    }

    fn gives(&self) -> &'static [Gives] {
        &[Gives {
            kind: findings::UNRECOVERED,
            can: awaited,
        }]
    }

    fn bound(&self, params: &Params) -> Option<Span> {
        Some(params.span("within"))
    }

    fn build(&self, params: &Params, header: &Header) -> Box<dyn Oracle> {
        Box::new(Recovers::new(params, header))
    }
}

/// It awaits what an `advance` expects.
fn awaited(asked: &Asked<'_>) -> Result<(), Never> {
    if asked.expected("recover").next().is_some() {
        return asked.advances();
    }
    Err(Never {
        why: "the plan has no `recover`".to_owned(),
        hint: add("recover"),
    })
}

/// A signal that must advance freshly.
#[derive(Debug, Clone)]
struct Awaited {
    signal: String,
    group: Group,
    /// Whether it advanced before the first fault, known once that began.
    steady: Option<bool>,
    /// The first advance after the heal.
    fresh: Option<Mark>,
    /// Its own finding, if it has one.
    charged: Option<usize>,
}

/// The fold behind `recover`.
///
/// Excused is only what no heal takes back: a node that the heal restarts owes progress within the bound, its start
/// included. A signal that did not advance before the first fault either says nothing about it: then the plan may look
/// at the wrong place, and there is a doubt with what kept it from being read, not a finding. A signal or node with an open finding is not found twice; the open one notes that it did not recover.
#[derive(Debug, Clone)]
struct Recovers {
    after: String,
    heal: HealInfo,
    within: Span,
    within_ns: u64,
    healed: Option<Mark>,
    awaited: Vec<Awaited>,
    overdue: bool,
    layers: u64,
    void_layers: u64,
}

impl Recovers {
    fn new(params: &Params, header: &Header) -> Self {
        let after = params.text("after").to_owned();
        let within = params.span("within");
        let mut awaited: Vec<Awaited> = Vec::new();
        for expect in header.expect.iter().filter(|it| it.kind == "advance") {
            let signal = expect.params.text("signal");
            for group in groups(expect.params.nodes("of"), header) {
                if !awaited
                    .iter()
                    .any(|it| it.signal == signal && it.group == group)
                {
                    awaited.push(Awaited {
                        signal: signal.to_owned(),
                        group,
                        steady: None,
                        fresh: None,
                        charged: None,
                    });
                }
            }
        }
        // Histories of before format 1.3 do not say what a heal means.
        let all = || HealInfo {
            at: header.schedule.healed_at.unwrap_or(ProtocolTime::GENESIS),
            of: None,
        };
        Self {
            heal: header.heals.get(&after).cloned().unwrap_or_else(all),
            after,
            within,
            within_ns: header.calendar.ns_of(within),
            healed: None,
            awaited,
            overdue: false,
            layers: 0,
            void_layers: 0,
        }
    }

    /// Takes what has advanced since the heal.
    fn look(&mut self, world: &World, out: &mut Output) {
        let Some(healed) = self.healed else {
            return;
        };
        for awaited in &mut self.awaited {
            if awaited.fresh.is_some() {
                continue;
            }
            let advanced = awaited.group.advanced(world, &awaited.signal);
            awaited.fresh = advanced.filter(|at| at.seq > healed.seq);
            if let Some(fresh) = awaited.fresh {
                out.recovered(awaited.charged, fresh.t_ns);
            }
        }
    }

    fn layer_ended(&mut self, world: &World, out: &mut Output) {
        let Some(healed) = self.healed else {
            return;
        };
        if world.stopping || self.overdue {
            return;
        }
        self.layers += 1;
        self.void_layers += u64::from(world.last_layer_void);
        if world.void.elapsed(healed.t_ns, world.now.t_ns) <= self.within_ns {
            return;
        }
        self.overdue = true;
        let due_ns = world.void.later(healed.t_ns, self.within_ns);
        for awaited in &mut self.awaited {
            if awaited.fresh.is_some() || !owes(&awaited.group, world) {
                continue;
            }
            let lost = awaited.group.lost(world, &awaited.signal);
            if awaited.steady == Some(false) {
                unsteady(awaited, &self.after, world, out);
            } else if let Some(lost) = lost.filter(|lost| *lost >= healed) {
                let text = format!(
                    "`{}` of {} may have advanced after {}: part of what was printed was lost",
                    awaited.signal, awaited.group.label, self.after
                );
                out.doubt(Code::ObserverGap, text, "", vec![healed.seq, lost.seq]);
            } else {
                awaited.charged = charge(
                    awaited,
                    &self.after,
                    self.within,
                    [healed, world.now],
                    due_ns,
                    out,
                );
            }
        }
    }

    fn unfit(&self) -> bool {
        too_much(self.void_layers, self.layers)
    }

    /// How the note on somebody else's finding ends that stands for one of this oracle's own.
    fn unmet(&self) -> String {
        unmet(self.within, &self.after)
    }
}

fn unmet(within: Span, after: &str) -> String {
    format!("did not recover within {within} after {after}")
}

/// Nothing can be said of a signal that had not advanced before the first fault either.
fn unsteady(awaited: &Awaited, after: &str, world: &World, out: &mut Output) {
    let (signal, group) = (&awaited.signal, &awaited.group);
    let (code, text) = match group.unread(world, signal) {
        Some(why) => (
            Code::ObserverGap,
            format!(
                "`{signal}` of {} was never read, so nobody knows whether it advanced after {after}: {why}",
                group.label
            ),
        ),
        None => (
            Code::SteadyStateNotReached,
            format!(
                "`{signal}` of {} never advanced before the first fault either, so nothing shows what {after} changed",
                group.label
            ),
        ),
    };
    let measurement = format!("{} samples", group.samples(world, signal));
    out.doubt(code, text, measurement, vec![world.now.seq]);
}

/// Whether enough of a group's nodes are free, or were healed and so should be.
fn owes(group: &Group, world: &World) -> bool {
    let excused = group
        .members
        .iter()
        .filter_map(|node| world.nodes.get(node))
        .filter(|view| view.excused_for_good())
        .count();
    group.members.len() - excused >= group.quorum
}

fn charge(
    awaited: &Awaited,
    after: &str,
    within: Span,
    [healed, now]: [Mark; 2],
    due_ns: u64,
    out: &mut Output,
) -> Option<usize> {
    let group = &awaited.group;
    let open = out.findings.iter_mut().find(|finding| {
        let stall = findings::STALLED.about(&finding.id) == Some(&awaited.signal)
            && finding.node.as_deref() == group.node()
            && finding.role == group.role;
        let node = finding.node.is_some() && finding.node.as_deref() == group.node();
        let all = finding.id == findings::ALL_DEAD.id && finding.role == group.role;
        let silent = node
            && ["crash/", "hang/"]
                .iter()
                .any(|area| finding.id.starts_with(area));
        finding.recovered_ns.is_none() && (stall || all || silent)
    });
    if let Some(open) = open {
        let unmet = unmet(within, after);
        open.notes.push(format!("`{}` {unmet}", awaited.signal));
        return None;
    }
    out.find(Finding {
        id: findings::UNRECOVERED.of(&awaited.signal),
        node: group.node().map(str::to_owned),
        role: group.role.clone(),
        due_ns,
        proved_ns: now.t_ns,
        since_ns: Some(healed.t_ns),
        records: vec![healed.seq, now.seq],
        text: format!(
            "`{}` of {} made no fresh advance within {within} after {after}",
            awaited.signal, group.label
        ),
        counts: true,
        ..Finding::default()
    })
}

impl Oracle for Recovers {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        if world.first_fault.is_some() {
            for awaited in &mut self.awaited {
                let (group, signal) = (&awaited.group, &awaited.signal);
                let steady = || group.advanced(world, signal).is_some();
                awaited.steady.get_or_insert_with(steady);
            }
        }
        if self.healed.is_none() {
            self.healed = world.healed(&self.heal);
        }
        match &record.body {
            Body::Sample(_) => self.look(world, out),
            Body::Layer(_) => self.layer_ended(world, out),
            _ => {}
        }
    }

    fn finish(&mut self, world: &World, out: &mut Output) {
        let records = vec![world.now.seq];
        let missing: Vec<String> = self
            .awaited
            .iter()
            .filter(|awaited| awaited.fresh.is_none() && owes(&awaited.group, world))
            .map(|awaited| format!("`{}` of {}", awaited.signal, awaited.group.label))
            .collect();
        if self.healed.is_none() {
            let text = format!(
                "{} was never carried out, so nothing shows a recovery",
                self.after
            );
            out.doubt(Code::NoData, text, "", records);
        } else if !missing.is_empty() && !self.overdue {
            let text = format!(
                "the run ended before {} had {} to recover: {}",
                self.after,
                self.within,
                missing.join(", ")
            );
            let measurement = layers(self.layers);
            out.doubt(Code::NoData, text, measurement, records);
        } else if self.overdue && self.unfit() {
            let text = format!("the host was unfit for too long after {}", self.after);
            let measurement = format!("{} of {}", self.void_layers, layers(self.layers));
            out.doubt(Code::VoidLayers, text, measurement, records);
        }
    }

    fn report(&self, world: &World) -> Expectation {
        // The slowest; none at all when one never came.
        let fresh = self.fresh(world);
        let worst = fresh
            .iter()
            .map(|fresh| fresh.layers)
            .try_fold(0.0_f64, |worst, layers| Some(worst.max(layers?)))
            .filter(|_| !fresh.is_empty());
        let had = self.awaited.iter().filter(|it| it.fresh.is_some()).count();
        let data = Data {
            what: "signals that advanced freshly".to_owned(),
            least: 1,
            had: had as u64,
        };
        let what = format!("recover within {} after {}", self.within, self.after);
        Expectation {
            bound_layers: Some(self.within.in_layers()),
            worst_layers: worst,
            demanded_layers: self.healed.map(|_| self.layers),
            void_layers: self.void_layers,
            ..Expectation::new(what, "recover", false, data)
        }
    }

    fn settled(&self, world: &World) -> bool {
        let held = |awaited: &Awaited| awaited.fresh.is_some() || !owes(&awaited.group, world);
        self.healed.is_some() && self.awaited.iter().all(held)
    }

    fn owns(&self, finding: &Finding) -> bool {
        // One that was open already and did not recover breaks this expectation as well.
        let unmet = self.unmet();
        findings::UNRECOVERED.about(&finding.id).is_some()
            || finding.notes.iter().any(|note| note.ends_with(&unmet))
    }

    fn unfit(&self, finding: &Finding) -> bool {
        findings::UNRECOVERED.about(&finding.id).is_some() && self.unfit()
    }

    fn fresh(&self, world: &World) -> Vec<Fresh> {
        let Some(healed) = self.healed else {
            return Vec::new();
        };
        let layers = |at: Mark| world.in_layers(world.void.elapsed(healed.t_ns, at.t_ns));
        self.awaited
            .iter()
            .map(|awaited| Fresh {
                signal: awaited.signal.clone(),
                of: awaited.group.label.clone(),
                layers: awaited.fresh.map(layers),
            })
            .collect()
    }
}
