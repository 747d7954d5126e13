//! A blob that is being written: a temporary file, and the hash so far.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{BlobDigest, BlobError, BlobInfo, BlobResult, BlobStore, Known};
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
    reserved: u64,
    now: Duration,
}

impl BlobWriter {
    pub(super) fn open(store: Arc<BlobStore>, path: String, now: Duration) -> BlobResult<Self> {
        let opened = store.disk.open(&path, true);
        let file = opened.map_err(|error| BlobError::io(format!("making {path}"), error))?;
        Ok(Self { store, path, file: Some(file), hasher: blake3::Hasher::new(), bytes: 0, reserved: 0, now })
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds to its end. After an error the writer is of no use any more.
    pub fn append(&mut self, piece: &[u8]) -> BlobResult<()> {
        let after = self.bytes + piece.len() as u64;
        if after > self.store.limits.one_bytes {
            return Err(BlobError::TooLarge { limit: self.store.limits.one_bytes });
        }
        if after > self.reserved {
            // The last step of a blob that is nearly as large as all may be has to fit, too.
            let steps = after.next_multiple_of(STEP_BYTES).min(self.store.limits.one_bytes);
            self.store.reserve(steps - self.reserved)?;
            self.reserved = steps;
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
        self.bytes = after;
        Ok(())
    }

    /// Makes it durable and gives it its name. The same bytes again are the same blob. `expected`: a blob with another digest is not kept,
    /// and there is none.
    pub fn finish(mut self, expected: Option<BlobDigest>, now: Duration) -> BlobResult<Option<BlobInfo>> {
        self.now = now;
        let digest = BlobDigest(*self.hasher.finalize().as_bytes());
        if expected.is_some_and(|expected| expected != digest) {
            return Ok(None);
        }
        let info = BlobInfo { digest, bytes: self.bytes };
        if let Some(known) = self.store.state.lock().known.get_mut(&digest) {
            known.used = known.used.max(now);
            return Ok(Some(info));
        }
        let Some(file) = self.file.take() else { return Ok(None) };
        let saved = file.sync_data().and_then(|()| {
            let path = self.store.path(digest);
            self.store.disk.rename(&self.path, &path)?;
            self.store.disk.sync_dir(&self.store.dir)
        });
        if let Err(error) = saved {
            // Under whichever name it is now: it does not count, unless somebody else has written the same.
            if !self.store.state.lock().known.contains_key(&digest) {
                let _ = self.store.disk.remove(&self.store.path(digest));
            }
            self.file = Some(file);
            return Err(BlobError::io(format!("saving blob {digest}"), error));
        }
        let known = Known { bytes: self.bytes, used: now, readers: Arc::new(()) };
        let mut state = self.store.state.lock();
        state.reserved -= std::mem::take(&mut self.reserved);
        state.known.entry(digest).or_insert(known);
        drop(state);
        Ok(Some(info))
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        self.store.state.lock().reserved -= self.reserved;
        if self.file.take().is_some()
            && let Err(error) = self.store.disk.remove(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(path = self.path, %error, "a temporary file is left until the next start");
        }
    }
}
