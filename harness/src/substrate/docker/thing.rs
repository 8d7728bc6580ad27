//! One thing that a run has made on an engine: found, waited for, removed.
//!
//! In which order the things of a run go, and until when, is the matter of [`remains`](super::remains).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bollard::models::{ContainerStateStatusEnum, ContainerSummary};
use bollard::query_parameters::{
    InspectNetworkOptions, ListContainersOptions, RemoveVolumeOptions,
};

use super::container::{self, DockerError, State, in_time, inspect};
use super::engine::{Engine, status_of};
use super::ledger::{Kind, NONCE_LABEL, Role, Thing};
use crate::substrate::process::Nonce;

/// Pause before removing again what was in use: a network keeps its endpoints for a moment.
pub(super) const AGAIN: Duration = Duration::from_millis(100);
/// How long an agent that was only made is left to begin: a request that was under way when its run died was seen to be
/// carried out within 2 s. Not longer, since all of a run is to be gone within 10 s of its death.
pub(super) const BEGINS: Duration = Duration::from_secs(2);

/// Removes one thing and looks whether it is gone. True if it was there.
pub(super) async fn remove(
    engine: &Engine,
    nonce: &Nonce,
    thing: &Thing,
    id: Option<&str>,
    deadline: Instant,
) -> Result<bool, DockerError> {
    let find = || in_time(deadline, "show it", find(engine, nonce, thing, id));
    let Some(there) = find().await? else {
        return Ok(false);
    };
    if thing.role == Role::Agent {
        until_begun(engine, &there, deadline).await;
    }
    let removing = remove_as(engine, thing.role.kind(), &there);
    in_time(deadline, "remove it", removing).await?;
    if find().await?.is_some() {
        let what = format!("remove the {} {}", thing.role.kind(), thing.name);
        return Err(DockerError::Engine {
            what,
            why: "it says that it is removed, and it is still there".to_owned(),
            status: None,
        });
    }
    Ok(true)
}

/// Waits while what a dead run asked for last may still start an agent, which is what has a pod's address. An engine that
/// removes one while it starts it (20.10 was seen to) takes its address off the network twice, which spoils its count of
/// what is on it: the network can never be removed.
async fn until_begun(engine: &Engine, id: &str, deadline: Instant) {
    let until = deadline.min(Instant::now() + BEGINS);
    let created = ContainerStateStatusEnum::CREATED;
    loop {
        let looked = in_time(deadline, "show it", inspect(engine, id)).await;
        let waits = |it: State| it.status == created.as_ref() && it.error.is_empty();
        if !looked.is_ok_and(waits) || Instant::now() >= until {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn remove_as(engine: &Engine, kind: Kind, id: &str) -> Result<(), DockerError> {
    let docker = engine.docker();
    let removed = match kind {
        Kind::Container => return container::remove(engine, id).await,
        Kind::Volume => {
            docker
                .remove_volume(id, Some(RemoveVolumeOptions { force: false }))
                .await
        }
        Kind::Network => docker.remove_network(id).await,
    };
    match removed {
        Err(error) if status_of(&error) != Some(404) => {
            Err(DockerError::engine(format!("remove a {kind}"), &error))
        }
        _ => Ok(()),
    }
}

/// The id of a recorded thing, if it is there and is the run's.
pub(super) async fn find(
    engine: &Engine,
    nonce: &Nonce,
    thing: &Thing,
    id: Option<&str>,
) -> Result<Option<String>, DockerError> {
    let docker = engine.docker();
    let its_nonce = nonce.to_string();
    let ours = |labels: Option<HashMap<String, String>>| {
        labels.is_some_and(|labels| labels.get(NONCE_LABEL) == Some(&its_nonce))
    };
    let found = match (thing.role.kind(), id) {
        (Kind::Container, Some(id)) => {
            let seen = docker.inspect_container(id, None).await;
            seen.map(|container| {
                let labels = container.config.and_then(|config| config.labels);
                ours(labels).then(|| id.to_owned())
            })
        }
        (Kind::Container, None) => {
            let filters = HashMap::from([
                ("label".to_owned(), vec![format!("{NONCE_LABEL}={nonce}")]),
                ("name".to_owned(), vec![format!("^/{}$", thing.name)]),
            ]);
            let options = ListContainersOptions {
                all: true,
                filters: Some(filters),
                ..ListContainersOptions::default()
            };
            let named = format!("/{}", thing.name);
            let listed = docker.list_containers(Some(options)).await;
            listed.map(|listed| {
                let is_it = |container: &ContainerSummary| {
                    ours(container.labels.clone())
                        && container.names.iter().flatten().any(|name| *name == named)
                };
                listed.into_iter().find(is_it)?.id
            })
        }
        (Kind::Volume, _) => {
            let seen = docker.inspect_volume(&thing.name).await;
            seen.map(|volume| ours(Some(volume.labels)).then_some(volume.name))
        }
        (Kind::Network, id) => {
            let asked = id.unwrap_or(&thing.name);
            let seen = docker
                .inspect_network(asked, None::<InspectNetworkOptions>)
                .await;
            seen.map(|network| {
                let named = network.name.as_deref() == Some(&thing.name);
                network.id.filter(|_| named && ours(network.labels))
            })
        }
    };
    match found {
        // What was made in its place, when the run died before that was recorded, has its name.
        Err(error) if status_of(&error) == Some(404) && id.is_some() => {
            Box::pin(find(engine, nonce, thing, None)).await
        }
        Err(error) if status_of(&error) == Some(404) => Ok(None),
        Err(error) => {
            let what = format!("show the {} {}", thing.role.kind(), thing.name);
            Err(DockerError::engine(what, &error))
        }
        Ok(found) => Ok(found),
    }
}
