//! One attempt at one sub-operation: claim, work, finish.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::operations::{
    ClaimReply, Failure, OperationCommand, OperationReply, Progress, SubKey, Work,
};
use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;
use tokio_util::sync::CancellationToken;

use super::lease::{HeldLease, LEASE};
use crate::core::Core;
use crate::docker::{EngineError, PullProgress};
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

/// Does the work while the lease holds, and brings the outcome into the log. When the next attempt may begin, if the log wants one.
pub(super) async fn carry_out<R: Runtime>(
    core: &Arc<Core<R>>,
    front: &Front<R>,
    lease: Arc<HeldLease<R>>,
    work: Work,
    stop: CancellationToken,
) -> Option<Duration> {
    let (image, operation) = (work.image().clone(), lease.key.operation);
    let mut work = Box::pin(perform(Arc::clone(core), Arc::clone(&lease), work));
    let outcome = tokio::select! {
        biased;
        () = stop.cancelled() => return None,
        () = lease.over() => {
            tracing::warn!(%operation, %image, "the lease ended; the work was stopped");
            longshore_storage::mutant!("forget-the-lease" => drop(R::spawn(work)));
            // The log says when another attempt may begin.
            return Some(Duration::ZERO);
        }
        outcome = &mut work => outcome,
    };
    let outcome = match outcome {
        Ok(result) => {
            tracing::info!(%operation, %image, %result, "done");
            Ok(result)
        }
        Err(error) => {
            tracing::warn!(%operation, %image, %error, "the attempt failed");
            Err(Failure { transient: error.is_transient(), error: error.to_string() })
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        again = finish(front, &lease, outcome) => again,
    }
}

/// What came of it, in a word: the image's digest, or its id where there is no digest.
async fn perform<R: Runtime>(
    core: Arc<Core<R>>,
    lease: Arc<HeldLease<R>>,
    work: Work,
) -> Result<String, EngineError> {
    let Some(engine) = &core.engine else {
        let detail = "this node was started with --docker none".to_owned();
        return Err(EngineError::Refused { detail });
    };
    let on_progress = Arc::new(move |p: PullProgress| {
        lease.set_progress(Progress {
            layers_done: p.layers_done,
            layers_total: p.layers_total,
            current_bytes: p.current_bytes,
            total_bytes: p.total_bytes,
        });
    });
    let image = match &work {
        Work::Pull(image) => engine.pull(image, on_progress).await?,
        Work::Push(image) => engine.push(image, on_progress).await?,
        Work::Tag { source, target } => engine.tag(source, target).await?,
    };
    Ok(image.digest.unwrap_or(image.id))
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
