//! A run whose process is killed: who sees it, what goes by itself, what clean-up removes and
//! what it leaves alone.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bollard::models::{ContainerCreateBody, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, RemoveContainerOptions, RemoveVolumeOptions,
};
use tweedledum_harness::substrate::docker::image::own_image;
use tweedledum_harness::substrate::docker::ledger::{
    Entry, NODE_LABEL, NONCE_LABEL, ROLE_LABEL, read_entries,
};
use tweedledum_harness::substrate::docker::remains::{Cleaned, clean, is_dead, remove_blocking};
use tweedledum_harness::substrate::process::Nonce;

use crate::ground::{FIXTURE, LONG, carrying, docker, engine, forget_image, use_image};

/// Starts a run in a process of its own and kills that.
#[expect(clippy::disallowed_methods, reason = "the process is what is killed")]
fn killed_run(ledger: &Path) {
    let mut child = std::process::Command::new(FIXTURE)
        .args(["docker-run".as_ref(), ledger.as_os_str()])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.contains("running"), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Names of the running containers that carry the nonce.
async fn running(nonce: &Nonce) -> Vec<String> {
    let filters = HashMap::from([("label".to_owned(), vec![format!("{NONCE_LABEL}={nonce}")])]);
    let options = bollard::query_parameters::ListContainersOptions {
        filters: Some(filters),
        ..bollard::query_parameters::ListContainersOptions::default()
    };
    let listed = docker().list_containers(Some(options)).await.unwrap();
    listed
        .into_iter()
        .flat_map(|container| container.names.unwrap_or_default())
        .collect()
}

#[tokio::test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
async fn a_killed_run_ends_by_itself_and_clean_up_touches_nothing_else() {
    let engine = engine().await;
    use_image();
    let image = own_image(&engine, Path::new(FIXTURE)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.jsonl");
    let ledger = path.clone();
    tokio::task::spawn_blocking(move || killed_run(&ledger))
        .await
        .unwrap();
    let killed = Instant::now();
    let entries = read_entries(&path).unwrap();
    let Entry::Engine { nonce, .. } = entries[0] else {
        panic!("{entries:?}")
    };

    // Others: one that copies every label, nonce included, one that copies the form, and things
    // that have nothing to do with it.
    let docker = docker();
    let other = Nonce::random().unwrap();
    let labels = |nonce: &Nonce, role: &str| {
        HashMap::from([
            (NONCE_LABEL.to_owned(), nonce.to_string()),
            (ROLE_LABEL.to_owned(), role.to_owned()),
            (NODE_LABEL.to_owned(), "node-0".to_owned()),
        ])
    };
    let mut others = Vec::new();
    for labels in [
        labels(&nonce, "agent"),
        labels(&other, "node"),
        HashMap::new(),
    ] {
        let body = ContainerCreateBody {
            image: Some(image.id.clone()),
            cmd: Some(vec!["agent".to_owned()]),
            labels: Some(labels),
            ..ContainerCreateBody::default()
        };
        let name = format!("tweedledum-others-{other}-{}", others.len());
        let options = CreateContainerOptions {
            name: Some(name),
            ..CreateContainerOptions::default()
        };
        others.push(
            docker
                .create_container(Some(options), body)
                .await
                .unwrap()
                .id,
        );
    }
    let name = format!("others-{other}");
    let volume = VolumeCreateRequest {
        name: Some(name.clone()),
        labels: Some(labels(&nonce, "data")),
        ..VolumeCreateRequest::default()
    };
    docker.create_volume(volume).await.unwrap();
    let network = NetworkCreateRequest {
        name: name.clone(),
        labels: Some(labels(&nonce, "network")),
        ..NetworkCreateRequest::default()
    };
    docker.create_network(network).await.unwrap();

    // The agent goes at once and takes its node along; the keeper stays for a while.
    let keeper = format!("/tweedledum-{nonce}-keeper");
    while running(&nonce).await != std::slice::from_ref(&keeper) {
        assert!(
            killed.elapsed() < Duration::from_secs(10),
            "{:?}",
            running(&nonce).await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("agent and node gone {:?} after the kill", killed.elapsed());
    assert_eq!(
        clean(&engine, &entries, LONG).await,
        Cleaned::Live,
        "its keeper still runs"
    );
    while !is_dead(&engine, &entries).await.unwrap() {
        assert!(
            killed.elapsed() < Duration::from_mins(1),
            "the keeper stays"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("dead to others {:?} after the kill", killed.elapsed());
    assert!(killed.elapsed() > Duration::from_secs(28));

    // Also where the ids did not reach the disk any more.
    let planned: Vec<Entry> = entries
        .iter()
        .filter(|entry| !matches!(entry, Entry::Made { .. }))
        .cloned()
        .collect();
    let began = Instant::now();
    let Cleaned::Dead(removal) = clean(&engine, &planned, LONG).await else {
        panic!("it is dead")
    };
    println!(
        "{} things removed in {:?}",
        removal.removed,
        began.elapsed()
    );
    let again = tokio::task::spawn_blocking(move || remove_blocking(&entries, LONG))
        .await
        .unwrap();
    let left = carrying(&nonce).await;

    for id in &others {
        docker.inspect_container(id, None).await.unwrap();
        let options = RemoveContainerOptions {
            force: true,
            ..RemoveContainerOptions::default()
        };
        docker.remove_container(id, Some(options)).await.unwrap();
    }
    docker.inspect_volume(&name).await.unwrap();
    docker
        .remove_volume(&name, None::<RemoveVolumeOptions>)
        .await
        .unwrap();
    docker.remove_network(&name).await.unwrap();
    forget_image(&image).await;

    assert_eq!((removal.removed, removal.left), (5, Vec::new()));
    assert_eq!((again.removed, again.left), (0, Vec::new()));
    let mut left: Vec<String> = left;
    left.sort();
    let want = [format!("/tweedledum-others-{other}-0"), name.clone(), name];
    assert_eq!(left, want, "what copied our labels is untouched");
}
