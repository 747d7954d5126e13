//! The segment files of a folder, as found when a log is opened, sorted into what they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::config::LogConfig;
use super::format::FORMAT_VERSION;
use super::maintenance::{segment_number, segment_path};
use super::scan::is_begun;
use super::segment::{Front, Segment, read_front};
use crate::disk::{Disk, make_dir};
use crate::{StorageError, StorageResult};

/// Files whose use is still to be found out, and those that have none.
#[derive(Debug, Default)]
pub(super) struct Files {
    segments: BTreeMap<u32, Arc<Segment>>,
    /// To be used anew.
    pub(super) free: Vec<Arc<Segment>>,
    /// Paths of files that were once begun and whose header is unreadable.
    pub(super) rotten: Vec<String>,
    pub(super) next_epoch: u32,
    pub(super) next_file: u64,
}

impl Files {
    /// Reads the folder, made if it is missing. Removes files that a crash left half made.
    pub(super) fn open(disk: &dyn Disk, config: &LogConfig) -> StorageResult<Self> {
        let dir = &config.dir;
        make_dir(disk, dir).map_err(|error| StorageError::io(format!("making the folder {dir}"), error))?;
        let failed = |doing: &str, path: &str| {
            let context = format!("{doing} {path}");
            move |error| StorageError::io(context, error)
        };
        let mut files = Self { next_epoch: 1, ..Self::default() };
        let names = disk.list(dir).map_err(failed("listing", dir))?;
        let mut removed = false;
        for number in names.iter().filter_map(|name| segment_number(name)) {
            let path = segment_path(dir, number);
            files.next_file = files.next_file.max(number + 1);
            let file = disk.open(&path, false).map_err(failed("opening", &path))?;
            match read_front(&*file).map_err(failed("reading", &path))? {
                Front::Newer(found) => {
                    return Err(StorageError::Newer { file: path, found, supported: FORMAT_VERSION });
                }
                Front::Blank => {
                    disk.remove(&path).map_err(failed("removing", &path))?;
                    removed = true;
                }
                Front::Rotten => files.rotten.push(path),
                Front::Valid(header) => {
                    files.next_epoch = files.next_epoch.max(header.epoch.saturating_add(1));
                    let bytes = header.segment_bytes;
                    let segment = Segment { epoch: header.epoch, path, bytes, file };
                    if let Some(twin) = files.segments.insert(header.epoch, Arc::new(segment)) {
                        let detail = format!("another file has the same epoch {}", header.epoch);
                        return Err(StorageError::Damaged { file: twin.path.clone(), offset: 0, detail });
                    }
                }
            }
        }
        if removed {
            disk.sync_dir(dir).map_err(failed("syncing", dir))?;
        }
        Ok(files)
    }

    /// The segment that was written last. Those after it were only prepared: they become free, since it is not known whether
    /// their headers are durable.
    pub(super) fn take_newest(&mut self) -> StorageResult<Option<Arc<Segment>>> {
        while let Some((_, segment)) = self.segments.pop_last() {
            if is_begun(&segment)? {
                return Ok(Some(segment));
            }
            self.free.push(segment);
        }
        Ok(None)
    }

    /// All others, which are older.
    pub(super) fn take_below(&mut self, epoch: u32) -> BTreeMap<u32, Arc<Segment>> {
        let older = std::mem::take(&mut self.segments);
        assert!(older.keys().all(|older| *older < epoch), "the newest was taken first");
        older
    }
}
