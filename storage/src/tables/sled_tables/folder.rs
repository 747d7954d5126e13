//! The folder of a store: which generation of it counts, how much space it takes, and how it is set aside.
//!
//! A store is rebuilt in a folder of its own, a generation: `<dir>/<number>`. The file `current` names the one that counts, and is replaced
//! by renaming when the new one is durable. The file `saved` tells how far a checkpoint has come: the batch that every later store has. The file
//! `damage`, if it is there, says why the store was given up while it was open. All else in the folder is a leftover.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Names the generation that counts.
const CURRENT: &str = "current";
/// The last batch that is durable; beside the store, since what tells of damage has to be outside of it.
const SAVED: &str = "saved";
/// Says why a store was given up while it was open. Whoever can open it again decides anew.
const DAMAGE: &str = "damage";
/// sled's log, in a generation's folder; the only file of it that has to be there.
const LOG_FILE: &str = "db";
/// Damaged stores that are kept for whoever wants to look.
const DAMAGED_KEPT: usize = 1;
/// Bytes of a block, as `st_blocks` counts.
const BLOCK_BYTES: u64 = 512;

pub(super) fn generation(dir: &Path, number: u32) -> PathBuf {
    dir.join(number.to_string())
}

/// The generation that counts; none if no store was ever complete here.
pub(super) fn current(dir: &Path) -> Result<Option<u32>, String> {
    let Some(number) = number_in(dir, CURRENT)? else { return Ok(None) };
    let number = u32::try_from(number).map_err(|_| format!("{CURRENT} names no generation"))?;
    match generation(dir, number).join(LOG_FILE).is_file() {
        true => Ok(Some(number)),
        false => Err(format!("generation {number} has no file {LOG_FILE}")),
    }
}

/// Why the store in a folder was given up while it was in use; none if it was not.
pub(super) fn damage(dir: &Path) -> Option<String> {
    fs::read(dir.join(DAMAGE)).ok().map(|why| String::from_utf8_lossy(&why).into_owned())
}

/// Notes that a store is given up. Whatever comes of that: a disk that takes no note may take no store either.
pub(super) fn note_damage(dir: &Path, why: &str) {
    if let Err(error) = fs::write(dir.join(DAMAGE), why) {
        tracing::warn!(dir = %dir.display(), %error, "it can not be noted that tables are damaged");
    }
}

/// The store was opened again, and is whole.
pub(super) fn forget_damage(dir: &Path) -> io::Result<()> {
    remove(&dir.join(DAMAGE))
}

/// Makes a generation the one that counts. What is in it has to be durable.
pub(super) fn set_current(dir: &Path, number: u32) -> io::Result<()> {
    replace(dir, CURRENT, u64::from(number))
}

/// Notes that this batch, and all before it, are durable.
pub(super) fn set_saved(dir: &Path, batch: u64) -> io::Result<()> {
    replace(dir, SAVED, batch)
}

/// The last batch that is durable; 0 if there was no checkpoint yet.
pub(super) fn saved(dir: &Path) -> Result<u64, String> {
    Ok(number_in(dir, SAVED)?.unwrap_or(0))
}

/// Replaces a file that holds a number, durably.
fn replace(dir: &Path, name: &str, number: u64) -> io::Result<()> {
    let new = dir.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(format!("{number}\n").as_bytes())?;
    file.sync_data()?;
    fs::rename(new, dir.join(name))?;
    sync_dir(dir)
}

/// The number that a file holds; none if there is no such file.
fn number_in(dir: &Path, name: &str) -> Result<Option<u64>, String> {
    let text = match fs::read(dir.join(name)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{name} can not be read: {error}")),
    };
    let number = String::from_utf8(text).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
    number.map(Some).ok_or_else(|| format!("{name} holds no number"))
}

/// Makes an empty folder for a store, in the place of whatever is there.
pub(super) fn make(dir: &Path) -> io::Result<()> {
    remove(dir)?;
    private().recursive(true).create(dir)?;
    sync_dir(parent(dir))
}

/// Makes an empty folder for a generation.
pub(super) fn make_generation(dir: &Path, number: u32) -> io::Result<PathBuf> {
    let path = generation(dir, number);
    remove(&path)?;
    private().create(&path)?;
    Ok(path)
}

fn private() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Removes all but one generation.
pub(super) fn remove_others(dir: &Path, number: u32) -> io::Result<()> {
    let keep = [CURRENT.to_owned(), SAVED.to_owned(), DAMAGE.to_owned(), number.to_string()];
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !keep.iter().any(|name| entry.file_name() == name.as_str()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a file or a folder with all that is in it, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Moves a damaged store to `<dir>.damaged-<number>`, and removes those that were moved there before.
pub(super) fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut earlier: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir(parent(dir))? {
        let entry = entry?;
        let other = entry.file_name().to_string_lossy().into_owned();
        let number = other.strip_prefix(&name).and_then(|rest| rest.strip_prefix(".damaged-")?.parse().ok());
        earlier.extend(number.map(|number| (number, entry.path())));
    }
    earlier.sort();
    let number = earlier.last().map_or(1, |(last, _)| last.saturating_add(1));
    let to = parent(dir).join(format!("{name}.damaged-{number}"));
    fs::rename(dir, &to)?;
    let surplus = (earlier.len() + 1).saturating_sub(DAMAGED_KEPT);
    earlier.iter().take(surplus).try_for_each(|(_, path)| remove(path))?;
    sync_dir(parent(dir))?;
    Ok(to)
}

/// Space that a folder and all in it takes.
pub(super) fn bytes_on_disk(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // sled removes files of its own accord.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        bytes += metadata.blocks() * BLOCK_BYTES;
        if metadata.is_dir() {
            bytes += bytes_on_disk(&entry.path())?;
        }
    }
    Ok(bytes)
}

/// Makes a generation durable: sled writes its log without syncing it.
pub(super) fn sync_generation(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        match File::open(entry.path()) {
            Ok(file) if file.metadata()?.is_file() => file.sync_data()?,
            Ok(_) => sync_dir(&entry.path())?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    sync_dir(path)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_damaged_store_is_kept_under_a_number_of_its_own() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("tables");
        for number in 1..=3 {
            make(&dir).unwrap();
            fs::write(dir.join("mark"), number.to_string()).unwrap();
            assert_eq!(set_aside(&dir).unwrap(), temp.path().join(format!("tables.damaged-{number}")));
        }
        let names: Vec<_> = fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["tables.damaged-3"]);
        assert_eq!(fs::read(temp.path().join("tables.damaged-3/mark")).unwrap(), b"3");
    }

    #[test]
    fn a_generation_counts_when_its_name_is_written() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("tables");
        make(&dir).unwrap();
        fs::write(make_generation(&dir, 1).unwrap().join(LOG_FILE), "").unwrap();
        assert_eq!(current(&dir), Ok(None));
        set_current(&dir, 1).unwrap();
        fs::write(make_generation(&dir, 2).unwrap().join(LOG_FILE), "").unwrap();
        assert_eq!(current(&dir), Ok(Some(1)));
        remove_others(&dir, 1).unwrap();
        assert!(!generation(&dir, 2).exists() && generation(&dir, 1).exists());
        for bad in [&b"2\n"[..], b"1", b"x\n", b"", b"\xff\n"] {
            fs::write(dir.join(CURRENT), bad).unwrap();
            assert!(current(&dir).is_err(), "{bad:?}");
        }
    }
}
