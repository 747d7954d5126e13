//! Credentials of registries.

use axum::Json;
use axum::extract::State;

use super::*;

/// Registries that the fleet has credentials for; without the passwords.
#[utoipa::path(get, path = "/v1/registries", tag = "registries", responses(
    (status = 200, body = Vec<RegistryView>), (status = "default", body = ApiError)))]
pub(in crate::api) async fn list_registries(
    State(api): State<ApiState>,
) -> Result<Json<Vec<RegistryView>>, ApiError> {
    api.service.list_registries().await.map(Json)
}

/// Sets or replaces the credentials of a registry. They are kept sealed, and given to engines with each pull and push of its images. They are not
/// tried: the next pull tells.
#[utoipa::path(put, path = "/v1/registries/{registry}", tag = "registries", params(("registry" = String, Path)),
    request_body = RegistryLogin, responses((status = 200, body = RegistryView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn log_in(
    State(api): State<ApiState>,
    Segment(registry): Segment,
    JsonBody(login): JsonBody<RegistryLogin>,
) -> Result<Json<RegistryView>, ApiError> {
    api.service.log_in(registry, login).await.map(Json)
}

/// Forgets the credentials of a registry. What is under way has them still.
#[utoipa::path(delete, path = "/v1/registries/{registry}", tag = "registries", params(("registry" = String, Path)), responses(
    (status = 200, body = RegistryView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn log_out(
    State(api): State<ApiState>,
    Segment(registry): Segment,
) -> Result<Json<RegistryView>, ApiError> {
    api.service.log_out(registry).await.map(Json)
}
