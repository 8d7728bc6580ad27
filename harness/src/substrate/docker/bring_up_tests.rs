//! What is brought up, by an engine that only answers what is written here.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::super::engine::EngineAddress;
use super::super::remains::remove_recorded;
use super::*;
use crate::substrate::process::Nonce;

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

async fn answer(mut stream: UnixStream, containers: Containers) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else {
            return;
        };
        request.push(byte);
    }
    let request = String::from_utf8(request).unwrap();
    let words: Vec<&str> = request.split(' ').collect();
    let path = words[1].split('?').next().unwrap();
    let parts: Vec<&str> = path
        .split('/')
        .skip_while(|part| part.starts_with('v') || part.is_empty())
        .collect();
    let (status, body) = match parts.as_slice() {
        _ if path.ends_with("/version") => {
            (200, json!({ "Version": "20.10.24", "ApiVersion": "1.41" }))
        }
        ["info"] => (
            200,
            json!({ "ID": "E", "OSType": "linux", "Architecture": std::env::consts::ARCH }),
        ),
        ["containers", id, deed] => {
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
        other => panic!("{other:?} was not asked for"),
    };
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + &body).as_bytes()).await;
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
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("engine.sock");
    let listener = UnixListener::bind(&socket).unwrap();
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
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut answering = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            answering.spawn(answer(stream, Arc::clone(&served)));
        }
    });
    let address = EngineAddress {
        url: format!("unix://{}", socket.display()),
        from: "a test".to_owned(),
    };
    let engine = Engine::connect(address.clone()).await.unwrap();
    let mut entries = vec![Entry::Engine {
        address,
        id: "E".to_owned(),
        nonce: Nonce::from_bytes([7; 16]),
    }];
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
    assert_eq!(removal.brought_up, 2, "{removal:?}");
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
