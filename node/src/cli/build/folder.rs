//! A folder that is to be built: what of it is sent, and what is wrong with it, before anything is.
//!
//! A Dockerfile or `.dockerignore` that is a link counts as what it points to, if that is in the folder: as with Docker, for the Dockerfile.
//! Must never: follow another link, or open what is left out.

use std::fmt;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{FileType, Stat};

use super::beneath::{Listed, Root, kind};
use super::ignore::{IGNORE_BYTES_MAX, Ignore, IgnoreError};

const IGNORE_FILE: &str = ".dockerignore";
/// What it is called if nobody says otherwise.
pub(super) const DOCKERFILE: &str = "Dockerfile";
/// Most files and folders of a context: their names are held in memory.
const ENTRIES_MAX: usize = 500_000;
/// Largest entries that are named when there is too much.
const NAMED_MAX: usize = 5;

/// What is sent of a folder, in the order in which it is sent.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) root: Root,
    pub(super) entries: Vec<Entry>,
    /// Path of the Dockerfile in it.
    pub(super) dockerfile: String,
}

/// A file, folder or link in it.
#[derive(Debug)]
pub(super) struct Entry {
    /// From the root.
    pub(super) path: PathBuf,
    pub(super) what: What,
    pub(super) mode: u32,
    /// Seconds since 1970.
    pub(super) modified: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum What {
    File { bytes: u64 },
    Folder,
    Link(PathBuf),
}

/// Why a folder can not be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    #[error("{0} is no folder that can be built")]
    NoFolder(String),
    #[error("there is no Dockerfile at {0}")]
    NoDockerfile(String),
    #[error("the Dockerfile {0} is not in the folder")]
    DockerfileOutside(String),
    #[error("{path} is no regular file")]
    NoFile { path: String },
    #[error("{path} leads out of the folder, to {target}")]
    LeadsOut { path: String, target: String },
    #[error("{path} is {what}, which can not be sent")]
    Special { path: String, what: &'static str },
    #[error("{path} can not be read: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("the folder has more than {ENTRIES_MAX} files")]
    TooMany,
    #[error("the folder has {bytes}, and the node takes {limit} at most; the largest are {largest}")]
    TooLarge { bytes: String, limit: String, largest: String },
    #[error("{0}")]
    Ignore(#[from] IgnoreError),
    #[error("{path} changed while it was being read")]
    Changed { path: String },
}

impl FolderError {
    /// What to do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::NoFolder(_) => "give the folder that is to be built; the Dockerfile in it with -f",
            Self::NoDockerfile(_) => "name another with -f",
            Self::DockerfileOutside(_) => "copy it into the folder, or name one that is there with -f",
            Self::NoFile { .. } => "put a file in its place",
            Self::LeadsOut { .. } => "list it in .dockerignore, or copy what it points to into the folder",
            Self::Special { .. } => "list it in .dockerignore",
            Self::Unreadable { .. } => "list it in .dockerignore, or make it readable",
            Self::TooMany => "list what a build does not need in .dockerignore",
            Self::TooLarge { .. } => {
                "list what a build does not need in .dockerignore, or raise limits.build_context of the node"
            }
            Self::Ignore(_) => "close the bracket, or write a character after the backslash",
            Self::Changed { .. } => "try again when nothing writes to it",
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn unreadable(path: &Path, source: io::Error) -> FolderError {
    FolderError::Unreadable { path: shown(path), source }
}

impl Folder {
    /// Looks through the folder. `dockerfile`: from the working folder, as it was given.
    pub(super) fn look(root: &Path, dockerfile: Option<&Path>) -> Result<Self, FolderError> {
        let no_folder = |why: &dyn fmt::Display| FolderError::NoFolder(format!("{} ({why})", shown(root)));
        let path = root.canonicalize().map_err(|error| no_folder(&error))?;
        if !path.is_dir() {
            return Err(no_folder(&"it is a file"));
        }
        let root = Root::open(&path).map_err(|error| no_folder(&error))?;
        let dockerfile = dockerfile_in(&root, &path, dockerfile)?;
        let ignore = read_ignore(&root, &path)?;
        let always = |path: &str| path == dockerfile || path == IGNORE_FILE;
        let mut entries = Vec::new();
        let mut open = vec![(PathBuf::new(), Rc::new(ignore.of_root()))];
        while let Some((folder, above)) = open.pop() {
            let mut listed = root.list(&folder).map_err(|error| unreadable(&folder, error))?;
            while let Some(name) = listed.next() {
                let name = name.map_err(|error| unreadable(&folder, error))?;
                let path = folder.join(&name);
                let text = path.to_string_lossy();
                let stat = listed.stat(&name);
                let is_folder = stat.as_ref().is_ok_and(|stat| kind(stat) == FileType::Directory);
                let judged = is_folder.then(|| ignore.of_folder(&above, &text));
                let leaves_out = match &judged {
                    Some(judged) => judged.leaves_out(),
                    None => ignore.leaves_out(&above, &text),
                };
                let is_sent = always(&text) || !leaves_out;
                let stat = match stat {
                    Ok(stat) => stat,
                    // Gone since it was listed, or nobody's business.
                    Err(error) if error.kind() == io::ErrorKind::NotFound || !is_sent => continue,
                    Err(error) => return Err(unreadable(&path, error)),
                };
                if let Some(judged) = judged {
                    let holds_dockerfile = dockerfile.starts_with(&format!("{text}/"));
                    if is_sent || holds_dockerfile || ignore.may_take_out_below(&text) {
                        open.push((path.clone(), Rc::new(judged)));
                    }
                }
                if is_sent {
                    entries.push(entry(&listed, &name, path, &stat)?);
                }
                if entries.len() > ENTRIES_MAX {
                    return Err(FolderError::TooMany);
                }
            }
        }
        // So that the same folder is the same bytes.
        entries.sort_by(|a, b| a.path.as_os_str().as_bytes().cmp(b.path.as_os_str().as_bytes()));
        Ok(Self { root, entries, dockerfile })
    }

    /// Bytes of all files.
    pub(super) fn file_bytes(&self) -> u64 {
        self.entries.iter().map(Entry::bytes).sum()
    }

    /// The largest files, for people.
    pub(super) fn largest(&self, in_words: impl Fn(u64) -> String) -> String {
        let mut files: Vec<&Entry> = self.entries.iter().filter(|entry| entry.bytes() > 0).collect();
        files.sort_by_key(|entry| std::cmp::Reverse(entry.bytes()));
        let named = files.iter().take(NAMED_MAX);
        let named = named.map(|entry| format!("{} ({})", shown(&entry.path), in_words(entry.bytes())));
        named.collect::<Vec<_>>().join(", ")
    }
}

impl Entry {
    fn bytes(&self) -> u64 {
        match self.what {
            What::File { bytes } => bytes,
            What::Folder | What::Link(_) => 0,
        }
    }
}

/// The Dockerfile's path from the root. Of a link, that of its target: the engine would not follow it.
fn dockerfile_in(root: &Root, root_path: &Path, given: Option<&Path>) -> Result<String, FolderError> {
    let path = given.map_or_else(|| root_path.join(DOCKERFILE), Path::to_owned);
    let missing = |_| FolderError::NoDockerfile(shown(&path));
    let found = path.canonicalize().map_err(missing)?;
    let inside = found.strip_prefix(root_path).map_err(|_| FolderError::DockerfileOutside(shown(&path)))?;
    match root.file(inside) {
        Ok(Some(_)) => {}
        Ok(None) => return Err(FolderError::NoFile { path: shown(&path) }),
        Err(error) => return Err(unreadable(inside, error)),
    }
    inside.to_str().map(str::to_owned).ok_or_else(|| {
        unreadable(inside, io::Error::new(io::ErrorKind::InvalidData, "its name is not valid UTF-8"))
    })
}

fn read_ignore(root: &Root, root_path: &Path) -> Result<Ignore, FolderError> {
    let failed = |error| unreadable(Path::new(IGNORE_FILE), error);
    let found = match root_path.join(IGNORE_FILE).canonicalize() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ignore::default()),
        Err(error) => return Err(failed(error)),
    };
    let path = || IGNORE_FILE.to_owned();
    let inside = found
        .strip_prefix(root_path)
        .map_err(|_| FolderError::LeadsOut { path: path(), target: shown(&found) })?;
    let file = root.file(inside).map_err(failed)?.ok_or_else(|| FolderError::NoFile { path: path() })?;
    let mut text = Vec::new();
    file.take(IGNORE_BYTES_MAX + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > IGNORE_BYTES_MAX {
        let error =
            io::Error::new(io::ErrorKind::InvalidData, format!("it has over {IGNORE_BYTES_MAX} bytes"));
        return Err(failed(error));
    }
    Ok(Ignore::parse(&String::from_utf8_lossy(&text))?)
}

fn entry(listed: &Listed, name: &Path, path: PathBuf, stat: &Stat) -> Result<Entry, FolderError> {
    let special = |what| Err(FolderError::Special { path: shown(&path), what });
    let what = match kind(stat) {
        FileType::Directory => What::Folder,
        FileType::RegularFile => What::File { bytes: u64::try_from(stat.st_size).unwrap_or(0) },
        FileType::Symlink => {
            let target = listed.target(name).map_err(|error| unreadable(&path, error))?;
            if leads_out(&path, &target) {
                return Err(FolderError::LeadsOut { path: shown(&path), target: shown(&target) });
            }
            What::Link(target)
        }
        FileType::Socket => return special("a socket"),
        FileType::Fifo => return special("a named pipe"),
        _ => return special("a device"),
    };
    let modified = u64::try_from(stat.st_mtime).unwrap_or(0);
    Ok(Entry { path, what, mode: stat.st_mode & 0o7777, modified })
}

/// Whether a link at `path` points out of the folder.
fn leads_out(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() as i64 - 1;
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return true,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn paths(folder: &Folder) -> Vec<String> {
        folder.entries.iter().map(|entry| shown(&entry.path)).collect()
    }

    fn look(dir: &tempfile::TempDir) -> Result<Folder, FolderError> {
        Folder::look(dir.path(), None)
    }

    #[test]
    fn what_is_not_left_out_is_sent_in_order_the_dockerfile_always() {
        let dir = folder(&[
            ("src/main.c", "int"),
            ("src/main.o", "object"),
            ("target/debug/app", "large"),
            ("target/keep/this", "k"),
            ("Dockerfile", "FROM scratch"),
            (".dockerignore", "*.md\nDockerfile\n.dockerignore\n**/*.o\ntarget\n!target/keep\n"),
            ("README.md", "text"),
        ]);
        symlink("main.c", dir.path().join("src/link")).unwrap();
        let found = look(&dir).unwrap();
        let expected = [
            ".dockerignore",
            "Dockerfile",
            "src",
            "src/link",
            "src/main.c",
            "target/keep",
            "target/keep/this",
        ];
        assert_eq!(paths(&found), expected);
        assert_eq!(found.dockerfile, "Dockerfile");
        assert_eq!(found.entries[3].what, What::Link("main.c".into()));
        assert_eq!(found.file_bytes(), 12 + 57 + 3 + 1);
        assert_eq!(
            found.largest(|bytes| format!("{bytes} B")).split(", ").next(),
            Some(".dockerignore (57 B)")
        );
    }

    #[test]
    fn a_dockerfile_is_found_where_it_is_and_must_be_inside() {
        let dir = folder(&[("docker/app", "FROM scratch"), (".dockerignore", "docker")]);
        let other = folder(&[("Dockerfile", "FROM scratch")]);
        assert!(matches!(look(&dir), Err(FolderError::NoDockerfile(_))));
        let found = Folder::look(dir.path(), Some(&dir.path().join("docker/app"))).unwrap();
        assert_eq!(
            (found.dockerfile.as_str(), paths(&found)),
            ("docker/app", vec![".dockerignore".into(), "docker/app".into()])
        );
        let outside = Folder::look(dir.path(), Some(&other.path().join("Dockerfile"))).unwrap_err();
        assert!(outside.to_string().contains("not in the folder"), "{outside}");
        symlink(other.path().join("Dockerfile"), dir.path().join("Dockerfile")).unwrap();
        assert!(matches!(look(&dir), Err(FolderError::DockerfileOutside(_))));
        fs::remove_file(dir.path().join("Dockerfile")).unwrap();
        symlink("docker/app", dir.path().join("Dockerfile")).unwrap();
        let linked = look(&dir).unwrap();
        assert_eq!(linked.dockerfile, "docker/app", "what it points to is what is built");
        let none = Folder::look(&dir.path().join("none"), None).unwrap_err();
        assert!(none.to_string().contains("is no folder"), "{none}");
        let file = Folder::look(&other.path().join("Dockerfile"), None).unwrap_err();
        assert!(file.to_string().contains("it is a file"), "{file}");
    }

    #[test]
    fn what_leads_out_and_what_is_no_file_is_refused_unless_it_is_left_out() {
        for (target, leads) in
            [("../x", true), ("/etc/passwd", true), ("sub/../../x", true), ("sub/../x", false)]
        {
            let dir = folder(&[("Dockerfile", "FROM scratch"), ("sub/y", "")]);
            symlink(target, dir.path().join("link")).unwrap();
            match look(&dir) {
                Err(FolderError::LeadsOut { path, target: to }) if leads => {
                    assert_eq!((path.as_str(), to.as_str()), ("link", target));
                    fs::write(dir.path().join(".dockerignore"), "link").unwrap();
                    look(&dir).unwrap();
                }
                found => assert!(!leads && found.is_ok(), "{target}: {found:?}"),
            }
        }
        let dir = folder(&[("Dockerfile", "FROM scratch")]);
        let _socket = UnixListener::bind(dir.path().join("socket")).unwrap();
        let refused = look(&dir).unwrap_err();
        assert!(refused.to_string().contains("socket is a socket"), "{refused}");
        assert!(refused.hint().contains(".dockerignore"));
        fs::write(dir.path().join(".dockerignore"), "socket").unwrap();
        look(&dir).unwrap();
        fs::write(dir.path().join(".dockerignore"), "[").unwrap();
        assert!(matches!(look(&dir), Err(FolderError::Ignore(_))));
    }

    #[test]
    fn the_two_files_that_are_read_are_files_in_the_folder() {
        let fifo = |path: &Path| {
            rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
        };
        let other = folder(&[("ignore", "x")]);
        for name in [DOCKERFILE, IGNORE_FILE] {
            let dir = folder(&[("Dockerfile", "FROM scratch"), ("x", "x")]);
            let path = dir.path().join(name);
            let _ = fs::remove_file(&path);
            fifo(&path);
            // Nobody writes to it, and nobody waits for that.
            let refused = look(&dir).unwrap_err();
            assert!(matches!(refused, FolderError::NoFile { .. }), "{refused}");
            assert!(refused.to_string().contains(name) && refused.hint().contains("a file"), "{refused}");
        }
        let dir = folder(&[("Dockerfile", "FROM scratch"), ("x", "x"), ("docker/ignore", "x\n")]);
        let link = dir.path().join(IGNORE_FILE);
        symlink(other.path().join("ignore"), &link).unwrap();
        let refused = look(&dir).unwrap_err();
        assert!(matches!(refused, FolderError::LeadsOut { .. }), "{refused}");
        fs::remove_file(&link).unwrap();
        symlink("docker/ignore", &link).unwrap();
        let found = look(&dir).unwrap();
        assert_eq!(paths(&found), [".dockerignore", "Dockerfile", "docker", "docker/ignore"]);
    }
}
