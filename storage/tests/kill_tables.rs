//! kill -9 of a real process that writes to tables: they open again, with all that a checkpoint covered, and whole batches.
//!
//! The test runs itself again as the child, as in `kill.rs`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use longshore_storage::tables::{Batch, Opened, Scan, SledTables, Table, Tables};

const ROUNDS: u64 = 12;
const CHECKPOINT_EVERY: u64 = 7;
/// Rows that every batch replaces together.
const TOGETHER: u8 = 6;
const TOGETHER_TABLE: Table = Table::new("together");
const LOG_TABLE: Table = Table::new("log");
/// Names the folder to the child.
const CHILD: &str = "LONGSHORE_TABLES_KILL_TEST";

/// Number of the last batch that is there, after a look at all of it.
fn check(tables: &dyn Tables, round: u64) -> u64 {
    let log = tables.scan(&Scan::all(LOG_TABLE)).expect("no damage");
    let last = log.len() as u64;
    for (number, (key, value)) in (1..).zip(&log) {
        assert_eq!(
            (key.as_slice(), value.len()),
            (&u64::to_be_bytes(number)[..], length(number)),
            "round {round}"
        );
    }
    let together = tables.scan(&Scan::all(TOGETHER_TABLE)).expect("no damage");
    assert_eq!(together.len(), if last == 0 { 0 } else { TOGETHER.into() }, "round {round}");
    for (_, value) in together {
        assert_eq!(value, last.to_be_bytes(), "round {round}: half a batch is there");
    }
    last
}

fn length(number: u64) -> usize {
    (number * 7_919 % 20_000) as usize
}

/// Writes until it is killed. Each line of output is the number of a batch that a checkpoint covers.
fn child(dir: &Path) {
    let (tables, _) = SledTables::open(dir).expect("it opens");
    let last = check(&tables, 0);
    for number in last + 1.. {
        let mut batch = Batch::default();
        batch.put(LOG_TABLE, number.to_be_bytes(), vec![number as u8; length(number)]);
        (0..TOGETHER).for_each(|key| batch.put(TOGETHER_TABLE, [key], number.to_be_bytes()));
        tables.apply(&batch).expect("the disk works");
        if number % CHECKPOINT_EVERY == 0 {
            tables.checkpoint().expect("the disk works");
            let mut out = std::io::stdout();
            // The parent may be gone; then so may this process.
            if writeln!(out, "{number}").and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    }
}

#[test]
fn tables_open_again_when_the_process_was_killed() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return child(Path::new(&dir));
    }
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("tables");
    let mut covered = 0;
    for round in 0..ROUNDS {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tables_open_again_when_the_process_was_killed", "--nocapture"])
            .env(CHILD, &dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (mut lines, kill_after) = (0, 1 + round * 5 % 9);
        for line in out.lines() {
            let Ok(Ok(number)) = line.map(|line| line.parse::<u64>()) else { continue };
            covered = number;
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
        let (tables, opened) = SledTables::open(&dir).expect("it opens");
        assert_eq!(opened, Opened::Kept, "round {round}");
        let last = check(&tables, round);
        assert!(last >= covered, "round {round}: {last} batches are left of {covered}");
    }
    assert!(covered >= ROUNDS * CHECKPOINT_EVERY);
}
