//! What the engine tells of, and that each thing is found as it is listed.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::{BoxFuture, Changed, EngineError};
use super::containers::Suite;
use super::parse;
use super::scripts::POLITE;

/// Listens to the engine for as long as it lives.
struct Listener<'a> {
    watch: BoxFuture<'a, Result<(), EngineError>>,
    told: Arc<Mutex<Vec<Changed>>>,
    woken: Arc<Notify>,
}

impl<'a> Listener<'a> {
    fn of(suite: &Suite<'a>) -> Self {
        let (told, woken): (Arc<Mutex<Vec<Changed>>>, Arc<Notify>) = Default::default();
        let (sink, wake) = (told.clone(), woken.clone());
        let watch = suite.engine.watch(Arc::new(move |changed| {
            sink.lock().push(changed);
            wake.notify_one();
        }));
        Self { watch, told, woken }
    }

    /// Does something while the engine is listened to.
    async fn during<T>(&mut self, act: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            ended = &mut self.watch => panic!("the engine tells no more: {ended:?}"),
            done = act => done,
        }
    }

    /// Waits until all of these were told.
    async fn hears(&mut self, wanted: &[Changed]) {
        loop {
            let missing = {
                let told = self.told.lock();
                wanted.iter().find(|wanted| !told.contains(wanted)).cloned()
            };
            if missing.is_none() {
                return;
            }
            let woken = self.woken.clone();
            self.during(woken.notified()).await;
        }
    }

    /// Forgets what was told so far, and sees to it that the watch has been asked for all that happened before.
    async fn quiet(&mut self, suite: &Suite<'_>) {
        self.during(suite.engine.info()).await.expect("it is up");
        self.told.lock().clear();
    }
}

impl Suite<'_> {
    pub(super) async fn finds_things_as_it_lists_them(&self) {
        let name = self.fixture.image.familiar();
        let listed = self.engine.list_images().await.expect("a list");
        let listed = listed.into_iter().find(|image| image.tags.contains(&name)).expect("it was pulled");
        for key in [&name, &listed.id] {
            let found = self.engine.find_image(key).await.expect("an answer");
            assert_eq!(found.as_ref(), Some(&listed), "{key}");
        }
        for none in
            [self.fixture.missing.familiar(), format!("sha256:{}", "0".repeat(64)), "no such/x y".into()]
        {
            assert_eq!(self.engine.find_image(&none).await.expect("no image is no error"), None, "{none}");
        }

        let mut new = self.container("find", POLITE);
        new.spec.mounts = vec![parse_mount("conformance-found:/data")];
        self.make(&new).await;
        let listed = self.engine.list_volumes().await.expect("a list");
        let listed =
            listed.into_iter().find(|volume| volume.name == "conformance-found").expect("it was made");
        let found = self.engine.find_volume("conformance-found").await.expect("an answer");
        assert_eq!(found, Some(listed));
        for none in ["conformance-nothing", "no such/x y"] {
            assert_eq!(self.engine.find_volume(none).await.expect("no volume is no error"), None, "{none}");
        }
        self.remove(&new.name).await;
    }

    pub(super) async fn tells_what_changes(&self) {
        let mut listener = Listener::of(self);
        listener.hears(&[Changed::Everything]).await;
        assert_eq!(listener.told.lock()[0], Changed::Everything, "before anything else");

        listener.quiet(self).await;
        let mut new = self.container("watched", POLITE);
        new.spec.mounts = ["conformance-told:/data", "/cache"].map(parse_mount).to_vec();
        let before = self.volumes().await;
        let id = listener.during(self.make(&new)).await;
        listener.hears(&[Changed::Container(id.clone()), Changed::Volume("conformance-told".into())]).await;
        let made = self.volumes().await;
        let made: Vec<&String> = made.iter().filter(|volume| !before.contains(volume)).collect();
        for volume in &made {
            listener.hears(&[Changed::Volume((*volume).clone())]).await;
        }
        for run in 1..=2 {
            listener.quiet(self).await;
            listener.during(self.engine.start(&id)).await.expect("start");
            listener.hears(&[Changed::Container(id.clone())]).await;
            listener.during(self.until_up(&id, run)).await;
            listener.quiet(self).await;
            listener.during(self.engine.stop(&id, None)).await.expect("stop");
            listener.hears(&[Changed::Container(id.clone())]).await;
        }
        listener.quiet(self).await;
        listener.during(self.remove(&id)).await;
        listener.hears(&[Changed::Container(id)]).await;
        for volume in made.iter().filter(|volume| **volume != "conformance-told") {
            listener.hears(&[Changed::Volume((*volume).clone())]).await;
        }

        listener.quiet(self).await;
        let told = parse(&format!("{}:told", self.fixture.image.name()));
        let tagged = listener.during(self.engine.tag(&self.fixture.image, &told)).await.expect("tag");
        loop {
            let keys = listener.told.lock().clone();
            for key in keys.into_iter().filter_map(|changed| match changed {
                Changed::Image(key) => Some(key),
                _ => None,
            }) {
                let found = listener.during(self.engine.find_image(&key)).await.expect("an answer");
                if found.is_some_and(|found| found.id == tagged.id && found.tags.contains(&told.familiar())) {
                    return;
                }
            }
            let woken = listener.woken.clone();
            listener.during(woken.notified()).await;
        }
    }
}

fn parse_mount(text: &str) -> longshore_model::container::Mount {
    text.parse().unwrap_or_else(|error| panic!("{text:?} should be valid: {error}"))
}
