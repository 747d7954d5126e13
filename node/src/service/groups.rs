//! Groups: listing, one in full, and handing leadership over.

use longshore_raft::consensus::machine::{GroupStatus, Role};
use longshore_raft::{GroupId, Runtime};

use super::keys::front_error;
use super::ring::no_ring;
use super::views::name_of;
use super::{LISTING_PATIENCE, Service};
use crate::api::timer::within;
use crate::api::types::*;
use crate::ring::Partitions;

impl<R: Runtime> Service<R> {
    pub(super) async fn groups(&self, query: GroupQuery) -> Result<GroupList, ApiError> {
        let stale = !self.linearize_briefly().await;
        let placements = self.look(|look| {
            let all = look.ring.placements();
            Ok(all.map(|(group, placement)| (group, look.placement(group, placement))).collect::<Vec<_>>())
        })?;
        let views = placements.into_iter().map(|(group, placement)| self.group(group, placement, query.keys));
        Ok(GroupList { groups: futures_util::future::join_all(views).await, stale })
    }

    pub(super) async fn group_view(&self, group: String) -> Result<GroupView, ApiError> {
        self.linearize_briefly().await;
        let (group, placement) = self.placement(&group)?;
        Ok(self.group(group, placement, true).await)
    }

    async fn group(&self, group: GroupId, placement: PlacementView, keys: bool) -> GroupView {
        // One that has no quorum does not answer, and holds nobody up for long.
        let keys = match keys && placement.stuck_without.is_empty() {
            true => within::<R, _>(LISTING_PATIENCE, self.front.status(group)).await.and_then(Result::ok),
            false => None,
        };
        let keys = keys.map(|status| GroupKeysView {
            keys: status.keys.keys,
            bytes: status.keys.bytes,
            writes: status.keys.writes,
            expiring: status.keys.expiring,
        });
        // After it was asked, which may have woken it.
        let replica = self.replicas.get(group).map(|replica| self.replica_view(&replica));
        GroupView { placement, replica, keys }
    }

    fn replica_view(&self, replica: &Partitions<R>) -> ReplicaView {
        let GroupStatus { role, term, last_log, committed, applied, snapshot, purged, .. } = replica.status();
        let status = replica.status();
        let names = |members: &[longshore_raft::consensus::machine::Member]| {
            self.core
                .group
                .with_state(|state| members.iter().map(|member| name_of(state, member.node)).collect())
        };
        ReplicaView {
            id: replica.replica().to_string(),
            role: match role {
                Role::Leader => ReplicaRole::Leader,
                Role::Follower => ReplicaRole::Follower,
                Role::Candidate => ReplicaRole::Candidate,
                Role::Learner => ReplicaRole::Learner,
                Role::Stopped => ReplicaRole::Stopped,
            },
            term,
            last_index: last_log,
            committed_index: committed,
            applied_index: applied,
            snapshot_index: snapshot,
            purged_index: purged,
            voters: names(&status.voters),
            learners: names(&status.learners),
            at_rest: replica.is_quiescent(),
            fatal: status.fatal,
        }
    }

    fn placement(&self, text: &str) -> Result<(GroupId, PlacementView), ApiError> {
        self.look(|look| {
            let groups = look.ring.groups();
            let number = text.strip_prefix('g').unwrap_or(text).parse().ok().map(GroupId);
            let unknown = || {
                let message = format!("there is no group {text:?}; the ring has g1 to g{}", groups.get());
                ApiError::new(ErrorCode::NotFound, message).hint("`longshore group ls` lists the groups")
            };
            let group = number.filter(|group| groups.contains(*group)).ok_or_else(unknown)?;
            let placement = look.ring.placement(group).ok_or_else(no_ring)?;
            Ok((group, look.placement(group, placement)))
        })
    }

    pub(super) async fn transfer(
        &self,
        group: String,
        request: TransferRequest,
    ) -> Result<TransferView, ApiError> {
        self.linearize().await?;
        let (group, placement) = self.placement(&group)?;
        let node = self.resolve(&request.to)?;
        let (name, replica) = self.core.group.with_state(|state| {
            let ring = state.ring.as_ref().ok_or_else(no_ring)?;
            // Where a damaged replica is made anew that is the new one, which cannot lead yet.
            let replica = ring.placement(group).ok_or_else(no_ring)?.replica_on(node);
            Ok::<_, ApiError>((name_of(state, node), replica))
        })?;
        let conflict = |message: String| ApiError::new(ErrorCode::Conflict, message);
        let Some(replica) = replica else {
            let members = placement.members.join(", ");
            let hint = format!("its replicas are on {members}");
            return Err(conflict(format!("{name} has no replica of {group} that can lead it")).hint(hint));
        };
        if !self.core.is_alive(node) {
            return Err(conflict(format!("{name} cannot be reached")));
        }
        self.front.transfer(group, replica).await.map_err(front_error)?;
        Ok(TransferView { group: group.to_string(), from: placement.leader, to: name })
    }
}
