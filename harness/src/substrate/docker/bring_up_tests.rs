//! What is brought up, by an engine that only answers what is written here.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::super::fake_engine::FakeEngine;
use super::super::remains::remove_recorded;
use super::*;

#[derive(Debug, Clone, Copy)]
struct Fake {
    paused: bool,
    running: bool,
    stays_up: bool,
    started: &'static str,
}

/// Its containers by id.
type Containers = Arc<Mutex<BTreeMap<String, Fake>>>;

/// The life that the run has stopped, and the one after it.
const FIRST: &str = "2026-03-01T10:00:00Z";
const SECOND: &str = "2026-03-01T10:00:07Z";

fn answer(containers: &Containers, parts: &[&str]) -> (u16, Value) {
    let ["containers", id, deed] = parts else {
        panic!("{parts:?} was not asked for");
    };
    let mut containers = containers.lock().unwrap();
    match (containers.get_mut(*id), *deed) {
        (None, _) => (404, json!({ "message": "No such container" })),
        (Some(it), "json") => {
            let (running, paused) = (it.running, it.paused);
            // One that does not stay up runs for one look.
            it.running &= it.stays_up;
            let state = json!({ "Running": running, "Paused": paused, "ExitCode": 3, "StartedAt": it.started });
            (200, json!({ "Id": id, "State": state }))
        }
        (Some(it), "unpause") => {
            it.paused = false;
            (204, json!(null))
        }
        (Some(it), "start") => {
            it.running = true;
            it.started = SECOND;
            (204, json!(null))
        }
        (Some(_), other) => panic!("{other} was not asked for"),
    }
}

fn entry_down(name: &str, halts: &[Halt]) -> Entry {
    Entry::Down {
        id: format!("id-{name}"),
        name: name.to_owned(),
        started: FIRST.to_owned(),
        halts: halts.iter().copied().collect(),
    }
}

/// As builds wrote it that did not tell what was done.
fn earlier_entry_down(name: &str) -> Entry {
    let entry =
        json!({ "entry": "down", "id": format!("id-{name}"), "name": name, "started": FIRST });
    serde_json::from_value(entry).unwrap()
}

#[tokio::test]
async fn what_a_run_has_stopped_is_brought_up_or_listed() {
    let rows = [
        ("killed", (false, false, true), FIRST),
        ("paused", (true, true, true), FIRST),
        ("runs", (false, true, true), FIRST),
        ("broken", (false, false, false), FIRST),
        ("healed", (false, false, true), FIRST),
        ("died-by-itself", (false, false, true), FIRST),
        // Somebody has started it since, and stopped it on purpose.
        ("another's", (false, false, true), SECOND),
        // The run had paused it, and its owner has continued and then stopped it.
        ("owner-stopped", (false, false, true), FIRST),
        // The run died before it killed it, and its owner has paused it.
        ("owner-paused", (true, true, true), FIRST),
        // Recorded by a build that did not tell which it was.
        ("killed-earlier", (false, false, true), FIRST),
        ("paused-earlier", (true, true, true), FIRST),
    ];
    let rows = rows.map(|(name, (paused, running, stays_up), started)| {
        let fake = Fake {
            paused,
            running,
            stays_up,
            started,
        };
        (format!("id-{name}"), fake)
    });
    let containers: Containers = Arc::new(Mutex::new(rows.into()));
    let served = Arc::clone(&containers);
    let fake = FakeEngine::serve(move |_, parts| answer(&served, parts));
    let engine = Engine::connect(fake.address()).await.unwrap();
    let mut entries = vec![fake.entry()];
    let down_ones = [
        ("killed", Halt::Stop),
        ("paused", Halt::Pause),
        ("runs", Halt::Stop),
        ("broken", Halt::Stop),
        ("healed", Halt::Stop),
        ("removed", Halt::Stop),
        ("another's", Halt::Stop),
        ("owner-stopped", Halt::Pause),
        ("owner-paused", Halt::Stop),
    ];
    entries.extend(down_ones.map(|(name, halt)| entry_down(name, &[halt])));
    entries.extend(["killed-earlier", "paused-earlier"].map(earlier_entry_down));
    // It was up, and what it did afterwards was its own.
    entries.push(Entry::Up {
        id: "id-healed".to_owned(),
    });
    let removal = remove_recorded(&engine, &entries, std::time::Duration::from_secs(20)).await;
    let ours = ["killed", "killed-earlier", "paused", "paused-earlier"];
    assert_eq!(removal.brought_up, ours);
    let [left] = removal.left.as_slice() else {
        panic!("{removal:?}")
    };
    let told = left.to_string();
    assert!(
        told.contains("container broken: ")
            && told.contains("exit code 3")
            && told.contains("`docker start broken`"),
        "{told}"
    );
    let up = containers.lock().unwrap().clone();
    let up = up.into_iter().filter(|(_, it)| it.running && !it.paused);
    let up: Vec<String> = up.map(|(id, _)| id).collect();
    let running = ours
        .iter()
        .chain(&["runs"])
        .map(|name| format!("id-{name}"));
    assert_eq!(up, running.collect::<Vec<String>>());
    entries.push(Entry::Gone);
    assert_eq!(down(&entries), BTreeMap::new());
}

#[test]
fn who_cannot_look_tells_the_commands_that_take_back_what_was_done() {
    let told = |halts: &[Halt]| {
        let down = down(&[entry_down("g", halts)]);
        unseen(&down, "it is another engine")[0].why.clone()
    };
    let paused = told(&[Halt::Pause]);
    assert!(paused.contains("may have paused it") && paused.contains("`docker unpause g` brings"));
    let both = told(&[Halt::Pause, Halt::Stop]);
    assert!(
        both.contains("paused or stopped") && both.contains("`docker unpause g; docker start g`")
    );
}
