//! A disk that changes what it holds: one node's copy of a group is found out, shut, and made anew from the others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_tests::{Fleet, eventually_value, keys, machine};

const GROUPS: u32 = 32;
/// How long a copy of next to nothing may take, on a machine busy with other tests.
const RENEW_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Of the first key.
const GROUP: &str = "g1";
/// In no other entry.
const NEEDLE: &[u8] = b"a value that one disk will not keep";

#[test]
fn a_damaged_copy_of_a_group_is_made_anew_from_the_others() {
    let _machine = machine::alone();
    let mut fleet = Fleet::with_ring(3, "damage", GROUPS, 3);
    let keys = keys::key_of_each_group(GROUPS);
    let (client, key) = (fleet.peers[0].http(), &keys[0]);
    client.set_key(keys::NAMESPACE, key, NEEDLE, None).expect("acknowledged");
    // What comes after the needle proves that it was acknowledged.
    for key in &keys {
        client.set_key(keys::NAMESPACE, key, &b"later"[..], None).expect("acknowledged");
    }
    fleet.groups_rest();
    let before = fleet.peers[2].http().group(GROUP).expect("a group");
    let old = before.replica.clone().expect("open").id;

    assert_eq!(fleet.peers[2].terminate(STOP_TIMEOUT), 0);
    let log = fleet.peers[2].spec.data_dir.join("log");
    let damaged = flip_a_bit_of(&log, NEEDLE);
    assert!(damaged > 0, "the needle is in no file of {}", log.display());
    fleet.peers[2].restart();

    let renewed = eventually_value("the damaged replica to be made anew", RENEW_TIMEOUT, || {
        let view = fleet.peers[2].http().group(GROUP).map_err(|error| error.to_string())?;
        match &view.replica {
            Some(replica) if replica.id != old && view.placement.change.is_none() => Ok(view),
            replica => Err(format!("{replica:?}, {:?}", view.placement.change)),
        }
    });
    assert_eq!(renewed.placement.members, before.placement.members, "on the node where it was");
    let said = fleet.peers[2].stderr();
    assert!(said.contains("it is damaged") && said.contains("in the place of a damaged one"), "{said}");
    fleet.ring_settles();
    for key in &keys {
        let held = fleet.peers[2].http().get_key(keys::NAMESPACE, key).expect("it serves");
        assert_eq!(held.map(|(value, _)| value).as_deref(), Some(&b"later"[..]), "{key}");
    }
    // The new copy counts: with another node gone, it is one of the two that a write needs.
    fleet.peers[0].kill9();
    let client = fleet.peers[1].http();
    eventually_value("a write to two of three", RENEW_TIMEOUT, || {
        client.set_key(keys::NAMESPACE, key, &b"last"[..], None).map_err(|error| error.to_string())
    });
    // The old one is gone for good: a restart does not find it again.
    assert_eq!(fleet.peers[2].terminate(STOP_TIMEOUT), 0);
    fleet.peers[2].restart();
    fleet.replicas_open();
    assert!(!fleet.peers[2].stderr().contains("it is damaged"), "{}", fleet.peers[2].stderr());
}

/// Flips a bit in the middle of every place where `needle` is, in all files of a folder. How many there were.
fn flip_a_bit_of(folder: &Path, needle: &[u8]) -> usize {
    let files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    let mut flipped = 0;
    for file in files {
        let mut bytes = std::fs::read(&file).expect("readable");
        let places: Vec<usize> = (0..bytes.len().saturating_sub(needle.len()))
            .filter(|at| bytes[*at..].starts_with(needle))
            .collect();
        for at in &places {
            bytes[at + needle.len() / 2] ^= 4;
        }
        if !places.is_empty() {
            std::fs::write(&file, bytes).expect("writable");
        }
        flipped += places.len();
    }
    flipped
}
