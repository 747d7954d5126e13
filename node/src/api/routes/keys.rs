//! Routes of keys. Keys are bytes, percent-encoded in one segment of the path; values are whole bodies.
//!
//! `Idempotency-Key` is not taken here: a write that may have been done is told by the key's version, so a caller who must not
//! write twice gives `if=version:N` (or `if=absent`), and reads the key when the outcome is unknown.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::{ApiState, Pairs};
use crate::api::errors::Rejection;
use crate::api::percent;
use crate::api::types::*;
use crate::config::units::parse_duration;

/// Header of a value: milliseconds until the key expires; absent if it does not.
pub(in crate::api) const TTL_HEADER: &str = "x-longshore-ttl-ms";

/// The value of a key. `ETag` is its version in quotes, `x-longshore-ttl-ms` the time it has left, if that is limited.
#[utoipa::path(get, path = "/v1/keys/{namespace}/{key}", tag = "keys", params(
    ("namespace" = String, Path, description = "1 to 64 of a-z, 0-9, '-', '_', '.'; a letter or digit first"),
    ("key" = String, Path, description = "1 to 1024 bytes, percent-encoded")), responses(
    (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
    (status = "default", body = ApiError)))]
pub(in crate::api) async fn get_key(
    State(api): State<ApiState>,
    name: KeyName,
) -> Result<Response, ApiError> {
    let KeyName { namespace, key } = name;
    let Some(found) = api.service.get_key(namespace.clone(), key.clone()).await? else {
        return Err(no_such_key(&namespace, &key));
    };
    let mut response = ([(header::CONTENT_TYPE, "application/octet-stream")], found.value).into_response();
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag(found.version));
    if let Some(ttl_ms) = found.ttl_ms {
        headers.insert(TTL_HEADER, HeaderValue::from(ttl_ms));
    }
    Ok(response)
}

/// Sets a key to the body, whatever its content type says. `Idempotency-Key` is not taken: use `if`. When a condition does not
/// hold the reply is 409, with `current_version`.
#[utoipa::path(put, path = "/v1/keys/{namespace}/{key}", tag = "keys", params(
    ("namespace" = String, Path, description = "1 to 64 of a-z, 0-9, '-', '_', '.'; a letter or digit first"),
    ("key" = String, Path, description = "1 to 1024 bytes, percent-encoded"),
    ("ttl" = Option<String>, Query, description = "How long it shall live, such as 30s; for ever by default"),
    ("keep_ttl" = Option<bool>, Query, description = "Let it live as long as it was to before"),
    ("if" = Option<String>, Query, description = "absent, present or version:N: what must hold of the key")),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"), responses(
    (status = 200, body = KeySetView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn set_key(
    State(api): State<ApiState>,
    KeyName { namespace, key }: KeyName,
    pairs: Pairs,
    value: Bytes,
) -> Result<Response, Rejection> {
    let (mut lifetime, mut condition) = (KeyLifetime::Forever, KeyCondition::Always);
    for (name, value) in pairs.texts()? {
        let given = match name.as_str() {
            "if" => {
                condition = KeyCondition::parse(&value).map_err(Rejection::invalid)?;
                continue;
            }
            "ttl" => KeyLifetime::ForMs(ttl_ms(&value)?),
            "keep_ttl" if Pairs::flag(&name, &value)? => KeyLifetime::Keep,
            "keep_ttl" => continue,
            _ => return Err(Pairs::unknown(&name, "ttl, keep_ttl, if")),
        };
        if lifetime != KeyLifetime::Forever {
            return Err(Rejection::invalid("give one ttl, or keep_ttl"));
        }
        lifetime = given;
    }
    let set = api.service.set_key(namespace, key, value, lifetime, condition).await?;
    Ok(([(header::ETAG, etag(set.version))], Json(set)).into_response())
}

/// Deletes a key; one that is not there is no error unless `if` says so.
#[utoipa::path(delete, path = "/v1/keys/{namespace}/{key}", tag = "keys", params(
    ("namespace" = String, Path), ("key" = String, Path, description = "1 to 1024 bytes, percent-encoded"),
    ("if" = Option<String>, Query, description = "present or version:N: what must hold of the key")), responses(
    (status = 200, body = KeyDeletedView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn delete_key(
    State(api): State<ApiState>,
    KeyName { namespace, key }: KeyName,
    pairs: Pairs,
) -> Result<Json<KeyDeletedView>, Rejection> {
    let mut condition = KeyCondition::Always;
    for (name, value) in pairs.texts()? {
        match name.as_str() {
            "if" => condition = KeyCondition::parse(&value).map_err(Rejection::invalid)?,
            _ => return Err(Pairs::unknown(&name, "if")),
        }
    }
    Ok(Json(api.service.delete_key(namespace, key, condition).await?))
}

/// Keys of a namespace in order of their bytes, of the whole fleet. Bytes are `{"text": ...}` when they are UTF-8 and
/// `{"base64": ...}` otherwise. To go on, give `next` of the page as `after`.
#[utoipa::path(get, path = "/v1/keys/{namespace}", tag = "keys", params(("namespace" = String, Path),
    ("prefix" = Option<String>, Query, description = "Only keys that begin with these bytes, percent-encoded"),
    ("after" = Option<String>, Query, description = "Only keys above this one, percent-encoded"),
    ("limit" = Option<u32>, Query, description = "At most so many; default 100, at most 1000. A page has 1 MiB at most"),
    ("values" = Option<bool>, Query, description = "With values")), responses(
    (status = 200, body = KeyPageView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn scan_keys(
    State(api): State<ApiState>,
    super::Segment(namespace): super::Segment,
    pairs: Pairs,
) -> Result<Json<KeyPageView>, Rejection> {
    let mut query = KeyScanQuery::default();
    for (name, value) in pairs.0 {
        match name.as_str() {
            "prefix" => query.prefix = value,
            "after" => query.after = Some(value),
            "limit" => query.limit = Some(number(&name, &value)?),
            "values" => query.values = Pairs::flag(&name, &String::from_utf8_lossy(&value))?,
            _ => return Err(Pairs::unknown(&name, "prefix, after, limit, values")),
        }
    }
    Ok(Json(api.service.scan_keys(namespace, query).await?))
}

fn number(name: &str, value: &[u8]) -> Result<u32, Rejection> {
    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Rejection::invalid(format!("{name} must be a whole number")))
}

fn ttl_ms(text: &str) -> Result<u64, Rejection> {
    let ttl = parse_duration(text).map_err(Rejection::invalid)?;
    Ok(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits in quotes are plain ASCII")
}

fn no_such_key(namespace: &str, key: &[u8]) -> ApiError {
    let key = String::from_utf8_lossy(key);
    let message = format!("there is no key {key:?} in namespace {namespace:?}, or it has expired");
    ApiError::new(ErrorCode::NotFound, message)
}

/// `/v1/keys/{namespace}/{key}`, from the path as it was sent: a key need not be UTF-8.
pub(in crate::api) struct KeyName {
    namespace: String,
    key: Vec<u8>,
}

impl<S: Send + Sync> FromRequestParts<S> for KeyName {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        let path = parts.uri.path();
        let (_, rest) = path.split_once("/keys/").expect("the route of this extractor has it");
        let (namespace, key) = rest.split_once('/').expect("the route of this extractor has it");
        let decoded = percent::decode(namespace).and_then(|bytes| String::from_utf8(bytes).ok());
        match (decoded, percent::decode(key)) {
            (Some(namespace), Some(key)) => Ok(Self { namespace, key }),
            _ => Err(Rejection::invalid(format!("the path is not valid percent-encoding: {path}"))),
        }
    }
}
