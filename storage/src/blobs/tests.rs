//! Blobs through crashes, errors and damage.

use super::conformance::{at, get, open, put};
use super::*;
use crate::disk::{DiskCall, DiskSpace, MemDisk, RealDisk, SeededChance};

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
        let mut writer = store.begin(BlobRoom::default()).unwrap();
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

#[test]
fn what_is_written_while_a_damaged_one_is_found_out_stays() {
    let (disk, shared) = in_memory();
    let store = open(&shared);
    let digest = put(&store, &[5; 1_000], at(1)).unwrap();
    disk.flip_bit(&store.path(digest), 1, 3).unwrap();
    let reader = store.read(digest, at(2)).unwrap().unwrap();
    assert_eq!(put(&store, &[5; 1_000], at(2)).unwrap(), digest);
    store.remove(digest, &reader.reading).unwrap();
    assert_eq!(get(&store, digest, at(3)), Some(vec![5; 1_000]));
}

#[test]
fn who_saves_the_same_at_once_does_not_take_it_away_when_it_fails() {
    let (disk, shared) = in_memory();
    let store = open(&shared);
    let writer = || {
        let mut writer = store.begin(BlobRoom::default()).unwrap();
        writer.append(b"same").unwrap();
        writer
    };
    let (one, other) = (writer(), writer());
    let digest = one.finish(None, at(1)).unwrap().unwrap().digest;
    disk.fail_nth(DiskCall::SyncDir, 1);
    other.finish(None, at(1)).unwrap_err();
    assert_eq!(get(&store, digest, at(2)).unwrap(), b"same");
    assert_eq!((store.list().len(), shared.list("blobs").unwrap().len()), (1, 1));
    let state = store.state.lock();
    assert_eq!((state.reserved, state.unwritten), (0, 0));
}

#[test]
fn the_floor_of_the_disk_is_left_free() {
    const MIB: u64 = 1 << 20;
    let (disk, shared) = in_memory();
    let limits = BlobLimits { floor: DiskFloor::Bytes(10 * MIB), ..conformance::LIMITS };
    let store = Arc::new(BlobStore::open(Arc::clone(&shared), "blobs", limits, at(0)).unwrap());
    disk.set_capacity(Some(13 * MIB));
    let room = |bytes| BlobRoom { bytes: Some(bytes), ..BlobRoom::default() };
    let one = store.begin(room(2 * MIB)).unwrap();
    let second = store.begin(room(2 * MIB)).unwrap_err();
    assert!(matches!(second, BlobError::NoSpace { free, floor } if (free, floor) == (13 * MIB, 10 * MIB)));
    drop(one);
    // One that grows is stopped, too; what can go makes room, if that is enough.
    let first = put(&store, &vec![1; 2 << 20], at(1)).unwrap();
    assert!(matches!(put(&store, &vec![2; 2 << 20], at(2)), Err(BlobError::NoSpace { .. })));
    conformance::needed(&store, at(100), &[], &[]);
    shared.open("log", true).unwrap().write_at(&vec![0; 2 << 20], 0).unwrap();
    assert!(matches!(store.begin(room(2 * MIB)), Err(BlobError::NoSpace { .. })));
    assert_eq!(store.list().len(), 1, "it would not have been enough");
    shared.remove("log").unwrap();
    let second = put(&store, &vec![2; 2 << 20], at(2)).unwrap();
    assert_eq!(store.list().iter().map(|info| info.digest).collect::<Vec<_>>(), [second]);
    assert_ne!(first, second);
}

#[test]
fn the_usual_floor_goes_with_the_disk_within_bounds() {
    const GIB: u64 = 1 << 30;
    for (gib, floor) in [(4, 1), (20, 1), (100, 5), (320, 16), (10_000, 16)] {
        let space = DiskSpace { bytes: gib * GIB, free_bytes: 0 };
        assert_eq!(DiskFloor::Usual.of(space), floor * GIB, "{gib}");
    }
    assert_eq!(DiskFloor::Bytes(7).of(DiskSpace { bytes: GIB, free_bytes: 0 }), 7);
}
