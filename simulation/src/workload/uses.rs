//! What clients do with what they have asked for: they name images, send them to a registry, stop, start and look into containers, follow
//! operations and have them done again, and list what engines have.
//!
//! No checker knows what these calls should do; the rules for everything else hold while they are done, too.

use longshore_node::api::client::{ClientError, Watch};
use longshore_node::api::types::{
    Action, ExecRequest, LogsQuery, OperationQuery, OperationRequest, OutputView, Strategy,
};
use rand::RngExt;
use serde::de::DeserializeOwned;

use super::calls::{Answer, Node, RUN_TIMEOUT_MS, container_name, failed, image, session};
use super::client::SimClient;
use crate::observation::{Call, Outcome, Serial};

/// Of a million images that were asked for, so many are used by whoever did.
pub(super) const USE_IMAGE_PPM: u32 = 250_000;
/// Of a million runs that are not kept up, so many.
pub(super) const USE_CONTAINER_PPM: u32 = 400_000;
/// Most operations of a listing by kind.
const LISTED_MAX: u32 = 20;

impl SimClient {
    async fn use_it<F: Future<Output = Answer> + Send>(
        &mut self,
        kind: &'static str,
        make: impl FnOnce(Node) -> F,
    ) {
        drop(self.call(kind, Call::Other { what: kind.into() }, make).await);
    }

    pub(super) async fn use_image(&mut self, serial: Serial, id: String) {
        let again = id.clone();
        self.use_it("watch", |node| watch(node, again)).await;
        match self.random.random_range(0..4) {
            0 => self.use_it("tag", |node| tag(node, serial)).await,
            1 => self.use_it("push", |node| push(node, serial)).await,
            2 => self.use_it("retry", |node| retry(node, serial, id)).await,
            _ => {}
        }
    }

    pub(super) async fn use_container(&mut self, serial: Serial, id: String, copies: u32) {
        self.use_it("watch", |node| watch(node, id)).await;
        let copy = self.random.random_range(1..=copies);
        let name =
            if copies == 1 { container_name(serial) } else { format!("{}.{copy}", container_name(serial)) };
        match self.random.random_range(0..4) {
            0 => self.use_it("exec", |node| exec(node, name)).await,
            1 => self.use_it("logs", |node| logs(node, name)).await,
            2 => self.use_it("stop", |node| stop(node, serial, name)).await,
            _ => {
                let again = name.clone();
                self.use_it("stop", |node| stop(node, serial, name)).await;
                self.think().await;
                self.use_it("start", |node| start(node, serial, again)).await;
            }
        }
    }

    pub(super) async fn list_something(&mut self) {
        match self.random.random_range(0..5) {
            0 => self.use_it("ps", |node| async move { done(node.list_containers(None).await) }).await,
            1 => self.use_it("images", |node| async move { done(node.list_images(None).await) }).await,
            2 => self.use_it("volumes", |node| async move { done(node.list_volumes(None).await) }).await,
            3 => self.use_it("runs", |node| async move { done(node.list_runs().await) }).await,
            _ => self.use_it("ls", list_pulls).await,
        }
    }
}

fn done<T>(answered: Result<T, ClientError>) -> Answer {
    match answered {
        Ok(_) => Outcome::Done,
        Err(error) => failed(error),
    }
}

async fn operate(node: Node, serial: Serial, what: &str, action: Action, strategy: Strategy) -> Answer {
    let request = OperationRequest {
        session: session(serial),
        timeout_ms: Some(RUN_TIMEOUT_MS),
        ..OperationRequest::new(action, strategy)
    };
    done(node.submit_operation(&request, Some(&format!("{what}-{serial}"))).await)
}

async fn tag(node: Node, serial: Serial) -> Answer {
    let targets = vec![format!("{}-named", image(serial))];
    operate(node, serial, "tag", Action::Tag { source: image(serial), targets }, Strategy::Replicated).await
}

async fn push(node: Node, serial: Serial) -> Answer {
    let images = vec![image(serial)];
    operate(node, serial, "push", Action::Push { images }, Strategy::Local).await
}

async fn stop(node: Node, serial: Serial, container: String) -> Answer {
    let action = Action::Stop { containers: vec![container], grace_s: None };
    operate(node, serial, "stop", action, Strategy::Distributed).await
}

async fn start(node: Node, serial: Serial, container: String) -> Answer {
    let action = Action::Start { containers: vec![container] };
    operate(node, serial, "start", action, Strategy::Distributed).await
}

async fn retry(node: Node, serial: Serial, id: String) -> Answer {
    done(node.retry_operation(&id, Some(&format!("retry-{serial}"))).await)
}

async fn list_pulls(node: Node) -> Answer {
    let query =
        OperationQuery { kind: Some("pull".into()), limit: Some(LISTED_MAX), ..OperationQuery::default() };
    done(node.list_operations(&query).await)
}

/// Everything that comes, to its end.
async fn drain<T: DeserializeOwned>(
    opened: Result<Watch<T>, ClientError>,
    mut each: impl FnMut(T),
) -> Result<(), ClientError> {
    let mut watch = opened?;
    while let Some(item) = watch.next().await? {
        each(item);
    }
    Ok(())
}

async fn watch(node: Node, id: String) -> Answer {
    let mut has_ended = false;
    let followed = drain(node.watch_operation(&id).await, |view| has_ended = view.state.is_terminal()).await;
    match followed {
        Ok(()) if !has_ended => Outcome::Unknown("the watch ended before the operation did".into()),
        followed => done(followed),
    }
}

async fn exec(node: Node, container: String) -> Answer {
    let command = ["true"].map(str::to_owned).to_vec();
    let request = ExecRequest { command, env: Vec::new(), user: None, working_dir: None, on: None };
    done(drain::<OutputView>(node.exec(&container, &request).await, drop).await)
}

async fn logs(node: Node, container: String) -> Answer {
    let query = LogsQuery { follow: false, tail: Some(5), since_ms: None, timestamps: false, on: None };
    done(drain::<OutputView>(node.logs(&container, &query).await, drop).await)
}
