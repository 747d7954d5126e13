//! The scripted fleet's keys: a map, with versions and conditions as in earnest.

use bytes::Bytes;

use super::FakeFleet;
use crate::api::service::{ApiFuture, KeyService};
use crate::api::types::*;

type Name = (String, Vec<u8>);

fn name(namespace: String, key: Vec<u8>) -> (Name, String) {
    let text = format!("{namespace} {}", key.escape_ascii());
    ((namespace, key), text)
}

fn check(condition: KeyCondition, current: Option<u64>) -> Result<(), ApiError> {
    let holds = match condition {
        KeyCondition::Always => true,
        KeyCondition::Absent => current.is_none(),
        KeyCondition::Present => current.is_some(),
        KeyCondition::Version(version) => current == Some(version),
    };
    let failed = || ApiError::new(ErrorCode::Conflict, format!("the condition {condition} does not hold"));
    if holds { Ok(()) } else { Err(ApiError { current_version: current, ..failed() }) }
}

impl KeyService for FakeFleet {
    fn get_key(&self, namespace: String, key: Vec<u8>) -> ApiFuture<'_, Option<KeyValue>> {
        Box::pin(async move {
            let (name, text) = name(namespace, key);
            self.enter("get_key", &text).await?;
            Ok(self.state.lock().values.get(&name).cloned())
        })
    }

    fn set_key(
        &self,
        namespace: String,
        key: Vec<u8>,
        value: Bytes,
        lifetime: KeyLifetime,
        condition: KeyCondition,
    ) -> ApiFuture<'_, KeySetView> {
        Box::pin(async move {
            let (name, text) = name(namespace, key);
            self.enter("set_key", &format!("{text} {lifetime:?} {condition}")).await?;
            let mut state = self.state.lock();
            let before = state.values.get(&name).cloned();
            let replaced = before.as_ref().map(|found| found.version);
            check(condition, replaced)?;
            let ttl_ms = match lifetime {
                KeyLifetime::Forever => None,
                KeyLifetime::Keep => before.and_then(|found| found.ttl_ms),
                KeyLifetime::ForMs(ttl_ms) => Some(ttl_ms),
            };
            state.key_version += 1;
            let version = state.key_version;
            state.values.insert(name, KeyValue { value, version, ttl_ms });
            Ok(KeySetView { version, replaced, ttl_ms })
        })
    }

    fn delete_key(
        &self,
        namespace: String,
        key: Vec<u8>,
        condition: KeyCondition,
    ) -> ApiFuture<'_, KeyDeletedView> {
        Box::pin(async move {
            let (name, text) = name(namespace, key);
            self.enter("delete_key", &format!("{text} {condition}")).await?;
            let mut state = self.state.lock();
            check(condition, state.values.get(&name).map(|found| found.version))?;
            let deleted = state.values.remove(&name).is_some();
            state.key_version += u64::from(deleted);
            Ok(KeyDeletedView { deleted, version: deleted.then_some(state.key_version) })
        })
    }

    fn scan_keys(&self, namespace: String, query: KeyScanQuery) -> ApiFuture<'_, KeyPageView> {
        Box::pin(async move {
            self.enter("scan_keys", &format!("{namespace} {query:?}")).await?;
            let state = self.state.lock();
            let mut wanted = state.values.iter().filter(|((space, key), _)| {
                *space == namespace
                    && key.starts_with(&query.prefix)
                    && query.after.as_ref().is_none_or(|after| key > after)
            });
            let limit = query.limit.unwrap_or(100) as usize;
            let entries: Vec<KeyEntryView> = wanted
                .by_ref()
                .take(limit)
                .map(|((_, key), found)| KeyEntryView {
                    key: BytesView::new(key),
                    version: found.version,
                    ttl_ms: found.ttl_ms,
                    value: query.values.then(|| BytesView::new(&found.value)),
                })
                .collect();
            let next = wanted.next().and_then(|_| entries.last().map(|entry| entry.key.clone()));
            Ok(KeyPageView { entries, next })
        })
    }
}
