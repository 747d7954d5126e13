//! The disk port: each call is checked, traced, and carried out on the disk in memory.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use longshore_storage::disk::{DiskFile, DiskSpace};
use longshore_storage::{Disk, MemDisk};

use super::{BACKGROUND_SYNC_MS, DiskMutant, HostDisk, LIE_MS, LOG_DIR, SPARED_WRITES, is_in};
use crate::event;
use crate::runtime::{current, sleep_global, spawn_in};
use crate::trace::digest;

#[derive(Debug)]
struct HostFile {
    disk: HostDisk,
    path: String,
    file: Arc<dyn DiskFile>,
    generation: u64,
}

fn dead(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

fn is_in_log(path: &str) -> bool {
    is_in(LOG_DIR, path)
}

impl HostDisk {
    /// Lets a call through, if its process lives and there is power.
    fn enter(&self, generation: Option<u64>, call: &'static str) -> io::Result<(MemDisk, u64)> {
        let cut = {
            let mut state = self.shared.state.lock();
            if current().is_dead() || generation.is_some_and(|of_handle| of_handle != state.generation) {
                return Err(dead("the process that opened it is dead"));
            }
            if state.is_dark {
                return Err(dead("power is lost"));
            }
            *state.counts.entry(call).or_default() += 1;
            let strikes = state.cut.as_mut().is_some_and(|cut| {
                cut.calls_left -= 1;
                cut.calls_left == 0
            });
            if !strikes {
                return Ok((state.disk.clone(), state.generation));
            }
            state.is_dark = true;
            state.cut.take()
        };
        event!("disk h{} power is lost in {call}", self.shared.host);
        if let Some(cut) = cut {
            (cut.lost)();
        }
        Err(dead("power is lost"))
    }

    fn done<T>(&self, result: &io::Result<T>, call: fmt::Arguments<'_>) {
        let host = self.shared.host;
        match result {
            Ok(_) => event!("disk h{host} {call}"),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    *self.shared.state.lock().counts.entry("failed").or_default() += 1;
                }
                event!("disk h{host} {call} failed: {error}");
            }
        }
    }

    fn note_log_write(&self, path: &str, range: Range<u64>) {
        if is_in_log(path) {
            let mut state = self.shared.state.lock();
            if state.latest_log_writes.len() == SPARED_WRITES {
                state.latest_log_writes.pop_front();
            }
            state.latest_log_writes.push_back((path.to_owned(), range));
        }
    }
}

impl Disk for HostDisk {
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let (disk, generation) = self.enter(None, "open")?;
        let opened = disk.open(path, create);
        self.done(&opened, format_args!("open {path}"));
        let file = opened?;
        Ok(Arc::new(HostFile { disk: self.clone(), path: path.to_owned(), file, generation }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (disk, _) = self.enter(None, "rename")?;
        let renamed = disk.rename(from, to);
        self.done(&renamed, format_args!("rename {from} {to}"));
        renamed
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (disk, _) = self.enter(None, "remove")?;
        let removed = disk.remove(path);
        self.done(&removed, format_args!("remove {path}"));
        removed
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let (disk, _) = self.enter(None, "list")?;
        let listed = disk.list(dir);
        self.done(&listed, format_args!("list {dir}"));
        listed
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let (disk, _) = self.enter(None, "create_dir")?;
        let created = disk.create_dir(dir);
        self.done(&created, format_args!("create_dir {dir}"));
        created
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let (disk, _) = self.enter(None, "sync_dir")?;
        let is_skipped = self.mutant() == Some(DiskMutant::SkipDirectorySync);
        let synced = if is_skipped { Ok(()) } else { disk.sync_dir(dir) };
        self.done(&synced, format_args!("sync_dir {dir}"));
        synced
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let (disk, _) = self.enter(None, "space")?;
        disk.space()
    }
}

impl HostFile {
    fn enter(&self, call: &'static str) -> io::Result<()> {
        self.disk.enter(Some(self.generation), call).map(drop)
    }

    /// Says that it is synced, and syncs after a while, if the power holds that long.
    fn sync_later(&self, after: Duration) {
        let file = Arc::clone(&self.file);
        drop(spawn_in(&current(), async move {
            sleep_global(after).await;
            // Whoever lies does not own up to an error either.
            let _ = file.sync_data();
        }));
    }
}

impl DiskFile for HostFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.enter("read")?;
        let len = buf.len();
        let read = match self.disk.read_fails(&self.path) {
            true => Err(io::Error::other("injected fault: a read error")),
            false => self.file.read_at(buf, offset),
        };
        self.disk.done(&read, format_args!("read {} {offset}+{len}", self.path));
        read
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.enter("write")?;
        let written = self.file.write_at(data, offset);
        let call = format_args!("write {} {offset}+{} {}", self.path, data.len(), digest(data));
        self.disk.done(&written, call);
        if written.is_ok() {
            self.disk.note_log_write(&self.path, offset..offset + data.len() as u64);
        }
        written
    }

    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        self.enter("write")?;
        let written = self.file.write_zeros(offset, len);
        self.disk.done(&written, format_args!("write_zeros {} {offset}+{len}", self.path));
        written
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.enter("set_len")?;
        let set = self.file.set_len(len);
        self.disk.done(&set, format_args!("set_len {} {len}", self.path));
        set
    }

    fn len(&self) -> io::Result<u64> {
        self.enter("len")?;
        let len = self.file.len();
        self.disk.done(&len, format_args!("len {}", self.path));
        len
    }

    fn sync_data(&self) -> io::Result<()> {
        self.enter("sync")?;
        let synced = match self.disk.mutant() {
            Some(DiskMutant::AcknowledgeBeforeSync) if is_in_log(&self.path) => {
                self.sync_later(Duration::from_millis(LIE_MS));
                Ok(())
            }
            Some(DiskMutant::CallBackEarly) if is_in_log(&self.path) => {
                self.sync_later(Duration::from_millis(BACKGROUND_SYNC_MS) + self.disk.sync_pause());
                Ok(())
            }
            _ => self.file.sync_data(),
        };
        self.disk.done(&synced, format_args!("sync {}", self.path));
        synced
    }
}
