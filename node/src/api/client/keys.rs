//! Calls on keys, each over a connection of its own or one after the other over one that is kept.

use bytes::Bytes;
use hyper::http::request::Builder;
use hyper::http::response::Parts;
use hyper::{Method, header};
use longshore_model::keys::limits::{check_key, check_namespace};
use longshore_raft::Runtime;

use super::{Client, ClientError, Sender};
use crate::api::percent::encode;
use crate::api::routes::TTL_HEADER;
use crate::api::types::*;

impl<R: Runtime> Client<R> {
    /// None: there is no such key, or it has expired.
    pub async fn get_key(&self, namespace: &str, key: &[u8]) -> Result<Option<KeyValue>, ClientError> {
        KeyConnection::new(self.clone()).get(namespace, key).await
    }

    pub async fn set_key(
        &self,
        namespace: &str,
        key: &[u8],
        value: Bytes,
        lifetime: KeyLifetime,
        condition: KeyCondition,
    ) -> Result<KeySetView, ClientError> {
        KeyConnection::new(self.clone()).set(namespace, key, value, lifetime, condition).await
    }

    pub async fn delete_key(
        &self,
        namespace: &str,
        key: &[u8],
        condition: KeyCondition,
    ) -> Result<KeyDeletedView, ClientError> {
        let path = key_path(namespace, key)? + &query(KeyLifetime::Forever, condition);
        self.call(Method::DELETE, &path, None, None).await
    }

    pub async fn scan_keys(&self, namespace: &str, scan: &KeyScanQuery) -> Result<KeyPageView, ClientError> {
        check_namespace(namespace).map_err(invalid)?;
        let mut path = format!("/v1/keys/{namespace}?values={}&prefix={}", scan.values, encode(&scan.prefix));
        if let Some(after) = &scan.after {
            path.push_str(&format!("&after={}", encode(after)));
        }
        if let Some(limit) = scan.limit {
            path.push_str(&format!("&limit={limit}"));
        }
        self.get(&path).await
    }
}

/// A connection that is kept for the next call. After an error it is made anew.
#[derive(Debug)]
pub struct KeyConnection<R> {
    client: Client<R>,
    sender: Option<Sender>,
}

impl<R: Runtime> KeyConnection<R> {
    pub fn new(client: Client<R>) -> Self {
        Self { client, sender: None }
    }

    /// As [`Client::get_key`].
    pub async fn get(&mut self, namespace: &str, key: &[u8]) -> Result<Option<KeyValue>, ClientError> {
        let request = self.client.request(Method::GET, &key_path(namespace, key)?);
        let (parts, value) = self.exchange(request, Bytes::new()).await?;
        if !parts.status.is_success() {
            return match self.client.failure(&parts, &value) {
                ClientError::Api { error, .. } if error.code == ErrorCode::NotFound => Ok(None),
                error => Err(error),
            };
        }
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let version = text(header::ETAG.as_str()).and_then(|tag| tag.trim_matches('"').parse().ok());
        let version = version.ok_or_else(|| self.client.not_understood("a value without its version"))?;
        let ttl_ms = text(TTL_HEADER).and_then(|ttl| ttl.parse().ok());
        Ok(Some(KeyValue { value, version, ttl_ms }))
    }

    /// As [`Client::set_key`].
    pub async fn set(
        &mut self,
        namespace: &str,
        key: &[u8],
        value: Bytes,
        lifetime: KeyLifetime,
        condition: KeyCondition,
    ) -> Result<KeySetView, ClientError> {
        let path = key_path(namespace, key)? + &query(lifetime, condition);
        let request = self.client.request(Method::PUT, &path);
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        let (parts, reply) = self.exchange(request, value).await?;
        if !parts.status.is_success() {
            return Err(self.client.failure(&parts, &reply));
        }
        serde_json::from_slice(&reply).map_err(|error| self.client.not_understood(error))
    }

    /// The connection is put back only when the reply was read whole: a future that is dropped half-way leaves none.
    async fn exchange(&mut self, request: Builder, body: Bytes) -> Result<(Parts, Bytes), ClientError> {
        let kept = self.sender.take().filter(|sender| !sender.is_closed());
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.client.connect().await?,
        };
        // The connection is busy for a moment more after a reply was read.
        sender.ready().await.map_err(|error| self.client.unreachable(error))?;
        let response = self.client.exchange(&mut sender, request, body).await?;
        let whole = self.client.whole(response).await?;
        self.sender = Some(sender);
        Ok(whole)
    }
}

fn key_path(namespace: &str, key: &[u8]) -> Result<String, ClientError> {
    // What could not be a path of its own: an empty one leads elsewhere.
    check_namespace(namespace).and_then(|()| check_key(key)).map_err(invalid)?;
    Ok(format!("/v1/keys/{namespace}/{}", encode(key)))
}

fn invalid(error: impl ToString) -> ClientError {
    ClientError::Api { error: ApiError::new(ErrorCode::Invalid, error.to_string()), request_id: None }
}

fn query(lifetime: KeyLifetime, condition: KeyCondition) -> String {
    let lifetime = match lifetime {
        KeyLifetime::Forever => String::new(),
        KeyLifetime::Keep => "&keep_ttl=true".to_owned(),
        KeyLifetime::ForMs(ttl_ms) => format!("&ttl={ttl_ms}ms"),
    };
    let condition = match condition {
        KeyCondition::Always => String::new(),
        condition => format!("&if={condition}"),
    };
    format!("{lifetime}{condition}").replacen('&', "?", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        assert_eq!(query(KeyLifetime::Forever, KeyCondition::Always), "");
        assert_eq!(query(KeyLifetime::ForMs(5), KeyCondition::Always), "?ttl=5ms");
        assert_eq!(query(KeyLifetime::Keep, KeyCondition::Version(7)), "?keep_ttl=true&if=version:7");
    }

    #[test]
    fn what_is_no_name_is_not_sent() {
        for (namespace, key) in [("", &b"k"[..]), ("A", b"k"), ("a", b""), ("a", &[0; 1025])] {
            assert!(key_path(namespace, key).is_err(), "{namespace} {}", key.len());
        }
        assert_eq!(key_path("a", b"\xff/.").unwrap(), "/v1/keys/a/%FF%2F%2E");
    }
}
