//! Join tokens: made here, so that the secret is never on the wire or in the log; only its hash is.

use longshore_model::control::token::TTL_MAX_MS;
use longshore_model::control::{Command, TokenRecord, TokenState as State};
use longshore_raft::Runtime;
use longshore_raft::consensus::machine::LogTime;
use longshore_raft::model::token::{JoinToken, TokenId, TokenSecret};

use super::Service;
use crate::api::types::*;
use crate::cli::join_command;
use crate::membership::admission::authority;

/// Life of a token for which none was asked.
const TTL_DEFAULT_MS: u64 = 3_600_000;

impl<R: Runtime> Service<R> {
    pub(super) async fn new_token(&self, request: TokenCreate) -> Result<TokenCreated, ApiError> {
        let ttl_ms = request.ttl_ms.unwrap_or(TTL_DEFAULT_MS);
        if ttl_ms == 0 || ttl_ms > TTL_MAX_MS {
            let message = "a token lives between 1 ms and 30 days";
            return Err(
                ApiError::new(ErrorCode::Invalid, message).hint("give --ttl a duration such as 1h or 7d")
            );
        }
        let uses_max = request.uses.unwrap_or(1);
        let record = self.core.group.with_state(|s| s.fleet.as_ref().map(|f| f.authority.clone()));
        let record = record.ok_or_else(|| {
            ApiError::new(ErrorCode::Busy, "this node has not caught up with the fleet yet")
                .hint("try again in a moment")
        })?;
        let authority = authority(&record).map_err(|e| ApiError::new(ErrorCode::Internal, e))?;
        let (mut id, mut secret) = ([0; 5], [0; 20]);
        R::entropy(&mut id);
        R::entropy(&mut secret);
        let token = JoinToken {
            authority: authority.fingerprint(),
            id: TokenId(id),
            secret: TokenSecret::new(secret),
        };
        let command = Command::CreateToken {
            id: token.id.to_string(),
            secret_hash: token.secret.hash(token.id).0,
            ttl_ms,
            uses_max,
        };
        self.propose(command).await?;
        let text = token.reveal().to_string();
        let address =
            self.core.group.with_state(|s| s.membership.get(self.core.me).map(|n| n.profile.address));
        let address =
            address.ok_or_else(|| ApiError::new(ErrorCode::Busy, "this node is still being admitted"))?;
        Ok(TokenCreated {
            join_command: join_command(&text, address),
            info: TokenView {
                id: token.id.to_string(),
                state: TokenState::Valid,
                uses: 0,
                uses_max,
                expires_in_ms: ttl_ms,
            },
            token: text,
        })
    }

    pub(super) async fn tokens(&self) -> Result<Vec<TokenView>, ApiError> {
        self.linearize().await?;
        let now = self.core.group.log_time();
        Ok(self.core.group.with_state(|s| s.tokens.all().map(|(id, t)| token_view(id, t, now)).collect()))
    }

    pub(super) async fn revoke(&self, id: String) -> Result<TokenView, ApiError> {
        self.propose(Command::RevokeToken { id: id.clone() }).await?;
        self.until_shown().await?;
        let now = self.core.group.log_time();
        let view = self.core.group.with_state(|s| s.tokens.get(&id).map(|t| token_view(&id, t, now)));
        view.ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("there is no token {id}")))
    }
}

fn token_view(id: &str, token: &TokenRecord, now: LogTime) -> TokenView {
    TokenView {
        id: id.to_owned(),
        state: match token.state(now) {
            State::Valid => TokenState::Valid,
            State::Expired => TokenState::Expired,
            State::UsedUp => TokenState::UsedUp,
            State::Revoked => TokenState::Revoked,
        },
        uses: token.uses,
        uses_max: token.uses_max,
        expires_in_ms: token.expires.0.saturating_sub(now.0),
    }
}
