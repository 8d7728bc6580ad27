//! From the decision to kill to the death being known, by the calls that the fault `kill` makes.

use std::io::{self, Write as _};
use std::time::Duration;

use tweedledum_harness::substrate::process::identity::{own_pid, read_stat};
use tweedledum_harness::substrate::process::{NodeSignal, Program};

use crate::Failure;
use crate::stage::{Stage, said};
use crate::table::{Row, percentile, time};

/// Kills, in rounds of as many nodes as a plan would hit.
const ROUNDS: usize = 25;
const NODES_PER_ROUND: usize = 10;
/// The memory that the limit is given for: freeing it is most of a death.
const RESIDENT: u64 = 16 << 20;

/// Prints p50 and p99.
pub(crate) async fn rows(stage: &Stage) -> Result<(), Failure> {
    let mut times = Vec::new();
    let mut resident = 0;
    for _ in 0..ROUNDS {
        let mut nodes = Vec::new();
        for index in 0..NODES_PER_ROUND {
            let args = ["idle".into(), RESIDENT.to_string().into()];
            let (node, pipes) = stage
                .start(format!("idle-{index}"), Program::Own, args)
                .await?;
            said(&pipes, "up").await?;
            resident = resident.max(node.state().map_or(0, |stat| stat.rss_bytes()));
            nodes.push((node, pipes));
        }
        for (node, _) in &nodes {
            let decided_ns = node.signal(NodeSignal::Kill)?;
            let exit = node.exited().await;
            times.push(Duration::from_nanos(
                exit.seen_ns.saturating_sub(decided_ns),
            ));
        }
        stage.clear().await?;
    }
    let worst = percentile(&times, 100).unwrap_or_default();
    for (what, limit, percent, bound) in [
        (
            "kill decision -> dead, p50",
            "<= 0.4 ms",
            50,
            Duration::from_micros(400),
        ),
        (
            "kill decision -> dead, p99",
            "<= 5 ms",
            99,
            Duration::from_millis(5),
        ),
    ] {
        let measured = percentile(&times, percent).unwrap_or_default();
        Row {
            what,
            limit,
            measured: time(measured),
            within: Some(measured <= bound),
            note: format!(
                "{} kills, RSS up to {:.1} MiB, worst {}",
                times.len(),
                mebibytes(resident),
                time(worst)
            ),
        }
        .print()?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A node that takes memory until it holds `bytes`, says so, and waits to be killed.
pub(crate) fn idle(bytes: &str) -> Result<u8, Failure> {
    let has = read_stat(own_pid())?.rss_bytes();
    // A page written is a page resident.
    let ballast = vec![1_u8; usize::try_from(bytes.parse::<u64>()?.saturating_sub(has))?];
    std::hint::black_box(&ballast);
    writeln!(io::stdout(), r#"{{"event":"up","n":1}}"#)?;
    loop {
        std::thread::park();
    }
}
