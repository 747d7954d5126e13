//! The fake passes both suites, and goes wrong as it is told to.

use std::time::Duration;

use longshore_raft::consensus::runtime::TokioRuntime;

use super::super::{ContainerEngine, EngineError, FakeEngine, NoEngine, PullScript};
use super::images::Watch;
use super::*;

type Fake = FakeEngine<TokioRuntime>;

fn fixture() -> (Fake, Fixture) {
    let engine = Fake::new("fake");
    let fixture = Fixture {
        image: parse("localhost:5000/small:1"),
        slow_image: parse("localhost:5000/large:1"),
        missing: parse("localhost:5000/none:1"),
    };
    engine.publish(&fixture.image, vec![10, 2000]);
    engine.publish(&fixture.slow_image, vec![10, 5, 7000]);
    engine.standing_script(PullScript::Works { step: Duration::from_millis(1) });
    (engine, fixture)
}

#[tokio::test]
async fn the_fake_conforms() {
    let (engine, fixture) = fixture();
    conforms(&engine, &fixture).await;
    let counts = engine.counts(&fixture.slow_image);
    assert_eq!((counts.started, counts.completed, counts.ended_early), (3, 2, 1));
    assert_eq!((counts.most_at_once, counts.under_way), (2, 0));
}

#[tokio::test]
async fn the_builds_of_the_fake_conform() {
    let (engine, fixture) = fixture();
    builds_conform(&engine, &BuildFixture { base: fixture.image, missing: fixture.missing }).await;
}

#[tokio::test]
async fn the_fake_crashes_midway_and_comes_back_with_its_images() {
    let (engine, fixture) = fixture();
    let pulled = engine.pull(&fixture.image, ignore()).await.unwrap();
    engine.script([PullScript::Crashes { after_steps: 3 }]);
    let watch = Watch::default();
    let lost = engine.pull(&fixture.slow_image, watch.callback()).await.unwrap_err();
    assert!(matches!(lost, EngineError::Interrupted { .. }), "{lost:?}");
    assert_eq!(watch.seen().len(), 3, "{:?}", watch.seen());
    let down = engine.info().await.unwrap_err();
    assert!(matches!(down, EngineError::Unavailable { .. }) && down.is_transient(), "{down:?}");
    assert!(engine.pull(&fixture.image, ignore()).await.is_err());

    engine.restart();
    assert_eq!(engine.inspect_image(&fixture.image).await.unwrap(), Some(pulled));
    engine.pull(&fixture.slow_image, ignore()).await.unwrap();
    assert!(engine.forget(&fixture.slow_image));
    assert_eq!(engine.inspect_image(&fixture.slow_image).await.unwrap(), None);
}

#[tokio::test]
async fn a_crash_interrupts_what_hangs() {
    let (engine, fixture) = fixture();
    engine.script([PullScript::Hangs { after_steps: 1 }]);
    let watch = Watch::default();
    let pull = engine.pull(&fixture.image, watch.callback());
    let (ended, ()) = tokio::join!(biased; pull, async {
        watch.first().await;
        assert_eq!(engine.counts(&fixture.image).under_way, 1);
        engine.crash();
        // Back at once: the pull belongs to the life before, and is lost all the same.
        engine.restart();
    });
    assert!(matches!(ended, Err(EngineError::Interrupted { .. })), "{ended:?}");
    assert_eq!(engine.counts(&fixture.image).under_way, 0);
}

#[tokio::test]
async fn scripts_are_followed_in_order() {
    let (engine, fixture) = fixture();
    let full = EngineError::DiskFull { detail: "no space left on device".to_owned() };
    engine.script([
        PullScript::Fails { after_steps: 0, error: full },
        PullScript::Works { step: Duration::ZERO },
    ]);
    assert!(matches!(engine.pull(&fixture.image, ignore()).await, Err(EngineError::DiskFull { .. })));
    engine.pull(&fixture.image, ignore()).await.unwrap();
    engine.unpublish(&fixture.image);
    assert!(matches!(engine.pull(&fixture.image, ignore()).await, Err(EngineError::ImageNotFound { .. })));
}

#[tokio::test]
async fn no_engine_refuses_for_good() {
    let image = parse("nginx");
    let errors = [
        NoEngine.info().await.unwrap_err(),
        NoEngine.pull(&image, ignore()).await.unwrap_err(),
        NoEngine.inspect_image(&image).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, EngineError::Disabled) && !error.is_transient(), "{error:?}");
    }
}

#[tokio::test]
async fn the_containers_of_the_fake_conform() {
    let (engine, fixture) = fixture();
    let foreign = parse("localhost:5000/foreign:1");
    engine.publish_for_arch(&foreign, vec![1], "arm64");
    engine.pull(&foreign, ignore()).await.unwrap();
    engine.set_programs(Arc::new(programs));
    engine.set_commands(Arc::new(commands));
    let fixture = ContainerFixture {
        image: fixture.image,
        foreign: Some(foreign),
        missing: fixture.missing,
        network: None,
        free_port: 8080,
    };
    containers_conform(&engine, &fixture).await;
    let left = engine.list_containers().await.unwrap();
    assert_eq!(left, [], "the suite takes its containers away");
}
