//! Whether an engine's log still has what is read back of it. Engines throw the oldest away of a log that rotates, and say
//! nothing.
//!
//! The log's oldest line tells: it is from before what is read, or it is the first that the container has printed, or what
//! came before it is lost. A log that does not rotate is whole however late it begins, since a node may be silent.

use std::time::Duration;

use bollard::models::HostConfigLogConfig;
use bollard::query_parameters::LogsOptions;
use futures_util::StreamExt as _;
use jiff::{SignedDuration, Timestamp};

use super::container::{DockerError, pieces};
use super::engine::Engine;
use super::link::Piece;

/// How long after its start a container may print its first line. The bundled nodes take less than a second; what a log
/// loses of so short a time at its beginning is not seen.
const FIRST_WORDS: SignedDuration = SignedDuration::from_secs(3);

/// How long the engine may take to show a log's first line.
const BOUND: Duration = Duration::from_secs(10);

/// What of a container's log is lost that was printed since this second of 1970, in words; `None` of a whole log.
pub(super) async fn lost(engine: &Engine, id: &str, since: i32) -> Option<String> {
    let looked = tokio::time::timeout(BOUND, look(engine, id, since)).await;
    let unseen = |why: String| {
        Some(format!(
            "nobody can tell whether the engine's log, which rotates, still has what it printed before the run: {why}"
        ))
    };
    match looked {
        Ok(Ok(lost)) => lost,
        Ok(Err(error)) => unseen(error.to_string()),
        Err(_) => unseen(format!("the engine has not shown it for {BOUND:?}")),
    }
}

async fn look(engine: &Engine, id: &str, since: i32) -> Result<Option<String>, DockerError> {
    let seen = engine.docker().inspect_container(id, None).await;
    let seen = seen.map_err(|error| DockerError::engine("show a container", &error))?;
    let config = seen.host_config.unwrap_or_default().log_config;
    if !rotates(config.as_ref()) {
        return Ok(None);
    }
    let Some(first) = first_line(engine, id).await? else {
        // The line for which a log rotates stays.
        return Ok(None);
    };
    let time = first.split(|byte| *byte == b' ').next().unwrap_or_default();
    let Some(oldest) = time_of(&String::from_utf8_lossy(time)) else {
        let why = "its oldest line has no time, so nobody can tell what was before it";
        return Err(DockerError::Spec(why.to_owned()));
    };
    let since = Timestamp::from_second(since.into()).unwrap_or(Timestamp::UNIX_EPOCH);
    let state = seen.state.unwrap_or_default();
    let starts = [seen.created, state.started_at];
    let starts: Vec<_> = starts
        .iter()
        .flatten()
        .filter_map(|at| time_of(at))
        .collect();
    Ok((!reaches(oldest, since, &starts)).then(|| {
        format!(
            "the engine's log of it begins at {oldest}, and what the run needs of it at {since}: what it printed in between \
             was rotated away; let its service keep more of its log (`max-size`, `max-file`) and bring it up anew"
        )
    }))
}

fn time_of(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Whether a log whose oldest line is this has all that was printed since then by a container that was made or started at
/// these times. Which of its lives was the first the engine does not tell: a log that begins with a life is taken to be
/// that of a container which had none before.
fn reaches(oldest: Timestamp, since: Timestamp, starts: &[Timestamp]) -> bool {
    let first = SignedDuration::ZERO..=FIRST_WORDS;
    let mut starts = starts.iter();
    oldest <= since || starts.any(|start| first.contains(&oldest.duration_since(*start)))
}

/// Whether an engine may throw the beginning of such a log away. Of the drivers only `json-file` keeps all unless it is
/// told otherwise; logs of drivers that cannot be read are read from a cache that is of the kind `local`.
fn rotates(config: Option<&HostConfigLogConfig>) -> bool {
    let Some(config) = config else { return false };
    let option = |key: &str| config.config.as_ref()?.get(key).map(String::as_str);
    match config.typ.as_deref().unwrap_or_default() {
        "" | "json-file" => option("max-size").is_some_and(|size| size != "-1"),
        _ => true,
    }
}

async fn first_line(engine: &Engine, id: &str) -> Result<Option<bytes::Bytes>, DockerError> {
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        timestamps: true,
        ..LogsOptions::default()
    };
    let mut said = pieces(engine.docker().logs(id, Some(options)));
    match said.next().await {
        None => Ok(None),
        Some(Ok(Piece::Out(line) | Piece::Err(line) | Piece::Former(line))) => Ok(Some(line)),
        Some(Err(error)) => Err(DockerError::Spec(format!(
            "the engine would not show its beginning: {error}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fake_engine::FakeEngine;
    use super::*;

    const MADE: &str = "2026-03-01T10:00:00Z";
    const STARTED: &str = "2026-03-01T10:05:00Z";

    /// What is told to be lost of a log of this configuration that begins with this line, read since this time.
    async fn told(config: Value, first: &'static str, since: &str) -> Option<String> {
        let fake = FakeEngine::serve(move |_, parts| match parts {
            ["containers", "N", "json"] => {
                let state = json!({ "Running": true, "StartedAt": STARTED });
                let host = json!({ "LogConfig": config });
                (
                    200,
                    json!({ "Id": "N", "Created": MADE, "State": state, "HostConfig": host }),
                )
            }
            ["containers", "N", "logs"] if first == "refused" => (500, json!({ "message": "no" })),
            ["containers", "N", "logs"] => (200, json!(first)),
            other => panic!("{other:?} was not asked for"),
        });
        let engine = Engine::connect(fake.address()).await.unwrap();
        let since: Timestamp = since.parse().unwrap();
        let since = i32::try_from(since.as_second()).unwrap();
        lost(&engine, "N", since).await
    }

    fn small() -> Value {
        json!({ "Type": "json-file", "Config": { "max-size": "4k", "max-file": "1" } })
    }

    #[tokio::test]
    async fn a_log_that_was_rotated_too_far_is_told_as_lost() {
        let late = "2026-03-01T10:07:00.5Z {\"event\":\"layer\"}\n";
        let local = json!({ "Type": "local", "Config": {} });
        let between = "2026-03-01T10:04:00Z words of an earlier life\n";
        for (config, first, since) in [
            (small(), late, "2026-03-01T10:06:30Z"),
            (local, late, "2026-03-01T10:06:30Z"),
            // It was made after that, and has not said nothing for so long.
            (small(), late, "2026-03-01T09:00:00Z"),
            (small(), between, "2026-03-01T09:00:00Z"),
        ] {
            let why = told(config.clone(), first, since).await.unwrap();
            assert!(why.contains("was rotated away"), "{config}: {why}");
            assert!(why.contains("`max-size`"), "{why}");
        }
        let unseen = told(small(), "refused", "2026-03-01T10:06:30Z")
            .await
            .unwrap();
        assert!(unseen.contains("nobody can tell"), "{unseen}");
        let undated = told(small(), "words\n", "2026-03-01T10:06:30Z")
            .await
            .unwrap();
        assert!(undated.contains("has no time"), "{undated}");
    }

    #[tokio::test]
    async fn a_whole_log_is_told_to_lack_nothing() {
        let late = "2026-03-01T10:07:00.5Z {\"event\":\"layer\"}\n";
        for (config, first, since) in [
            // It reaches back to what is read.
            (small(), late, "2026-03-01T10:07:01Z"),
            // It begins where the container, or its only life, does.
            (
                small(),
                "2026-03-01T10:00:00.4Z first\n",
                "2026-03-01T09:00:00Z",
            ),
            (
                small(),
                "2026-03-01T10:05:01Z first\n",
                "2026-03-01T09:00:00Z",
            ),
            (small(), "", "2026-03-01T09:00:00Z"),
            // A silent node whose log does not rotate.
            (
                json!({ "Type": "json-file", "Config": {} }),
                late,
                "2026-03-01T09:00:00Z",
            ),
            (
                json!({ "Type": "json-file", "Config": { "max-size": "-1" } }),
                late,
                "2026-03-01T09:00:00Z",
            ),
        ] {
            let lost = told(config.clone(), first, since).await;
            assert_eq!(lost, None, "{config} {first}");
        }
    }
}
