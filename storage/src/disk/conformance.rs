//! What every [`Disk`] must do, as tests that any implementation can run. Panics at the first thing that is wrong.
//!
//! Durability is not tested here: only a disk that can lose power can show it (see the memory disk's tests).

use std::any::Any;
use std::io::ErrorKind;
use std::sync::Arc;

use super::{Disk, DiskFile};

/// A fresh, empty disk, and whatever has to live as long as it does.
pub type Fixture = (Arc<dyn Disk>, Box<dyn Any>);

type Case = fn(&dyn Disk);

const CASES: [(&str, Case); 11] = [
    ("files are made only when asked", files_are_made_only_when_asked),
    ("reads and writes are positioned", reads_and_writes_are_positioned),
    ("a gap reads as zeros", a_gap_reads_as_zeros),
    ("zeros are written", zeros_are_written),
    ("set_len cuts and fills", set_len_cuts_and_fills),
    ("rename replaces", rename_replaces),
    ("a handle outlives its name", a_handle_outlives_its_name),
    ("removing is final", removing_is_final),
    ("folders nest and list in order", folders_nest_and_list_in_order),
    ("paths stay inside", paths_stay_inside),
    ("room is told", room_is_told),
];

/// Runs every case, each on a disk of its own.
pub fn run(make: impl Fn() -> Fixture) {
    for (name, case) in CASES {
        tracing::debug!(name, "disk conformance case");
        let (disk, _guard) = make();
        case(&*disk);
    }
}

fn open(disk: &dyn Disk, path: &str) -> Arc<dyn DiskFile> {
    disk.open(path, true).unwrap_or_else(|error| panic!("opening {path}: {error}"))
}

#[track_caller]
fn ok<T>(result: std::io::Result<T>) -> T {
    result.expect("the disk has no faults")
}

#[track_caller]
fn kind<T>(result: std::io::Result<T>) -> ErrorKind {
    result.err().expect("the call must be refused").kind()
}

fn contents(file: &dyn DiskFile) -> Vec<u8> {
    let mut buf = vec![0xee; ok(file.len()) as usize + 8];
    let count = ok(file.read_at(&mut buf, 0));
    buf.truncate(count);
    buf
}

fn files_are_made_only_when_asked(disk: &dyn Disk) {
    assert_eq!(kind(disk.open("file", false)), ErrorKind::NotFound);
    let file = open(disk, "file");
    assert!(ok(file.is_empty()));
    ok(file.write_at(b"kept", 0));
    assert_eq!(contents(&*open(disk, "file")), b"kept", "opening again does not truncate");
    assert_eq!(contents(&*ok(disk.open("file", false))), b"kept");
    assert_eq!(kind(disk.open("missing/file", true)), ErrorKind::NotFound);
}

fn reads_and_writes_are_positioned(disk: &dyn Disk) {
    let file = open(disk, "file");
    ok(file.write_at(b"hello world", 0));
    ok(file.write_at(b"W", 6));
    let mut buf = [0; 5];
    assert_eq!(ok(file.read_at(&mut buf, 6)), 5);
    assert_eq!(&buf, b"World");
    assert_eq!(ok(file.read_at(&mut buf, 9)), 2, "fewer only at the end");
    assert_eq!(ok(file.read_at(&mut buf, 11)), 0);
    assert_eq!(ok(file.read_at(&mut buf, 1 << 40)), 0);
    assert_eq!(ok(file.read_at(&mut [], 0)), 0);
    ok(file.write_at(b"", 100));
    assert_eq!(ok(file.len()), 11, "writing nothing changes nothing");
    ok(file.sync_data());
    ok(disk.sync_dir(""));
}

fn a_gap_reads_as_zeros(disk: &dyn Disk) {
    let file = open(disk, "file");
    ok(file.write_at(b"x", 3));
    assert_eq!(contents(&*file), [0, 0, 0, b'x']);
}

fn zeros_are_written(disk: &dyn Disk) {
    let file = open(disk, "file");
    ok(file.write_at(b"abcdef", 0));
    ok(file.write_zeros(2, 2));
    assert_eq!(contents(&*file), *b"ab\0\0ef");
    ok(file.write_zeros(5, 1_000_000));
    assert_eq!(ok(file.len()), 1_000_005, "the file grows");
    let found = contents(&*file);
    assert!(found[..5] == *b"ab\0\0e" && found[5..].iter().all(|byte| *byte == 0));
    ok(file.write_zeros(2_000_000, 0));
    assert_eq!(ok(file.len()), 1_000_005, "no zeros change nothing");
}

fn set_len_cuts_and_fills(disk: &dyn Disk) {
    let file = open(disk, "file");
    ok(file.write_at(b"abcdef", 0));
    ok(file.set_len(2));
    ok(file.set_len(4));
    assert_eq!(contents(&*file), [b'a', b'b', 0, 0]);
    assert_eq!(ok(file.len()), 4);
}

fn rename_replaces(disk: &dyn Disk) {
    ok(open(disk, "from").write_at(b"new", 0));
    ok(open(disk, "to").write_at(b"old", 0));
    ok(disk.rename("from", "to"));
    assert_eq!(ok(disk.list("")), ["to"]);
    assert_eq!(contents(&*ok(disk.open("to", false))), b"new");
    ok(disk.rename("to", "to"));
    assert_eq!(ok(disk.list("")), ["to"]);
    assert_eq!(kind(disk.rename("from", "to")), ErrorKind::NotFound);
    assert_eq!(kind(disk.rename("to", "missing/to")), ErrorKind::NotFound);
    ok(disk.create_dir("dir"));
    ok(disk.rename("to", "dir/moved"));
    assert_eq!(ok(disk.list("")), ["dir"]);
    assert_eq!(ok(disk.list("dir")), ["moved"]);
}

fn a_handle_outlives_its_name(disk: &dyn Disk) {
    let file = open(disk, "file");
    ok(file.write_at(b"abc", 0));
    ok(disk.rename("file", "renamed"));
    ok(file.write_at(b"X", 0));
    assert_eq!(contents(&*ok(disk.open("renamed", false))), b"Xbc");
    ok(disk.remove("renamed"));
    assert_eq!(contents(&*file), b"Xbc");
    ok(file.sync_data());
}

fn removing_is_final(disk: &dyn Disk) {
    assert_eq!(kind(disk.remove("file")), ErrorKind::NotFound);
    ok(open(disk, "file").write_at(b"abc", 0));
    ok(disk.remove("file"));
    assert_eq!(kind(disk.open("file", false)), ErrorKind::NotFound);
    assert!(ok(open(disk, "file").is_empty()), "a new file of the same name is empty");
}

fn folders_nest_and_list_in_order(disk: &dyn Disk) {
    assert_eq!(kind(disk.list("a")), ErrorKind::NotFound);
    assert_eq!(kind(disk.sync_dir("a")), ErrorKind::NotFound);
    ok(disk.create_dir("a/b"));
    ok(disk.create_dir("a/b"));
    ok(disk.create_dir("a"));
    for name in ["z", "y", "10", "9"] {
        open(disk, &format!("a/{name}"));
    }
    assert_eq!(ok(disk.list("a")), ["10", "9", "b", "y", "z"]);
    assert_eq!(ok(disk.list("")), ["a"]);
    assert!(ok(disk.list("a/b")).is_empty());
    ok(disk.sync_dir("a/b"));
    ok(disk.sync_dir("a"));
    ok(disk.sync_dir(""));
}

fn paths_stay_inside(disk: &dyn Disk) {
    for path in ["../x", "/tmp/x", "a/../../x", "", ".", "a//b"] {
        assert_eq!(kind(disk.open(path, true)), ErrorKind::InvalidInput, "{path:?}");
        assert_eq!(kind(disk.remove(path)), ErrorKind::InvalidInput, "{path:?}");
        assert_eq!(kind(disk.rename(path, "y")), ErrorKind::InvalidInput, "{path:?}");
        assert_eq!(kind(disk.create_dir(path)), ErrorKind::InvalidInput, "{path:?}");
    }
    assert_eq!(kind(disk.list("..")), ErrorKind::InvalidInput);
    assert_eq!(kind(disk.sync_dir("/")), ErrorKind::InvalidInput);
}

fn room_is_told(disk: &dyn Disk) {
    let before = ok(disk.space());
    assert!(before.free_bytes > 0 && before.free_bytes <= before.bytes, "{before:?}");
    ok(open(disk, "file").write_at(&[1; 4_096], 0));
    assert_eq!(ok(disk.space()).bytes, before.bytes);
}
