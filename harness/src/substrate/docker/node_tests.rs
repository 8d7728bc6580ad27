//! How the end of a container's output is told apart from the end of its life, and what is put into one.

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tweedledum_core::history::ExitStatus;

use super::super::fake_engine::FakeEngine;
use super::*;

const STARTED: &str = "2026-03-01T10:00:00Z";

fn dead() -> Option<Death> {
    Some(Death {
        status: ExitStatus::Signal(9),
        seen_ns: 1,
    })
}

/// What is told of a life's output that ends so, and what its pipe has had at its end.
async fn cut(output: Vec<io::Result<Piece>>, over: bool) -> (Option<String>, String) {
    let (stdout, to_stdout) = output_pipe().unwrap();
    let (_stderr, to_stderr) = output_pipe().unwrap();
    let (tell, death) = watch::channel(None);
    let (tell_cut, mut cut) = watch::channel(None);
    let pipes = (to_stdout, to_stderr, None);
    let output = Box::pin(futures_util::stream::iter(output));
    let over = std::future::ready(over);
    let mut pumping = JoinSet::new();
    let (tell_lost, _lost) = watch::channel(None);
    let (losing, tell_cuts) = (std::future::ready(None), (tell_lost, tell_cut));
    pumping.spawn(pump(output, pipes, losing, over, death, tell_cuts));
    let told = match cut.changed().await {
        Ok(()) => {
            assert!(pumping.try_join_next().is_none(), "the pipes stay open");
            cut.borrow().clone()
        }
        Err(_) => None,
    };
    tell.send_replace(dead());
    pumping.join_next().await.unwrap().unwrap();
    let mut said = String::new();
    let mut stdout = pipe::Receiver::from_owned_fd(stdout).unwrap();
    stdout.read_to_string(&mut said).await.unwrap();
    (told, said)
}

#[tokio::test]
async fn output_that_ends_before_its_life_is_told_as_cut_off() {
    let said = || Ok(Piece::Out("ready\n".into()));
    let broken = || Err(io::Error::other("reset by peer"));
    for (output, over, why) in [
        (vec![said()], true, None),
        (vec![], true, None),
        (vec![said()], false, Some("ended, and the node lives")),
        (vec![said(), broken()], false, Some("reset by peer")),
        // What was on its way when the stream broke is lost, whoever died of it.
        (vec![said(), broken()], true, Some("reset by peer")),
    ] {
        let words = if output.is_empty() { "" } else { "ready\n" };
        let (told, said) = cut(output, over).await;
        assert_eq!(said, words);
        match (&told, why) {
            (Some(told), Some(why)) => assert!(told.contains(why), "{told}"),
            _ => assert_eq!(told.as_deref(), why),
        }
    }
}

/// A log that does not reach back is told before the first of it is passed on, and a whole one is not.
#[tokio::test]
async fn what_was_lost_before_the_output_came_is_told_first() {
    for why in [Some("rotated away".to_owned()), None] {
        let (stdout, to_stdout) = output_pipe().unwrap();
        let (_stderr, to_stderr) = output_pipe().unwrap();
        let (_tell_death, death) = watch::channel(dead());
        let ((tell_lost, lost), (tell_cut, cut)) = (watch::channel(None), watch::channel(None));
        let output: Output = Box::pin(futures_util::stream::iter([Ok(Piece::Out("a\n".into()))]));
        let pipes = (to_stdout, to_stderr, None);
        let losing = std::future::ready(why.clone());
        let over = std::future::ready(true);
        pump(output, pipes, losing, over, death, (tell_lost, tell_cut)).await;
        assert_eq!((&*lost.borrow(), &*cut.borrow()), (&why, &None));
        let mut said = String::new();
        let mut stdout = pipe::Receiver::from_owned_fd(stdout).unwrap();
        stdout.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "a\n");
    }
}

#[tokio::test]
async fn an_end_with_the_death_is_no_cut() {
    for (told, running, began, is_over) in [
        (dead(), true, STARTED, true),
        // The engine is late to tell it.
        (None, false, STARTED, true),
        // Somebody has started it again.
        (None, true, "2026-03-01T10:00:07Z", true),
        (None, true, STARTED, false),
    ] {
        let fake = FakeEngine::serve(move |_, _| {
            let state = json!({ "Status": "running", "Running": running, "StartedAt": began });
            (200, json!({ "State": state }))
        });
        let engine = Engine::connect(fake.address()).await.unwrap();
        let (_tell, death) = watch::channel(told);
        let started = Some(STARTED.to_owned());
        let over = over(engine, "N".to_owned(), started, death, Duration::ZERO).await;
        assert_eq!(over, is_over, "{told:?} {running} {began}");
    }
    let fake = FakeEngine::serve(|_, _| (500, json!({ "message": "no" })));
    let engine = Engine::connect(fake.address()).await.unwrap();
    let (_tell, death) = watch::channel(None);
    assert!(!over(engine, "N".to_owned(), None, death, Duration::ZERO).await);
}

/// Directories that an image has stay as they are: only those have entries that files of ours are alone in.
#[test]
fn files_bring_no_directory_of_the_image() {
    let entries = |paths: &[&str]| {
        let files = paths.iter().map(|path| ((*path).to_owned(), Vec::new()));
        let archive = archive_of(&files.collect()).unwrap();
        let names = archive.chunks(512).map(|header| {
            let name = header[..100].split(|byte| *byte == 0).next();
            String::from_utf8(name.unwrap().to_vec()).unwrap()
        });
        names.filter(|name| !name.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(
        entries(&["/run/tweedledum/a", "/run/tweedledum/b"]),
        ["run/tweedledum/", "run/tweedledum/a", "run/tweedledum/b"]
    );
    assert_eq!(entries(&["/run/network.json"]), ["run/network.json"]);
    assert_eq!(entries(&["/top"]), ["top"]);
}
