//! What a node keeps of itself in its data folder: identity, keys, and how often it was started.
//!
//! Invariants: `identity.json` is written last and replaced atomically, so that a folder either belongs to a node, whole, or to
//! none; a key that was made is kept, so that a join cut short is taken up by the same node. Must never: print a key.

use std::sync::Arc;

use longshore_raft::transport::pki::{Authority, Identity, NodeKey};
use longshore_raft::{FleetId, NodeId, ReplicaId};
use longshore_storage::Disk;
use serde::{Deserialize, Serialize};

const IDENTITY: &str = "identity.json";
const KEY: &str = "node.key";
const CERTIFICATE: &str = "node.crt";
const AUTHORITY: &str = "ca.crt";
/// The authority of a fleet whose first command is not committed yet: certificate and key.
const FOUNDING_CERTIFICATE: &str = "founding.crt";
const FOUNDING_KEY: &str = "founding.key";
/// Layout of the data folder.
const LAYOUT_VERSION: u32 = 1;
/// Most bytes of one of these files; they have a few kilobytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why the data folder cannot be used. None is worth a retry.
#[derive(Debug, thiserror::Error)]
pub enum NodeStoreError {
    #[error("cannot {action} {file} in the data folder: {source}")]
    Io { action: &'static str, file: &'static str, source: std::io::Error },
    #[error("{file} in the data folder is damaged: {detail}")]
    Damaged { file: &'static str, detail: String },
    #[error(
        "the data folder has layout {found}, this longshore knows {LAYOUT_VERSION}: run the newer longshore"
    )]
    Newer { found: u32 },
}

/// Which node a data folder belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct IdentityFile {
    layout: u32,
    fleet: String,
    node: u64,
    replica: u64,
    name: String,
    /// Starts of the process, this one included.
    incarnation: u64,
    /// Why the node is no longer in the fleet, once it knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gone: Option<String>,
}

/// Whose a data folder is, for tools and simulators that look at a disk from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    pub node: NodeId,
    pub replica: ReplicaId,
    pub name: String,
    /// How often its process was started.
    pub incarnation: u64,
}

/// Looks up whose a data folder is; `None` if it is nobody's yet.
pub fn owner_of(disk: Arc<dyn Disk>) -> Result<Option<Owner>, NodeStoreError> {
    let found = NodeStore::new(disk).identity_file()?;
    Ok(found.map(|file| Owner {
        node: NodeId(file.node),
        replica: ReplicaId(file.replica),
        name: file.name,
        incarnation: file.incarnation,
    }))
}

/// A node as its data folder tells it.
#[derive(Debug, Clone)]
pub(crate) struct StoredNode {
    pub(crate) identity: Identity,
    pub(crate) replica: ReplicaId,
    pub(crate) name: String,
    pub(crate) gone: Option<String>,
}

/// The node's own files, through the disk port.
#[derive(Debug, Clone)]
pub(crate) struct NodeStore {
    disk: Arc<dyn Disk>,
}

impl NodeStore {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk }
    }

    fn read(&self, file: &'static str) -> Result<Option<Vec<u8>>, NodeStoreError> {
        let io = |source| NodeStoreError::Io { action: "read", file, source };
        let handle = match self.disk.open(file, false) {
            Ok(handle) => handle,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io(e)),
        };
        let len = handle.len().map_err(io)?;
        if len > FILE_BYTES_MAX {
            return Err(NodeStoreError::Damaged { file, detail: format!("it has {len} bytes") });
        }
        let mut bytes = vec![0; len as usize];
        let got = handle.read_at(&mut bytes, 0).map_err(io)?;
        bytes.truncate(got);
        Ok(Some(bytes))
    }

    fn write(&self, file: &'static str, bytes: &[u8]) -> Result<(), NodeStoreError> {
        let temporary = format!("{file}.tmp");
        let write = || {
            let handle = self.disk.open(&temporary, true)?;
            handle.set_len(0)?;
            handle.write_at(bytes, 0)?;
            handle.sync_data()?;
            self.disk.rename(&temporary, file)?;
            self.disk.sync_dir("")
        };
        write().map_err(|source| NodeStoreError::Io { action: "write", file, source })
    }

    fn remove(&self, file: &'static str) -> Result<(), NodeStoreError> {
        match self.disk.remove(file).and_then(|()| self.disk.sync_dir("")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(NodeStoreError::Io { action: "remove", file, source: e })
            }
            _ => Ok(()),
        }
    }

    fn must_read(&self, file: &'static str) -> Result<Vec<u8>, NodeStoreError> {
        let missing = || NodeStoreError::Damaged { file, detail: "it is missing".into() };
        self.read(file)?.ok_or_else(missing)
    }

    fn identity_file(&self) -> Result<Option<IdentityFile>, NodeStoreError> {
        let Some(bytes) = self.read(IDENTITY)? else { return Ok(None) };
        let damaged =
            |e: serde_json::Error| NodeStoreError::Damaged { file: IDENTITY, detail: e.to_string() };
        let layout = serde_json::from_slice::<serde_json::Value>(&bytes).map_err(damaged)?["layout"].as_u64();
        match layout {
            Some(found) if found > u64::from(LAYOUT_VERSION) => {
                Err(NodeStoreError::Newer { found: u32::try_from(found).unwrap_or(u32::MAX) })
            }
            _ => serde_json::from_slice(&bytes).map(Some).map_err(damaged),
        }
    }

    fn write_identity(&self, file: &IdentityFile) -> Result<(), NodeStoreError> {
        let bytes = serde_json::to_vec_pretty(file).expect("an identity is plain data");
        self.write(IDENTITY, &bytes)
    }

    /// The node that this folder belongs to, if any.
    pub(crate) fn load(&self) -> Result<Option<StoredNode>, NodeStoreError> {
        let Some(file) = self.identity_file()? else { return Ok(None) };
        let (key, certificate, authority) =
            (self.must_read(KEY)?, self.must_read(CERTIFICATE)?, self.must_read(AUTHORITY)?);
        let identity = Identity::from_pem(&key, &certificate, &authority)
            .map_err(|e| NodeStoreError::Damaged { file: CERTIFICATE, detail: e.to_string() })?;
        if identity.node() != NodeId(file.node) || identity.fleet().to_string() != file.fleet {
            let detail = format!(
                "it names node {} of fleet {}, the certificate node {} of fleet {}",
                NodeId(file.node),
                file.fleet,
                identity.node(),
                identity.fleet()
            );
            return Err(NodeStoreError::Damaged { file: IDENTITY, detail });
        }
        let replica = ReplicaId(file.replica);
        let IdentityFile { name, gone, .. } = file;
        Ok(Some(StoredNode { identity, replica, name, gone }))
    }

    /// Makes the folder this node's.
    pub(crate) fn save(
        &self,
        identity: &Identity,
        replica: ReplicaId,
        name: &str,
    ) -> Result<(), NodeStoreError> {
        self.save_key(identity.key())?;
        self.write(CERTIFICATE, identity.certificate_pem().as_bytes())?;
        self.write(AUTHORITY, identity.authority_pem().as_bytes())?;
        self.write_identity(&IdentityFile {
            layout: LAYOUT_VERSION,
            fleet: identity.fleet().to_string(),
            node: identity.node().0,
            replica: replica.0,
            name: name.to_owned(),
            incarnation: 0,
            gone: None,
        })
    }

    /// Counts a start, durably; gives back its number.
    pub(crate) fn count_start(&self) -> Result<u64, NodeStoreError> {
        let mut file = self.must_identity()?;
        file.incarnation += 1;
        self.write_identity(&file)?;
        Ok(file.incarnation)
    }

    /// Remembers that the node is no longer in the fleet.
    pub(crate) fn mark_gone(&self, why: &str) -> Result<(), NodeStoreError> {
        let mut file = self.must_identity()?;
        file.gone = Some(why.to_owned());
        self.write_identity(&file)
    }

    fn must_identity(&self) -> Result<IdentityFile, NodeStoreError> {
        let missing = || NodeStoreError::Damaged { file: IDENTITY, detail: "it is missing".into() };
        self.identity_file()?.ok_or_else(missing)
    }

    pub(crate) fn save_key(&self, key: &NodeKey) -> Result<(), NodeStoreError> {
        self.write(KEY, key.to_pem().as_bytes())
    }

    /// The key of a join that was cut short, if there is one.
    pub(crate) fn load_key(&self) -> Result<Option<NodeKey>, NodeStoreError> {
        let Some(bytes) = self.read(KEY)? else { return Ok(None) };
        let damaged = |e: longshore_raft::transport::pki::PkiError| NodeStoreError::Damaged {
            file: KEY,
            detail: e.to_string(),
        };
        NodeKey::from_pem(&bytes).map(Some).map_err(damaged)
    }

    /// Keeps the authority of a fleet that is being founded, until its first command is committed.
    pub(crate) fn save_founding(&self, authority: &Authority) -> Result<(), NodeStoreError> {
        self.write(FOUNDING_CERTIFICATE, authority.certificate_pem().as_bytes())?;
        self.write(FOUNDING_KEY, authority.key_pem().as_bytes())
    }

    pub(crate) fn load_founding(&self, fleet: FleetId) -> Result<Option<Authority>, NodeStoreError> {
        let (Some(certificate), Some(key)) = (self.read(FOUNDING_CERTIFICATE)?, self.read(FOUNDING_KEY)?)
        else {
            return Ok(None);
        };
        let damaged = |detail: String| NodeStoreError::Damaged { file: FOUNDING_KEY, detail };
        let authority = Authority::from_pem(&certificate, &key).map_err(|e| damaged(e.to_string()))?;
        if authority.fleet() != fleet {
            return Err(damaged(format!("it is of fleet {}", authority.fleet())));
        }
        Ok(Some(authority))
    }

    pub(crate) fn forget_founding(&self) -> Result<(), NodeStoreError> {
        self.remove(FOUNDING_KEY)?;
        self.remove(FOUNDING_CERTIFICATE)
    }
}
