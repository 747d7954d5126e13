//! Has expired keys removed, in groups that this node leads.
//!
//! Reads hide what has expired at once, so there is no hurry: a group is swept some seconds after a key expired, all that has expired by then in
//! one go, and one at rest is not woken for each key. Must never: remove anything but through the group's log.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::keys::limits::SWEEP_KEYS_MAX;
use longshore_model::partition::{Command, Reply};
use longshore_raft::consensus::machine::LogTime;
use longshore_raft::{GroupId, Runtime};
use tokio_util::sync::CancellationToken;

use super::{Partitions, Replicas};

/// How often groups are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long an expired key may take up memory before the group is woken for it.
const SLACK_MS: u64 = 10_000;

/// See the module's docs. One per node.
pub(crate) struct Sweeper<R: Runtime> {
    replicas: Arc<Replicas<R>>,
}

impl<R: Runtime> Sweeper<R> {
    pub(crate) fn new(replicas: Arc<Replicas<R>>) -> Self {
        Self { replicas }
    }

    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = R::sleep(LOOK_EVERY) => {}
            }
            for (group, replica) in self.replicas.led() {
                if is_due(&replica) {
                    sweep(group, &replica).await;
                }
            }
        }
    }
}

fn is_due<R: Runtime>(replica: &Partitions<R>) -> bool {
    let expired = replica.with_state(|machine| machine.next_expiry());
    expired.is_some_and(|at| at.0.saturating_add(SLACK_MS) <= replica.log_time().0)
}

/// Sweeps until nothing is left that has expired.
async fn sweep<R: Runtime>(group: GroupId, replica: &Partitions<R>) {
    loop {
        let now: LogTime = replica.log_time();
        match replica.propose(Command::Sweep { keys_max: SWEEP_KEYS_MAX }).await {
            Ok(Reply::Swept { next, .. }) if next.is_some_and(|next| next <= now) => {}
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(%group, %error, "expired keys could not be removed; trying again later");
                return;
            }
        }
    }
}
