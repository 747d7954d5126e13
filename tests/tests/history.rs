//! What groups have dropped of their operations is found in the history of nodes, whatever becomes of one of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_node::api::types::{Action, OperationRequest, Strategy};
use longshore_tests::peer::Start;
use longshore_tests::{Fleet, Peer, eventually_value, machine};

const GROUPS: u32 = 32;
const SESSION: &str = "many";
/// The first operations of the session, told from all later ones by their kind.
const FIRST: usize = 3;
/// As many ended operations as a group keeps.
const LATER: usize = 1_000;
/// Clients that submit at a time.
const CLIENTS: usize = 8;
const END_TIMEOUT: Duration = Duration::from_secs(240);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

fn request(action: Action) -> OperationRequest {
    OperationRequest { session: Some(SESSION.to_owned()), ..OperationRequest::new(action, Strategy::Local) }
}

fn submit(peer: &Peer, action: Action) -> String {
    peer.http().submit(&request(action), None).expect("it is taken").id
}

fn listed(peer: &Peer, filters: &[&str]) -> Vec<String> {
    let args = ["op", "ls", "-q", "--session", SESSION].iter().chain(filters).copied();
    let ended = peer.cli(args).run();
    ended.ok().lines().map(str::to_owned).collect()
}

/// All that the history adds: those first ones, newest first, in the listing and each by itself.
#[track_caller]
fn finds(peer: &Peer, first: &[String]) {
    assert_eq!(listed(peer, &["--filter", "kind=tag"]), first, "{}", peer.name());
    assert_eq!(listed(peer, &["--filter", "kind=tag", "--since", "7d", "--limit", "2"]), first[..2]);
    for id in first {
        let shown = peer.cli(["op", "inspect", id]).run();
        assert!(shown.ok().contains("failed"), "{shown}");
    }
}

fn folder(peer: &Peer) -> PathBuf {
    peer.spec.data_dir.join("history")
}

/// Flips a bit in every page of the store's log, so that one of them is of something that is in use.
fn damage(history: &Path) {
    const PAGE_BYTES: usize = 4 << 10;
    let log = history.join("1/db");
    let mut bytes = std::fs::read(&log).expect("the store is there");
    bytes.iter_mut().skip(PAGE_BYTES / 2).step_by(PAGE_BYTES).for_each(|byte| *byte ^= 4);
    std::fs::write(log, bytes).expect("writable");
}

#[test]
fn what_a_group_has_dropped_is_found_and_a_lost_history_is_made_anew() {
    let _machine = machine::share();
    let mut fleet = Fleet::with_ring(3, "history", GROUPS, 3);
    // Without engines all of them fail at once.
    let mut first: Vec<String> = (0..FIRST)
        .map(|number| {
            let action = Action::Tag { source: "app:1".into(), targets: vec![format!("app:x{number}")] };
            let id = submit(&fleet.peers[number], action);
            fleet.peers[number].cli(["op", "wait", &id]).run().fails(1, &["failed"], &[]);
            id
        })
        .collect();
    first.reverse();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let peer = &fleet.peers[client % 3];
            scope.spawn(move || {
                for _ in 0..LATER / CLIENTS {
                    submit(peer, Action::Pull { images: vec!["app:1".into()] });
                }
            });
        }
    });
    eventually_value("all to have ended", END_TIMEOUT, || {
        match listed(&fleet.peers[0], &["--active", "--limit", "1000"]).len() {
            0 => Ok(()),
            left => Err(format!("{left} have not")),
        }
    });
    // One more, since what is too much goes when something comes.
    let last = submit(&fleet.peers[0], Action::Pull { images: vec!["app:1".into()] });
    fleet.peers[0].cli(["op", "wait", &last]).run().fails(1, &["failed"], &[]);
    for id in &first {
        // Only a group can be watched.
        assert!(fleet.peers[1].http().watch_operation(id).is_err(), "the group still has {id}");
    }
    for peer in &fleet.peers {
        finds(peer, &first);
    }
    let all = |peer: &Peer| listed(peer, &["--limit", "1000"]);
    let before = all(&fleet.peers[0]);
    assert_eq!((before.len(), &before[0]), (1_000, &last));

    let says = |peer: &Peer, what: &str| {
        eventually_value("its history to be open", STOP_TIMEOUT, || match peer.stderr() {
            said if said.contains(what) => Ok(()),
            said => Err(said),
        });
    };
    let p1 = &mut fleet.peers[0];
    assert_eq!(p1.terminate(STOP_TIMEOUT), 0);
    damage(&folder(p1));
    p1.restart();
    says(p1, "the history was damaged and is set aside");
    assert!(p1.spec.data_dir.join("history.damaged-1").is_dir());
    finds(p1, &first);
    assert_eq!(all(p1), before);

    assert_eq!(p1.terminate(STOP_TIMEOUT), 0);
    std::fs::remove_dir_all(folder(p1)).expect("the store is there");
    p1.restart();
    says(p1, "there is no history here");
    finds(p1, &first);
    assert_eq!(all(p1), before);

    // After a restart of all, what the group has dropped is where it was not lost.
    for peer in &mut fleet.peers {
        assert_eq!(peer.terminate(STOP_TIMEOUT), 0);
    }
    for peer in &mut fleet.peers {
        peer.respawn(&Start::Run);
    }
    for peer in &fleet.peers {
        peer.wait_ready();
        says(peer, "the history is open");
    }
    eventually_value("the listing to be whole again", END_TIMEOUT, || {
        let ended =
            fleet.peers[0].cli(["op", "ls", "-q", "--session", SESSION, "--filter", "kind=tag"]).run();
        let found: Vec<&str> = ended.stdout.lines().collect();
        if found == first { Ok(()) } else { Err(format!("{ended}")) }
    });
    for peer in &fleet.peers {
        finds(peer, &first);
        assert_eq!(all(peer), before);
    }
}
