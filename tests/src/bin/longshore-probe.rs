//! The failover client as a process: `longshore-probe SOCKET NODE RUN`.
//!
//! Prints one JSON line for each attempt that has ended (see `longshore_tests::probe`) until its standard input is closed; then
//! it waits for the attempts under way, and ends.
#![expect(
    clippy::disallowed_methods,
    reason = "it stands outside the node: it uses the machine's clock and threads"
)]

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use longshore_node::api::types::ErrorCode;
use longshore_tests::http::{Http, HttpError};
use longshore_tests::probe::{
    Attempt, EVERY, GIVE_UP, Kind, OPERATION_EVERY, Outcome, label_key, now_us, operation_key,
    operation_request,
};

/// How long an operation is repeated before the probe gives up on it.
const OPERATION_GIVE_UP: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = |what| {
        args.next().with_context(|| format!("usage: longshore-probe SOCKET NODE RUN; {what} is missing"))
    };
    let (socket, node, run) = (next("SOCKET")?, next("NODE")?, next("RUN")?);
    let http = Http::unix(socket).with_timeout(GIVE_UP);
    let stop = AtomicBool::new(false);
    let (report, reports) = mpsc::channel::<Attempt>();

    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Ends when the other side closes it, or is gone.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop.store(true, Ordering::Relaxed);
        });
        let (label_report, operation_report) = (report.clone(), report);
        scope.spawn({
            let (http, node, stop) = (&http, &node, &stop);
            move || {
                paced(EVERY, stop, |number| {
                    let report = label_report.clone();
                    scope.spawn(move || report.send(set_label(http, node, number)));
                });
            }
        });
        scope.spawn({
            let (http, node, run, stop) = (&http, &node, &run, &stop);
            move || {
                paced(OPERATION_EVERY, stop, |number| {
                    let report = operation_report.clone();
                    scope.spawn(move || report.send(submit(http, node, run, number)));
                });
            }
        });
        let mut stdout = std::io::stdout().lock();
        for attempt in reports {
            serde_json::to_writer(&mut stdout, &attempt)?;
            stdout.write_all(b"\n")?;
            stdout.flush()?;
        }
        Ok(())
    })
}

/// Calls `start` at a fixed pace, without drift, until told to stop.
fn paced(every: Duration, stop: &AtomicBool, mut start: impl FnMut(u64)) {
    let begin = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        start(number);
        number += 1;
        let due = begin + every * number as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

fn set_label(http: &Http, node: &str, number: u64) -> Attempt {
    let sent_us = now_us();
    let (outcome, detail) = match http.set_label(node, &label_key(number), &number.to_string()) {
        Ok(_) => (Outcome::Acknowledged, String::new()),
        Err(error) => (judge(&error), error.to_string()),
    };
    Attempt { number, operation: None, kind: Kind::Label, sent_us, ended_us: now_us(), outcome, detail }
}

/// Repeats, under one key, until the fleet says what became of it.
fn submit(http: &Http, node: &str, run: &str, number: u64) -> Attempt {
    let (sent_us, begin) = (now_us(), Instant::now());
    let (key, request) = (operation_key(run, number), operation_request(run, number, node));
    loop {
        let (outcome, operation, detail) = match http.submit(&request, Some(&key)) {
            Ok(view) => (Outcome::Acknowledged, Some(view.id), String::new()),
            Err(error) => (judge(&error), None, error.to_string()),
        };
        if outcome == Outcome::Acknowledged || begin.elapsed() > OPERATION_GIVE_UP {
            let kind = Kind::Operation;
            return Attempt { number, operation, kind, sent_us, ended_us: now_us(), outcome, detail };
        }
        std::thread::sleep(EVERY);
    }
}

/// What an error promises. An operation's earlier tries may have been of unknown outcome, whatever the last one says; its judge
/// takes only acknowledged ones for anything.
fn judge(error: &HttpError) -> Outcome {
    match error {
        HttpError::Unreachable(_) => Outcome::Refused,
        HttpError::Api(_, error) => match error.code {
            ErrorCode::OutcomeUnknown | ErrorCode::Internal => Outcome::Unknown,
            _ => Outcome::Refused,
        },
        HttpError::Broken(_) | HttpError::Malformed(_) => Outcome::Unknown,
    }
}
