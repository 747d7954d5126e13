//! One container of the fake: what it was made of, and what has become of it. Pure.

use std::collections::BTreeMap;

use longshore_model::container::RestartPolicy;

use super::super::{Container, ContainerState, NewContainer};
use super::output::Written;
use super::ports::Bound;
use super::{FakeImage, Program};

pub(super) struct FakeContainer {
    pub(super) id: String,
    pub(super) made_of: NewContainer,
    pub(super) state: ContainerState,
    /// Counts its starts.
    pub(super) run: u64,
    pub(super) written: Written,
    /// What it does in this run.
    pub(super) program: Program,
    pub(super) image: FakeImage,
    pub(super) created_unix_ms: u64,
    pub(super) stopped_by_hand: bool,
    /// Starts by its policy since somebody started it.
    pub(super) restarts: u32,
    pub(super) last_code: i64,
    pub(super) bound: Vec<Bound>,
    pub(super) anonymous: Vec<String>,
    pub(super) health: Option<String>,
}

impl FakeContainer {
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.made_of.spec.labels.clone();
        labels.extend(self.made_of.labels.clone());
        labels
    }

    pub(super) fn view(&self) -> Container {
        let mut ports: Vec<String> = self.bound.iter().map(Bound::to_string).collect();
        ports.sort_unstable();
        Container {
            id: self.id.clone(),
            name: self.made_of.name.clone(),
            image: self.made_of.spec.image.familiar(),
            state: self.state,
            labels: self.labels(),
            created_unix_s: self.created_unix_ms / 1000,
            ports,
            health: self.health.clone().filter(|_| self.state.is_up()),
        }
    }

    /// By Docker's own rule, when it has ended or the engine starts.
    pub(super) fn comes_back(&self) -> bool {
        match self.made_of.spec.restart {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure { retries_max } => {
                self.last_code != 0 && (retries_max == 0 || self.restarts < retries_max)
            }
            RestartPolicy::Always => true,
            RestartPolicy::UnlessStopped => !self.stopped_by_hand,
        }
    }
}
