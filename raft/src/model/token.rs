//! Join tokens: what a new node is given to find, and to trust, the fleet.
//!
//! `LSJ1-<authority's fingerprint>-<token id>-<secret>-<check>`, in base32 letters and digits that survive copying by
//! hand, any case. The fingerprint lets the joiner verify the fleet before it sends anything; the fleet stores only a hash
//! of the secret. The check tells a typo from a wrong token. Pure; must never print a secret but through [`JoinToken::reveal`].

use std::fmt;

use bincode::{Decode, Encode};
use data_encoding::{BASE32_NOPAD, BASE32_NOPAD_NOCASE};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const VERSION: &str = "LSJ1";
const VERSION_FAMILY: &str = "LSJ";
const FINGERPRINT_BYTES: usize = 32;
const ID_BYTES: usize = 5;
/// 160 bits: a whole number of base32 digits, and out of reach of guessing.
const SECRET_BYTES: usize = 20;
/// 20 bits: one typo in a million goes unnoticed here, and then fails at the fleet.
const CHECK_DIGITS: usize = 4;
const CHECK_CONTEXT: &str = "longshore 2026-11 join token check";
const HASH_CONTEXT: &str = "longshore 2026-11 join token secret";

/// Names a token in listings and in the log; not secret. Random, so that it tells nothing of how many there were.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct TokenId(pub [u8; ID_BYTES]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        part(text, "token id").map(TokenId)
    }
}

/// The secret of a token. Wiped when dropped; only its hash is ever stored.
#[derive(Clone)]
pub struct TokenSecret(Zeroizing<[u8; SECRET_BYTES]>);

impl TokenSecret {
    /// From `entropy`, which must be random and fit for keys.
    pub fn new(entropy: [u8; SECRET_BYTES]) -> Self {
        Self(Zeroizing::new(entropy))
    }

    /// What the fleet stores: BLAKE3, bound to the token's id, so that equal secrets would not look equal.
    pub fn hash(&self, id: TokenId) -> SecretHash {
        let mut material = Zeroizing::new([0u8; ID_BYTES + SECRET_BYTES]);
        material[..ID_BYTES].copy_from_slice(&id.0);
        material[ID_BYTES..].copy_from_slice(&self.0[..]);
        SecretHash(blake3::derive_key(HASH_CONTEXT, &material[..]))
    }

    /// The bytes, for the one request that proves possession.
    pub fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(redacted)")
    }
}

/// The hash of a token's secret, safe to replicate. Compares in constant time only.
#[derive(Debug, Clone, Encode, Decode)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    /// Whether `other` is the same hash, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &SecretHash) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A whole join token.
#[derive(Debug, Clone)]
pub struct JoinToken {
    /// BLAKE3 of the authority's certificate (DER).
    pub authority: [u8; FINGERPRINT_BYTES],
    pub id: TokenId,
    pub secret: TokenSecret,
}

/// What is wrong with the text of a token. All mean: copy it again, whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("this is not a join token: one begins with {VERSION}-; print one with `longshore token create`")]
    NotAToken,
    #[error("this join token is of version {0}, which this longshore does not know; use the fleet's version")]
    Version(String),
    #[error("this join token has {found} parts instead of 5; was it copied whole?")]
    Parts { found: usize },
    #[error(
        "the {part} in this join token has {found} characters instead of {expected}; was it copied whole?"
    )]
    Length { part: &'static str, expected: usize, found: usize },
    #[error("the {part} in this join token has a character that cannot be there, at position {position}")]
    Character { part: &'static str, position: usize },
    #[error("this join token has a typo in it: its check does not fit; copy it again")]
    Check,
}

impl JoinToken {
    /// The token as text: the secret in the clear, for the person who asked for it. Lower case but for the version.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(128));
        text.push_str(VERSION);
        for part in [&self.authority[..], &self.id.0[..], &self.secret.0[..]] {
            text.push('-');
            let encoded = Zeroizing::new(BASE32_NOPAD.encode(part));
            text.extend(encoded.chars().map(|c| c.to_ascii_lowercase()));
        }
        let check = self.check();
        text.push('-');
        text.push_str(&check);
        text
    }

    /// Reads a token, in any case, with white space around it.
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let parts: Vec<&str> = text.split('-').collect();
        let version = parts[0].to_ascii_uppercase();
        if version != VERSION {
            let number = version.strip_prefix(VERSION_FAMILY).filter(|n| !n.is_empty() && n.len() <= 4);
            return match number {
                Some(n) if n.bytes().all(|b| b.is_ascii_digit()) => Err(TokenError::Version(n.to_owned())),
                _ => Err(TokenError::NotAToken),
            };
        }
        let [_, authority, id, secret, check] = parts[..] else {
            return Err(TokenError::Parts { found: parts.len() });
        };
        let token = Self {
            authority: part(authority, "fingerprint")?,
            id: TokenId(part(id, "token id")?),
            secret: TokenSecret::new(part(secret, "secret")?),
        };
        if check.len() != CHECK_DIGITS {
            return Err(TokenError::Length { part: "check", expected: CHECK_DIGITS, found: check.len() });
        }
        if !check.eq_ignore_ascii_case(&token.check()) {
            return Err(TokenError::Check);
        }
        Ok(token)
    }

    fn check(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key(CHECK_CONTEXT);
        hasher.update(&self.authority).update(&self.id.0).update(&self.secret.0[..]);
        let hash = hasher.finalize();
        let mut digits = BASE32_NOPAD.encode(&hash.as_bytes()[..ID_BYTES]).to_ascii_lowercase();
        digits.truncate(CHECK_DIGITS);
        digits
    }
}

fn part<const N: usize>(text: &str, name: &'static str) -> Result<[u8; N], TokenError> {
    let expected = (N * 8).div_ceil(5);
    let found = text.chars().count();
    if found != expected {
        return Err(TokenError::Length { part: name, expected, found });
    }
    // Positions in characters: the decoder counts bytes, and complains of the length first.
    if let Some(i) = text.chars().position(|c| !matches!(c.to_ascii_uppercase(), 'A'..='Z' | '2'..='7')) {
        return Err(TokenError::Character { part: name, position: i + 1 });
    }
    let bytes = BASE32_NOPAD_NOCASE
        .decode(text.as_bytes())
        .map_err(|e| TokenError::Character { part: name, position: e.position + 1 })?;
    bytes.try_into().map_err(|_| TokenError::Length { part: name, expected, found })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> JoinToken {
        JoinToken { authority: [7; 32], id: TokenId([1, 2, 3, 4, 5]), secret: TokenSecret::new([0x42; 20]) }
    }

    #[test]
    fn text_that_is_not_a_token_is_told_why() {
        let good = sample().reveal().to_string();
        let parts: Vec<&str> = good.split('-').collect();
        let with = |i: usize, text: &str| {
            let mut p = parts.clone();
            p[i] = text;
            p.join("-")
        };
        let swapped = format!("b{}", &parts[3][1..]);
        let table = [
            (String::new(), TokenError::NotAToken),
            ("hello".into(), TokenError::NotAToken),
            ("SWMTKN-1-abc".into(), TokenError::NotAToken),
            ("LSJ".into(), TokenError::NotAToken),
            (with(0, "LSJ2"), TokenError::Version("2".into())),
            ("LSJ1".into(), TokenError::Parts { found: 1 }),
            (parts[..4].join("-"), TokenError::Parts { found: 4 }),
            (format!("{good}-x"), TokenError::Parts { found: 6 }),
            (with(1, "abc"), TokenError::Length { part: "fingerprint", expected: 52, found: 3 }),
            (with(2, "aaaaaaa1"), TokenError::Character { part: "token id", position: 8 }),
            (with(2, "éaaaaaaa"), TokenError::Character { part: "token id", position: 1 }),
            (with(3, &parts[3][..31]), TokenError::Length { part: "secret", expected: 32, found: 31 }),
            (good[..good.len() - 1].into(), TokenError::Length { part: "check", expected: 4, found: 3 }),
            (with(3, &swapped), TokenError::Check),
        ];
        for (text, expected) in table {
            assert_eq!(JoinToken::parse(&text).unwrap_err(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_secret_shows_only_when_revealed() {
        let token = sample();
        let debug = format!("{token:?} {:?}", token.secret);
        assert!(debug.contains("redacted") && !debug.contains("66"), "{debug}");
        assert!(token.reveal().contains(&BASE32_NOPAD.encode(&[0x42; 20]).to_ascii_lowercase()));
    }

    #[test]
    fn a_hash_is_bound_to_its_token() {
        let secret = TokenSecret::new([9; 20]);
        let (a, b) = (TokenId([1; 5]), TokenId([2; 5]));
        assert!(secret.hash(a).matches(&secret.hash(a)));
        assert!(!secret.hash(a).matches(&secret.hash(b)));
        assert!(!secret.hash(a).matches(&TokenSecret::new([8; 20]).hash(a)));
    }

    fn tokens() -> impl Strategy<Value = JoinToken> {
        (any::<[u8; 32]>(), any::<[u8; 5]>(), any::<[u8; 20]>()).prop_map(|(authority, id, s)| JoinToken {
            authority,
            id: TokenId(id),
            secret: TokenSecret::new(s),
        })
    }

    proptest! {
        #[test]
        fn what_is_revealed_is_read_back(token in tokens(), upper: bool) {
            let mut text = format!(" {}\n", token.reveal().as_str());
            if upper {
                text = text.to_uppercase();
            }
            let read = JoinToken::parse(&text).unwrap();
            prop_assert_eq!(read.authority, token.authority);
            prop_assert_eq!(read.id, token.id);
            prop_assert_eq!(read.secret.expose(), token.secret.expose());
            prop_assert_eq!(token.id.to_string().parse::<TokenId>().unwrap(), token.id);
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = JoinToken::parse(&text);
            let _ = JoinToken::parse(&format!("LSJ1-{text}"));
        }

        #[test]
        fn a_changed_character_never_gives_the_same_token(token in tokens(), at in 5usize..100, to in "[a-z2-7]") {
            let text = token.reveal().to_string();
            let at = at % text.len();
            prop_assume!(at > 4 && text.as_bytes()[at] != b'-' && text[at..=at] != to);
            let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            if let Ok(read) = JoinToken::parse(&changed) {
                // One chance in a million; then it is another token, which the fleet does not know.
                prop_assert!(read.authority != token.authority || read.id != token.id
                    || read.secret.expose() != token.secret.expose());
            }
        }
    }
}
