//! Opens what is in a folder, and nothing else: no link is followed on the way or at its end, whoever puts one there meanwhile.
//!
//! The kernel sees to that where it can (openat2, Linux 5.6); else each folder on the way is opened by itself, as a folder and no link.
//! Must never: name the root by its path again once it is open, or wait for somebody to write to a pipe.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// See the module's docs.
#[derive(Debug)]
pub(super) struct Root {
    folder: OwnedFd,
    /// Until the kernel says that it has no openat2.
    has_openat2: AtomicBool,
}

/// What is in a folder, in the file system's order.
#[derive(Debug)]
pub(super) struct Listed {
    folder: OwnedFd,
    names: Dir,
}

impl Root {
    /// `path`: without links, as `canonicalize` gives it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = FOLDER | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { folder, has_openat2: AtomicBool::new(true) })
    }

    /// A regular file at a path from the root. `None` if it is something else.
    pub(super) fn file(&self, path: &Path) -> io::Result<Option<File>> {
        let file = File::from(self.beneath(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
        Ok(file.metadata()?.is_file().then_some(file))
    }

    /// A folder at a path from the root; the root itself at an empty one.
    pub(super) fn list(&self, path: &Path) -> io::Result<Listed> {
        let folder = self.beneath(path, FOLDER)?;
        let names = Dir::read_from(&folder)?;
        Ok(Listed { folder, names })
    }

    fn beneath(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        if self.has_openat2.load(Ordering::Relaxed) {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            match rustix::fs::openat2(&self.folder, path, flags, Mode::empty(), resolve) {
                Err(Errno::NOSYS) => self.has_openat2.store(false, Ordering::Relaxed),
                // A filter of system calls may know openat only; and the kernel gives up when something is renamed elsewhere meanwhile.
                Err(Errno::PERM | Errno::AGAIN) => {}
                opened => return opened,
            }
        }
        self.step_by_step(path, flags)
    }

    fn step_by_step(&self, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let on_the_way = FOLDER | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at = rustix::fs::openat(&self.folder, ".", on_the_way, Mode::empty())?;
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            let name = match part {
                Component::Normal(name) => name,
                Component::CurDir => OsStr::new("."),
                _ => return Err(Errno::XDEV),
            };
            let flags = if parts.peek().is_none() { flags } else { on_the_way };
            at = rustix::fs::openat(&at, name, flags, Mode::empty())?;
        }
        Ok(at)
    }
}

impl Listed {
    /// The next name, and how to ask about it. None at the end.
    pub(super) fn next(&mut self) -> Option<io::Result<PathBuf>> {
        loop {
            let found = match self.names.next()? {
                Ok(found) => found,
                Err(error) => return Some(Err(error.into())),
            };
            let name = found.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                return Some(Ok(PathBuf::from(OsStr::from_bytes(name))));
            }
        }
    }

    /// Of one of its names; of a link itself.
    pub(super) fn stat(&self, name: &Path) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Where a link points to.
    pub(super) fn target(&self, name: &Path) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.folder, name, Vec::new())?;
        Ok(PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes())))
    }
}

/// What kind of thing it is of.
pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(root: &Root, path: &str) -> io::Result<String> {
        let mut text = String::new();
        let no_file = || io::Error::other("it is no file");
        root.file(Path::new(path))?.ok_or_else(no_file)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn nothing_is_opened_that_is_not_beneath_with_openat2_and_without() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s3cret").unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), "inside").unwrap();
        symlink(outside.path(), dir.path().join("a/out")).unwrap();
        symlink("b/file", dir.path().join("a/link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), Mode::RWXU).unwrap();
        for has_openat2 in [true, false] {
            let root = Root::open(dir.path()).unwrap();
            root.has_openat2.store(has_openat2, Ordering::Relaxed);
            assert_eq!(read(&root, "a/b/file").unwrap(), "inside");
            let refused =
                ["a/out/secret", "a/link", "../x", "/etc/passwd", "a/b/../../../x", "pipe", "a", "none"];
            for path in refused {
                read(&root, path).unwrap_err();
            }
            let secret = outside.path().join("secret");
            read(&root, secret.to_str().unwrap()).unwrap_err();
            root.list(Path::new("a/out")).unwrap_err();
            for (path, expected) in [("", 2), ("a", 3), ("a/b", 1)] {
                let mut listed = root.list(Path::new(path)).unwrap();
                let mut names = Vec::new();
                while let Some(name) = listed.next() {
                    names.push(name.unwrap());
                }
                assert_eq!(names.len(), expected, "{path}: {names:?}");
            }
            // The folder that was opened is the one that is looked into, whatever takes its name.
            let moved = dir.path().with_extension("moved");
            fs::rename(dir.path(), &moved).unwrap();
            symlink(outside.path(), dir.path()).unwrap();
            assert!(read(&root, "secret").is_err() && read(&root, "a/b/file").is_ok());
            fs::remove_file(dir.path()).unwrap();
            fs::rename(&moved, dir.path()).unwrap();
        }
    }
}
