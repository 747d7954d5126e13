//! A folder as a tar. The only place of the command line that names the crate `tar`.
//!
//! The same files are the same bytes: names in order, no owners, times as they are. Must never: hold a file in memory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::folder::{Entry, Folder, FolderError, What};

/// Why a folder was not packed whole.
#[derive(Debug)]
pub(super) enum PackError {
    Folder(FolderError),
    /// Whoever takes the bytes does not any more.
    Out(io::Error),
}

/// A file of which exactly so many bytes are read: what is written beside the header must fit to it.
struct Exactly<'a> {
    file: File,
    left: u64,
    failed: &'a mut Option<FolderError>,
    path: &'a Path,
}

impl Read for Exactly<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buf[..most]);
        let path = || self.path.display().to_string();
        match read {
            Ok(0) => {
                *self.failed = Some(FolderError::Changed { path: path() });
                Err(io::Error::from(io::ErrorKind::UnexpectedEof))
            }
            Ok(read) => {
                self.left -= read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(source) => {
                *self.failed = Some(FolderError::Unreadable { path: path(), source });
                Err(io::Error::other("a file can not be read"))
            }
        }
    }
}

/// Writes the folder to `out`.
pub(super) fn pack(folder: &Folder, out: impl Write) -> Result<(), PackError> {
    let mut tar = Builder::new(out);
    for entry in &folder.entries {
        append(&mut tar, folder, entry)?;
    }
    tar.into_inner().and_then(|mut out| out.flush()).map_err(PackError::Out)
}

fn append(tar: &mut Builder<impl Write>, folder: &Folder, entry: &Entry) -> Result<(), PackError> {
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_mtime(entry.modified);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    match &entry.what {
        What::Folder => {
            header.set_entry_type(EntryType::Directory);
            tar.append_data(&mut header, &entry.path, io::empty()).map_err(PackError::Out)
        }
        What::Link(target) => {
            header.set_entry_type(EntryType::Symlink);
            tar.append_link(&mut header, &entry.path, target).map_err(PackError::Out)
        }
        What::File { bytes } => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(*bytes);
            let path = || entry.path.display().to_string();
            let unreadable = |source| PackError::Folder(FolderError::Unreadable { path: path(), source });
            // A link or a pipe that has taken its place meanwhile is not opened, nor one that has taken a folder's above it.
            let file = folder.root.file(&entry.path).map_err(unreadable)?;
            let file = file.ok_or_else(|| unreadable(io::Error::other("it is no file any more")))?;
            let mut failed = None;
            let content = Exactly { file, left: *bytes, failed: &mut failed, path: &entry.path };
            let appended = tar.append_data(&mut header, &entry.path, content);
            appended.map_err(|error| failed.map_or(PackError::Out(error), PackError::Folder))
        }
    }
}

/// Hashes and counts what is written.
#[derive(Debug, Default)]
pub(super) struct Measured {
    hasher: blake3::Hasher,
    pub(super) bytes: u64,
}

impl Measured {
    /// As the node calls it.
    pub(super) fn digest(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

impl Write for &mut Measured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn packed(root: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(&Folder::look(root, None).unwrap(), &mut bytes).unwrap();
        bytes
    }

    fn fill(root: &Path) {
        let long = "long/".repeat(60) + "name";
        for (path, text) in
            [("Dockerfile", "FROM scratch"), ("bin/run", "#!/bin/sh"), (&*long, "x"), ("empty", "")]
        {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let file = File::open(&path).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000)).unwrap();
        }
        fs::set_permissions(root.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("bin/run", root.join("link")).unwrap();
    }

    #[test]
    fn a_folder_is_packed_as_it_is_without_owners() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let bytes = packed(dir.path());
        assert_eq!(bytes, packed(dir.path()), "the same folder is the same bytes");
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let path = entry.path().unwrap().display().to_string();
            match path.as_str() {
                "bin/run" => {
                    assert_eq!((header.mode().unwrap(), text.as_str()), (0o755, "#!/bin/sh"));
                    assert_eq!(header.mtime().unwrap(), 1_700_000_000);
                }
                "link" => assert_eq!(entry.link_name().unwrap().unwrap(), Path::new("bin/run")),
                _ => {}
            }
            seen.push(path);
        }
        assert_eq!(seen.len(), 5 + 1 + 60, "{seen:?}");
        assert!(seen.iter().any(|path| path.ends_with("long/name") && path.len() > 100));
        let mut measured = Measured::default();
        pack(&Folder::look(dir.path(), None).unwrap(), &mut measured).unwrap();
        assert_eq!(measured.bytes, bytes.len() as u64);
        assert_eq!(measured.digest(), blake3::hash(&bytes).to_hex().to_string());
    }

    #[test]
    fn what_changes_meanwhile_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        let folder = Folder::look(dir.path(), None).unwrap();
        let error = |folder| pack(folder, io::sink()).unwrap_err();
        fs::write(dir.path().join("bin/run"), "#").unwrap();
        let PackError::Folder(FolderError::Changed { path }) = error(&folder) else {
            panic!("it is shorter")
        };
        assert_eq!(path, "bin/run");
        fs::remove_file(dir.path().join("bin/run")).unwrap();
        symlink("/etc/passwd", dir.path().join("bin/run")).unwrap();
        let PackError::Folder(FolderError::Unreadable { path, .. }) = error(&folder) else {
            panic!("a link now")
        };
        assert_eq!(path, "bin/run");

        // Of the folder above it, too: what is there now is none of it.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("run"), "#!/bin/sh").unwrap();
        fs::remove_dir_all(dir.path().join("bin")).unwrap();
        symlink(elsewhere.path(), dir.path().join("bin")).unwrap();
        let PackError::Folder(FolderError::Unreadable { path, .. }) = error(&folder) else {
            panic!("a link above it now")
        };
        assert_eq!(path, "bin/run");
    }

    #[test]
    fn whoever_takes_no_more_ends_it() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::from(io::ErrorKind::BrokenPipe))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path());
        assert!(matches!(pack(&Folder::look(dir.path(), None).unwrap(), Full), Err(PackError::Out(_))));
    }
}
