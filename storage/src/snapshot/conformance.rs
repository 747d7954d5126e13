//! What a [`SnapshotStore`] must do on any [`Disk`]. Panics at the first thing that is wrong.

use std::any::Any;
use std::sync::Arc;

use super::{MAX_SNAPSHOT_META_BYTES, SnapshotStore};
use crate::{Disk, StorageError, StreamId};

const A: StreamId = StreamId { group: 0, replica: 1 };
const B: StreamId = StreamId { group: u32::MAX, replica: u64::MAX };

type Case = fn(Arc<dyn Disk>);

const CASES: [(&str, Case); 5] = [
    ("the newest is loaded", the_newest_is_loaded),
    ("only the newest is kept", only_the_newest_is_kept),
    ("streams are apart", streams_are_apart),
    ("leftovers are removed and strangers left alone", leftovers_are_removed),
    ("limits are enforced", limits_are_enforced),
];

/// Runs every case, each on a disk of its own.
pub fn run(make: impl Fn() -> (Arc<dyn Disk>, Box<dyn Any>)) {
    for (name, case) in CASES {
        tracing::debug!(name, "snapshot conformance case");
        let (disk, _guard) = make();
        case(disk);
    }
}

fn open(disk: &Arc<dyn Disk>) -> SnapshotStore {
    SnapshotStore::new(disk.clone(), "snapshots").expect("the folder opens")
}

fn loaded(store: &SnapshotStore, stream: StreamId) -> Option<(Vec<u8>, Vec<u8>)> {
    let found = store.load(stream).expect("nothing is damaged")?;
    assert!(found.damaged_newer.is_empty());
    Some((found.meta.to_vec(), found.data.to_vec()))
}

fn pair(meta: &[u8], data: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    Some((meta.to_vec(), data.to_vec()))
}

fn the_newest_is_loaded(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    assert_eq!(loaded(&store, A), None);
    let first = store.save(A, b"m1", b"d1").expect("the disk has no faults");
    assert_eq!(loaded(&store, A), pair(b"m1", b"d1"));
    let second = store.save(A, b"", &[7; 100_000]).expect("the disk has no faults");
    assert!(second.number > first.number && second.hash != first.hash);
    assert_eq!(loaded(&store, A), pair(b"", &[7; 100_000]));
    let store = open(&disk);
    assert_eq!(loaded(&store, A), pair(b"", &[7; 100_000]));
    let found = store.load(A).expect("nothing is damaged").expect("it was saved");
    assert_eq!((found.number, found.hash), (second.number, second.hash));
    let third = store.save(A, b"m3", b"d3").expect("the disk has no faults");
    assert!(third.number > second.number, "numbers go on after a restart");
}

fn only_the_newest_is_kept(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    for round in 0..5 {
        store.save(A, b"m", &[round]).expect("the disk has no faults");
    }
    assert_eq!(disk.list("snapshots").expect("the folder is there").len(), 1);
}

fn streams_are_apart(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    store.save(A, b"a", b"of a").expect("the disk has no faults");
    store.save(B, b"b", b"of b").expect("the disk has no faults");
    let store = open(&disk);
    assert_eq!(store.list(), [A, B]);
    store.remove(A).expect("the disk has no faults");
    store.remove(A).expect("removing nothing is no error");
    assert_eq!((loaded(&store, A), loaded(&store, B)), (None, pair(b"b", b"of b")));
    assert_eq!(store.list(), [B]);
    assert_eq!(open(&disk).list(), [B]);
}

fn leftovers_are_removed(disk: Arc<dyn Disk>) {
    open(&disk).save(A, b"m", b"d").expect("the disk has no faults");
    for name in ["00000000-0000000000000001-0000000000000002.snapshot.tmp", "README", "x-y-z.snapshot"] {
        disk.open(&format!("snapshots/{name}"), true).expect("the disk has no faults");
    }
    let store = open(&disk);
    assert_eq!(store.list(), [A]);
    let names = disk.list("snapshots").expect("the folder is there");
    assert_eq!(names.len(), 3, "the temporary file is gone: {names:?}");
}

fn limits_are_enforced(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let refused = store.save(A, &vec![0; MAX_SNAPSHOT_META_BYTES + 1], b"");
    assert!(matches!(refused, Err(StorageError::TooLarge { .. })));
    assert!(disk.list("snapshots").expect("the folder is there").is_empty());
}
