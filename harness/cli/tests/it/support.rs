//! Support of the end-to-end tests: the shipped executable in a directory of its own, as many networks at a time as there
//! are threads for tests.
//!
//! Whatever fails says which command it was, how it ended, what it wrote to both streams, and where its run directory
//! is, which is then kept. It knows nothing of what a test expects.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tweedledum_core::control::Comparison;
use tweedledum_core::verdict::Verdict;

/// How long one run may take before it is taken for hung: several times the longest plan.
const RUN_BOUND: Duration = Duration::from_mins(2);

/// The workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .expect("the workspace exists")
}

/// Every plan of the tree, by its path below `plans/` without the ending: found by looking, so that none is forgotten.
pub(crate) fn plans() -> Vec<(String, PathBuf)> {
    let directory = root().join("plans");
    let mut open = vec![directory.clone()];
    let mut found = Vec::new();
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "yaml") {
                let below = path.strip_prefix(&directory).unwrap().with_extension("");
                found.push((below.to_str().unwrap().to_owned(), path));
            }
        }
    }
    assert!(
        found.len() >= 2,
        "there are no plans in {}",
        directory.display()
    );
    found.sort();
    found
}

/// Where a plan says that its nodes live.
pub(crate) fn lives(plan: &Path) -> String {
    let text = fs::read_to_string(plan).unwrap();
    let said = text
        .lines()
        .find_map(|line| line.strip_prefix("substrate: "));
    said.unwrap_or("process").to_owned()
}

/// A plan of the tree.
pub(crate) fn plan(name: &str) -> PathBuf {
    root().join("plans").join(name).with_extension("yaml")
}

/// The exit code of a run that decided nothing.
pub(crate) const UNDECIDED: i32 = 3;

/// How often a run is made that decides nothing. A machine that is shared was seen to stand still for a fifth of a layer in
/// most layers of some minutes; what a run says then is that it knows nothing, which is right and no verdict to test.
pub(crate) const TRIES: u32 = 6;

/// The right to start a network, until it is dropped. Networks of different tests make each other late.
#[derive(Debug)]
pub(crate) struct Machine(File);

impl Machine {
    fn open(name: &str) -> File {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path);
        file.unwrap()
    }

    /// Whoever waits for the machine keeps the door meanwhile, or those who share it would let nobody have it alone.
    fn take(file: &File, how: fn(&File) -> std::io::Result<()>) {
        let door = Self::open("e2e.door");
        door.lock().unwrap();
        how(file).unwrap();
    }

    /// Beside others: for what comes to the same on a late host, or is made again alone. Not twice in one test.
    pub(crate) fn shared() -> Self {
        let file = Self::open("e2e.lock");
        Self::take(&file, File::lock_shared);
        Self(file)
    }

    /// For what must decide at the first try, or be over in time.
    pub(crate) fn alone() -> Self {
        let file = Self::open("e2e.lock");
        Self::take(&file, File::lock);
        Self(file)
    }
}

/// A directory of its own for plans and runs, beside those of other tests.
#[derive(Debug)]
pub(crate) struct Bench {
    directory: TempDir,
    machine: Machine,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self {
            machine: Machine::shared(),
            directory: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file, as a plan, and says where.
    pub(crate) fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, contents).unwrap();
        path
    }

    /// `tweedledum run PLAN WORDS` with a directory of runs of its own, judged again at once: a run that does not give
    /// the same verdict twice is wrong whatever a test is about.
    pub(crate) fn run(&self, plan: &Path, words: &[&str]) -> Run {
        let runs = tempfile::tempdir_in(self.path()).unwrap().keep();
        let mut all = vec![
            "run",
            plan.to_str().unwrap(),
            "--runs",
            runs.to_str().unwrap(),
        ];
        all.extend(words);
        let said = call(&all);
        let mut made = fs::read_dir(&runs)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let Some(directory) = made.find(|path| path.join("run.json").is_file()) else {
            panic!("there is no run directory in {}\n{said}", runs.display());
        };
        let run = Run { said, directory };
        crate::judge::gives_the_live_verdict(&run);
        run
    }

    /// A run that must decide something. Several at once make each other late on a slow machine, and then neither says anything:
    /// one that decided nothing beside others is made again with the machine for itself, and that one counts.
    pub(crate) fn decided(&self, plan: &Path, words: &[&str]) -> Run {
        self.decided_where(plan, words, |run| run.said.code != UNDECIDED)
    }

    /// The same, where a run can decide something and not all that the test is about. What has decided counts, whatever it is.
    pub(crate) fn decided_where(
        &self,
        plan: &Path,
        words: &[&str],
        decided: impl Fn(&Run) -> bool,
    ) -> Run {
        let mut run = self.run(plan, words);
        if decided(&run) {
            return run;
        }
        let Machine(file) = &self.machine;
        file.unlock().unwrap();
        Machine::take(file, File::lock);
        for _ in 1..TRIES {
            println!("undecided, made again alone\n{run}");
            run = self.run(plan, words);
            if decided(&run) {
                break;
            }
        }
        file.unlock().unwrap();
        Machine::take(file, File::lock_shared);
        run
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.directory.disable_cleanup(std::thread::panicking());
    }
}

/// `tweedledum WORDS`, to its end.
pub(crate) fn call(words: &[&str]) -> Said {
    said(assert_cmd::Command::new(env!("CARGO_BIN_EXE_tweedledum")).args(words))
}

/// A command, to its end.
pub(crate) fn said(command: &mut assert_cmd::Command) -> Said {
    let text = format!("{command:?}");
    let output = command
        .timeout(RUN_BOUND)
        .output()
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said {
        command: text,
        // A signal is no exit code, and none of ours is negative.
        code: output.status.code().unwrap_or(-1),
        status: output.status.to_string(),
        stderr: lossy(&output.stderr),
        stdout: lossy(&output.stdout),
    }
}

/// What an executable said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    command: String,
    status: String,
}

impl Said {
    /// Holds the exit code.
    #[track_caller]
    pub(crate) fn gave(self, code: i32) -> Self {
        assert!(self.code == code, "exit code {code} expected\n{self}");
        self
    }

    /// Holds that people were told all of these.
    #[track_caller]
    pub(crate) fn tells(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not said\n{self}");
        }
        self
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code: _,
            stdout,
            stderr,
            command,
            status,
        } = self;
        write!(
            f,
            "command: {command}\n{status}\n-- standard output\n{stdout}\n-- standard error\n{stderr}"
        )
    }
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) said: Said,
    pub(crate) directory: PathBuf,
}

impl Run {
    /// The directory of each release that was run.
    pub(crate) fn releases(&self) -> BTreeSet<PathBuf> {
        let entries = fs::read_dir(&self.directory)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        entries
            .filter(|path| path.join("history.jsonl").is_file())
            .collect()
    }

    /// What one release was judged to be.
    #[track_caller]
    pub(crate) fn verdict(&self, release: &str) -> Verdict {
        let bytes = self.bytes(&format!("{release}/verdict.json"));
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|error| panic!("verdict.json of {release}: {error}\n{self}"))
    }

    /// What the controls gave.
    #[track_caller]
    pub(crate) fn comparison(&self) -> Comparison {
        let bytes = self.bytes("verdict.json");
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|error| panic!("verdict.json of the controls: {error}\n{self}"))
    }

    /// A file of the run directory.
    #[track_caller]
    pub(crate) fn bytes(&self, file: &str) -> Vec<u8> {
        fs::read(self.directory.join(file))
            .unwrap_or_else(|error| panic!("{file}: {error}\n{self}"))
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n-- kept: {}", self.said, self.directory.display())
    }
}

/// What was found: ids, and whose each is.
pub(crate) fn findings(verdict: &Verdict) -> BTreeSet<(String, String)> {
    verdict
        .findings
        .iter()
        .map(|finding| (finding.id.clone(), finding.of().to_owned()))
        .collect()
}
