//! Tests of the log readers on real pipes: ordinary nodes, garbage, floods, full files and channels.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::super::log_sink::WINDOW;
use super::*;
use crate::clock::monotonic_ns;

/// A hub with one node attached, and the write ends of its pipes.
struct Rig {
    logs: NodeLogs,
    stdout: Option<io::PipeWriter>,
    stderr: Option<io::PipeWriter>,
    events: mpsc::Receiver<Observation>,
    /// What was told to be lost.
    gaps: Vec<Gap>,
    dir: tempfile::TempDir,
    hub: LogHub,
}

impl Rig {
    fn new(limits: LogLimits, room: usize, ready_line: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (out, events) = mpsc::channel(room);
        let wanted = ["ready", "panic", "n"].map(str::to_owned).into();
        let mut hub = LogHub::new(wanted, limits, out);
        let (stdout_read, stdout) = io::pipe().unwrap();
        let (stderr_read, stderr) = io::pipe().unwrap();
        let spec = LogSpec {
            node: "gateway-0".into(),
            dir: dir.path().to_owned(),
            stdout: stdout_read.into(),
            stderr: stderr_read.into(),
            former: None,
            cut: None,
            lost: None,
            ready_line: ready_line.map(|pattern| Regex::new(pattern).unwrap()),
        };
        let logs = hub.attach(spec).unwrap();
        Self {
            logs,
            stdout: Some(stdout),
            stderr: Some(stderr),
            events,
            gaps: Vec::new(),
            dir,
            hub,
        }
    }

    fn print(&mut self, text: impl AsRef<[u8]>) {
        self.stdout
            .as_mut()
            .unwrap()
            .write_all(text.as_ref())
            .unwrap();
    }

    /// The node ends; returns its events in order.
    async fn end(&mut self) -> Vec<LogEvent> {
        (self.stdout, self.stderr) = (None, None);
        let (mut events, gaps) = (Vec::new(), &mut self.gaps);
        let mut take = |observation| match observation {
            Observation::Event(event) => events.push(event),
            Observation::Gap(gap) => gaps.push(gap),
            other => panic!("{other:?}"),
        };
        let drained = self.logs.drained(Duration::from_secs(10));
        tokio::pin!(drained);
        loop {
            tokio::select! {
                Some(observation) = self.events.recv() => take(observation),
                drained = &mut drained => break drained.unwrap(),
            }
        }
        while let Ok(observation) = self.events.try_recv() {
            take(observation);
        }
        events
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs_err::read(self.dir.path().join(name)).unwrap()
    }
}

#[tokio::test]
async fn events_files_and_tails_of_an_ordinary_node() {
    let mut rig = Rig::new(LogLimits::default(), 100, None);
    let text = "{\"event\":\"ready\",\"t\":1}\n{\"event\":\"layer\",\"n\":2}\n \
                {\"t\":3,\"event\":\"panic\",\"component\":\"session-table\"}";
    rig.print(text);
    rig.stderr
        .as_mut()
        .unwrap()
        .write_all(b"{\"event\":\"ready\"}\nthread panicked\n")
        .unwrap();
    let events = rig.end().await;
    let names: Vec<_> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(
        names,
        ["ready", "panic"],
        "stderr is text, `layer` is wanted by nobody"
    );
    assert_eq!(events[1].fields["component"], "session-table");
    assert_eq!(&*events[0].node, "gateway-0");
    assert!(events[0].t_ns <= events[1].t_ns && events[1].t_ns <= monotonic_ns());

    assert_eq!(rig.file("stdout.log"), text.as_bytes());
    assert_eq!(
        rig.file("stderr.log"),
        b"{\"event\":\"ready\"}\nthread panicked\n"
    );
    let [stdout, stderr] = rig.logs.counts();
    assert_eq!(
        (stdout.lines, stdout.events, stdout.unwanted, stdout.garbage),
        (3, 2, 1, 0)
    );
    assert_eq!((stderr.lines, stderr.events, stderr.garbage), (2, 0, 0));
    assert_eq!(
        rig.logs.tails()[1],
        ["{\"event\":\"ready\"}", "thread panicked"]
    );
}

#[tokio::test]
async fn what_former_lives_printed_is_told_apart() {
    let mut rig = Rig::new(LogLimits::default(), 8, None);
    let pipes: Vec<_> = (0..3).map(|_| io::pipe().unwrap()).collect();
    for (_, end) in &pipes {
        let mut end = end;
        end.write_all(b"{\"event\":\"ready\"}\n").unwrap();
    }
    let [out, err, former] = <[_; 3]>::try_from(pipes)
        .unwrap()
        .map(|(read, _)| read.into());
    let spec = LogSpec {
        node: "gateway-0".into(),
        dir: rig.dir.path().to_owned(),
        stdout: out,
        stderr: err,
        former: Some(former),
        cut: None,
        lost: None,
        ready_line: Some(Regex::new("nothing").unwrap()),
    };
    rig.logs = rig.hub.attach(spec).unwrap();
    let mut events = rig.end().await;
    events.sort_by_key(|event| event.former);
    let former: Vec<bool> = events.iter().map(|event| event.former).collect();
    assert_eq!(former, [false, true]);
    assert_eq!(rig.logs.tails().map(|lines| lines.len()), [1, 1]);
}

// The printing thread blocks on a full pipe, so the readers need another.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn garbage_is_counted_and_does_not_hide_what_follows() {
    let deep = "[".repeat(10_000);
    let garbage: Vec<Vec<u8>> = vec![
        b"plain text".to_vec(),
        b"".to_vec(),
        b"[\"ready\"]".to_vec(),
        b"{\"event\":7}".to_vec(),
        b"{\"no\":\"event\"}".to_vec(),
        b"{\"event\":\"ready\"".to_vec(),
        b"{\"event\":\"ready\"} trailing".to_vec(),
        b"{\"event\":\"rea\xff\"}".to_vec(),
        b"\xff\xfe\x00\x01".to_vec(),
        format!("{{\"event\":\"ready\",\"x\":{deep}}}").into_bytes(),
        format!("{{\"event\":\"ready\",\"x\":\"{}\"}}", "y".repeat(70_000)).into_bytes(),
    ];
    let mut rig = Rig::new(LogLimits::default(), 100, None);
    for line in &garbage {
        let mut line = line.clone();
        line.push(b'\n');
        rig.print(line);
    }
    rig.print("{\"event\":\"ready\"}\n");
    let events = rig.end().await;
    assert_eq!(events.len(), 1);
    let [counts, _] = rig.logs.counts();
    assert_eq!(counts.garbage, garbage.len() as u64);
    assert_eq!(counts.lines, garbage.len() as u64 + 1);
}

/// A history with such an event could not be read again.
#[tokio::test]
async fn events_nested_too_deep_are_told_as_lost() {
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!("{{\"event\":\"n\",\"x\":{open}{close}}}\n")
    };
    let mut rig = Rig::new(LogLimits::default(), 100, None);
    for depth in [32, 33, 127, 2000] {
        rig.print(nested(depth));
    }
    // What stands in quotes is text, however it looks.
    rig.print(format!(
        "{{\"event\":\"n\",\"x\":\"\\\"{}\"}}\n",
        "[".repeat(99)
    ));
    let events = rig.end().await;
    assert_eq!(events.len(), 2);
    let [counts, _] = rig.logs.counts();
    assert_eq!((counts.events, counts.too_deep, counts.garbage), (2, 3, 0));
    let told: Vec<&str> = rig.gaps.iter().map(|gap| gap.why.as_str()).collect();
    let [only] = told.as_slice() else {
        panic!("{told:?}")
    };
    assert!(only.starts_with("3 events were left out"), "{only}");
}

#[tokio::test]
async fn a_full_file_stops_growing_across_restarts_and_counts_the_rest() {
    let limits = LogLimits {
        file_bytes: 1000,
        ..LogLimits::default()
    };
    let mut rig = Rig::new(limits, 100, None);
    rig.print("x".repeat(600));
    rig.end().await;
    let (again_read, again) = io::pipe().unwrap();
    let (stderr_read, stderr) = io::pipe().unwrap();
    let spec = LogSpec {
        node: "gateway-0".into(),
        dir: rig.dir.path().to_owned(),
        stdout: again_read.into(),
        stderr: stderr_read.into(),
        former: None,
        cut: None,
        lost: None,
        ready_line: None,
    };
    rig.logs = rig.hub.attach(spec).unwrap();
    (rig.stdout, rig.stderr) = (Some(again), Some(stderr));
    rig.print("y".repeat(600));
    rig.end().await;
    assert_eq!(
        rig.file("stdout.log"),
        [vec![b'x'; 600], vec![b'y'; 400]].concat()
    );
    assert_eq!(rig.logs.counts()[0].bytes_unwritten, 200);
}

#[tokio::test]
async fn a_channel_that_nobody_reads_loses_events_and_says_so() {
    let limits = LogLimits {
        patience: Duration::from_millis(5),
        ..LogLimits::default()
    };
    let mut rig = Rig::new(limits, 4, None);
    for _ in 0..10 {
        rig.print("{\"event\":\"n\"}\n");
    }
    let all_lost = async {
        while rig.logs.counts()[0].events_lost < 6 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let all_lost = tokio::time::timeout(Duration::from_secs(10), all_lost).await;
    assert!(all_lost.is_ok(), "{:?}", rig.logs.counts());
    assert_eq!(rig.end().await.len(), 4);
    let [counts, _] = rig.logs.counts();
    assert_eq!((counts.events, counts.events_lost), (4, 6));
    let gaps: Vec<_> = rig.gaps.iter().map(|gap| gap.why.as_str()).collect();
    let why = "6 events found no room: the harness did not take them in time";
    assert_eq!(gaps, [why]);
    let gap = &rig.gaps[0];
    assert_eq!((&*gap.node, &*gap.url), ("gateway-0", LOG));
    assert!(gap.answered, "the node is not silent");
}

/// The node says no more, and what it lost before is told all the same, though its pipe is open and quiet.
#[tokio::test]
async fn a_loss_is_told_as_soon_as_there_is_room() {
    let limits = LogLimits {
        patience: Duration::ZERO,
        ..LogLimits::default()
    };
    let mut rig = Rig::new(limits, 1, None);
    rig.print("{\"event\":\"n\"}\n{\"event\":\"n\"}\n{\"event\":\"n\"}\n");
    while rig.logs.counts()[0].events_lost < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(matches!(
        rig.events.recv().await,
        Some(Observation::Event(_))
    ));
    let told = tokio::time::timeout(Duration::from_secs(10), rig.events.recv()).await;
    assert!(matches!(told, Ok(Some(Observation::Gap(_)))), "{told:?}");
    assert!(rig.end().await.is_empty() && rig.gaps.is_empty());
}

// The printing thread blocks on a full pipe, so the readers need another.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_tail_is_bounded_in_lines_and_bytes() {
    let mut rig = Rig::new(LogLimits::default(), 1, None);
    for line in 0..1000 {
        rig.print(format!("line {line}\n"));
    }
    rig.end().await;
    let want: Vec<_> = (950..1000).map(|line| format!("line {line}")).collect();
    assert_eq!(rig.logs.tails()[0], want);

    let mut rig = Rig::new(LogLimits::default(), 1, None);
    rig.print("z".repeat(100_000));
    rig.end().await;
    assert_eq!(
        rig.logs.tails()[0].concat().len(),
        LogLimits::default().tail_bytes
    );
}

#[tokio::test]
async fn a_ready_line_is_found_on_either_stream_and_the_first_is_kept() {
    for on_stderr in [false, true] {
        let mut rig = Rig::new(LogLimits::default(), 1, Some("^listening on [0-9]+$"));
        let mut ready = rig.logs.ready_line();
        let pipe = if on_stderr {
            &mut rig.stderr
        } else {
            &mut rig.stdout
        };
        let pipe = pipe.as_mut().unwrap();
        pipe.write_all(b"starting\xff\nlistening on 7\nlistening on 8\n")
            .unwrap();
        let line = ready.wait_for(Option::is_some).await.unwrap().clone();
        assert_eq!(line.as_deref(), Some("listening on 7"));
        let other = if on_stderr {
            &mut rig.stdout
        } else {
            &mut rig.stderr
        };
        other
            .as_mut()
            .unwrap()
            .write_all(b"listening on 9\n")
            .unwrap();
        rig.end().await;
        assert_eq!(ready.borrow().as_deref(), Some("listening on 7"));
    }
}

#[tokio::test]
async fn waiting_for_an_open_pipe_ends_and_names_it() {
    let mut rig = Rig::new(LogLimits::default(), 1, None);
    rig.stderr = None;
    let open = rig
        .logs
        .drained(Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(open, ["stdout"]);
}

#[tokio::test]
async fn what_is_no_pipe_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (out, _events) = mpsc::channel(1);
    let mut hub = LogHub::new(BTreeSet::new(), LogLimits::default(), out);
    let file = || OwnedFd::from(std::fs::File::open("/proc/self/stat").unwrap());
    let spec = LogSpec {
        node: "a".into(),
        dir: dir.path().to_owned(),
        stdout: file(),
        stderr: file(),
        former: None,
        cut: None,
        lost: None,
        ready_line: None,
    };
    let error = hub.attach(spec).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the stdout of node a is no pipe that can be read"
    );
}

/// A thread that prints the same block as fast as it can until told to stop, then its last words.
fn firehose(mut pipe: io::PipeWriter, line: &str) -> (Arc<AtomicBool>, JoinHandle<u64>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, block) = (Arc::clone(&stop), line.repeat((128 << 10) / line.len()));
    let thread = std::thread::spawn(move || {
        let mut written = 0;
        while !stopped.load(Ordering::Relaxed) {
            pipe.write_all(block.as_bytes()).unwrap();
            written += block.len() as u64;
        }
        let last = "{\"event\":\"panic\",\"message\":\"last words\"}\n";
        pipe.write_all(last.as_bytes()).unwrap();
        written + last.len() as u64
    });
    (stop, thread)
}

fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::from_nanos(crate::clock::timespec_ns(time))
}

#[tokio::test]
async fn a_node_that_prints_too_fast_costs_little_and_its_last_words_are_read() {
    for line in [
        "y\n",
        "{\"event\":\"n\",\"value\":[1,2,3,4,5,6,7,8]}\n",
        "no newline at all",
    ] {
        let mut rig = Rig::new(LogLimits::default(), 100_000, None);
        let (cpu, began) = (thread_cpu(), Instant::now());
        let (stop, thread) = firehose(rig.stdout.take().unwrap(), line);
        // The event loop lives on meanwhile: a quiet neighbour's timer is served.
        let mut ticks = 0;
        let mut taken = 0;
        let (mut gaps, mut told) = (0_u32, 0);
        let mut count = |observation: &Observation| {
            if let Observation::Gap(gap) = observation {
                gaps += 1;
                let bytes = gap.why.split(' ').next();
                told += bytes.unwrap().parse::<u64>().unwrap();
            }
        };
        while began.elapsed() < Duration::from_millis(700) {
            tokio::time::sleep(Duration::from_millis(10)).await;
            ticks += 1;
            while let Ok(observation) = rig.events.try_recv() {
                count(&observation);
                taken += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        let mut last = None;
        rig.stderr = None;
        let drained = async {
            while let Some(observation) = rig.events.recv().await {
                count(&observation);
                last = Some(observation);
                if matches!(&last, Some(Observation::Event(event)) if event.event == "panic") {
                    break;
                }
            }
        };
        let ends_in_newline = line.ends_with('\n');
        let bound = Duration::from_secs(if ends_in_newline { 10 } else { 1 });
        let found = tokio::time::timeout(bound, drained).await.is_ok();
        rig.logs.drained(Duration::from_secs(10)).await.unwrap();
        let (cpu, elapsed) = (thread_cpu().saturating_sub(cpu), began.elapsed());
        while let Ok(observation) = rig.events.try_recv() {
            count(&observation);
        }
        let written = thread.join().unwrap();
        let [counts, _] = rig.logs.counts();
        println!(
            "{line:?}: {:.2} GB/s, controller {:.0} % of a core, {ticks} ticks, {taken} events, {counts:?}",
            f64::from(u32::try_from(written / 1000).unwrap()) / 1e6 / elapsed.as_secs_f64(),
            100.0 * cpu.as_secs_f64() / elapsed.as_secs_f64(),
        );
        assert_eq!(
            counts.bytes + counts.bytes_skipped,
            written,
            "every byte is accounted for"
        );
        assert_eq!(told, counts.bytes_skipped, "every loss is told");
        let most = 2 + elapsed.as_millis() / LogLimits::default().tell_loss_every.as_millis();
        assert!(u128::from(gaps) <= most, "{gaps} times in {elapsed:?}");
        // What was lost takes whole lines with it; no two halves become one.
        assert!(counts.garbage == 0 || !line.starts_with('{'), "{counts:?}");
        assert!(counts.bytes_skipped > written / 2, "{counts:?}");
        assert!(
            ticks > 20,
            "the event loop was starved: {ticks} ticks in {elapsed:?}"
        );
        assert!(cpu < elapsed / 2, "{cpu:?} of {elapsed:?}");
        assert!(found == ends_in_newline, "{last:?} {:?}", rig.logs.tails());
        assert!(
            rig.logs.tails()[0]
                .last()
                .unwrap()
                .ends_with("last words\"}")
        );
        assert!(rig.file("stdout.log").len() as u64 <= LogLimits::default().file_bytes);
        let text = String::from_utf8(rig.file("stdout.log")).unwrap();
        assert!(text.contains("bytes skipped: more than 4000000 bytes per second]"));
    }
}

#[tokio::test]
async fn a_node_just_below_the_limit_loses_nothing() {
    // The budget of one window, and the pipe's room, carry a burst of half a megabyte.
    let mut rig = Rig::new(LogLimits::default(), 100_000, None);
    let mut pipe = rig.stdout.take().unwrap();
    let writer = std::thread::spawn(move || {
        for _ in 0..500 {
            pipe.write_all("{\"event\":\"n\"}\n".repeat(72).as_bytes())
                .unwrap();
        }
    });
    let drained = rig.logs.streams[0]
        .closed
        .clone()
        .wait_for(|closed| *closed)
        .await
        .is_ok();
    assert!(drained);
    writer.join().unwrap();
    assert_eq!(rig.end().await.len(), 36_000);
    assert_eq!(rig.logs.counts()[0].bytes_skipped, 0);
    assert_eq!(rig.gaps, []);
}

#[test]
fn the_budget_is_per_window() {
    let start = Instant::now();
    let mut budget = Budget::new(4_000_000, start);
    assert!(!budget.is_spent(start));
    budget.spend(399_999);
    assert!(!budget.is_spent(start));
    budget.spend(5_000);
    assert!(budget.is_spent(start + WINDOW / 2));
    assert!(!budget.is_spent(start + WINDOW), "a new window");
    budget.spend(1);
    assert!(
        !budget.is_spent(start + WINDOW),
        "what one window had too much is not owed"
    );
}

/// A node whose output somebody carries here, and says what of it does not come.
struct Carried {
    hub: LogHub,
    logs: NodeLogs,
    stdout: io::PipeWriter,
    stderr: io::PipeWriter,
    events: mpsc::Receiver<Observation>,
    dir: tempfile::TempDir,
}

type Told = Option<watch::Receiver<Option<String>>>;

fn carried(cut: Told, lost: Told) -> Carried {
    let dir = tempfile::tempdir().unwrap();
    let (out, events) = mpsc::channel(100);
    let limits = LogLimits {
        tell_loss_every: Duration::from_millis(1),
        ..LogLimits::default()
    };
    let mut hub = LogHub::new(["ready".to_owned()].into(), limits, out);
    let (stdout_read, stdout) = io::pipe().unwrap();
    let (stderr_read, stderr) = io::pipe().unwrap();
    let spec = LogSpec {
        node: "a".into(),
        dir: dir.path().to_owned(),
        stdout: stdout_read.into(),
        stderr: stderr_read.into(),
        former: None,
        cut,
        lost,
        ready_line: None,
    };
    Carried {
        logs: hub.attach(spec).unwrap(),
        hub,
        stdout,
        stderr,
        events,
        dir,
    }
}

/// Its silence after its output is cut off is told as loss until it ends, and no cut is none.
#[tokio::test]
async fn output_that_is_cut_off_is_told_as_lost_until_the_end() {
    for cut_off in [true, false] {
        let (tell, cut) = watch::channel(None);
        let Carried {
            hub,
            mut logs,
            mut stdout,
            stderr,
            mut events,
            dir: _dir,
        } = carried(Some(cut), None);
        stdout.write_all(b"{\"event\":\"ready\"}\n").unwrap();
        let first = events.recv().await.unwrap();
        assert!(matches!(first, Observation::Event(_)), "{first:?}");
        if cut_off {
            tell.send_replace(Some("the stream broke".to_owned()));
            for _ in 0..3 {
                let Some(Observation::Gap(gap)) = events.recv().await else {
                    panic!("a loss is told")
                };
                assert_eq!((&*gap.url, &*gap.why), (LOG, "the stream broke"));
                assert!(gap.answered);
            }
        }
        drop((tell, stdout, stderr));
        logs.drained(Duration::from_secs(10)).await.unwrap();
        drop(hub);
        if !cut_off {
            assert!(events.recv().await.is_none());
        }
    }
}

/// A log of before the run that does not reach back is one loss, however long the node lives, and a whole one is none.
#[tokio::test]
async fn what_was_lost_before_the_run_is_told_once() {
    for why in [Some("rotated away".to_owned()), None] {
        let (tell, lost) = watch::channel(None);
        let Carried {
            hub,
            mut logs,
            mut stdout,
            stderr,
            mut events,
            dir: _dir,
        } = carried(None, Some(lost));
        if why.is_some() {
            tell.send_replace(why.clone());
            let Some(Observation::Gap(gap)) = events.recv().await else {
                panic!("a loss is told")
            };
            assert_eq!((&*gap.url, &*gap.why), (LOG, "rotated away"));
        }
        for _ in 0..3 {
            stdout.write_all(b"{\"event\":\"ready\"}\n").unwrap();
            let next = events.recv().await.unwrap();
            assert!(matches!(next, Observation::Event(_)), "{next:?}");
        }
        drop((tell, stdout, stderr));
        logs.drained(Duration::from_secs(10)).await.unwrap();
        drop(hub);
        assert!(events.recv().await.is_none());
    }
}
