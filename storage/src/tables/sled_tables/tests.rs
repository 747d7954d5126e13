//! The tables on sled: what they hold against a model, changed bytes, space.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::tables::conformance;

const T: Table = Table::new("t");
const U: Table = Table::new("u");

type Contents = Vec<Row>;

fn open(dir: &Path) -> (SledTables, Opened) {
    open_within(dir, SPACE_BYTES_MAX)
}

/// Waits while a child that another test has just forked still holds the store's lock: it has all files of this process until it comes to its own
/// program.
fn open_within(dir: &Path, space_bytes_max: u64) -> (SledTables, Opened) {
    loop {
        match SledTables::open_within(dir.to_owned(), space_bytes_max) {
            Err(TablesError::Io { source, .. }) if source.to_string().contains(LOCKED) => {
                std::thread::yield_now()
            }
            opened => return opened.expect("a folder can be made"),
        }
    }
}

#[test]
fn a_store_that_is_open_already_is_not_taken_for_a_damaged_one() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("tables");
    let states = sample(&dir);
    let (tables, _) = open(&dir);
    let again = SledTables::open(&dir).map(drop).unwrap_err();
    assert!(again.to_string().contains(LOCKED), "{again}");
    assert!(contents(&tables) == *states.last().unwrap() && !temp.path().join("tables.damaged-1").exists());
}

fn contents(tables: &dyn Tables) -> Contents {
    [T, U].iter().flat_map(|table| tables.scan(&Scan::all(*table)).expect("no damage")).collect()
}

#[test]
fn conforms() {
    conformance::run(|| {
        let temp = tempfile::tempdir().unwrap();
        let (tables, opened) = open(&temp.path().join("tables"));
        assert_eq!(opened, Opened::Fresh);
        (Arc::new(tables) as Arc<dyn Tables>, Box::new(temp))
    });
}

/// States of the sample before the one that its checkpoint saves.
const SAVED_STATES: usize = 13;

/// A store with some of everything, and its contents after each batch.
fn sample(dir: &Path) -> Vec<Contents> {
    let (tables, _) = open(dir);
    let mut states = vec![Contents::new()];
    for round in 0..24_u8 {
        let mut batch = Batch::default();
        for key in 0..20_u8 {
            batch.put(T, [key, round % 4], vec![round; usize::from(key) * 4]);
        }
        batch.delete(T, [round, 0]);
        batch.put(U, [round % 3], vec![round; 20_000]);
        tables.apply(&batch).unwrap();
        states.push(contents(&tables));
        if states.len() == SAVED_STATES + 1 {
            tables.checkpoint().unwrap();
        }
    }
    states
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_in(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn copy_all(from: &Path, to: &Path) {
    for file in files_in(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}

#[test]
fn what_was_applied_is_there_again() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a/tables");
    let states = sample(&dir);
    for _ in 0..2 {
        let (tables, opened) = open(&dir);
        assert_eq!(opened, Opened::Kept);
        assert!(contents(&tables) == *states.last().unwrap());
        assert_eq!(tables.len(U).unwrap(), 3);
    }
    let blobs: Vec<_> =
        files_in(&dir).into_iter().filter(|path| path.to_string_lossy().contains("blob")).collect();
    assert_eq!(blobs, Vec::<PathBuf>::new(), "sled never syncs these");
}

/// Positions of a file that are tried: all of a small one; else the ends, and some in between.
fn positions(len: u64) -> Vec<u64> {
    const SOME: u64 = 240;
    let step = (len / SOME).max(1);
    let spread = (0..len).step_by(step as usize).map(|at| at + at / step % step);
    let mut all: Vec<u64> = spread.chain(0..len.min(32)).filter(|at| *at < len).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn a_changed_byte_is_found_or_does_no_harm() {
    let temp = tempfile::tempdir().unwrap();
    let good = temp.path().join("good");
    let states = sample(&good);
    let (mut tried, mut set_aside) = (0, 0);
    for file in files_in(&good) {
        let name = file.strip_prefix(&good).unwrap();
        let bytes = std::fs::read(&file).unwrap();
        for at in positions(bytes.len() as u64) {
            let dir = temp.path().join("changed");
            copy_all(&good, &dir);
            let mut changed = bytes.clone();
            changed[at as usize] ^= 1 << (at % 8);
            std::fs::write(dir.join(name), changed).unwrap();
            let place = format!("{} at {at}", name.display());
            let (tables, opened) = open(&dir);
            let found = contents(&tables);
            match opened {
                Opened::SetAside { to, .. } => {
                    assert!(found.is_empty() && to.is_dir(), "{place}");
                    set_aside += 1;
                }
                // The last batches may be missing, as after a crash; none that a checkpoint has saved.
                Opened::Kept => assert!(states[SAVED_STATES..].contains(&found), "{place}"),
                Opened::Fresh => panic!("{place}: found nothing"),
            }
            let mut batch = Batch::default();
            batch.put(T, *b"written since", *b"1");
            tables.apply(&batch).unwrap_or_else(|error| panic!("{place}: {error}"));
            if tried % 8 == 0 {
                tables.checkpoint().unwrap_or_else(|error| panic!("{place}: {error}"));
            }
            drop(tables);
            std::fs::remove_dir_all(&dir).unwrap();
            tried += 1;
        }
    }
    println!("{tried} bytes were changed; {set_aside} times the store was set aside");
    assert!(tried > 300 && set_aside > tried / 20, "{set_aside} of {tried}");
}

#[test]
fn a_store_without_its_log_is_set_aside_and_one_that_was_never_complete_is_fresh() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("tables");
    sample(&dir);
    std::fs::remove_file(dir.join("1/db")).unwrap();
    let (tables, opened) = open(&dir);
    assert!(matches!(opened, Opened::SetAside { .. }), "{opened:?}");
    drop(tables);
    std::fs::remove_file(dir.join("current")).unwrap();
    assert_eq!(open(&dir).1, Opened::Fresh);
}

#[test]
fn damage_that_shows_later_closes_the_tables_and_the_next_start_sets_them_aside() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("tables");
    let (tables, _) = open(&dir);
    let mut batch = Batch::default();
    batch.put(T, *b"k", *b"v");
    tables.apply(&batch).unwrap();
    {
        let mut state = tables.state.write();
        let State::Open(store) = &mut *state else { panic!("it is open") };
        store.db.insert(rows::row_key(T, b"k"), &b"not what was put"[..]).unwrap();
        store.db.flush().unwrap();
    }
    for _ in 0..2 {
        let error = tables.get(T, b"k").unwrap_err();
        assert!(error.to_string().contains("rebuilt when they are opened again"), "{error}");
    }
    assert!(matches!(tables.apply(&batch), Err(TablesError::Damaged { .. })));
    // As another process would find it: this one may hold the lock still.
    let other = temp.path().join("other");
    copy_all(&dir, &other);
    let (fresh, opened) = open(&other);
    assert!(matches!(opened, Opened::SetAside { .. }), "{opened:?}");
    assert_eq!(fresh.get(T, b"k").unwrap(), None);
    // Whoever has no lock in its way finds out itself: this one is whole.
    let spared = temp.path().join("spared");
    let (whole, _) = open(&spared);
    whole.apply(&batch).unwrap();
    whole.checkpoint().unwrap();
    drop(whole);
    folder::note_damage(&spared, "the disk was full for a moment");
    let (whole, opened) = open(&spared);
    assert_eq!((opened, whole.get(T, b"k").unwrap().is_some()), (Opened::Kept, true));
    assert_eq!(folder::damage(&spared), None);
    // By this process too, which never closed it.
    drop(tables);
    for _ in 0..2 {
        let (fresh, opened) = open(&dir);
        assert!(
            matches!(&opened, Opened::SetAside { why, .. } if why.contains("found while in use")),
            "{opened:?}"
        );
        fresh.apply(&batch).unwrap();
        assert!(fresh.give_up("it is damaged once more".to_owned()).to_string().contains("once more"));
    }
}

#[test]
fn a_store_that_takes_too_much_space_is_rebuilt() {
    const SPACE: u64 = 2 << 20;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("tables");
    let (tables, _) = SledTables::open_within(dir.clone(), SPACE).unwrap();
    let mut kept = Batch::default();
    (0..50_u8).for_each(|key| kept.put(U, [key], vec![key; 100]));
    tables.apply(&kept).unwrap();
    let mut most = 0;
    for round in 0..40_u32 {
        for key in 0..100_u32 {
            let mut batch = Batch::default();
            batch.put(T, (round * 100 + key).to_be_bytes(), vec![key as u8; 2_000]);
            tables.apply(&batch).unwrap();
        }
        tables.clear(T).unwrap();
        tables.checkpoint().unwrap();
        most = most.max(tables.bytes_on_disk().unwrap());
    }
    println!("at most {most} bytes on the disk after a checkpoint");
    assert!(most <= SPACE && folder::current(&dir).unwrap() > Some(1), "{most}");
    let before = contents(&tables);
    assert_eq!((before.len(), tables.len(T).unwrap(), tables.len(U).unwrap()), (50, 0, 50));
    drop(tables);
    let (tables, opened) = open(&dir);
    assert_eq!(opened, Opened::Kept);
    assert!(contents(&tables) == before);
}

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<(bool, u8, Option<usize>)>),
    Clear(bool),
    Checkpoint,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![8 => 0..300_usize, 1 => 60_000..140_000_usize];
    let change = (any::<bool>(), 0..40_u8, proptest::option::weighted(0.7, size));
    let step = prop_oneof![
        12 => proptest::collection::vec(change, 0..12).prop_map(Step::Apply),
        1 => any::<bool>().prop_map(Step::Clear),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_tables_hold_what_a_model_holds(steps in steps()) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("tables");
        // So little that it is rebuilt now and then.
        let reopen = || open_within(&dir, 1 << 20);
        let (mut tables, _) = reopen();
        let mut model: BTreeMap<(Table, Vec<u8>), Vec<u8>> = BTreeMap::new();
        let which = |first: bool| if first { T } else { U };
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Apply(changes) => {
                    let mut batch = Batch::default();
                    for (table, key, size) in changes {
                        let (table, key) = (which(table), vec![key; usize::from(key % 5)]);
                        match size {
                            Some(size) => {
                                let value = vec![number as u8; size];
                                batch.put(table, key.clone(), value.clone());
                                model.insert((table, key), value);
                            }
                            None => {
                                batch.delete(table, key.clone());
                                model.remove(&(table, key));
                            }
                        }
                    }
                    tables.apply(&batch).unwrap();
                }
                Step::Clear(table) => {
                    tables.clear(which(table)).unwrap();
                    model.retain(|(of, _), _| *of != which(table));
                }
                Step::Checkpoint => tables.checkpoint().unwrap(),
                Step::Reopen => {
                    drop(tables);
                    let (again, opened) = reopen();
                    prop_assert_eq!(opened, Opened::Kept);
                    tables = again;
                }
            }
            let expected: Contents =
                model.iter().map(|((_, key), value)| (key.clone(), value.clone())).collect();
            prop_assert!(contents(&tables) == expected);
            let count = |of| model.keys().filter(|(table, _)| *table == of).count() as u64;
            prop_assert_eq!((tables.len(T).unwrap(), tables.len(U).unwrap()), (count(T), count(U)));
        }
    }
}
