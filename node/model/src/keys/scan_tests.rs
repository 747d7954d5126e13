//! Reads of one key and of pages.

use super::limits::*;
use super::*;
use crate::partition::{PartitionId, PartitionRange, partition_of};
use longshore_raft::consensus::machine::LogTime;

const NOW: LogTime = LogTime(100);

/// Keys over all partitions in one group: more than a group has, so that merging is tested hardest.
fn keys(entries: impl IntoIterator<Item = (String, Value, Lifetime)>) -> Keys {
    let mut keys = Keys::new(PartitionRange::new(0..=255).unwrap());
    for (key, value, lifetime) in entries {
        let (namespace, condition) = ("ns".to_owned(), Condition::Always);
        let partition = partition_of(key.as_bytes());
        let command = KeyCommand::Set { namespace, key: key.into(), value, lifetime, condition };
        keys.apply(LogTime(0), partition, command).unwrap();
    }
    keys
}

fn numbered(count: usize, value: &Value) -> Keys {
    keys((0..count).map(|i| (format!("k{i:04}"), value.clone(), Lifetime::Forever)))
}

fn scan(prefix: &str, limit: u32) -> Scan {
    Scan {
        namespace: "ns".into(),
        partition: None,
        prefix: prefix.into(),
        after: None,
        limit,
        with_values: true,
    }
}

/// Keys of all pages, and the number of pages.
fn walk(keys: &Keys, mut scan: Scan) -> (Vec<String>, usize) {
    let (mut all, mut pages) = (Vec::new(), 0);
    loop {
        let page = keys.scan(NOW, &scan).unwrap();
        pages += 1;
        all.extend(page.entries.iter().map(|e| String::from_utf8(e.key.to_vec()).unwrap()));
        match page.next {
            Some(next) => {
                assert!(
                    scan.after.as_deref() < Some(&*next),
                    "a page that gets no further is asked for for ever"
                );
                scan.after = Some(next.to_vec());
            }
            None => return (all, pages),
        }
    }
}

#[test]
fn a_read_copies_no_value() {
    let value = Value::from(vec![1; 1000]);
    let keys = numbered(1, &value);
    let found = keys.get(NOW, "ns", b"k0000").unwrap().unwrap();
    assert_eq!((found.value.as_ptr(), found.version, found.ttl_ms), (value.as_ptr(), 1, None));
    let page = keys.scan(NOW, &scan("", 1)).unwrap();
    assert_eq!(page.entries[0].value.as_ref().unwrap().as_ptr(), value.as_ptr());
    assert_eq!(keys.get(NOW, "other", b"k0000"), Ok(None));
    assert_eq!(keys.get(NOW, "ns", b"k"), Ok(None));
    assert!(matches!(keys.get(NOW, "ns", b""), Err(KeyError::KeyLength { len: 0 })));
}

#[test]
fn pages_are_in_order_over_partitions_and_miss_nothing() {
    let keys = numbered(500, &Value::from(vec![1]));
    let expected: Vec<String> = (0..500).map(|i| format!("k{i:04}")).collect();
    for (limit, pages) in [(1, 500), (7, 72), (499, 2), (500, 1), (1000, 1)] {
        assert_eq!(walk(&keys, scan("", limit)), (expected.clone(), pages), "pages of {limit}");
    }
    let some: Vec<String> = expected.iter().filter(|k| k.starts_with("k01")).cloned().collect();
    assert_eq!(walk(&keys, scan("k01", 13)), (some, 8));
    assert_eq!(walk(&keys, scan("x", 13)), (vec![], 1));
    assert_eq!(walk(&keys, Scan { namespace: "empty".into(), ..scan("", 1) }), (vec![], 1));
    let after = |after: &str, prefix| Scan { after: Some(after.into()), ..scan(prefix, 1000) };
    assert_eq!(walk(&keys, after("k0497", "")).0, expected[498..]);
    assert_eq!(walk(&keys, after("a", "k049")).0, expected[490..], "a cursor before the prefix");
    assert_eq!(walk(&keys, after("z", "k049")).0, Vec::<String>::new(), "a cursor beyond the prefix");

    let mut by_partition: Vec<String> =
        PartitionId::all().flat_map(|p| walk(&keys, Scan { partition: Some(p), ..scan("", 3) }).0).collect();
    by_partition.sort();
    assert_eq!(by_partition, expected);
}

#[test]
fn a_page_is_bounded_in_bytes_but_any_key_fits() {
    let keys = numbered(10, &Value::from(vec![1; SCAN_BYTES_MAX / 3]));
    assert_eq!(walk(&keys, scan("", 10)).1, 5, "two of these fit a page");
    let page = keys.scan(NOW, &Scan { with_values: false, ..scan("", 10) }).unwrap();
    assert_eq!((page.entries.len(), page.next), (10, None));
    assert!(page.entries.iter().all(|e| e.value.is_none()));
    let largest = numbered(3, &Value::from(vec![1; VALUE_BYTES_MAX]));
    assert_eq!(walk(&largest, scan("", 10)).1, 3);
}

#[test]
fn expired_keys_are_passed_over_in_bounded_steps() {
    let count = SCAN_EXAMINED_MAX + 500;
    let entry = |i: usize| (format!("k{i:06}"), Value::default(), Lifetime::ForMs(NOW.0));
    let live = ("z".to_owned(), Value::default(), Lifetime::ForMs(NOW.0 + 1));
    let keys = keys((0..count).map(entry).chain([live]));
    let page = keys.scan(NOW, &scan("", 10)).unwrap();
    assert_eq!(page.entries.len(), 0);
    let last = format!("k{:06}", SCAN_EXAMINED_MAX - 1);
    assert_eq!(page.next.as_deref(), Some(last.as_bytes()), "it says how far it came");
    assert_eq!(walk(&keys, scan("", 10)), (vec!["z".to_owned()], 2));
}

/// The same keys in one table and spread over 32 groups: pages merged over the groups walk through all of them in order.
#[test]
fn pages_of_groups_merge_into_pages_of_the_fleet() {
    let mut groups: Vec<Keys> =
        (0..32).map(|g| Keys::new(PartitionRange::new(g * 8..=g * 8 + 7).unwrap())).collect();
    let mut expected = Vec::new();
    for i in 0..400 {
        let (namespace, key) = ("ns".to_owned(), format!("k{i:04}").into_bytes());
        let lifetime = if i % 5 == 0 { Lifetime::ForMs(NOW.0) } else { Lifetime::Forever };
        let (value, condition) = (vec![1; i % 50 * 1000].into(), Condition::Always);
        let partition = partition_of(&key);
        if i % 5 != 0 {
            expected.push(key.clone());
        }
        let command = KeyCommand::Set { namespace, key, value, lifetime, condition };
        groups[usize::from(partition.0 / 8)].apply(LogTime(0), partition, command).unwrap();
    }
    for (per_group, limit, with_values) in
        [(1, 1, true), (3, 20, true), (3, 1000, false), (1000, 7, true), (1000, 1000, true)]
    {
        let mut scan = Scan { with_values, ..scan("k", per_group) };
        let mut all = Vec::new();
        loop {
            let pages = groups.iter().map(|g| g.scan(NOW, &scan).unwrap()).collect();
            let page = Page::merge(pages, limit);
            assert!(page.entries.len() <= limit);
            let value_bytes = |e: &PageEntry| e.value.as_ref().map_or(0, |v| v.len());
            assert!(page.entries.iter().map(value_bytes).sum::<usize>() <= SCAN_BYTES_MAX);
            all.extend(page.entries.into_iter().map(|e| e.key.to_vec()));
            let Some(next) = page.next else { break };
            let before = scan.after.replace(next.to_vec());
            assert!(before < scan.after, "a page that gets no further is asked for for ever");
        }
        assert_eq!(all, expected, "{per_group} of each group, {limit} in all, {with_values}");
    }
    assert_eq!(Page::merge(vec![], 10), Page::default());
}

#[test]
fn what_can_not_be_scanned_is_refused() {
    let keys = Keys::new(PartitionRange::new(8..=15).unwrap());
    let table = [
        (scan("", 0), KeyError::PageLimit { limit: 0 }),
        (scan("", 1001), KeyError::PageLimit { limit: 1001 }),
        (scan(&"x".repeat(1025), 1), KeyError::KeyLength { len: 1025 }),
        (Scan { after: Some(vec![0; 1025]), ..scan("", 1) }, KeyError::KeyLength { len: 1025 }),
        (Scan { namespace: "".into(), ..scan("", 1) }, KeyError::NamespaceInvalid { name: "".into() }),
        (
            Scan { partition: Some(PartitionId(16)), ..scan("", 1) },
            KeyError::NotHere { partition: PartitionId(16) },
        ),
    ];
    for (scan, error) in table {
        assert_eq!(keys.scan(NOW, &scan), Err(error));
    }
}
