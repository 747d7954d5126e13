//! Calls about build contexts. A folder is sent as it is read.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::{Method, header};
use longshore_raft::Runtime;

use super::{Client, ClientError};
use crate::api::percent::encode;
use crate::api::timer::within;
use crate::api::types::*;

impl<R: Runtime> Client<R> {
    pub async fn list_contexts(&self) -> Result<ContextList, ClientError> {
        self.get("/v1/contexts").await
    }

    /// None if the node does not have it.
    pub async fn find_context(&self, digest: &str) -> Result<Option<ContextView>, ClientError> {
        match self.get(&format!("/v1/contexts/{}", encode(digest))).await {
            Ok(view) => Ok(Some(view)),
            Err(ClientError::Api { error, .. }) if error.code == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a folder of so many bytes. The reply's time limit counts from the last piece that the node took.
    pub async fn send_context(
        &self,
        bytes: u64,
        pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Result<ContextView, ClientError> {
        let mut sender = self.connect_for().await?;
        let taken = Arc::new(AtomicU64::new(0));
        let counted = {
            let taken = Arc::clone(&taken);
            pieces.map(move |piece| {
                taken.fetch_add(1, Ordering::Relaxed);
                piece.map(Frame::data)
            })
        };
        let request = self
            .request(Method::POST, "/v1/contexts")
            .header(header::CONTENT_TYPE, "application/x-tar")
            .header(header::CONTENT_LENGTH, bytes)
            .body(StreamBody::new(Box::pin(counted)))
            .map_err(|error| self.not_understood(error))?;
        let mut reply = Box::pin(sender.send_request(request));
        let response = loop {
            let before = taken.load(Ordering::Relaxed);
            match within::<R, _>(self.reply_timeout, &mut reply).await {
                Some(reply) => break reply.map_err(|error| self.interrupted(error))?,
                None if taken.load(Ordering::Relaxed) > before => {}
                None => {
                    let seconds = self.reply_timeout.as_secs_f64();
                    return Err(self.interrupted(format!("it took nothing for {seconds} s")));
                }
            }
        };
        let (parts, body) = self.whole(response).await?;
        if !parts.status.is_success() {
            return Err(self.failure(&parts, &body));
        }
        serde_json::from_slice(&body).map_err(|error| self.not_understood(error))
    }
}
