//! A disk in memory that can lose power.
//!
//! Every file and folder has two images: *current*, what calls see, and *durable*, what is left when nothing unsynced
//! survived. [`MemDisk::crash`] picks a state that a real disk could be found in: each unsynced write is kept,
//! dropped or torn per [`SECTOR_BYTES`] sector, in any subset (so also reordered), and of the unsynced changes of
//! names in a folder a prefix is kept. After a crash every handle opened before fails.
//!
//! A failed sync follows Linux (fsyncgate): what it should have written stays visible, may or may not be durable,
//! and is never written by a later sync. Must never: draw on chance of its own; every choice comes from the caller.
//!
//! Cheap enough for simulations of whole fleets: zeros take no room and no time, and a crash costs what was not synced.

mod faults;
mod file;
mod image;
mod names;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use self::faults::Faults;
pub use self::faults::{DiskCall, DiskHook};
use self::file::Inode;
use self::names::{Names, Node};
use super::{Disk, DiskFile, DiskSpace, path};

/// Bytes that a disk writes whole or not at all.
pub const SECTOR_BYTES: usize = 512;
/// What a disk says it has room for if nobody has given it a capacity.
const UNLIMITED_BYTES: u64 = 1 << 50;

/// Where the choices of a crash come from. `below(n)` returns a number in `0..n`.
pub trait Chance {
    fn below(&mut self, bound: u64) -> u64;
}

impl<F: FnMut(u64) -> u64> Chance for F {
    fn below(&mut self, bound: u64) -> u64 {
        self(bound)
    }
}

/// Choices from a seed (SplitMix64, Steele et al. 2014): the same seed, the same crash.
#[derive(Debug, Clone)]
pub struct SeededChance(u64);

impl SeededChance {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::mix::mix64(self.0)
    }
}

impl Chance for SeededChance {
    fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "there is nothing to choose from");
        // The bias of the remainder is below 2^-32 for the small bounds used here.
        self.next_u64() % bound
    }
}

/// A disk in memory; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
    faults: Arc<Faults>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts crashes; a handle works only in the generation it was opened in.
    generation: u64,
    next_inode: u64,
    inodes: BTreeMap<u64, Inode>,
    names: Names,
}

impl MemDisk {
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses power: picks what survives, then fails every handle opened before. Injected faults stay.
    pub fn crash(&self, chance: &mut dyn Chance) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.names.crash(chance);
        let reachable = state.names.inodes();
        state.inodes.retain(|inode, _| reachable.contains(inode));
        for inode in state.inodes.values_mut() {
            inode.crash(chance);
        }
    }

    /// What would be left if power were lost now and nothing unsynced survived: a new disk without faults, which shares nothing
    /// with this one. Its files count as synced.
    pub fn durable_image(&self) -> MemDisk {
        let state = self.state.lock();
        let names = state.names.durable();
        let reachable = names.inodes();
        let kept = state.inodes.iter().filter(|(inode, _)| reachable.contains(inode));
        let inodes = kept.map(|(number, inode)| (*number, inode.durable())).collect();
        let image = State { generation: 0, next_inode: state.next_inode, inodes, names };
        MemDisk { state: Arc::new(Mutex::new(image)), faults: Arc::default() }
    }

    /// The parts of a file that durably hold something other than zeros, in order, a few kilobytes each: where rot can strike.
    pub fn written_parts(&self, path: &str) -> io::Result<Vec<Range<u64>>> {
        let state = self.state.lock();
        let inode = state.names.file(path)?;
        Ok(state.inodes.get(&inode).expect("a named file has an inode").written())
    }

    /// Makes the `nth` call of this kind from now (1 is the next) fail with an I/O error, once.
    pub fn fail_nth(&self, call: DiskCall, nth: u64) {
        self.faults.fail_nth(call, nth);
    }

    /// Forgets the calls that were to fail.
    pub fn clear_faults(&self) {
        self.faults.clear();
    }

    /// Most bytes that all files together may have; a write that needs more fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.faults.set_capacity(bytes);
    }

    /// Calls `hook` before each call, for a test that counts or delays them. It must not call back into the disk.
    pub fn set_hook(&self, hook: Option<DiskHook>) {
        self.faults.set_hook(hook);
    }

    /// How many calls of a kind were made so far.
    pub fn calls(&self, call: DiskCall) -> u64 {
        self.faults.calls(call)
    }

    /// Flips one bit of a file, durably: rot.
    pub fn flip_bit(&self, path: &str, offset: u64, bit: u8) -> io::Result<()> {
        self.damage(path, offset, |byte| byte ^ (1 << (bit & 7)))
    }

    /// Overwrites `len` bytes of a file with zeros, durably: a sector that came back empty.
    pub fn zero(&self, path: &str, offset: u64, len: u64) -> io::Result<()> {
        (offset..offset + len).try_for_each(|at| self.damage(path, at, |_| 0))
    }

    fn damage(&self, path: &str, offset: u64, change: impl Fn(u8) -> u8) -> io::Result<()> {
        let mut state = self.state.lock();
        let inode = state.names.file(path)?;
        let inode = state.inodes.get_mut(&inode).expect("a named file has an inode");
        inode.damage(offset, change)
    }

    /// Bytes of all files together, as seen.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        let named = self.names.inodes();
        self.inodes.iter().filter(|(inode, _)| named.contains(inode)).map(|(_, inode)| inode.len()).sum()
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        path::split(path)?;
        self.faults.before(DiskCall::Open, path)?;
        let mut state = self.state.lock();
        let inode = match state.names.file(path) {
            Ok(inode) => inode,
            Err(error) if error.kind() == io::ErrorKind::NotFound && create => {
                let inode = state.next_inode;
                state.names.set(path, Node::File(inode))?;
                state.next_inode += 1;
                state.inodes.insert(inode, Inode::default());
                inode
            }
            Err(error) => return Err(error),
        };
        Ok(Arc::new(MemFile {
            disk: self.clone(),
            path: path.to_owned(),
            generation: state.generation,
            inode,
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        path::split(from)?;
        path::split(to)?;
        self.faults.before(DiskCall::Rename, from)?;
        self.state.lock().names.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        path::split(path)?;
        self.faults.before(DiskCall::Remove, path)?;
        self.state.lock().names.remove(path)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        path::dir_components(dir)?;
        self.faults.before(DiskCall::List, dir)?;
        self.state.lock().names.list(dir)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let components = path::components(dir)?;
        self.faults.before(DiskCall::CreateDir, dir)?;
        let mut state = self.state.lock();
        for depth in 1..=components.len() {
            state.names.make_dir(&components[..depth].join("/"))?;
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        path::dir_components(dir)?;
        let failed = self.faults.before(DiskCall::SyncDir, dir);
        let mut state = self.state.lock();
        state.names.sync(dir, failed.is_err())?;
        failed
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let used = self.used_bytes();
        let bytes = self.faults.capacity().unwrap_or(UNLIMITED_BYTES);
        Ok(DiskSpace { bytes, free_bytes: bytes.saturating_sub(used) })
    }
}

#[derive(Debug)]
struct MemFile {
    disk: MemDisk,
    path: String,
    generation: u64,
    inode: u64,
}

impl MemFile {
    /// Runs `act` on the inode, unless power was lost since the file was opened.
    fn with<T>(&self, act: impl FnOnce(&mut Inode) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other(format!("{} was open when power was lost", self.path)));
        }
        let inode =
            state.inodes.get_mut(&self.inode).expect("inodes outlive their handles within a generation");
        act(inode)
    }

    /// As `with`, for a change that may make the file `len` bytes long.
    fn grow<T>(&self, len: u64, act: impl FnOnce(&mut Inode) -> io::Result<T>) -> io::Result<T> {
        let used = self.disk.faults.capacity().map(|capacity| (capacity, self.disk.used_bytes()));
        self.with(|inode| match used {
            Some((capacity, used)) if len > inode.len() && used + len - inode.len() > capacity => {
                Err(io::Error::new(io::ErrorKind::StorageFull, "the disk is full"))
            }
            _ => act(inode),
        })
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.faults.before(DiskCall::Read, &self.path)?;
        self.with(|inode| Ok(inode.read(buf, offset)))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.disk.faults.before(DiskCall::Write, &self.path)?;
        self.grow(offset + data.len() as u64, |inode| {
            inode.write(data, offset);
            Ok(())
        })
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.faults.before(DiskCall::Write, &self.path)?;
        self.grow(offset + len, |inode| {
            inode.zero(offset, len);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.faults.before(DiskCall::SetLen, &self.path)?;
        self.grow(len, |inode| {
            inode.set_len(len);
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|inode| Ok(inode.len()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let failed = self.disk.faults.before(DiskCall::Sync, &self.path);
        self.with(|inode| {
            inode.sync(failed.is_err());
            failed
        })
    }
}
