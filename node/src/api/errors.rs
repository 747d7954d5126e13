//! [`ApiError`] as an HTTP reply. Owns the mapping of codes to statuses.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::types::{ApiError, ErrorCode};

/// The status that goes with a code.
pub fn http_status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Invalid => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::Denied => StatusCode::FORBIDDEN,
        ErrorCode::NoQuorum => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Busy => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (http_status(self.code), Json(self)).into_response()
    }
}

/// A request that never reached the service. Where HTTP has a more exact status than the code's (405, 415), that one
/// is used.
#[derive(Debug)]
pub(super) struct Rejection {
    pub(super) status: StatusCode,
    pub(super) error: ApiError,
}

impl Rejection {
    pub(super) fn new(status: StatusCode, error: ApiError) -> Self {
        Self { status, error }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        ApiError::new(ErrorCode::Invalid, message).into()
    }
}

impl From<ApiError> for Rejection {
    fn from(error: ApiError) -> Self {
        Self { status: http_status(error.code), error }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        (self.status, Json(self.error)).into_response()
    }
}
