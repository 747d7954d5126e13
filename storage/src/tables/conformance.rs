//! What all [`Tables`] must do, as tests that any implementation can run. Panics at the first thing that is wrong.

use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::*;

/// Fresh, empty tables, and whatever has to live as long as they do.
pub type Fixture = (Arc<dyn Tables>, Box<dyn Any>);

type Case = fn(&dyn Tables);

const A: Table = Table::new("a");
/// Its rows come behind those of `A` in a store that keeps both in one order, its name begins with `A`'s.
const AB: Table = Table::new("ab");

const CASES: [(&str, Case); 8] = [
    ("rows are put, replaced and deleted", rows_are_put_replaced_and_deleted),
    ("tables do not share keys", tables_do_not_share_keys),
    ("the last change of a batch counts", the_last_change_counts),
    ("scans go both ways, within bounds", scans_go_both_ways),
    ("scans keep their limits", scans_keep_their_limits),
    ("values of all sizes come back", values_of_all_sizes),
    ("what is too large is refused, all of it", too_large_is_refused),
    ("clearing empties one table", clearing_empties_one_table),
];

/// Runs every case, each on tables of its own.
pub fn run(make: impl Fn() -> Fixture) {
    for (name, case) in CASES {
        tracing::debug!(name, "tables conformance case");
        let (tables, _guard) = make();
        case(&*tables);
        ok(tables.checkpoint());
    }
}

#[track_caller]
fn ok<T>(result: TablesResult<T>) -> T {
    result.expect("the tables have no faults")
}

#[track_caller]
fn put(tables: &dyn Tables, table: Table, rows: &[(&[u8], &[u8])]) {
    let mut batch = Batch::default();
    rows.iter().for_each(|(key, value)| batch.put(table, *key, *value));
    ok(tables.apply(&batch));
}

fn keys(tables: &dyn Tables, scan: &Scan) -> Vec<Vec<u8>> {
    ok(tables.scan(scan)).into_iter().map(|(key, _)| key).collect()
}

fn rows_are_put_replaced_and_deleted(tables: &dyn Tables) {
    assert_eq!((ok(tables.get(A, b"k")), ok(tables.len(A))), (None, 0));
    put(tables, A, &[(b"k", b"1"), (b"", b"empty key"), (b"z", b"")]);
    assert_eq!(ok(tables.get(A, b"k")).as_deref(), Some(&b"1"[..]));
    assert_eq!(ok(tables.get(A, b"")).as_deref(), Some(&b"empty key"[..]));
    assert_eq!(ok(tables.get(A, b"z")).as_deref(), Some(&b""[..]));
    put(tables, A, &[(b"k", b"2")]);
    assert_eq!((ok(tables.get(A, b"k")).as_deref(), ok(tables.len(A))), (Some(&b"2"[..]), 3));
    let mut batch = Batch::default();
    batch.delete(A, *b"k");
    batch.delete(A, *b"never there");
    ok(tables.apply(&batch));
    assert_eq!((ok(tables.get(A, b"k")), ok(tables.len(A))), (None, 2));
    ok(tables.apply(&Batch::default()));
}

fn tables_do_not_share_keys(tables: &dyn Tables) {
    put(tables, A, &[(b"b", b"in a"), (b"bb", b"in a")]);
    put(tables, AB, &[(b"", b"in ab"), (b"b", b"in ab")]);
    assert_eq!(ok(tables.get(A, b"b")).as_deref(), Some(&b"in a"[..]));
    assert_eq!(ok(tables.get(AB, b"b")).as_deref(), Some(&b"in ab"[..]));
    assert_eq!(keys(tables, &Scan::all(A)), [&b"b"[..], b"bb"]);
    assert_eq!(keys(tables, &Scan { backward: true, ..Scan::all(AB) }), [&b"b"[..], b""]);
    assert_eq!((ok(tables.len(A)), ok(tables.len(AB))), (2, 2));
}

fn the_last_change_counts(tables: &dyn Tables) {
    let mut batch = Batch::default();
    batch.put(A, *b"k", *b"1");
    batch.delete(A, *b"k");
    batch.delete(A, *b"l");
    batch.put(A, *b"l", *b"2");
    batch.put(AB, *b"k", *b"3");
    ok(tables.apply(&batch));
    assert_eq!((ok(tables.get(A, b"k")), ok(tables.get(A, b"l"))), (None, Some(b"2".to_vec())));
    assert_eq!((ok(tables.len(A)), ok(tables.len(AB))), (1, 1));
}

fn scans_go_both_ways(tables: &dyn Tables) {
    let all: Vec<[u8; 1]> = (0..=255).step_by(5).map(|key| [key]).collect();
    let rows: Vec<(&[u8], &[u8])> = all.iter().map(|key| (&key[..], &b"v"[..])).collect();
    put(tables, A, &rows);
    let model: BTreeMap<Vec<u8>, ()> = all.iter().map(|key| (key.to_vec(), ())).collect();
    let ends = |key: u8| [Bound::Included(vec![key]), Bound::Excluded(vec![key]), Bound::Unbounded];
    for (from, to) in [(0, 255), (5, 250), (6, 9), (10, 10), (200, 100)] {
        for from in ends(from) {
            for to in ends(to) {
                let scan = Scan { from: from.clone(), to: to.clone(), ..Scan::all(A) };
                let mut expected: Vec<Vec<u8>> = match scan.is_empty() {
                    true => Vec::new(),
                    false => model.range((from.clone(), to.clone())).map(|(key, ())| key.clone()).collect(),
                };
                assert_eq!(keys(tables, &scan), expected, "{scan:?}");
                expected.reverse();
                assert_eq!(keys(tables, &Scan { backward: true, ..scan.clone() }), expected, "{scan:?}");
            }
        }
    }
    assert!(keys(tables, &Scan::all(AB)).is_empty());
}

fn scans_keep_their_limits(tables: &dyn Tables) {
    put(tables, A, &[(b"1", &[0; 100]), (b"2", &[0; 100]), (b"3", &[0; 100])]);
    let limited =
        |limit, bytes, backward| keys(tables, &Scan { limit, bytes, backward, ..Scan::all(A) }).concat();
    assert_eq!(limited(0, 1_000, false), b"");
    assert_eq!(limited(2, 1_000, false), b"12");
    assert_eq!(limited(2, 1_000, true), b"32");
    assert_eq!(limited(9, 202, false), b"12");
    assert_eq!(limited(9, 201, false), b"1");
    assert_eq!(limited(9, 0, true), b"3", "the first row always comes");
}

fn values_of_all_sizes(tables: &dyn Tables) {
    let sizes = [0, 1, 4_096, 65_535, 65_536, 65_537, 131_072, 1_000_000, VALUE_BYTES_MAX];
    let value =
        |size: usize, salt: usize| -> Vec<u8> { (0..size).map(|at| (at * 31 + salt) as u8).collect() };
    // Each key has small and large values one after the other.
    for round in 0..2 {
        for (at, size) in sizes.iter().enumerate() {
            let size = if round == 0 { *size } else { sizes[sizes.len() - 1 - at] };
            put(tables, A, &[(&[at as u8], &value(size, round))]);
        }
    }
    for at in 0..sizes.len() {
        let expected = value(sizes[sizes.len() - 1 - at], 1);
        assert!(ok(tables.get(A, &[at as u8])) == Some(expected), "value {at}");
    }
    let rows = ok(tables.scan(&Scan::all(A)));
    assert!(rows.iter().zip(sizes.iter().rev()).all(|((_, value), size)| value.len() == *size));
    assert_eq!((rows.len(), ok(tables.len(A))), (sizes.len(), sizes.len() as u64));
}

fn too_large_is_refused(tables: &dyn Tables) {
    let refused = |batch: Batch| {
        let mut batch = batch;
        batch.put(AB, *b"with it", *b"");
        matches!(tables.apply(&batch), Err(TablesError::TooLarge { .. }))
    };
    let mut key = Batch::default();
    key.put(A, vec![0; KEY_BYTES_MAX + 1], *b"");
    let mut value = Batch::default();
    value.put(A, *b"k", vec![0; VALUE_BYTES_MAX + 1]);
    let mut many = Batch::default();
    (0..BATCH_CHANGES_MAX as u32).for_each(|at| many.put(A, at.to_be_bytes(), *b""));
    let mut long = Batch::default();
    (0..5_u8).for_each(|at| long.put(A, [at], vec![0; VALUE_BYTES_MAX]));
    for (name, batch) in [("key", key), ("value", value), ("many", many), ("long", long)] {
        assert!(refused(batch), "{name}");
    }
    assert_eq!((ok(tables.len(A)), ok(tables.len(AB))), (0, 0));
    put(tables, A, &[(&[7; KEY_BYTES_MAX], b"fits")]);
    assert_eq!(ok(tables.get(A, &[7; KEY_BYTES_MAX])).as_deref(), Some(&b"fits"[..]));
    assert_eq!(ok(tables.get(A, &[7; KEY_BYTES_MAX + 1])), None);
}

fn clearing_empties_one_table(tables: &dyn Tables) {
    let rows: Vec<Vec<u8>> = (0..2_000_u32).map(|key| key.to_be_bytes().to_vec()).collect();
    let rows: Vec<(&[u8], &[u8])> = rows.iter().map(|key| (&key[..], &key[..])).collect();
    put(tables, A, &rows);
    put(tables, A, &[(b"long", &[1; 200_000])]);
    put(tables, AB, &[(b"k", b"stays")]);
    ok(tables.clear(A));
    assert_eq!((ok(tables.len(A)), ok(tables.len(AB))), (0, 1));
    assert!(keys(tables, &Scan::all(A)).is_empty());
    assert_eq!(ok(tables.get(AB, b"k")).as_deref(), Some(&b"stays"[..]));
    ok(tables.clear(A));
}
