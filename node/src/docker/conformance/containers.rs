//! Containers: lives, names, ports, what is told of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::container::ContainerSpec;
use longshore_model::image::ImageReference;
use tokio::sync::{Notify, mpsc};

use super::super::{Container, ContainerEngine, ContainerState, EngineError, LogQuery, NewContainer};
use super::ignore;
use super::output::OUTPUT_MAX;
use super::scripts::{POLITE, STUBBORN, command};

/// What the suite works on.
#[derive(Debug)]
pub struct ContainerFixture {
    /// In the registry, with `/bin/sh`, `sleep`, `true` and `echo`.
    pub image: ImageReference,
    /// On the engine, but for another processor. A fixture without it leaves out what it is for.
    pub foreign: Option<ImageReference>,
    /// Not on the engine.
    pub missing: ImageReference,
    /// A network in which ports can be published; the engine's default if there is none.
    pub network: Option<String>,
    /// Of the host: nobody listens on it.
    pub free_port: u16,
}

/// Runs the whole suite. It takes its containers away, and pulls the image.
pub async fn containers_conform(engine: &dyn ContainerEngine, fixture: &ContainerFixture) {
    let suite = Suite { engine, fixture };
    engine.pull(&fixture.image, ignore()).await.expect("the image is in the registry");
    suite.says_what_is_missing().await;
    suite.makes_a_container_once_for_a_name().await;
    suite.starts_stops_and_removes_any_number_of_times().await;
    suite.tells_how_containers_ended_and_what_they_wrote().await;
    suite.keeps_both_streams_apart().await;
    suite.follows_output_to_the_end().await;
    suite.ends_what_follows_when_nobody_listens().await;
    suite.kills_what_does_not_end_in_its_time().await;
    suite.runs_commands_in_what_runs().await;
    suite.gives_a_port_to_one_at_a_time().await;
    suite.lists_images_and_volumes().await;
    suite.finds_things_as_it_lists_them().await;
    suite.tells_what_changes().await;
    suite.says_that_a_program_is_for_another_processor().await;
}

pub(super) struct Suite<'a> {
    pub(super) engine: &'a dyn ContainerEngine,
    pub(super) fixture: &'a ContainerFixture,
}

impl Suite<'_> {
    pub(super) fn container(&self, name: &str, script: &str) -> NewContainer {
        let mut spec = ContainerSpec::of(self.fixture.image.clone());
        spec.command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        spec.network = self.fixture.network.clone();
        let labels = BTreeMap::from([("dev.longshore.conformance".to_owned(), name.to_owned())]);
        NewContainer { name: format!("conformance-{name}"), spec, labels }
    }

    pub(super) async fn make(&self, new: &NewContainer) -> String {
        self.engine.create(new).await.unwrap_or_else(|error| panic!("{} can be made: {error}", new.name))
    }

    pub(super) async fn run(&self, new: &NewContainer) -> String {
        let id = self.make(new).await;
        self.engine.start(&id).await.unwrap_or_else(|error| panic!("{} can be started: {error}", new.name));
        id
    }

    pub(super) async fn inspect(&self, key: &str) -> Container {
        let found = self.engine.inspect_container(key).await.expect("inspect");
        found.unwrap_or_else(|| panic!("{key} is there"))
    }

    pub(super) async fn remove(&self, key: &str) {
        self.engine.remove(key, true).await.expect("anything can be removed by force");
        assert_eq!(self.engine.inspect_container(key).await.expect("inspect"), None, "{key} is gone");
    }

    /// Waits for a state, each time something happens.
    pub(super) async fn until(&self, key: &str, state: ContainerState) -> Container {
        let changed = Arc::new(Notify::new());
        let wake = changed.clone();
        let mut watch = self.engine.watch(Arc::new(move |_| wake.notify_one()));
        loop {
            tokio::select! {
                biased;
                ended = &mut watch => panic!("the engine tells no more: {ended:?}"),
                () = changed.notified() => {}
            }
            let found = self.inspect(key).await;
            if found.state == state {
                return found;
            }
        }
    }

    async fn says_what_is_missing(&self) {
        let none = "conformance-none";
        let mut new = self.container("none", POLITE);
        new.spec.image = self.fixture.missing.clone();
        let error = self.engine.create(&new).await.expect_err("there is no such image");
        assert!(matches!(error, EngineError::NoSuchImage { .. }) && !error.is_transient(), "{error:?}");
        assert!(error.to_string().contains(&self.fixture.missing.familiar()), "{error} names the image");

        let (sink, _output) = mpsc::channel(OUTPUT_MAX);
        let errors = [
            self.engine.start(none).await.expect_err("start"),
            self.engine.stop(none, None).await.expect_err("stop"),
            self.engine.logs(none, &LogQuery::default(), sink.clone()).await.expect_err("logs"),
            self.engine.exec(none, &command(), sink).await.expect_err("exec"),
            self.engine.start("no/such name").await.expect_err("a name that no container can have"),
        ];
        for error in errors {
            assert!(matches!(error, EngineError::NoSuchContainer { .. }), "{error:?}");
            assert!(!error.is_transient(), "{error:?}");
        }
        assert_eq!(self.engine.inspect_container(none).await.expect("inspect"), None);
        for force in [false, true] {
            self.engine.remove(none, force).await.expect("what is not there is removed");
        }
    }

    async fn makes_a_container_once_for_a_name(&self) {
        let mut new = self.container("once", POLITE);
        new.spec.labels.insert("colour".to_owned(), "blue".to_owned());
        let id = self.make(&new).await;
        assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        let taken = self.engine.create(&new).await.expect_err("the name is taken");
        assert!(matches!(taken, EngineError::NameTaken { .. }) && !taken.is_transient(), "{taken:?}");
        assert!(taken.to_string().contains(&new.name), "{taken} says which");

        let found = self.inspect(&new.name).await;
        assert_eq!((&found.id, &found.name), (&id, &new.name));
        assert_eq!(found.image, self.fixture.image.familiar());
        assert_eq!((found.state, found.state.is_up()), (ContainerState::Created, false));
        for (key, value) in new.spec.labels.iter().chain(&new.labels) {
            assert_eq!(found.labels.get(key), Some(value), "{key}");
        }
        assert!(found.created_unix_s > 0 && found.ports.is_empty() && found.health.is_none(), "{found:?}");
        assert_eq!(self.inspect(&id).await, found, "by its id");
        assert_eq!(self.listed(&id).await, found);
        self.remove(&id).await;
        let another = self.make(&new).await;
        assert_ne!(another, id, "a name is free again, an id is not");
        self.remove(&new.name).await;
    }

    pub(super) async fn listed(&self, id: &str) -> Container {
        let listed = self.engine.list_containers().await.expect("a list");
        assert!(listed.is_sorted_by_key(|container| container.name.clone()), "{listed:?}");
        listed.into_iter().find(|container| container.id == id).expect("it is in the list")
    }

    async fn starts_stops_and_removes_any_number_of_times(&self) {
        let new = self.container("again", POLITE);
        let id = self.make(&new).await;
        self.engine.stop(&id, None).await.expect("one that was never started is stopped");
        for run in 1..=2 {
            for _ in 0..2 {
                self.engine.start(&new.name).await.expect("one that runs is started");
                let running = self.inspect(&id).await;
                assert_eq!((running.state, running.state.is_up()), (ContainerState::Running, true));
                assert_eq!(self.listed(&id).await, running);
            }
            let refused = self.engine.remove(&id, false).await.expect_err("it runs");
            assert!(matches!(refused, EngineError::StillRunning { .. }), "{refused:?}");
            self.until_up(&id, run).await;
            for _ in 0..2 {
                self.engine
                    .stop(&id, Some(Duration::from_secs(60)))
                    .await
                    .expect("one that is stopped is stopped");
                let stopped = self.inspect(&id).await;
                assert_eq!(stopped.state, ContainerState::Exited { code: 0 }, "it said goodbye");
                assert_eq!(self.listed(&id).await, stopped);
            }
        }
        for force in [false, true] {
            self.engine.remove(&id, force).await.expect("what is gone is removed");
        }
        self.run(&new).await;
        self.remove(&new.name).await;
    }

    async fn kills_what_does_not_end_in_its_time(&self) {
        let mut new = self.container("stubborn", STUBBORN);
        new.spec.stop_grace_s = Some(1);
        let id = self.make(&new).await;
        for (run, grace) in [(1, Some(Duration::from_millis(1))), (2, None), (3, Some(Duration::ZERO))] {
            self.engine.start(&id).await.expect("start");
            self.until_up(&id, run).await;
            self.engine.stop(&id, grace).await.expect("stop");
            assert_eq!(self.inspect(&id).await.state, ContainerState::Exited { code: 137 }, "{grace:?}");
        }
        self.remove(&id).await;
    }

    async fn gives_a_port_to_one_at_a_time(&self) {
        let port = self.fixture.free_port;
        let with_port = |name, mapping: String| {
            let mut new = self.container(name, POLITE);
            new.spec.ports = vec![mapping.parse().expect("a port")];
            new
        };
        let first = self.run(&with_port("port-1", format!("127.0.0.1:{port}:80"))).await;
        let has_it = self.inspect(&first).await;
        assert_eq!(has_it.ports, [format!("127.0.0.1:{port}->80/tcp")]);
        assert_eq!(self.listed(&first).await, has_it);

        let second = self.make(&with_port("port-2", format!("127.0.0.1:{port}:81"))).await;
        let taken = self.engine.start(&second).await.expect_err("the port is taken");
        assert!(matches!(taken, EngineError::PortTaken { .. }) && !taken.is_transient(), "{taken:?}");
        let waits = self.inspect(&second).await;
        assert!(!waits.state.is_up() && waits.ports.is_empty(), "{waits:?}");
        assert_eq!(self.listed(&second).await, waits);

        let other = self.run(&with_port("port-3", format!("127.0.0.1:{port}:80/udp"))).await;
        assert_eq!(self.inspect(&other).await.ports, [format!("127.0.0.1:{port}->80/udp")]);
        let any = self.run(&with_port("port-4", "127.0.0.1::80".to_owned())).await;
        let ports = self.inspect(&any).await.ports;
        assert!(matches!(&ports[..], [one] if one.ends_with("->80/tcp")), "{ports:?}");

        self.remove(&first).await;
        self.engine.start(&second).await.expect("the port is free again");
        for id in [second, other, any] {
            self.remove(&id).await;
        }
    }

    async fn lists_images_and_volumes(&self) {
        let images = self.engine.list_images().await.expect("a list");
        let name = self.fixture.image.familiar();
        let image = images.iter().find(|image| image.tags.contains(&name)).expect("it was pulled");
        let found =
            self.engine.inspect_image(&self.fixture.image).await.expect("inspect").expect("it is there");
        assert_eq!((&image.id, image.size_bytes), (&found.id, found.size_bytes));
        assert!(images.is_sorted_by_key(|image| image.id.clone()), "{images:?}");

        let before = self.volumes().await;
        let mut new = self.container("volumes", POLITE);
        new.spec.mounts = ["conformance-data:/data", "/cache"].map(|m| m.parse().expect("a mount")).to_vec();
        self.make(&new).await;
        let with = self.volumes().await;
        assert_eq!(with.len(), before.len() + 2, "{with:?}");
        assert!(with.iter().any(|name| name == "conformance-data"), "{with:?}");
        self.remove(&new.name).await;
        let after = self.volumes().await;
        assert_eq!(after.len(), before.len() + 1, "the one with a name stays: {after:?}");
    }

    pub(super) async fn volumes(&self) -> Vec<String> {
        let volumes = self.engine.list_volumes().await.expect("a list");
        assert!(volumes.is_sorted_by_key(|volume| volume.name.clone()), "{volumes:?}");
        volumes.into_iter().map(|volume| volume.name).collect()
    }

    async fn says_that_a_program_is_for_another_processor(&self) {
        let Some(foreign) = &self.fixture.foreign else { return };
        let mut new = self.container("foreign", POLITE);
        new.spec.image = foreign.clone();
        let id = self.make(&new).await;
        let error = self.engine.start(&id).await.expect_err("its program can not run");
        assert!(matches!(error, EngineError::WrongPlatform { .. }) && !error.is_transient(), "{error:?}");
        assert!(error.to_string().contains(&foreign.familiar()), "{error} names the image");
        let found = self.inspect(&id).await;
        assert!(matches!(found.state, ContainerState::Exited { code } if code != 0), "{found:?}");
        self.remove(&id).await;
    }
}
