//! Contexts that come from other nodes, over a network in memory: pieces that fail, copies that are damaged.

use std::collections::BTreeMap;

use bytes::Bytes;
use longshore_raft::consensus::runtime::{AsyncRuntime, Instant as _, TokioRuntime};
use longshore_raft::transport::memory::{Link, MemoryNetwork};
use longshore_raft::transport::{Handler, Replier};
use longshore_storage::{Disk as _, DiskFloor, MemDisk};
use parking_lot::Mutex;

use super::super::upload::Upload;
use super::*;

fn now() -> <TokioRuntime as AsyncRuntime>::Instant {
    <TokioRuntime as AsyncRuntime>::Instant::now()
}

type Tested = Arc<Contexts<TokioRuntime>>;

/// A node with contexts, some of whose pieces do not come so often.
struct Node {
    disk: MemDisk,
    contexts: Tested,
    failing: Mutex<BTreeMap<u64, u32>>,
    /// How often each piece was asked for.
    asked: Mutex<BTreeMap<u64, u32>>,
}

impl Handler for Node {
    fn on_request(&self, _from: NodeId, _lane: Lane, body: Bytes, replier: Replier) {
        if let Ok(BuildCall::Piece { offset, .. }) = wire::decode(&body) {
            *self.asked.lock().entry(offset).or_default() += 1;
            if let Some(left) = self.failing.lock().get_mut(&offset).filter(|left| **left > 0) {
                *left -= 1;
                return replier.refuse("a hiccup");
            }
        }
        self.contexts.receive(&body, replier);
    }
}

struct Bench {
    network: MemoryNetwork<TokioRuntime>,
    here: Tested,
    nodes: Vec<Arc<Node>>,
    transport: TransportRef,
    context: BuildContext,
    bytes: Vec<u8>,
}

fn contexts_on(disk: &MemDisk) -> Tested {
    Contexts::open(Arc::new(disk.clone()), 4 << 20, 16 << 20, DiskFloor::Bytes(0))
}

/// Nodes 2, 3 and so on have a context of five pieces and a bit, which node 1 wants.
async fn bench(nodes: u64) -> Bench {
    let network = MemoryNetwork::<TokioRuntime>::new(1);
    let bytes: Vec<u8> = (0..5 * PIECE_BYTES + 7).map(|n| (n % 251) as u8).collect();
    let node_on = |disk: MemDisk| {
        let contexts = contexts_on(&disk);
        Arc::new(Node { disk, contexts, failing: Mutex::default(), asked: Mutex::default() })
    };
    let here = node_on(MemDisk::new());
    network.attach(NodeId(1), Arc::clone(&here) as _);
    let mut all = Vec::new();
    for node in 2..2 + nodes {
        let holder = node_on(MemDisk::new());
        let mut upload: Upload<_> = holder.contexts.upload(None).await.unwrap().unwrap();
        upload.push(&bytes).await.unwrap();
        upload.finish(None).await.unwrap().unwrap();
        network.attach(NodeId(node), Arc::clone(&holder) as _);
        all.push(holder);
    }
    let context = BuildContext {
        digest: *blake3::hash(&bytes).as_bytes(),
        bytes: bytes.len() as u64,
        holder: NodeId(2),
    };
    let transport = network.transport(NodeId(1));
    Bench { network, here: Arc::clone(&here.contexts), nodes: all, transport, context, bytes }
}

impl Bench {
    async fn get(&self) -> Result<Option<BlobReader>, EngineError> {
        let on_progress: OnProgress = Arc::new(|_| {});
        let fetcher = Fetcher { contexts: &self.here, transport: &self.transport, on_progress: &on_progress };
        let others = (3..2 + self.nodes.len() as u64).map(NodeId).collect();
        let holder = Some((NodeId(2), "holder".to_owned()));
        fetcher.get(&self.context, Sources { holder, others, away: 0 }).await
    }

    async fn gets_it(&self) {
        let reader = self.get().await.unwrap().expect("it is there");
        let mut read = Vec::new();
        while (read.len() as u64) < reader.bytes() {
            read.extend(reader.piece(read.len() as u64, 1 << 20).unwrap());
        }
        assert_eq!(read, self.bytes);
    }

    fn file(&self) -> String {
        format!("contexts/{}.blob", BlobDigest(self.context.digest))
    }
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_does_not_come_is_asked_for_again_and_no_other() {
    let bench = bench(1).await;
    let holder = &bench.nodes[0];
    let piece = |n: u64| n * u64::from(PIECE_BYTES);
    *holder.failing.lock() = BTreeMap::from([(piece(2), 3), (piece(5), 1)]);
    bench.gets_it().await;
    let asked: Vec<u32> = holder.asked.lock().values().copied().collect();
    assert_eq!(asked, [1, 1, 4, 1, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_few_pieces_are_on_their_way_at_a_time() {
    let bench = bench(1).await;
    let there_and_back = Duration::from_millis(200);
    let slow = Link { delay_ms: 100..101, ..Link::default() };
    bench.network.set_link(NodeId(1), NodeId(2), slow.clone());
    bench.network.set_link(NodeId(2), NodeId(1), slow);
    let begun = now();
    bench.gets_it().await;
    let taken = now() - begun;
    // The question, and six pieces, four at a time.
    assert!(taken < there_and_back * 4, "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_sends_nothing_is_given_up_after_a_while() {
    let bench = bench(1).await;
    *bench.nodes[0].failing.lock() = BTreeMap::from([(0, u32::MAX)]);
    let error = bench.get().await.expect_err("a piece is missing");
    assert!(matches!(error, EngineError::ContextUnavailable { .. }), "{error}");
    assert!(error.to_string().contains("holder") && error.to_string().contains("a hiccup"), "{error}");
    assert_eq!(bench.nodes[0].asked.lock()[&0], PIECE_TRIES);
    assert!(bench.here.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_is_dropped_and_the_next_node_asked() {
    let bench = bench(3).await;
    bench.nodes[0].disk.flip_bit(&bench.file(), 700_000, 1).unwrap();
    bench.nodes[1].disk.open(&bench.file(), false).unwrap().set_len(700_000).unwrap();
    bench.gets_it().await;
    let left: Vec<usize> = bench.nodes.iter().map(|node| node.contexts.list().len()).collect();
    assert_eq!(left, [0, 0, 1], "who had a damaged one has none now, so that it is sent again");
}

#[tokio::test(start_paused = true)]
async fn if_no_copy_is_sound_it_is_gone() {
    let bench = bench(2).await;
    for node in &bench.nodes {
        node.disk.flip_bit(&bench.file(), 700_000, 1).unwrap();
    }
    assert!(bench.get().await.unwrap().is_none());
    let text = EngineError::ContextGone.to_string();
    assert!(text.contains("the folder is sent again"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_too_large_here_is_named_with_its_size_and_the_limit() {
    let mut bench = bench(1).await;
    bench.context.bytes = (4 << 20) + 1;
    let error = bench.get().await.expect_err("it is too large");
    assert!(matches!(error, EngineError::ContextTooLarge { .. }) && !error.is_transient(), "{error}");
    for part in ["4194305 bytes", "4194304 at most", "limits.build_context", "--on"] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}
