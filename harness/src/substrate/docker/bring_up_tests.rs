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

fn entry_down(name: &str) -> Entry {
    Entry::Down {
        id: format!("id-{name}"),
        name: name.to_owned(),
        started: FIRST.to_owned(),
    }
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
        "killed",
        "paused",
        "runs",
        "broken",
        "healed",
        "removed",
        "another's",
    ];
    entries.extend(down_ones.map(entry_down));
    // It was up, and what it did afterwards was its own.
    entries.push(Entry::Up {
        id: "id-healed".to_owned(),
    });
    let removal = remove_recorded(&engine, &entries, std::time::Duration::from_secs(20)).await;
    assert_eq!(removal.brought_up, ["killed", "paused"]);
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
    assert_eq!(up, ["id-killed", "id-paused", "id-runs"]);
    entries.push(Entry::Gone);
    assert_eq!(down(&entries), BTreeMap::new());
}
