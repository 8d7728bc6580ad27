//! Tests of the parsers on samples of real kernels, and of the readers on this machine.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::observe::testing::block;

const UDP: &str = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1143: 0500007F:1D59 00000000:0000 07 00000000:00034000 00:00000000 00000000  1000        0 12345 2 0000000000000000 744
 1144: 0100007F:8235 0500007F:1D59 01 00000000:00000000 00:00000000 00000000     0        0 12346 2 0000000000000000 0
";
const UDP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  511: 00000000000000000000000000000000:1D59 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 777 2 0000000000000000 5
  512: 0000000000000000FFFF00000500007F:1D5A 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 778 2 0000000000000000 0
";
const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0502017F:2382 00000000:0000 0A 00000000:00000003 00:00000000 00000000     0        0 1037 1 0000000000000000 100 0 0 10 0
   1: 0502017F:2382 0100007F:D431 06 00000000:00000000 03:00000B3C 00000000     0        0 0 3 0000000000000000
";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn socket_tables_of_each_kind_are_read() {
    if cfg!(target_endian = "big") {
        return; // The samples are of a little-endian machine.
    }
    let udp = parse_inet_table(UDP);
    assert_eq!(udp.len(), 2);
    assert_eq!(
        udp[0],
        InetSocket {
            local: addr("127.0.0.5:7513"),
            remote: addr("0.0.0.0:0"),
            state: 7,
            rx_queue: 0x34000,
            inode: 12345,
            drops: Some(744),
        }
    );
    let udp6 = parse_inet_table(UDP6);
    assert_eq!(udp6[0].local, addr("[::]:7513"));
    assert_eq!(
        udp6[1].local,
        addr("127.0.0.5:7514"),
        "mapped addresses are the IPv4 ones"
    );
    let tcp = parse_inet_table(TCP);
    assert_eq!(
        (tcp[0].local, tcp[0].state, tcp[0].drops),
        (addr("127.1.2.5:9090"), 10, None)
    );
    assert_eq!(tcp[0].rx_queue, 3);
    assert_eq!(tcp.len(), 2);
}

#[test]
fn drops_are_counted_per_socket_and_only_of_the_target() {
    let row = |local: &str, remote: &str, inode, drops| InetSocket {
        local: addr(local),
        remote: addr(remote),
        state: 7,
        rx_queue: 0,
        inode,
        drops: Some(drops),
    };
    let target = addr("127.0.0.5:7513");
    let none = "0.0.0.0:0";
    // Each case: tables looked at one after the other, the rise, bound at first, bound at last.
    let cases: Vec<(Vec<Vec<InetSocket>>, u64, bool, bool)> = vec![
        (vec![vec![], vec![]], 0, false, false),
        (
            vec![vec![row("127.0.0.5:7513", none, 1, 9)], vec![]],
            0,
            true,
            false,
        ),
        (
            vec![
                vec![row("127.0.0.5:7513", none, 1, 9)],
                vec![row("127.0.0.5:7513", none, 1, 50)],
            ],
            41,
            true,
            true,
        ),
        // Restarted in between: what the old socket dropped stays counted, the new one starts at 0.
        (
            vec![
                vec![row("127.0.0.5:7513", none, 1, 9)],
                vec![row("127.0.0.5:7513", none, 1, 20)],
                vec![row("127.0.0.5:7513", none, 2, 7)],
            ],
            18,
            true,
            true,
        ),
        (
            vec![
                vec![row("0.0.0.0:7513", none, 1, 0)],
                vec![row("0.0.0.0:7513", none, 1, 3)],
            ],
            3,
            true,
            true,
        ),
        // Neighbours and the target's own dialled sockets are not it.
        (
            vec![
                vec![],
                vec![
                    row("127.0.0.6:7513", none, 1, 3),
                    row("127.0.0.5:7514", none, 2, 3),
                    row("127.0.0.5:7513", "127.0.0.9:1", 3, 3),
                ],
            ],
            0,
            false,
            false,
        ),
    ];
    for (looks, rise, bound_at_first, bound_at_last) in cases {
        let mut watch = DropsWatch::new(target);
        for table in &looks {
            watch.look(table);
        }
        let count = u32::try_from(looks.len()).unwrap();
        let want = DropsSeen {
            looks: count,
            bound_at_first,
            bound_at_last,
            rise,
        };
        assert_eq!(watch.seen(), want, "{looks:?}");
    }
}

#[test]
fn host_counters_are_read() {
    let stat = "cpu  100 1 20 700 30 4 5 140 9 9\ncpu0 1 2 3 4\nintr 5\n";
    assert_eq!(
        parse_cpu_ticks(stat),
        Some(CpuTicks {
            total: 1000,
            idle: 730,
            steal: 140
        })
    );
    assert_eq!(parse_cpu_ticks("cpu 1 2"), None);
    let pressure = "some avg10=1.00 avg60=0.5 avg300=0.1 total=123\nfull avg10=0.00 total=9\n";
    assert_eq!(
        parse_cpu_pressure(pressure),
        Some(CpuPressure { some_us: 123 })
    );
    assert_eq!(parse_cpu_pressure("full total=9"), None);
    assert_eq!(parse_oom_kills("nr_free_pages 1\noom_kill 7\n"), Some(7));
    assert_eq!(parse_oom_kills("oom_kill x"), None);
}

#[test]
fn shares_since_an_earlier_reading() {
    let load = |total, steal, some_us| HostLoad {
        cpu: Some(CpuTicks {
            total,
            idle: 0,
            steal,
        }),
        pressure: Some(CpuPressure { some_us }),
    };
    let (then, now) = (load(1000, 10, 0), load(1200, 60, 250_000));
    assert_eq!(now.steal_since(&then), Some(0.25));
    assert_eq!(
        now.pressure_since(&then, Duration::from_secs(1)),
        Some(0.25)
    );
    assert_eq!(
        then.steal_since(&now),
        None,
        "counters that go back say nothing"
    );
    assert_eq!(now.steal_since(&now), None, "no time passed");
}

#[test]
fn this_machine_can_be_read() {
    assert!(HostLoad::read().cpu.is_some());
    let socket = UdpSocket::bind((block()(9), 0)).unwrap();
    let local = socket.local_addr().unwrap();
    let bound = || {
        udp_sockets()
            .unwrap()
            .iter()
            .any(|other| other.local == local)
    };
    assert!(bound());
    drop(socket);
    assert!(!bound());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_text_makes_a_parser_panic(text in "[ 0-9A-F:().a-z=\\PC\n]{0,200}") {
        let _ = parse_inet_table(&text);
        let _ = parse_cpu_ticks(&format!("cpu {text}"));
        let _ = parse_cpu_pressure(&format!("some {text}"));
        let _ = parse_oom_kills(&format!("oom_kill {text}"));
    }

    #[test]
    fn damaged_rows_never_panic(at in 0..UDP.len(), byte in any::<char>()) {
        let mut text: Vec<char> = UDP.chars().collect();
        text[at] = byte;
        let _ = parse_inet_table(&text.into_iter().collect::<String>());
    }
}
