//! Snapshot files through crashes, errors and damage.

use super::*;
use crate::disk::{Chance, DiskCall, MemDisk, RealDisk, SeededChance};

const A: StreamId = StreamId { group: 0, replica: 1 };

fn in_memory() -> (MemDisk, SnapshotStore) {
    let disk = MemDisk::new();
    let store = SnapshotStore::new(Arc::new(disk.clone()), "snapshots").unwrap();
    (disk, store)
}

fn reopen(disk: &MemDisk) -> SnapshotStore {
    SnapshotStore::new(Arc::new(disk.clone()), "snapshots").unwrap()
}

fn data(store: &SnapshotStore) -> Option<Bytes> {
    store.load(A).unwrap().map(|found| found.data)
}

#[test]
fn a_store_on_a_memory_disk_conforms() {
    conformance::run(|| (Arc::new(MemDisk::new()) as Arc<dyn Disk>, Box::new(())));
}

#[test]
fn a_store_on_a_real_disk_conforms() {
    conformance::run(|| {
        let root = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(root.path()).unwrap());
        (disk, Box::new(root))
    });
}

#[test]
fn a_saved_snapshot_survives_every_crash() {
    for seed in 0..100 {
        let (disk, store) = in_memory();
        store.save(A, b"1", &[1; 3000]).unwrap();
        store.save(A, b"2", &[2; 3000]).unwrap();
        disk.crash(&mut SeededChance::new(seed));
        assert_eq!(data(&reopen(&disk)).unwrap(), [2; 3000][..]);
    }
}

#[test]
fn a_crash_or_an_error_in_the_middle_of_a_save_leaves_the_old_or_the_new_one() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..300 {
        let (disk, store) = in_memory();
        store.save(A, b"1", &[1; 3000]).unwrap();
        let mut chance = SeededChance::new(seed);
        let calls = [DiskCall::Write, DiskCall::Sync, DiskCall::Rename, DiskCall::SyncDir, DiskCall::Remove];
        let call = calls[chance.below(5) as usize];
        disk.fail_nth(call, 1 + chance.below(2));
        let saved = store.save(A, b"2", &[2; 3000]).is_ok();
        disk.clear_faults();
        if chance.below(3) > 0 {
            disk.crash(&mut chance);
        }
        let found = data(&reopen(&disk)).unwrap();
        assert!(found == [2; 3000][..] || (!saved && found == [1; 3000][..]), "seed {seed}");
        *(if found[0] == 1 { &mut old } else { &mut new }) += 1;
        reopen(&disk).save(A, b"3", &[3; 3000]).unwrap();
        assert_eq!(data(&reopen(&disk)).unwrap()[0], 3);
        assert_eq!(disk.list("snapshots").unwrap().len(), 1);
    }
    assert!(old > 20 && new > 20, "{old} {new}");
}

#[test]
fn after_a_failed_save_the_store_goes_on() {
    for call in [DiskCall::Write, DiskCall::Sync, DiskCall::Rename, DiskCall::SyncDir] {
        let (disk, store) = in_memory();
        store.save(A, b"1", &[1; 10]).unwrap();
        disk.fail_nth(call, 1);
        assert!(matches!(store.save(A, b"2", &[2; 10]), Err(StorageError::Io { .. })));
        assert!(data(&store).is_some());
        store.save(A, b"3", &[3; 10]).unwrap();
        assert_eq!(data(&store).unwrap()[0], 3);
        assert_eq!(data(&reopen(&disk)).unwrap()[0], 3);
    }
}

#[test]
fn a_damaged_snapshot_is_reported_or_passed_over_for_an_intact_one() {
    let (disk, store) = in_memory();
    store.save(A, b"1", &[1; 10]).unwrap();
    disk.flip_bit(&store.path(A, 1), 75, 0).unwrap();
    assert!(matches!(store.load(A), Err(StorageError::Damaged { .. })));

    let (disk, store) = in_memory();
    store.save(A, b"1", &[1; 10]).unwrap();
    disk.fail_nth(DiskCall::Remove, 1);
    store.save(A, b"2", &[2; 10]).unwrap();
    disk.flip_bit(&store.path(A, 2), 75, 0).unwrap();
    let found = reopen(&disk).load(A).unwrap().unwrap();
    assert_eq!((found.number, found.damaged_newer), (1, vec![store.path(A, 2)]));
}

#[test]
fn a_newer_format_is_no_damage() {
    let (disk, store) = in_memory();
    store.save(A, b"1", b"1").unwrap();
    disk.flip_bit(&store.path(A, 1), 8, 1).unwrap();
    assert!(matches!(store.load(A), Err(StorageError::Newer { found: 3, supported: 1, .. })));
}
