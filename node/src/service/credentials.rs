//! Credentials of registries, as people set and see them.
//!
//! Must never: give a password out, or log it.

use longshore_model::control::{Command, CredentialRecord};
use longshore_model::image::{DEFAULT_REGISTRY, ImageReference};
use longshore_raft::Runtime;

use super::Service;
use super::views::name_of;
use crate::api::types::*;
use crate::credentials::seal;

/// Longest name and password.
const NAME_BYTES_MAX: usize = 255;
const PASSWORD_BYTES_MAX: usize = 8 << 10;

/// As images spell it: `docker.io` for what people call by many names.
fn registry_name(text: &str) -> Result<String, ApiError> {
    let host = text.trim_start_matches("https://").trim_end_matches('/');
    let host = match host {
        "index.docker.io" | "index.docker.io/v1" | "hub.docker.com" | "registry-1.docker.io" => {
            DEFAULT_REGISTRY
        }
        host => host,
    };
    let named = format!("{host}/a:b").parse::<ImageReference>().ok().map(|image| image.registry().to_owned());
    named.filter(|named| named == host).ok_or_else(|| {
        let message = format!("{text:?} is not a registry such as docker.io or registry.example:5000");
        ApiError::new(ErrorCode::Invalid, message)
    })
}

impl<R: Runtime> Service<R> {
    pub(super) async fn log_in(
        &self,
        registry: &str,
        login: RegistryLogin,
    ) -> Result<RegistryView, ApiError> {
        let registry = registry_name(registry)?;
        let invalid = |message: String| Err(ApiError::new(ErrorCode::Invalid, message));
        if login.username.is_empty() || login.username.len() > NAME_BYTES_MAX || login.username.contains(':')
        {
            return invalid(format!("a user's name has 1 to {NAME_BYTES_MAX} bytes and no colon"));
        }
        if login.password.is_empty() || login.password.len() > PASSWORD_BYTES_MAX {
            return invalid(format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes"));
        }
        self.linearize().await?;
        let authority =
            self.core.group.with_state(|state| state.fleet.as_ref().map(|fleet| fleet.authority.clone()));
        let authority =
            authority.ok_or_else(|| ApiError::new(ErrorCode::Conflict, "there is no fleet yet"))?;
        let sealed = seal::<R>(&authority, &registry, &login.username, &login.password);
        let record = CredentialRecord {
            username: login.username,
            sealed,
            by: self.core.me,
            unix_ms: R::unix_time_ms(),
        };
        self.propose(Command::SetCredential { registry: registry.clone(), record }).await?;
        self.until_shown().await?;
        let views = self.registry_views();
        let found = views.into_iter().find(|view| view.registry == registry);
        found.ok_or_else(|| ApiError::new(ErrorCode::Conflict, "somebody removed it at the same time"))
    }

    pub(super) async fn log_out(&self, registry: &str) -> Result<RegistryView, ApiError> {
        let registry = registry_name(registry)?;
        self.linearize().await?;
        let before = self.registry_views().into_iter().find(|view| view.registry == registry);
        self.propose(Command::RemoveCredential { registry: registry.clone() }).await?;
        let view = RegistryView { registry, username: String::new(), set_by: String::new(), set_at_ms: 0 };
        Ok(before.unwrap_or(view))
    }

    pub(super) async fn registries(&self) -> Result<Vec<RegistryView>, ApiError> {
        self.linearize().await?;
        Ok(self.registry_views())
    }

    fn registry_views(&self) -> Vec<RegistryView> {
        self.core.group.with_state(|state| {
            let view = |(registry, record): (&String, &CredentialRecord)| RegistryView {
                registry: registry.clone(),
                username: record.username.clone(),
                set_by: name_of(state, record.by),
                set_at_ms: record.unix_ms,
            };
            state.credentials.all().map(view).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_named_as_images_name_them() {
        for (text, name) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("registry.example:5000", "registry.example:5000"),
            ("https://r.example/", "r.example"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(registry_name(text).unwrap(), name, "{text}");
        }
        for bad in ["", "a b", "r.example/path", "nginx", "http://r.example"] {
            assert!(registry_name(bad).unwrap_err().message.contains("not a registry"), "{bad}");
        }
    }
}
