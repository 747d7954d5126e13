//! Join tokens as the fleet keeps them: only a hash of the secret, with a time limit in log time and a count of uses.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use longshore_raft::consensus::machine::LogTime;

use super::command::{Refusal, RefusalKind};

/// Most tokens on record.
pub const TOKENS_MAX: usize = 1_000;
/// Longest life of a token.
pub const TTL_MAX_MS: u64 = 30 * 24 * 3_600_000;
/// How long a token that is no longer valid stays listed, so that people see why it was refused.
pub const DEAD_KEPT_MS: u64 = 24 * 3_600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum TokenState {
    Valid,
    Expired,
    UsedUp,
    Revoked,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TokenRecord {
    pub secret_hash: [u8; 32],
    pub expires: LogTime,
    pub uses: u32,
    /// 0 for no limit.
    pub uses_max: u32,
    pub revoked: bool,
}

impl TokenRecord {
    pub fn state(&self, now: LogTime) -> TokenState {
        match self {
            _ if self.revoked => TokenState::Revoked,
            _ if now >= self.expires => TokenState::Expired,
            _ if self.uses_max > 0 && self.uses >= self.uses_max => TokenState::UsedUp,
            _ => TokenState::Valid,
        }
    }
}

/// All tokens, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Tokens(BTreeMap<String, TokenRecord>);

fn denied(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Denied, message)
}

impl Tokens {
    pub fn create(
        &mut self,
        id: String,
        secret_hash: [u8; 32],
        ttl_ms: u64,
        uses_max: u32,
        now: LogTime,
    ) -> Result<(), Refusal> {
        if ttl_ms == 0 || ttl_ms > TTL_MAX_MS {
            return Err(Refusal::new(RefusalKind::Invalid, "a token lives between 1 ms and 30 days"));
        }
        self.0.retain(|_, t| {
            t.state(now) == TokenState::Valid || now.0 < t.expires.0.saturating_add(DEAD_KEPT_MS)
        });
        if self.0.len() >= TOKENS_MAX {
            let message = format!("there are {TOKENS_MAX} tokens, the most there can be; let some expire");
            return Err(Refusal::new(RefusalKind::Busy, message));
        }
        if self.0.contains_key(&id) {
            return Err(Refusal::new(RefusalKind::Conflict, format!("there is a token {id} already")));
        }
        let expires = LogTime(now.0 + ttl_ms);
        self.0.insert(id, TokenRecord { secret_hash, expires, uses: 0, uses_max, revoked: false });
        Ok(())
    }

    pub fn revoke(&mut self, id: &str) -> Result<(), Refusal> {
        match self.0.get_mut(id) {
            Some(token) => {
                token.revoked = true;
                Ok(())
            }
            None => Err(Refusal::new(RefusalKind::NotFound, format!("there is no token {id}"))),
        }
    }

    /// Checks a joiner's token. The secret is compared first, so that only its holder learns why it is refused.
    pub fn check(&self, id: &str, secret_hash: &[u8; 32], now: LogTime) -> Result<(), Refusal> {
        let token = self.0.get(id).filter(|t| t.secret_hash == *secret_hash);
        match token.map(|t| t.state(now)) {
            Some(TokenState::Valid) => Ok(()),
            None => Err(denied("the token is not one of this fleet")),
            Some(TokenState::Expired) => Err(denied("the token has expired")),
            Some(TokenState::UsedUp) => Err(denied("the token has been used as often as it may be")),
            Some(TokenState::Revoked) => Err(denied("the token has been revoked")),
        }
    }

    /// Counts one use. Only after `check`.
    pub fn count_use(&mut self, id: &str) {
        if let Some(token) = self.0.get_mut(id) {
            token.uses += 1;
        }
    }

    pub fn all(&self) -> impl Iterator<Item = (&String, &TokenRecord)> {
        self.0.iter()
    }

    pub fn get(&self, id: &str) -> Option<&TokenRecord> {
        self.0.get(id)
    }
}
