//! An engine for tests, which answers what they say.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::address::EngineAddress;
use super::ledger::Entry;
use crate::substrate::process::Nonce;

/// Serves until it is dropped.
#[derive(Debug)]
pub(super) struct FakeEngine {
    directory: tempfile::TempDir,
    _serving: JoinSet<()>,
}

impl FakeEngine {
    /// Answers a method and the parts of a path, without the version and what is asked of it, with a status and a body.
    pub(super) fn serve(
        answer: impl Fn(&str, &[&str]) -> (u16, Value) + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("engine.sock")).unwrap();
        let answer = Arc::new(answer);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut answering = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let answer = Arc::clone(&answer);
                answering.spawn(async move { talk(stream, &*answer).await });
            }
        });
        Self {
            directory,
            _serving: serving,
        }
    }

    /// Where it is.
    pub(super) fn address(&self) -> EngineAddress {
        EngineAddress {
            url: format!("unix://{}/engine.sock", self.directory.path().display()),
            from: "a test".to_owned(),
        }
    }

    /// The first entry of a run on it.
    pub(super) fn entry(&self) -> Entry {
        Entry::Engine {
            address: self.address(),
            id: "E".to_owned(),
            nonce: Nonce::from_bytes([7; 16]),
        }
    }
}

async fn talk(mut stream: UnixStream, answer: &impl Fn(&str, &[&str]) -> (u16, Value)) {
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
    let parts = path.split('/').filter(|part| !part.is_empty());
    let parts: Vec<&str> = parts.skip_while(|part| part.starts_with("v1.")).collect();
    let (status, body) = match parts.as_slice() {
        ["version"] => (200, json!({ "Version": "20.10.24", "ApiVersion": "1.41" })),
        ["info"] => (
            200,
            json!({ "ID": "E", "OSType": "linux", "Architecture": std::env::consts::ARCH }),
        ),
        parts => answer(words[0], parts),
    };
    let body = match body {
        Value::Null => String::new(),
        // A log is no JSON.
        Value::String(text) => text,
        body => body.to_string(),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let _ = stream.write_all((head + &body).as_bytes()).await;
}
