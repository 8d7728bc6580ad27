//! Tiers: where nodes can live, how each does what faults need, and how good its evidence is. Data only.
//!
//! The conformance table of the docs is drawn from here and from the registry of faults. To add a tier: a [`Tier`] with its
//! table of steps, a line in [`TIERS`], a module that tries its steps.

use std::fmt::Write as _;

use tweedledum_core::capability::Capability;
use tweedledum_core::faults::{self, FaultKind};
use tweedledum_core::history::Grade;
use tweedledum_core::substrate::SubstrateKind;

use super::steps::{self, StepRow};
use crate::substrate::docker::attached::CAPABILITIES;

/// How a tier does what a capability means.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// The mechanism.
    pub done: &'static str,
    /// The probe that sees it, which does not depend on how the target behaves.
    pub seen: &'static str,
    /// The best grade that a run can record.
    pub grade: Grade,
}

/// A place where nodes can live.
#[derive(Debug)]
pub struct Tier {
    /// `SUBSTRATE/TIER`, or the substrate where it has one tier.
    pub name: &'static str,
    /// Its substrate.
    pub substrate: SubstrateKind,
    /// Whether runs can use it yet, and what to say where they cannot.
    pub built: Result<(), &'static str>,
    /// How it does each capability; `None` is not at all.
    pub how: fn(Capability) -> Option<How>,
    /// What `doctor` tries.
    pub steps: &'static [StepRow],
}

/// Every tier.
pub static TIERS: &[Tier] = &[
    Tier {
        name: "process/shared",
        substrate: SubstrateKind::Process,
        built: Ok(()),
        how: shared,
        steps: steps::SHARED,
    },
    Tier {
        name: "process/isolated",
        substrate: SubstrateKind::Process,
        built: Err("not built yet: nodes with a network of their own come with link faults"),
        how: |_| None,
        steps: steps::ISOLATED,
    },
    Tier {
        name: "docker",
        substrate: SubstrateKind::Docker,
        built: Ok(()),
        how: docker,
        steps: steps::DOCKER,
    },
];

fn shared(capability: Capability) -> Option<How> {
    let how = |done, seen, grade| Some(How { done, seen, grade });
    match capability {
        Capability::Kill => how(
            "signal by pidfd",
            "pidfd readable, exit status",
            Grade::Felt,
        ),
        Capability::Start => how(
            "a new process on the same data and address",
            "ready by its role's check",
            Grade::Applied,
        ),
        Capability::Freeze => how(
            "SIGSTOP and SIGCONT to its whole family",
            "every thread in state T, none on a CPU, no answer to a ping",
            Grade::Felt,
        ),
        Capability::Flood => how(
            "UDP sockets of the harness, one per source",
            "sent less the rise of `drops` of its socket in /proc/net/udp",
            Grade::Felt,
        ),
        Capability::Disk => how(
            "seccomp user notification and a ledger of its blocks",
            "a child under the same filter asks for more than there is: ENOSPC, and not after",
            Grade::Felt,
        ),
        Capability::Operate => how(
            "a request to its API",
            "its answer, and what its API shows then",
            Grade::Felt,
        ),
        Capability::Memory => how(
            "a cgroup of its own",
            "the cgroup that its process is found in has the cap, and not after; felt is that the kernel refused it memory or killed it for lack of it",
            Grade::Felt,
        ),
        Capability::Cpu => how(
            "a cgroup of its own",
            "the cgroup that its process is found in has the quota, and not after; felt is that it was throttled",
            Grade::Felt,
        ),
        Capability::Pids => how(
            "a cgroup of its own",
            "the cgroup that its process is found in has the cap, and not after; felt is that a fork was refused",
            Grade::Felt,
        ),
    }
}

fn docker(capability: Capability) -> Option<How> {
    let how = |done, seen, grade| Some(How { done, seen, grade });
    match capability {
        Capability::Kill => how(
            "kill through the engine's API",
            "the engine tells the death and its signal",
            Grade::Felt,
        ),
        Capability::Start => how(
            "start of the same container in its pod, which keeps address and data",
            "ready by its role's check, asked by the agent",
            Grade::Applied,
        ),
        Capability::Freeze => how(
            "pause and unpause through the engine's API",
            "the engine shows it paused, the agent sees nothing of it at work, no answer to a ping",
            Grade::Felt,
        ),
        Capability::Flood => how(
            "UDP sockets of the pod's agent, one per source",
            "sent less the rise of `drops` of its socket in the pod's /proc/net/udp",
            Grade::Felt,
        ),
        Capability::Disk => how(
            "a tmpfs volume of a size, and ballast of the agent",
            "the agent asks for more than there is: ENOSPC (below the volume's size by the count of free blocks, since asking would fill it), and after by the same count and a block that it gets; felt is no free block left",
            Grade::Felt,
        ),
        Capability::Operate => how(
            "a request to its API, by the agent",
            "its answer, and what its API shows then",
            Grade::Felt,
        ),
        Capability::Memory => how(
            "live update through the engine's API",
            "the agent finds the cap in the cgroup of the node's own process, and not after; felt is that the kernel refused it memory or killed it for lack of it",
            Grade::Felt,
        ),
        Capability::Cpu => how(
            "live update through the engine's API",
            "the agent finds the quota in the cgroup of the node's own process, and not after; felt is that it was throttled",
            Grade::Felt,
        ),
        Capability::Pids => how(
            "live update through the engine's API",
            "the agent finds the cap in the cgroup of the node's own process, and not after; felt is that a fork was refused",
            Grade::Felt,
        ),
    }
}

/// Why a fault cannot be carried out on a substrate on any machine; `None` where one of its tiers can.
pub fn lacks(substrate: SubstrateKind, kind: &dyn FaultKind) -> Option<String> {
    let tiers = TIERS.iter().filter(|tier| tier.substrate == substrate);
    let lacking: Vec<String> = tiers.clone().filter_map(|tier| never(tier, kind)).collect();
    (lacking.len() == tiers.count()).then(|| lacking.join("; "))
}

/// Why a fault cannot be carried out in a tier on any machine; `None` where it can on some.
pub(super) fn never(tier: &Tier, kind: &dyn FaultKind) -> Option<String> {
    if let Err(why) = tier.built {
        return Some(why.to_owned());
    }
    cannot(tier.name, kind, |need| (tier.how)(need).is_some())
}

/// Why a fault cannot be carried out on a project that is attached to, whoever it is drawn to hit; `None` where it can.
pub fn lacks_attached(kind: &dyn FaultKind) -> Option<String> {
    cannot("attach", kind, |need| CAPABILITIES.contains(&need))
}

/// The first that a fault needs and somebody cannot do.
fn cannot(who: &str, kind: &dyn FaultKind, can: impl Fn(Capability) -> bool) -> Option<String> {
    let missing = kind.needs().iter().find(|need| !can(**need))?;
    Some(format!("{who} cannot {}", missing.means()))
}

/// The best grade that a run can record of a fault: that of what begins it.
pub(super) fn grade(tier: &Tier, kind: &dyn FaultKind) -> Option<Grade> {
    let begins = kind.needs().first()?;
    Some((tier.how)(*begins)?.grade)
}

/// The name of a grade in texts.
pub const fn word(grade: Grade) -> &'static str {
    match grade {
        Grade::Armed => "armed",
        Grade::Applied => "applied",
        Grade::Gone => "gone",
        Grade::Felt => "felt",
    }
}

/// The conformance table: every fault kind in every tier, how it is done, what sees it, and the grade. Markdown.
pub fn conformance() -> String {
    let mut out = String::from(
        "<!-- Generated by `tweedledum list conformance`; a test holds that it is what that prints. -->\n\
         # Conformance\n\n\
         What each fault kind needs of a substrate, how each tier does it, which probe sees it, and the best grade of evidence that \
         a run can record. A verdict needs *applied*; *felt* is asked for by `must-be-felt`, and of one target at least by every control that must fail. What a tier does on some machine, \
         `tweedledum doctor` tries on yours.\n\n\
         | fault | tier | how | applied means | grade |\n|---|---|---|---|---|\n",
    );
    for kind in faults::ALL {
        for tier in TIERS {
            let name = kind.name();
            if let Some(why) = never(tier, *kind) {
                let _ = writeln!(out, "| `{name}` | {} | {why} | | |", tier.name);
                continue;
            }
            let hows = kind.needs().iter().filter_map(|need| (tier.how)(*need));
            let column = |of: fn(&How) -> &'static str| {
                let told: Vec<&str> = hows.clone().map(|how| of(&how)).collect();
                told.join("; ")
            };
            let grade = grade(tier, *kind).map_or("", word);
            let _ = writeln!(
                out,
                "| `{name}` | {} | {} | {} | {grade} |",
                tier.name,
                column(|how| how.done),
                column(|how| how.seen),
            );
        }
    }
    let names = |attached: bool| {
        let kinds = faults::ALL.iter();
        let kinds = kinds.filter(|kind| lacks_attached(**kind).is_none() == attached);
        let names: Vec<String> = kinds.map(|kind| format!("`{}`", kind.name())).collect();
        names.join(", ")
    };
    let _ = writeln!(
        out,
        "\n`tweedledum attach` carries out {} on a compose project that runs, and refuses {}: what they need is the project's own.",
        names(true),
        names(false),
    );
    let spare: Vec<Capability> = Capability::ALL
        .iter()
        .copied()
        .filter(|capability| {
            faults::ALL
                .iter()
                .all(|kind| !kind.needs().contains(capability))
        })
        .collect();
    if !spare.is_empty() {
        out.push_str(
            "\nWhat substrates can do and no fault kind asks for yet:\n\n| capability | tier | how | read back |\n|---|---|---|---|\n",
        );
        for capability in spare {
            for tier in TIERS {
                if let Some(how) = (tier.how)(capability) {
                    let _ = writeln!(
                        out,
                        "| {} | {} | {} | {} |",
                        capability.means(),
                        tier.name,
                        how.done,
                        how.seen
                    );
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::steps::Serves;
    use super::*;

    #[test]
    fn tables_are_sound() {
        for tier in TIERS {
            let mut names = BTreeSet::new();
            let mut before = BTreeSet::new();
            for row in tier.steps {
                assert!(names.insert(row.name), "{}: {} twice", tier.name, row.name);
                for after in row.after {
                    assert!(
                        before.contains(after),
                        "{}: {} comes before what it needs",
                        tier.name,
                        row.name
                    );
                }
                before.insert(row.step);
                assert!(!row.fix.is_empty() && !row.tries.is_empty(), "{}", row.name);
            }
        }
    }

    #[test]
    fn every_substrate_has_a_tier() {
        for kind in SubstrateKind::ALL {
            let mut tiers = TIERS.iter();
            let word = kind.word();
            assert!(tiers.any(|tier| tier.substrate == *kind), "{word}");
        }
    }

    #[test]
    fn what_a_tier_says_it_can_do_is_tried() {
        for tier in TIERS.iter().filter(|tier| tier.built.is_ok()) {
            assert!(
                tier.steps
                    .iter()
                    .any(|row| row.serves == Serves::Everything),
                "{} has no ground",
                tier.name
            );
            for capability in Capability::ALL {
                // Operators need an address to speak to and nothing else, which the ground gives.
                if (tier.how)(*capability).is_none() || *capability == Capability::Operate {
                    continue;
                }
                let ground = tier.name == "process/shared"
                    && matches!(capability, Capability::Kill | Capability::Start);
                let tried = tier.steps.iter().any(
                    |row| matches!(row.serves, Serves::Only(served) if served.contains(capability)),
                );
                assert!(
                    tried || ground,
                    "{}: nothing tries {capability:?}",
                    tier.name
                );
            }
        }
    }
}
