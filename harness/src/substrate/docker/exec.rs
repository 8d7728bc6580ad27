//! Commands in a node's container: readiness checks that a role declares as `exec:`.
//!
//! The engine has no way to end a command that it started. One that does not end in time goes on
//! in the container until it ends by itself or the node does; nobody waits for it any more.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use futures_util::StreamExt as _;

use super::container::DockerError;
use super::node::Node;
use crate::observe::ready::ExecEnd;

/// The end of a command's output that is kept.
const OUTPUT_MAX: usize = 4096;

impl Node {
    /// Runs a command beside the node, with its rights and its files, for at most `bound`.
    pub async fn exec(&self, argv: Vec<String>, bound: Duration) -> Result<ExecEnd, DockerError> {
        let what = || format!("run `{}` in {}", argv.join(" "), self.name());
        match tokio::time::timeout(bound, self.exec_unbounded(&argv)).await {
            Ok(end) => end.map_err(|error| DockerError::engine(what(), &error)),
            Err(_) => Err(DockerError::TooLate {
                what: what(),
                bound,
            }),
        }
    }

    async fn exec_unbounded(&self, argv: &[String]) -> Result<ExecEnd, bollard::errors::Error> {
        let docker = self.engine().docker();
        let config = ExecConfig {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(argv.to_vec()),
            ..ExecConfig::default()
        };
        let exec = docker.create_exec(self.id(), config).await?;
        let mut kept = Vec::new();
        if let StartExecResults::Attached { mut output, .. } =
            docker.start_exec(&exec.id, None).await?
        {
            while let Some(piece) = output.next().await {
                let (LogOutput::StdOut { message }
                | LogOutput::StdErr { message }
                | LogOutput::StdIn { message }
                | LogOutput::Console { message }) = piece?;
                kept.extend_from_slice(&message);
                kept.drain(..kept.len().saturating_sub(OUTPUT_MAX));
            }
        }
        let code = docker.inspect_exec(&exec.id).await?.exit_code;
        Ok(ExecEnd {
            // As with the node itself, a code above 128 is a signal.
            code: code
                .and_then(|code| i32::try_from(code).ok())
                .filter(|code| *code <= 128),
            output: String::from_utf8_lossy(&kept).into_owned(),
        })
    }
}
