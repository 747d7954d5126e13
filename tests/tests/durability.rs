//! Nothing is acknowledged before it is on two disks: seen from outside, in the system calls of three peers.

use std::time::Duration;

use longshore_tests::fleet::Site;
use longshore_tests::strace::{self, durable_at_us, parse, replied_at_us};
use longshore_tests::tools::{Tool, have, which};
use longshore_tests::{Fleet, machine};

/// Changes made, one after the other, spread over the peers.
const CHANGES: usize = 30;
/// Disks that a change must be on: a majority of three.
const MAJORITY: usize = 2;

#[test]
fn no_reply_before_two_disks_have_it() {
    if !have(Tool::Strace) {
        return;
    }
    let _machine = machine::share();
    let site = Site::new("strace");
    let trace = |name: &str| site.path(&format!("{name}.strace"));
    let strace = which("strace").expect("it is there");
    let traces = [trace("p1"), trace("p2"), trace("p3")];
    let mut fleet = Fleet::on(site, 3, |mut spec| {
        let number: usize = spec.name[1..].parse().expect("peers are named p1, p2, p3");
        spec.wrapper.push(strace.clone().into_os_string());
        spec.wrapper.extend(strace::OPTIONS.iter().map(Into::into));
        spec.wrapper.extend(["-o".into(), traces[number - 1].clone().into_os_string()]);
        spec
    });
    let marker = |number: usize| format!("durable-mark-{number:04}");
    for number in 0..CHANGES {
        let peer = &fleet.peers[number % fleet.peers.len()];
        peer.http().set_label("p1", "mark", &marker(number)).expect("a change");
    }
    // A clean end lets the tracers write all they have.
    for peer in &mut fleet.peers {
        assert_eq!(peer.terminate(Duration::from_secs(15)), 0);
    }
    let calls: Vec<_> = traces
        .iter()
        .map(|path| parse(&String::from_utf8_lossy(&std::fs::read(path).expect("the trace can be read"))))
        .collect();

    let mut margins_us = Vec::new();
    for number in 0..CHANGES {
        let marker = marker(number);
        let replied_us = replied_at_us(&calls[number % calls.len()], &marker)
            .unwrap_or_else(|| panic!("no reply with {marker} in the trace of the peer that was asked"));
        let mut durable_us: Vec<u64> =
            calls.iter().filter_map(|calls| durable_at_us(calls, &marker)).collect();
        durable_us.sort_unstable();
        let majority_us = *durable_us.get(MAJORITY - 1).unwrap_or_else(|| {
            panic!("{marker} was written and synced on {} of 3 disks", durable_us.len());
        });
        assert!(
            majority_us <= replied_us,
            "{marker}: the reply was sent {} us before a second disk had it",
            majority_us - replied_us
        );
        margins_us.push(replied_us - majority_us);
    }
    margins_us.sort_unstable();
    println!(
        "{CHANGES} changes: replies came {} to {} us after the second disk had the change",
        margins_us[0],
        margins_us[CHANGES - 1]
    );
}
