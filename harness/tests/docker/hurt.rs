//! Floods from inside a pod, and limits that change while a node runs.

use std::time::Duration;

use tweedledum_core::capability::Resource;
use tweedledum_core::history::ExitStatus;
use tweedledum_harness::agent::DatagramKind;
use tweedledum_harness::agent::evidence::FloodEvidence;
use tweedledum_harness::agent::flood::FloodSpec;
use tweedledum_harness::clock::monotonic_ns;
use tweedledum_harness::substrate::docker::Limits;
use tweedledum_harness::substrate::docker::pod::Data;

use crate::ground::{LONG, line, play};

const MIB: u64 = 1 << 20;

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn a_flood_reaches_its_node_and_its_ports_close() {
    play(&["node-0"], |ground| async move {
        let (pod, _sights) = ground.pod("node-0", Data::Plain).await;
        let address = format!("{}:7000", pod.address());
        let (_node, _life, mut pipes) = ground.start(&pod, &["serve", &address]).await;
        line(&mut pipes).await;
        let agent = pod.agent();
        let spec = FloodSpec {
            target: address.parse().unwrap(),
            target_key: [2; 32],
            source_ip: pod.address().into(),
            sources: 320,
            over: Duration::from_millis(500),
            last_after: None,
            late_max: Duration::from_millis(50),
            kind: DatagramKind::WellFormed,
            seed: [3; 32],
            netid: 1,
            due_unix_ns: 0,
        };
        agent.prepare_flood(1, "text", spec).await.unwrap();
        let due = monotonic_ns() + 50_000_000;
        let sent = agent.start_flood(1, due, LONG).await.unwrap();
        let evidence = FloodEvidence::of(&sent);
        assert_eq!(
            (evidence.sent, evidence.dropped, sent.bound),
            (320, 0, 320),
            "{evidence:?}"
        );
        let late = Duration::from_nanos(sent.first_ns.unwrap().saturating_sub(due));
        println!("flood: first datagram {late:?} after its due time, {evidence:?}");
        let closed = agent.stop_flood(1).await.unwrap().unwrap();
        assert_eq!(closed.left_open, Some(Vec::new()));
    });
}

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn limits_change_live_and_lack_of_memory_is_told_from_a_kill() {
    play(&["node-0", "node-1"], |ground| async move {
        let (pod, _sights) = ground.pod("node-0", Data::Plain).await;
        let (node, life, mut pipes) = ground
            .start(&pod, &["serve", &format!("{}:7000", pod.address())])
            .await;
        line(&mut pipes).await;
        let amounts = [
            (Resource::Memory, 64 * MIB),
            (Resource::Cpu, 100),
            (Resource::Pids, 20),
        ];
        for (resource, amount) in amounts {
            node.limit_one(resource, Some(amount)).await.unwrap();
        }
        let limits = Limits {
            memory: Some(64 * MIB),
            milli_cpus: Some(100),
            pids: Some(20),
        };
        let state = node.state().await.unwrap();
        assert_eq!(state.limits, limits, "each leaves the others as they are");
        for (resource, _) in amounts {
            node.limit_one(resource, None).await.unwrap();
        }
        let state = node.state().await.unwrap();
        assert_eq!(state.limits, Limits::default(), "lifted");
        let too_small = node.limit_one(Resource::Memory, Some(MIB)).await;
        assert!(too_small.is_err());
        let death = life.kill().await.unwrap();
        assert_eq!(death.status, ExitStatus::Signal(9));

        let (pod, _sights) = ground.pod("node-1", Data::Plain).await;
        let (node, life, mut pipes) = ground.start(&pod, &["hog"]).await;
        line(&mut pipes).await;
        let cap = node.limit_one(Resource::Memory, Some(256 * MIB)).await;
        cap.unwrap();
        let death = tokio::time::timeout(LONG, life.died()).await.unwrap();
        assert_eq!(death.status, ExitStatus::OutOfMemory);
        // A life without lack of memory is not blamed for the one before it.
        let (life, mut pipes) = node.start().await.unwrap();
        line(&mut pipes).await;
        let death = life.kill().await.unwrap();
        assert_eq!(death.status, ExitStatus::Signal(9));
    });
}
