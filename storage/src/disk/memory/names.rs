//! Names of a memory disk: the current tree, the durable one, and the changes of each folder between them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::Chance;
use crate::disk::path;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(u64),
}

/// Paths and what they name. The root is not in the maps: it is always there.
#[derive(Debug, Default)]
pub(super) struct Names {
    current: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    unsynced: Vec<Change>,
}

/// A change of the names in one folder that survives a crash whole or not at all.
#[derive(Debug)]
struct Change {
    dir: String,
    edits: Vec<(String, Option<Node>)>,
    /// A sync of the folder failed after it: it may survive, but no later sync makes sure of it.
    abandoned: bool,
}

impl Names {
    pub(super) fn file(&self, path: &str) -> io::Result<u64> {
        match self.current.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn set(&mut self, path: &str, node: Node) -> io::Result<()> {
        let dir = self.parent_dir(path)?;
        self.change(dir, vec![(path.to_owned(), Some(node))]);
        Ok(())
    }

    pub(super) fn make_dir(&mut self, dir: &str) -> io::Result<()> {
        match self.current.get(dir) {
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => self.set(dir, Node::Dir),
        }
    }

    pub(super) fn remove(&mut self, path: &str) -> io::Result<()> {
        self.file(path)?;
        let dir = self.parent_dir(path)?;
        self.change(dir, vec![(path.to_owned(), None)]);
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let node = Node::File(self.file(from)?);
        let (from_dir, to_dir) = (self.parent_dir(from)?, self.parent_dir(to)?);
        if self.current.get(to) == Some(&Node::Dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if from == to {
            return Ok(());
        }
        let added = (to.to_owned(), Some(node));
        let removed = (from.to_owned(), None);
        if from_dir == to_dir {
            self.change(from_dir, vec![added, removed]);
        } else {
            self.change(to_dir, vec![added]);
            self.change(from_dir, vec![removed]);
        }
        Ok(())
    }

    pub(super) fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.check_dir(dir)?;
        let inside = |path: &&String| path::split(path).is_ok_and(|(parent, _)| parent == dir);
        Ok(self.current.keys().filter(inside).map(|path| base(path).to_owned()).collect())
    }

    pub(super) fn sync(&mut self, dir: &str, failed: bool) -> io::Result<()> {
        self.check_dir(dir)?;
        if failed {
            self.unsynced
                .iter_mut()
                .filter(|change| change.dir == dir)
                .for_each(|change| change.abandoned = true);
            return Ok(());
        }
        let (synced, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unsynced)
            .into_iter()
            .partition(|change| change.dir == dir && !change.abandoned);
        self.unsynced = rest;
        for change in synced {
            // Whatever became of an abandoned change, the synced one of the same name is what is there.
            for (path, _) in &change.edits {
                let abandoned = self.unsynced.iter_mut().filter(|old| old.dir == dir);
                abandoned.for_each(|old| old.edits.retain(|(of_old, _)| of_old != path));
            }
            apply_edits(&mut self.durable, &change.edits);
        }
        Ok(())
    }

    /// Keeps a prefix of each folder's unsynced changes, then drops what lost its folder.
    pub(super) fn crash(&mut self, chance: &mut dyn Chance) {
        let mut stopped = BTreeSet::new();
        for change in std::mem::take(&mut self.unsynced) {
            if stopped.contains(&change.dir) || chance.below(2) == 0 {
                stopped.insert(change.dir);
            } else {
                apply_edits(&mut self.durable, &change.edits);
            }
        }
        *self = self.durable();
    }

    /// Names of which all is durable: those that are left if nothing unsynced survives.
    pub(super) fn durable(&self) -> Self {
        let is_dir = |dir: &str| self.durable.get(dir) == Some(&Node::Dir);
        let reachable = |path: &str| path.match_indices('/').all(|(slash, _)| is_dir(&path[..slash]));
        let kept = self.durable.iter().filter(|(path, _)| reachable(path));
        let durable: BTreeMap<_, _> = kept.map(|(path, node)| (path.clone(), *node)).collect();
        Self { current: durable.clone(), durable, unsynced: Vec::new() }
    }

    pub(super) fn inodes(&self) -> BTreeSet<u64> {
        let file = |node: &Node| match node {
            Node::File(inode) => Some(*inode),
            Node::Dir => None,
        };
        self.current.values().filter_map(file).collect()
    }

    fn parent_dir(&self, path: &str) -> io::Result<String> {
        let (dir, _) = path::split(path)?;
        self.check_dir(dir)?;
        Ok(dir.to_owned())
    }

    fn check_dir(&self, dir: &str) -> io::Result<()> {
        match self.current.get(dir) {
            _ if dir.is_empty() => Ok(()),
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn change(&mut self, dir: String, edits: Vec<(String, Option<Node>)>) {
        let change = Change { dir, edits, abandoned: false };
        apply_edits(&mut self.current, &change.edits);
        self.unsynced.push(change);
    }
}

fn apply_edits(names: &mut BTreeMap<String, Node>, edits: &[(String, Option<Node>)]) {
    for (path, node) in edits {
        match node {
            Some(node) => names.insert(path.clone(), *node),
            None => names.remove(path),
        };
    }
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
