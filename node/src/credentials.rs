//! Credentials of registries: sealed under the fleet's key, opened for one call to an engine.
//!
//! Must never: keep them open, log them, or give them out in a reply.

use longshore_model::control::{AuthorityRecord, ControlState, CredentialRecord};
use longshore_model::image::ImageReference;
use longshore_raft::Runtime;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::docker::Credentials;

/// What the key is for: blake3's key derivation, section 2.2 of its paper.
const CONTEXT: &str = "longshore 2026-11-30 registry credentials";
/// The key follows from the authority's, which every member holds: whoever has a data folder has both.
fn key(authority: &AuthorityRecord) -> LessSafeKey {
    let key = Zeroizing::new(blake3::derive_key(CONTEXT, &authority.key_pem));
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*key).expect("the key has the algorithm's length"))
}

/// What is bound to the sealed password, so that it can not be given to another registry, or under another name.
fn bound(registry: &str, username: &str) -> Vec<u8> {
    [registry.as_bytes(), &[0], username.as_bytes()].concat()
}

/// A nonce and the sealed password.
pub(crate) fn seal<R: Runtime>(
    authority: &AuthorityRecord,
    registry: &str,
    username: &str,
    password: &str,
) -> Vec<u8> {
    let mut nonce = [0; NONCE_LEN];
    R::entropy(&mut nonce);
    let mut sealed = password.as_bytes().to_vec();
    let aad = Aad::from(bound(registry, username));
    let done = key(authority).seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed);
    done.expect("a password is far shorter than the algorithm's limit");
    [nonce.as_slice(), &sealed].concat()
}

fn open(authority: &AuthorityRecord, registry: &str, record: &CredentialRecord) -> Option<Zeroizing<String>> {
    let (nonce, sealed) = record.sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let aad = Aad::from(bound(registry, &record.username));
    let opened = key(authority).open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut sealed).ok()?;
    Some(Zeroizing::new(String::from_utf8(opened.to_vec()).ok()?))
}

/// Those that the fleet has for an image's registry.
pub(crate) fn credentials_for(state: &ControlState, image: &ImageReference) -> Option<Credentials> {
    let (registry, fleet) = (image.registry(), state.fleet.as_ref()?);
    let record = state.credentials.get(registry)?;
    let password = open(&fleet.authority, registry, record)?;
    Some(Credentials { registry: registry.to_owned(), username: record.username.clone(), password })
}

/// All that the fleet has, by registry: a build begins with images that only its Dockerfile knows.
pub(crate) fn all_credentials(state: &ControlState) -> Vec<Credentials> {
    let Some(fleet) = &state.fleet else { return Vec::new() };
    let opened = state.credentials.all().filter_map(|(registry, record)| {
        let password = open(&fleet.authority, registry, record)?;
        Some(Credentials { registry: registry.clone(), username: record.username.clone(), password })
    });
    opened.collect()
}

#[cfg(test)]
mod tests {
    use longshore_raft::NodeId;
    use longshore_raft::consensus::runtime::TokioRuntime;

    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_registry_its_name_and_its_fleet_only() {
        let authority =
            |key: &str| AuthorityRecord { certificate_pem: Vec::new(), key_pem: key.as_bytes().to_vec() };
        let sealed = seal::<TokioRuntime>(&authority("a"), "r.example", "ci", "s3cret");
        assert!(!sealed.windows(6).any(|window| window == b"s3cret"));
        let record = |username: &str, sealed: &[u8]| CredentialRecord {
            username: username.into(),
            sealed: sealed.to_vec(),
            by: NodeId(1),
            unix_ms: 0,
        };
        let opened = |key: &str, registry: &str, record: &CredentialRecord| {
            open(&authority(key), registry, record).map(|password| password.to_string())
        };
        let good = record("ci", &sealed);
        assert_eq!(opened("a", "r.example", &good).as_deref(), Some("s3cret"));
        assert_eq!(opened("b", "r.example", &good), None);
        assert_eq!(opened("a", "other.example", &good), None);
        assert_eq!(opened("a", "r.example", &record("root", &sealed)), None);
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(opened("a", "r.example", &record("ci", &flipped)), None, "byte {at}");
        }
        assert_eq!(opened("a", "r.example", &record("ci", &sealed[..5])), None);
        assert_ne!(
            sealed,
            seal::<TokioRuntime>(&authority("a"), "r.example", "ci", "s3cret"),
            "never twice alike"
        );
    }
}
