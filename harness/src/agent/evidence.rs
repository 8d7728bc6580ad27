//! Whether a flood was applied: did enough datagrams reach the target's socket in time?
//!
//! Applied does not depend on what the target did with them. A datagram that the kernel took and
//! did not drop counts; one that came back refused counts only if the target's socket was there
//! when the flood began, because then it was the target that went away.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::flood::FloodReport;

/// How far a flood may be behind its plan and still count, as a part of its length: the rate is held within 5 %.
const BEHIND_MAX: f64 = 0.05;

/// What is known about one flood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloodEvidence {
    /// Sources that the plan asked for.
    pub planned: u32,
    /// Datagrams that the kernel took.
    pub sent: u32,
    /// Datagrams that the target's socket threw away because its buffer was full.
    pub dropped: u64,
    /// Datagrams that came back because the target's port was closed.
    pub refused: u32,
    /// Sources whose datagram was sent and not dropped: `sent - dropped`.
    pub reached: u64,
    /// From the first datagram to the last of the paced ones.
    pub took: Duration,
    /// Whether the target's socket was there at first and gone at the end.
    pub target_gone: bool,
    /// Why the flood does not count as applied; `None` if it does. A lower-case fragment.
    pub why_not: Option<String>,
}

impl FloodEvidence {
    /// Judges a flood by its report.
    pub fn of(report: &FloodReport) -> Self {
        let dropped = report.drops.map_or(0, |drops| drops.rise);
        let reached = u64::from(report.sent).saturating_sub(dropped);
        Self {
            planned: report.asked,
            sent: report.sent,
            dropped,
            refused: report.refused,
            reached,
            took: report.paced_span().unwrap_or_default(),
            target_gone: report
                .drops
                .is_some_and(|seen| seen.bound_at_first && !seen.bound_at_last),
            why_not: why_not(report, reached, dropped),
        }
    }

    /// Whether at least the planned number of sources reached the target within the planned time.
    pub fn applied(&self) -> bool {
        self.why_not.is_none()
    }
}

fn why_not(report: &FloodReport, reached: u64, dropped: u64) -> Option<String> {
    let (asked, target) = (report.asked, report.target);
    let Some(drops) = report.drops else {
        return Some("the kernel's table of UDP sockets could not be read".to_owned());
    };
    if !drops.bound_at_first {
        return Some(format!(
            "no UDP socket was bound at {target} when the flood began"
        ));
    }
    if report.stopped_early {
        return Some(format!(
            "stopped after {} of {asked} datagrams",
            report.sent
        ));
    }
    if report.bound < asked {
        return Some(format!(
            "only {} of {asked} source addresses were distinct",
            report.bound
        ));
    }
    if report.begun_late > report.late_max {
        return Some(format!(
            "it began {:?} after it was due: the host was too slow to make it ready",
            report.begun_late
        ));
    }
    if reached < u64::from(asked) {
        let sent = report.sent;
        let errors = if report.errors.is_empty() {
            String::new()
        } else {
            format!(" (send errors by errno: {:?})", report.errors)
        };
        return Some(format!(
            "{reached} of {asked} datagrams arrived: {sent} were sent{errors}, and {target} dropped \
             {dropped} because its socket buffer was full{}",
            slower(report, reached)
        ));
    }
    let (over, took) = (report.over, report.paced_span().unwrap_or_default());
    let allowed = over.mul_f64(BEHIND_MAX);
    match report.late_at_refusal {
        Some(late) if !drops.bound_at_last => (late > allowed).then(|| {
            format!("sending was {late:?} late when {target} went away: the host was too slow")
        }),
        _ => (took > over + allowed)
            .then(|| format!("sending took {took:?} instead of {over:?}: the host was too slow")),
    }
}

/// What would fit, where the target could not read as fast as it was sent to: what it did read in that time tells how
/// fast it can.
fn slower(report: &FloodReport, reached: u64) -> String {
    let took = report.paced_span().unwrap_or_default();
    let Ok(reached) = u32::try_from(reached) else {
        return String::new();
    };
    if reached == 0 || took.is_zero() || report.drops.is_none_or(|drops| drops.rise == 0) {
        return String::new();
    }
    let rate = f64::from(reached) / took.as_secs_f64();
    // A quarter more, since a reader that is just fast enough is too slow when it is disturbed.
    let over = Duration::from_secs_f64(f64::from(report.asked) / rate * 1.25);
    format!(
        "; it took in about {rate:.0} a second here, so spread them over {over:.1?} or more (`over`), or send from fewer sources"
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::observe::procfs::DropsSeen;

    /// A flood that went as planned.
    fn good() -> FloodReport {
        let drops = DropsSeen {
            looks: 3,
            bound_at_first: true,
            bound_at_last: true,
            rise: 0,
        };
        FloodReport {
            target: "127.1.2.3:7513".parse().unwrap(),
            asked: 320,
            over: Duration::from_millis(125),
            last_after: None,
            bound: 320,
            sent: 320,
            refused: 0,
            first_refused: false,
            late_at_refusal: None,
            errors: BTreeMap::new(),
            first_ns: Some(1_000),
            paced_last_ns: Some(124_000_000),
            last_ns: Some(124_000_000),
            max_late: Duration::ZERO,
            begun_late: Duration::ZERO,
            late_max: Duration::from_millis(50),
            drops: Some(drops),
            stopped_early: false,
            left_open: None,
        }
    }

    #[test]
    fn each_way_of_not_being_applied_is_told_and_a_good_flood_is_applied() {
        type Change = fn(&mut FloodReport);
        /// Its target went away on the way, when it was this late.
        fn gone(report: &mut FloodReport, late: Duration) {
            report.refused = 63;
            report.drops.as_mut().unwrap().bound_at_last = false;
            report.late_at_refusal = Some(late);
        }
        let cases: [(&str, Change); 15] = [
            ("", |_| {}),
            // The target died of it: that is felt, and does not unmake what was sent.
            ("", |r| gone(r, Duration::ZERO)),
            // Whoever buries it may be slower: nothing could have arrived any more.
            ("", |r| {
                gone(r, Duration::from_millis(6));
                r.paced_last_ns = Some(166_000_000);
            }),
            ("sending was 7ms late when 127.1.2.3:7513 went", |r| {
                gone(r, Duration::from_millis(7));
                r.paced_last_ns = Some(166_000_000);
            }),
            // One that is there again was away for a while only: what came late could have arrived.
            ("instead of 125ms", |r| {
                gone(r, Duration::ZERO);
                r.drops.as_mut().unwrap().bound_at_last = true;
                r.paced_last_ns = Some(166_000_000);
            }),
            ("table of UDP sockets could not be read", |r| r.drops = None),
            ("no UDP socket was bound", |r| {
                r.drops.as_mut().unwrap().bound_at_first = false;
            }),
            ("256 of 320 datagrams arrived", |r| {
                r.drops.as_mut().unwrap().rise = 64;
            }),
            ("errno: {105: 1}", |r| {
                r.sent = 319;
                r.errors.insert(105, 1);
            }),
            ("only 319 of 320 source addresses", |r| r.bound = 319),
            // Half of it was dropped within 124 ms.
            (
                "it took in about 1290 a second here, so spread them over 310.0ms or more",
                |r| {
                    r.drops.as_mut().unwrap().rise = 160;
                },
            ),
            ("", |r| r.begun_late = Duration::from_millis(50)),
            ("began 51ms after it was due", |r| {
                r.begun_late = Duration::from_millis(51);
            }),
            ("stopped after 320", |r| r.stopped_early = true),
            ("instead of 125ms", |r| r.paced_last_ns = Some(132_000_000)),
        ];
        for (want, change) in cases {
            let mut report = good();
            change(&mut report);
            let evidence = FloodEvidence::of(&report);
            assert_eq!(evidence.applied(), want.is_empty(), "{evidence:?}");
            assert!(
                evidence.why_not.unwrap_or_default().contains(want),
                "{want}"
            );
        }
    }

    #[test]
    fn a_target_that_went_away_is_noted() {
        let mut report = good();
        assert!(!FloodEvidence::of(&report).target_gone);
        report.drops.as_mut().unwrap().bound_at_last = false;
        assert!(FloodEvidence::of(&report).target_gone);
    }
}
