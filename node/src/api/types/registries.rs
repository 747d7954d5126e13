//! Credentials of registries. Passwords go in and never come out.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How the fleet is to be known to a registry.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegistryLogin {
    pub username: String,
    /// A password or a token.
    pub password: String,
}

impl std::fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryLogin").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A registry that the fleet has credentials for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RegistryView {
    pub registry: String,
    pub username: String,
    /// The node that took them.
    pub set_by: String,
    pub set_at_ms: u64,
}
