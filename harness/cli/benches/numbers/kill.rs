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
/// What a process asks for so that its RSS is just within the 16 MB that the limit is given for; freeing memory is most
/// of a death.
pub(crate) const BALLAST: u64 = 15_000_000;

/// Prints p50 and p99 of processes as big as the limit allows, and of ones that hold nothing.
pub(crate) async fn rows(stage: &Stage) -> Result<(), Failure> {
    for (size, bytes) in [("up to 16 MB", BALLAST), ("bare process", 0)] {
        let (times, resident) = kills(stage, bytes).await?;
        let worst = percentile(&times, 100).unwrap_or_default();
        for (percent, limit, bound) in [
            (50, "<= 0.4 ms", Duration::from_micros(400)),
            (99, "<= 5 ms", Duration::from_millis(5)),
        ] {
            let measured = percentile(&times, percent).unwrap_or_default();
            Row {
                what: &format!("kill decision -> dead, {size}, p{percent}"),
                limit,
                measured: time(measured),
                within: Some(measured <= bound),
                note: format!(
                    "{} kills, RSS {}, worst {}",
                    times.len(),
                    megabytes(resident),
                    time(worst)
                ),
            }
            .print()?;
        }
    }
    Ok(())
}

/// Times of all kills, and the largest RSS among the killed.
async fn kills(stage: &Stage, bytes: u64) -> Result<(Vec<Duration>, u64), Failure> {
    let mut times = Vec::new();
    let mut resident = 0;
    for _ in 0..ROUNDS {
        let mut nodes = Vec::new();
        for index in 0..NODES_PER_ROUND {
            let args = ["idle".into(), bytes.to_string().into()];
            let name = format!("idle-{index}");
            let (node, pipes) = stage.start(name, Program::Own, args).await?;
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
    Ok((times, resident))
}

/// Memory for people.
#[expect(clippy::cast_precision_loss, reason = "memory is far below 2^52 bytes")]
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
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
