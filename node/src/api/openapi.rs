//! The OpenAPI document, generated from the handlers and types.

use std::sync::LazyLock;

use axum::body::Bytes;
use utoipa::OpenApi;

use super::{routes, types};

#[derive(Debug, OpenApi)]
#[openapi(
    info(
        title = "Longshore",
        description = "The API of one Longshore node. The unix socket takes everything; TCP takes reads (GET) only. \
                       Every error is an ApiError; every reply carries x-request-id."
    ),
    paths(
        routes::status,
        routes::list_nodes,
        routes::inspect_node,
        routes::update_node,
        routes::remove_node,
        routes::node_work,
        routes::node_removal,
        routes::leave,
        routes::list_tokens,
        routes::create_token,
        routes::revoke_token,
        routes::list_operations,
        routes::submit_operation,
        routes::inspect_operation,
        routes::watch_operation,
        routes::cancel_operation,
        routes::retry_operation,
        routes::list_contexts,
        routes::take_context,
        routes::find_context,
        routes::list_containers,
        routes::container_logs,
        routes::exec_in_container,
        routes::list_images,
        routes::list_volumes,
        routes::list_runs,
        routes::inspect_run,
        routes::change_run,
        routes::list_registries,
        routes::log_in,
        routes::log_out,
        routes::show_ring,
        routes::plan_ring,
        routes::pause_ring,
        routes::resume_ring,
        routes::rebalance_ring,
        routes::watch_ring,
        routes::list_groups,
        routes::inspect_group,
        routes::transfer_group,
        routes::scan_keys,
        routes::get_key,
        routes::set_key,
        routes::delete_key,
        routes::openapi_document,
        routes::livez,
        routes::readyz,
    ),
    components(schemas(types::WatchEnd))
)]
struct Document;

/// The document as JSON.
pub fn json() -> Bytes {
    static JSON: LazyLock<Bytes> = LazyLock::new(|| {
        let text = Document::openapi().to_json().expect("a generated document encodes as JSON");
        Bytes::from(text)
    });
    JSON.clone()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_documented_and_nothing_else() {
        let document: serde_json::Value = serde_json::from_slice(&json()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3."));
        let documented: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| item.as_object().unwrap().keys().map(|m| (path.clone(), m.clone())))
            .collect();
        let served: BTreeSet<(String, String)> = routes::ROUTES
            .iter()
            .flat_map(|(path, methods, _)| methods.iter().map(|m| (path.to_string(), m.to_string())))
            .collect();
        assert_eq!(documented, served);
    }

    #[test]
    fn every_reference_resolves() {
        let document: serde_json::Value = serde_json::from_slice(&json()).unwrap();
        let mut references = Vec::new();
        collect_references(&document, &mut references);
        assert!(references.len() > 20, "{references:?}");
        for reference in references {
            let pointer = reference.strip_prefix('#').expect("references are local");
            assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
        }
    }

    fn collect_references(value: &serde_json::Value, into: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    match value.as_str() {
                        Some(target) if key == "$ref" => into.push(target.to_owned()),
                        _ => collect_references(value, into),
                    }
                }
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| collect_references(item, into)),
            _ => {}
        }
    }
}
