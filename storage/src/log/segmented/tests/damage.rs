//! Torn tails, rot, and telling them from each other.

use super::super::batch::{BATCH_HEADER_BYTES, BatchHeader};
use super::super::format::{BLOCK_BYTES, DATA_START, HeaderFound, Position, SegmentHeader};
use super::super::record::RECORD_HEADER_BYTES;
use super::*;
use crate::disk::{Chance, SeededChance};

const C: StreamId = StreamId { group: 2, replica: 3 };
const NEW: StreamId = StreamId { group: 9, replica: 99 };

/// A batch on disk.
#[derive(Debug, Clone)]
struct OnDisk {
    path: String,
    offset: u64,
    len: u64,
}

impl OnDisk {
    /// Zeros the block with its header.
    fn zero(&self, disk: &MemDisk) {
        disk.zero(&self.path, self.offset, u64::from(BLOCK_BYTES)).unwrap();
    }

    /// Flips a bit in the payload of its first record (or of the record after a segment's manifest).
    fn rot_payload(&self, disk: &MemDisk) {
        let at = self.offset + (BATCH_HEADER_BYTES + RECORD_HEADER_BYTES) as u64 + 5;
        disk.flip_bit(&self.path, at, 3).unwrap();
    }
}

/// All batches in the order written.
fn batches(disk: &MemDisk) -> Vec<OnDisk> {
    let mut found = Vec::new();
    for name in disk.list("log").unwrap() {
        let path = format!("log/{name}");
        let file = disk.open(&path, false).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        let HeaderFound::Valid(header) = SegmentHeader::decode(&bytes[..4096]) else { continue };
        let mut offset = DATA_START;
        while let Some(batch) = BatchHeader::decode(
            &bytes[offset as usize..],
            Position { epoch: header.epoch, offset },
            header.segment_bytes,
        ) {
            let len = u64::from(batch.end() - offset);
            found.push((batch.sequence, OnDisk { path: path.clone(), offset: offset.into(), len }));
            offset = batch.end();
        }
    }
    found.sort_by_key(|(sequence, _)| *sequence);
    found.into_iter().map(|(_, batch)| batch).collect()
}

/// A first batch (with the segment's manifest), then one each of A, B, C, A, B, C.
fn six_batches() -> (MemDisk, Bench, Vec<OnDisk>) {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![vote(C, "first")]);
    for index in 1..=2 {
        for stream in [A, B, C] {
            bench.put(vec![filler(stream, index, 1, 100), vote(stream, "v")]);
        }
    }
    let batches = batches(&disk);
    assert_eq!(batches.len(), 7);
    (disk, bench, batches)
}

fn damaged(bench: &Bench) -> Vec<StreamId> {
    let of_report: Vec<_> = bench.report.damaged.iter().map(|(stream, _)| *stream).collect();
    for stream in [A, B, C] {
        let state = bench.log.state(stream);
        assert_eq!(state.is_err(), of_report.contains(&stream), "{stream}: {state:?}");
    }
    of_report
}

#[test]
fn rot_in_a_record_damages_its_stream_only() {
    let (disk, bench, batches) = six_batches();
    batches[1].rot_payload(&disk);
    let mut bench = bench.reopen();
    assert_eq!(damaged(&bench), [A]);
    assert_eq!(bench.report.torn_tail, None);
    assert!(matches!(bench.log.read(A, 0..9, 99), Err(StorageError::Damaged { .. })));
    let refused = bench.submit(1, vec![filler(A, 3, 1, 10)]);
    assert!(matches!(refused, Err(StorageError::Damaged { .. })), "{refused:?}");
    assert_eq!(bench.log.streams(), [A, B, C], "it is listed, so that it can be given up");
    bench.put(vec![filler(B, 3, 1, 10), filler(C, 3, 1, 10)]);
    assert_eq!((bench.held(B).len(), bench.held(C).len()), (3, 3));
    bench.put(vec![LogOp::Tombstone { stream: A }, filler(NEW, 1, 1, 10)]);
    let bench = bench.reopen();
    assert_eq!(damaged(&bench), []);
    assert!(bench.log.state(A).unwrap().tombstoned);
    assert_eq!(bench.log.streams(), [B, C, NEW]);
}

#[test]
fn a_batch_that_rotted_away_damages_the_streams_it_held() {
    let (disk, bench, batches) = six_batches();
    batches[2].zero(&disk);
    let mut bench = bench.reopen();
    assert_eq!(damaged(&bench), [B]);
    assert!(bench.report.lost.is_some());
    assert_eq!((bench.held(A).len(), bench.held(C).len()), (2, 2));
    bench.put(vec![filler(A, 3, 1, 10), filler(NEW, 1, 1, 10)]);
    // The next start must find the same, also when the rotten segment is long gone.
    bench.put(vec![filler(A, 4, 200, 1000)]);
    bench.put(vec![purge(A, 203)]);
    bench.put(vec![purge(C, 2)]);
    let mut bench = bench.reopen();
    assert_eq!(damaged(&bench), [B]);
    bench.put(vec![LogOp::Tombstone { stream: B }]);
    bench.put(vec![filler(A, 204, 200, 1000)]);
    bench.put(vec![purge(A, 403)]);
    bench.put(vec![vote(A, "w"), vote(C, "w"), vote(NEW, "w")]);
    let bench = bench.reopen();
    assert_eq!(damaged(&bench), []);
    assert_eq!(bench.log.streams(), [A, C, NEW]);
    assert!(bench.report.lost.is_some(), "streams unknown may be among the lost for ever");
}

#[test]
fn when_two_batches_in_a_row_are_gone_all_streams_are() {
    let (disk, bench, batches) = six_batches();
    batches[2].zero(&disk);
    batches[3].zero(&disk);
    let mut bench = bench.reopen();
    assert_eq!(damaged(&bench), [A, B, C]);
    assert!(matches!(bench.log.state(NEW), Err(StorageError::Damaged { .. })), "it may be one of the lost");
    bench.put([A, B, C].map(|stream| LogOp::Tombstone { stream }).to_vec());
    let refused = bench.submit(1, vec![vote(NEW, "v")]);
    assert!(matches!(refused, Err(StorageError::Damaged { .. })), "{refused:?}");
}

#[test]
fn rot_in_the_first_batch_of_the_newest_segment_is_not_taken_for_a_fresh_segment() {
    let (disk, bench, batches) = six_batches();
    batches[0].zero(&disk);
    assert_eq!(damaged(&bench.reopen()), [C]);
}

#[test]
fn a_torn_tail_is_cut_off() {
    let mut torn = 0;
    for seed in 0..100 {
        let (disk, mut bench) = Bench::in_memory();
        bench.put(vec![filler(A, 1, 3, 100), filler(B, 1, 3, 100)]);
        bench.submit(1, vec![filler(A, 4, 8, 1000), filler(B, 4, 3, 100)]).unwrap();
        bench.committer.step();
        disk.crash(&mut SeededChance::new(seed));
        let mut bench = bench.reopen();
        assert_eq!(damaged(&bench), []);
        torn += u32::from(bench.report.torn_tail.is_some());
        let (a, b) = (bench.held(A).len(), bench.held(B).len());
        assert!((a, b) == (3, 3) || (a, b) == (11, 6), "seed {seed}: a batch survives whole or not at all");
        // What is left of the torn batch must not come back behind a shorter one.
        let next = bench.log.state(B).unwrap().last.unwrap() + 1;
        bench.put(vec![filler(B, next, 1, 10)]);
        assert_eq!(bench.reopen().held(B).len(), b + 1);
    }
    assert!(torn > 10, "{torn} tails were torn");
}

#[test]
fn the_last_batch_is_told_from_a_torn_tail_once_it_is_marked() {
    for marked in [false, true] {
        let (disk, mut bench, batches) = six_batches();
        if marked {
            assert!(bench.committer.mark());
        }
        batches[6].rot_payload(&disk);
        let bench = bench.reopen();
        assert_eq!(bench.report.torn_tail.is_some(), !marked);
        assert_eq!(damaged(&bench), if marked { vec![C] } else { vec![] });
    }
}

/// Fills some segments; returns the log with the first of them sealed, and its batches.
fn sealed_segments() -> (MemDisk, Bench, Vec<OnDisk>) {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![vote(B, "b"), filler(B, 1, 2, 100)]);
    bench.put(vec![vote(C, "c")]);
    for index in 0..8 {
        bench.put(vec![filler(A, 1 + index * 20, 20, 1000)]);
    }
    assert!(bench.committer.mark());
    let batches = batches(&disk);
    (disk, bench, batches)
}

#[test]
fn rot_in_a_sealed_segment_is_found_when_it_is_read() {
    let (disk, bench, batches) = sealed_segments();
    batches[2].rot_payload(&disk);
    let mut bench = bench.reopen();
    assert_eq!(bench.report.damaged, [], "entries of sealed segments are not read at the start");
    assert_eq!(bench.log.read(A, 100..110, usize::MAX).unwrap().len(), 10);
    assert!(matches!(bench.log.read(A, 1..2, usize::MAX), Err(StorageError::Damaged { .. })));
    assert!(matches!(bench.log.state(A), Err(StorageError::Damaged { .. })), "from now on it is known");
    assert_eq!(bench.held(B).len(), 2);
    bench.put(vec![LogOp::Tombstone { stream: A }]);
    assert_eq!(bench.log.streams(), [B, C]);
}

#[test]
fn a_vote_in_a_sealed_segment_is_checked_at_the_start() {
    let (disk, bench, batches) = sealed_segments();
    let vote_of_c = &batches[1];
    disk.flip_bit(&vote_of_c.path, vote_of_c.offset + BATCH_HEADER_BYTES as u64 + 20, 0).unwrap();
    assert_eq!(damaged(&bench.reopen()), [C]);
}

#[test]
fn a_rotten_footer_costs_a_scan_and_no_data() {
    let (disk, mut bench, batches) = sealed_segments();
    let footer = u64::from(bench.config.segment_bytes);
    disk.flip_bit(&batches[0].path, footer + 20, 0).unwrap();
    bench = bench.reopen();
    assert_eq!(bench.report.scanned_segments, 2, "that one and the newest");
    assert_eq!((damaged(&bench), bench.report.lost.clone()), (vec![], None));
    assert_eq!(bench.held(A).len(), 160);
    // It gets a new footer.
    bench.settle();
    assert_eq!(bench.reopen().report.scanned_segments, 1);
}

/// A first segment that ends with votes of C, and has lost its footer and its last batch.
fn lost_end() -> (MemDisk, Bench) {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 30, 1000), filler(B, 1, 2, 100)]);
    while bench.files().len() < 3 {
        bench.put(vec![vote(C, "c")]);
    }
    let batches = batches(&disk);
    let last = batches.iter().rfind(|batch| batch.path == batches[0].path).unwrap();
    disk.flip_bit(&last.path, u64::from(bench.config.segment_bytes) + 20, 0).unwrap();
    last.zero(&disk);
    (disk, bench)
}

#[test]
fn without_its_footer_a_segment_is_judged_by_its_successor() {
    let (_, bench) = lost_end();
    assert_eq!(
        damaged(&bench.reopen()),
        [C],
        "the next segment says that a batch was acknowledged, and whose"
    );
}

#[test]
fn a_loss_is_on_record_before_a_new_footer_hides_it() {
    let (_, bench) = lost_end();
    let mut bench = bench.reopen();
    while bench.maintenance.step() == Upkeep::Worked {}
    bench = bench.reopen();
    assert_eq!(damaged(&bench), [C]);
    bench.settle();
    bench = bench.reopen();
    assert_eq!((damaged(&bench), bench.report.scanned_segments), (vec![C], 1));
}

#[test]
fn entries_that_were_cut_off_do_not_come_back_when_the_cut_rots() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 9, 100), filler(B, 1, 1, 100)]);
    bench.put(vec![LogOp::TruncateAfter { stream: A, last: Some(3) }]);
    bench.put(vec![vote(B, "b")]);
    batches(&disk)[1].rot_payload(&disk);
    assert_eq!(damaged(&bench.reopen()), [A]);
}

#[test]
fn one_copy_of_a_header_is_enough() {
    let (disk, bench, batches) = sealed_segments();
    disk.zero(&batches[0].path, 0, 4096).unwrap();
    disk.flip_bit(&batches.last().unwrap().path, 4096 + 20, 0).unwrap();
    let bench = bench.reopen();
    assert_eq!((damaged(&bench), bench.report.lost.clone()), (vec![], None));
    assert_eq!(bench.held(A).len(), 160);
}

#[test]
fn a_segment_that_is_missing_or_unreadable_is_noticed() {
    for (newest, removed) in [(false, true), (false, false), (true, false)] {
        let (disk, bench, batches) = sealed_segments();
        let path = if newest { &batches.last().unwrap().path } else { &batches[0].path };
        if removed {
            disk.remove(path).unwrap();
        } else {
            disk.zero(path, 0, u64::from(DATA_START)).unwrap();
        }
        let bench = bench.reopen();
        // Streams of which nothing is left may be among the lost, and so may any other.
        for stream in [A, B, C, NEW] {
            assert!(matches!(bench.log.state(stream), Err(StorageError::Damaged { .. })), "{stream}");
        }
        assert!(bench.report.lost.is_some() && bench.report.damaged.len() == bench.log.streams().len());
    }
}

fn copy(disk: &MemDisk) -> MemDisk {
    let copied = MemDisk::new();
    copied.create_dir("log").unwrap();
    for name in disk.list("log").unwrap() {
        let path = format!("log/{name}");
        let file = disk.open(&path, false).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        let file = copied.open(&path, true).unwrap();
        file.write_at(&bytes, 0).unwrap();
        file.sync_data().unwrap();
    }
    copied.sync_dir("log").unwrap();
    copied.sync_dir("").unwrap();
    copied
}

#[test]
fn whatever_rots_no_stream_is_silently_wrong() {
    let (disk, mut bench, _) = sealed_segments();
    // Some life behind it: moved and truncated records, bounds, a tombstone, an unsealed segment.
    bench.put(vec![purge(A, 90), vote(A, "a"), filler(NEW, 1, 3, 50)]);
    bench.put(vec![LogOp::TruncateAfter { stream: A, last: Some(150) }, LogOp::Tombstone { stream: NEW }]);
    bench.put(vec![filler(A, 151, 3, 300), filler(B, 3, 3, 1000)]);
    assert!(bench.committer.mark());
    let log = &bench.log;
    let expect = [A, B, C, NEW].map(|stream| (stream, log.state(stream).unwrap(), bench.held(stream)));
    let regions: Vec<_> = batches(&disk);
    let mut chance = SeededChance::new(7);
    let (mut found, mut harmless) = (0, 0);
    for round in 0..400 {
        let disk = copy(&disk);
        let at = &regions[chance.below(regions.len() as u64) as usize];
        let footer = u64::from(bench.config.segment_bytes);
        let (offset, what) = match chance.below(8) {
            0 => (chance.below(u64::from(DATA_START)), "a header"),
            1 => (footer + chance.below(400), "a footer"),
            2 => (at.offset + chance.below(BATCH_HEADER_BYTES as u64 + 40), "the front of a batch"),
            _ => (at.offset + chance.below(at.len), "a batch"),
        };
        let blocks = chance.below(5) == 0;
        let damage = match blocks {
            true => disk.zero(&at.path, offset / 4096 * 4096, 4096),
            false => disk.flip_bit(&at.path, offset, chance.below(8) as u8),
        };
        if damage.is_err() {
            continue;
        }
        let context = format!("round {round}: {what} at {offset} of {}, a whole block: {blocks}", at.path);
        let (log, _committer, _) = SegmentedLog::open(Arc::new(disk), bench.config.clone()).expect(&context);
        let mut hit = false;
        for (stream, state, held) in &expect {
            match log.state(*stream) {
                Ok(mut seen) => {
                    seen.committed = state.committed.clone();
                    assert_eq!(&seen, state, "{context}");
                }
                Err(StorageError::Damaged { .. }) => hit = true,
                Err(error) => panic!("{context}: {error}"),
            }
            match log.read(*stream, 0..u64::MAX, usize::MAX) {
                Ok(seen) => assert_eq!(&seen, held, "{context}"),
                Err(StorageError::Damaged { .. }) => hit = true,
                Err(error) => panic!("{context}: {error}"),
            }
        }
        *(if hit { &mut found } else { &mut harmless }) += 1;
    }
    assert!(found > 50 && harmless > 50, "{found} found, {harmless} harmless");
}
