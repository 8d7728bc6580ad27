//! What this machine can do: rows to divide by when numbers of different machines, or of a busy one, are compared.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use crate::Failure;
use crate::kill::BALLAST;
use crate::table::{REPEATS, Row, percentile, time};

/// Hashes in one repetition: some 100 ms.
const HASHES: u32 = 1_000_000;
/// Processes and writes of which the median is taken.
const SAMPLES: usize = 51;

/// Prints all of them.
pub(crate) fn rows(directory: &Path) -> Result<(), Failure> {
    hashes().print()?;
    median("calibration: spawn and exit of this binary", &spawns()?).print()?;
    median("calibration: write of 4 KiB and fsync", &syncs(directory)?).print()?;
    median("calibration: plain kill of 16 MB and wait", &kills()?).print()
}

/// Each hash needs the one before, as in a proof of elapsed time.
fn hashes() -> Row<'static> {
    let rates = (0..REPEATS).map(|_| {
        let begin = Instant::now();
        let mut state = [0_u8; 32];
        for _ in 0..HASHES {
            state = Sha256::digest(state).into();
        }
        std::hint::black_box(state);
        f64::from(HASHES) / begin.elapsed().as_secs_f64() / 1e6
    });
    Row {
        what: "calibration: chain of SHA-256 over 32 bytes",
        limit: "",
        measured: format!("{:.2} M/s", rates.fold(0.0, f64::max)),
        within: None,
        note: format!("best of {REPEATS}"),
    }
}

fn spawns() -> Result<Vec<Duration>, Failure> {
    let own = std::env::current_exe()?;
    let one = |_| {
        let begin = Instant::now();
        #[expect(
            clippy::disallowed_methods,
            reason = "what the plain way of starting a process costs is the question"
        )]
        Command::new(&own).arg("exit").status()?;
        Ok(begin.elapsed())
    };
    (0..SAMPLES).map(one).collect()
}

/// What the kernel takes to end a process as large as the largest that the harness kills in [`kill`](crate::kill).
fn kills() -> Result<Vec<Duration>, Failure> {
    let own = std::env::current_exe()?;
    let one = |_| {
        #[expect(
            clippy::disallowed_methods,
            reason = "what the plain way of killing a process costs is the question"
        )]
        let mut child = Command::new(&own)
            .args(["idle", &BALLAST.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut up = String::new();
        let stdout = child.stdout.take().ok_or("no pipe")?;
        BufReader::new(stdout).read_line(&mut up)?;
        let begin = Instant::now();
        child.kill()?;
        child.wait()?;
        Ok(begin.elapsed())
    };
    (0..SAMPLES).map(one).collect()
}

fn syncs(directory: &Path) -> Result<Vec<Duration>, Failure> {
    let mut file = fs_err::File::create(directory.join("fsync"))?;
    let one = |_| {
        let begin = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_all()?;
        Ok(begin.elapsed())
    };
    (0..SAMPLES).map(one).collect()
}

fn median<'a>(what: &'a str, sample: &[Duration]) -> Row<'a> {
    Row {
        what,
        limit: "",
        measured: time(percentile(sample, 50).unwrap_or_default()),
        within: None,
        note: format!("median of {}", sample.len()),
    }
}
