//! What clients do with containers: they run some, have the fleet keep others up, and change and remove them later.
//!
//! A kept run is changed by the client that asked for it only, one change after the other, so that checkers know what is wanted of it as long as
//! each outcome is known.

use rand::RngExt;

use super::calls;
use super::client::{CANCEL_PPM, SimClient};
use super::uses::USE_CONTAINER_PPM;
use crate::observation::{Call, Change, LogPosition, Outcome, RunShape};

/// Most containers of a run.
const COPIES_MAX: u32 = 3;
/// Most runs that one client has kept up at a time.
const KEPT_MAX: usize = 3;
/// Of a million runs, so many are to be kept up.
const KEPT_PPM: u32 = 600_000;
/// Of a million calls about runs, so many change one that is kept up.
const CHANGE_PPM: u32 = 400_000;
/// Of a million changes, so many remove the run; all that is left is to stop it, or to start it.
const REMOVE_PPM: u32 = 400_000;
/// Of a million runs that are not kept up, so many are removed by whoever asked for them.
const REMOVE_PLAIN_PPM: u32 = 300_000;
/// Times that a removal of unknown outcome is repeated.
const REMOVE_ATTEMPTS: u32 = 20;

/// A run that was acknowledged, as its client knows it.
#[derive(Debug)]
pub(super) struct KeptRun {
    at: LogPosition,
    id: String,
    stopped: bool,
}

impl SimClient {
    pub(super) async fn run_or_change(&mut self) {
        let changes = !self.kept.is_empty() && self.happens(CHANGE_PPM);
        if changes || self.kept.len() >= KEPT_MAX {
            return self.change_some_run().await;
        }
        let shape =
            RunShape { copies: self.random.random_range(1..=COPIES_MAX), kept: self.happens(KEPT_PPM) };
        let serial = self.world.recorder.next_serial();
        let Some((at, id)) = self.submit("run", serial, Some(shape)).await else { return };
        if shape.kept {
            self.kept.push(KeptRun { at, id, stopped: false });
        } else if self.happens(CANCEL_PPM) {
            self.cancel(at, serial, id).await;
        } else {
            if self.happens(USE_CONTAINER_PPM) {
                self.use_container(serial, id, shape.copies).await;
            }
            if !self.happens(REMOVE_PLAIN_PPM) {
                return;
            }
            self.think().await;
            let what = Call::Other { what: "rm".into() };
            let remove = |node| calls::remove_containers(node, serial, shape.copies);
            self.call("rm", what, remove).await;
        }
    }

    async fn change_some_run(&mut self) {
        let which = self.random.random_range(0..self.kept.len());
        let removes = self.happens(REMOVE_PPM);
        let change = match self.kept[which].stopped {
            _ if removes => Change::Remove,
            true => Change::Start,
            false => Change::Stop,
        };
        let outcome = self.change_run(which, change).await;
        match change {
            Change::Remove => {
                let mut outcome = outcome;
                for _ in 1..REMOVE_ATTEMPTS {
                    if !matches!(outcome, Outcome::Unknown(_) | Outcome::Refused(_)) {
                        break;
                    }
                    self.think().await;
                    outcome = self.change_run(which, change).await;
                }
                self.kept.swap_remove(which);
            }
            Change::Stop | Change::Start if outcome == Outcome::Done => {
                self.kept[which].stopped = change == Change::Stop;
            }
            Change::Stop | Change::Start => {}
        }
    }

    async fn change_run(&mut self, which: usize, change: Change) -> Outcome {
        let KeptRun { at, id, .. } = &self.kept[which];
        let (at, id) = (*at, id.clone());
        self.call("change", Call::Change { at, change }, |node| calls::change_run(node, id, change)).await
    }
}
