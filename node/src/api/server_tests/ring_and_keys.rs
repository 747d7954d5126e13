//! The doors to the ring and to keys, through the real server and client.

use super::*;
use crate::api::client::KeyConnection;
use crate::api::fake::progress;

const RAW: &str = "content-type: application/octet-stream\r\n";

fn text(view: &BytesView) -> &str {
    match view {
        BytesView::Text(text) | BytesView::Base64(text) => text,
    }
}

#[tokio::test]
async fn the_ring_through_the_client() {
    let api = Api::full();
    let client = api.client();
    let ring = client.ring().await.unwrap();
    assert_eq!((ring.group_count, ring.nodes.len(), ring.groups.len()), (32, 3, 32));
    assert_eq!(ring.groups[1].change.as_ref().unwrap().stage, ChangeStage::CatchingUp);
    let plan = client.plan_ring(&["delta:2048:east".into(), "epsilon".into()], &["gamma".into()]).await;
    assert_eq!(plan.unwrap().nodes.len(), 4);
    assert!(client.pause_ring(true).await.unwrap().paused);
    assert!(client.ring().await.unwrap().paused);
    assert!(client.rebalance_ring().await.unwrap().paused);
    assert!(!client.pause_ring(false).await.unwrap().paused);
    let groups = client.list_groups(GroupQuery { keys: true }).await.unwrap().groups;
    assert_eq!(groups[0].keys.unwrap().keys, 1200);
    assert_eq!((groups[2].keys, groups[3].replica.is_none()), (None, true));
    let group = client.inspect_group("g7").await.unwrap();
    assert_eq!((group.placement.group.as_str(), group.replica.unwrap().id.as_str()), ("g7", "r107"));
    let moved = client.transfer_group("g7", &TransferRequest { to: "beta".into() }).await.unwrap();
    assert_eq!((moved.from.as_deref(), moved.to.as_str()), (Some("alpha"), "beta"));
    let expected = "plan_ring +delta/Some(2048)/Some(\"east\"),epsilon/None/None -gamma";
    assert!(api.fleet.calls().contains(&expected.to_owned()), "{:?}", api.fleet.calls());
    for error in [
        client.inspect_group("g33").await.unwrap_err(),
        client.transfer_group("g1", &TransferRequest { to: "nobody".into() }).await.unwrap_err(),
    ] {
        assert_eq!(api_error(error).code, ErrorCode::NotFound);
    }
    let wrong = client.plan_ring(&["n4".into()], &[]).await.unwrap_err();
    assert_eq!(api_error(wrong).code, ErrorCode::Invalid);
}

#[tokio::test]
async fn a_watch_of_the_ring_ends_when_it_has_settled_or_never() {
    let api = Api::full();
    let client = api.client();
    let mut watch = client.watch_ring(RingWatchQuery::default()).await.unwrap();
    let mut forever = client.watch_ring(RingWatchQuery { forever: true }).await.unwrap();
    for watch in [&mut watch, &mut forever] {
        assert_eq!(within(watch.next()).await.unwrap().unwrap(), progress(0, 2));
    }
    for (done, left) in [(1, 1), (2, 0)] {
        api.fleet.publish_ring(&progress(done, left));
        for watch in [&mut watch, &mut forever] {
            assert_eq!(within(watch.next()).await.unwrap().unwrap(), progress(done, left));
        }
    }
    assert!(within(watch.next()).await.unwrap().is_none());
    assert_eq!(api.fleet.ring_watchers(), 1);
    drop(forever);
    until(|| api.fleet.ring_watchers() == 0).await;
}

#[tokio::test]
async fn keys_through_the_client() {
    let api = Api::full();
    let client = api.client();
    let (key, value) = (&b"a/..\xff %"[..], Bytes::from_static(b"\0\xfevalue"));
    assert_eq!(client.get_key("cfg", key).await.unwrap(), None);
    let (always, forever) = (KeyCondition::Always, KeyLifetime::Forever);
    let set = client.set_key("cfg", key, value.clone(), KeyLifetime::ForMs(30_000), always).await.unwrap();
    assert_eq!(set, KeySetView { version: 1, replaced: None, ttl_ms: Some(30_000) });
    let found = client.get_key("cfg", key).await.unwrap().unwrap();
    assert_eq!(found, KeyValue { value: value.clone(), version: 1, ttl_ms: Some(30_000) });
    let again = client.set_key("cfg", key, value, KeyLifetime::Keep, KeyCondition::Version(1)).await.unwrap();
    assert_eq!(again, KeySetView { version: 2, replaced: Some(1), ttl_ms: Some(30_000) });
    for condition in [KeyCondition::Version(1), KeyCondition::Absent] {
        let error = client.set_key("cfg", key, Bytes::new(), forever, condition).await.unwrap_err();
        let error = api_error(error);
        assert_eq!((error.code, error.current_version), (ErrorCode::Conflict, Some(2)));
    }
    let error = client.delete_key("cfg", key, KeyCondition::Version(9)).await.unwrap_err();
    assert_eq!(api_error(error).current_version, Some(2));
    assert!(client.delete_key("cfg", key, KeyCondition::Version(2)).await.unwrap().deleted);
    assert!(!client.delete_key("cfg", key, always).await.unwrap().deleted);

    let mut connection = KeyConnection::new(client.clone());
    for index in 0..5 {
        let key = format!("k{index}");
        connection.set("list", key.as_bytes(), Bytes::from(key.clone()), forever, always).await.unwrap();
    }
    assert!(connection.get("list", b"k3").await.unwrap().is_some());
    assert_eq!(connection.get("list", b"k9").await.unwrap(), None);
    client.set_key("list", b"k\xff", Bytes::new(), forever, always).await.unwrap();
    let mut scan = KeyScanQuery { prefix: b"k".to_vec(), limit: Some(4), values: true, after: None };
    let first = client.scan_keys("list", &scan).await.unwrap();
    assert_eq!(first.entries.iter().map(|e| text(&e.key)).collect::<Vec<_>>(), ["k0", "k1", "k2", "k3"]);
    assert_eq!(first.entries[1].value, Some(BytesView::Text("k1".into())));
    scan.after = first.next.unwrap().bytes();
    let last = client.scan_keys("list", &scan).await.unwrap();
    assert_eq!(last.entries.iter().map(|e| text(&e.key)).collect::<Vec<_>>(), ["k4", "a/8="]);
    assert_eq!(last.next, None);
}

#[tokio::test]
async fn a_kept_connection_is_made_anew_after_it_broke() {
    let limits = ApiLimits { connections_max: 1, ..ApiLimits::default() };
    let api = start(FakeFleet::new(), Access::Full, limits);
    let mut connection = KeyConnection::new(api.client());
    for _ in 0..3 {
        assert_eq!(connection.get("a", b"k").await.unwrap(), None);
    }
    assert_eq!(api_error(api.client().status().await.unwrap_err()).code, ErrorCode::Busy, "it was kept");
    api.shutdown.cancel();
    within(api.served).await.unwrap();
    let error = connection.get("a", b"k").await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. } | ClientError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn values_are_bodies_and_versions_are_etags() {
    let api = Api::full();
    let (status, head, body) = api.request("PUT", "/v1/keys/cfg/a%2Fb?ttl=30s&if=absent", RAW, "one").await;
    assert_eq!((status, body.as_str()), (200, r#"{"version":1,"replaced":null,"ttl_ms":30000}"#));
    assert!(head.contains("etag: \"1\""), "{head}");
    let (status, head, body) = api.request("GET", "/v1/keys/cfg/a%2Fb", "", "").await;
    assert_eq!((status, body.as_str()), (200, "one"));
    for line in ["etag: \"1\"", "x-longshore-ttl-ms: 30000", "content-type: application/octet-stream"] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    let (status, head, body) = api.request("HEAD", "/v1/keys/cfg/a%2Fb", "", "").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("content-length: 3"), "{head}");
    // Whatever the content type says; a flag without a value is set.
    let (status, head, _) = api.request("PUT", "/v1/keys/cfg/a%2Fb?keep_ttl", JSON, "two").await;
    assert_eq!(status, 200);
    assert!(head.contains("etag: \"2\""), "{head}");
    let (status, error) = api.refused("PUT", "/v1/keys/cfg/a%2Fb?if=version:1", RAW, "three").await;
    assert_eq!((status, error.current_version), (409, Some(2)));
    let (_, _, body) = api.request("GET", "/v1/keys/cfg?values=true", "", "").await;
    let entry = r#"{"key":{"text":"a/b"},"version":2,"ttl_ms":30000,"value":{"text":"two"}}"#;
    assert_eq!(body, format!(r#"{{"entries":[{entry}],"next":null}}"#));
    let (status, error) = api.refused("GET", "/v1/keys/cfg/nothing", "", "").await;
    assert_eq!((status, error.code), (404, ErrorCode::NotFound));
    let (status, _, body) = api.request("DELETE", "/v1/keys/cfg/a%2Fb", "", "").await;
    assert_eq!((status, body.as_str()), (200, r#"{"deleted":true,"version":3}"#));
}

#[tokio::test]
async fn wrong_requests_of_keys_and_the_ring_are_told_what_is_wrong() {
    let api = Api::full();
    let cases: &[(&str, &str, u16, &str)] = &[
        ("PUT", "/v1/keys/cfg/k?if=maybe", 400, "write absent, present or version:N"),
        ("PUT", "/v1/keys/cfg/k?ttl=soon", 400, "is not a duration"),
        ("PUT", "/v1/keys/cfg/k?ttl=1s&keep_ttl", 400, "give one ttl, or keep_ttl"),
        ("PUT", "/v1/keys/cfg/k?keep_ttl=maybe", 400, "must be true or false"),
        ("PUT", "/v1/keys/cfg/k?tll=1s", 400, "unknown field \"tll\"; there are ttl, keep_ttl, if"),
        ("PUT", "/v1/keys/cfg/k?ttl=%ff", 400, "ttl is not UTF-8"),
        ("GET", "/v1/keys/cfg/%zz", 400, "not valid percent-encoding"),
        ("GET", "/v1/keys/%ff/k", 400, "not valid percent-encoding"),
        ("GET", "/v1/keys/cfg/", 404, "there is no /v1/keys/cfg/"),
        ("GET", "/v1/keys/cfg?limit=x", 400, "limit must be a whole number"),
        ("GET", "/v1/keys/cfg?after=%f", 400, "not valid percent-encoding"),
        ("POST", "/v1/keys/cfg/k", 405, "POST is not a method"),
        ("DELETE", "/v1/keys/cfg/k?ttl=1s", 400, "unknown field \"ttl\"; there are if"),
        ("GET", "/v1/ring/plan?add=n4", 400, "is not a name for a node"),
        ("GET", "/v1/ring/plan?add=web:heavy", 400, "\"heavy\" is not a weight"),
        ("GET", "/v1/ring/plan?ad=web", 400, "there are add, remove"),
        ("GET", "/v1/ring/watch?forever=perhaps", 400, "forever"),
        ("POST", "/v1/groups/g1/transfer", 415, "must be JSON"),
    ];
    for (method, path, status, message) in cases {
        let (got, error) = api.refused(method, path, RAW, "x").await;
        assert_eq!(got, *status, "{method} {path}: {error:?}");
        assert!(error.message.contains(message), "{method} {path}: {error:?}");
    }
    let (status, error) = api.refused("PUT", "/v1/keys/cfg/k", RAW, &"x".repeat((1 << 20) + 1)).await;
    assert_eq!((status, error.code), (413, ErrorCode::TooLarge));
    assert!(!api.fleet.calls().iter().any(|call| call.starts_with("set_key")), "{:?}", api.fleet.calls());
}
