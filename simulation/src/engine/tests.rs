//! The engine of a host: what becomes of pulls and containers, whoever asked for them.

use std::time::Duration;

use longshore_model::container::{ContainerSpec, RestartPolicy};
use longshore_node::docker::conformance::{
    ContainerFixture, Fixture, commands, conforms, containers_conform, programs,
};
use longshore_node::docker::{ContainerCall, ContainerScript, NewContainer, OnProgress};
use longshore_raft::consensus::runtime::AsyncRuntime;

use super::*;
use crate::random;
use crate::runtime::{global_ns, run, spawn_in};

const IMAGE: &str = "registry.invalid/app:s1";
const STEP_MS: u64 = 100;

type Reports = Arc<Mutex<Vec<(u64, Seen)>>>;

fn context(name: &str) -> Arc<Context> {
    Context::new(name, Arc::new(HostClock::new(0, 0, 0)), random::stream(7, name))
}

fn engine(registry: &Arc<ImageRegistry>) -> (HostEngine, Reports) {
    let step = Latency::even(STEP_MS * 1_000, STEP_MS * 1_000);
    let reports = Reports::default();
    let sink = reports.clone();
    let on_seen = Arc::new(move |seen| sink.lock().push((global_ns() / 1_000_000, seen)));
    let shape = EngineShape { step, present: true };
    (HostEngine::new(1, registry, &shape, random::stream(1, "engine h1"), on_seen), reports)
}

fn parse(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn ignore() -> OnProgress {
    Arc::new(|_| {})
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Number, incarnation and (once it is over) whether it completed, of each pull.
fn pulls(reports: &Reports) -> Vec<(u64, u64, Option<bool>)> {
    let mut pulls = Vec::new();
    for (_, seen) in reports.lock().iter() {
        match seen {
            Seen::PullBegan { pull, incarnation, .. } => pulls.push((*pull, *incarnation, None)),
            Seen::PullEnded { pull, completed, .. } => {
                let begun = pulls.iter_mut().find(|begun| begun.0 == *pull).expect("it began");
                assert_eq!(begun.2.replace(*completed), None, "it ends once");
            }
            other => panic!("{other:?}"),
        }
    }
    pulls
}

#[test]
fn the_engine_conforms() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        registry.publish("registry.invalid/small:1");
        let (engine, reports) = engine(&registry);
        registry.publish("registry.invalid/large:1");
        let fixture = Fixture {
            image: parse("registry.invalid/small:1"),
            slow_image: parse("registry.invalid/large:1"),
            missing: parse("registry.invalid/none:1"),
        };
        conforms(&*engine.for_process(1, 1), &fixture).await;
        sleep_global(ms(100)).await;
        let pulls = pulls(&reports);
        assert_eq!(pulls.len(), 9);
        assert!(pulls.iter().all(|(_, _, ended)| ended.is_some()), "{pulls:?}");
        assert_eq!(pulls.iter().filter(|(_, _, ended)| *ended == Some(true)).count(), 6);
    });
}

#[test]
fn the_pulls_of_the_dead_end_after_a_moment_and_the_images_stay() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        let process = context("process 1");
        let connection = engine.for_process(1, 1);
        let pull = async move { connection.pull(&parse(IMAGE), ignore()).await };
        let pulled = spawn_in(&process, pull);
        sleep_global(ms(150)).await;
        process.kill();
        assert!(pulled.await.is_err());
        assert_eq!(pulls(&reports), [(1, 1, None)], "the engine does not know yet");
        sleep_global(ms(60)).await;
        assert_eq!(pulls(&reports), [(1, 1, Some(false))]);

        let again = engine.for_process(1, 2).pull(&parse(IMAGE), ignore()).await.unwrap();
        assert_eq!(pulls(&reports)[1], (2, 2, Some(true)));
        let found = engine.for_process(1, 3).inspect_image(&parse(IMAGE)).await.unwrap();
        assert_eq!(found, Some(again));
        engine.forget_images();
        assert_eq!(engine.for_process(1, 3).inspect_image(&parse(IMAGE)).await.unwrap(), None);
    });
}

#[test]
fn a_paused_process_learns_of_its_pull_when_it_goes_on() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        let process = context("process 1");
        let connection = engine.for_process(1, 1);
        let pull = async move {
            let pulled = connection.pull(&parse(IMAGE), ignore()).await;
            (pulled, global_ns() / 1_000_000)
        };
        let pulled = spawn_in(&process, pull);
        sleep_global(ms(50)).await;
        process.pause();
        sleep_global(ms(9_950)).await;
        assert_eq!(pulls(&reports), [(1, 1, Some(true))]);
        process.resume();
        let (pulled, at_ms) = pulled.await.unwrap();
        assert!(pulled.is_ok());
        assert_eq!(at_ms, 10_000);
    });
}

#[test]
fn pulls_behave_as_they_are_told() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        let connection = engine.for_process(1, 1);
        let image = parse(IMAGE);

        engine.set_pulls(PullBehaviour::Fails { after_steps: 2 });
        let failed = connection.pull(&image, ignore()).await.unwrap_err();
        assert!(matches!(failed, EngineError::RegistryUnavailable { .. }), "{failed:?}");

        engine.set_pulls(PullBehaviour::Hangs { after_steps: 2 });
        let hanging = SimRuntime::timeout(ms(60_000), connection.pull(&image, ignore())).await;
        assert!(hanging.is_err());
        tokio::task::yield_now().await;
        assert_eq!(pulls(&reports)[1], (2, 1, Some(false)), "a live process closes its connection");

        engine.set_pulls(PullBehaviour::Crashes { after_steps: 2 });
        let crashed = connection.pull(&image, ignore()).await.unwrap_err();
        assert!(matches!(crashed, EngineError::Interrupted { .. }), "{crashed:?}");
        let begun = pulls(&reports).len();
        assert!(connection.pull(&image, ignore()).await.is_err() && connection.info().await.is_err());
        assert_eq!(pulls(&reports).len(), begun, "an engine that is down begins nothing");

        engine.heal();
        engine.set_pulls(PullBehaviour::Slow { step: Latency::even(5_000_000, 5_000_000) });
        let (slow, ()) = tokio::join!(biased; connection.pull(&image, ignore()), async {
            sleep_global(ms(7_000)).await;
            engine.down();
        });
        assert!(matches!(slow, Err(EngineError::Interrupted { .. })), "{slow:?}");
        engine.heal();
        assert!(connection.pull(&image, ignore()).await.is_ok());
        let ends: Vec<_> = pulls(&reports).into_iter().map(|(_, _, ended)| ended).collect();
        assert_eq!(ends, [Some(false), Some(false), Some(false), Some(false), Some(true)]);
    });
}

/// Number, name and (once it is over) exit code of each start of a container.
fn starts(reports: &Reports) -> Vec<(u64, String, Option<i64>)> {
    let mut starts = Vec::new();
    for (_, seen) in reports.lock().iter() {
        match seen {
            Seen::ContainerStarted { start, name, host: 1, .. } => starts.push((*start, name.clone(), None)),
            Seen::ContainerEnded { start, code, host: 1 } => {
                let begun = starts.iter_mut().find(|begun| begun.0 == *start).expect("it began");
                assert_eq!(begun.2.replace(*code), None, "it ends once");
            }
            Seen::PullBegan { .. } | Seen::PullEnded { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    starts
}

fn new(name: &str, restart: RestartPolicy) -> NewContainer {
    let spec = ContainerSpec { restart, ..ContainerSpec::of(parse(IMAGE)) };
    NewContainer {
        name: name.to_owned(),
        spec,
        labels: BTreeMap::from([("whose".to_owned(), "mine".to_owned())]),
    }
}

#[test]
fn containers_of_the_engine_conform() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        engine.shared.fake.set_programs(Arc::new(programs));
        engine.shared.fake.set_commands(Arc::new(commands));
        let fixture = ContainerFixture {
            image: parse(IMAGE),
            foreign: None,
            missing: parse("registry.invalid/none:1"),
            network: None,
            free_port: 8080,
        };
        containers_conform(&*engine.for_process(1, 1), &fixture).await;
        let starts = starts(&reports);
        assert!(starts.len() > 10 && starts.iter().all(|(.., ended)| ended.is_some()), "{starts:?}");
    });
}

#[test]
fn what_the_dead_asked_for_is_done() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        let process = context("process 1");
        let connection = engine.for_process(1, 1);
        connection.pull(&parse(IMAGE), ignore()).await.unwrap();
        connection.create(&new("a", RestartPolicy::No)).await.unwrap();
        let slow = ContainerScript::Works { before: ms(1_000), after: ms(1_000) };
        engine.shared.fake.script_containers(ContainerCall::Start, [slow]);
        let started = spawn_in(&process, async move { connection.start("a").await });
        sleep_global(ms(500)).await;
        process.kill();
        assert!(started.await.is_err());
        assert_eq!(starts(&reports), []);
        sleep_global(ms(1_000)).await;
        assert_eq!(starts(&reports), [(1, "a".to_owned(), None)]);
        let labels = reports.lock().iter().find_map(|(_, seen)| match seen {
            Seen::ContainerStarted { labels, .. } => Some(labels.clone()),
            _ => None,
        });
        assert_eq!(labels, Some(new("a", RestartPolicy::No).labels));
    });
}

#[test]
fn containers_run_on_while_the_engine_is_down_and_policies_bring_them_back() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, reports) = engine(&registry);
        registry.publish(IMAGE);
        let connection = engine.for_process(1, 1);
        connection.pull(&parse(IMAGE), ignore()).await.unwrap();
        for (name, restart) in [("a", RestartPolicy::No), ("b", RestartPolicy::Always)] {
            connection.create(&new(name, restart)).await.unwrap();
            connection.start(name).await.unwrap();
        }
        let (watched, ()) = tokio::join!(biased; connection.watch(Arc::new(|_| {})), async {
            sleep_global(ms(100)).await;
            engine.down();
        });
        assert!(matches!(watched, Err(EngineError::Interrupted { .. })), "{watched:?}");
        assert!(matches!(connection.list_containers().await, Err(EngineError::Unavailable { .. })));
        assert!(starts(&reports).iter().all(|(.., ended)| ended.is_none()));
        engine.up();
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(starts(&reports), [(1, a, Some(255)), (2, b.clone(), Some(255)), (3, b, None)]);
    });
}

#[test]
fn a_paused_process_misses_no_change() {
    run(&context("world"), async {
        let registry = ImageRegistry::new();
        let (engine, _) = engine(&registry);
        registry.publish(IMAGE);
        let connection = engine.for_process(1, 1);
        connection.pull(&parse(IMAGE), ignore()).await.unwrap();
        let process = context("process 1");
        let told = Arc::new(Mutex::new(0));
        let (count, watcher) = (told.clone(), engine.for_process(1, 1));
        drop(spawn_in(&process, async move { watcher.watch(Arc::new(move |_| *count.lock() += 1)).await }));
        sleep_global(ms(100)).await;
        assert_eq!(*told.lock(), 3, "one of each kind");
        process.pause();
        connection.create(&new("a", RestartPolicy::No)).await.unwrap();
        connection.start("a").await.unwrap();
        sleep_global(ms(100)).await;
        assert_eq!(*told.lock(), 3);
        process.resume();
        sleep_global(ms(100)).await;
        assert_eq!(*told.lock(), 5);
    });
}
