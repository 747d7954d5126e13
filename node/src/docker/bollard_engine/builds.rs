//! Builds of the real engine, by its classic builder, which Engine 20.10 and all later ones have.

use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::body_try_stream;
use bollard::errors::Error as BollardError;
use bollard::query_parameters::{BuildImageOptions, TagImageOptions};
use futures_util::StreamExt;

use super::super::builds::{BuildOrder, BuildTracker, ContextBytes};
use super::super::classify;
use super::super::connection::Connection;
use super::super::{Credentials, EngineError, LocalImage, OnProgress};
use super::BollardEngine;
use super::images::pulled_image;

/// What Docker Hub is called in the credentials of a build.
const HUB: &str = "https://index.docker.io/v1/";
/// Longer than any operation may take.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);

impl BollardEngine {
    /// There is no limit of silence: a compiler may say nothing for long. Dropping the future closes the connection, which ends the build.
    pub(super) async fn build_image(
        &self,
        order: &BuildOrder,
        context: ContextBytes,
        on_progress: OnProgress,
    ) -> Result<LocalImage, EngineError> {
        let endpoint = self.endpoint();
        let Some(first) = order.tags.first() else {
            return Err(EngineError::BuildFailed { detail: "the image has no name".to_owned() });
        };
        let connection = Connection::open(&self.socket, self.limits).await?;
        let credentials = order.credentials.iter().map(shown_to_builder).collect();
        // What is sent, and what a step does, takes as long as it takes: who waits gives up by dropping this.
        let docker = connection.docker.clone().with_timeout(LONGEST);
        let mut messages =
            docker.build_image(options(order), Some(credentials), Some(body_try_stream(context)));
        let mut tracker = BuildTracker::default();
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                Err(
                    BollardError::DockerResponseServerError { message, .. }
                    | BollardError::DockerStreamError { error: message },
                ) => {
                    let (step, tail) = (tracker.step.as_ref(), tracker.tail());
                    return Err(classify::build_error(&endpoint, step, &tail, &message));
                }
                Err(error) => return Err(self.interrupted(classify::describe(&error))),
            };
            if let Some(id) = message.aux.and_then(|aux| aux.id) {
                tracker.observe_image(id);
            }
            if let Some(progress) = message.stream.as_deref().and_then(|text| tracker.observe(text)) {
                on_progress(progress);
            }
        }
        drop(messages);
        // As for pulls: the stream's end is no proof. Nor is the name: an earlier build may have given it, or another one meanwhile.
        let missing = || self.interrupted("the build ended, and its image is not there".to_owned());
        let id = tracker.image.ok_or_else(missing)?;
        let built = self.ask(connection.docker.inspect_image(&id)).await?.ok_or_else(missing)?;
        let built = pulled_image(first, built);
        for tag in &order.tags {
            if self.inspect(&connection, tag).await?.is_none_or(|found| found.id != built.id) {
                let options = TagImageOptions { repo: Some(tag.name()), tag: tag.tag().map(str::to_owned) };
                self.ask(connection.docker.tag_image(&built.id, Some(options))).await?.ok_or_else(missing)?;
            }
        }
        Ok(built)
    }
}

fn options(order: &BuildOrder) -> BuildImageOptions {
    let args = order.args.iter().map(|arg| (arg.name.clone(), arg.value.clone()));
    let first = order.tags.first().map(|tag| match tag.tag() {
        Some(name) => format!("{}:{name}", tag.name()),
        None => tag.name(),
    });
    BuildImageOptions {
        dockerfile: order.dockerfile.clone(),
        t: first,
        nocache: order.no_cache,
        pull: order.pull.then(|| "true".to_owned()),
        // Containers of steps go, those too of a step that failed.
        rm: true,
        forcerm: true,
        buildargs: Some(args.collect()),
        target: order.target.clone().unwrap_or_default(),
        ..BuildImageOptions::default()
    }
}

fn shown_to_builder(credentials: &Credentials) -> (String, DockerCredentials) {
    let registry = match credentials.registry.as_str() {
        "docker.io" => HUB.to_owned(),
        other => other.to_owned(),
    };
    let shown = DockerCredentials {
        username: Some(credentials.username.clone()),
        password: Some(credentials.password.to_string()),
        serveraddress: Some(registry.clone()),
        ..DockerCredentials::default()
    };
    (registry, shown)
}

#[cfg(test)]
#[path = "builds_tests.rs"]
mod tests;
