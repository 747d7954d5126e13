//! What is read from the disk of a node that ran for real is what the node said of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use longshore_model::control::RingShape;
use longshore_node::api::client::{Client, Target};
use longshore_node::api::limits::ApiLimits;
use longshore_node::api::listener::memory_listener;
use longshore_node::api::server::Access;
use longshore_node::api::types::TokenCreate;
use longshore_node::load::FixedHost;
use longshore_node::node::{ApiDoor, Network, Node, NodeOptions, Observer, Ports, ReplicaView, Seed, Start};
use longshore_raft::GroupId;
use longshore_raft::NodeId;
use longshore_raft::consensus::config::Timings;
use longshore_raft::model::ring::GroupCount;
use longshore_raft::transport::join::JoinError;
use longshore_raft::transport::memory::MemoryNetwork;
use longshore_raft::transport::pki::Identity;
use longshore_raft::transport::{BoxFuture, Handler, JoinHandler, TransportRef};
use longshore_storage::DiskFloor;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::random;
use crate::runtime::{Context, HostClock, InContext, SimRuntime, run, sleep_global};

const USUAL: Latency = Latency::even(100, 400);

/// A network that has this node only.
struct Alone(MemoryNetwork<SimRuntime>);

impl Network for Alone {
    fn start(
        &self,
        identity: &Identity,
        handler: Arc<dyn Handler>,
        _: Arc<dyn JoinHandler>,
    ) -> Result<TransportRef, String> {
        self.0.attach(identity.node(), handler);
        Ok(self.0.transport(identity.node()))
    }

    fn join(&self, _: Vec<Seed>, _: [u8; 32], _: Bytes) -> BoxFuture<Result<Bytes, JoinError>> {
        Box::pin(async { Err(JoinError::Protocol("there is nobody".to_owned())) })
    }
}

#[derive(Default)]
struct Shown(Mutex<Option<Arc<dyn ReplicaView>>>);

impl Observer for Shown {
    fn on_replica(&self, _: NodeId, replica: Arc<dyn ReplicaView>) {
        if replica.status().group == GroupId::CONTROL {
            *self.0.lock() = Some(replica);
        }
    }
}

/// Runs a node in a process of its own until `work` is done, then kills it.
async fn with_node(disk: &HostDisk, number: u64, work: impl AsyncFnOnce(Client<SimRuntime>, Arc<Shown>)) {
    let name = format!("process {number}");
    let context = Context::new(&name, Arc::new(HostClock::new(0, 0, 0)), random::stream(number, "process"));
    let (listener, dialer) = memory_listener();
    let shown = Arc::new(Shown::default());
    let ports = Ports {
        disk: Arc::new(disk.clone()),
        drive: Box::new(drive(disk)),
        history: tables_of_a_process(),
        inventory: tables_of_a_process(),
        network: Arc::new(Alone(MemoryNetwork::new(number))),
        engine: None,
        host: Arc::new(FixedHost::half_free()),
        doors: vec![ApiDoor { listener: Box::new(listener), access: Access::Full }],
        observer: Some(shown.clone()),
    };
    let options = NodeOptions {
        name: "alone".to_owned(),
        advertise: ([10, 0, 0, 1], 7400).into(),
        zone: None,
        region: None,
        labels: BTreeMap::new(),
        weight: 1024,
        ring: RingShape { groups: GroupCount::G2, replication: 3 },
        death_pause: Duration::from_secs(300),
        docker_operations: 4,
        build_context_bytes: 1 << 20,
        build_contexts_bytes: 4 << 20,
        disk_floor: DiskFloor::Usual,
        history_keep: Duration::from_secs(24 * 3600),
        partition_timings: Timings::partition(),
        timings: Timings { snapshot_every_entries: 400, keep_entries: 100, ..Timings::control() },
        segment_bytes: 256 << 10,
        api_limits: ApiLimits::default(),
    };
    let how = if number == 0 { Start::Init } else { Start::Run };
    let node = Node::<SimRuntime>::run(ports, options, how, Arc::new(|_| {}), CancellationToken::new());
    tokio::select! {
        biased;
        ended = InContext::new(&context, Box::pin(node)) => panic!("the node ended: {ended:?}"),
        () = work(Client::new(Target::Memory(dialer)), shown) => {}
    }
    context.kill();
}

fn world() -> Arc<Context> {
    Context::new("world", Arc::new(HostClock::new(0, 0, 0)), random::stream(1, "world"))
}

async fn make_and_revoke_tokens(client: &Client<SimRuntime>, count: u32) {
    for _ in 0..count {
        let request = TokenCreate { ttl_ms: None, uses: None };
        let token = client.create_token(&request).await.expect("it leads");
        client.revoke_token(&token.info.id).await.expect("it leads");
    }
    sleep_global(Duration::from_secs(1)).await;
}

#[test]
fn what_is_durable_is_what_the_node_says() {
    run(&world(), async {
        let disk = HostDisk::new(1, USUAL, random::stream(1, "disk 1"));
        assert_eq!(read_durable(&disk), Ok(Vec::new()), "it is nobody's");
        let mut purged = 0;
        for number in 0..4 {
            let mut before = Vec::new();
            with_node(&disk, number, async |client, shown| {
                sleep_global(Duration::from_secs(5)).await;
                make_and_revoke_tokens(&client, 150).await;
                let status = shown.0.lock().as_ref().expect("it was shown").status();
                before = read_durable(&disk).expect("nothing is damaged");
                assert_eq!(before.iter().map(|log| log.group).collect::<Vec<_>>(), [0, 1, 2]);
                let log = &before[0];
                assert_eq!((log.node, log.replica), (1, status.replica.0));
                assert_eq!(log.voters, [log.replica]);
                assert_eq!(log.entries.last_key_value().map(|(index, _)| *index), status.last_log);
                let vote = log.vote.expect("it voted");
                assert_eq!((vote.term, vote.voted_for, vote.committed), (status.term, log.replica, true));
                let first = log.entries.first_key_value().map(|(index, _)| *index);
                assert!(log.purged.is_none_or(|purged| first == Some(purged + 1)), "{first:?}");
                assert!(log.purged <= log.snapshot);
                purged = log.purged.unwrap_or(0);
            })
            .await;
            disk.power_loss(&mut random::stream(number, "fault"));
            assert_eq!(read_durable(&disk).expect("nothing is damaged"), before, "all of it was durable");
        }
        assert!(purged > 400, "the log was purged behind snapshots: {purged}");
        let stats = disk.stats();
        assert!(stats["sync"] > 1_000 && !stats.contains_key("failed"), "{stats:?}");
    });
}

#[test]
fn damage_is_said() {
    run(&world(), async {
        let disk = HostDisk::new(1, USUAL, random::stream(1, "disk 1"));
        with_node(&disk, 0, async |client, _| {
            sleep_global(Duration::from_secs(5)).await;
            make_and_revoke_tokens(&client, 30).await;
        })
        .await;
        disk.process_died();
        let whole = read_durable(&disk).expect("nothing is damaged");
        let mut random = random::stream(2, "fault");
        let mut said = 0;
        for _ in 0..20 {
            assert!(disk.rot(&mut random), "there is something");
            match read_durable(&disk) {
                Ok(logs) => assert_eq!(logs, whole),
                Err(_) => said += 1,
            }
        }
        assert!(said > 0);
    });
}
