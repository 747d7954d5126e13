//! Opening a log: what the segment files hold becomes the index and the state of every stream.
//!
//! Sealed segments are read by their footers, the unsealed ones batch by batch. Of the sealed, only the records that count
//! for themselves (votes, bounds, what was lost) are read and checked here; entries are checked whenever they are read.
//! Nothing is written but the last batch of the unsealed segment, with the bytes it has (see [`make_durable`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use crossbeam::channel::Receiver;
use parking_lot::{Condvar, Mutex};

use super::super::{StreamId, StreamState};
use super::batch::LastBatch;
use super::bloom::Bloom;
use super::committer::{Active, Resume};
use super::config::LogConfig;
use super::files::Files;
use super::footer::FooterBuilder;
use super::format::Location;
use super::index::StreamIndex;
use super::record::{Item, Kind, lost_of, manifest_of, marker_of};
use super::scan::{Rot, Scan, Successor, previous_of_first, scan};
use super::segment::Segment;
use super::shared::{Damage, Lost, Message, Queue, Seal, SegmentState, Shared, State, Stream};
use crate::disk::Disk;
use crate::{StorageError, StorageResult};

/// What opening a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Segments with live records, and how many of them had no footer and were read whole.
    pub segments: usize,
    pub scanned_segments: usize,
    /// Streams in use, and entries that they hold.
    pub streams: usize,
    pub entries: u64,
    /// File and offset of a batch that a crash tore before it was acknowledged; it was cut off.
    pub torn_tail: Option<(String, u64)>,
    /// Streams with damage in what was acknowledged. Each has to be given up: it takes no operation but a tombstone.
    pub damaged: Vec<(StreamId, Damage)>,
    /// Acknowledged records are gone, of streams that are known only by a filter (all that it names are in `damaged`). A new
    /// stream that it names is refused too; another replica id will be taken.
    pub lost: Option<Damage>,
}

/// The parts of an opened log.
pub(super) struct Recovered {
    pub(super) shared: Arc<Shared>,
    pub(super) resume: Resume,
    pub(super) receiver: Receiver<Message>,
    pub(super) report: RecoveryReport,
}

/// What one segment holds.
struct Loaded {
    segment: Arc<Segment>,
    items: Vec<Item>,
    last: Option<LastBatch>,
    /// There if it was read batch by batch.
    scan: Option<ScanEnd>,
}

struct ScanEnd {
    tail: u32,
    rot: Vec<Rot>,
    torn: Option<u32>,
}

impl Loaded {
    fn new(segment: Arc<Segment>, successor: Successor) -> StorageResult<Self> {
        if let Some((last, items)) = segment.read_footer()? {
            return Ok(Self { segment, items, last, scan: None });
        }
        let Scan { items, tail, last, rot, torn, .. } = scan(&segment, successor)?;
        Ok(Self { segment, items, last, scan: Some(ScanEnd { tail, rot, torn }) })
    }
}

/// Damage found so far.
#[derive(Default)]
struct Found {
    lost: Option<(Bloom, Damage)>,
    /// Records whose payload is damaged.
    rotten: Vec<(Item, Damage)>,
}

impl Found {
    fn lose(&mut self, streams: &Bloom, damage: Damage) {
        if *streams != Bloom::EMPTY {
            self.lost.get_or_insert((Bloom::EMPTY, damage)).0.union(streams);
        }
    }

    fn add(&mut self, segment: &Segment, rot: &[Rot]) {
        for rot in rot {
            let detail = if rot.record.is_some() { "a record is damaged" } else { "a batch is damaged" };
            let damage = Damage {
                file: segment.path.clone(),
                offset: rot.offset.into(),
                detail: format!("{detail}, though the log went on behind it"),
            };
            self.lose(&rot.lost, damage.clone());
            self.rotten.extend(rot.record.map(|item| (item, damage)));
        }
    }
}

pub(super) fn recover(disk: Arc<dyn Disk>, config: LogConfig) -> StorageResult<Recovered> {
    config.check()?;
    let mut files = Files::open(&*disk, &config)?;
    let mut found = Found::default();
    for path in &files.rotten {
        let detail = "both copies of a segment's header are damaged".to_owned();
        found.lose(&Bloom::ALL, Damage { file: path.clone(), offset: 0, detail });
    }
    let mut state = State::default();
    let mut report = RecoveryReport::default();
    let resume = load(&mut files, &mut state, &mut found, &mut report)?;
    if state.segments.len() > config.max_segments {
        let (held, limit) = (state.segments.len(), config.max_segments);
        return Err(StorageError::Invalid(format!(
            "log configuration: the log has {held} segments, max_segments is {limit}"
        )));
    }
    state.work.free = files.free;
    state.work.next_epoch = files.next_epoch;
    state.work.next_file = files.next_file;
    settle_lost(&mut state, found.lost.take())?;
    build_streams(&mut state, &found.rotten, &mut report)?;

    // One place more than there can be submits, for a nudge.
    let (sender, receiver) = crossbeam::channel::bounded(config.max_queued_submits + 1);
    state.queue = Queue { sender: Some(sender), ..Queue::default() };
    state.work.wanted = true;
    report.lost = state.lost.as_ref().map(|lost| lost.damage.clone());
    let shared = Shared {
        disk,
        config,
        state: Mutex::new(state),
        maintenance_wanted: Condvar::new(),
        wake_maintenance: OnceLock::new(),
    };
    Ok(Recovered { shared: Arc::new(shared), resume, receiver, report })
}

/// Reads the live segments and folds them, oldest first, holding the items of two at a time. The newest is read before all
/// others, since it says which ones those are.
fn load(
    files: &mut Files,
    state: &mut State,
    found: &mut Found,
    report: &mut RecoveryReport,
) -> StorageResult<Resume> {
    let Some(newest) = files.take_newest()? else { return Ok(Resume { active: None, last: None }) };
    let newest = Loaded::new(newest, Successor::None)?;
    let mut live = files.take_below(newest.segment.epoch);
    if let Some(expected) = expected_epochs(&newest)? {
        let missing = expected.iter().find(|epoch| !live.contains_key(epoch));
        if let Some(epoch) = missing {
            let detail = format!("the segment of epoch {epoch} is missing");
            found.lose(&Bloom::ALL, Damage { file: newest.segment.path.clone(), offset: 0, detail });
        }
        // What is not expected was dropped, and not yet used again. Without a manifest all are read: what was dropped has
        // only dead records, so it changes nothing.
        let dropped: Vec<u32> = live.keys().filter(|epoch| !expected.contains(epoch)).copied().collect();
        for epoch in dropped {
            files.free.extend(live.remove(&epoch));
        }
    }
    let mut older = live.into_values().peekable();
    while let Some(segment) = older.next() {
        let next = older.peek().unwrap_or(&newest.segment);
        let successor = match previous_of_first(next)? {
            Some(previous) if previous.position.epoch == segment.epoch => Successor::Known(previous),
            _ => Successor::Unknown,
        };
        let loaded = Loaded::new(segment, successor)?;
        fold(state, found, report, &loaded);
        if loaded.scan.is_some() {
            state.work.to_seal.push_back(seal(loaded));
        }
    }
    fold(state, found, report, &newest);
    resume(state, newest, report)
}

/// The epochs live beside the newest segment, by its manifest and what was dropped since; `None` if that is unreadable.
fn expected_epochs(newest: &Loaded) -> StorageResult<Option<BTreeSet<u32>>> {
    let Some(manifest) = newest.items.iter().find(|item| item.kind == Kind::Manifest) else {
        return Ok(None);
    };
    let epochs = match read(&newest.segment, manifest.location)? {
        Ok(payload) => manifest_of(&payload),
        Err(_) => None,
    };
    Ok(epochs.map(|epochs| {
        let dropped: BTreeSet<u64> =
            newest.items.iter().filter(|item| item.kind == Kind::Reclaim).map(|item| item.index).collect();
        epochs.into_iter().filter(|epoch| !dropped.contains(&u64::from(*epoch))).collect()
    }))
}

/// The payload at a location, or why it is damaged.
fn read(segment: &Segment, location: Location) -> StorageResult<Result<Bytes, Damage>> {
    match segment.read_record(location) {
        Ok((_, payload)) => Ok(Ok(payload)),
        Err(StorageError::Damaged { file, offset, detail }) => Ok(Err(Damage { file, offset, detail })),
        Err(error) => Err(error),
    }
}

/// Takes a segment into the index.
fn fold(state: &mut State, found: &mut Found, report: &mut RecoveryReport, loaded: &Loaded) {
    let Loaded { segment, items, scan, .. } = loaded;
    state.index.add_segment(segment.epoch);
    items.iter().for_each(|item| state.index.apply(item));
    let status = SegmentState {
        segment: segment.clone(),
        sealed: scan.is_none(),
        rewrite_failed: false,
        reclaiming: false,
    };
    state.segments.insert(segment.epoch, status);
    report.segments += 1;
    if let Some(scan) = scan {
        report.scanned_segments += 1;
        found.add(segment, &scan.rot);
    }
}

/// Maintenance writes the footer, once what was lost is on record.
fn seal(loaded: Loaded) -> Seal {
    let Loaded { segment, items, last, .. } = loaded;
    Seal { segment, footer: footer_of(&items), last }
}

fn footer_of(items: &[Item]) -> FooterBuilder {
    let mut footer = FooterBuilder::default();
    items.iter().for_each(|item| footer.add(item));
    footer
}

/// Decides whether the newest segment is written on.
fn resume(state: &mut State, newest: Loaded, report: &mut RecoveryReport) -> StorageResult<Resume> {
    let last = newest.last;
    let mut resume = Resume { active: None, last };
    match (&newest.scan, last) {
        (None, _) => {}
        (Some(end), Some(last)) => {
            let segment = newest.segment.clone();
            report.torn_tail = end.torn.map(|offset| (segment.path.clone(), offset.into()));
            make_durable(&segment, last.as_previous.position.offset, end.tail)?;
            resume.active = Some(Active { segment, tail: end.tail, footer: footer_of(&newest.items) });
        }
        // Its last batch is rotten: there is nothing to go on from.
        (Some(_), None) => state.work.to_seal.push_back(seal(newest)),
    }
    Ok(resume)
}

/// Makes the last batch durable, which may be in the page cache only: the process, not the machine, may have died. It is
/// written again with the bytes it has, since after a failed sync the kernel takes pages that never reached the disk for
/// clean (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020).
fn make_durable(segment: &Segment, from: u32, to: u32) -> StorageResult<()> {
    let mut bytes = vec![0; (to - from) as usize];
    segment.read(&mut bytes, from)?;
    let failed = |error| StorageError::io(format!("making the end of {} durable", segment.path), error);
    segment.file.write_at(&bytes, from.into()).map_err(failed)?;
    segment.file.sync_data().map_err(failed)
}

/// Joins what is lost by the record of it with what was found lost now.
fn settle_lost(state: &mut State, found: Option<(Bloom, Damage)>) -> StorageResult<()> {
    let recorded = match state.index.lost() {
        None => None,
        Some(location) => {
            let segment = &state.segments[&location.epoch].segment;
            let streams = match read(segment, location)? {
                Ok(payload) => lost_of(&payload),
                Err(_) => None,
            };
            let detail = "records were lost here, or before, to damage found at an earlier start".to_owned();
            let damage = Damage { file: segment.path.clone(), offset: location.offset.into(), detail };
            Some((streams.unwrap_or(Bloom::ALL), damage))
        }
    };
    state.lost = match (recorded, found) {
        (None, None) => None,
        (Some((streams, damage)), None) => Some(Lost { streams, damage, recorded: true }),
        (None, Some((streams, damage))) => Some(Lost { streams, damage, recorded: false }),
        (Some((mut streams, _)), Some((more, damage))) => {
            let recorded = more.is_within(&streams);
            streams.union(&more);
            Some(Lost { streams, damage, recorded })
        }
    };
    Ok(())
}

/// The state of every stream, by the index.
fn build_streams(
    state: &mut State,
    rotten: &[(Item, Damage)],
    report: &mut RecoveryReport,
) -> StorageResult<()> {
    let mut streams: BTreeMap<StreamId, Stream> = BTreeMap::new();
    for id in state.index.tombstones() {
        let buried = StreamState { tombstoned: true, ..StreamState::default() };
        streams.insert(id, Stream { state: buried, ..Stream::default() });
    }
    for (id, held) in state.index.streams() {
        let mut damage = None;
        let found = stream_state(&state.segments, held, &mut damage)?;
        let live_rot = rotten.iter().find(|(item, _)| item.stream == id && state.index.is_live(item));
        if let Some((_, rot)) = live_rot.filter(|(item, _)| item.kind != Kind::Committed) {
            damage = Some(rot.clone());
        }
        if let Some(lost) = state.lost.as_ref().filter(|lost| lost.streams.may_contain(id)) {
            damage = Some(lost.damage.clone());
        }
        report.streams += 1;
        report.entries += found.held().map_or(0, |held| held.end() - held.start() + 1);
        report.damaged.extend(damage.clone().map(|damage| (id, damage)));
        streams.insert(id, Stream { state: found, damaged: damage, ..Stream::default() });
    }
    state.streams = streams;
    Ok(())
}

fn stream_state(
    segments: &BTreeMap<u32, SegmentState>,
    held: &StreamIndex,
    damage: &mut Option<Damage>,
) -> StorageResult<StreamState> {
    let mut payload = |location: Location, matters: bool| -> StorageResult<Option<Bytes>> {
        Ok(match read(&segments[&location.epoch].segment, location)? {
            Ok(payload) => Some(payload),
            Err(found) => {
                if matters {
                    damage.get_or_insert(found);
                }
                None
            }
        })
    };
    let vote = held.vote.map(|location| payload(location, true)).transpose()?.flatten();
    // A committed position is a hint: a lost one is one that was never saved.
    let committed = held.committed.map(|location| payload(location, false)).transpose()?.flatten();
    let bounds = held.bounds;
    let marker = match bounds {
        Some((bounds, location)) if bounds.purged.is_some() => payload(location, true)?,
        _ => None,
    };
    let purged = bounds.and_then(|(bounds, _)| bounds.purged).map(|index| {
        let marker = marker.as_ref().map(|payload| payload.slice_ref(marker_of(payload)));
        (index, marker.unwrap_or_default())
    });
    let (first, last) = (held.entries.first(), held.entries.last());
    // What the index should hold and does not can only have gone with rot, or by a bug of the log. After the latest bounds
    // entries were only appended.
    let whole = match bounds.and_then(|(bounds, _)| bounds.held) {
        Some((from, to)) => first == Some(from) && last >= Some(to),
        None => first.is_none() || purged.as_ref().is_none_or(|(purged, _)| first == Some(purged + 1)),
    };
    if !(whole && held.entries.is_whole()) {
        let (file, offset) = bounds.map_or((String::new(), 0), |(_, location)| {
            (segments[&location.epoch].segment.path.clone(), location.offset.into())
        });
        damage.get_or_insert(Damage { file, offset, detail: "entries of the stream are missing".to_owned() });
    }
    Ok(StreamState { purged, first, last, vote, committed, tombstoned: false })
}
