//! What a path on a disk may look like. Pure; both disks use it, so that neither takes a path the other refuses.

use std::io;

/// Most bytes of a path; PATH_MAX of Linux leaves room for the root in front.
pub const MAX_PATH_BYTES: usize = 1024;

/// Splits a path into its folder (empty for the root) and its name. Refuses, with `InvalidInput`, whatever could
/// lead out of the root: absolute paths, `.` and `..`, empty components.
pub(super) fn split(path: &str) -> io::Result<(&str, &str)> {
    components(path)?;
    Ok(path.rsplit_once('/').unwrap_or(("", path)))
}

/// The components of a file's path; at least one.
pub(super) fn components(path: &str) -> io::Result<Vec<&str>> {
    if path.len() > MAX_PATH_BYTES {
        return Err(refused(path, "is too long"));
    }
    let components: Vec<&str> = path.split('/').collect();
    for component in &components {
        match *component {
            "" => return Err(refused(path, "has an empty component")),
            "." | ".." => return Err(refused(path, "could leave the root")),
            name if name.contains('\0') => return Err(refused(path, "has a zero byte")),
            _ => {}
        }
    }
    Ok(components)
}

/// The components of a folder's path; none for the root, which is written as the empty path.
pub(super) fn dir_components(dir: &str) -> io::Result<Vec<&str>> {
    if dir.is_empty() { Ok(Vec::new()) } else { components(dir) }
}

fn refused(path: &str, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("the path {path:?} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_could_leave_the_root_are_refused() {
        for bad in ["", "/", "/etc/passwd", "..", "../x", "a/../b", "a//b", "a/", "./a", "a/.", "a\0b"] {
            let error = components(bad).expect_err(bad);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
        assert!(components(&"a".repeat(MAX_PATH_BYTES + 1)).is_err());
    }

    #[test]
    fn a_path_is_split_at_its_last_slash() {
        assert_eq!(split("a").unwrap(), ("", "a"));
        assert_eq!(split("a/b/c").unwrap(), ("a/b", "c"));
        assert_eq!(split("a/..b").unwrap(), ("a", "..b"));
        assert!(dir_components("").unwrap().is_empty());
    }
}
