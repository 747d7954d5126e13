//! How a node gets commands done wherever the leader is, exactly once; with a replica of its own or without.
//!
//! Every attempt at a command carries the same (client, sequence), so retrying through leader changes applies it at most
//! once. Invariant: an error other than "outcome unknown" means that the command did not and will not take effect.

use std::sync::Arc;
use std::time::Duration;

use openraft::Instant as _;

use super::changes::Changes;
use super::codec::Blob;
use super::config::COMMAND_BYTES_MAX;
use super::machine::GroupError;
use super::queue::{Outcome, Queue};
use super::runtime::Runtime;
use super::session::{Begin, Session, Ticket};
use super::types::{Op, OpReply};
use crate::model::ids::GroupId;

/// First wait between attempts when nothing said where to go on; doubled up to [`PAUSE_MAX`]. News cuts it short.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);
/// Redirections that are followed at once before a pause.
const HOPS_MAX: u32 = 3;

/// Where a node hands its commands in: at its replica, or at what it has instead.
pub(crate) trait Venue: Send + Sync + 'static {
    fn group(&self) -> GroupId;
    /// How long a caller is kept trying.
    fn patience(&self) -> Duration;
    fn queue(&self) -> &Queue;
    fn session(&self) -> &Arc<Session>;
    /// Bumped when another attempt may go better than the last.
    fn news(&self) -> &Changes;
    /// Why nothing is done here any more.
    fn stopped(&self) -> Option<String>;
    /// An attempt failed for want of a leader that answers.
    fn missed(self: Arc<Self>);
}

/// The pace of attempts up to a deadline.
pub(crate) struct Pace<'a, R: Runtime> {
    news: &'a Changes,
    pub(crate) deadline: R::Instant,
    pause: Duration,
    hops: u32,
}

impl<'a, R: Runtime> Pace<'a, R> {
    pub(crate) fn new(venue: &'a impl Venue) -> Self {
        let deadline = R::Instant::now() + venue.patience();
        Self { news: venue.news(), deadline, pause: PAUSE_MIN, hops: 0 }
    }

    pub(crate) fn is_over(&self) -> bool {
        R::Instant::now() >= self.deadline
    }

    /// Another node was named: go there at once, unless they send us round.
    pub(crate) async fn hop(&mut self, seen: u64) {
        self.hops += 1;
        if self.hops > HOPS_MAX {
            self.pause(seen).await;
        }
    }

    /// Waits for news of the group since `seen`, a little while, or the deadline.
    pub(crate) async fn pause(&mut self, seen: u64) {
        self.hops = 0;
        let until = self.deadline.min(R::Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        tokio::select! {
            biased;
            _ = self.news.after(seen) => {}
            () = R::sleep_until(until) => {}
        }
    }
}

/// Applies an encoded command exactly once; returns the encoded reply.
pub(crate) async fn execute<R: Runtime, V: Venue>(venue: &Arc<V>, body: Vec<u8>) -> Result<Blob, GroupError> {
    if body.len() > COMMAND_BYTES_MAX {
        return Err(GroupError::TooLarge { len: body.len(), limit: COMMAND_BYTES_MAX });
    }
    let body = Blob::from(body);
    let mut pace = Pace::<R>::new(&**venue);
    loop {
        let ticket = begin(venue, &mut pace).await?;
        match run(venue, &ticket, &body, &mut pace).await? {
            Some(reply) => return Ok(reply),
            // The registration was gone before the command was ever proposed: safe to begin anew.
            None => continue,
        }
    }
}

/// A sequence number, registering a client first if there is none.
async fn begin<R: Runtime, V: Venue>(venue: &Arc<V>, pace: &mut Pace<'_, R>) -> Result<Ticket, GroupError> {
    let session = venue.session();
    loop {
        match session.begin() {
            Begin::Ticket(ticket) => return Ok(ticket),
            Begin::Full => {
                let freed = session.wait_freed(|| session.has_room());
                if R::timeout_at(pace.deadline, freed).await.is_err() {
                    return Err(GroupError::Busy("too many commands of this node are outstanding".into()));
                }
            }
            Begin::Unregistered => register(venue, pace).await?,
        }
    }
}

async fn register<R: Runtime, V: Venue>(venue: &Arc<V>, pace: &mut Pace<'_, R>) -> Result<(), GroupError> {
    let session = venue.session();
    let _one_at_a_time = session.registering.lock().await;
    if session.is_registered() {
        return Ok(());
    }
    // Registering twice leaves a client behind that nobody uses, and that expires: no harm, so any failure is retried.
    match attempt_until_applied(venue, || Op::Register, pace).await? {
        (OpReply::Registered(client), _) => {
            session.register(client);
            Ok(())
        }
        (OpReply::ClientsFull, _) => {
            Err(GroupError::Busy(format!("group {} has as many clients as it can have", venue.group())))
        }
        (other, _) => Err(unexpected(&other)),
    }
}

/// `None`: the client is unknown and the command was never proposed.
async fn run<R: Runtime, V: Venue>(
    venue: &Arc<V>,
    ticket: &Ticket,
    body: &Blob,
    pace: &mut Pace<'_, R>,
) -> Result<Option<Blob>, GroupError> {
    let op = || Op::Command { id: Some(ticket.id()), body: body.clone() };
    let (reply, doubt) = attempt_until_applied(venue, op, pace).await?;
    match reply {
        OpReply::Done(reply) => Ok(Some(reply)),
        OpReply::UnknownClient => {
            venue.session().forget(ticket.client);
            if doubt { Err(GroupError::ClientExpired(ticket.client)) } else { Ok(None) }
        }
        OpReply::ReplyDropped => Err(GroupError::OutcomeUnknown {
            detail: "the command was applied once; its reply is no longer kept".into(),
        }),
        OpReply::Undecodable(why) => Err(GroupError::Busy(format!(
            "this group's replicas run a version that refuses the command: {why}"
        ))),
        other => Err(unexpected(&other)),
    }
}

/// Attempts one op until it is applied; also says whether an earlier attempt may have been.
async fn attempt_until_applied<R: Runtime, V: Venue>(
    venue: &Arc<V>,
    op: impl Fn() -> Op,
    pace: &mut Pace<'_, R>,
) -> Result<(OpReply, bool), GroupError> {
    let group = venue.group();
    let mut doubt = false;
    loop {
        let seen = venue.news().version();
        let outcome = match venue.queue().push(vec![op()], false) {
            Some(mut pending) => match R::timeout_at(pace.deadline, &mut pending.outcome).await {
                Ok(outcome) => outcome.unwrap_or_else(|_| Outcome::Unknown("the replica stopped".into())),
                Err(_) => pending.give_up(),
            },
            None => Outcome::Busy,
        };
        doubt |= matches!(outcome, Outcome::Unknown(_));
        if let Outcome::Applied(replies) = outcome {
            let reply = replies.into_iter().next();
            return Ok((reply.ok_or_else(|| unknown("a reply is missing"))?, doubt));
        }
        if let Some(detail) = venue.stopped() {
            return Err(stopped(group, detail, doubt));
        }
        if !matches!(outcome, Outcome::Busy | Outcome::NotLeader(Some(_))) {
            venue.clone().missed();
        }
        match outcome {
            Outcome::Unknown(detail) if pace.is_over() => return Err(GroupError::OutcomeUnknown { detail }),
            _ if pace.is_over() && doubt => return Err(unknown("no leader answered in time")),
            Outcome::NotLeader(leader) if pace.is_over() => {
                return Err(GroupError::NotLeader { group, leader });
            }
            Outcome::NoQuorum(detail) if pace.is_over() => {
                return Err(GroupError::NoQuorum { group, detail });
            }
            Outcome::Busy if pace.is_over() => {
                return Err(GroupError::Busy(format!("group {group} takes no more proposals")));
            }
            Outcome::NotLeader(Some(_)) => pace.hop(seen).await,
            _ => pace.pause(seen).await,
        }
    }
}

/// What to say when the venue stopped; `doubt`: the command may take effect.
pub(crate) fn stopped(group: GroupId, detail: String, doubt: bool) -> GroupError {
    match doubt {
        true => GroupError::OutcomeUnknown { detail },
        false => GroupError::Stopped { group, detail },
    }
}

fn unknown(detail: &str) -> GroupError {
    GroupError::OutcomeUnknown { detail: detail.into() }
}

fn unexpected(reply: &OpReply) -> GroupError {
    GroupError::OutcomeUnknown { detail: format!("unexpected reply {reply:?}") }
}
