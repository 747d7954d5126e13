//! What the fake does to containers when it follows a script, goes down and comes back.

use std::time::Duration;

use longshore_model::container::{ContainerSpec, RestartPolicy};
use longshore_raft::consensus::runtime::TokioRuntime;
use tokio::sync::mpsc;

use super::*;

type Fake = FakeEngine<TokioRuntime>;

fn parse(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn ignore() -> OnProgress {
    Arc::new(|_| {})
}

const IMAGE: &str = "localhost:5000/app:1";

async fn engine() -> Fake {
    let engine = Fake::new("fake");
    let image = IMAGE.parse().unwrap();
    engine.publish(&image, vec![1]);
    engine.pull(&image, Arc::new(|_| {})).await.unwrap();
    engine
}

fn container(name: &str, restart: RestartPolicy) -> NewContainer {
    let spec = ContainerSpec { restart, ..ContainerSpec::of(IMAGE.parse().unwrap()) };
    NewContainer { name: name.to_owned(), spec, labels: BTreeMap::new() }
}

async fn run(engine: &Fake, name: &str, restart: RestartPolicy) {
    engine.create(&container(name, restart)).await.unwrap();
    engine.start(name).await.unwrap();
}

async fn state(engine: &Fake, name: &str) -> ContainerState {
    engine.inspect_container(name).await.unwrap().unwrap().state
}

/// `+name` for a start, `-name` for an end.
fn journal(engine: &Fake) -> String {
    let entries = engine.journal().into_iter().map(|entry| match entry.what {
        Happened::Started => format!("+{}", entry.name),
        Happened::Ended { .. } => format!("-{}", entry.name),
    });
    entries.collect::<Vec<_>>().join(" ")
}

fn ports(name: &str, mappings: &[&str]) -> NewContainer {
    let mut new = container(name, RestartPolicy::No);
    new.spec.ports = mappings.iter().map(|mapping| mapping.parse().unwrap()).collect();
    new
}

#[tokio::test]
async fn calls_go_as_their_scripts_have_it() {
    let engine = engine().await;
    let new = container("a", RestartPolicy::No);
    let error = EngineError::Refused { detail: "no".to_owned() };
    engine.script_containers(
        ContainerCall::Create,
        [
            ContainerScript::Fails { effect: false, error: error.clone() },
            ContainerScript::Fails { effect: true, error },
        ],
    );
    assert!(matches!(engine.create(&new).await, Err(EngineError::Refused { .. })));
    assert_eq!(engine.inspect_container("a").await.unwrap(), None);
    assert!(matches!(engine.create(&new).await, Err(EngineError::Refused { .. })));
    assert!(engine.inspect_container("a").await.unwrap().is_some(), "the engine lied");
    assert!(matches!(engine.create(&new).await, Err(EngineError::NameTaken { .. })), "no script is left");

    engine.script_containers(ContainerCall::Start, [ContainerScript::LosesReply]);
    assert!(matches!(engine.start("a").await, Err(EngineError::Interrupted { .. })));
    assert_eq!((state(&engine, "a").await, engine.times_started("a")), (ContainerState::Running, 1));

    engine.standing_container_script(ContainerCall::Stop, ContainerScript::Crashes { effect: false });
    assert!(matches!(engine.stop("a", None).await, Err(EngineError::Interrupted { .. })));
    assert!(matches!(engine.info().await, Err(EngineError::Unavailable { .. })));
    assert_eq!(journal(&engine), "+a", "it runs on");
}

#[tokio::test]
async fn what_is_slow_or_hangs_has_its_effect_whether_or_not_anybody_waits() {
    let engine = engine().await;
    engine.create(&container("a", RestartPolicy::No)).await.unwrap();
    let (no, hour) = (Duration::ZERO, Duration::from_secs(3600));
    for (script, started) in [
        (ContainerScript::Works { before: hour, after: no }, 0),
        (ContainerScript::Hangs { effect: false }, 0),
        (ContainerScript::Works { before: no, after: hour }, 1),
    ] {
        engine.script_containers(ContainerCall::Start, [script.clone()]);
        let given_up = futures_util::FutureExt::now_or_never(engine.start("a"));
        assert!(given_up.is_none(), "{script:?}");
        assert_eq!(engine.times_started("a"), started, "{script:?}");
    }
    engine.script_containers(ContainerCall::Stop, [ContainerScript::Hangs { effect: true }]);
    let (stopped, ()) = tokio::join!(biased; engine.stop("a", None), async {
        assert_eq!(journal(&engine), "+a -a");
        engine.crash();
    });
    assert!(matches!(stopped, Err(EngineError::Interrupted { .. })), "{stopped:?}");
}

/// As Engine 20.10.24 was seen to do it, killed and started again.
#[tokio::test]
async fn an_engine_that_comes_back_restarts_by_policy() {
    let engine = engine().await;
    let policies = [
        ("no", RestartPolicy::No, [false, false]),
        ("on-failure", RestartPolicy::OnFailure { retries_max: 0 }, [true, true]),
        ("always", RestartPolicy::Always, [true, true]),
        ("unless-stopped", RestartPolicy::UnlessStopped, [true, false]),
    ];
    let (ran, stopped) = (|policy: &str| format!("{policy}-ran"), |policy: &str| format!("{policy}-stopped"));
    for (name, policy, _) in policies {
        engine.create(&container(&format!("{name}-made"), policy)).await.unwrap();
        run(&engine, &ran(name), policy).await;
        run(&engine, &stopped(name), policy).await;
        engine.stop(&stopped(name), Some(Duration::ZERO)).await.unwrap();
    }
    let before = engine.journal().len();
    engine.crash();
    assert_eq!(engine.journal().len(), before, "containers run on without the engine");
    engine.restart();
    for (name, _, [ran_again, stopped_again]) in policies {
        assert_eq!(state(&engine, &format!("{name}-made")).await, ContainerState::Created);
        for (of, again, code) in [(ran(name), ran_again, 255), (stopped(name), stopped_again, 137)] {
            let expected = if again { ContainerState::Running } else { ContainerState::Exited { code } };
            assert_eq!(state(&engine, &of).await, expected, "{of}");
        }
    }
    let journal = engine.journal();
    for name in policies.map(|(name, ..)| ran(name)) {
        let entries: Vec<bool> = journal
            .iter()
            .filter(|entry| entry.name == name)
            .map(|entry| entry.what == Happened::Started)
            .collect();
        assert!(
            entries.iter().enumerate().all(|(at, started)| *started == (at % 2 == 0)),
            "never two at once"
        );
    }
    let running = journal.len();
    engine.restart();
    assert_eq!(engine.journal().len(), running, "an engine that is up does not start again");
}

#[tokio::test]
async fn a_host_without_power_runs_nothing() {
    let engine = engine().await;
    run(&engine, "a", RestartPolicy::Always).await;
    run(&engine, "b", RestartPolicy::No).await;
    engine.power_loss();
    assert_eq!(journal(&engine), "+a +b -a -b");
    engine.restart();
    assert_eq!(journal(&engine), "+a +b -a -b +a");
}

#[tokio::test]
async fn a_policy_brings_back_what_ends_by_itself() {
    let engine = engine().await;
    run(&engine, "twice", RestartPolicy::OnFailure { retries_max: 2 }).await;
    for _ in 0..3 {
        assert_eq!(state(&engine, "twice").await, ContainerState::Running);
        engine.exit("twice", 1).unwrap();
    }
    assert_eq!(state(&engine, "twice").await, ContainerState::Exited { code: 1 });
    assert!(matches!(engine.exit("twice", 1), Err(EngineError::NotRunning { .. })));
    engine.start("twice").await.unwrap();
    engine.exit("twice", 0).unwrap();
    assert_eq!(state(&engine, "twice").await, ContainerState::Exited { code: 0 }, "it did not fail");
    assert_eq!(engine.times_started("twice"), 4);

    run(&engine, "always", RestartPolicy::Always).await;
    engine.exit("always", 0).unwrap();
    assert_eq!(state(&engine, "always").await, ContainerState::Running);
    engine.stop("always", None).await.unwrap();
    assert_eq!(state(&engine, "always").await, ContainerState::Exited { code: 143 }, "somebody wanted it");
    engine.crash();
    assert!(matches!(engine.exit("always", 0), Err(EngineError::NotRunning { .. })));

    engine.restart();
    engine.set_programs(Arc::new(|_| Program { ends: Some(1), ..Program::default() }));
    engine.exit("always", 0).unwrap();
    assert_eq!(state(&engine, "always").await, ContainerState::Restarting, "it ends again and again");
    let tries = engine.times_started("always");
    engine.stop("always", None).await.unwrap();
    assert_eq!(
        (state(&engine, "always").await, engine.times_started("always")),
        (ContainerState::Exited { code: 1 }, tries)
    );
}

#[tokio::test]
async fn ports_of_the_host_are_had_once() {
    let engine = engine().await;
    engine.occupy_port(443, longshore_model::container::Protocol::Tcp);
    for (name, mappings) in [
        ("any", &["80:80"][..]),
        ("one", &["127.0.0.1:81:80"]),
        ("other", &["127.0.0.2:81:80"]),
        ("udp", &["80:80/udp", "443:443/udp"]),
        ("free", &["80", "80"]),
    ] {
        engine.create(&ports(name, mappings)).await.unwrap();
        engine.start(name).await.unwrap();
    }
    let free = engine.inspect_container("free").await.unwrap().unwrap().ports;
    assert_eq!(free, ["0.0.0.0:32768->80/tcp", "0.0.0.0:32769->80/tcp"]);
    for (name, mapping) in [
        ("t1", "80:8080"),
        ("t2", "127.0.0.1:80:80"),
        ("t3", "81:80"),
        ("t4", "443:443"),
        ("t5", "127.0.0.1:81:1"),
    ] {
        engine.create(&ports(name, &[mapping])).await.unwrap();
        let taken = engine.start(name).await.unwrap_err();
        assert!(matches!(taken, EngineError::PortTaken { .. }), "{mapping}: {taken:?}");
        assert_eq!((state(&engine, name).await, engine.times_started(name)), (ContainerState::Created, 0));
    }
    let mut host = ports("host", &["80:80"]);
    host.spec.network = Some("host".to_owned());
    engine.create(&host).await.unwrap();
    engine.start("host").await.expect("the network of the host has no mappings");
    let mut nowhere = container("nowhere", RestartPolicy::No);
    nowhere.spec.network = Some("inner".to_owned());
    engine.create(&nowhere).await.unwrap();
    assert!(matches!(engine.start("nowhere").await, Err(EngineError::Refused { .. })));
    engine.add_network("inner");
    engine.start("nowhere").await.unwrap();
}

#[tokio::test]
async fn a_full_disk_takes_nothing_new_and_lets_things_go() {
    let engine = engine().await;
    run(&engine, "a", RestartPolicy::No).await;
    engine.create(&container("b", RestartPolicy::No)).await.unwrap();
    engine.set_disk_full(true);
    let other = "localhost:5000/app:2".parse().unwrap();
    engine.publish(&other, vec![2]);
    let errors = [
        engine.create(&container("c", RestartPolicy::No)).await.unwrap_err(),
        engine.start("b").await.unwrap_err(),
        engine.pull(&other, Arc::new(|_| {})).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, EngineError::DiskFull { .. }), "{error:?}");
    }
    engine.stop("a", None).await.unwrap();
    engine.remove("a", false).await.unwrap();
    engine.set_disk_full(false);
    engine.start("b").await.unwrap();
}

#[tokio::test]
async fn whoever_listens_hears_of_the_end_of_the_engine() {
    let engine = engine().await;
    run(&engine, "a", RestartPolicy::No).await;
    let (sink, mut output) = mpsc::channel(1);
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let (watched, told, ()) = tokio::join!(biased;
        engine.watch(Arc::new(|_| {})),
        engine.logs("a", &query, sink),
        async {
            let word = Output { stream: Stream::Stderr, bytes: "half a li".into() };
            engine.write("a", word.clone()).unwrap();
            assert_eq!(output.recv().await, Some(word));
            engine.crash();
        }
    );
    for ended in [watched, told] {
        assert!(matches!(ended, Err(EngineError::Interrupted { .. })), "{ended:?}");
    }
}

#[tokio::test]
async fn logs_keep_the_last_of_much() {
    let engine = engine().await;
    run(&engine, "a", RestartPolicy::No).await;
    let line = "x".repeat(999) + "\n";
    let lines = WRITTEN_BYTES_MAX / line.len();
    for _ in 0..2 * lines {
        engine.write("a", Output { stream: Stream::Stdout, bytes: line.clone().into() }).unwrap();
    }
    let (sink, mut output) = mpsc::channel(2 * lines);
    engine.logs("a", &LogQuery::default(), sink).await.unwrap();
    let mut told = 0;
    while output.recv().await.is_some() {
        told += 1;
    }
    assert_eq!(told, lines);
}

#[tokio::test]
async fn the_journal_is_told_as_it_is_written() {
    let engine = engine().await;
    let told: Arc<Mutex<Vec<JournalEntry>>> = Arc::default();
    let sink = told.clone();
    engine.on_journal(Arc::new(move |entry| sink.lock().push(entry.clone())));
    let mut new = container("a", RestartPolicy::No);
    new.labels.insert("whose".to_owned(), "mine".to_owned());
    let id = engine.create(&new).await.unwrap();
    engine.start(&id[..12]).await.expect("what an id begins with will do");
    engine.remove("a", true).await.unwrap();
    let entry =
        |what| JournalEntry { what, name: "a".to_owned(), id: id.clone(), labels: new.labels.clone() };
    assert_eq!(*told.lock(), [entry(Happened::Started), entry(Happened::Ended { code: 137 })]);
    assert_eq!(engine.journal(), *told.lock());
    engine.create(&new).await.unwrap();
    engine.start("a").await.unwrap();
    engine.set_health("a", Some("healthy")).unwrap();
    let found = engine.inspect_container("a").await.unwrap().unwrap();
    assert_eq!(found.health.as_deref(), Some("healthy"));
    let (sink, mut output) = mpsc::channel(1);
    let command = ExecSpec { command: vec!["df".to_owned(), "-h".to_owned()], ..ExecSpec::default() };
    assert_eq!(engine.exec("a", &command, sink).await.unwrap(), 0);
    assert_eq!(output.recv().await.unwrap().bytes, "df -h\n");
}

#[tokio::test]
async fn a_registry_that_asks_for_a_password_is_shown_it_for_its_own_images_only() {
    let engine = Fake::new("fake");
    let (image, other) = (parse("r.example/a:1"), parse("other.example/a:1"));
    engine.publish(&image, vec![10]);
    engine.publish(&other, vec![10]);
    engine.protect("r.example", "ci", "s3cret");
    let shown = |registry: &str, password: &str| {
        let password = zeroize::Zeroizing::new(password.to_owned());
        engine.authorized(Credentials { registry: registry.into(), username: "ci".into(), password })
    };
    for refused in [
        engine.pull(&image, ignore()).await,
        shown("r.example", "wrong").pull(&image, ignore()).await,
        shown("other.example", "s3cret").pull(&image, ignore()).await,
    ] {
        assert!(matches!(refused, Err(EngineError::Denied { .. })), "{refused:?}");
    }
    let allowed = shown("r.example", "s3cret");
    allowed.pull(&image, ignore()).await.unwrap();
    allowed.pull(&other, ignore()).await.unwrap();
    allowed.push(&image, ignore()).await.unwrap();
    assert!(
        !format!(
            "{:?}",
            Credentials {
                registry: "r".into(),
                username: "ci".into(),
                password: zeroize::Zeroizing::new("s3cret".into())
            }
        )
        .contains("s3cret")
    );
}
