//! The inventory of a fake engine: what it asks, and what it shows.

mod failures;

use longshore_model::container::ContainerSpec;
use longshore_model::image::ImageReference;
use longshore_raft::consensus::runtime::{AsyncRuntime as _, TokioRuntime};
use longshore_storage::tables::{Batch, MemTables, Opened, Table, Tables};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::docker::*;

type Fake = FakeEngine<TokioRuntime>;
type Tested = Inventory<TokioRuntime>;

const BYTES_MAX: usize = 64 << 20;

fn parse(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn ignore() -> OnProgress {
    Arc::new(|_| {})
}

/// Lets time pass, which the tests' clocks count and nobody waits for.
async fn pass(time: Duration) {
    TokioRuntime::sleep(time).await;
}

/// An inventory at work.
struct Yard {
    fake: Fake,
    tables: Arc<dyn Tables>,
    inventory: Arc<Tested>,
    /// As the node's own parts call it.
    engine: Arc<dyn ContainerEngine>,
    stop: CancellationToken,
}

const IMAGE: &str = "localhost:5000/app:1";

async fn fake() -> Fake {
    let fake = Fake::new("fake");
    fake.publish(&parse(IMAGE), vec![1]);
    fake.pull(&parse(IMAGE), ignore()).await.unwrap();
    fake
}

fn of_tables(tables: Arc<dyn Tables>) -> OpenTables {
    Arc::new(move || Ok((tables.clone(), Opened::Kept)))
}

/// Of any runtime: of a named one the compiler can not show that the futures may be sent.
fn start<R: Runtime>(inventory: &Arc<Inventory<R>>, stop: &CancellationToken) {
    drop(R::spawn(Arc::clone(inventory).run(stop.clone())));
}

fn follow<R: Runtime>(inventory: &Arc<Inventory<R>>, stop: &CancellationToken) {
    let (engine, told, stop) = (inventory.engine(), Arc::clone(inventory), stop.clone());
    let listening = listen::<R>(engine, vec![Arc::new(move |heard| told.hear(heard))]);
    drop(R::spawn(async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = listening => {}
        }
    }));
}

impl Yard {
    async fn new() -> Self {
        Self::of(fake().await, Arc::new(MemTables::new()))
    }

    fn of(fake: Fake, tables: Arc<dyn Tables>) -> Self {
        Self::with(fake, tables, true)
    }

    /// `tells`: the engine tells what happens.
    fn with(fake: Fake, tables: Arc<dyn Tables>, tells: bool) -> Self {
        let open = of_tables(tables.clone());
        Self::opening(fake, tables, open, tells)
    }

    fn opening(fake: Fake, tables: Arc<dyn Tables>, open: OpenTables, tells: bool) -> Self {
        let inventory = Tested::new(Arc::new(fake.clone()), open);
        let stop = CancellationToken::new();
        start(&inventory, &stop);
        match tells {
            true => follow(&inventory, &stop),
            false => inventory.hear(&Heard::Changed(Changed::Everything)),
        }
        let engine = inventory.engine();
        Self { fake, tables, inventory, engine, stop }
    }

    /// Waits until the rows are what the engine has.
    async fn settle(&self) {
        while self.inventory.current::<Container>(BYTES_MAX).await.is_none()
            || self.inventory.current::<ListedImage>(BYTES_MAX).await.is_none()
            || self.inventory.current::<ListedVolume>(BYTES_MAX).await.is_none()
        {
            pass(Duration::from_millis(10)).await;
        }
    }

    async fn containers(&self) -> Vec<Container> {
        self.inventory.current(BYTES_MAX).await.expect("it is current").items
    }

    /// `+name` of those that are up, `-name` of others.
    async fn shown(&self) -> String {
        let shown = self.containers().await;
        let words = shown.iter().map(|c| format!("{}{}", if c.state.is_up() { '+' } else { '-' }, c.name));
        words.collect::<Vec<_>>().join(" ")
    }

    async fn images(&self) -> Vec<ListedImage> {
        self.inventory.current(BYTES_MAX).await.expect("it is current").items
    }

    async fn volumes(&self) -> Vec<String> {
        let rows = self.inventory.current::<ListedVolume>(BYTES_MAX).await.expect("it is current");
        rows.items.into_iter().map(|volume| volume.name).collect()
    }

    /// All rows are what the engine says.
    async fn is_right(&self) {
        assert_eq!(self.containers().await, self.fake.list_containers().await.unwrap());
        assert_eq!(self.images().await, self.fake.list_images().await.unwrap());
        let volumes = self.fake.list_volumes().await.unwrap();
        assert_eq!(self.volumes().await, volumes.into_iter().map(|volume| volume.name).collect::<Vec<_>>());
    }

    async fn end(self) -> (Fake, Arc<dyn Tables>) {
        self.stop.cancel();
        self.inventory.close().await;
        (self.fake, self.tables)
    }
}

fn container(name: &str) -> NewContainer {
    let spec = ContainerSpec::of(parse(IMAGE));
    NewContainer { name: name.to_owned(), spec, labels: Default::default() }
}

async fn run(engine: &dyn ContainerEngine, name: &str) -> String {
    let id = engine.create(&container(name)).await.unwrap();
    engine.start(name).await.unwrap();
    id
}

/// What the engine was asked meanwhile: one by one, and for all of a kind.
async fn asked<T>(fake: &Fake, meanwhile: impl Future<Output = T>) -> (u64, u64) {
    let before = fake.asked();
    meanwhile.await;
    let after = fake.asked();
    (after.things - before.things, after.lists - before.lists)
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_shown_and_the_engine_is_asked_only_about_that() {
    let yard = Yard::new().await;
    yard.settle().await;
    assert_eq!((yard.shown().await.as_str(), yard.images().await.len()), ("", 1));
    run(&yard.fake, "web").await;
    // As with any engine, an event needs a moment.
    assert_eq!(asked(&yard.fake, async { assert_eq!(yard.shown().await, "+web") }).await, (1, 0));
    assert_eq!(asked(&yard.fake, async { assert_eq!(yard.shown().await, "+web") }).await, (0, 0));
    run(&yard.fake, "db").await;
    yard.fake.exit("web", 3).unwrap();
    assert_eq!(yard.shown().await, "+db -web");
    yard.fake.remove("web", false).await.unwrap();
    assert_eq!(yard.shown().await, "+db");
    yard.fake.set_health("db", Some("healthy")).unwrap();
    assert_eq!(yard.containers().await[0].health.as_deref(), Some("healthy"));
    yard.is_right().await;
    // Nothing happens, nothing is asked; but now and then all is compared.
    assert_eq!(asked(&yard.fake, pass(Duration::from_secs(590))).await, (0, 0));
    assert_eq!(asked(&yard.fake, pass(Duration::from_secs(20))).await, (0, 3));
    yard.is_right().await;
}

#[tokio::test(start_paused = true)]
async fn images_lose_names_to_others_and_go() {
    let yard = Yard::new().await;
    yard.settle().await;
    let (app, other) = (parse(IMAGE), parse("localhost:5000/other:1"));
    yard.fake.publish(&other, vec![2, 3]);
    yard.fake.pull(&other, ignore()).await.unwrap();
    yard.is_right().await;
    assert_eq!(
        yard.inventory.image_names(10).await,
        Some(BTreeSet::from([app.familiar(), other.familiar()]))
    );
    // The name moves: the event is about the one that has it now.
    yard.fake.tag(&other, &app).await.unwrap();
    yard.is_right().await;
    assert_eq!(yard.images().await.len(), 1, "what has no name and no copy is gone from the fake");
    yard.fake.forget_all();
    yard.is_right().await;
    assert_eq!(yard.inventory.image_names(10).await, Some(BTreeSet::new()));
}

#[tokio::test(start_paused = true)]
async fn whoever_did_something_sees_it_before_its_event_comes() {
    let yard = Yard::with(fake().await, Arc::new(MemTables::new()), false);
    yard.settle().await;
    for round in 0..20 {
        let name = format!("web{round}");
        let mut new = container(&name);
        new.spec.mounts = vec![format!("data{round}:/data").parse().unwrap()];
        yard.engine.create(&new).await.unwrap();
        assert_eq!(yard.shown().await, format!("-{name}"));
        assert!(yard.volumes().await.contains(&format!("data{round}")));
        yard.engine.start(&name).await.unwrap();
        assert_eq!(yard.shown().await, format!("+{name}"));
        yard.engine.stop(&name, Some(Duration::ZERO)).await.unwrap();
        assert_eq!(yard.shown().await, format!("-{name}"));
        yard.engine.remove(&name, true).await.unwrap();
        assert_eq!(yard.shown().await, "");
    }
    let other = parse("localhost:5000/other:1");
    yard.fake.publish(&other, vec![2]);
    yard.engine.pull(&other, ignore()).await.unwrap();
    yard.engine.tag(&other, &parse("localhost:5000/third:1")).await.unwrap();
    assert_eq!(yard.inventory.current::<ListedImage>(BYTES_MAX).await.unwrap().items.len(), 2);
    yard.is_right().await;
    // One that failed after its effect, and one that was given up.
    let error = EngineError::Refused { detail: "no".to_owned() };
    yard.fake.script_containers(ContainerCall::Create, [ContainerScript::Fails { effect: true, error }]);
    yard.engine.create(&container("lied")).await.unwrap_err();
    assert_eq!(yard.shown().await, "-lied");
    yard.fake.script_containers(ContainerCall::Start, [ContainerScript::Hangs { effect: true }]);
    assert!(TokioRuntime::timeout(Duration::from_secs(1), yard.engine.start("lied")).await.is_err());
    assert_eq!(yard.shown().await, "+lied");
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_events_makes_few_calls() {
    let yard = Yard::new().await;
    yard.settle().await;
    let burst = async {
        for number in 0..500 {
            run(&yard.fake, &format!("c{number}")).await;
        }
        yard.is_right().await;
        pass(Duration::from_secs(5)).await;
    };
    let (things, lists) = asked(&yard.fake, burst).await;
    // Some of these are the test's own.
    assert!(things <= 2 * marks::KEYS_LEAST as u64 && lists <= 5, "{things} and {lists}");
    let one = async {
        for _ in 0..1_000 {
            yard.fake.set_health("c7", Some("unhealthy")).unwrap();
        }
        pass(Duration::from_secs(5)).await;
    };
    assert_eq!(asked(&yard.fake, one).await, (1, 0));
}

#[tokio::test(start_paused = true)]
async fn tables_are_kept_and_what_differs_is_put_right() {
    let yard = Yard::new().await;
    yard.settle().await;
    run(&*yard.engine, "web").await;
    run(&*yard.engine, "db").await;
    yard.settle().await;
    let (fake, tables) = yard.end().await;
    fake.crash();
    let yard = Yard::of(fake, tables);
    let seen = loop {
        match yard.inventory.last_seen::<Container>(BYTES_MAX).await {
            Some(seen) => break seen,
            None => pass(Duration::from_millis(10)).await,
        }
    };
    let names: Vec<String> = seen.rows.items.into_iter().map(|c| c.name).collect();
    assert_eq!(names, ["db", "web"], "as it was before the node was started anew");
    yard.fake.restart();
    yard.fake.remove("db", true).await.unwrap();
    run(&yard.fake, "cache").await;
    yard.settle().await;
    assert_eq!(yard.shown().await, "+cache -web");
    yard.is_right().await;
}

#[tokio::test(start_paused = true)]
async fn tables_of_another_format_are_made_anew() {
    let tables = MemTables::new();
    let mut batch = Batch::default();
    batch.put(Table::new("containers"), "what", "ever");
    batch.put(Table::new("about"), "format", [99]);
    tables.apply(&batch).unwrap();
    let yard = Yard::of(fake().await, Arc::new(tables));
    run(&yard.fake, "web").await;
    yard.settle().await;
    assert_eq!(yard.shown().await, "+web");
    assert_eq!(yard.tables.len(Table::new("containers")).unwrap(), 1);
}

/// One of many things that can happen, by hand or by this node.
async fn something(yard: &Yard, random: &mut SmallRng) {
    let engine: &dyn ContainerEngine = if random.random_bool(0.5) { &*yard.engine } else { &yard.fake };
    let name = format!("c{}", random.random_range(0..6));
    let tag = |number: u32| parse(&format!("localhost:5000/app:{number}"));
    // Whether it can be done is the engine's to say.
    match random.random_range(0..12) {
        0..3 => drop(engine.create(&container(&name)).await),
        3..5 => drop(engine.start(&name).await),
        5 => drop(engine.stop(&name, Some(Duration::ZERO)).await),
        6..8 => drop(engine.remove(&name, true).await),
        8 => drop(yard.fake.exit(&name, 3)),
        9 => drop(engine.tag(&tag(random.random_range(1..4)), &tag(random.random_range(1..4))).await),
        10 => {
            let image = tag(random.random_range(2..4));
            yard.fake.publish(&image, vec![random.random_range(1..3)]);
            drop(engine.pull(&image, ignore()).await);
        }
        _ => drop(yard.fake.forget(&tag(random.random_range(2..4)))),
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_happens_the_rows_come_right() {
    for seed in 0..40 {
        let mut random = SmallRng::seed_from_u64(seed);
        let yard = Yard::new().await;
        yard.settle().await;
        for _ in 0..100 {
            something(&yard, &mut random).await;
            match random.random_range(0..30) {
                0 => {
                    yard.fake.crash();
                    pass(Duration::from_millis(random.random_range(0..2_000))).await;
                    yard.fake.restart();
                    yard.settle().await;
                }
                1..10 => pass(Duration::from_millis(random.random_range(0..200))).await,
                10..15 => yard.is_right().await,
                _ => {}
            }
        }
        yard.is_right().await;
        yard.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_containers_are_listed_in_order_and_up_to_a_limit() {
    let yard = Yard::new().await;
    for number in 0..10_000 {
        yard.fake.create(&container(&format!("c{number}"))).await.unwrap();
    }
    yard.settle().await;
    yard.is_right().await;
    let cut = yard.inventory.current::<Container>(100_000).await.unwrap();
    assert!(cut.cut && (100..2_000).contains(&cut.items.len()), "{}", cut.items.len());
    assert_eq!(cut.items[..], yard.fake.list_containers().await.unwrap()[..cut.items.len()]);
    // One of them changes.
    let changes = async {
        yard.fake.start("c77").await.unwrap();
        yard.containers().await;
    };
    assert_eq!(asked(&yard.fake, changes).await, (1, 0));
    // Many of them do, all the time: each is asked for by itself, and whoever looks does not wait.
    let changes = async {
        for round in 0..5 {
            for number in 0..200 {
                yard.fake.start(&format!("c{}", 1_000 * round + 500 + number)).await.unwrap();
            }
            assert!(yard.containers().await.iter().filter(|c| c.state.is_up()).count() > 200 * round);
        }
    };
    assert_eq!(asked(&yard.fake, changes).await, (1_000, 0));
    yard.is_right().await;
}
