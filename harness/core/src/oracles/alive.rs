//! `alive`: no node ends by itself, every stop is orderly, and never do all nodes of a role die. Runs in every plan.
//!
//! A death that the harness caused is not a finding. Every other one is classified: a panic by the component it happened
//! in, else by signal or exit code. Deaths before genesis are the substrate's business (the run does not begin), not the
//! release's.

use std::collections::{BTreeMap, BTreeSet};

use super::gives::anywhere;
use super::world::World;
use super::{Asked, Gives, Never, Oracle, Output, Unasked};
use crate::findings;
use crate::history::{Body, Death, Exit, ExitStatus, Header, NodeState, Panic, Record};
use crate::plan::model::Role;
use crate::schedule::Action;
use crate::verdict::{Code, Data, Expectation, Finding};

/// A role of one node has no "all": its crash says everything.
const ALL_MIN: usize = 2;

fn several(asked: &Asked<'_>) -> Result<(), Never> {
    let many = |role: &Role| {
        let nodes = asked
            .plan
            .nodes
            .iter()
            .filter(|node| node.role == role.name);
        nodes.count() >= ALL_MIN
    };
    let words = ["has two nodes or more", "has one node"];
    let otherwise = "name the node's own crash, as crash/exit, or give the role another node";
    asked.has(many, words, otherwise)
}

const SIGKILL: i32 = 9;
const SIGXFSZ: i32 = 25;

/// How much of its output explains why a node did not start: an error message and what led to it.
const LAST_LINES: usize = 4;
const LAST_CHARS: usize = 200;

/// What it gives, and how it is built.
pub(super) const UNASKED: Unasked = Unasked {
    gives: &[
        Gives {
            kind: findings::CRASH_COMPONENT,
            can: anywhere,
        },
        Gives {
            kind: findings::CRASH_PANIC,
            can: anywhere,
        },
        Gives {
            kind: findings::CRASH_EXIT,
            can: anywhere,
        },
        Gives {
            kind: findings::CRASH_SIGNAL,
            can: anywhere,
        },
        Gives {
            kind: findings::CRASH_MEMORY,
            can: anywhere,
        },
        Gives {
            kind: findings::ALL_DEAD,
            can: several,
        },
        Gives {
            kind: findings::STOP_IGNORED,
            can: anywhere,
        },
        Gives {
            kind: findings::STOP_EXIT_CODE,
            can: anywhere,
        },
    ],
    build: |header| Some(Box::new(Alive::new(header))),
};

#[derive(Debug, Clone)]
pub(super) struct Alive {
    roles: BTreeMap<String, BTreeSet<String>>,
    /// Crash of each node that has not come back: its place and the record.
    open: BTreeMap<String, (Option<usize>, u64)>,
    /// `role/all-dead` that is not over.
    all_dead: BTreeMap<String, Option<usize>>,
    ready: BTreeSet<String>,
}

impl Alive {
    pub(super) fn new(header: &Header) -> Self {
        let mut roles: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in &header.nodes {
            roles
                .entry(node.role.clone())
                .or_default()
                .insert(node.name.clone());
        }
        Self {
            roles,
            open: BTreeMap::new(),
            all_dead: BTreeMap::new(),
            ready: BTreeSet::new(),
        }
    }

    fn exit(&mut self, record: &Record, exit: &Exit, world: &World, out: &mut Output) {
        let finding = |id: String, text: String, counts: bool| Finding {
            id,
            node: Some(exit.node.clone()),
            role: world.nodes.get(&exit.node).map(|view| view.role.clone()),
            due_ns: record.t_ns,
            proved_ns: record.t_ns,
            records: vec![record.seq],
            text,
            counts,
            tail: exit.tail.clone(),
            ..Finding::default()
        };
        match &exit.death {
            Death::Itself(status) if record.t_ns < world.genesis_ns => {
                let text = format!(
                    "{} {} before genesis; {}",
                    exit.node,
                    ended(*status),
                    last_words(&exit.tail)
                );
                out.doubt(Code::NotReady, text, "", vec![record.seq]);
            }
            // The run ends with it, and its end says so.
            Death::Itself(status) if status.is_hosts() && exit.panic.is_none() => {}
            Death::Itself(status) => {
                let (id, text) = crash(exit, *status);
                let place = out.find(finding(id, text, true));
                self.open.insert(exit.node.clone(), (place, record.seq));
                self.all_dead(record, world, out);
            }
            Death::Harness {
                step,
                ignored_stop,
                status,
            } => {
                // The kill was ours, the panic before it was not: a process may outlive one of its threads.
                if exit.panic.is_some() {
                    let (id, text) = crash(exit, *status);
                    out.find(finding(id, text, true));
                }
                if let Some((id, text, counts)) = stop(exit, *step, *ignored_stop, *status, world) {
                    out.find(finding(id, text, counts));
                }
            }
        }
    }

    /// Whether the node that just died was the last of its role.
    fn all_dead(&mut self, record: &Record, world: &World, out: &mut Output) {
        for (role, nodes) in &self.roles {
            let dead = |node: &String| world.dead_by_itself(node);
            if nodes.len() < ALL_MIN || self.all_dead.contains_key(role) || !nodes.iter().all(dead)
            {
                continue;
            }
            let mut records: Vec<u64> = nodes
                .iter()
                .filter_map(|node| self.open.get(node).map(|(_, seq)| *seq))
                .collect();
            records.sort_unstable();
            let place = out.find(Finding {
                id: findings::ALL_DEAD.id.to_owned(),
                node: None,
                role: Some(role.clone()),
                due_ns: record.t_ns,
                proved_ns: record.t_ns,
                records,
                text: format!("all {} nodes of role {role} are dead", nodes.len()),
                counts: true,
                ..Finding::default()
            });
            self.all_dead.insert(role.clone(), place);
        }
    }

    /// A node is ready: whatever it died of is over.
    fn back(&mut self, node: &str, world: &World, out: &mut Output) {
        self.ready.insert(node.to_owned());
        if let Some((place, _)) = self.open.remove(node) {
            out.recovered(place, world.now.t_ns);
        }
        let role = world.nodes.get(node).map(|view| view.role.clone());
        if let Some(place) = role.and_then(|role| self.all_dead.remove(&role)) {
            out.recovered(place, world.now.t_ns);
        }
    }
}

/// The id and the sentence of a death that the harness did not cause.
fn crash(exit: &Exit, status: ExitStatus) -> (String, String) {
    let node = &exit.node;
    match (&exit.panic, status) {
        (Some(panic), _) => {
            let place = panic.place.as_deref().unwrap_or("an unknown place");
            let id = component(panic).map_or_else(
                || findings::CRASH_PANIC.id.to_owned(),
                |component| findings::CRASH_COMPONENT.of(component),
            );
            (id, format!("{node} panicked at {place}: {}", panic.message))
        }
        (None, ExitStatus::Signal(SIGKILL)) => (
            findings::CRASH_SIGNAL.id.to_owned(),
            format!(
                "{node} was killed by signal 9, which the harness did not send: the kernel may have run out of memory"
            ),
        ),
        (None, ExitStatus::Signal(SIGXFSZ)) => (
            findings::CRASH_SIGNAL.id.to_owned(),
            format!(
                "{node} was ended by signal 25 (SIGXFSZ): it wrote beyond the limit that the machine sets to the size of a file, \
                 see `ulimit -f`"
            ),
        ),
        (None, ExitStatus::OutOfMemory) => (
            findings::CRASH_MEMORY.id.to_owned(),
            format!("{node} {}", ended(status)),
        ),
        (
            None,
            ExitStatus::Signal(_)
            | ExitStatus::HostOutOfMemory
            | ExitStatus::HostGone
            | ExitStatus::Foreign,
        ) => (
            findings::CRASH_SIGNAL.id.to_owned(),
            format!("{node} {}", ended(status)),
        ),
        (None, ExitStatus::Code(_) | ExitStatus::Lost) => (
            findings::CRASH_EXIT.id.to_owned(),
            format!("{node} {} without being asked to stop", ended(status)),
        ),
    }
}

/// The component of a panic as part of an id. A node names it, so anything that is no plain word is not believed.
fn component(panic: &Panic) -> Option<&str> {
    let plain = |name: &&str| {
        let mut chars = name.chars();
        name.len() <= 64
            && chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    // What is called as another kind of crash would be taken for that.
    let own = |name: &&str| {
        let kind = findings::by_id(&findings::CRASH_COMPONENT.of(name));
        kind == Some(&findings::CRASH_COMPONENT)
    };
    panic.component.as_deref().filter(plain).filter(own)
}

/// What is wrong with a stop that the harness asked for. It makes the run fail where the role says which exit codes
/// are orderly; a role that says nothing only has it told.
fn stop(
    exit: &Exit,
    step: Option<u32>,
    ignored: bool,
    status: ExitStatus,
    world: &World,
) -> Option<(String, String, bool)> {
    let view = world.nodes.get(&exit.node)?;
    let expected = &world.roles.get(&view.role)?.expect_exit;
    let counts = !expected.is_empty();
    let killed = step.is_some_and(|id| {
        let mut steps = world.schedule.steps.iter();
        steps.any(|step| step.id == id && matches!(step.action, Action::Kill { .. }))
    });
    // A life that never got as far as its own signal handling owes no orderly stop, and neither does one to which something
    // was done that the harness did not do.
    if killed || !view.was_ready || status.is_hosts() {
        return None;
    }
    let node = &exit.node;
    if ignored {
        let text =
            format!("{node} ignored its stop signal for the whole grace and had to be killed");
        return Some((findings::STOP_IGNORED.id.to_owned(), text, counts));
    }
    let orderly = match status {
        ExitStatus::Code(code) => expected.is_empty() || expected.contains(&code),
        // Also a SIGKILL: the harness sends none to those who were asked and still have time.
        _ => expected.is_empty(),
    };
    if orderly {
        return None;
    }
    let codes: Vec<String> = expected.iter().map(ToString::to_string).collect();
    let text = format!(
        "{node} {} when asked to stop, its role expects exit code {}",
        ended(status),
        codes.join(" or ")
    );
    Some((findings::STOP_EXIT_CODE.id.to_owned(), text, counts))
}

/// The end of what a node printed, short enough for a sentence.
fn last_words(tail: &[String]) -> String {
    let from = tail.len().saturating_sub(LAST_LINES);
    let cut = |text: &String| text.chars().take(LAST_CHARS).collect::<String>();
    let lines: Vec<String> = tail[from..].iter().map(cut).collect();
    if lines.is_empty() {
        "it printed nothing".to_owned()
    } else {
        format!("the last it printed: {}", lines.join(" / "))
    }
}

fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exited with code {code}"),
        ExitStatus::Signal(signal) => format!("was ended by signal {signal}"),
        ExitStatus::OutOfMemory => "was killed by the kernel for lack of memory".to_owned(),
        ExitStatus::HostOutOfMemory => {
            "was killed by the kernel for lack of memory on the host".to_owned()
        }
        ExitStatus::HostGone => {
            "was killed by the kernel with what the harness had put it into".to_owned()
        }
        ExitStatus::Foreign => "was ended by somebody else".to_owned(),
        ExitStatus::Lost => "ended nobody knows how, since another process reaped it".to_owned(),
    }
}

impl Oracle for Alive {
    fn observe(&mut self, record: &Record, world: &World, out: &mut Output) {
        match &record.body {
            Body::Exit(exit) => self.exit(record, exit, world, out),
            Body::Node(change) if change.state == NodeState::Ready => {
                self.back(&change.node, world, out);
            }
            _ => {}
        }
    }

    fn report(&self, world: &World) -> Expectation {
        let data = Data {
            what: "nodes that were ready".to_owned(),
            least: world.nodes.len() as u64,
            had: self.ready.len() as u64,
        };
        Expectation::new("no node dies by itself", "alive", true, data)
    }

    fn owns(&self, finding: &Finding) -> bool {
        ["crash/", "stop/", "role/"]
            .iter()
            .any(|area| finding.id.starts_with(area))
    }
}
