//! One pod: how its node starts, is hurt, dies and lives again.

use std::time::{Duration, Instant};

use serde_json::json;
use tweedledum_core::history::ExitStatus;
use tweedledum_core::plan::model::{Pull, StopSignal};
use tweedledum_harness::agent::request::{Check, PingAt, PingEvery, Poll, Read};
use tweedledum_harness::observe::{Observation, Value};
use tweedledum_harness::substrate::docker::image::{own_image, users_image};
use tweedledum_harness::substrate::docker::pod::Data;
use tweedledum_harness::substrate::process::{NodeSignal, StoppedBy};

use crate::ground::{FIXTURE, LONG, docker, line, play};

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn a_node_lives_twice_and_its_pod_once() {
    play(&["node-0"], |ground| async move {
        let (pod, mut sights) = ground.pod("node-0", Data::Plain).await;
        let address = format!("{}:7000", pod.address());
        let (node, life, mut pipes) = ground.start(&pod, &["serve", &address]).await;
        let up = line(&mut pipes).await;
        assert_eq!(
            (&up["lives"], &up["network"]),
            (&json!(1), &json!("{}")),
            "{up}"
        );
        assert!(
            up["caps"].as_str().unwrap().ends_with("0000000000000000"),
            "no rights: {up}"
        );
        assert_ne!(up["pid"], json!(1), "the agent is process 1");

        let agent = pod.agent();
        let url = format!("http://{address}/");
        let ready = Check::Http {
            url: url.clone(),
            status: 200,
        };
        agent.until_ready(ready.clone(), LONG).await.unwrap();
        let target = PingAt {
            address: address.parse().unwrap(),
            key: [2; 32],
            dialect: "text".to_owned(),
        };
        assert!(agent.ping(target.clone(), LONG).await.unwrap().is_some());
        let period = Duration::from_millis(50);
        let poll = Poll {
            signal: "layer".to_owned(),
            url,
            read: Read::Json("/layer".to_owned()),
            period,
            within: LONG,
        };
        agent
            .watch(
                vec![poll],
                Some(PingEvery {
                    target: target.clone(),
                    period,
                }),
            )
            .await
            .unwrap();
        let (mut samples, mut pings) = (0, 0);
        while samples < 3 || pings < 3 {
            match sights.recv().await.unwrap() {
                Observation::Sample(sample) => {
                    assert!(matches!(sample.value, Value::Int(_)));
                    samples += 1;
                }
                Observation::Ping(ping) => pings += u32::from(ping.rtt.is_some()),
                other => panic!("{other:?}"),
            }
        }
        agent.watch(Vec::new(), None).await.unwrap();

        let probe = ["/tweedledum", "pod-node", "exit"]
            .map(str::to_owned)
            .to_vec();
        let end = node.exec(probe, LONG).await.unwrap();
        assert_eq!((end.code, end.output.as_str()), (Some(3), ""));

        life.signal(NodeSignal::Stop).await.unwrap();
        assert!(node.state().await.unwrap().paused);
        let short = Duration::from_millis(200);
        assert_eq!(
            agent.ping(target.clone(), short).await.unwrap(),
            None,
            "a frozen node is silent"
        );
        life.signal(NodeSignal::Cont).await.unwrap();
        assert!(!node.state().await.unwrap().paused);
        assert!(agent.ping(target.clone(), LONG).await.unwrap().is_some());

        let death = life.kill().await.unwrap();
        assert_eq!(death.status, ExitStatus::Signal(9));
        assert_eq!(life.try_died(), Some(death));
        assert_eq!(agent.ping(target.clone(), short).await.unwrap(), None);

        // Killed while it is frozen, and started again: its address and its data are there.
        let (life, mut pipes) = node.start().await.unwrap();
        assert_eq!(line(&mut pipes).await["lives"], json!(2));
        agent.until_ready(ready, LONG).await.unwrap();
        life.signal(NodeSignal::Stop).await.unwrap();
        assert_eq!(life.kill().await.unwrap().status, ExitStatus::Signal(9));

        // Asked to end while it is frozen: process 1 would not die of a signal it does not handle.
        for (lives, signal, number) in [(3, StopSignal::Term, 15), (4, StopSignal::Int, 2)] {
            let (life, mut pipes) = node.start().await.unwrap();
            assert_eq!(line(&mut pipes).await["lives"], json!(lives));
            life.signal(NodeSignal::Stop).await.unwrap();
            let (by, stopped) = life.terminate(signal, LONG).await.unwrap();
            assert_eq!(
                (by, stopped.death.status, stopped.forced),
                (StoppedBy::Term, ExitStatus::Signal(number), false)
            );
            let (by, _) = life.terminate(signal, LONG).await.unwrap();
            assert_eq!(by, StoppedBy::AlreadyDead);
            assert!(life.signal(NodeSignal::Kill).await.is_err());
        }
    });
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn deaths_are_told_apart_and_programs_that_cannot_start_are_errors() {
    play(&["a", "b", "c"], |ground| async move {
        for (name, word, want) in [
            ("a", "abort", ExitStatus::Signal(6)),
            ("b", "exit", ExitStatus::Code(3)),
        ] {
            let (pod, _sights) = ground.pod(name, Data::Plain).await;
            let (_node, life, _pipes) = ground.start(&pod, &[word]).await;
            let death = tokio::time::timeout(LONG, life.died()).await.unwrap();
            assert_eq!(death.status, want, "{word}");
        }
        let (pod, _sights) = ground.pod("c", Data::Plain).await;
        let mut spec = ground.spec(&[]);
        spec.command = vec!["/no/such/program".to_owned()];
        spec.replace_entry_point = true;
        let error = pod
            .node(spec)
            .await
            .unwrap()
            .start()
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("would not start c") && error.contains("no such file"),
            "{error}"
        );
    });
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn an_agent_that_dies_is_told_and_takes_its_node_along() {
    play(&["node-0"], |ground| async move {
        let (pod, _sights) = ground.pod("node-0", Data::Plain).await;
        let (_node, life, mut pipes) = ground
            .start(&pod, &["serve", &format!("{}:7000", pod.address())])
            .await;
        line(&mut pipes).await;
        let agent = format!("tweedledum-{}-node-0-agent", ground.nonce);
        crate::ground::docker()
            .kill_container(
                &agent,
                None::<bollard::query_parameters::KillContainerOptions>,
            )
            .await
            .unwrap();
        let why = tokio::time::timeout(LONG, pod.agent().gone())
            .await
            .unwrap();
        assert!(why.contains("its stream ended"), "{why}");
        tokio::time::timeout(LONG, life.died()).await.unwrap();
        assert!(pod.agent().disk().await.is_err());
    });
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn images_are_imported_once_and_never_pulled_unasked() {
    play(&[], |ground| async move {
        let engine = ground.run.engine();
        let began = Instant::now();
        let again = own_image(engine, FIXTURE.as_ref()).await.unwrap();
        println!(
            "image imported: {:?}, looked up again: {:?}",
            ground.imported,
            began.elapsed()
        );
        assert_eq!((again.made, &again.id), (false, &ground.image.id));
        assert_eq!(
            users_image(engine, &again.name, Pull::Never)
                .await
                .unwrap()
                .id,
            again.id
        );
        let error = users_image(engine, "tweedledum-no-such-image:1", Pull::Never)
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("nothing is pulled unless the plan says so"),
            "{error}"
        );
    });
}

/// An agent that stands still is late, and one that goes on is not.
#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn an_agent_that_is_paused_is_late() {
    play(&["node-0"], |ground| async move {
        let (pod, _sights) = ground.pod("node-0", Data::Plain).await;
        let agent = pod.agent();
        let layer = Duration::from_secs(1);
        agent.keep_time(layer).await.unwrap();
        let punctual = || async {
            let began = Instant::now();
            // What was late before does not count; a whole layer without is what is waited for.
            while began.elapsed() < LONG {
                agent.lateness();
                tokio::time::sleep(layer).await;
                if agent.lateness() < layer / 5 {
                    return;
                }
            }
            panic!("it is never in time");
        };
        punctual().await;
        let name = format!("tweedledum-{}-node-0-agent", ground.nonce);
        let late = |when: &'static str| async move {
            let (began, mut worst) = (Instant::now(), Duration::ZERO);
            while worst < layer {
                assert!(
                    began.elapsed() < LONG,
                    "{when} it is only late by {worst:?}"
                );
                tokio::time::sleep(layer / 20).await;
                worst = worst.max(agent.lateness());
            }
        };
        docker().pause_container(&name).await.unwrap();
        late("while it is silent").await;
        docker().unpause_container(&name).await.unwrap();
        late("once it goes on").await;
        punctual().await;
    });
}
