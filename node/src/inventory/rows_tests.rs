//! Rows over tables in memory: what is written, found, and asked for again.

use longshore_storage::tables::MemTables;

use super::*;
use crate::docker::ContainerState;

fn container(id: &str, name: &str) -> Container {
    Container {
        id: id.repeat(32),
        name: name.into(),
        image: "web:1".into(),
        state: ContainerState::Running,
        labels: BTreeMap::new(),
        created_unix_s: 7,
        ports: Vec::new(),
        health: None,
    }
}

fn image(id: &str, tags: &[&str]) -> ListedImage {
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    ListedImage { id: id.into(), tags, size_bytes: 1, created_unix_s: 7 }
}

fn all<T: Item>(tables: &MemTables) -> Vec<T> {
    list(tables, usize::MAX).unwrap().items
}

fn names_of(tables: &MemTables) -> Vec<String> {
    all::<Container>(tables).into_iter().map(|container| container.name).collect()
}

#[test]
fn a_listing_replaces_what_differs_only() {
    let tables = MemTables::new();
    let mut items = vec![container("aa", "web"), container("bb", "db"), container("cc", "api")];
    assert_eq!(replace(&tables, items.clone()).unwrap(), 3);
    assert_eq!(names_of(&tables), ["api", "db", "web"]);
    assert_eq!(replace(&tables, items.clone()).unwrap(), 0);
    items[0].name = "www".into();
    items.remove(1);
    items.push(container("dd", "db"));
    assert_eq!(replace(&tables, items).unwrap(), 3);
    assert_eq!(names_of(&tables), ["api", "db", "www"]);
    assert_eq!(names::<Container>(&tables, 9).unwrap().len(), 3, "nothing is left of old names");
    assert_eq!(replace::<Container>(&tables, Vec::new()).unwrap(), 3);
    assert_eq!(names::<Container>(&tables, 9).unwrap().len(), 0);
}

#[test]
fn large_listings_are_written_in_parts() {
    let tables = MemTables::new();
    let many: Vec<Container> =
        (0..3_000).map(|n| container(&format!("{n:02x}"), &format!("c{n:05}"))).collect();
    assert_eq!(replace(&tables, many.clone()).unwrap(), 3_000);
    assert_eq!(all::<Container>(&tables), many);
    let some: Vec<Container> = many.iter().step_by(3).cloned().collect();
    assert_eq!(replace(&tables, some.clone()).unwrap(), 2_000);
    assert_eq!(all::<Container>(&tables), some);
    let Rows { items, cut } = list::<Container>(&tables, 10_000).unwrap();
    assert!(cut && items.len() > 10 && items[..] == some[..items.len()]);
}

#[test]
fn events_in_the_wrong_order_come_right() {
    let tables = MemTables::new();
    let (old, new) = (container("aa", "web"), container("bb", "web"));
    assert!(update(&tables, &old.id, Some(&old)).unwrap().is_empty());
    // The new one is told before the end of the old one: whoever has its name is asked for.
    assert_eq!(update(&tables, &new.id, Some(&new)).unwrap(), BTreeSet::from([old.id.clone()]));
    assert!(update::<Container>(&tables, &old.id, None).unwrap().is_empty());
    assert_eq!(all::<Container>(&tables), std::slice::from_ref(&new));
    // Nothing has the name any more that was asked for.
    assert_eq!(update::<Container>(&tables, "web", None).unwrap(), BTreeSet::from([new.id.clone()]));
    assert!(update::<Container>(&tables, &new.id, None).unwrap().is_empty());
    assert!(update::<Container>(&tables, &new.id, None).unwrap().is_empty(), "told twice");
    assert!(all::<Container>(&tables).is_empty() && names::<Container>(&tables, 9).unwrap().is_empty());
}

#[test]
fn a_name_that_moves_is_asked_for_where_it_was() {
    let tables = MemTables::new();
    let both = image("sha256:1", &["app:1", "app:2"]);
    replace(&tables, vec![both.clone(), image("sha256:2", &[])]).unwrap();
    let found = image("sha256:2", &["app:2"]);
    assert_eq!(update(&tables, "app:2", Some(&found)).unwrap(), BTreeSet::from([both.id.clone()]));
    let left = image("sha256:1", &["app:1"]);
    // The other still has the name, and is asked for once more.
    assert!(update(&tables, &left.id, Some(&left)).unwrap().is_empty());
    assert_eq!(all::<ListedImage>(&tables), [left, found]);
    assert_eq!(names::<ListedImage>(&tables, 9).unwrap(), BTreeSet::from(["app:1".into(), "app:2".into()]));
    assert_eq!(names::<ListedImage>(&tables, 1).unwrap(), BTreeSet::from(["app:1".into()]));
}

#[test]
fn names_may_be_long_and_begin_alike() {
    let tables = MemTables::new();
    let long = |end: &str| format!("{}{end}", "x".repeat(5_000));
    let items = vec![container("aa", &long("1")), container("bb", &long("2")), container("cc", "x")];
    assert_eq!(replace(&tables, items.clone()).unwrap(), 3);
    assert_eq!(replace(&tables, items.clone()).unwrap(), 0);
    assert_eq!(names::<Container>(&tables, 9).unwrap(), items.iter().map(|item| item.name.clone()).collect());
    assert_eq!(update::<Container>(&tables, &long("1"), None).unwrap(), BTreeSet::from(["aa".repeat(32)]));
    let volume = ListedVolume { name: "v".repeat(255), driver: "local".into() };
    assert_eq!(replace(&tables, vec![volume.clone()]).unwrap(), 1);
    assert_eq!(all::<ListedVolume>(&tables), [volume]);
}

#[test]
fn another_format_is_thrown_away() {
    let tables = MemTables::new();
    assert!(!prepare(&tables).unwrap());
    replace(&tables, vec![container("aa", "web")]).unwrap();
    set_as_of::<Container>(&tables, 70).unwrap();
    assert!(prepare(&tables).unwrap());
    assert_eq!((names_of(&tables), as_of::<Container>(&tables).unwrap()), (vec!["web".into()], Some(70)));
    assert_eq!(as_of::<ListedImage>(&tables).unwrap(), None);
    let mut batch = Batch::default();
    batch.put(ABOUT, FORMAT_KEY, [0]);
    tables.apply(&batch).unwrap();
    assert!(!prepare(&tables).unwrap());
    assert!(all::<Container>(&tables).is_empty() && names::<Container>(&tables, 9).unwrap().is_empty());
    assert_eq!(as_of::<Container>(&tables).unwrap(), None);
}
