//! One run at a time on a project: two would accuse each other's faults.
//!
//! Its keeper says which project a run is on and who it is, to everybody who uses the engine; it goes with its run, however
//! that ends. Each makes its own before it looks for others, so of two that come at once none overlooks the other.

use std::collections::HashMap;

use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptions;

use super::super::container::DockerError;
use super::super::engine::Engine;
use super::super::inside::AFTER;
use super::super::ledger::NONCE_LABEL;
use crate::substrate::process::Nonce;

/// The label that carries the name of the project that a run is attached to.
const PROJECT_LABEL: &str = "org.tweedledum.project";
/// The label that says whose run it is.
const WHO_LABEL: &str = "org.tweedledum.who";

/// What the keeper says of its run.
pub(super) fn labels(project: &str, who: &str) -> [(String, String); 2] {
    [(PROJECT_LABEL, project), (WHO_LABEL, who)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
}

/// Refuses where another keeper runs than that of this nonce.
pub(super) async fn make_sure(
    engine: &Engine,
    project: &str,
    own: Option<&Nonce>,
) -> Result<(), DockerError> {
    let label = format!("{PROJECT_LABEL}={project}");
    let options = ListContainersOptions {
        filters: Some(HashMap::from([("label".to_owned(), vec![label])])),
        ..ListContainersOptions::default()
    };
    let listed = engine.docker().list_containers(Some(options)).await;
    let listed = listed.map_err(|error| DockerError::engine("list its containers", &error))?;
    match other(&listed, own) {
        None => Ok(()),
        Some(who) => Err(DockerError::Spec(format!(
            "project {project} is attached to already, by {who}, and each of the two would take the other's faults for \
             deaths; run again when that run has ended (one that was killed counts as ended after {} s)",
            AFTER.as_secs()
        ))),
    }
}

/// Whose run is there beside the one of this nonce.
fn other(listed: &[ContainerSummary], own: Option<&Nonce>) -> Option<String> {
    let own = own.map(ToString::to_string);
    let mut labels = listed.iter().filter_map(|it| it.labels.as_ref());
    let other = labels.find(|labels| labels.get(NONCE_LABEL) != own.as_ref())?;
    let who = other.get(WHO_LABEL).cloned();
    Some(who.unwrap_or_else(|| "a run that does not say whose it is".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_run_on_the_project_is_told_from_this_one() {
        let keeper = |byte: u8| {
            let nonce = Nonce::from_bytes([byte; 16]).to_string();
            let who = format!("process {byte}");
            let mut labels = HashMap::from(labels("net", &who));
            labels.insert(NONCE_LABEL.to_owned(), nonce);
            ContainerSummary {
                labels: Some(labels),
                ..ContainerSummary::default()
            }
        };
        let own = Nonce::from_bytes([1; 16]);
        assert_eq!(other(&[], None), None);
        assert_eq!(other(&[keeper(1)], Some(&own)), None);
        assert_eq!(other(&[keeper(1)], None), Some("process 1".to_owned()));
        let both = [keeper(1), keeper(2)];
        assert_eq!(other(&both, Some(&own)), Some("process 2".to_owned()));
    }
}
