//! Contents of one file of a memory disk: the current image, the durable one, and the writes between them.

use std::io;

use super::{Chance, SECTOR_BYTES};

#[derive(Debug, Default)]
pub(super) struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync, oldest first.
    unsynced: Vec<Change>,
    /// Changes that a failed sync dropped from the page cache's list of dirty pages: on disk or not, but never
    /// written by a later sync.
    abandoned: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

impl Change {
    /// What is left of a write when `len` bytes at `from` are written over: none, one or two pieces.
    fn without(self, from: usize, len: usize) -> Vec<Self> {
        let Self::Write { offset, data } = self else { return vec![self] };
        let (end, to) = (offset + data.len(), from + len);
        let piece = |from: usize, to: usize| {
            (from < to).then(|| Self::Write { offset: from, data: data[from - offset..to - offset].to_vec() })
        };
        let (front, back) = (piece(offset, end.min(from)), piece(offset.max(to), end));
        front.into_iter().chain(back).collect()
    }
}

impl Inode {
    pub(super) fn len(&self) -> u64 {
        self.current.len() as u64
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let from = (offset as usize).min(self.current.len());
        let count = buf.len().min(self.current.len() - from);
        buf[..count].copy_from_slice(&self.current[from..from + count]);
        count
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        if data.is_empty() {
            return;
        }
        write_into(&mut self.current, data, offset as usize);
        self.unsynced.push(Change::Write { offset: offset as usize, data: data.to_vec() });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.current.resize(len as usize, 0);
        self.unsynced.push(Change::SetLen(len as usize));
    }

    pub(super) fn sync(&mut self, failed: bool) {
        if failed {
            self.abandoned.append(&mut self.unsynced);
            return;
        }
        // Whatever became of an abandoned write, what is synced over it is what is there.
        self.abandoned.retain(|change| matches!(change, Change::Write { .. }));
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write { offset, data } => {
                    write_into(&mut self.durable, &data, offset);
                    self.abandoned =
                        self.abandoned.drain(..).flat_map(|old| old.without(offset, data.len())).collect();
                }
                Change::SetLen(len) => self.durable.resize(len, 0),
            }
        }
    }

    /// Leaves the durable image plus any subset of the sectors not synced.
    pub(super) fn crash(&mut self, chance: &mut dyn Chance) {
        let mut changes = std::mem::take(&mut self.abandoned);
        changes.append(&mut self.unsynced);
        // A whole batch kept or lost is the common case in life, a later write kept without an earlier one the nasty
        // one: so a style is drawn for the file, and, if that is a mixture, for each write anew.
        let style = if changes.is_empty() { Style::DropAll } else { Style::pick(chance) };
        for change in changes {
            let style = if let Style::Mixed(_) = style { Style::pick(chance) } else { style };
            match change {
                Change::SetLen(len) if style.keeps(chance) => self.durable.resize(len, 0),
                Change::SetLen(_) => {}
                Change::Write { offset, data } => self.tear(offset, &data, style, chance),
            }
        }
        self.current = self.durable.clone();
    }

    fn tear(&mut self, offset: usize, data: &[u8], style: Style, chance: &mut dyn Chance) {
        let mut at = offset;
        let end = offset + data.len();
        while at < end {
            let next = ((at / SECTOR_BYTES + 1) * SECTOR_BYTES).min(end);
            if style.keeps(chance) {
                write_into(&mut self.durable, &data[at - offset..next - offset], at);
            }
            at = next;
        }
    }

    pub(super) fn damage(&mut self, offset: u64, change: impl Fn(u8) -> u8) -> io::Result<()> {
        let at = offset as usize;
        for image in [&mut self.current, &mut self.durable] {
            let byte = image.get_mut(at).ok_or(io::ErrorKind::UnexpectedEof)?;
            *byte = change(*byte);
        }
        Ok(())
    }
}

/// How one crash treats one file or write.
#[derive(Clone, Copy)]
enum Style {
    KeepAll,
    DropAll,
    /// Keeps each sector with a chance of this many in eight.
    Mixed(u64),
}

impl Style {
    fn pick(chance: &mut dyn Chance) -> Self {
        match chance.below(5) {
            0 => Self::KeepAll,
            1 => Self::DropAll,
            _ => Self::Mixed(1 + chance.below(7)),
        }
    }

    fn keeps(self, chance: &mut dyn Chance) -> bool {
        match self {
            Self::KeepAll => true,
            Self::DropAll => false,
            Self::Mixed(eighths) => chance.below(8) < eighths,
        }
    }
}

fn write_into(image: &mut Vec<u8>, data: &[u8], offset: usize) {
    let end = offset + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(data);
}
