//! The disk port: everything that storage asks of a file system.
//!
//! Nothing is durable before its sync, directory entries included: a created, renamed or removed name survives a
//! crash only after [`Disk::sync_dir`] of its folder returned. Paths are relative to the disk's root, with `/`.

pub mod conformance;
mod memory;
mod path;
mod real;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

pub use memory::{Chance, DiskCall, DiskHook, MemDisk, SECTOR_BYTES, SeededChance};
pub use path::MAX_PATH_BYTES;
pub use real::RealDisk;

/// A folder tree on a durable medium. Calls block; they are made from the committer thread or a blocking pool.
pub trait Disk: Send + Sync + Debug + 'static {
    /// Opens a file for reading and writing. With `create`, makes it if it is missing (not truncated).
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames a file, replacing the target if there is one. Durable after `sync_dir` of both folders.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Durable after `sync_dir`.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Names (not paths) of the files and folders in a folder, sorted. A missing folder is `NotFound`.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes a folder and its parents. No error if it exists.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Makes the entries of a folder durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// How large the medium is, and what of it can still be written.
    fn space(&self) -> io::Result<DiskSpace>;
}

/// Room on a medium, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub bytes: u64,
    /// That whoever runs this process can still fill.
    pub free_bytes: u64,
}

/// Most zeros that go to the operating system in one call.
const ZEROS_BYTES: u64 = 256 << 10;

/// An open file. Positioned reads and writes, as `pread` and `pwrite`.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `data` at `offset`, growing the file if needed.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Writes `len` zeros at `offset`, growing the file if needed, so that these bytes are allocated.
    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        // A piece at a time: a buffer as long as a whole segment would stay in the process's memory for good.
        let zeros = vec![0; len.min(ZEROS_BYTES) as usize];
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(ZEROS_BYTES);
            self.write_at(&zeros[..piece as usize], offset + done)?;
            done += piece;
        }
        Ok(())
    }
    /// Sets the length in bytes; a longer file is filled with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Makes contents and length durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;
}

/// Makes a folder and its parents, all names durable.
pub(crate) fn make_dir(disk: &dyn Disk, dir: &str) -> io::Result<()> {
    disk.create_dir(dir)?;
    disk.sync_dir("")?;
    dir.match_indices('/').try_for_each(|(slash, _)| disk.sync_dir(&dir[..slash]))
}
