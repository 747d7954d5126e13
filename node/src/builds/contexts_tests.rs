//! Contexts of one node: limits, what is needed and what is not, and a folder that can not be opened.

use std::collections::BTreeSet;

use longshore_raft::consensus::runtime::TokioRuntime;
use longshore_storage::MemDisk;
use tokio::time::advance;

use super::super::upload::WRITTEN_BYTES;
use super::*;

type Tested = Arc<Contexts<TokioRuntime>>;

const MIB: usize = 1 << 20;

/// Contexts of 4 MiB at most, 12 MiB in all, of which `open` says what is needed.
fn contexts_of(open: &Arc<Mutex<Result<OpenContexts, String>>>) -> (MemDisk, Tested) {
    let disk = MemDisk::new();
    let floor = DiskFloor::Bytes(0);
    let contexts = Contexts::open(Arc::new(disk.clone()), 4 << 20, 12 << 20, floor);
    let open = Arc::clone(open);
    contexts.ask_needs_of(move || {
        let said = open.lock().clone();
        Box::pin(async move { said })
    });
    (disk, contexts)
}

fn contexts() -> Tested {
    contexts_of(&Arc::new(Mutex::new(Ok(OpenContexts::default())))).1
}

async fn send(contexts: &Tested, byte: u8, bytes: usize) -> Result<BlobDigest, ContextError> {
    let mut upload = contexts.upload(Some(bytes as u64)).await?.expect("a place");
    for piece in vec![byte; bytes].chunks(10_007) {
        upload.push(piece).await?;
    }
    Ok(upload.finish(None).await?.expect("no digest was asked for").digest)
}

fn digests(contexts: &Tested) -> BTreeSet<BlobDigest> {
    contexts.list().iter().map(|info| info.digest).collect()
}

#[tokio::test]
async fn what_is_sent_is_told_of_and_read_in_pieces() {
    let contexts = contexts();
    let bytes: Vec<u8> = (0..1_500_000_u32).map(|n| (n % 251) as u8).collect();
    let mut upload = contexts.upload(None).await.unwrap().unwrap();
    for piece in bytes.chunks(10_007) {
        upload.push(piece).await.unwrap();
    }
    let BlobInfo { digest, bytes: length } = upload.finish(None).await.unwrap().unwrap();
    assert_eq!(length, bytes.len() as u64);
    let has = contexts.answer(BuildCall::Has { digest: digest.0 }).await;
    assert_eq!(has, BuildReply::Has { bytes: length });
    let mut read = Vec::new();
    while read.len() < bytes.len() {
        let call = BuildCall::Piece { digest: digest.0, offset: read.len() as u64 };
        let BuildReply::Piece(piece) = contexts.answer(call).await else { panic!("it is there") };
        read.extend(piece);
    }
    assert_eq!(read, bytes);
    assert_eq!(contexts.answer(BuildCall::Has { digest: [0; 32] }).await, BuildReply::Missing);
}

#[tokio::test]
async fn there_are_limits_and_what_is_given_up_leaves_nothing() {
    let contexts = contexts();
    let mut places = Vec::new();
    for _ in 0..UPLOADS_MAX {
        places.push(contexts.upload(None).await.unwrap().expect("a place"));
    }
    assert!(contexts.upload(None).await.unwrap().is_none());
    places.pop();
    let mut upload = contexts.upload(None).await.unwrap().expect("a place again");
    let error = loop {
        if let Err(error) = upload.push(&[0; 100_000]).await {
            break error;
        }
    };
    let too_large = |error: &ContextError| matches!(error, ContextError::Blob(BlobError::TooLarge { limit, .. }) if *limit == 4 << 20);
    assert!(too_large(&error), "{error}");
    assert!(upload.push(&[0; WRITTEN_BYTES]).await.is_err(), "it is of no use any more");
    drop((places, upload));
    assert!(contexts.list().is_empty());
    assert!(too_large(&send(&contexts, 1, 4 * MIB + 1).await.unwrap_err()));
}

#[tokio::test(start_paused = true)]
async fn what_open_builds_name_is_neither_pushed_out_nor_swept() {
    let open = Arc::new(Mutex::new(Ok(OpenContexts::default())));
    let (_disk, contexts) = contexts_of(&open);
    let first = send(&contexts, 1, 4 * MIB).await.unwrap();
    let second = send(&contexts, 2, 4 * MIB).await.unwrap();
    let full = |sent: Result<BlobDigest, ContextError>| {
        matches!(sent, Err(ContextError::Blob(BlobError::Full { .. })))
    };
    assert!(full(send(&contexts, 3, 4 * MIB).await), "builds of both may be on their way");
    advance(SETTLE).await;
    open.lock().as_mut().unwrap().held = BTreeSet::from([first.0, second.0]);
    assert!(full(send(&contexts, 3, 4 * MIB).await), "both wait for their turn");
    // What this node has to build for others finds room, one after the other.
    for byte in 5..8 {
        let mut fetched = contexts.fetched(4 << 20).await.unwrap();
        fetched.push(&vec![byte; 4 * MIB]).await.unwrap();
        fetched.finish(None).await.unwrap().unwrap();
        assert_eq!(contexts.list().len(), 3);
        advance(NEEDS_HOLD).await;
    }

    advance(2 * KEEP).await;
    assert_eq!(contexts.sweep().await.unwrap(), 1, "of those the copy");
    assert_eq!(digests(&contexts), BTreeSet::from([first, second]));
    // One has ended.
    open.lock().as_mut().unwrap().held = BTreeSet::from([second.0]);
    advance(SETTLE).await;
    let third = send(&contexts, 3, 4 * MIB).await.unwrap();
    advance(SETTLE).await;
    let fourth = send(&contexts, 4, 4 * MIB).await.unwrap();
    assert_eq!(digests(&contexts), BTreeSet::from([second, third, fourth]));
    open.lock().as_mut().unwrap().held.clear();
    advance(2 * KEEP).await;
    assert_eq!(contexts.sweep().await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_be_asked_about_stays() {
    let open = Arc::new(Mutex::new(Err("group 7 has no quorum".to_owned())));
    let (_disk, contexts) = contexts_of(&open);
    let first = send(&contexts, 1, 4 * MIB).await.unwrap();
    send(&contexts, 2, 4 * MIB).await.unwrap();
    advance(2 * KEEP).await;
    assert!(matches!(contexts.sweep().await, Err(ContextError::Unsure { .. })));
    let unsure = send(&contexts, 3, 4 * MIB).await.unwrap_err();
    assert!(unsure.to_string().contains("group 7 has no quorum"), "{unsure}");
    assert!(digests(&contexts).contains(&first));
    *open.lock() = Ok(OpenContexts::default());
    advance(NEEDS_HOLD).await;
    assert_eq!(contexts.sweep().await.unwrap(), 2);
    assert!(contexts.list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_that_grows_while_it_comes_makes_room_too() {
    let contexts = contexts();
    for byte in 1..=3 {
        send(&contexts, byte, 4 * MIB).await.unwrap();
        advance(SETTLE).await;
    }
    let mut upload = contexts.upload(None).await.unwrap().unwrap();
    for _ in 0..4 {
        upload.push(&[4; MIB]).await.unwrap();
    }
    upload.finish(None).await.unwrap().unwrap();
    assert_eq!(contexts.list().len(), 3, "one made room");
}

#[tokio::test(start_paused = true)]
async fn a_folder_that_can_not_be_opened_is_tried_again() {
    let disk = MemDisk::new();
    // In its place is a file.
    disk.open(DIR, true).unwrap();
    let floor = DiskFloor::Usual;
    let contexts: Tested = Contexts::open(Arc::new(disk.clone()), 4 << 20, 12 << 20, floor);
    let error = send(&contexts, 1, 10).await.unwrap_err();
    assert!(error.to_string().contains("opening the folder contexts"), "{error}");
    assert!(contexts.find(BlobDigest([1; 32])).await.is_err() && contexts.list().is_empty());
    let answer = contexts.answer(BuildCall::Has { digest: [1; 32] }).await;
    assert!(matches!(answer, BuildReply::Failed(_)), "{answer:?}");
    disk.remove(DIR).unwrap();
    let digest = send(&contexts, 1, 10).await.unwrap();
    assert_eq!(digests(&contexts), BTreeSet::from([digest]));
}
