//! Build contexts: bodies that are streams.

use super::*;

#[tokio::test]
async fn folders_are_taken_as_they_come() {
    let limits =
        ApiLimits { body_max_bytes: 100, body_timeout: Duration::from_secs(5), ..ApiLimits::default() };
    let api = start(FakeFleet::new(), Access::Full, limits.clone());
    let pieces: Vec<std::io::Result<Bytes>> = (0..50).map(|n| Ok(Bytes::from(vec![n; 10_000]))).collect();
    let sent = api.client().send_context(500_000, futures_util::stream::iter(pieces)).await.unwrap();
    assert_eq!((sent.bytes, sent.digest.len()), (500_000, 64));
    assert_eq!(api.client().find_context(&sent.digest).await.unwrap(), Some(sent));
    assert_eq!(api.client().find_context("none").await.unwrap(), None);

    // One that breaks off is an error here, and was none of the fleet's.
    let pieces = [Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("gone"))];
    let broken = api.client().send_context(500, futures_util::stream::iter(pieces)).await;
    assert!(matches!(broken, Err(ClientError::Interrupted { .. })), "{broken:?}");
    assert_eq!(api.client().list_contexts().await.unwrap().contexts.len(), 1);

    // And one of which nothing more comes is given up.
    let limits = ApiLimits { body_timeout: Duration::from_millis(50), ..limits };
    let api = start(FakeFleet::new(), Access::Full, limits);
    let head = "POST /v1/contexts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 500";
    let reply = api.raw(format!("{head}\r\n\r\nhalf")).await;
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("nothing came for 0.05 s"), "{reply}");
}
