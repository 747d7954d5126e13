//! Contents of one file of a memory disk: the current image, the durable one, and the writes between them.

use std::io;
use std::ops::Range;

use super::image::Image;
use super::{Chance, SECTOR_BYTES};

#[derive(Debug, Default)]
pub(super) struct Inode {
    current: Image,
    durable: Image,
    /// Changes since the last sync, oldest first.
    unsynced: Vec<Change>,
    /// Changes that a failed sync dropped from the page cache's list of dirty pages: on disk or not, but never
    /// written by a later sync.
    abandoned: Vec<Change>,
    /// A sync failed since the images were last the same. While none did, the current image is the durable one and `unsynced`.
    parted: bool,
}

#[derive(Debug)]
enum Change {
    Write { offset: u64, data: Vec<u8> },
    Zeros { offset: u64, len: u64 },
    SetLen(u64),
}

impl Change {
    /// The bytes written; `None` if it is no write.
    fn range(&self) -> Option<Range<u64>> {
        match self {
            Self::Write { offset, data } => Some(*offset..offset + data.len() as u64),
            Self::Zeros { offset, len } => Some(*offset..offset + len),
            Self::SetLen(_) => None,
        }
    }

    fn apply(&self, image: &mut Image) {
        match self {
            Self::Write { offset, data } => image.write(data, *offset),
            Self::Zeros { offset, len } => image.zero(*offset, *len),
            Self::SetLen(len) => image.set_len(*len),
        }
    }

    /// What is left of a write when a range is written over: none, one or two pieces.
    fn without(self, over: &Range<u64>) -> Vec<Self> {
        let Some(own) = self.range() else { return vec![self] };
        let piece = |from: u64, to: u64| {
            (from < to).then(|| match &self {
                Self::Write { offset, data } => {
                    let data = data[(from - offset) as usize..(to - offset) as usize].to_vec();
                    Self::Write { offset: from, data }
                }
                _ => Self::Zeros { offset: from, len: to - from },
            })
        };
        let front = piece(own.start, own.end.min(over.start));
        let back = piece(own.start.max(over.end), own.end);
        front.into_iter().chain(back).collect()
    }
}

impl Inode {
    pub(super) fn len(&self) -> u64 {
        self.current.len()
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        self.current.read(buf, offset)
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        if !data.is_empty() {
            self.change(Change::Write { offset, data: data.to_vec() });
        }
    }

    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        if len > 0 {
            self.change(Change::Zeros { offset, len });
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.change(Change::SetLen(len));
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }

    pub(super) fn sync(&mut self, failed: bool) {
        if failed {
            self.abandoned.append(&mut self.unsynced);
            self.parted = true;
            return;
        }
        let reshaped = self.unsynced.iter().any(|change| matches!(change, Change::SetLen(_)));
        if !self.parted && !reshaped {
            for change in self.unsynced.drain(..) {
                match change {
                    Change::Write { offset, data } => {
                        self.durable.share(&self.current, offset, offset + data.len() as u64);
                    }
                    other => other.apply(&mut self.durable),
                }
            }
            return;
        }
        // Whatever became of an abandoned write, what is synced over it is what is there.
        self.abandoned.retain(|change| change.range().is_some());
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
            if let Some(over) = change.range().filter(|_| !self.abandoned.is_empty()) {
                self.abandoned = self.abandoned.drain(..).flat_map(|old| old.without(&over)).collect();
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
            match (&change, style) {
                (_, Style::DropAll) => {}
                (_, Style::KeepAll) => change.apply(&mut self.durable),
                (Change::SetLen(_), _) if style.keeps(chance) => change.apply(&mut self.durable),
                (Change::SetLen(_), _) => {}
                (Change::Write { offset, data }, _) => self.tear(*offset, data, style, chance),
                (Change::Zeros { offset, len }, _) => self.tear_zeros(*offset, *len, style, chance),
            }
        }
        self.current = self.durable.clone();
        self.parted = false;
    }

    fn tear(&mut self, offset: u64, data: &[u8], style: Style, chance: &mut dyn Chance) {
        for sector in sectors(offset..offset + data.len() as u64) {
            if style.keeps(chance) {
                let part = &data[(sector.start - offset) as usize..(sector.end - offset) as usize];
                self.durable.write(part, sector.start);
            }
        }
    }

    /// Where there were only zeros before, all that is at stake is how far the file reaches afterwards.
    fn tear_zeros(&mut self, offset: u64, len: u64, style: Style, chance: &mut dyn Chance) {
        let end = offset + len;
        for sector in self.durable.written(offset, end).into_iter().flat_map(sectors) {
            if style.keeps(chance) {
                self.durable.zero(sector.start, sector.end - sector.start);
            }
        }
        if end > self.durable.len() {
            let reach = chance.below(len.div_ceil(SECTOR_BYTES as u64) + 1) * SECTOR_BYTES as u64;
            if reach > 0 {
                self.durable.extend(end.min(offset + reach));
            }
        }
    }

    pub(super) fn damage(&mut self, offset: u64, change: impl Fn(u8) -> u8) -> io::Result<()> {
        let images = [&mut self.current, &mut self.durable];
        let mut damaged = images.into_iter().map(|image| image.change(offset, &change));
        if damaged.all(|is_there| is_there) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// A file that holds what is durable of this one, all of it synced.
    pub(super) fn durable(&self) -> Self {
        let durable = &self.durable;
        Self {
            current: durable.clone(),
            durable: durable.clone(),
            unsynced: Vec::new(),
            abandoned: Vec::new(),
            parted: false,
        }
    }

    pub(super) fn written(&self) -> Vec<Range<u64>> {
        self.durable.written(0, u64::MAX)
    }
}

/// A range cut at the boundaries of sectors.
fn sectors(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = range.start;
    std::iter::from_fn(move || {
        (at < range.end).then(|| {
            let start = at;
            at = ((at / SECTOR_BYTES as u64 + 1) * SECTOR_BYTES as u64).min(range.end);
            start..at
        })
    })
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
