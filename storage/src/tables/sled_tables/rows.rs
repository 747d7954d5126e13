//! How rows are laid out in the one tree of the store, and what is known of all of them together. Pure.
//!
//! Every row carries a checksum over its key and value, and one row holds a tally of all the others, changed in the same batch: so what sled
//! lost or mixed up shows when the store is opened. A large value is cut into pieces, each a row of its own: sled would keep it in a file of
//! its own, which it never syncs.

use std::collections::BTreeMap;

use crate::tables::Table;

/// Bytes of a value in one row. sled keeps up to 17 rows in a page, and what is over a quarter of a segment (128 KiB) in a file of its own.
pub(super) const PIECE_BYTES: usize = 6 << 10;
/// Where the tally is: behind all rows and pieces.
pub(super) const TALLY_KEY: &[u8] = &[2];

const ROWS: u8 = 0;
const PIECES: u8 = 1;
const CRC_BYTES: usize = 4;
/// Checksum and number of further pieces.
const HEAD_BYTES: usize = CRC_BYTES + 2;

/// Before the key of each row of a table.
pub(super) fn prefix(table: Table) -> Vec<u8> {
    let name = table.name().as_bytes();
    [&[ROWS, name.len() as u8], name].concat()
}

/// The first key behind all rows of a table.
pub(super) fn behind(table: Table) -> Vec<u8> {
    let mut end = prefix(table);
    // A name is UTF-8, in which there is no 0xff.
    *end.last_mut().expect("a prefix is not empty") += 1;
    end
}

pub(super) fn row_key(table: Table, key: &[u8]) -> Vec<u8> {
    [&prefix(table)[..], key].concat()
}

pub(super) fn piece_key(table: Table, key: &[u8], number: u16) -> Vec<u8> {
    let name = table.name().as_bytes();
    let len = (key.len() as u16).to_be_bytes();
    [&[PIECES, name.len() as u8], name, &len, key, &number.to_be_bytes()].concat()
}

fn sealed(key: &[u8], rest: &[&[u8]]) -> Vec<u8> {
    let rest = rest.concat();
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), &rest);
    [&crc.to_le_bytes()[..], &rest].concat()
}

/// The rows, as the tree holds them, that a value becomes.
pub(super) fn encode(table: Table, key: &[u8], value: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (first, rest) = value.split_at(value.len().min(PIECE_BYTES));
    let pieces = rest.chunks(PIECE_BYTES);
    let head = row_key(table, key);
    let count = (pieces.len() as u16).to_le_bytes();
    let mut rows = vec![(head.clone(), sealed(&head, &[&count, first]))];
    for (piece, number) in pieces.zip(0..) {
        let key = piece_key(table, key, number);
        let value = sealed(&key, &[piece]);
        rows.push((key, value));
    }
    rows
}

/// What a row holds behind its checksum; an error if that is wrong.
fn opened<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    let wrong = || "a row has a wrong checksum".to_owned();
    let (crc, rest) = value.split_at_checked(CRC_BYTES).ok_or_else(wrong)?;
    let right = crc32c::crc32c_append(crc32c::crc32c(key), rest).to_le_bytes();
    if crc == right { Ok(rest) } else { Err(wrong()) }
}

/// Number of further pieces, and the first bytes of the value.
pub(super) fn head<'a>(key: &[u8], value: &'a [u8]) -> Result<(u16, &'a [u8]), String> {
    let rest = opened(key, value)?;
    let (count, first) = rest.split_first_chunk().ok_or("a row is too short")?;
    Ok((u16::from_le_bytes(*count), first))
}

pub(super) fn piece<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], String> {
    opened(key, value)
}

/// What all rows come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Rows of each table by its name; pieces not counted.
    tables: BTreeMap<Vec<u8>, u64>,
    /// Rows of the tree, and bytes of their keys and values.
    rows: u64,
    pub(super) bytes: u64,
    /// All checksums together.
    mix: u32,
    /// Batches that were ever applied: of two states of a store the later one has more.
    pub(super) batch: u64,
}

impl Tally {
    pub(super) fn len(&self, table: Table) -> u64 {
        self.tables.get(table.name().as_bytes()).copied().unwrap_or(0)
    }

    /// Takes a row in that was read or encoded here.
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let (name, crc) = parts(key, value)?;
        self.rows += 1;
        self.bytes += (key.len() + value.len()) as u64;
        self.mix ^= crc;
        if let Some(name) = name {
            *self.tables.entry(name.to_vec()).or_default() += 1;
        }
        Ok(())
    }

    /// Takes a row out that was there.
    pub(super) fn remove(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let (name, crc) = parts(key, value)?;
        let len = (key.len() + value.len()) as u64;
        let too_few = || "there are more rows than were counted".to_owned();
        self.rows = self.rows.checked_sub(1).ok_or_else(too_few)?;
        self.bytes = self.bytes.checked_sub(len).ok_or_else(too_few)?;
        self.mix ^= crc;
        if let Some(name) = name {
            let count = self.tables.get_mut(name).ok_or_else(too_few)?;
            *count = count.checked_sub(1).ok_or_else(too_few)?;
        }
        Ok(())
    }

    /// The row that holds it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { tables: _, rows, bytes, mix, batch } = self;
        let numbers =
            [&rows.to_le_bytes()[..], &bytes.to_le_bytes(), &mix.to_le_bytes(), &batch.to_le_bytes()];
        sealed(TALLY_KEY, &numbers)
    }

    /// The number of the batch that wrote a row with a tally; none if it is no such row. Whether the rest is right, [`Self::is`] tells.
    pub(super) fn batch_of(value: &[u8]) -> Option<u64> {
        value.last_chunk().map(|batch| u64::from_le_bytes(*batch))
    }

    /// Whether a row that holds a tally holds this one.
    pub(super) fn is(&self, value: &[u8]) -> bool {
        self.encode() == value
    }
}

/// The name of the table, if it is no piece, and the checksum.
fn parts<'a>(key: &'a [u8], value: &[u8]) -> Result<(Option<&'a [u8]>, u32), String> {
    let crc = *value.first_chunk().ok_or("a row is too short")?;
    let name = match key {
        [ROWS, len, rest @ ..] if *len > 0 && value.len() >= HEAD_BYTES => rest.get(..usize::from(*len)),
        [PIECES, ..] => return Ok((None, u32::from_le_bytes(crc))),
        _ => None,
    };
    Ok((Some(name.ok_or("a row is of no table")?), u32::from_le_bytes(crc)))
}

/// As [`Tally::add`], of a row whose checksum is still to be looked at.
pub(super) fn add_checked(tally: &mut Tally, key: &[u8], value: &[u8]) -> Result<(), String> {
    opened(key, value)?;
    tally.add(key, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Table = Table::new("t");

    #[test]
    fn a_changed_byte_shows() {
        let value: Vec<u8> = (0..2 * PIECE_BYTES + 1).map(|at| at as u8).collect();
        let rows = encode(T, b"key", &value);
        assert_eq!(rows.len(), 3);
        assert_eq!(head(&rows[0].0, &rows[0].1), Ok((2, &value[..PIECE_BYTES])));
        let (key, long) = &rows[0];
        for at in [0, 3, 4, 5, 6, 1_000, long.len() - 1] {
            let mut changed = long.clone();
            changed[at] ^= 1;
            assert!(head(key, &changed).is_err(), "{at}");
        }
        assert!(head(&row_key(T, b"other"), long).is_err(), "another row's");
        assert!(piece(&rows[1].0, &rows[2].1).is_err(), "another piece");
    }

    #[test]
    fn a_tally_tells_a_missing_row_and_an_old_one() {
        let (mut all, mut part, mut old) = (Tally::default(), Tally::default(), Tally::default());
        for (key, value) in encode(T, b"a", b"1").iter().chain(&encode(T, b"b", b"2")) {
            all.add(key, value).unwrap();
        }
        for (key, value) in encode(T, b"a", b"1") {
            part.add(&key, &value).unwrap();
            old.add(&key, &value).unwrap();
        }
        for (key, value) in encode(T, b"b", b"0") {
            old.add(&key, &value).unwrap();
        }
        assert!(all.is(&all.encode()) && !part.is(&all.encode()) && !old.is(&all.encode()));
        for (key, value) in encode(T, b"b", b"2") {
            all.remove(&key, &value).unwrap();
        }
        assert!(all.is(&part.encode()) && all.len(T) == 1);
    }
}
