//! Calls about containers, images, volumes, runs, and credentials of registries.

use hyper::Method;
use longshore_raft::Runtime;

use super::{Client, ClientError, Watch, body};
use crate::api::percent::encode;
use crate::api::types::*;

fn on(node: Option<&str>) -> String {
    node.map_or(String::new(), |node| format!("?on={}", encode(node)))
}

impl<R: Runtime> Client<R> {
    pub async fn list_containers(&self, node: Option<&str>) -> Result<ContainerList, ClientError> {
        self.get(&format!("/v1/containers{}", on(node))).await
    }

    pub async fn list_images(&self, node: Option<&str>) -> Result<ImageList, ClientError> {
        self.get(&format!("/v1/images{}", on(node))).await
    }

    pub async fn list_volumes(&self, node: Option<&str>) -> Result<VolumeList, ClientError> {
        self.get(&format!("/v1/volumes{}", on(node))).await
    }

    /// What containers wrote, as it comes.
    pub async fn logs(&self, container: &str, query: &LogsQuery) -> Result<Watch<OutputView>, ClientError> {
        let LogsQuery { follow, tail, since_ms, timestamps, on } = query;
        let tail = tail.map_or(String::new(), |tail| format!("&tail={tail}"));
        let since = since_ms.map_or(String::new(), |since| format!("&since_ms={since}"));
        let on = on.as_ref().map_or(String::new(), |on| format!("&on={}", encode(on)));
        let container = encode(container);
        let flags = format!("follow={follow}&timestamps={timestamps}");
        self.watch(&format!("/v1/containers/{container}/logs?{flags}{tail}{since}{on}")).await
    }

    /// What a command in a container writes, and its exit code.
    pub async fn exec(
        &self,
        container: &str,
        request: &ExecRequest,
    ) -> Result<Watch<OutputView>, ClientError> {
        let path = format!("/v1/containers/{}/exec", encode(container));
        self.watch_reply(Method::POST, &path, Some(body(request))).await
    }

    pub async fn list_registries(&self) -> Result<Vec<RegistryView>, ClientError> {
        self.get("/v1/registries").await
    }

    pub async fn log_in(&self, registry: &str, login: &RegistryLogin) -> Result<RegistryView, ClientError> {
        self.call(Method::PUT, &format!("/v1/registries/{}", encode(registry)), Some(body(login)), None).await
    }

    pub async fn log_out(&self, registry: &str) -> Result<RegistryView, ClientError> {
        self.call(Method::DELETE, &format!("/v1/registries/{}", encode(registry)), None, None).await
    }

    pub async fn list_runs(&self) -> Result<Vec<RunView>, ClientError> {
        self.get("/v1/runs").await
    }

    pub async fn inspect_run(&self, run: &str) -> Result<RunView, ClientError> {
        self.get(&format!("/v1/runs/{}", encode(run))).await
    }

    pub async fn change_run(&self, run: &str, change: RunChange) -> Result<RunView, ClientError> {
        let request = body(&RunChangeRequest { change });
        self.call(Method::POST, &format!("/v1/runs/{}", encode(run)), Some(request), None).await
    }
}
