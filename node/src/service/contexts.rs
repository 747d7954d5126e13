//! Build contexts of this node: taken from clients, listed, found.

use futures_util::StreamExt;
use longshore_model::image::ImageReference;
use longshore_model::operations::{BuildArg, BuildContext, BuildSpec};
use longshore_raft::Runtime;
use longshore_storage::{BlobDigest, BlobError, BlobInfo};

use super::Service;
use crate::api::service::ApiStream;
use crate::api::types::*;

fn view(info: BlobInfo) -> ContextView {
    ContextView { digest: info.digest.to_string(), bytes: info.bytes }
}

fn parse_digest(text: &str) -> Result<BlobDigest, ApiError> {
    text.parse().map_err(|error: String| ApiError::new(ErrorCode::Invalid, error))
}

fn too_large(limit: u64) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, format!("the folder is over this node's limit of {limit} bytes"))
        .hint("list what a build does not need in .dockerignore, or raise limits.build_context")
}

fn blob_error(error: BlobError) -> ApiError {
    match error {
        BlobError::TooLarge { limit } => too_large(limit),
        BlobError::Full { limit } => {
            let message =
                format!("this node keeps {limit} bytes of build contexts, and all of them are in use");
            ApiError::new(ErrorCode::Busy, message)
                .hint("try again when a build has ended, ask another node with --host, or raise limits.build_contexts")
        }
        BlobError::Io { .. } => {
            ApiError::new(ErrorCode::Internal, format!("the folder can not be kept: {error}"))
                .hint("see whether this node's disk is full, and its log")
        }
    }
}

impl<R: Runtime> Service<R> {
    pub(super) fn context_list(&self) -> ContextList {
        let limits = self.work.contexts.limits();
        ContextList {
            contexts: self.work.contexts.list().into_iter().map(view).collect(),
            context_max_bytes: limits.one_bytes,
            kept_max_bytes: limits.all_bytes,
        }
    }

    pub(super) async fn context(&self, digest: &str) -> Result<ContextView, ApiError> {
        let found = self.work.contexts.find(parse_digest(digest)?).await.map_err(blob_error)?;
        found.map(view).ok_or_else(|| no_context(digest))
    }

    pub(super) async fn new_context(
        &self,
        announced: Option<u64>,
        mut pieces: ApiStream<bytes::Bytes>,
    ) -> Result<ContextView, ApiError> {
        let limit = self.work.contexts.limits().one_bytes;
        // Before any of it is read.
        if announced.is_some_and(|bytes| bytes > limit) {
            return Err(too_large(limit));
        }
        let Some(mut upload) = self.work.contexts.upload().await.map_err(blob_error)? else {
            let error =
                ApiError::new(ErrorCode::Busy, "as many folders as can be are being sent to this node");
            return Err(error.hint("try again in a moment, or name another node with --host"));
        };
        while let Some(piece) = pieces.next().await {
            upload.push(&piece?).await.map_err(blob_error)?;
        }
        let saved = upload.finish(None).await.map_err(blob_error)?;
        saved.map(view).ok_or_else(|| ApiError::new(ErrorCode::Internal, "the folder was not kept"))
    }

    /// What a build asks for; its context must be on this node.
    pub(super) async fn build_spec(&self, request: BuildRequest) -> Result<BuildSpec, ApiError> {
        let invalid = |error: String| ApiError::new(ErrorCode::Invalid, error);
        let BuildRequest { context, tags, dockerfile, args, target, no_cache, pull } = request;
        let tags: Result<Vec<ImageReference>, _> =
            tags.iter().map(|tag| tag.parse::<ImageReference>()).collect();
        let arg = |text: String| match text.split_once('=') {
            Some((name, value)) => Ok(BuildArg { name: name.to_owned(), value: value.to_owned() }),
            None => Err(invalid(format!("{text:?} is not an argument such as VERSION=3"))),
        };
        let digest = parse_digest(&context)?;
        let mut spec = BuildSpec {
            context: BuildContext { digest: digest.0, bytes: u64::MAX, holder: self.core.me },
            tags: tags.map_err(|error| invalid(error.to_string()))?,
            dockerfile,
            args: args.into_iter().map(arg).collect::<Result<_, _>>()?,
            target,
            no_cache,
            pull,
        };
        spec.check().map_err(|error| invalid(error.to_string()))?;
        let found = self.work.contexts.find(digest).await.map_err(blob_error)?;
        spec.context.bytes = found.ok_or_else(|| no_context(&context))?.bytes;
        Ok(spec)
    }
}

fn no_context(digest: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("this node does not have the build context {digest}"))
        .hint("send it to this node first: `longshore op build`, or POST /v1/contexts")
}
