//! kill -9 of a real process that writes to a log on the real disk: whatever it was told is durable, is.
//!
//! The test runs itself again as the child, which writes without end and prints what was acknowledged on a pipe. The parent
//! kills it at a moment of its choosing, opens the log and compares.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use longshore_storage::log::{LogConfig, RecoveryReport, SegmentedLog, monotonic_clock, spawn_committer};
use longshore_storage::{LogOp, LogStore, RealDisk, SnapshotStore, StreamId};

const ROUNDS: u64 = 20;
const STREAMS: u64 = 4;
/// Names the folder of the log to the child.
const CHILD: &str = "LONGSHORE_STORAGE_KILL_TEST";

fn stream(number: u64) -> StreamId {
    StreamId { group: number as u32, replica: number + 10 }
}

fn open(root: &Path) -> (Arc<RealDisk>, SegmentedLog, longshore_storage::log::Committer, RecoveryReport) {
    let disk = Arc::new(RealDisk::open(root).expect("the folder opens"));
    // Small segments, so that the process is also killed while it changes to another one.
    let config = LogConfig { segment_bytes: 1 << 20, max_segments: 64, ..LogConfig::new(monotonic_clock()) };
    let (log, committer, report) = SegmentedLog::open(disk.clone(), config).expect("the log opens");
    (disk, log, committer, report)
}

/// The entry at an index; its length differs from index to index.
fn entry(stream: StreamId, index: u64) -> Bytes {
    let len = 16 + (index * 7919 + stream.replica * 104_729) % 3000;
    let mut bytes = vec![index as u8; len as usize];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    bytes[8..16].copy_from_slice(&stream.replica.to_le_bytes());
    Bytes::from(bytes)
}

/// Writes until it is killed. Each line of output is "stream last purged", durable when it is printed.
fn child(root: &Path) {
    let (disk, log, committer, _) = open(root);
    let snapshots = SnapshotStore::new(disk, "snapshots").expect("the folder opens");
    let _threads = spawn_committer(committer).expect("threads start");
    let (sender, receiver) = mpsc::channel::<(u64, u64, u64)>();
    let printer = std::thread::Builder::new().spawn(move || {
        let mut out = std::io::stdout();
        for (number, last, purged) in receiver {
            // The parent may be gone; then so may this process.
            if writeln!(out, "{number} {last} {purged}").and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    });
    printer.expect("a thread starts");
    let mut state: Vec<_> = (0..STREAMS)
        .map(|number| {
            let state = log.state(stream(number)).expect("nothing is damaged");
            (state.last.unwrap_or(0), state.purged.map_or(0, |(index, _)| index))
        })
        .collect();
    for turn in 0u64.. {
        let number = turn % STREAMS;
        let id = stream(number);
        let (last, purged) = &mut state[number as usize];
        let count = 1 + turn % 5;
        let mut ops = vec![LogOp::Append {
            stream: id,
            first: (*last).max(*purged) + 1,
            entries: ((*last).max(*purged) + 1..)
                .take(count as usize)
                .map(|index| entry(id, index))
                .collect(),
        }];
        *last = (*last).max(*purged) + count;
        ops.push(LogOp::SaveVote { stream: id, vote: Bytes::from(last.to_string()) });
        // Stream 0 is idle but for now and then, so that its tail is rewritten; the others are purged.
        if number != 0 && turn % 50 < 4 {
            let upto = last.saturating_sub(40);
            snapshots.save(id, b"", &upto.to_le_bytes()).expect("the disk has room");
            *purged = (*purged).max(upto);
            ops.push(LogOp::PurgeTo { stream: id, index: upto, marker: Bytes::from_static(b"m") });
        }
        let (sender, last, purged) = (sender.clone(), *last, *purged);
        let done = move |result: Result<(), _>| {
            let () = result.expect("the disk works");
            let _ = sender.send((number, last, purged));
        };
        while log.submit(ops.clone(), Box::new(done.clone())).is_err() {
            std::thread::yield_now();
        }
    }
}

/// Checks a log against what the child printed of each stream.
fn check(root: &Path, acknowledged: &[(u64, u64)], round: u64) {
    let (disk, log, _committer, report) = open(root);
    assert_eq!(report.damaged, [], "round {round}");
    assert_eq!(report.lost, None, "round {round}");
    let snapshots = SnapshotStore::new(disk, "snapshots").expect("the folder opens");
    for (number, (last, purged)) in (0..).zip(acknowledged) {
        let id = stream(number);
        let state = log.state(id).expect("nothing is damaged");
        let found_purged = state.purged.map_or(0, |(index, _)| index);
        let found_last = state.last.unwrap_or(found_purged);
        assert!(found_last >= *last, "round {round}: {id} ends at {found_last}, acknowledged were {last}");
        assert!(found_purged >= *purged, "round {round}: {id} is purged to {found_purged}, not {purged}");
        let held = log.read(id, 0..u64::MAX, usize::MAX).expect("nothing is damaged");
        assert_eq!(held.len() as u64, found_last - found_purged, "round {round}: {id} has holes");
        for (index, bytes) in held {
            assert_eq!(bytes, entry(id, index), "round {round}: {id} index {index}");
        }
        let vote: u64 = state.vote.map_or(0, |vote| std::str::from_utf8(&vote).unwrap().parse().unwrap());
        assert!(vote >= *last, "round {round}: {id} voted {vote}, acknowledged was {last}");
        if found_purged > 0 {
            let snapshot =
                snapshots.load(id).expect("nothing is damaged").expect("it was saved before the purge");
            assert!(u64::from_le_bytes(snapshot.data[..].try_into().unwrap()) >= found_purged);
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    if let Some(root) = std::env::var_os(CHILD) {
        return child(Path::new(&root));
    }
    let root = tempfile::tempdir().unwrap();
    let mut acknowledged = vec![(0, 0); STREAMS as usize];
    let mut total = 0;
    for round in 0..ROUNDS {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "nothing_acknowledged_is_lost_when_the_process_is_killed", "--nocapture"])
            .env(CHILD, root.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        // A moment given by progress, not by time, so that each round gets somewhere on any machine.
        let kill_after = 20 + (round * 37) % 400;
        let mut lines = 0;
        for line in out.lines() {
            let Ok(line) = line else { break };
            let mut numbers = line.split(' ').map(str::parse::<u64>);
            let (Some(Ok(number)), Some(Ok(last)), Some(Ok(purged))) =
                (numbers.next(), numbers.next(), numbers.next())
            else {
                continue;
            };
            acknowledged[number as usize] = (last, purged);
            lines += 1;
            if lines == kill_after {
                // On Linux this is SIGKILL. What was printed before it arrived is still read and counts.
                process.kill().unwrap();
            }
        }
        let status = process.wait().unwrap();
        assert!(
            lines >= kill_after && !status.success(),
            "round {round}: the child ended by itself: {status}"
        );
        total += lines;
        check(root.path(), &acknowledged, round);
    }
    assert!(total > ROUNDS * 20);
    let files = std::fs::read_dir(root.path().join("log")).unwrap().count();
    assert!(files < 20, "purged segments are used again: {files} files");
}
