//! Builds: what is to be made, and the folders that it is made of.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

fn usual_dockerfile() -> String {
    "Dockerfile".to_owned()
}

/// An image to be built out of a folder that was sent before (`POST /v1/contexts`), to the same node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildRequest {
    /// The folder's digest.
    pub context: String,
    /// What the image is called; one at least.
    pub tags: Vec<String>,
    /// In the folder.
    #[serde(default = "usual_dockerfile")]
    pub dockerfile: String,
    /// `NAME=VALUE`. They are recorded, and in the image's history: no place for secrets.
    #[serde(default)]
    pub args: Vec<String>,
    /// The stage that is wanted; the last one if there is none.
    #[serde(default)]
    pub target: Option<String>,
    /// Do every step again.
    #[serde(default)]
    pub no_cache: bool,
    /// Ask the registries for images that it begins with, also for those that are there.
    #[serde(default)]
    pub pull: bool,
}

/// What a build is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildView {
    /// The folder's digest, and its bytes as a tar.
    pub context: String,
    pub context_bytes: u64,
    /// The node that it was sent to.
    pub holder: String,
    pub dockerfile: String,
    /// Names of its arguments; their values are not shown.
    pub args: Vec<String>,
    pub target: Option<String>,
}

/// A folder that this node has, as a tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContextView {
    /// blake3 of its bytes, 64 hexadecimal digits.
    pub digest: String,
    pub bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContextList {
    pub contexts: Vec<ContextView>,
    /// Most bytes of one that this node takes, and of all that it keeps.
    pub context_max_bytes: u64,
    pub kept_max_bytes: u64,
}
