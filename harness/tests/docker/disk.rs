//! The data volume: its size, ballast, probes.

use tweedledum_harness::agent::request::Check;
use tweedledum_harness::substrate::docker::pod::Data;

use serde_json::json;

use crate::ground::{LONG, line, play};

const MIB: u64 = 1 << 20;
const ENOSPC: i32 = 28;

#[test]
#[ignore = "needs a Docker engine, and minutes: scripts/with-engine"]
fn a_sized_volume_is_full_where_it_is_told_and_ballast_makes_it_smaller() {
    play(&["node-0"], |ground| async move {
        let (pod, _sights) = ground.pod("node-0", Data::Sized(8 * MIB)).await;
        let agent = pod.agent();
        let address = format!("{}:7000", pod.address());
        let (_node, life, mut pipes) = ground.start(&pod, &["fill", &address]).await;
        let fill = Check::Tcp(address.parse().unwrap());
        assert_eq!(agent.disk().await.unwrap().size, 8 * MIB);
        // To knock is to make it fill.
        agent.until_ready(fill.clone(), LONG).await.unwrap();
        let filled = line(&mut pipes).await;
        assert_eq!(
            filled,
            json!({"event": "filled", "bytes": 8 * MIB, "errno": ENOSPC})
        );
        assert_eq!(agent.probe_disk(8 * MIB).await.unwrap(), None);
        assert_eq!(agent.probe_disk(8 * MIB + 1).await.unwrap(), Some(ENOSPC));

        // Capped at 1 MiB while it runs.
        let disk = agent.ballast(7 * MIB).await.unwrap();
        assert_eq!((disk.ballast, disk.free), (7 * MIB, MIB));
        assert_eq!(agent.probe_disk(MIB + 1).await.unwrap(), Some(ENOSPC));
        agent.until_ready(fill.clone(), LONG).await.unwrap();
        assert_eq!(line(&mut pipes).await["bytes"], json!(MIB));

        // Everything taken, given back, and the data survives a kill.
        let disk = agent.ballast(u64::MAX / 2).await.unwrap();
        assert_eq!((disk.free, disk.ballast), (0, 8 * MIB));
        assert_eq!(agent.probe_disk(4096).await.unwrap(), Some(ENOSPC));
        assert_eq!(agent.ballast(0).await.unwrap().free, 8 * MIB);
        life.kill().await.unwrap();
        assert_eq!(agent.disk().await.unwrap().size, 8 * MIB);
    });
}
