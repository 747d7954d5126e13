//! Snapshot files: checksummed, written whole, durable before they are named.
//!
//! One file a snapshot, named by stream and a growing number. A save writes a temporary file, syncs it, renames it, syncs
//! the folder, and only then removes older ones: at every moment, also after a crash, the newest complete snapshot is
//! there. Must never: return bytes whose hash was not checked, or remove a snapshot before a newer one is durable.
//! The format is in `storage/FORMAT.md`.

pub mod conformance;
mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::{Disk, make_dir};
use crate::{StorageError, StorageResult, StreamId};

pub use file::{MAX_SNAPSHOT_DATA_BYTES, MAX_SNAPSHOT_META_BYTES};

const SUFFIX: &str = ".snapshot";
const TEMPORARY: &str = ".snapshot.tmp";

/// The snapshots of a node's streams, in one folder. Calls block on the disk; one at a time changes the folder.
#[derive(Debug)]
pub struct SnapshotStore {
    disk: Arc<dyn Disk>,
    dir: String,
    /// The numbers of the snapshots of each stream.
    known: Mutex<BTreeMap<StreamId, Vec<u64>>>,
}

/// A snapshot that was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub stream: StreamId,
    /// Grows with each snapshot of the stream.
    pub number: u64,
    /// blake3 of stream, meta and data.
    pub hash: [u8; 32],
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// A snapshot that was read, its hash checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    pub meta: Bytes,
    pub data: Bytes,
    pub hash: [u8; 32],
    pub number: u64,
    /// Newer snapshots that are damaged. If there are any, the log may have been purged beyond this one: check before
    /// you build on it.
    pub damaged_newer: Vec<String>,
}

impl SnapshotStore {
    /// Opens the folder, made if it is missing, and removes what unfinished saves and removals left.
    pub fn new(disk: Arc<dyn Disk>, dir: &str) -> StorageResult<Self> {
        let failed = |error| StorageError::io(format!("opening the snapshots in {dir}"), error);
        make_dir(&*disk, dir).map_err(failed)?;
        let mut known: BTreeMap<StreamId, Vec<u64>> = BTreeMap::new();
        for name in disk.list(dir).map_err(failed)? {
            if name.ends_with(TEMPORARY) {
                disk.remove(&format!("{dir}/{name}")).map_err(failed)?;
            } else if let Some((stream, number)) = parse_name(&name) {
                known.entry(stream).or_default().push(number);
            }
        }
        // Also for the names found: a process that died may not have come to it, and what is loaded counts as durable.
        disk.sync_dir(dir).map_err(failed)?;
        known.values_mut().for_each(|numbers| numbers.sort_unstable());
        Ok(Self { disk, dir: dir.to_owned(), known: Mutex::new(known) })
    }

    /// Saves a snapshot, durable when this returns, and removes the stream's older ones. On an error the older ones are
    /// still there. `TooLarge` if meta or data are over their limits.
    pub fn save(&self, stream: StreamId, meta: &[u8], data: &[u8]) -> StorageResult<SnapshotInfo> {
        let (header, hash) = file::header(stream, meta, data)?;
        let mut known = self.known.lock();
        let older = known.get(&stream).cloned().unwrap_or_default();
        let number = older.last().map_or(1, |last| last + 1);
        let path = self.path(stream, number);
        let temporary = format!("{}/{}", self.dir, name(stream, number, TEMPORARY));
        let parts = [&header[..], meta, data];
        let file_bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let written = self.write(&temporary, &parts).and_then(|()| {
            self.disk.rename(&temporary, &path)?;
            self.disk.sync_dir(&self.dir)
        });
        if let Err(error) = written {
            // If the rename took place the file may or may not be durable; its number is not given out again either way.
            if self.disk.remove(&temporary).is_err() {
                known.entry(stream).or_default().push(number);
            }
            return Err(StorageError::io(format!("saving {path}"), error));
        }
        known.insert(stream, vec![number]);
        if let Err(error) = self.remove_files(stream, &older) {
            // The new one counts; the next start or save removes the old ones.
            tracing::warn!(%error, %stream, "old snapshots could not be removed");
            known.insert(stream, older.into_iter().chain([number]).collect());
        }
        Ok(SnapshotInfo { stream, number, hash, file_bytes })
    }

    /// The newest intact snapshot of a stream, or none if none was saved. `Damaged` if none of them is intact.
    pub fn load(&self, stream: StreamId) -> StorageResult<Option<SnapshotFile>> {
        let numbers = self.known.lock().get(&stream).cloned().unwrap_or_default();
        let mut damaged_newer = Vec::new();
        let mut newest_error = None;
        for number in numbers.into_iter().rev() {
            let path = self.path(stream, number);
            match self.read(stream, &path) {
                Ok((meta, data, hash)) => {
                    return Ok(Some(SnapshotFile { meta, data, hash, number, damaged_newer }));
                }
                Err(error @ StorageError::Damaged { .. }) => {
                    tracing::error!(%error, %stream, "a snapshot is damaged");
                    damaged_newer.push(path);
                    newest_error.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        newest_error.map_or(Ok(None), Err)
    }

    /// Removes all snapshots of a stream, durably.
    pub fn remove(&self, stream: StreamId) -> StorageResult<()> {
        let mut known = self.known.lock();
        let Some(numbers) = known.get(&stream) else { return Ok(()) };
        self.remove_files(stream, numbers)
            .map_err(|error| StorageError::io(format!("removing the snapshots of {stream}"), error))?;
        known.remove(&stream);
        Ok(())
    }

    /// The streams that have a snapshot, sorted.
    pub fn list(&self) -> Vec<StreamId> {
        self.known.lock().keys().copied().collect()
    }

    fn path(&self, stream: StreamId, number: u64) -> String {
        format!("{}/{}", self.dir, name(stream, number, SUFFIX))
    }

    fn write(&self, path: &str, parts: &[&[u8]]) -> io::Result<()> {
        let file = self.disk.open(path, true)?;
        let mut offset = 0;
        for part in parts {
            file.write_at(part, offset)?;
            offset += part.len() as u64;
        }
        file.sync_data()
    }

    fn read(&self, stream: StreamId, path: &str) -> StorageResult<(Bytes, Bytes, [u8; 32])> {
        let failed = |error| StorageError::io(format!("reading {path}"), error);
        let damaged = |detail: &str| StorageError::Damaged {
            file: path.to_owned(),
            offset: 0,
            detail: detail.to_owned(),
        };
        let file = match self.disk.open(path, false) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(damaged("the file is missing"));
            }
            opened => opened.map_err(failed)?,
        };
        let len = file.len().map_err(failed)?;
        if len > file::MAX_FILE_BYTES {
            return Err(damaged("the file is larger than any snapshot"));
        }
        let mut bytes = vec![0; len as usize];
        let count = file.read_at(&mut bytes, 0).map_err(failed)?;
        bytes.truncate(count);
        match file::decode(stream, Bytes::from(bytes)) {
            Ok(parts) => Ok(parts),
            Err(file::Unreadable::Newer(found)) => {
                Err(StorageError::Newer { file: path.to_owned(), found, supported: file::FORMAT_VERSION })
            }
            Err(file::Unreadable::Damaged(detail)) => Err(damaged(detail)),
        }
    }

    fn remove_files(&self, stream: StreamId, numbers: &[u64]) -> io::Result<()> {
        for number in numbers {
            match self.disk.remove(&self.path(stream, *number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        if numbers.is_empty() { Ok(()) } else { self.disk.sync_dir(&self.dir) }
    }
}

fn name(stream: StreamId, number: u64, suffix: &str) -> String {
    format!("{:08x}-{:016x}-{number:016x}{suffix}", stream.group, stream.replica)
}

fn parse_name(name: &str) -> Option<(StreamId, u64)> {
    let mut parts = name.strip_suffix(SUFFIX)?.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next().filter(|part| part.len() == digits)?;
        u64::from_str_radix(part, 16).ok()
    };
    let group = u32::try_from(hex(8)?).ok()?;
    let (replica, number) = (hex(16)?, hex(16)?);
    parts.next().is_none().then_some((StreamId { group, replica }, number))
}
