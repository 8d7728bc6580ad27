//! Twenty nodes at once, and how long things take.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tweedledum_harness::agent::request::Check;
use tweedledum_harness::clock::monotonic_ns;
use tweedledum_harness::substrate::Identities;
use tweedledum_harness::substrate::docker::pod::{Data, PodSpec};

use crate::ground::{LONG, play};

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn twenty_nodes_start_at_once() {
    let names: Vec<String> = (0..20).map(|index| format!("miner-{index}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let own = names.clone();
    play(&all, move |ground| async move {
        let (seen, _sights) = tokio::sync::mpsc::channel(1000);
        let specs = own.iter().map(|node| PodSpec {
            node: node.clone(),
            data: Data::Sized(4 << 20),
            identities: Identities {
                watcher: [1; 32],
                prober: [1; 32],
                netid: 1,
            },
            seen: seen.clone(),
            looks_into: false,
        });
        let began = Instant::now();
        let mut told = 0;
        let pods = ground
            .run
            .pods(specs.collect(), |progress| told = progress.made)
            .await
            .unwrap();
        let (made, count) = (began.elapsed(), pods.len());
        assert_eq!((told, count), (20, 20));
        let addresses: std::collections::BTreeSet<_> = pods
            .iter()
            .map(tweedledum_harness::substrate::docker::pod::Pod::address)
            .collect();
        assert_eq!(addresses.len(), 20);
        let ground = std::sync::Arc::new(ground);
        let mut starting = JoinSet::new();
        for pod in &pods {
            let (ground, pod) = (std::sync::Arc::clone(&ground), pod.clone());
            starting.spawn(async move {
                let address = format!("{}:7000", pod.address());
                let (_node, life, pipes) = ground.start(&pod, &["serve", &address]).await;
                let ready = Check::Http {
                    url: format!("http://{address}/"),
                    status: 200,
                };
                pod.agent().until_ready(ready, LONG * 4).await.unwrap();
                (life, pipes)
            });
        }
        let mut lives = starting.join_all().await;
        // They come in the order in which they were ready; whom to kill and whom to ask is by name.
        lives.sort_by_key(|(life, _)| own.iter().position(|name| name == life.node().name()));
        println!(
            "20 nodes: pods {made:?}, all ready after {:?}",
            began.elapsed()
        );

        let mut seen_after = Vec::new();
        for (life, _) in lives.iter().take(5) {
            let decided = monotonic_ns();
            let death = life.kill().await.unwrap();
            seen_after.push(Duration::from_nanos(death.seen_ns.saturating_sub(decided)));
        }
        println!("kill decided until death seen, one after the other: {seen_after:?}");
        let mut asked = Vec::new();
        let agent = pods[10].agent();
        let url = format!("http://{}:7000/", pods[10].address());
        for _ in 0..50 {
            let began = Instant::now();
            agent
                .until_ready(
                    Check::Http {
                        url: url.clone(),
                        status: 200,
                    },
                    LONG,
                )
                .await
                .unwrap();
            asked.push(began.elapsed());
        }
        asked.sort();
        println!(
            "a question to a node through its agent: p50 {:?}, p98 {:?}",
            asked[25], asked[49]
        );
        let began = Instant::now();
        let mut killing = JoinSet::new();
        for (life, _) in lives.into_iter().skip(5) {
            killing.spawn(async move { life.kill().await.unwrap() });
        }
        killing.join_all().await;
        println!("15 kills at once: {:?}", began.elapsed());
        let began = Instant::now();
        let removal = ground.run.tear_down(LONG * 4).await;
        println!(
            "teardown of 20 pods: {:?}, {} things",
            began.elapsed(),
            removal.removed
        );
        assert_eq!((removal.left.len(), removal.removed), (0, 62));
    });
}
