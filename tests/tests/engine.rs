//! The real container engine against real Docker: the port's conformance suite, giving up, and everything that goes wrong.
//!
//! Each test has engines and a registry of its own (`scripts/docker-hosts`).
#![expect(
    clippy::disallowed_methods,
    reason = "tests stand outside the node: they use the machine's clock and threads"
)]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::image::ImageReference;
use longshore_node::docker::{
    BollardEngine, ContainerEngine, EngineError, Limits, LocalImage, OnProgress, conformance,
};
use longshore_tests::address::free_port;
use longshore_tests::counting_proxy::CountingProxy;
use longshore_tests::docker_hosts::DockerHosts;
use longshore_tests::registry::{RegistryProxy, UNLIMITED};
use longshore_tests::tools::{Tool, have};
use longshore_tests::{Stopwatch, eventually};
use tokio::task::JoinHandle;

/// Slow enough that the large image takes many seconds, fast enough that its first byte comes at once.
const SLOW_BYTES_PER_SECOND: u64 = 500_000;
/// What the large image weighs at least.
const LARGE_BYTES: u64 = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// Docker looks for a registry's TLS first, gives up on a refused connection at once, and retries a layer that broke off
/// after five seconds.
const LIMITS: Limits = Limits {
    connect: Duration::from_secs(20),
    reply: Duration::from_secs(20),
    silence: Duration::from_secs(60),
};

fn start(count: usize) -> DockerHosts {
    DockerHosts::start(count).expect("engines start on a machine that has Docker")
}

fn engine(socket: &Path) -> Arc<BollardEngine> {
    Arc::new(BollardEngine::with_limits(socket, LIMITS))
}

fn ignore() -> OnProgress {
    Arc::new(|_| {})
}

fn spawn_pull(
    engine: &Arc<BollardEngine>,
    image: &ImageReference,
) -> JoinHandle<Result<LocalImage, EngineError>> {
    let (engine, image) = (engine.clone(), image.clone());
    tokio::spawn(async move { engine.pull(&image, ignore()).await })
}

/// Waits until layers are on their way.
fn await_download(registry: &RegistryProxy) {
    let before = registry.downloaded_bytes();
    eventually("layers to be downloaded", PATIENCE, || registry.downloaded_bytes() > before + 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_conforms_and_is_asked_in_the_negotiated_version() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    let registry = RegistryProxy::start(hosts.registry(), 4_000_000).await.expect("a free port");
    let proxy = CountingProxy::start(hosts.dir().join("p"), hosts.socket(0)).expect("a socket");
    let engine = engine(proxy.socket());
    let fixture = conformance::Fixture {
        image: hosts.small_image().clone(),
        slow_image: registry.image(hosts.large_image()),
        missing: hosts.missing_image(),
    };
    conformance::conforms(engine.as_ref(), &fixture).await;

    let info = engine.info().await.expect("the engine is up");
    let prefix = format!("/v{}/", info.api_version);
    for request in proxy.log() {
        let negotiates = request.target == "/_ping";
        assert!(negotiates || request.target.starts_with(&prefix), "{request:?} is not under {prefix}");
    }
    let counts = proxy.pulls(&fixture.slow_image);
    assert_eq!((counts.started, counts.answered, counts.broken_off), (3, 2, 1), "one was given up");
    assert_eq!((counts.under_way, counts.most_at_once), (0, 2), "two at once in the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_conforms_with_containers() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    hosts.make_network(0, "ports").expect("a network");
    let engine = engine(hosts.socket(0));
    engine.pull(hosts.foreign_image(), ignore()).await.expect("Docker pulls what it can not run");
    let fixture = conformance::ContainerFixture {
        image: hosts.small_image().clone(),
        foreign: Some(hosts.foreign_image().clone()),
        missing: hosts.missing_image(),
        network: Some("ports".to_owned()),
        free_port: free_port(),
    };
    conformance::containers_conform(engine.as_ref(), &fixture).await;
    assert_eq!(engine.list_containers().await.expect("a list"), [], "the suite takes its containers away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_conforms_with_builds() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    let engine = engine(hosts.socket(0));
    let fixture =
        conformance::BuildFixture { base: hosts.small_image().clone(), missing: hosts.missing_image() };
    conformance::builds_conform(engine.as_ref(), &fixture).await;
    // Those of steps that failed, and of the one that was given up.
    let left = engine.list_containers().await.expect("a list").len();
    assert!(left <= 1, "{left} containers of steps are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_pull_is_cancelled_by_docker() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    let registry = RegistryProxy::start(hosts.registry(), SLOW_BYTES_PER_SECOND).await.expect("a free port");
    let image = registry.image(hosts.large_image());
    let engine = engine(hosts.socket(0));

    let pull = spawn_pull(&engine, &image);
    await_download(&registry);
    assert!(registry.open_connections() > 0, "Docker is downloading");
    pull.abort();
    assert!(pull.await.expect_err("it was dropped").is_cancelled());
    let watch = Stopwatch::start();
    eventually("Docker to close its downloads", PATIENCE, || registry.open_connections() == 0);
    println!("pull cancelled {} ms after it was dropped", watch.elapsed().as_millis());
    assert!(registry.downloaded_bytes() < LARGE_BYTES / 2, "cancelled midway, not finished");
    assert_eq!(engine.inspect_image(&image).await.expect("inspect"), None);

    // While the engine says nothing, too: before its reply begins, and in the middle of it.
    let proxy = CountingProxy::start(hosts.dir().join("p"), hosts.socket(0)).expect("a socket");
    let proxied = self::engine(proxy.socket());
    proxy.hold_pulls();
    let pull = spawn_pull(&proxied, &image);
    eventually("the pull to reach the proxy", PATIENCE, || proxy.pulls(&image).under_way == 1);
    pull.abort();
    eventually("the connection to be closed", PATIENCE, || proxy.pulls(&image).broken_off == 1);

    proxy.release_pulls();
    let pull = spawn_pull(&proxied, &image);
    await_download(&registry);
    registry.hold();
    assert_eq!(proxy.pulls(&image).under_way, 1);
    pull.abort();
    eventually("the connection to be closed", PATIENCE, || proxy.pulls(&image).broken_off == 2);

    registry.release();
    registry.set_rate(UNLIMITED);
    engine.pull(&image, ignore()).await.expect("the pull works when started over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_down_is_told_from_a_missing_image() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    let image = hosts.small_image().clone();
    let engine = engine(hosts.socket(0));

    hosts.stop_registry().expect("the registry stops");
    let down = engine.pull(&image, ignore()).await.expect_err("the registry is down");
    assert!(matches!(down, EngineError::RegistryUnavailable { .. }) && down.is_transient(), "{down:?}");
    assert!(down.to_string().contains(&image.familiar()), "{down}");

    hosts.restart_registry().expect("the registry starts again");
    let missing = engine.pull(&hosts.missing_image(), ignore()).await.expect_err("there is no such tag");
    assert!(matches!(missing, EngineError::ImageNotFound { .. }) && !missing.is_transient(), "{missing:?}");
    let repository: ImageReference = format!("{}/no/such:1", hosts.registry()).parse().expect("well-formed");
    let missing = engine.pull(&repository, ignore()).await.expect_err("there is no such repository");
    assert!(matches!(missing, EngineError::ImageNotFound { .. }), "{missing:?}");
    engine.pull(&image, ignore()).await.expect("the same pull works now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_falls_silent_is_given_up() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    let registry = RegistryProxy::start(hosts.registry(), SLOW_BYTES_PER_SECOND).await.expect("a free port");
    let image = registry.image(hosts.large_image());
    let silence = Duration::from_secs(1);
    let engine = Arc::new(BollardEngine::with_limits(hosts.socket(0), Limits { silence, ..LIMITS }));

    let pull = spawn_pull(&engine, &image);
    await_download(&registry);
    registry.hold();
    let silent = pull.await.expect("not dropped").expect_err("nothing comes any more");
    assert!(matches!(silent, EngineError::RegistryUnavailable { .. }), "{silent:?}");
    assert!(silent.to_string().contains("no progress for 1 s"), "{silent}");
    // Engine 20.10 notices that it should stop only when the next byte comes.
    registry.release();
    eventually("Docker to close its downloads", PATIENCE, || registry.open_connections() == 0);
    assert!(registry.downloaded_bytes() < LARGE_BYTES / 2, "cancelled midway, not finished");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_cut_off_for_a_moment_does_not_fail_a_pull() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    let registry = RegistryProxy::start(hosts.registry(), SLOW_BYTES_PER_SECOND).await.expect("a free port");
    let engine = engine(hosts.socket(0));
    let pull = spawn_pull(&engine, &registry.image(hosts.large_image()));
    await_download(&registry);
    registry.cut().await;
    registry.set_rate(UNLIMITED);
    pull.await.expect("not dropped").expect("Docker tries the layers again by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_killed_midway_interrupts_and_the_pull_works_when_it_is_back() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    let registry = RegistryProxy::start(hosts.registry(), SLOW_BYTES_PER_SECOND).await.expect("a free port");
    let image = registry.image(hosts.large_image());
    // Through a proxy, whose connections are told apart from the engine's: what it reports must be the same.
    let proxy = CountingProxy::start(hosts.dir().join("p"), hosts.socket(0)).expect("a socket");
    let (direct, proxied) = (engine(hosts.socket(0)), engine(proxy.socket()));

    // One after the other: a pull that has not reached the engine yet would not be interrupted.
    let first = spawn_pull(&direct, &image);
    await_download(&registry);
    let pulls = [first, spawn_pull(&proxied, &image)];
    eventually("the proxy to see the pull", PATIENCE, || proxy.pulls(&image).under_way == 1);
    hosts.kill(0).expect("the engine is killed");
    for pull in pulls {
        let error = pull.await.expect("not dropped").expect_err("the engine died");
        assert!(matches!(error, EngineError::Interrupted { .. }) && error.is_transient(), "{error:?}");
    }
    eventually("the proxy to see it end", PATIENCE, || proxy.pulls(&image).broken_off == 1);

    let gone = direct.info().await.expect_err("nobody listens");
    assert!(matches!(gone, EngineError::Unavailable { .. }) && gone.is_transient(), "{gone:?}");
    assert!(gone.to_string().contains("nothing listens"), "{gone}");

    hosts.restart(0).expect("the engine starts again");
    registry.set_rate(UNLIMITED);
    let pulled = proxied.pull(&image, ignore()).await.expect("the same object, a new engine");
    assert_eq!(direct.inspect_image(&image).await.expect("inspect"), Some(pulled));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_shut_down_midway_interrupts() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    let registry = RegistryProxy::start(hosts.registry(), SLOW_BYTES_PER_SECOND).await.expect("a free port");
    let engine = engine(hosts.socket(0));
    let pull = spawn_pull(&engine, &registry.image(hosts.large_image()));
    await_download(&registry);
    hosts.stop(0).expect("the engine stops");
    let error = pull.await.expect("not dropped").expect_err("the engine shut down");
    assert!(matches!(error, EngineError::Interrupted { .. }), "{error:?}");
    let gone = engine.info().await.expect_err("the socket is gone");
    assert!(gone.to_string().contains("no such socket"), "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_does_not_answer_is_unavailable() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    let connect = Duration::from_millis(500);
    let engine = BollardEngine::with_limits(hosts.socket(0), Limits { connect, ..LIMITS });
    engine.info().await.expect("the engine is up");
    hosts.pause(0).expect("the engine is paused");
    let error = engine.info().await.expect_err("a paused engine answers nothing");
    hosts.resume(0).expect("the engine goes on");
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("no answer within 0.5 s"), "{error}");
    let patient = BollardEngine::with_limits(hosts.socket(0), LIMITS);
    patient.info().await.expect("the engine is back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_replaced_under_its_socket_is_picked_up() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(2);
    let socket = hosts.dir().join("s");
    symlink(hosts.socket(0), &socket).expect("a link to the first engine");
    let engine = engine(&socket);
    let image = hosts.small_image();
    engine.pull(image, ignore()).await.expect("the first engine pulls");
    assert!(engine.inspect_image(image).await.expect("inspect").is_some());

    std::fs::remove_file(&socket).expect("the link goes");
    symlink(hosts.socket(1), &socket).expect("a link to the second engine");
    assert_eq!(engine.inspect_image(image).await.expect("inspect"), None, "the second engine has no images");
    engine.info().await.expect("the second engine says what it is");
}

/// Mounted before the engine starts; the script unmounts what is below its folder when it takes everything down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_named() {
    if !have(Tool::Docker) {
        return;
    }
    let hosts = start(1);
    hosts.stop(0).expect("the engine stops");
    let data = hosts.engine_dir(0).join("data");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"]).arg(&data).status();
    assert!(mounted.expect("mount runs").success(), "a small file system at {}", data.display());
    hosts.restart(0).expect("the engine starts on the small disk");
    let engine = engine(hosts.socket(0));
    let full = engine.pull(hosts.large_image(), ignore()).await.expect_err("8 MiB do not fit");
    assert!(matches!(full, EngineError::DiskFull { .. }) && full.is_transient(), "{full:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_of_another_user_is_forbidden() {
    if !have(Tool::Root) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("open to all");
    let socket = dir.path().join("docker.sock");
    let _listener = UnixListener::bind(&socket).expect("a socket");
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).expect("for its owner only");

    // User ids are the thread's own in Linux, so the rest of the process stays root.
    let asked = std::thread::spawn(move || {
        let nobody = rustix::thread::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("root may become anybody");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(BollardEngine::new(socket).info())
    });
    let error = asked.join().expect("no panic").expect_err("not for nobody");
    assert!(matches!(error, EngineError::Forbidden { .. }) && !error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("docker.sock"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_engine_is_unavailable() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    let ask = async |name: &str| engine(&path(name)).info().await.expect_err("there is no engine");

    let missing = ask("missing.sock").await;
    assert!(missing.to_string().contains("no such socket"), "{missing}");

    drop(UnixListener::bind(path("dead.sock")).expect("a socket whose owner is gone"));
    let dead = ask("dead.sock").await;
    assert!(dead.to_string().contains("nothing listens"), "{dead}");

    std::fs::write(path("file"), "no socket").expect("a file");
    let file = ask("file").await;

    let serve = |name: &str, reply: &'static [u8]| {
        let listener = UnixListener::bind(path(name)).expect("a socket");
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            let mut request = Vec::new();
            let mut byte = [0];
            // Each request gets the same reply, for as long as the client asks.
            while client.read_exact(&mut byte).is_ok() {
                request.extend(byte);
                if request.ends_with(b"\r\n\r\n") {
                    request.clear();
                    client.write_all(reply).expect("the client listens");
                    if reply.is_empty() {
                        return;
                    }
                }
            }
        })
    };
    let mut errors = vec![missing, dead, file];
    for (name, reply) in [
        ("garbage.sock", &b"SSH-2.0-OpenSSH_9.2\r\n"[..]),
        ("silent.sock", b""),
        ("web.sock", b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"),
        ("list.sock", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"),
    ] {
        let server = serve(name, reply);
        errors.push(ask(name).await);
        server.join().expect("no panic");
    }
    for error in errors {
        assert!(matches!(error, EngineError::Unavailable { .. }) && error.is_transient(), "{error:?}");
        assert!(error.to_string().contains("start dockerd, or name its socket with --docker"), "{error}");
    }

    let old = br#"{"Version":"19.03.15","ApiVersion":"1.40","MinAPIVersion":"1.12"}"#;
    let reply =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", old.len(), String::from_utf8_lossy(old));
    let server = serve("old.sock", reply.leak().as_bytes());
    let error = ask("old.sock").await;
    server.join().expect("no panic");
    assert!(matches!(error, EngineError::TooOld { .. }), "{error:?}");
    assert!(error.to_string().contains("19.03.15") && error.to_string().contains("20.10"), "{error}");
}
