//! One attempt at one sub-operation: claim, work, finish.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::image::ImageReference;
use longshore_model::operations::{
    ClaimReply, Failure, FailureKind, OperationCommand, OperationReply, Progress, SubKey, Work,
};
use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;
use tokio_util::sync::CancellationToken;

use super::containers::RunAttempt;
use super::lease::{HeldLease, LEASE};
use crate::builds::Builds;
use crate::core::Core;
use crate::credentials::credentials_for;
use crate::docker::{ContainerEngine, EngineError, OnProgress, PullProgress};
use crate::engines::Care;
use crate::ring::Front;

/// How long a claim waits for the group's log: an election. It holds one of the few places for attempts meanwhile, which others
/// may need whose groups are well.
const CLAIM_PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two tries to bring a result into the log when there is no quorum.
const FINISH_RETRY: Duration = Duration::from_millis(500);
/// How long a result is worth bringing into the log: after lease and grace the attempt does not count any more.
const FINISH_PATIENCE: Duration = LEASE.saturating_mul(2);

/// What became of a claim.
pub(super) enum Claimed<R: Runtime> {
    Granted(Arc<HeldLease<R>>, Work),
    /// Ask again after so long.
    Later(Duration),
    /// Nobody could answer: the group has no quorum, or elects.
    Unanswered,
    Nothing,
}

/// What became of an attempt.
pub(super) struct Ended {
    /// When the next one may begin, if the log wants one.
    pub(super) again: Option<Duration>,
    pub(super) met: Met,
}

/// What an attempt learned of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    /// Nothing: it was given up before.
    Nothing,
    /// It is not there, or went away.
    NoEngine,
    /// It answered.
    Engine,
}

/// Asks the log for the right to start.
pub(super) async fn claim<R: Runtime>(core: &Core<R>, front: &Front<R>, key: SubKey) -> Claimed<R> {
    let asked = R::Instant::now();
    let command = OperationCommand::Claim {
        sub: key,
        node: core.me,
        incarnation: core.incarnation,
        unix_ms: R::unix_time_ms(),
    };
    let claimed = R::timeout(CLAIM_PATIENCE, front.operate(key.operation.partition, command)).await;
    let Ok(claimed) = claimed else {
        // One that is granted too late runs out.
        return Claimed::Unanswered;
    };
    match claimed {
        Ok(OperationReply::Claimed(ClaimReply::Granted { token, work })) => {
            Claimed::Granted(Arc::new(HeldLease::new(key, token, asked)), *work)
        }
        Ok(OperationReply::Claimed(ClaimReply::NotYet { wait_ms })) => {
            Claimed::Later(Duration::from_millis(wait_ms))
        }
        Ok(_) => Claimed::Nothing,
        Err(error) => {
            tracing::debug!(operation = %key.operation, %error, "cannot claim; trying again");
            Claimed::Unanswered
        }
    }
}

/// Does the work while the lease holds, and brings the outcome into the log.
pub(super) async fn carry_out<R: Runtime>(
    core: &Arc<Core<R>>,
    front: &Front<R>,
    care: &Arc<Care>,
    builds: &Arc<Builds<R>>,
    lease: Arc<HeldLease<R>>,
    work: Work,
    stop: CancellationToken,
) -> Ended {
    let (subject, operation) = (work.subject(), lease.key.operation);
    let is_run = matches!(work, Work::Run { .. });
    let (care_too, builds) = (Arc::clone(care), Arc::clone(builds));
    let mut work =
        Box::pin(perform(Arc::clone(core), front.clone(), care_too, builds, Arc::clone(&lease), work));
    let outcome = tokio::select! {
        biased;
        () = stop.cancelled() => return Ended { again: None, met: Met::Nothing },
        () = lease.over() => {
            tracing::warn!(%operation, %subject, "the lease ended; the work was stopped");
            longshore_storage::mutant!("forget-the-lease" => drop(R::spawn(work)));
            if let Some(container) = lease.made() {
                // It may be about to start, whoever asked for that.
                fence(core, care, container).await;
            }
            // The log says when another attempt may begin.
            return Ended { again: Some(Duration::ZERO), met: Met::Nothing };
        }
        outcome = &mut work => outcome,
    };
    let met = match &outcome {
        Err(EngineError::Unavailable { .. } | EngineError::Interrupted { .. }) => Met::NoEngine,
        Err(
            EngineError::Undecided { .. }
            | EngineError::ContextGone
            | EngineError::ContextTooLarge { .. }
            | EngineError::ContextUnavailable { .. },
        ) => Met::Nothing,
        Ok(_) | Err(_) => Met::Engine,
    };
    let outcome = match outcome {
        Ok(result) => {
            tracing::info!(%operation, %subject, %result, "done");
            Ok(result)
        }
        Err(error) => {
            tracing::warn!(%operation, %subject, %error, "the attempt failed");
            Err(failure(&error))
        }
    };
    let made = outcome.as_ref().ok().filter(|_| is_run).cloned();
    let mut finished = Box::pin(finish(front, &lease, outcome));
    tokio::select! {
        biased;
        () = stop.cancelled() => return Ended { again: None, met },
        again = &mut finished => return Ended { again, met },
        () = lease.over(), if made.is_some() => {}
    }
    // Another attempt may begin soon, and nobody knows of this one's container.
    let container = made.expect("else its lease is not looked at");
    tracing::warn!(%operation, %subject, "the lease ended before the container could be recorded; it is stopped");
    fence(core, care, container).await;
    let again = tokio::select! {
        biased;
        () = stop.cancelled() => None,
        again = finished => again,
    };
    Ended { again, met }
}

/// What the log is told of an error. A folder that can not be had just now is waited for, as an engine is that is down.
fn failure(error: &EngineError) -> Failure {
    let kind = match error {
        EngineError::ContextUnavailable { .. } => FailureKind::Waiting,
        error if error.is_transient() => FailureKind::Transient,
        _ => FailureKind::Final,
    };
    Failure { error: error.to_string(), kind }
}

/// Stops a container that the log can not be asked about; the caretaker starts it again if it counts.
async fn fence<R: Runtime>(core: &Core<R>, care: &Care, container: String) {
    let Some(engine) = &core.engine else { return };
    care.fence(container.clone());
    if let Err(error) = engine.stop(&container, Some(Duration::ZERO)).await {
        tracing::warn!(%container, %error, "a container could not be stopped; its caretaker asks the log about it");
    }
    care.fence_done(&container);
}

/// What came of it, in a word: an image's digest, or its id where there is no digest; a container's id.
async fn perform<R: Runtime>(
    core: Arc<Core<R>>,
    front: Front<R>,
    care: Arc<Care>,
    builds: Arc<Builds<R>>,
    lease: Arc<HeldLease<R>>,
    work: Work,
) -> Result<String, EngineError> {
    let engine = core.engine.as_ref().ok_or(EngineError::Disabled)?;
    let image = match work {
        Work::Pull(image) => allowed(&core, engine, &image).pull(&image, on_progress(&lease)).await?,
        Work::Push(image) => allowed(&core, engine, &image).push(&image, on_progress(&lease)).await?,
        Work::Tag { source, target } => engine.tag(&source, &target).await?,
        Work::Build(spec) => builds.build(engine, *spec, on_progress(&lease)).await?,
        Work::Run { name, container, kept } => {
            let attempt = RunAttempt { core: &core, front: &front, engine, lease: &lease, care: &care };
            return attempt.run(name, *container, kept).await;
        }
        Work::Stop { container, grace_s } => {
            let grace = grace_s.map(|s| Duration::from_secs(s.into()));
            engine.stop(&container.id, grace).await?;
            return Ok("stopped".to_owned());
        }
        Work::Start { container } => {
            engine.start(&container.id).await?;
            return Ok("started".to_owned());
        }
        Work::Remove { container, force } => {
            engine.remove(&container.id, force).await?;
            return Ok("removed".to_owned());
        }
    };
    Ok(image.digest.unwrap_or(image.id))
}

/// The engine with the credentials that the fleet has for the image's registry.
pub(super) fn allowed<R: Runtime>(
    core: &Core<R>,
    engine: &Arc<dyn ContainerEngine>,
    image: &ImageReference,
) -> Arc<dyn ContainerEngine> {
    match core.group.with_state(|state| credentials_for(state, image)) {
        Some(credentials) => engine.authorized(credentials),
        None => Arc::clone(engine),
    }
}

/// Keeps what the engine tells for the next report.
pub(super) fn on_progress<R: Runtime>(lease: &Arc<HeldLease<R>>) -> OnProgress {
    let lease = Arc::clone(lease);
    Arc::new(move |p: PullProgress| {
        lease.set_progress(Progress {
            layers_done: p.layers_done,
            layers_total: p.layers_total,
            current_bytes: p.current_bytes,
            total_bytes: p.total_bytes,
        });
    })
}

async fn finish<R: Runtime>(
    front: &Front<R>,
    lease: &HeldLease<R>,
    outcome: Result<String, Failure>,
) -> Option<Duration> {
    let give_up = R::Instant::now() + FINISH_PATIENCE;
    loop {
        let command = OperationCommand::Finish {
            sub: lease.key,
            token: lease.token,
            progress: lease.progress(),
            outcome: outcome.clone(),
            unix_ms: R::unix_time_ms(),
        };
        match front.operate(lease.key.operation.partition, command).await {
            Ok(OperationReply::Finished { counted: true, again_ms }) => {
                return again_ms.map(Duration::from_millis);
            }
            Ok(_) => {
                tracing::warn!(operation = %lease.key.operation, "the result came after the lease; it does not count");
                return None;
            }
            Err(error) if R::Instant::now() >= give_up => {
                tracing::warn!(operation = %lease.key.operation, %error, "the result could not be recorded in time");
                return None;
            }
            Err(_) => R::sleep(FINISH_RETRY).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_away_is_waited_for_and_what_is_wrong_is_not_tried_again() {
        let kind = |error| failure(&error).kind;
        let detail = String::new;
        assert_eq!(kind(EngineError::ContextUnavailable { detail: detail() }), FailureKind::Waiting);
        assert_eq!(kind(EngineError::DiskFull { detail: detail() }), FailureKind::Transient);
        assert_eq!(kind(EngineError::ContextGone), FailureKind::Final);
        assert_eq!(kind(EngineError::ContextTooLarge { bytes: 2, limit: 1 }), FailureKind::Final);
    }
}
