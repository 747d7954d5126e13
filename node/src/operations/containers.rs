//! An attempt to run a container: made under its name and labelled with the attempt's token, the lease looked at again, then started.
//!
//! So of two attempts at one sub-operation the later one finds what the earlier one made, on the same engine, by its name; and nothing is started
//! that the log does not allow at that moment. What is left is the time between the log's answer and the start: a node that stands still just
//! there, for longer than lease and grace, starts a second container beside that of the next attempt, and its caretaker removes it
//! as soon as it has asked the log. What an attempt leaves behind that ends midway, the caretaker finds by its labels.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::container::{ContainerSpec, CopyOf, Origin, RestartPolicy};
use longshore_model::operations::{OperationCommand, OperationReply, Verdict};
use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;

use super::attempt::{allowed, on_progress};
use super::lease::HeldLease;
use crate::core::Core;
use crate::docker::{ContainerEngine, EngineError, NewContainer};
use crate::engines::Care;
use crate::ring::Front;

/// Pause before the log is asked again that did not answer.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// An answer that took longer may be of long ago: the work may have been taken back since.
const PROMPT: Duration = Duration::from_secs(1);

/// See the module's docs.
pub(super) struct RunAttempt<'a, R: Runtime> {
    pub(super) core: &'a Core<R>,
    pub(super) front: &'a Front<R>,
    pub(super) engine: &'a Arc<dyn ContainerEngine>,
    pub(super) lease: &'a Arc<HeldLease<R>>,
    pub(super) care: &'a Care,
}

impl<R: Runtime> RunAttempt<'_, R> {
    /// The id of the container, which runs.
    pub(super) async fn run(
        &self,
        name: String,
        mut spec: ContainerSpec,
        kept: Option<CopyOf>,
    ) -> Result<String, EngineError> {
        if self.engine.inspect_image(&spec.image).await?.is_none() {
            let engine = allowed(self.core, self.engine, &spec.image);
            engine.pull(&spec.image, on_progress(self.lease)).await?;
        }
        if kept.is_some() {
            // Docker starts what has a policy when its daemon starts, also what was stopped by hand: the copies of a host that comes back, before it
            // has asked whether they still count. So the caretaker starts what ended.
            spec.restart = RestartPolicy::No;
        }
        let origin = Origin { sub: self.lease.key, token: self.lease.token, kept };
        let labels = origin.labels(&self.core.fleet.to_string(), self.core.me, &name);
        let new = NewContainer { name, spec, labels };
        let id = match self.engine.create(&new).await {
            Err(EngineError::NameTaken { name }) => {
                self.make_room(name).await?;
                self.engine.create(&new).await?
            }
            made => made?,
        };
        self.lease.set_made(id.clone());
        longshore_storage::mutant!("start-without-asking" => {
            self.engine.start(&id).await?;
            return Ok(id);
        });
        self.confirm().await;
        if let Err(error) = self.engine.start(&id).await {
            // It may have been started all the same, if it was the reply that was lost: the next attempt has another token.
            if let Err(left) = self.engine.remove(&id, true).await {
                tracing::debug!(%left, "a container that could not be started is left for the caretaker");
            }
            // People know it by its name.
            return Err(match error {
                EngineError::PortTaken { detail, .. } => {
                    EngineError::PortTaken { container: new.name, detail }
                }
                other => other,
            });
        }
        self.care.is_up(&id);
        Ok(id)
    }

    /// Removes what an earlier attempt, or a copy that was replaced, left under this name; anything else keeps it.
    async fn make_room(&self, name: String) -> Result<(), EngineError> {
        let Some(there) = self.engine.inspect_container(&name).await? else { return Ok(()) };
        let taken = Err(EngineError::NameTaken { name });
        let Some(origin) = Origin::of(&there.labels, &there.name, &self.core.fleet.to_string()) else {
            return taken;
        };
        let partition = origin.kept.map_or(origin.sub.operation, |copy| copy.run).partition;
        let verdict = self.front.verdicts(partition, self.core.me, vec![origin]).await;
        match verdict.as_deref() {
            Ok([Verdict::Remove]) => self.engine.remove(&there.id, true).await,
            Ok(_) => taken,
            Err(error) => {
                let detail = format!("whose container has the name {}: {error}", there.name);
                Err(EngineError::Undecided { detail })
            }
        }
    }

    /// Resolves when the log says that the lease is still held. If it is not, never: the lease ends, and this attempt with it.
    async fn confirm(&self) {
        let mut is_asked_again = false;
        loop {
            let sent = R::Instant::now();
            let reports = vec![(self.lease.key, self.lease.token, self.lease.progress())];
            let asked =
                self.front.operate(self.lease.key.operation.partition, OperationCommand::Report { reports });
            match asked.await {
                Ok(OperationReply::Reported { lost }) if lost.is_empty() => {
                    self.lease.renewed(self.lease.progress(), sent);
                    // A question that had to be repeated is answered as it was the first time. The next one is another question.
                    if is_asked_again || R::Instant::now() - sent <= PROMPT {
                        return;
                    }
                    is_asked_again = true;
                }
                Ok(_) => {
                    self.lease.lose();
                    return std::future::pending().await;
                }
                Err(_) => R::sleep(ASK_AGAIN).await,
            }
        }
    }
}
