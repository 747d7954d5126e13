//! Engines and runs of the scripted fleet.

use data_encoding::BASE64;
use futures_util::{StreamExt, stream};

use super::FakeFleet;
use crate::api::service::{ApiFuture, ApiStream, EngineService};
use crate::api::types::*;

pub(crate) fn container(node: &str, name: &str) -> ContainerView {
    ContainerView {
        node: node.to_owned(),
        id: "ab12".repeat(16),
        name: name.to_owned(),
        image: "nginx:1.27".into(),
        state: ContainerStateView::Running,
        exit_code: None,
        health: None,
        ports: vec!["0.0.0.0:8080->80/tcp".into()],
        created_at_ms: 1_700_000_000_000,
        operation: Some("op-1-2-3".into()),
        run: None,
    }
}

pub(crate) fn run(name: &str) -> RunView {
    let copy = |copy: u32, node: &str, state| CopyView {
        copy,
        node: node.to_owned(),
        state,
        container: format!("{name}.{copy}"),
        container_id: None,
        operation: "op-1-2-3".into(),
        why: (state == CopyStateView::Down).then(|| "alpha is away".to_owned()),
    };
    RunView {
        id: "op-1-2-3".into(),
        name: Some(name.to_owned()),
        image: "nginx:1.27".into(),
        stopped: false,
        copies: vec![copy(1, "alpha", CopyStateView::Down), copy(2, "beta", CopyStateView::Up)],
    }
}

fn registry(name: &str, username: &str) -> RegistryView {
    RegistryView {
        registry: name.to_owned(),
        username: username.to_owned(),
        set_by: "alpha".into(),
        set_at_ms: 1_700_000_000_000,
    }
}

fn missing() -> Vec<MissingNode> {
    vec![MissingNode { node: "gamma".into(), why: "the node is dead".into() }]
}

fn stale() -> Vec<StaleNode> {
    let why = "no Docker engine at /run/docker.sock".to_owned();
    vec![StaleNode { node: "beta".into(), as_of_ms: 1_700_000_000_000, why }]
}

fn piece(container: &str, stream: OutputStream, text: &str) -> OutputView {
    let data = BASE64.encode(text.as_bytes());
    OutputView::Piece { node: "alpha".into(), container: container.to_owned(), stream, data }
}

impl EngineService for FakeFleet {
    fn list_containers(&self, query: EngineQuery) -> ApiFuture<'_, ContainerList> {
        Box::pin(async move {
            self.enter("list_containers", query.on.as_deref().unwrap_or("")).await?;
            let containers = vec![container("alpha", "web.1"), container("beta", "web.2")];
            Ok(ContainerList { containers, stale: stale(), missing: missing() })
        })
    }

    fn list_images(&self, query: EngineQuery) -> ApiFuture<'_, ImageList> {
        Box::pin(async move {
            self.enter("list_images", query.on.as_deref().unwrap_or("")).await?;
            let image = |node: &str| ImageView {
                node: node.to_owned(),
                id: format!("sha256:{}", "cd".repeat(32)),
                tags: vec!["nginx:1.27".into()],
                size_bytes: 3 << 20,
                created_at_ms: 1_700_000_000_000,
            };
            Ok(ImageList {
                images: vec![image("alpha"), image("beta")],
                stale: Vec::new(),
                missing: missing(),
            })
        })
    }

    fn list_volumes(&self, query: EngineQuery) -> ApiFuture<'_, VolumeList> {
        Box::pin(async move {
            self.enter("list_volumes", query.on.as_deref().unwrap_or("")).await?;
            let volume = VolumeView { node: "alpha".into(), name: "data".into(), driver: "local".into() };
            Ok(VolumeList { volumes: vec![volume], stale: Vec::new(), missing: Vec::new() })
        })
    }

    fn logs(&self, container: String, query: LogsQuery) -> ApiFuture<'_, ApiStream<OutputView>> {
        Box::pin(async move {
            self.enter("logs", &format!("{container} {} {:?}", query.follow, query.tail)).await?;
            let pieces = [
                piece("web.1", OutputStream::Stdout, "one\ntw"),
                piece("web.2", OutputStream::Stderr, "uh\n"),
                piece("web.1", OutputStream::Stdout, "o\nlast"),
            ];
            Ok(stream::iter(pieces.map(Ok)).boxed() as ApiStream<OutputView>)
        })
    }

    fn exec(&self, container: String, request: ExecRequest) -> ApiFuture<'_, ApiStream<OutputView>> {
        Box::pin(async move {
            self.enter("exec", &format!("{container} {}", request.command.join(" "))).await?;
            let output = [
                piece(&container, OutputStream::Stdout, "out\n"),
                piece(&container, OutputStream::Stderr, "err\n"),
                OutputView::Exit { code: 3 },
            ];
            Ok(stream::iter(output.map(Ok)).boxed() as ApiStream<OutputView>)
        })
    }

    fn list_registries(&self) -> ApiFuture<'_, Vec<RegistryView>> {
        Box::pin(async {
            self.enter("list_registries", "").await?;
            Ok(vec![registry("r.example", "ci")])
        })
    }

    fn log_in(&self, name: String, login: RegistryLogin) -> ApiFuture<'_, RegistryView> {
        Box::pin(async move {
            self.enter("log_in", &format!("{name} {} {}", login.username, login.password.len())).await?;
            Ok(registry(&name, &login.username))
        })
    }

    fn log_out(&self, name: String) -> ApiFuture<'_, RegistryView> {
        Box::pin(async move {
            self.enter("log_out", &name).await?;
            match name.as_str() {
                "r.example" => Ok(registry(&name, "ci")),
                _ => Err(ApiError::new(
                    ErrorCode::NotFound,
                    format!("the fleet has no credentials for {name}"),
                )),
            }
        })
    }

    fn list_runs(&self) -> ApiFuture<'_, Vec<RunView>> {
        Box::pin(async {
            self.enter("list_runs", "").await?;
            Ok(vec![run("shop")])
        })
    }

    fn inspect_run(&self, name: String) -> ApiFuture<'_, RunView> {
        Box::pin(async move {
            self.enter("inspect_run", &name).await?;
            match name.as_str() {
                "shop" | "op-1-2-3" => Ok(run("shop")),
                _ => Err(ApiError::new(ErrorCode::NotFound, format!("there is no run {name:?}"))),
            }
        })
    }

    fn change_run(&self, name: String, change: RunChange) -> ApiFuture<'_, RunView> {
        Box::pin(async move {
            self.enter("change_run", &format!("{name} {change:?}")).await?;
            Ok(RunView { stopped: change == RunChange::Stop, ..run("shop") })
        })
    }
}
