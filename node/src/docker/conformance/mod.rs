//! What every [`ContainerEngine`](super::ContainerEngine) that works must do. The fake passes it here, Docker itself in the end-to-end tests.
//!
//! Test support: it panics with what went wrong. It needs no clock, and waits for conditions only.

mod builds;
mod changes;
mod containers;
mod images;
mod output;
mod scripts;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use longshore_model::image::ImageReference;

pub use builds::{BuildFixture, builds_conform, context_of};
pub use containers::{ContainerFixture, containers_conform};
pub use images::{Fixture, conforms};
pub use scripts::{commands, programs};

use super::OnProgress;

fn ignore() -> OnProgress {
    Arc::new(|_| {})
}

fn parse(text: &str) -> ImageReference {
    text.parse().unwrap_or_else(|error| panic!("{text:?} should be valid: {error}"))
}
