//! The real disk: files below one folder, through system calls relative to open folders.
//!
//! Invariants: no call reaches outside the root (paths are checked, and symbolic links are never followed below
//! it); files are made with mode 0600, folders with 0700; `sync_data` is `fdatasync`, `sync_dir` is `fsync` of the
//! folder. Must never: retry a failed sync.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use super::{Disk, DiskFile, DiskSpace, path};

/// A folder of the operating system's file system.
#[derive(Debug)]
pub struct RealDisk {
    root: OwnedFd,
    root_path: PathBuf,
}

impl RealDisk {
    /// Opens the folder `root`, made (0700, with its parents) if it is missing.
    pub fn open(root: impl AsRef<Path>) -> io::Result<Self> {
        let root_path = root.as_ref().to_path_buf();
        make_durably(&root_path)?;
        let root = rustix::fs::open(&root_path, dir_flags(), Mode::empty())?;
        Ok(Self { root, root_path })
    }

    /// The folder that this disk is confined to.
    pub fn root_path(&self) -> &Path {
        &self.root_path
    }

    /// Opens a folder one component at a time, so that a symbolic link on the way is an error.
    fn dir(&self, components: &[&str]) -> io::Result<OwnedFd> {
        let mut dir = rustix::fs::openat(&self.root, ".", dir_flags(), Mode::empty())?;
        for component in components {
            dir = rustix::fs::openat(&dir, *component, dir_flags(), Mode::empty())?;
        }
        Ok(dir)
    }

    fn parent<'a>(&self, path: &'a str) -> io::Result<(OwnedFd, &'a str)> {
        let (dir, name) = path::split(path)?;
        Ok((self.dir(&path::dir_components(dir)?)?, name))
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let (dir, name) = self.parent(path)?;
        let mut flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if create {
            flags |= OFlags::CREATE;
        }
        let file = File::from(rustix::fs::openat(&dir, name, flags, Mode::RUSR | Mode::WUSR)?);
        Ok(Arc::new(RealFile { file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        Ok(rustix::fs::renameat(&from_dir, from_name, &to_dir, to_name)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(&dir, name, AtFlags::empty())?)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let dir = self.dir(&path::dir_components(dir)?)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir)? {
            // A name that is not UTF-8 was not made through this port, and can not be named through it.
            if let Ok(name) = entry?.file_name().to_str()
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let mut at = self.dir(&[])?;
        for component in path::components(dir)? {
            match rustix::fs::mkdirat(&at, component, Mode::RWXU) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = rustix::fs::openat(&at, component, dir_flags(), Mode::empty())?;
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.dir(&path::dir_components(dir)?)?)?)
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let found = rustix::fs::fstatvfs(&self.root)?;
        Ok(DiskSpace {
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }
}

fn dir_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Makes the root and its missing parents, each name durable in its parent: what is synced below the root later
/// must not vanish with it.
fn make_durably(root: &Path) -> io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    let parent = match root.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_durably(parent)?;
    match rustix::fs::mkdir(root, Mode::RWXU) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    File::open(parent)?.sync_all()
}

#[derive(Debug)]
struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn conforms() {
        crate::disk::conformance::run(|| {
            let root = tempfile::tempdir().unwrap();
            let disk = Arc::new(RealDisk::open(root.path()).unwrap());
            (disk as Arc<dyn Disk>, Box::new(root))
        });
    }

    #[test]
    fn files_and_folders_are_private() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("a/b");
        let disk = RealDisk::open(&root).unwrap();
        disk.create_dir("c").unwrap();
        disk.open("c/file", true).unwrap();
        let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(root.clone()), 0o700);
        assert_eq!(mode(root.join("c")), 0o700);
        assert_eq!(mode(root.join("c/file")), 0o600);
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let outside = temp.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("secret"), b"secret").unwrap();
        let disk = RealDisk::open(temp.path().join("root")).unwrap();
        symlink(&outside, disk.root_path().join("dir")).unwrap();
        symlink(outside.join("secret"), disk.root_path().join("file")).unwrap();
        assert!(disk.open("file", false).is_err());
        assert!(disk.open("dir/secret", false).is_err());
        assert!(disk.create_dir("dir/new").is_err());
        assert!(disk.list("dir").is_err());
        assert!(disk.remove("dir/secret").is_err());
        assert!(!outside.join("new").exists());
    }
}
