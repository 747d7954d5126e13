//! What is shown, and to whom, while the engine or the tables do not answer.

use std::sync::atomic::{AtomicBool, Ordering};

use longshore_raft::consensus::runtime::Instant as _;
use longshore_storage::tables::{Row, Scan, TablesError, TablesResult};
use parking_lot::Mutex;

use super::*;

#[tokio::test(start_paused = true)]
async fn while_the_engine_is_away_the_rows_are_as_last_seen() {
    let yard = Yard::new().await;
    assert_eq!(yard.inventory.last_seen::<Container>(BYTES_MAX).await, None, "it never was seen");
    yard.settle().await;
    run(&*yard.engine, "web").await;
    assert_eq!(yard.shown().await, "+web");
    yard.fake.crash();
    pass(Duration::from_secs(30)).await;
    assert_eq!(yard.inventory.current::<Container>(BYTES_MAX).await, None);
    let seen = yard.inventory.last_seen::<Container>(BYTES_MAX).await.unwrap();
    assert_eq!((seen.rows.items.len(), seen.rows.cut), (1, false));
    assert!((0..40_000).contains(&seen.age_ms), "{}", seen.age_ms);
    // What happens meanwhile is found when it is back.
    yard.fake.restart();
    yard.settle().await;
    assert_eq!(yard.shown().await, "-web");
    yard.is_right().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_stands_still_holds_nobody_up() {
    let yard = Yard::new().await;
    yard.settle().await;
    run(&*yard.engine, "web").await;
    assert_eq!(yard.shown().await, "+web");
    yard.fake.stand_still(true);
    assert_eq!(yard.shown().await, "+web", "nothing is known to have changed");
    run(&*yard.engine, "db").await;
    assert_eq!(yard.inventory.current::<Container>(BYTES_MAX).await, None);
    pass(Duration::from_secs(100)).await;
    let waits = <TokioRuntime as longshore_raft::consensus::runtime::AsyncRuntime>::Instant::now();
    assert_eq!(yard.inventory.current::<Container>(BYTES_MAX).await, None);
    assert!(waits.elapsed() < Duration::from_secs(1), "it is known not to answer");
    assert_eq!(yard.inventory.last_seen::<Container>(BYTES_MAX).await.unwrap().rows.items.len(), 1);
    yard.fake.stand_still(false);
    yard.settle().await;
    yard.is_right().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_does_not_answer_anybody_is_doubted() {
    let fake = fake().await;
    let inventory = Tested::new(Arc::new(fake.clone()), of_tables(Arc::new(MemTables::new())));
    let (engine, marks) = (inventory.engine(), inventory.containers.marks());
    inventory.hear(&Heard::Changed(Changed::Everything));
    marks.take().unwrap();
    engine.info().await.unwrap();
    assert!(!marks.has_work() && !inventory.pulse.is_doubted());
    fake.stand_still(true);
    assert!(TokioRuntime::timeout(Duration::from_secs(3), engine.info()).await.is_err());
    assert!(marks.take().unwrap().all && inventory.pulse.is_doubted(), "it was given up");
    fake.stand_still(false);
    engine.info().await.unwrap();
    assert!(!inventory.pulse.is_doubted());
    fake.crash();
    engine.info().await.unwrap_err();
    assert!(marks.has_work() && inventory.pulse.is_doubted());
}

#[tokio::test(start_paused = true)]
async fn whatever_gets_no_answer_the_rows_are_as_last_seen_until_the_engine_is_heard() {
    let yard = Yard::new().await;
    run(&*yard.engine, "web").await;
    yard.settle().await;
    let none = |yard: &Yard| {
        let inventory = Arc::clone(&yard.inventory);
        async move {
            let waits = <TokioRuntime as longshore_raft::consensus::runtime::AsyncRuntime>::Instant::now();
            assert_eq!(inventory.current::<Container>(BYTES_MAX).await, None);
            assert_eq!(inventory.current::<ListedImage>(BYTES_MAX).await, None);
            assert_eq!(inventory.current::<ListedVolume>(BYTES_MAX).await, None);
            assert_eq!(waits.elapsed(), Duration::ZERO, "nobody waits for it");
        }
    };
    // The listing is young, and stands against nothing.
    pass(Duration::from_secs(1)).await;
    yard.fake.stand_still(true);
    let asked = yard.fake.asked();
    let engine = Arc::clone(&yard.engine);
    let mut stuck = std::pin::pin!(engine.inspect_container("web"));
    assert!(TokioRuntime::timeout(pulse::FIND_WITHIN, stuck.as_mut()).await.is_err());
    pass(Duration::from_millis(1)).await;
    drop(TokioRuntime::timeout(Duration::ZERO, stuck.as_mut()).await);
    none(&yard).await;
    let seen = yard.inventory.last_seen::<Container>(BYTES_MAX).await.unwrap();
    assert_eq!(seen.rows.items.len(), 1);
    pass(Duration::from_secs(20)).await;
    none(&yard).await;
    // One answer of any kind will do, and nothing has to be listed for it.
    yard.fake.stand_still(false);
    engine.info().await.unwrap();
    yard.is_right().await;
    assert_eq!(yard.fake.asked().lists - asked.lists, 3, "those are this test's own");
    // So does an event.
    yard.inventory.pulse.doubt();
    none(&yard).await;
    yard.fake.exit("web", 0).unwrap();
    assert_eq!(yard.shown().await, "-web");
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_the_engine_at_the_same_time_shares_its_answer() {
    let fake = fake().await;
    let inventory = Tested::new(Arc::new(fake.clone()), of_tables(Arc::new(MemTables::new())));
    let patience = Duration::from_secs(10);
    let many = |number: usize| {
        futures_util::future::join_all((0..number).map(|_| inventory.ask::<Container>(patience)))
    };
    fake.stand_still(true);
    let before = fake.asked().lists;
    let mut first = std::pin::pin!(many(1));
    assert!(TokioRuntime::timeout(Duration::from_secs(1), first.as_mut()).await.is_err());
    // Who comes later sees what was done meanwhile.
    run(&fake, "web").await;
    let mut second = std::pin::pin!(many(50));
    assert!(TokioRuntime::timeout(Duration::from_secs(1), second.as_mut()).await.is_err());
    fake.stand_still(false);
    assert!(first.await.into_iter().all(|answer| answer.is_ok()));
    assert!(second.await.into_iter().all(|answer| answer.unwrap().len() == 1));
    assert_eq!(fake.asked().lists - before, 2);
    // None is waited for for ever.
    fake.stand_still(true);
    let errors = many(2).await;
    assert!(errors[0].as_ref().unwrap_err().to_string().contains("did not answer within 10 s"), "{errors:?}");
    // Nor do those wait for it who come then.
    fake.stand_still(false);
    assert!(inventory.ask::<Container>(patience).await.is_ok());
}

/// Tables that fail while they are broken.
#[derive(Debug, Default)]
struct Fragile {
    rows: MemTables,
    broken: AtomicBool,
}

impl Fragile {
    fn whole(&self) -> TablesResult<&MemTables> {
        match self.broken.load(Ordering::Relaxed) {
            false => Ok(&self.rows),
            true => Err(TablesError::Damaged { dir: "tables".into(), why: "a flipped bit".to_owned() }),
        }
    }
}

impl Tables for Fragile {
    fn get(&self, table: Table, key: &[u8]) -> TablesResult<Option<Vec<u8>>> {
        self.whole()?.get(table, key)
    }

    fn apply(&self, batch: &Batch) -> TablesResult<()> {
        self.whole()?.apply(batch)
    }

    fn scan(&self, scan: &Scan) -> TablesResult<Vec<Row>> {
        self.whole()?.scan(scan)
    }

    fn clear(&self, table: Table) -> TablesResult<()> {
        self.whole()?.clear(table)
    }

    fn len(&self, table: Table) -> TablesResult<u64> {
        self.whole()?.len(table)
    }

    fn checkpoint(&self) -> TablesResult<()> {
        self.whole()?.checkpoint()
    }

    fn bytes_on_disk(&self) -> TablesResult<u64> {
        self.whole()?.bytes_on_disk()
    }
}

#[tokio::test(start_paused = true)]
async fn tables_that_fail_are_opened_again_and_made_anew() {
    let opened: Arc<Mutex<Vec<Arc<Fragile>>>> = Arc::default();
    let all = Arc::clone(&opened);
    let open: OpenTables = Arc::new(move || {
        let mut opened = all.lock();
        opened.push(Arc::default());
        match opened.len() {
            // The disk is full at first, and again after the damage.
            1 | 3 => {
                let source = std::io::Error::other("a full disk");
                Err(TablesError::Io { context: "cannot make tables".into(), source })
            }
            number => Ok((opened[number - 1].clone() as Arc<dyn Tables>, Opened::Fresh)),
        }
    });
    let fake = fake().await;
    let yard = Yard::opening(fake, Arc::new(MemTables::new()), open, true);
    let listed = |yard: &Yard| {
        let inventory = Arc::clone(&yard.inventory);
        async move { inventory.ask::<Container>(Duration::from_secs(10)).await.map(|all| all.len()).unwrap() }
    };
    pass(Duration::from_secs(59)).await;
    assert_eq!(yard.inventory.current::<Container>(BYTES_MAX).await, None);
    assert_eq!(yard.inventory.last_seen::<Container>(BYTES_MAX).await, None);
    assert_eq!(yard.inventory.image_names(10).await.map(|names| names.len()), Some(1), "the engine says so");
    pass(Duration::from_secs(2)).await;
    yard.settle().await;
    run(&yard.fake, "web").await;
    assert_eq!(yard.shown().await, "+web");
    opened.lock()[1].broken.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        assert_eq!(yard.inventory.current::<Container>(BYTES_MAX).await, None);
        assert_eq!(yard.inventory.last_seen::<Container>(BYTES_MAX).await, None);
        assert_eq!(listed(&yard).await, 1);
        pass(Duration::from_secs(59)).await;
    }
    yard.fake.remove("web", true).await.unwrap();
    run(&yard.fake, "db").await;
    pass(Duration::from_secs(5)).await;
    yard.settle().await;
    assert_eq!((yard.shown().await.as_str(), opened.lock().len()), ("+db", 4));
    yard.is_right().await;
    yard.end().await;
}
