//! What a [`BlobStore`] must do on any [`Disk`]. Panics at the first thing that is wrong.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use super::{BlobDigest, BlobError, BlobLimits, BlobStore};
use crate::Disk;

/// Of the suite: small, so that they are reached.
pub const LIMITS: BlobLimits =
    BlobLimits { one_bytes: 2 << 20, all_bytes: 5 << 20, keep: Duration::from_secs(3_600) };

type Case = fn(Arc<dyn Disk>);

const CASES: [(&str, Case); 6] = [
    ("what is written is read back", what_is_written_is_read_back),
    ("what is not finished leaves nothing", what_is_not_finished_leaves_nothing),
    ("limits are kept", limits_are_kept),
    ("the one used longest ago makes room", the_one_used_longest_ago_makes_room),
    ("old ones go, but not while they are read", old_ones_go_but_not_while_they_are_read),
    ("another digest is not taken", another_digest_is_not_taken),
];

/// Runs every case, each on a disk of its own.
pub fn run(make: impl Fn() -> (Arc<dyn Disk>, Box<dyn Any>)) {
    for (name, case) in CASES {
        tracing::debug!(name, "blob conformance case");
        let (disk, _guard) = make();
        case(disk);
    }
}

pub(super) const fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn open(disk: &Arc<dyn Disk>) -> Arc<BlobStore> {
    Arc::new(BlobStore::open(Arc::clone(disk), "blobs", LIMITS, at(0)).expect("the folder opens"))
}

/// Writes a blob in pieces.
pub(super) fn put(store: &Arc<BlobStore>, bytes: &[u8], now: Duration) -> Result<BlobDigest, BlobError> {
    let mut writer = store.begin(now)?;
    bytes.chunks(100_000).try_for_each(|piece| writer.append(piece))?;
    let info = writer.finish(None, now)?.expect("no digest was asked for");
    assert_eq!(info.bytes, bytes.len() as u64);
    Ok(info.digest)
}

pub(super) fn get(store: &Arc<BlobStore>, digest: BlobDigest, now: Duration) -> Option<Vec<u8>> {
    let reader = store.read_checked(digest, now).expect("the disk has no faults")?;
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < reader.bytes() {
        bytes.extend(reader.piece(bytes.len() as u64, 70_001).expect("the disk has no faults"));
    }
    Some(bytes)
}

fn names(disk: &Arc<dyn Disk>) -> Vec<String> {
    disk.list("blobs").expect("the folder is there")
}

fn what_is_written_is_read_back(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    for bytes in [Vec::new(), vec![7; 5], (0..1_000_000_u32).map(|n| n as u8).collect()] {
        let digest = put(&store, &bytes, at(1)).expect("it fits");
        assert_eq!(digest.0, *blake3::hash(&bytes).as_bytes());
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(put(&store, &bytes, at(2)).expect("the same again"), digest);
        assert_eq!(get(&store, digest, at(3)), Some(bytes.clone()));
        assert_eq!(get(&open(&disk), digest, at(0)), Some(bytes));
    }
    assert_eq!((store.list().len(), names(&disk).len()), (3, 3));
    assert!(store.read(BlobDigest([0; 32]), at(3)).expect("no fault").is_none());
}

fn what_is_not_finished_leaves_nothing(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let mut writer = store.begin(at(1)).expect("there is room");
    writer.append(b"half").expect("there is room");
    assert_eq!(names(&disk).len(), 1);
    assert!(store.list().is_empty());
    drop(writer);
    assert_eq!(names(&disk), Vec::<String>::new());
    // Of a process that died.
    std::mem::forget(store.begin(at(1)).expect("there is room"));
    disk.open("blobs/README", true).expect("the disk has no faults");
    assert!(open(&disk).list().is_empty());
    assert_eq!(names(&disk), ["README"], "strangers are left alone");
}

fn limits_are_kept(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let one = LIMITS.one_bytes as usize;
    let most = put(&store, &vec![1; one], at(1)).expect("just so");
    assert!(matches!(put(&store, &vec![2; one + 1], at(1)), Err(BlobError::TooLarge { .. })));
    assert_eq!(store.list().len(), 1);
    let reading = store.read(most, at(1)).expect("no fault").expect("it is there");
    let other = put(&store, &vec![3; one], at(2)).expect("there is room");
    let also = store.read(other, at(2)).expect("no fault").expect("it is there");
    assert!(matches!(put(&store, &vec![4; one], at(3)), Err(BlobError::Full { .. })), "both are read");
    drop((reading, also));
    put(&store, &vec![4; one], at(4)).expect("nobody reads them now");
}

fn the_one_used_longest_ago_makes_room(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let one = LIMITS.one_bytes as usize;
    let first = put(&store, &vec![1; one], at(1)).expect("there is room");
    let second = put(&store, &vec![2; one], at(2)).expect("there is room");
    assert!(get(&store, first, at(3)).is_some(), "used again");
    let third = put(&store, &vec![3; one], at(4)).expect("there is room then");
    let left: Vec<BlobDigest> = store.list().iter().map(|info| info.digest).collect();
    assert!(left.contains(&first) && left.contains(&third) && !left.contains(&second), "{left:?}");
    assert_eq!(names(&disk).len(), 2);
}

fn old_ones_go_but_not_while_they_are_read(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let first = put(&store, b"1", at(0)).expect("there is room");
    let second = put(&store, b"2", at(10)).expect("there is room");
    let reader = store.read(first, at(0)).expect("no fault").expect("it is there");
    let late = at(LIMITS.keep.as_secs() + 5);
    assert_eq!(store.sweep(late).expect("no fault"), 0);
    drop(reader);
    assert_eq!(store.sweep(late).expect("no fault"), 1);
    assert_eq!(store.list().iter().map(|info| info.digest).collect::<Vec<_>>(), [second]);
    assert_eq!(names(&disk).len(), 1);
}

fn another_digest_is_not_taken(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let mut writer = store.begin(at(1)).expect("there is room");
    writer.append(b"this").expect("there is room");
    assert_eq!(writer.finish(Some(BlobDigest([9; 32])), at(1)).expect("no fault"), None);
    assert_eq!((names(&disk).len(), store.list().len()), (0, 0));
}
