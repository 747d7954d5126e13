//! A blob that is being written: a temporary file, and the hash so far.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{BlobDigest, BlobError, BlobInfo, BlobResult, BlobRoom, BlobStore, Known, State};
use crate::disk::DiskFile;

/// Room is taken in steps of so many bytes: a blob of many small pieces does not look for room at each.
const STEP_BYTES: u64 = 1 << 20;
/// What is written is made durable in steps of so much.
const SYNC_BYTES: u64 = 16 << 20;

/// See the module's docs.
#[derive(Debug)]
pub struct BlobWriter {
    store: Arc<BlobStore>,
    path: String,
    /// None once it is finished.
    file: Option<Arc<dyn DiskFile>>,
    hasher: blake3::Hasher,
    bytes: u64,
    /// Room that it has taken; never less than it has bytes.
    reserved: u64,
    spare_bytes: u64,
    is_claimed: bool,
}

impl BlobWriter {
    pub(super) fn open(store: Arc<BlobStore>, path: String, room: BlobRoom) -> BlobResult<Self> {
        let BlobRoom { bytes, spare_bytes, is_claimed } = room;
        let hasher = blake3::Hasher::new();
        let mut writer =
            Self { store, path, file: None, hasher, bytes: 0, reserved: 0, spare_bytes, is_claimed };
        writer.take_room(bytes.unwrap_or(0))?;
        let opened = writer.store.disk.open(&writer.path, true);
        writer.file = Some(opened.map_err(|error| BlobError::io(format!("making {}", writer.path), error))?);
        Ok(writer)
    }

    /// Room for so many bytes in all.
    fn take_room(&mut self, bytes: u64) -> BlobResult<()> {
        let limit = self.store.limits.one_bytes;
        if bytes > limit {
            return Err(BlobError::TooLarge { bytes, limit });
        }
        if bytes > self.reserved {
            self.store.reserve(bytes - self.reserved, self.spare_bytes)?;
            self.reserved = bytes;
        }
        Ok(())
    }

    /// What was taken and is not needed any more.
    fn leave_room(&mut self, state: &mut State) {
        state.unwritten -= self.reserved - self.bytes;
        state.reserved -= std::mem::take(&mut self.reserved);
        self.bytes = 0;
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds to its end. It may be tried again if there was no room ([`BlobError::is_want_of_room`]); after another error the writer is of no use any
    /// more.
    pub fn append(&mut self, piece: &[u8]) -> BlobResult<()> {
        let after = self.bytes + piece.len() as u64;
        if after > self.reserved {
            // The last step of a blob that is nearly as large as all may be has to fit, too.
            let steps = after.next_multiple_of(STEP_BYTES).min(self.store.limits.one_bytes);
            self.take_room(steps.max(after))?;
        }
        let Some(file) = &self.file else {
            let closed = io::Error::other("it is finished");
            return Err(BlobError::io(format!("writing {}", self.path), closed));
        };
        let written = file.write_at(piece, self.bytes);
        written.map_err(|error| BlobError::io(format!("writing {}", self.path), error))?;
        self.hasher.update(piece);
        // A little at a time: one large sync at the end would hold up the log's, on the same disk.
        if after / SYNC_BYTES > self.bytes / SYNC_BYTES {
            let synced = file.sync_data();
            synced.map_err(|error| BlobError::io(format!("writing {}", self.path), error))?;
        }
        self.store.state.lock().unwritten -= piece.len() as u64;
        self.bytes = after;
        Ok(())
    }

    /// Makes it durable and gives it its name. The same bytes again are the same blob, and take its place: it may be damaged. `expected`: a blob with
    /// another digest is not kept, and there is none.
    pub fn finish(mut self, expected: Option<BlobDigest>, now: Duration) -> BlobResult<Option<BlobInfo>> {
        let digest = BlobDigest(*self.hasher.finalize().as_bytes());
        if expected.is_some_and(|expected| expected != digest) {
            return Ok(None);
        }
        let info = BlobInfo { digest, bytes: self.bytes };
        let failed = |error| BlobError::io(format!("saving blob {digest}"), error);
        let Some(file) = &self.file else { return Ok(None) };
        file.sync_data().map_err(failed)?;
        let store = Arc::clone(&self.store);
        let _turn = store.naming.lock();
        let named =
            store.disk.rename(&self.path, &store.path(digest)).and_then(|()| store.disk.sync_dir(&store.dir));
        let mut state = store.state.lock();
        if let Err(error) = named {
            // It does not count, under whichever name it is now; unless the same was there before, whose bytes these are, too.
            if !state.known.contains_key(&digest) {
                let _ = store.disk.remove(&store.path(digest));
            }
            return Err(failed(error));
        }
        self.file = None;
        self.leave_room(&mut state);
        let claimed = state.known.get(&digest).and_then(|known| known.claimed);
        let claimed = claimed.max(self.is_claimed.then_some(now));
        let known = Known { bytes: info.bytes, used: now, claimed, readers: Arc::new(()) };
        state.known.insert(digest, known);
        Ok(Some(info))
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        let store = Arc::clone(&self.store);
        self.leave_room(&mut store.state.lock());
        if self.file.take().is_some()
            && let Err(error) = store.disk.remove(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = self.path, %error, "a temporary file is left until the next start");
        }
    }
}
