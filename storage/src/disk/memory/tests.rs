//! What the disk in memory promises, call by call.

use super::*;

const ALL: fn(u64) -> u64 = |_| 0;

fn disk_with(path: &str, contents: &[u8]) -> MemDisk {
    let disk = MemDisk::new();
    let file = disk.open(path, true).unwrap();
    file.write_at(contents, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir("").unwrap();
    disk
}

fn contents(disk: &MemDisk, path: &str) -> Vec<u8> {
    let file = disk.open(path, false).unwrap();
    let mut buf = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), buf.len());
    buf
}

#[test]
fn conforms() {
    crate::disk::conformance::run(|| (Arc::new(MemDisk::new()) as Arc<dyn Disk>, Box::new(())));
}

#[test]
fn what_was_synced_survives_every_crash() {
    for seed in 0..100 {
        let disk = disk_with("file", b"before");
        disk.open("file", false).unwrap().write_at(&[7; 5000], 6).unwrap();
        disk.crash(&mut SeededChance::new(seed));
        assert_eq!(&contents(&disk, "file")[..6], b"before");
    }
}

#[test]
fn unsynced_writes_are_kept_dropped_and_torn_by_sector() {
    let (mut kept, mut dropped, mut torn, mut reordered) = (0, 0, 0, 0);
    for seed in 0..300 {
        let disk = disk_with("file", &[0; 4096]);
        let file = disk.open("file", false).unwrap();
        file.write_at(&[1; 2048], 0).unwrap();
        file.write_at(&[2; 2048], 2048).unwrap();
        disk.crash(&mut SeededChance::new(seed));
        let found = contents(&disk, "file");
        for sector in found.chunks(SECTOR_BYTES) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is whole");
        }
        let first = found[..2048].iter().filter(|byte| **byte == 1).count();
        let second = found[2048..].iter().filter(|byte| **byte == 2).count();
        match (first, second) {
            (0, 0) => dropped += 1,
            (2048, 2048) => kept += 1,
            (0, 2048) => reordered += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 0 && dropped > 0 && torn > 0 && reordered > 0, "{kept} {dropped} {torn} {reordered}");
}

#[test]
fn unsynced_names_may_be_lost_and_synced_ones_are_not() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = disk_with("old", b"x");
        disk.rename("old", "new").unwrap();
        disk.open("late", true).unwrap();
        disk.crash(&mut SeededChance::new(seed));
        outcomes.insert(disk.list("").unwrap());
    }
    let expect = [vec!["late", "new"], vec!["new"], vec!["old"]];
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), expect);

    let disk = disk_with("old", b"x");
    disk.rename("old", "new").unwrap();
    disk.sync_dir("").unwrap();
    disk.crash(&mut ALL.clone());
    assert_eq!(disk.list("").unwrap(), ["new"]);
}

#[test]
fn a_file_is_lost_with_its_unsynced_folder() {
    let disk = MemDisk::new();
    disk.create_dir("dir").unwrap();
    disk.open("dir/file", true).unwrap().sync_data().unwrap();
    disk.sync_dir("dir").unwrap();
    disk.crash(&mut ALL.clone());
    assert_eq!(disk.list("").unwrap(), [""; 0]);
}

#[test]
fn handles_from_before_a_crash_fail() {
    let disk = disk_with("file", b"x");
    let file = disk.open("file", false).unwrap();
    disk.crash(&mut SeededChance::new(1));
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(file.write_at(&[0], 0).is_err());
    assert!(file.sync_data().is_err());
    assert!(file.len().is_err());
    assert_eq!(contents(&disk, "file"), b"x");
}

#[test]
fn what_a_failed_sync_left_out_is_never_written_by_a_later_one() {
    let disk = disk_with("file", b"old");
    let file = disk.open("file", false).unwrap();
    file.write_at(b"new", 0).unwrap();
    disk.fail_nth(DiskCall::Sync, 1);
    assert!(file.sync_data().is_err());
    file.sync_data().unwrap();
    assert_eq!(contents(&disk, "file"), b"new");
    let mut dropping = |bound: u64| if bound == 5 { 1 } else { 0 };
    disk.crash(&mut dropping);
    assert_eq!(contents(&disk, "file"), b"old");
}

#[test]
fn what_is_synced_over_an_abandoned_write_stays() {
    for seed in 0..50 {
        let disk = disk_with("file", &[0; 2048]);
        let file = disk.open("file", false).unwrap();
        file.write_at(&[1; 2048], 0).unwrap();
        disk.fail_nth(DiskCall::Sync, 1);
        assert!(file.sync_data().is_err());
        file.write_at(&[2; 600], 500).unwrap();
        file.sync_data().unwrap();
        disk.rename("file", "renamed").unwrap();
        disk.fail_nth(DiskCall::SyncDir, 1);
        assert!(disk.sync_dir("").is_err());
        disk.rename("renamed", "file").unwrap();
        disk.sync_dir("").unwrap();
        disk.crash(&mut SeededChance::new(seed));
        let found = contents(&disk, "file");
        assert_eq!(found[500..1100], [2; 600]);
        assert!(found[..500].iter().chain(&found[1100..]).all(|byte| *byte < 2));
    }
}

#[test]
fn injected_faults_hit_the_call_named() {
    let disk = disk_with("file", b"abc");
    let file = disk.open("file", false).unwrap();
    disk.fail_nth(DiskCall::Read, 2);
    assert!(file.read_at(&mut [0], 0).is_ok());
    assert!(file.read_at(&mut [0], 0).is_err());
    assert!(file.read_at(&mut [0], 0).is_ok());
    assert_eq!(disk.calls(DiskCall::Read), 3);

    disk.flip_bit("file", 1, 0).unwrap();
    assert_eq!(contents(&disk, "file"), b"acc");
    disk.crash(&mut ALL.clone());
    assert_eq!(contents(&disk, "file"), b"acc");
}

#[test]
fn a_full_disk_takes_overwrites_but_not_growth() {
    let disk = disk_with("file", b"abc");
    disk.set_capacity(Some(4));
    let file = disk.open("file", false).unwrap();
    file.write_at(b"xyz", 0).unwrap();
    file.write_at(b"1", 3).unwrap();
    let error = file.write_at(b"2", 4).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(file.set_len(5).is_err());
    disk.set_capacity(None);
    file.write_at(b"2", 4).unwrap();
}

#[test]
fn the_hook_sees_each_call() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let disk = MemDisk::new();
    let sink = seen.clone();
    disk.set_hook(Some(Arc::new(move |call, path: &str| sink.lock().push((call, path.to_owned())))));
    let file = disk.open("file", true).unwrap();
    file.write_at(b"a", 0).unwrap();
    file.sync_data().unwrap();
    let expect = [DiskCall::Open, DiskCall::Write, DiskCall::Sync].map(|call| (call, "file".to_owned()));
    assert_eq!(*seen.lock(), expect);
}

#[test]
fn a_durable_image_is_what_a_crash_leaves_at_least_and_shares_nothing() {
    let disk = disk_with("file", b"old");
    disk.create_dir("dir").unwrap();
    disk.open("dir/lost", true).unwrap().sync_data().unwrap();
    disk.sync_dir("dir").unwrap();
    let file = disk.open("file", false).unwrap();
    file.write_at(b"newer", 0).unwrap();
    disk.rename("file", "renamed").unwrap();
    disk.fail_nth(DiskCall::Open, 1);

    let image = disk.durable_image();
    assert_eq!(image.list("").unwrap(), ["file"], "neither the folder nor the new name was synced");
    assert_eq!(contents(&image, "file"), b"old");
    assert_eq!(contents(&image.durable_image(), "file"), b"old");
    image.crash(&mut ALL.clone());
    assert_eq!(contents(&image, "file"), b"old", "all of it is synced");

    image.open("file", false).unwrap().write_at(b"image", 0).unwrap();
    disk.clear_faults();
    assert_eq!(contents(&disk, "renamed"), b"newer");
    file.write_at(b"again", 0).unwrap();
    assert_eq!(contents(&image, "file"), b"image");
}

#[test]
fn zeros_of_any_length_are_kept_dropped_and_torn_at_no_cost() {
    const LEN: u64 = 1 << 40;
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let disk = disk_with("file", &[7; 2048]);
        let file = disk.open("file", false).unwrap();
        file.write_zeros(512, LEN).unwrap();
        assert_eq!(file.len().unwrap(), 512 + LEN);
        assert_eq!(
            disk.written_parts("file").unwrap(),
            std::slice::from_ref(&(0..2048)),
            "that is what is durable"
        );
        let mut chance = SeededChance::new(seed);
        disk.crash(&mut chance);
        let file = disk.open("file", false).unwrap();
        let len = file.len().unwrap();
        assert!((2048..=512 + LEN).contains(&len));
        let mut found = [1; 2048];
        file.read_at(&mut found, 0).unwrap();
        assert_eq!(found[..512], [7; 512]);
        for sector in found.chunks(SECTOR_BYTES) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is whole");
        }
        lengths.insert((len == 2048, len == 512 + LEN, found[512] == 0, found[1024] == 0));
    }
    let has = |what: fn(&(bool, bool, bool, bool)) -> bool| lengths.iter().any(what);
    assert!(has(|(none, ..)| *none) && has(|(_, all, ..)| *all) && has(|(none, all, ..)| !none && !all));
    assert!(has(|(.., first, second)| *first && !second) && has(|(.., first, second)| !first && *second));
}

proptest::proptest! {
    /// What was changed since the last sync that succeeded is durable after the next, whatever kinds of changes there were.
    #[test]
    fn a_sync_makes_all_of_the_file_durable(
        acts in proptest::collection::vec((0u64..20_000, 0u64..9_000, 0u8..8), 1..20)
    ) {
        let disk = disk_with("file", &[9; 5000]);
        let file = disk.open("file", false).unwrap();
        for (at, len, kind) in acts {
            match kind {
                0..=3 => file.write_at(&vec![kind + 1; len as usize], at).unwrap(),
                4 => file.write_zeros(at, len).unwrap(),
                5 => file.set_len(at).unwrap(),
                _ => file.sync_data().unwrap(),
            }
        }
        let shown = contents(&disk, "file");
        // What is durable shares nothing with what is written later.
        file.sync_data().unwrap();
        let durable = disk.durable_image();
        proptest::prop_assert!(contents(&durable, "file") == shown);
        file.write_at(&[200; 6000], 100).unwrap();
        proptest::prop_assert!(contents(&durable, "file") == shown);
        proptest::prop_assert!(contents(&disk.durable_image(), "file") == shown);
        disk.crash(&mut |bound: u64| u64::from(bound == 5));
        proptest::prop_assert!(contents(&disk, "file") == shown);
    }
}
