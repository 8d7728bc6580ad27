//! The table: its rows, and the few statistics they use. Rows are printed as they are measured.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::Duration;

use crate::Failure;

/// Repetitions of an absolute time, of which the best counts: the least disturbed one says what the code costs.
pub(crate) const REPEATS: usize = 5;

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row<'a> {
    /// What is measured.
    pub(crate) what: &'a str,
    /// The design's limit; empty for calibration.
    pub(crate) limit: &'a str,
    /// The number, with its unit.
    pub(crate) measured: String,
    /// Whether it is within the limit; `None` where there is none.
    pub(crate) within: Option<bool>,
    /// All repetitions, or what else helps to read the number.
    pub(crate) note: String,
}

impl Row<'_> {
    /// Prints the row.
    pub(crate) fn print(&self) -> Result<(), Failure> {
        let within = match self.within {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        line(
            self.what,
            self.limit,
            &self.measured,
            &within,
            self.note.as_str(),
        )
    }
}

/// The machine and the heading.
pub(crate) fn head() -> Result<(), Failure> {
    let cpus = std::thread::available_parallelism()?;
    let info = fs_err::read_to_string("/proc/cpuinfo")?;
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown CPU", |text| {
        text.trim_start_matches([' ', '\t', ':'])
    });
    let kernel = fs_err::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{cpus} CPUs, {model}, Linux {}, {}",
        kernel.trim(),
        load()?
    )?;
    writeln!(out)?;
    drop(out);
    line("what", "limit", "measured", &"within", "of")
}

/// What the machine did meanwhile.
pub(crate) fn foot() -> Result<(), Failure> {
    writeln!(io::stdout(), "\nat the end: {}", load()?)?;
    Ok(())
}

/// Load averages, without which no number of a busy machine can be read.
fn load() -> io::Result<String> {
    let text = fs_err::read_to_string("/proc/loadavg")?;
    let averages: Vec<&str> = text.split(' ').take(3).collect();
    Ok(format!("load {}", averages.join(" ")))
}

fn line(
    what: &str,
    limit: &str,
    measured: &str,
    within: &dyn Display,
    note: &str,
) -> Result<(), Failure> {
    let within = within.to_string();
    let text = format!("{what:<46}  {limit:<24}  {measured:<24}  {within:<6}  {note}");
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end())?;
    // The next row may take a minute, and may come from another process.
    out.flush()?;
    Ok(())
}

/// The value below which `percent` of a sample lies; `None` of nothing.
pub(crate) fn percentile(sample: &[Duration], percent: usize) -> Option<Duration> {
    let mut sorted = sample.to_vec();
    sorted.sort_unstable();
    let last = sorted.len().checked_sub(1)?;
    sorted
        .get((sorted.len() * percent / 100).min(last))
        .copied()
}

/// The row of a time of which the best repetition counts.
pub(crate) fn best<'a>(
    what: &'a str,
    limit: &'a str,
    bound: Option<Duration>,
    times: &[Duration],
) -> Result<Row<'a>, Failure> {
    let best = *times.iter().min().ok_or("nothing was measured")?;
    let all: Vec<String> = times.iter().copied().map(time).collect();
    Ok(Row {
        what,
        limit,
        measured: time(best),
        within: bound.map(|bound| best <= bound),
        note: format!("best of {}", all.join(", ")),
    })
}

/// A time with three significant digits or so.
pub(crate) fn time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        0.0..10.0 => format!("{ms:.3} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.2} s", ms / 1e3),
    }
}
