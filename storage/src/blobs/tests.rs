//! Blobs through crashes, errors and damage.

use super::conformance::{at, get, open, put};
use super::*;
use crate::disk::{DiskCall, MemDisk, RealDisk, SeededChance};

fn in_memory() -> (MemDisk, Arc<dyn Disk>) {
    let disk = MemDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    (disk, shared)
}

#[test]
fn blobs_on_a_memory_disk_conform() {
    conformance::run(|| (Arc::new(MemDisk::new()) as Arc<dyn Disk>, Box::new(())));
}

#[test]
fn blobs_on_a_real_disk_conform() {
    conformance::run(|| {
        let root = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(root.path()).unwrap());
        (disk, Box::new(root))
    });
}

#[test]
fn a_finished_blob_survives_every_crash_and_one_in_the_middle_is_not_seen() {
    for seed in 0..200 {
        let (disk, shared) = in_memory();
        let store = open(&shared);
        let whole = put(&store, &[1; 3_000], at(1)).unwrap();
        let mut chance = SeededChance::new(seed);
        let calls = [DiskCall::Write, DiskCall::Sync, DiskCall::Rename, DiskCall::SyncDir];
        disk.fail_nth(calls[(seed % 4) as usize], 1);
        assert!(matches!(put(&store, &[2; 3_000], at(2)), Err(BlobError::Io { .. })), "seed {seed}");
        disk.clear_faults();
        let mut writer = store.begin(at(3)).unwrap();
        writer.append(&[3; 3_000]).unwrap();
        std::mem::forget(writer);
        disk.crash(&mut chance);
        let store = open(&shared);
        assert_eq!(get(&store, whole, at(0)), Some(vec![1; 3_000]), "seed {seed}");
        let names = shared.list("blobs").unwrap();
        assert!(names.iter().all(|name| !name.ends_with(TEMPORARY)), "{names:?}");
        // A name without its bytes, if the crash left one, is found out by whoever checks.
        for info in store.list() {
            let found = get(&store, info.digest, at(0));
            assert!(found.is_none() || blake3::hash(&found.unwrap()).as_bytes() == &info.digest.0);
        }
    }
}

#[test]
fn after_a_failed_save_the_store_goes_on_and_gives_its_room_back() {
    for call in [DiskCall::Write, DiskCall::Sync, DiskCall::Rename, DiskCall::SyncDir] {
        let (disk, shared) = in_memory();
        let store = open(&shared);
        disk.fail_nth(call, 1);
        assert!(put(&store, b"one", at(1)).is_err(), "{call:?}");
        assert_eq!(store.state.lock().bytes(), 0);
        let digest = put(&store, b"one", at(2)).unwrap();
        assert_eq!(get(&store, digest, at(2)).unwrap(), b"one");
        assert_eq!(store.state.lock().bytes(), 3);
    }
}

#[test]
fn a_damaged_blob_is_found_by_whoever_checks_it_and_removed() {
    let (disk, shared) = in_memory();
    let store = open(&shared);
    let digest = put(&store, &[5; 1_000], at(1)).unwrap();
    disk.flip_bit(&store.path(digest), 999, 3).unwrap();
    assert!(store.read_checked(digest, at(2)).unwrap().is_none());
    assert!(store.list().is_empty() && shared.list("blobs").unwrap().is_empty());
    assert_eq!(put(&store, &[5; 1_000], at(3)).unwrap(), digest, "it can be written anew");

    // Its file was taken away by somebody.
    shared.remove(&store.path(digest)).unwrap();
    assert!(store.read_checked(digest, at(4)).unwrap().is_none());
    assert!(store.list().is_empty());
}

#[test]
fn what_is_no_digest() {
    for bad in ["", "ab", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65)] {
        assert!(bad.parse::<BlobDigest>().is_err(), "{bad:?}");
    }
}
