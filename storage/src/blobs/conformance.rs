//! What a [`BlobStore`] must do on any [`Disk`]. Panics at the first thing that is wrong.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use super::{BlobDigest, BlobError, BlobLimits, BlobNeeds, BlobRoom, BlobStore, DiskFloor};
use crate::Disk;

/// Of the suite: small, so that they are reached.
pub const LIMITS: BlobLimits = BlobLimits {
    one_bytes: 2 << 20,
    all_bytes: 5 << 20,
    keep: Duration::from_secs(3_600),
    settle: Duration::from_secs(10),
    floor: DiskFloor::Bytes(0),
};

type Case = fn(Arc<dyn Disk>);

const CASES: [(&str, Case); 10] = [
    ("what is written is read back", what_is_written_is_read_back),
    ("what is not finished leaves nothing", what_is_not_finished_leaves_nothing),
    ("limits are kept", limits_are_kept),
    ("the one used longest ago makes room", the_one_used_longest_ago_makes_room),
    ("old ones go, but not while they are read", old_ones_go_but_not_while_they_are_read),
    ("another digest is not taken", another_digest_is_not_taken),
    ("what is needed stays", what_is_needed_stays),
    ("what may be named soon stays", what_may_be_named_soon_stays),
    ("room is left for others", room_is_left_for_others),
    ("what was damaged is written anew", what_was_damaged_is_written_anew),
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

/// Says that nothing is needed, so far as anybody knows at this time.
fn nothing_is_needed(store: &BlobStore, now: Duration) {
    needed(store, now, &[], &[]);
}

pub(super) fn needed(store: &BlobStore, now: Duration, pinned: &[BlobDigest], wanted: &[BlobDigest]) {
    let as_set = |digests: &[BlobDigest]| digests.iter().copied().collect();
    store.set_needs(BlobNeeds { as_of: now, pinned: as_set(pinned), wanted: as_set(wanted) });
}

/// Writes a blob in pieces.
pub(super) fn put(store: &Arc<BlobStore>, bytes: &[u8], now: Duration) -> Result<BlobDigest, BlobError> {
    let mut writer = store.begin(BlobRoom::default())?;
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
    let mut writer = store.begin(BlobRoom::default()).expect("there is room");
    writer.append(b"half").expect("there is room");
    assert_eq!(names(&disk).len(), 1);
    assert!(store.list().is_empty());
    drop(writer);
    assert_eq!(names(&disk), Vec::<String>::new());
    // Of a process that died.
    std::mem::forget(store.begin(BlobRoom::default()).expect("there is room"));
    disk.open("blobs/README", true).expect("the disk has no faults");
    assert!(open(&disk).list().is_empty());
    assert_eq!(names(&disk), ["README"], "strangers are left alone");
}

fn limits_are_kept(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    nothing_is_needed(&store, at(100));
    let one = LIMITS.one_bytes as usize;
    let most = put(&store, &vec![1; one], at(1)).expect("just so");
    let too_large = put(&store, &vec![2; one + 1], at(1));
    assert!(matches!(too_large, Err(BlobError::TooLarge { limit, .. }) if limit == LIMITS.one_bytes));
    let announced = BlobRoom { bytes: Some(LIMITS.one_bytes + 1), ..BlobRoom::default() };
    assert!(matches!(store.begin(announced), Err(BlobError::TooLarge { .. })), "before any of it comes");
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
    assert!(
        matches!(put(&store, &vec![3; one], at(4)), Err(BlobError::Full { .. })),
        "nobody has said what is needed"
    );
    nothing_is_needed(&store, at(100));
    let third = put(&store, &vec![3; one], at(4)).expect("there is room then");
    let left: Vec<BlobDigest> = store.list().iter().map(|info| info.digest).collect();
    assert!(left.contains(&first) && left.contains(&third) && !left.contains(&second), "{left:?}");
    assert_eq!(names(&disk).len(), 2);
}

fn old_ones_go_but_not_while_they_are_read(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let first = put(&store, b"1", at(0)).expect("there is room");
    let second = put(&store, b"2", at(20)).expect("there is room");
    let reader = store.read(first, at(0)).expect("no fault").expect("it is there");
    let late = at(LIMITS.keep.as_secs() + 5);
    assert!(!store.has_old(late));
    drop(reader);
    assert!(store.has_old(late));
    assert_eq!(store.sweep(late).expect("no fault"), 0, "nobody has said what is needed");
    nothing_is_needed(&store, late);
    assert_eq!(store.sweep(late).expect("no fault"), 1);
    assert_eq!(store.list().iter().map(|info| info.digest).collect::<Vec<_>>(), [second]);
    assert_eq!(names(&disk).len(), 1);
}

fn what_is_needed_stays(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let one = LIMITS.one_bytes as usize;
    let first = put(&store, &vec![1; one], at(1)).expect("there is room");
    let second = put(&store, &vec![2; one], at(2)).expect("there is room");
    needed(&store, at(100), &[first, second], &[]);
    assert!(matches!(put(&store, &vec![3; one], at(100)), Err(BlobError::Full { .. })));
    // What is only wanted goes when nothing else does.
    needed(&store, at(100), &[second], &[first]);
    let third = put(&store, &vec![3; one], at(100)).expect("a copy makes room");
    let left = || store.list().iter().map(|info| info.digest).collect::<Vec<_>>();
    assert!(!left().contains(&first) && left().contains(&second));
    // However old they are; and an hour longer, once nothing names them.
    let (late, later) = (at(2 * LIMITS.keep.as_secs()), at(4 * LIMITS.keep.as_secs()));
    needed(&store, late, &[second], &[third]);
    assert_eq!(store.sweep(late).expect("no fault"), 0);
    nothing_is_needed(&store, late + LIMITS.keep / 2);
    assert_eq!(store.sweep(late + LIMITS.keep / 2).expect("no fault"), 0);
    nothing_is_needed(&store, later);
    assert_eq!(store.sweep(later).expect("no fault"), 2);
}

fn what_may_be_named_soon_stays(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let one = LIMITS.one_bytes as usize;
    let told = put(&store, &vec![1; one], at(1)).expect("there is room");
    let mut writer =
        store.begin(BlobRoom { is_claimed: true, ..BlobRoom::default() }).expect("there is room");
    writer.append(&vec![2; one]).expect("there is room");
    let sent = writer.finish(None, at(50)).expect("no fault").expect("no digest was asked for").digest;
    assert!(store.claim(told, at(46)).expect("no fault").is_some());
    let full = |digit, now| matches!(put(&store, &vec![digit; one], now), Err(BlobError::Full { .. }));
    nothing_is_needed(&store, at(5));
    assert!(full(3, at(55)), "both were used since");
    nothing_is_needed(&store, at(55));
    assert!(full(3, at(55)), "or somebody was told of them just before");
    nothing_is_needed(&store, at(56));
    let third = put(&store, &vec![3; one], at(55)).expect("the first one makes room");
    assert!(store.list().iter().any(|info| info.digest == sent));
    // A copy that nobody was told of goes at once.
    put(&store, &vec![4; one], at(56)).expect("the third one makes room");
    assert!(store.list().iter().all(|info| info.digest != third));
    assert!(store.claim(third, at(57)).expect("no fault").is_none());
    // As if all were told of when it starts.
    let store = open(&disk);
    nothing_is_needed(&store, at(9));
    assert!(matches!(put(&store, &vec![5; one], at(9)), Err(BlobError::Full { .. })));
}

fn room_is_left_for_others(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let one = LIMITS.one_bytes;
    nothing_is_needed(&store, at(100));
    let room = |bytes| BlobRoom { bytes: Some(bytes), spare_bytes: one, ..BlobRoom::default() };
    let first = store.begin(room(one)).expect("there is room");
    assert!(matches!(store.begin(room(one)), Err(BlobError::Full { .. })), "some has to be left");
    let second = store.begin(BlobRoom { spare_bytes: 0, ..room(one) }).expect("for this one");
    drop((first, second));
    let pinned = put(&store, &vec![1; one as usize], at(1)).expect("there is room");
    needed(&store, at(100), &[pinned], &[]);
    assert!(matches!(store.begin(room(one + 1)), Err(BlobError::TooLarge { .. })));
    assert!(matches!(store.begin(room(one)), Err(BlobError::Full { .. })), "it may be needed, too");
    store.begin(room(one / 2)).expect("as much as that");
}

fn what_was_damaged_is_written_anew(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let bytes = vec![5; 1_000];
    let digest = put(&store, &bytes, at(1)).expect("there is room");
    let file = disk.open(&format!("blobs/{digest}.blob"), false).expect("it has its name");
    // Whoever has it open does not take the new one for the old one.
    let reader = store.read(digest, at(1)).expect("no fault").expect("it is there");
    file.write_at(b"x", 500).expect("no fault");
    assert_eq!(put(&store, &bytes, at(2)).expect("the same again"), digest);
    assert_eq!(get(&store, digest, at(3)), Some(bytes.clone()));
    drop(reader);
    let file = disk.open(&format!("blobs/{digest}.blob"), false).expect("it has its name");
    file.set_len(999).expect("no fault");
    assert!(store.read(digest, at(4)).expect("no fault").is_none(), "it is too short");
    assert!(store.list().is_empty() && names(&disk).is_empty());
}

fn another_digest_is_not_taken(disk: Arc<dyn Disk>) {
    let store = open(&disk);
    let mut writer = store.begin(BlobRoom::default()).expect("there is room");
    writer.append(b"this").expect("there is room");
    assert_eq!(writer.finish(Some(BlobDigest([9; 32])), at(1)).expect("no fault"), None);
    assert_eq!((names(&disk).len(), store.list().len()), (0, 0));
}
