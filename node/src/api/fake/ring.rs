//! The scripted fleet's ring: three nodes, 32 groups, one change under way.

use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::FakeFleet;
use crate::api::service::{ApiFuture, ApiStream, RingService};
use crate::api::types::*;

pub(super) type RingWatcher = mpsc::UnboundedSender<Result<RingProgressView, ApiError>>;

const NAMES: [&str; 3] = ["alpha", "beta", "gamma"];

/// Group `number` of 32: led by the nodes in turn. g2 is being moved; g3 has no quorum; the replica of g4 cannot be opened.
pub(crate) fn placement(number: u32) -> PlacementView {
    let leader = NAMES[(number as usize - 1) % 3].to_owned();
    let members: Vec<String> = NAMES.iter().map(|name| (*name).to_owned()).collect();
    let change = (number == 2).then(|| ChangeView {
        id: 41,
        from: vec!["gamma".into()],
        to: vec!["delta".into()],
        stage: ChangeStage::CatchingUp,
        waits_for: "delta to catch up, 120 entries behind".into(),
    });
    let stuck_without = if number == 3 { vec!["beta".into(), "gamma".into()] } else { vec![] };
    PlacementView {
        group: format!("g{number}"),
        partitions: PartitionsView { first: (number - 1) * 8, last: number * 8 - 1 },
        epoch: u64::from(number),
        target: members.clone(),
        members,
        leader: stuck_without.is_empty().then_some(leader),
        load: 0,
        change,
        stuck_without,
        failure: (number == 4).then(|| "it is damaged: block 3".to_owned()),
    }
}

pub(crate) fn ring(paused: bool) -> RingView {
    let node = |index: u32| RingNodeView {
        id: format!("n{}", index + 1),
        name: NAMES[index as usize].into(),
        state: if index == 2 { NodeState::Suspect } else { NodeState::Alive },
        weight: 1024,
        zone: (index == 1).then(|| "east".to_owned()),
        quota: Some(QuotaView { floor: 32, ceil: 32 }),
        replicas: 32,
        target: 32,
        leaders: 11 - u32::from(index == 2),
        arriving: 0,
        leaving: u32::from(index == 2),
        tombstones: 0,
    };
    let even = SpreadView { min: 32, max: 32, mean: 32.0, max_over_mean: 1.0 };
    RingView {
        group_count: 32,
        partition_count: 256,
        replication: 3,
        replicas: 3,
        epoch: 65,
        target_epoch: 2,
        paused,
        settled: false,
        balance: BalanceView {
            replicas: even,
            leaders: SpreadView { min: 10, max: 11, mean: 32.0 / 3.0, max_over_mean: 11.0 / (32.0 / 3.0) },
            nodes_outside_quota: 0,
            groups_by_zones: [(2, 32)].into(),
            pairs_in_one_zone: 32,
        },
        movement: MovementView {
            planned_copies: 64,
            planned_replicas: 96,
            copies_left: 1,
            groups_in_place: 31,
            changes_under_way: 1,
        },
        nodes: (0..3).map(node).collect(),
        groups: (1..=32).map(placement).collect(),
        stale: false,
    }
}

pub(crate) fn progress(copies_done: u32, copies_left: u32) -> RingProgressView {
    let change = placement(2).change.expect("it is being moved");
    let settled = copies_left == 0;
    RingProgressView {
        epoch: 65 + u64::from(copies_done),
        target_epoch: 2,
        paused: false,
        settled,
        changes: if settled { vec![] } else { vec![RingChangeView { group: "g2".into(), change }] },
        copies_done,
        copies_left,
        copies_per_s: f64::from(copies_done) / 2.0,
        elapsed_ms: 2_000,
    }
}

fn group(number: u32, keys: bool) -> GroupView {
    let placement = placement(number);
    let replica = ReplicaView {
        id: format!("r{}", 100 + number),
        role: if number == 1 { ReplicaRole::Leader } else { ReplicaRole::Follower },
        term: 4,
        last_index: Some(812),
        committed_index: Some(812),
        applied_index: Some(812),
        snapshot_index: None,
        purged_index: None,
        voters: placement.members.clone(),
        learners: vec![],
        at_rest: number != 1,
        fatal: None,
    };
    let keys = (keys && placement.stuck_without.is_empty()).then_some(GroupKeysView {
        keys: 1200,
        bytes: 614_400,
        writes: 5000,
        expiring: 3,
    });
    GroupView { replica: placement.failure.is_none().then_some(replica), placement, keys }
}

impl FakeFleet {
    /// Tells the ring's watchers; ends their watches when it has settled, unless they go on for ever.
    pub(crate) fn publish_ring(&self, view: &RingProgressView) {
        let mut state = self.state.lock();
        state.ring_watchers.retain(|(watcher, forever)| {
            watcher.send(Ok(view.clone())).is_ok() && (*forever || !view.settled)
        });
    }

    /// As when the node stops.
    pub(crate) fn end_ring_watches(&self) {
        self.state.lock().ring_watchers.clear();
    }

    pub(crate) fn ring_watchers(&self) -> usize {
        let mut state = self.state.lock();
        state.ring_watchers.retain(|(watcher, _)| !watcher.is_closed());
        state.ring_watchers.len()
    }
}

impl RingService for FakeFleet {
    fn ring(&self) -> ApiFuture<'_, RingView> {
        Box::pin(async {
            self.enter("ring", "").await?;
            Ok(ring(self.state.lock().ring_paused))
        })
    }

    fn plan_ring(&self, query: RingPlanQuery) -> ApiFuture<'_, RingPlanView> {
        Box::pin(async move {
            let added: Vec<String> = query
                .add
                .iter()
                .map(|node| format!("{}/{:?}/{:?}", node.name, node.weight, node.zone))
                .collect();
            self.enter("plan_ring", &format!("+{} -{}", added.join(","), query.remove.join(","))).await?;
            let to = query.add.first().map(|node| node.name.clone());
            let moves = (1..=24).map(|number| MoveView {
                group: format!("g{number}"),
                from: Some(NAMES[number % 3].into()),
                to: to.clone(),
            });
            let node = |name: &str, after| PlanNodeView { name: name.into(), before: 32, after };
            let mut nodes: Vec<PlanNodeView> = NAMES.iter().map(|name| node(name, 24)).collect();
            nodes.extend(to.iter().map(|name| PlanNodeView { before: 0, ..node(name, 24) }));
            let even =
                |each: u32| SpreadView { min: each, max: each, mean: f64::from(each), max_over_mean: 1.0 };
            Ok(RingPlanView {
                moves: moves.collect(),
                copies: 24,
                copies_anyway: 0,
                replicas_before: 3,
                replicas_after: 3,
                nodes,
                balance_before: even(32),
                balance_after: even(24),
                pairs_in_one_zone_before: 32,
                pairs_in_one_zone_after: 24,
            })
        })
    }

    fn pause_ring(&self, paused: bool) -> ApiFuture<'_, RingPauseView> {
        Box::pin(async move {
            self.enter("pause_ring", &paused.to_string()).await?;
            self.state.lock().ring_paused = paused;
            Ok(RingPauseView { paused, changes_under_way: 1 })
        })
    }

    fn rebalance_ring(&self) -> ApiFuture<'_, RebalanceView> {
        Box::pin(async {
            self.enter("rebalance_ring", "").await?;
            let paused = self.state.lock().ring_paused;
            Ok(RebalanceView { changed: false, target_epoch: 2, copies: 0, moves: vec![], paused })
        })
    }

    fn watch_ring(&self, query: RingWatchQuery) -> ApiFuture<'_, ApiStream<RingProgressView>> {
        Box::pin(async move {
            self.enter("watch_ring", &query.forever.to_string()).await?;
            let (sender, receiver) = mpsc::unbounded_channel();
            let _ = sender.send(Ok(progress(0, 2)));
            self.state.lock().ring_watchers.push((sender, query.forever));
            let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
                receiver.recv().await.map(|item| (item, receiver))
            });
            Ok(stream.boxed() as ApiStream<RingProgressView>)
        })
    }

    fn list_groups(&self, query: GroupQuery) -> ApiFuture<'_, GroupList> {
        Box::pin(async move {
            self.enter("list_groups", &query.keys.to_string()).await?;
            Ok(GroupList { groups: (1..=4).map(|number| group(number, query.keys)).collect(), stale: false })
        })
    }

    fn inspect_group(&self, id: String) -> ApiFuture<'_, GroupView> {
        Box::pin(async move {
            self.enter("inspect_group", &id).await?;
            let number = id.trim_start_matches('g').parse().ok().filter(|number| (1..=32).contains(number));
            let unknown = || ApiError::new(ErrorCode::NotFound, format!("there is no group {id:?}"));
            Ok(group(number.ok_or_else(unknown)?, true))
        })
    }

    fn transfer_group(&self, id: String, request: TransferRequest) -> ApiFuture<'_, TransferView> {
        Box::pin(async move {
            self.enter("transfer_group", &format!("{id} {}", request.to)).await?;
            Self::find(&mut self.state.lock(), &request.to)?;
            Ok(TransferView { group: id, from: Some("alpha".into()), to: request.to })
        })
    }
}
