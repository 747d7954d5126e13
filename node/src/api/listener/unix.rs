//! The real unix-socket listener. The socket's file mode is the API's only access control, so it is right from the
//! moment the file exists.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;

use super::{BindError, BoxFuture, ByteStream, Listener};

/// Connections that wait to be accepted; the kernel refuses more.
const BACKLOG: i32 = 128;

/// `sun_path` has 108 bytes, one of them for the terminating zero.
const PATH_MAX_BYTES: usize = 107;

#[derive(Debug)]
pub struct UnixApiListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket file, so that only our own is removed at the end.
    file: (u64, u64),
}

impl UnixApiListener {
    /// Binds `path` with mode 0600 and makes its folder (0700) if there is none. A socket file that nobody answers on is
    /// left over from a killed process and is replaced; the caller holds the data folder's lock, so that two starts
    /// cannot do this at once.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let len = path.as_os_str().as_bytes().len();
        if len > PATH_MAX_BYTES {
            return Err(BindError::PathTooLong { path: path.to_owned(), len, max: PATH_MAX_BYTES });
        }
        Self::clear_stale(path)?;
        Self::bind_private(path)
            .map_err(|source| BindError::Io { address: format!("unix://{}", path.display()), source })
    }

    fn clear_stale(path: &Path) -> Result<(), BindError> {
        let describe = |source| BindError::Io { address: format!("unix://{}", path.display()), source };
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(describe(error)),
        };
        if !metadata.file_type().is_socket() {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => Err(BindError::SocketInUse { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(describe)
            }
            Err(error) => Err(describe(error)),
        }
    }

    fn bind_private(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent()
            && !folder.exists()
        {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // Linux makes the file with the mode of the socket's own inode: there is no moment at which it is open to others.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        rustix::net::listen(&socket, BACKLOG)?;
        let metadata = fs::symlink_metadata(path)?;
        let listener = UnixListener::from_std(std::os::unix::net::UnixListener::from(socket))?;
        Ok(Self { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) })
    }
}

impl Listener for UnixApiListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async {
            let (stream, _) = self.listener.accept().await?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }

    fn describe(&self) -> String {
        format!("unix://{}", self.path.display())
    }
}

impl Drop for UnixApiListener {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the API socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn modes_and_removal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data").join("longshore.sock");
        let runtime = runtime();
        let _enter = runtime.enter();
        let listener = UnixApiListener::bind(&path).unwrap();
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn stale_socket_is_replaced_and_live_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("longshore.sock");
        let runtime = runtime();
        let _enter = runtime.enter();
        // The standard library leaves the file behind when it closes, as a killed process does.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let first = UnixApiListener::bind(&path).unwrap();
        let second = UnixApiListener::bind(&path);
        assert!(matches!(second, Err(BindError::SocketInUse { .. })), "{second:?}");
        drop(first);
    }

    #[test]
    fn only_its_own_file_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("longshore.sock");
        let runtime = runtime();
        let _enter = runtime.enter();
        let listener = UnixApiListener::bind(&path).unwrap();
        let kept = folder.path().join("kept.sock");
        fs::rename(&path, &kept).unwrap();
        let successor = UnixApiListener::bind(&path).unwrap();
        drop(listener);
        assert!(path.exists());
        drop(successor);
        assert!(!path.exists());
    }

    #[test]
    fn refusals_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = runtime();
        let _enter = runtime.enter();
        let long = folder.path().join("x".repeat(120));
        let error = UnixApiListener::bind(&long).unwrap_err();
        assert!(error.to_string().contains("shorter --data-dir"), "{error}");
        let file = folder.path().join("file");
        fs::write(&file, "precious").unwrap();
        let error = UnixApiListener::bind(&file).unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }
}
