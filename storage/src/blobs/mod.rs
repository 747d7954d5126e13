//! Large payloads as files that are named by their blake3: written once, in pieces, read in pieces, dropped when nobody has used them for
//! long.
//!
//! A blob has its name only when it is whole and durable (temporary, sync, rename, sync of the folder), so a crash in the middle leaves nothing
//! to be seen. Room is limited: the one that was used longest ago goes first, of those that nothing needs ([`BlobNeeds`]). Holds what can be sent
//! again; what nothing else has must be on other nodes too before anything names it. Must never: drop a blob that is being read, hold one in
//! memory whole, or know a clock: whoever calls says what time it is.

pub mod conformance;
mod room;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::Disk;
use crate::disk::{DiskFile, make_dir};

pub use room::{BlobNeeds, BlobRoom, DiskFloor};
pub use writer::BlobWriter;

const SUFFIX: &str = ".blob";
const TEMPORARY: &str = ".blob.tmp";
/// Bytes that are read at a time to check a blob.
const CHECKED_BYTES: usize = 256 << 10;

/// Result of every access to blobs.
pub type BlobResult<T> = Result<T, BlobError>;

/// Why an access to blobs failed. Nothing that was there before is lost by it.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// Do not try again with the same bytes.
    #[error("it has {bytes} bytes or more, and the limit is {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    /// All that is there is in use or needed. Try again later.
    #[error("{limit} bytes are kept at most, and all that is kept is in use or needed")]
    Full { limit: u64 },
    /// The disk would be left with less than its floor. Try again when there is more.
    #[error("the disk has {free} bytes left, and {floor} of them are not for blobs")]
    NoSpace { free: u64, floor: u64 },
    #[error("{context}: {source}")]
    Io { context: String, source: io::Error },
}

impl BlobError {
    fn io(context: impl Into<String>, source: io::Error) -> Self {
        Self::Io { context: context.into(), source }
    }

    /// Whether other needs ([`BlobStore::set_needs`]) may make it succeed.
    pub fn is_want_of_room(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::NoSpace { .. })
    }
}

/// The blake3 of a blob's bytes, by which it is known. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobDigest(pub [u8; 32]);

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for BlobDigest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_plain = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match blake3::Hash::from_hex(text) {
            Ok(hash) if is_plain => Ok(Self(*hash.as_bytes())),
            _ => Err(format!("{text:?} is not a digest: 64 hexadecimal digits in lower case")),
        }
    }
}

/// How much is kept, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobLimits {
    /// Most bytes of one.
    pub one_bytes: u64,
    /// Most bytes of all, those included that are being written.
    pub all_bytes: u64,
    /// How long one is kept after its last use.
    pub keep: Duration,
    /// How long after somebody was told that one is here what is to name it may be on its way.
    pub settle: Duration,
    /// What of the disk is not for blobs.
    pub floor: DiskFloor,
}

/// A blob that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    pub digest: BlobDigest,
    pub bytes: u64,
}

#[derive(Debug)]
struct Known {
    bytes: u64,
    used: Duration,
    /// When somebody was told that it is here, who may be about to name it.
    claimed: Option<Duration>,
    /// One beside the store's own for each that reads it.
    readers: Arc<()>,
}

impl Known {
    fn is_read(&self) -> bool {
        Arc::strong_count(&self.readers) > 1
    }
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<BlobDigest, Known>,
    /// Room that blobs have taken which are being written, and what of it is not on the disk yet.
    reserved: u64,
    unwritten: u64,
    /// None until somebody has said what is needed.
    needs: Option<BlobNeeds>,
    next_temporary: u64,
}

impl State {
    fn bytes(&self) -> u64 {
        self.reserved + self.known.values().map(|known| known.bytes).sum::<u64>()
    }
}

/// See the module's docs. One per folder. Calls block.
#[derive(Debug)]
pub struct BlobStore {
    disk: Arc<dyn Disk>,
    dir: String,
    limits: BlobLimits,
    /// Held while a name is given or taken away and noted, so that a file and what is known of it do not part. Taken before `state`.
    naming: Mutex<()>,
    state: Mutex<State>,
}

impl BlobStore {
    /// Opens the blobs in a folder of the disk, made if it is missing; removes what was left of blobs that were being written. `now` is a
    /// moment of the caller's clock, as in all calls: each blob that is there counts as used then.
    pub fn open(disk: Arc<dyn Disk>, dir: &str, limits: BlobLimits, now: Duration) -> BlobResult<Self> {
        let failed = |error| BlobError::io(format!("opening the folder {dir}"), error);
        make_dir(&*disk, dir).map_err(failed)?;
        let mut known = BTreeMap::new();
        let mut is_changed = false;
        for name in disk.list(dir).map_err(failed)? {
            let path = format!("{dir}/{name}");
            if name.ends_with(TEMPORARY) {
                disk.remove(&path).map_err(failed)?;
                is_changed = true;
            } else if let Some(digest) = name.strip_suffix(SUFFIX).and_then(|name| name.parse().ok()) {
                let bytes = disk.open(&path, false).and_then(|file| file.len()).map_err(failed)?;
                known.insert(digest, Known { bytes, used: now, claimed: Some(now), readers: Arc::new(()) });
            }
        }
        if is_changed {
            disk.sync_dir(dir).map_err(failed)?;
        }
        let state = Mutex::new(State { known, ..State::default() });
        Ok(Self { disk, dir: dir.to_owned(), limits, naming: Mutex::default(), state })
    }

    pub fn limits(&self) -> BlobLimits {
        self.limits
    }

    /// All that are there, by digest.
    pub fn list(&self) -> Vec<BlobInfo> {
        let state = self.state.lock();
        state.known.iter().map(|(digest, known)| BlobInfo { digest: *digest, bytes: known.bytes }).collect()
    }

    /// Begins a blob. What is not [finished](BlobWriter::finish) is removed when the writer is dropped.
    pub fn begin(self: &Arc<Self>, room: BlobRoom) -> BlobResult<BlobWriter> {
        let number = {
            let mut state = self.state.lock();
            state.next_temporary += 1;
            state.next_temporary
        };
        let path = format!("{}/{number:016x}{TEMPORARY}", self.dir);
        BlobWriter::open(Arc::clone(self), path, room)
    }

    /// The blob for reading, if it is there as long as it was. It stays until the reader is dropped.
    pub fn read(self: &Arc<Self>, digest: BlobDigest, now: Duration) -> BlobResult<Option<BlobReader>> {
        let (bytes, reading) = {
            let mut state = self.state.lock();
            let Some(known) = state.known.get_mut(&digest) else { return Ok(None) };
            known.used = known.used.max(now);
            (known.bytes, Arc::clone(&known.readers))
        };
        let failed = |error| BlobError::io(format!("opening blob {digest}"), error);
        let file = match self.disk.open(&self.path(digest), false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(%digest, "a blob's file is gone");
                self.remove(digest, &reading)?;
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let found = file.len().map_err(failed)?;
        if found != bytes {
            tracing::error!(%digest, bytes, found, "a blob has another length than before; it is removed");
            self.remove(digest, &reading)?;
            return Ok(None);
        }
        Ok(Some(BlobReader { file, bytes, digest, reading }))
    }

    /// Whether it is there, for somebody who may be about to name it: it stays for [`BlobLimits::settle`].
    pub fn claim(self: &Arc<Self>, digest: BlobDigest, now: Duration) -> BlobResult<Option<BlobInfo>> {
        let Some(reader) = self.read(digest, now)? else { return Ok(None) };
        if let Some(known) = self.state.lock().known.get_mut(&digest) {
            known.claimed = known.claimed.max(Some(now));
        }
        Ok(Some(BlobInfo { digest, bytes: reader.bytes }))
    }

    /// As [`Self::read`], once all of it has been read and has the digest. One that has not is damaged, and is removed.
    pub fn read_checked(
        self: &Arc<Self>,
        digest: BlobDigest,
        now: Duration,
    ) -> BlobResult<Option<BlobReader>> {
        let Some(reader) = self.read(digest, now)? else { return Ok(None) };
        let (mut hasher, mut offset) = (blake3::Hasher::new(), 0);
        while offset < reader.bytes {
            let piece = reader.piece(offset, CHECKED_BYTES)?;
            if piece.is_empty() {
                break;
            }
            hasher.update(&piece);
            offset += piece.len() as u64;
        }
        if *hasher.finalize().as_bytes() == digest.0 {
            return Ok(Some(reader));
        }
        tracing::error!(%digest, "a blob is damaged; it is removed");
        self.remove(digest, &reader.reading)?;
        Ok(None)
    }

    /// Removes a blob, whoever reads it: who has it open reads on. Unless it was written anew since `found` was read off what is known.
    fn remove(&self, digest: BlobDigest, found: &Arc<()>) -> BlobResult<()> {
        let _turn = self.naming.lock();
        let mut state = self.state.lock();
        match state.known.get(&digest).is_some_and(|known| Arc::ptr_eq(&known.readers, found)) {
            true => self.remove_locked(&mut state, digest),
            false => Ok(()),
        }
    }

    /// `naming` is held, too.
    fn remove_locked(&self, state: &mut State, digest: BlobDigest) -> BlobResult<()> {
        let removed = match self.disk.remove(&self.path(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        // A name that is not durably gone is found again at the next start: no harm is done by that.
        removed.map_err(|error| BlobError::io(format!("removing blob {digest}"), error))?;
        state.known.remove(&digest);
        Ok(())
    }

    fn path(&self, digest: BlobDigest) -> String {
        format!("{}/{digest}{SUFFIX}", self.dir)
    }
}

/// A blob that is being read. It is not dropped meanwhile.
#[derive(Debug, Clone)]
pub struct BlobReader {
    file: Arc<dyn DiskFile>,
    bytes: u64,
    digest: BlobDigest,
    reading: Arc<()>,
}

impl BlobReader {
    /// How long it is.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Up to `most` bytes at `offset`; fewer at its end only.
    pub fn piece(&self, offset: u64, most: usize) -> BlobResult<Bytes> {
        let left = self.bytes.saturating_sub(offset).min(most as u64);
        let mut piece = vec![0; left as usize];
        let read = self.file.read_at(&mut piece, offset);
        let read = read.map_err(|error| BlobError::io(format!("reading blob {}", self.digest), error))?;
        piece.truncate(read);
        Ok(piece.into())
    }
}
