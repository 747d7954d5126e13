//! Against an engine of a few lines: what a real one says only in rare moments.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use longshore_model::image::ImageReference;
use parking_lot::Mutex;
use tokio::net::UnixListener;

use super::super::super::builds::BuildOrder;
use super::super::super::{EngineError, LocalImage};
use super::super::BollardEngine;

const BUILT: &str = "sha256:b0";
const OTHER: &str = "sha256:07";

/// What it says while it builds, and which image has which name.
struct Engine {
    says: &'static str,
    names: Mutex<BTreeMap<String, &'static str>>,
}

async fn answer(State(engine): State<Arc<Engine>>, method: Method, uri: Uri, _body: Bytes) -> Response {
    let path = uri.path().trim_start_matches("/v1.47");
    let image = path.strip_prefix("/images/").unwrap_or_default().replace("%2F", "/").replace("%3A", ":");
    match (method, path) {
        (_, "/_ping") => ([("Api-Version", "1.47")], "OK").into_response(),
        (Method::POST, "/build") => engine.says.into_response(),
        (Method::GET, _) => {
            let name = image.trim_end_matches("/json");
            let id = match name {
                BUILT => Some(BUILT),
                name => engine.names.lock().get(name).copied(),
            };
            match id {
                Some(id) => format!("{{\"Id\":\"{id}\",\"Size\":7}}").into_response(),
                None => (StatusCode::NOT_FOUND, "{\"message\":\"No such image\"}").into_response(),
            }
        }
        (_, _) if image == format!("{BUILT}/tag") => {
            let query = uri.query().unwrap_or_default().replace("%2F", "/");
            let value = |key: &str| {
                query.split('&').find_map(|pair| pair.strip_prefix(key)).unwrap_or_default().to_owned()
            };
            engine.names.lock().insert(format!("{}:{}", value("repo="), value("tag=")), BUILT);
            StatusCode::CREATED.into_response()
        }
        _ => (StatusCode::BAD_REQUEST, format!("{{\"message\":\"{uri}\"}}")).into_response(),
    }
}

/// A build of two names, of which another image has the first when it ends.
async fn build(says: &'static str) -> (Result<LocalImage, EngineError>, BTreeMap<String, &'static str>) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let first = "docker.io/library/app:1".to_owned();
    let engine = Arc::new(Engine { says, names: Mutex::new(BTreeMap::from([(first, OTHER)])) });
    let served = axum::serve(listener, Router::new().fallback(answer).with_state(Arc::clone(&engine)));
    let order = BuildOrder {
        tags: ["app:1", "app:2"].map(|tag| tag.parse::<ImageReference>().unwrap()).to_vec(),
        dockerfile: "Dockerfile".to_owned(),
        args: Vec::new(),
        target: None,
        no_cache: false,
        pull: false,
        credentials: Vec::new(),
    };
    let client = BollardEngine::new(&socket);
    let context = Box::pin(stream::iter([Ok(Bytes::from_static(b"a tar"))]));
    let built = tokio::select! {
        biased;
        served = served.into_future() => panic!("it serves for ever: {served:?}"),
        built = client.build_image(&order, context, Arc::new(|_| {})) => built,
    };
    let names = engine.names.lock().clone();
    (built, names)
}

#[tokio::test]
async fn what_was_built_is_the_image_that_the_engine_named() {
    for says in [
        "{\"stream\":\"Step 1/1 : FROM scratch\\n\"}\r\n{\"aux\":{\"ID\":\"sha256:b0\"}}\r\n{\"stream\":\"Successfully built b0\\n\"}\r\n",
        "{\"aux\":{\"ID\":\"sha256:0a\"}}\r\n{\"aux\":{\"ID\":\"sha256:b0\"}}\r\n",
    ] {
        let (built, names) = build(says).await;
        assert_eq!(built.expect("it is there").id, BUILT);
        let names: Vec<_> = names.values().copied().collect();
        assert_eq!(names, [BUILT, BUILT], "both names are its own");
    }
}

#[tokio::test]
async fn a_build_that_named_no_image_or_one_that_is_not_there_did_not_succeed() {
    for says in ["{\"stream\":\"Step 1/1 : FROM scratch\\n\"}\r\n", "{\"aux\":{\"ID\":\"sha256:0a\"}}\r\n"] {
        let (built, names) = build(says).await;
        assert!(matches!(built, Err(EngineError::Interrupted { .. })), "{built:?}");
        let names: Vec<_> = names.values().copied().collect();
        assert_eq!(names, [OTHER], "an image of that name is no proof");
    }
}
