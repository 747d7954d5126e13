//! Requests that the caller makes up, and replies as they come; for `longshore api`.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, StatusCode, Version};
use longshore_raft::Runtime;

use super::{Client, ClientError};

/// A reply of any status. Its body is still to come.
#[derive(Debug)]
pub struct RawReply {
    pub version: Version,
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    target: String,
}

impl<R: Runtime> Client<R> {
    /// Sends a request to `path` (with its query, if any), and waits for the head of the reply. Whatever status it has, it is not an error here.
    /// `headers` come in the place of those that the client sets by itself.
    pub async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<RawReply, ClientError> {
        let mut sender = self.connect().await?;
        let mut request = self.request(method, path);
        if let Some(own) = request.headers_mut() {
            own.extend(headers);
        }
        let (parts, body) = self.exchange(&mut sender, request, body).await?.into_parts();
        let target = self.target.to_string();
        Ok(RawReply { version: parts.version, status: parts.status, headers: parts.headers, body, target })
    }
}

impl RawReply {
    /// The next bytes of the body; `None` at its end. There is no time limit: a watch may be silent for long.
    ///
    /// # Errors
    /// [`ClientError::Interrupted`], if the connection breaks.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await {
                // Trailers are of no use to anybody here.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    let detail = error.to_string();
                    return Err(ClientError::Interrupted { target: self.target.clone(), detail });
                }
                None => return Ok(None),
            }
        }
    }
}
