//! What becomes of results when nobody can take them, and of paths that are no text.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

use crate::support::plan;

const BIN: &str = env!("CARGO_BIN_EXE_tweedledum");

/// `tweedledum WORDS` with this as its standard output: exit code and what it told people.
#[expect(
    clippy::disallowed_methods,
    reason = "the test is about a standard output that `assert_cmd` cannot give"
)]
fn into(stdout: Stdio, words: &[&OsStr]) -> (Option<i32>, String) {
    let mut child = Command::new(BIN)
        .args(words)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    (child.wait().unwrap().code(), told)
}

fn words<'a>(text: &'a str, path: &'a OsStr) -> Vec<&'a OsStr> {
    text.split(' ')
        .map(|word| {
            if word == "PLAN" {
                path
            } else {
                OsStr::new(word)
            }
        })
        .collect()
}

#[test]
fn results_that_cannot_be_written_are_no_success() {
    let sound = plan("flood");
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    for text in [
        "check --format json PLAN",
        "plan PLAN",
        "plan --format json PLAN",
        "list faults",
        "schema",
        "completions bash",
    ] {
        let words = words(text, sound.as_os_str());
        let (code, told) = into(full(), &words);
        assert_eq!(code, Some(4), "{text}: {told}");
        let said = "results could not be written to standard output: No space left on device";
        assert!(
            told.contains(said) && told.contains("hint: "),
            "{text}: {told}"
        );
        // Whoever stops reading has what it wanted.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, told) = into(writer.into(), &words);
        assert_eq!(code, Some(0), "{text}: {told}");
        assert!(!told.contains("could not be written"), "{text}: {told}");
    }
    // What counts more stays.
    let missing = words("check --format json PLAN", OsStr::new("/no/such/plan.yaml"));
    assert_eq!(into(full(), &missing).0, Some(2));
}

#[test]
fn a_directory_of_runs_that_is_no_text_is_refused_before_anything_starts() {
    let scene = tempfile::tempdir().unwrap();
    let odd = OsStr::from_bytes(b"caf\xe9");
    let sound = plan("flood");
    let inside = scene.path().join(odd);
    let link = scene.path().join("link");
    fs::create_dir(&inside).unwrap();
    std::os::unix::fs::symlink(&inside, &link).unwrap();
    for runs in [&inside.join("runs"), &link] {
        let mut words = words("run PLAN --runs", sound.as_os_str());
        words.push(runs.as_os_str());
        let (code, told) = into(Stdio::null(), &words);
        assert_eq!(code, Some(2), "{told}");
        assert!(
            told.contains("is not UTF-8") && told.contains("--runs"),
            "{told}"
        );
    }
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 0, "nothing is made");
    let mut words = words("clean --runs", OsStr::new(""));
    words.push(inside.as_os_str());
    let (code, told) = into(Stdio::null(), &words);
    assert_eq!(code, Some(0));
    assert!(told.starts_with("nothing to clean in "), "{told}");
}

/// What looks like a file and is none, or is none at all, is refused at once: no reading of it would ever end.
#[test]
fn a_plan_that_would_be_waited_for_is_refused() {
    let scene = tempfile::tempdir().unwrap();
    let fifo = scene.path().join("fifo.yaml");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    for path in ["/proc/kmsg", "/dev/zero", fifo.to_str().unwrap()] {
        let mut check = assert_cmd::Command::new(BIN);
        let run = check
            .args(["check", path])
            .timeout(std::time::Duration::from_secs(20))
            .assert();
        let told = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
        assert!(told.contains(path), "{told}");
        run.code(2);
    }
}

#[test]
fn a_file_in_the_place_of_the_directory_of_runs_is_a_mistake() {
    let scene = tempfile::tempdir().unwrap();
    let file = scene.path().join("file");
    fs::write(&file, "mine").unwrap();
    let sound = plan("flood");
    for runs in [file.clone(), file.join("below/it")] {
        let mut words = words("run PLAN --runs", sound.as_os_str());
        words.push(runs.as_os_str());
        let (code, told) = into(Stdio::null(), &words);
        assert_eq!(code, Some(2), "{told}");
        let said = format!("{} is not a directory; nothing was started", file.display());
        assert!(told.contains(&said), "{told}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"mine");
}

/// A node that is killed for the size of a file would be taken for one that crashed.
#[test]
fn a_limit_on_the_size_of_files_is_the_machines_and_nobodys_crash() {
    let scene = tempfile::tempdir().unwrap();
    let runs = scene.path().join("runs");
    let mut shell = assert_cmd::Command::new("sh");
    let limited = "ulimit -f 1000; exec \"$0\" run \"$1\" --runs \"$2\"";
    let run = shell
        .args(["-c", limited, BIN])
        .args([plan("flood").as_os_str(), runs.as_os_str()])
        .timeout(std::time::Duration::from_mins(1))
        .assert();
    let told = String::from_utf8_lossy(&run.get_output().stderr).into_owned();
    assert!(told.contains("`ulimit -Hf`"), "{told}");
    run.code(4);
    assert!(!runs.exists(), "nothing is made");
}

#[test]
fn findings_and_placeholders_are_listed_with_their_meaning() {
    let listed = |what: &str| {
        let mut list = assert_cmd::Command::new(BIN);
        let run = list.args(["list", what]).assert().success();
        String::from_utf8_lossy(&run.get_output().stdout).into_owned()
    };
    let findings = listed("findings");
    for id in ["crash/COMPONENT", "stalled/SIGNAL", "role/all-dead"] {
        assert!(findings.contains(id), "{findings}");
    }
    let roles = listed("roles");
    for name in ["{release.bin}", "{PORT.addr}", "{data}", "{settings}"] {
        let mut lines = roles.lines();
        let line = lines.find(|line| line.starts_with(&format!("# {name}")));
        assert!(line.is_some_and(|line| line.len() > 30), "{name}: {roles}");
    }
}
