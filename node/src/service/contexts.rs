//! Build contexts of this node: taken from clients, listed, found.

use futures_util::StreamExt;
use longshore_model::image::ImageReference;
use longshore_model::operations::{BuildArg, BuildContext, BuildSpec};
use longshore_raft::Runtime;
use longshore_storage::{BlobDigest, BlobError, BlobInfo};

use super::Service;
use crate::api::service::ApiStream;
use crate::api::types::*;
use crate::builds::ContextError;

fn view(info: BlobInfo) -> ContextView {
    ContextView { digest: info.digest.to_string(), bytes: info.bytes }
}

fn parse_digest(text: &str) -> Result<BlobDigest, ApiError> {
    text.parse().map_err(|error: String| ApiError::new(ErrorCode::Invalid, error))
}

fn too_large(bytes: u64, limit: u64) -> ApiError {
    let message = format!("the folder has {bytes} bytes or more, and this node takes {limit} at most");
    ApiError::new(ErrorCode::TooLarge, message).hint(
        "list what a build does not need in .dockerignore, ask another node with --host, or raise limits.build_context",
    )
}

fn context_error(error: impl Into<ContextError>) -> ApiError {
    let error = match error.into() {
        ContextError::Blob(error) => error,
        error @ ContextError::Unsure { .. } => {
            return ApiError::new(ErrorCode::Busy, format!("the folder can not be kept: {error}"))
                .hint("try again in a moment, ask another node with --host, or raise limits.build_contexts");
        }
    };
    match error {
        BlobError::TooLarge { bytes, limit } => too_large(bytes, limit),
        BlobError::Full { limit } => {
            let message = format!(
                "this node keeps {limit} bytes of build contexts, room for one that it has to build included, and what is there is needed by builds that have not ended, or was sent a moment ago"
            );
            ApiError::new(ErrorCode::Busy, message).hint(
                "try again when builds have ended (see `longshore op ls --active`), cancel one, ask another node with --host, or raise limits.build_contexts",
            )
        }
        BlobError::NoSpace { free, floor } => {
            let message = format!(
                "the disk of this node's data has {free} bytes left, and {floor} of them are not for build contexts"
            );
            ApiError::new(ErrorCode::Busy, message)
                .hint("make room on that disk, ask another node with --host, or lower limits.disk_floor")
        }
        BlobError::Io { .. } => {
            ApiError::new(ErrorCode::Internal, format!("the folder can not be kept: {error}"))
                .hint("see whether this node's disk is full and its data folder is its own, and its log")
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
        let found = self.work.contexts.claim(parse_digest(digest)?).await.map_err(context_error)?;
        found.map(view).ok_or_else(|| no_context(digest))
    }

    pub(super) async fn new_context(
        &self,
        announced: Option<u64>,
        mut pieces: ApiStream<bytes::Bytes>,
    ) -> Result<ContextView, ApiError> {
        let limit = self.work.contexts.limits().one_bytes;
        // Before any of it is read.
        if let Some(bytes) = announced.filter(|bytes| *bytes > limit) {
            return Err(too_large(bytes, limit));
        }
        let Some(mut upload) = self.work.contexts.upload(announced).await.map_err(context_error)? else {
            let error =
                ApiError::new(ErrorCode::Busy, "as many folders as can be are being sent to this node");
            return Err(error.hint("try again in a moment, or name another node with --host"));
        };
        while let Some(piece) = pieces.next().await {
            upload.push(&piece?).await.map_err(context_error)?;
        }
        let saved = upload.finish(None).await.map_err(context_error)?;
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
        let found = self.work.contexts.claim(digest).await.map_err(context_error)?;
        spec.context.bytes = found.ok_or_else(|| no_context(&context))?.bytes;
        Ok(spec)
    }
}

fn no_context(digest: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("this node does not have the build context {digest}"))
        .hint("send it to this node first: `longshore op build`, or POST /v1/contexts")
}
