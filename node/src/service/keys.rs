//! Keys: checks of what comes in, and answers as views.

use bytes::Bytes;
use longshore_model::keys::limits::{check_key, check_namespace, check_ttl, check_value};
use longshore_model::keys::{Condition, KeyCommand, KeyError, KeyReply, Lifetime, Scan, Value};
use longshore_raft::Runtime;

use super::{Service, group_error};
use crate::api::types::*;
use crate::ring::FrontError;

/// Keys of a page if no limit is asked for.
const PAGE_DEFAULT: u32 = 100;

impl<R: Runtime> Service<R> {
    pub(super) async fn get_value(
        &self,
        namespace: String,
        key: Vec<u8>,
    ) -> Result<Option<KeyValue>, ApiError> {
        check_namespace(&namespace).and_then(|()| check_key(&key)).map_err(key_error)?;
        let found = self.front.get(namespace, key).await.map_err(front_error)?;
        Ok(found.map(|found| KeyValue { value: found.value.0, version: found.version, ttl_ms: found.ttl_ms }))
    }

    pub(super) async fn set_value(
        &self,
        namespace: String,
        key: Vec<u8>,
        value: Bytes,
        lifetime: KeyLifetime,
        condition: KeyCondition,
    ) -> Result<KeySetView, ApiError> {
        check_namespace(&namespace).and_then(|()| check_key(&key)).map_err(key_error)?;
        check_value(&value).map_err(key_error)?;
        let lifetime = match lifetime {
            KeyLifetime::Forever => Lifetime::Forever,
            KeyLifetime::Keep => Lifetime::Keep,
            KeyLifetime::ForMs(ttl_ms) => {
                check_ttl(ttl_ms).map_err(key_error)?;
                Lifetime::ForMs(ttl_ms)
            }
        };
        let condition = condition_of(condition);
        let command = KeyCommand::Set { namespace, key, value: Value(value), lifetime, condition };
        match self.front.change(command).await.map_err(front_error)? {
            KeyReply::Set { version, replaced, ttl_ms } => Ok(KeySetView { version, replaced, ttl_ms }),
            other => Err(makes_no_sense(&other)),
        }
    }

    pub(super) async fn delete_value(
        &self,
        namespace: String,
        key: Vec<u8>,
        condition: KeyCondition,
    ) -> Result<KeyDeletedView, ApiError> {
        check_namespace(&namespace).and_then(|()| check_key(&key)).map_err(key_error)?;
        let command = KeyCommand::Delete { namespace, key, condition: condition_of(condition) };
        match self.front.change(command).await.map_err(front_error)? {
            KeyReply::Deleted { version } => Ok(KeyDeletedView { deleted: version.is_some(), version }),
            other => Err(makes_no_sense(&other)),
        }
    }

    pub(super) async fn page(&self, namespace: String, query: KeyScanQuery) -> Result<KeyPageView, ApiError> {
        check_namespace(&namespace).map_err(key_error)?;
        let KeyScanQuery { prefix, after, limit, values } = query;
        let limit = limit.unwrap_or(PAGE_DEFAULT);
        let scan = Scan { namespace, partition: None, prefix, after, limit, with_values: values };
        let page = self.front.scan(scan).await.map_err(front_error)?;
        let entries = page.entries.iter().map(|entry| KeyEntryView {
            key: BytesView::new(&entry.key),
            version: entry.version,
            ttl_ms: entry.ttl_ms,
            value: entry.value.as_ref().map(|value| BytesView::new(value)),
        });
        Ok(KeyPageView { entries: entries.collect(), next: page.next.map(|key| BytesView::new(&key)) })
    }
}

fn condition_of(condition: KeyCondition) -> Condition {
    match condition {
        KeyCondition::Always => Condition::Always,
        KeyCondition::Absent => Condition::IfAbsent,
        KeyCondition::Present => Condition::IfPresent,
        KeyCondition::Version(version) => Condition::IfVersion(version),
    }
}

fn makes_no_sense(reply: &KeyReply) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("the change of a key was answered with {reply:?}"))
}

/// The model's texts say what to do.
fn key_error(error: KeyError) -> ApiError {
    let message = error.to_string();
    let code = match error {
        KeyError::ConditionFailed { current, .. } => {
            return ApiError { current_version: current, ..ApiError::new(ErrorCode::Conflict, message) };
        }
        KeyError::KeyLength { len: 0 }
        | KeyError::NamespaceInvalid { .. }
        | KeyError::TtlInvalid { .. }
        | KeyError::PageLimit { .. } => ErrorCode::Invalid,
        KeyError::KeyLength { .. } | KeyError::ValueTooLarge { .. } => ErrorCode::TooLarge,
        KeyError::NotFound => ErrorCode::NotFound,
        KeyError::Full { .. } => ErrorCode::Busy,
        KeyError::WrongPartition { .. } | KeyError::NotHere { .. } => ErrorCode::Internal,
    };
    ApiError::new(code, message)
}

/// What a front's error means to a client. Which group it was, and who of it is missing, is in the message.
pub(super) fn front_error(error: FrontError) -> ApiError {
    let message = error.to_string();
    match error {
        FrontError::Key(error) => key_error(error),
        FrontError::Group { error, .. } => {
            let error = group_error(error);
            let hint = match error.code {
                ErrorCode::NoQuorum => {
                    "nothing was done; a majority of the group's replicas must be running and able to reach each other: \
                     see `longshore group ls`"
                }
                ErrorCode::OutcomeUnknown => {
                    "read the key before you try again: its version tells whether it was written"
                }
                _ => return ApiError { message, ..error },
            };
            ApiError { message, ..error }.hint(hint)
        }
        FrontError::NoRing => ApiError::new(ErrorCode::Busy, message)
            .hint("nothing was done; try again in a moment, or ask another node with --host"),
        FrontError::Unsettled => ApiError::new(ErrorCode::Busy, message),
        FrontError::Nonsense { .. } => ApiError::new(ErrorCode::Internal, message)
            .hint("do all nodes run the same version? see `longshore node ls --format json`"),
    }
}

#[cfg(test)]
mod tests {
    use longshore_raft::GroupId;
    use longshore_raft::consensus::machine::GroupError;

    use super::*;

    #[test]
    fn each_fault_has_its_code() {
        let cases = [
            (KeyError::KeyLength { len: 0 }, ErrorCode::Invalid),
            (KeyError::KeyLength { len: 1025 }, ErrorCode::TooLarge),
            (KeyError::ValueTooLarge { len: 1 << 20 }, ErrorCode::TooLarge),
            (KeyError::NamespaceInvalid { name: "A".into() }, ErrorCode::Invalid),
            (KeyError::TtlInvalid { ttl_ms: 0 }, ErrorCode::Invalid),
            (KeyError::Full { used_bytes: 1, needed_bytes: 1 }, ErrorCode::Busy),
        ];
        for (error, code) in cases {
            assert_eq!(front_error(error.clone().into()).code, code, "{error}");
        }
        let failed = KeyError::ConditionFailed { condition: Condition::IfVersion(3), current: Some(7) };
        let error = key_error(failed);
        assert_eq!((error.code, error.current_version), (ErrorCode::Conflict, Some(7)));
    }

    #[test]
    fn a_group_without_a_quorum_is_named_and_so_is_who_is_missing() {
        let error = GroupError::NoQuorum { group: GroupId(7), detail: "nobody answers".into() };
        let missing = Some("of its 3 replicas, those on web-2, web-3 are missing".into());
        let error = front_error(FrontError::Group { error, missing });
        assert_eq!(error.code, ErrorCode::NoQuorum);
        assert!(error.message.contains("g7") && error.message.contains("web-2, web-3"), "{error}");
        assert!(error.hint.unwrap().contains("longshore group ls"));
        let unknown = GroupError::OutcomeUnknown { detail: "x".into() };
        let error = front_error(FrontError::Group { error: unknown, missing: None });
        assert_eq!(error.code, ErrorCode::OutcomeUnknown);
        assert!(error.hint.unwrap().contains("read the key"));
    }
}
