//! Rules of commands on keys, one by one. That they hold together is `partition::model_tests`.

use super::limits::*;
use super::*;
use crate::partition::{PartitionId, PartitionRange, partition_of};
use longshore_raft::consensus::config::COMMAND_BYTES_MAX;
use longshore_raft::consensus::machine::LogTime;

const NS: &str = "ns";

fn keys() -> Keys {
    Keys::new(PartitionRange::new(0..=255).unwrap())
}

fn apply(keys: &mut Keys, now: u64, command: KeyCommand) -> Result<KeyReply, KeyError> {
    let partition = partition_of(command.key());
    keys.apply(LogTime(now), partition, command)
}

fn set(key: &str, value: &str, lifetime: Lifetime, condition: Condition) -> KeyCommand {
    let value = value.as_bytes().to_vec().into();
    KeyCommand::Set { namespace: NS.into(), key: key.into(), value, lifetime, condition }
}

fn put(key: &str, lifetime: Lifetime) -> KeyCommand {
    set(key, "value", lifetime, Condition::Always)
}

fn delete(key: &str, condition: Condition) -> KeyCommand {
    KeyCommand::Delete { namespace: NS.into(), key: key.into(), condition }
}

fn expire(key: &str, ttl_ms: Option<u64>, condition: Condition) -> KeyCommand {
    KeyCommand::Expire { namespace: NS.into(), key: key.into(), ttl_ms, condition }
}

fn version(reply: Result<KeyReply, KeyError>) -> u64 {
    match reply {
        Ok(KeyReply::Set { version, .. } | KeyReply::Deleted { version: Some(version) }) => version,
        other => panic!("nothing was written: {other:?}"),
    }
}

#[test]
fn conditions_see_an_expired_key_as_absent() {
    use Condition::*;
    // The key was set at version 1 with 10 ms to live; then, at `now`, what holds?
    let table = [
        (5, Always, true),
        (5, IfAbsent, false),
        (5, IfPresent, true),
        (5, IfVersion(1), true),
        (5, IfVersion(2), false),
        (5, IfVersion(0), false),
        (10, Always, true),
        (10, IfAbsent, true),
        (10, IfPresent, false),
        (10, IfVersion(1), false),
        (10, IfVersion(0), false),
    ];
    for (now, condition, holds) in table {
        let mut before = keys();
        apply(&mut before, 0, put("k", Lifetime::ForMs(10))).unwrap();
        let current = (now < 10).then_some(1);
        let refused = Err(KeyError::ConditionFailed { condition, current });

        let mut after_set = before.clone();
        let reply = apply(&mut after_set, now, set("k", "new", Lifetime::Forever, condition));
        let done = Ok(KeyReply::Set { version: 2, replaced: current, ttl_ms: None });
        assert_eq!(reply, if holds { done } else { refused.clone() }, "set at {now} {condition:?}");

        let mut after_delete = before.clone();
        let reply = apply(&mut after_delete, now, delete("k", condition));
        let done = Ok(KeyReply::Deleted { version: current.map(|_| 2) });
        assert_eq!(reply, if holds { done } else { refused.clone() }, "delete at {now} {condition:?}");

        let mut after_expire = before.clone();
        let reply = apply(&mut after_expire, now, expire("k", Some(7), condition));
        let done = match current {
            Some(version) => Ok(KeyReply::Expires { version, ttl_ms: Some(7) }),
            None => Err(KeyError::NotFound),
        };
        assert_eq!(reply, if holds { done } else { refused }, "expire at {now} {condition:?}");

        if !holds {
            assert_eq!([&after_set, &after_delete, &after_expire], [&before; 3], "a refusal changes nothing");
        }
    }
}

#[test]
fn a_key_is_there_until_its_last_millisecond_and_in_memory_until_it_is_swept() {
    let mut keys = keys();
    apply(&mut keys, 100, put("k", Lifetime::ForMs(10))).unwrap();
    let ttl = |now| keys.get(LogTime(now), NS, b"k").unwrap().map(|found| found.ttl_ms);
    assert_eq!((ttl(100), ttl(109), ttl(110)), (Some(Some(10)), Some(Some(1)), None));
    assert_eq!((keys.next_expiry(), keys.stats().keys), (Some(LogTime(110)), 1));
    assert_eq!(keys.sweep(LogTime(109), 10), 0);
    assert_eq!(keys.sweep(LogTime(110), 10), 1);
    assert_eq!((keys.next_expiry(), keys.stats().keys, keys.stats().bytes), (None, 0, 0));
}

#[test]
fn lifetimes_are_kept_changed_and_ended() {
    let mut keys = keys();
    let at = |keys: &Keys| keys.next_expiry().map(|at| at.0);
    apply(&mut keys, 0, put("k", Lifetime::ForMs(10))).unwrap();
    let kept = apply(&mut keys, 4, put("k", Lifetime::Keep));
    assert_eq!(kept, Ok(KeyReply::Set { version: 2, replaced: Some(1), ttl_ms: Some(6) }));
    assert_eq!(at(&keys), Some(10));
    apply(&mut keys, 5, expire("k", Some(100), Condition::IfVersion(2))).unwrap();
    assert_eq!(at(&keys), Some(105));
    apply(&mut keys, 6, expire("k", None, Condition::Always)).unwrap();
    assert_eq!(at(&keys), None);
    assert_eq!(keys.get(LogTime(u64::MAX), NS, b"k").unwrap().map(|f| f.version), Some(2));
    apply(&mut keys, 7, expire("k", Some(1), Condition::Always)).unwrap();
    apply(&mut keys, 7, put("k", Lifetime::Forever)).unwrap();
    assert_eq!(at(&keys), None, "a plain write ends the time to live, as in Redis");
    apply(&mut keys, 8, put("k", Lifetime::ForMs(1))).unwrap();
    let revived = apply(&mut keys, 9, put("k", Lifetime::Keep));
    assert_eq!(revived, Ok(KeyReply::Set { version: 5, replaced: None, ttl_ms: None }), "it had expired");
    apply(&mut keys, u64::MAX - 1, put("k", Lifetime::ForMs(TTL_MAX_MS))).unwrap();
    assert_eq!(at(&keys), Some(u64::MAX), "the end of log time is not passed");
}

#[test]
fn versions_rise_over_deletion_and_expiry() {
    let mut keys = keys();
    let mut versions = vec![version(apply(&mut keys, 0, put("k", Lifetime::Forever)))];
    versions.push(version(apply(&mut keys, 0, delete("k", Condition::Always))));
    versions.push(version(apply(&mut keys, 0, put("k", Lifetime::ForMs(1)))));
    assert_eq!(keys.sweep(LogTime(1), 1), 1);
    versions.push(version(apply(&mut keys, 1, put("k", Lifetime::ForMs(1)))));
    versions.push(version(apply(&mut keys, 2, put("k", Lifetime::Forever))));
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    assert_eq!(
        apply(&mut keys, 3, delete("none", Condition::Always)),
        Ok(KeyReply::Deleted { version: None })
    );
    assert_eq!(keys.stats().writes, 5, "what changes nothing is no write");
}

#[test]
fn every_limit_is_refused_and_changes_nothing() {
    let mut keys = keys();
    apply(&mut keys, 0, put("k", Lifetime::Forever)).unwrap();
    let before = keys.clone();
    let long = "x".repeat(KEY_BYTES_MAX + 1);
    let large = "x".repeat(VALUE_BYTES_MAX + 1);
    let other = |mut command: KeyCommand| {
        if let KeyCommand::Set { namespace, .. } = &mut command {
            *namespace = "Bad".into();
        }
        command
    };
    let table = [
        (put("", Lifetime::Forever), KeyError::KeyLength { len: 0 }),
        (delete(&long, Condition::Always), KeyError::KeyLength { len: 1025 }),
        (
            set("k", &large, Lifetime::Forever, Condition::Always),
            KeyError::ValueTooLarge { len: large.len() as u64 },
        ),
        (put("k", Lifetime::ForMs(0)), KeyError::TtlInvalid { ttl_ms: 0 }),
        (expire("k", Some(u64::MAX), Condition::Always), KeyError::TtlInvalid { ttl_ms: u64::MAX }),
        (other(put("k", Lifetime::Forever)), KeyError::NamespaceInvalid { name: "Bad".into() }),
        (expire("none", Some(1), Condition::Always), KeyError::NotFound),
    ];
    for (command, error) in table {
        assert_eq!(apply(&mut keys, 0, command), Err(error));
        assert_eq!(keys, before);
    }
    let (addressed, owner) = (PartitionId(partition_of(b"k").0 ^ 1), partition_of(b"k"));
    let routed_wrongly = keys.apply(LogTime(0), addressed, put("k", Lifetime::Forever));
    assert_eq!(routed_wrongly, Err(KeyError::WrongPartition { addressed, owner }));
    assert_eq!(keys, before);
}

#[test]
fn the_largest_command_fits_an_entry_of_the_log() {
    let command = crate::partition::Command::Request(crate::partition::Envelope {
        epoch: u64::MAX,
        partition: PartitionId(255),
        command: crate::partition::PartitionCommand::Key(KeyCommand::Set {
            namespace: "n".repeat(NAMESPACE_BYTES_MAX),
            key: vec![255; KEY_BYTES_MAX],
            value: vec![255; VALUE_BYTES_MAX].into(),
            lifetime: Lifetime::ForMs(u64::MAX),
            condition: Condition::IfVersion(u64::MAX),
        }),
    });
    let standard = bincode::encode_to_vec(&command, bincode::config::standard()).unwrap();
    assert!((VALUE_BYTES_MAX..=COMMAND_BYTES_MAX).contains(&standard.len()));
    assert!(crate::codec::encode(&command).unwrap().len() <= COMMAND_BYTES_MAX);
}

#[test]
fn a_full_group_takes_deletions_and_smaller_values_but_nothing_more() {
    let mut keys = keys();
    // One buffer, shared: 256 MiB by the count, 1 MiB in fact.
    let large = Value::from(vec![7; VALUE_BYTES_MAX]);
    let fill = |keys: &mut Keys, i: u32, value: Value| {
        let (namespace, key) = (NS.into(), i.to_string().into_bytes());
        let (lifetime, condition) = (Lifetime::Forever, Condition::Always);
        apply(keys, 0, KeyCommand::Set { namespace, key, value, lifetime, condition })
    };
    let first_refused = (0..).find(|i| fill(&mut keys, *i, large.clone()).is_err()).unwrap();
    assert_eq!(first_refused, 256, "values of 1 MiB less 4 KiB");
    let full = keys.clone();
    let refused = fill(&mut keys, first_refused, large.clone());
    let Err(KeyError::Full { used_bytes, needed_bytes }) = refused else { panic!("{refused:?}") };
    assert!(used_bytes <= GROUP_BYTES_MAX && used_bytes + needed_bytes > GROUP_BYTES_MAX);
    assert_eq!(keys, full);

    // To the last byte: a key in the partition of key "0", where the namespace is there already.
    let room = GROUP_BYTES_MAX - used_bytes - KEY_OVERHEAD_BYTES - "{0}".len() as u64;
    let exact = set("{0}", &"x".repeat(room as usize), Lifetime::Forever, Condition::Always);
    apply(&mut keys, 0, exact).unwrap();
    assert_eq!(keys.stats().bytes, GROUP_BYTES_MAX);
    let more = Err(KeyError::Full { used_bytes: GROUP_BYTES_MAX, needed_bytes: EXPIRY_OVERHEAD_BYTES });
    assert_eq!(apply(&mut keys, 0, expire("{0}", Some(1), Condition::Always)), more);
    fill(&mut keys, 0, large.clone()).expect("the same size again fits");
    fill(&mut keys, 0, Value::default()).expect("a smaller one fits");
    apply(&mut keys, 0, delete("{0}", Condition::Always)).unwrap();
    fill(&mut keys, 1000, large).expect("a deletion has made room");
    for i in (0..256).chain([1000]) {
        let _ = apply(&mut keys, 0, delete(&i.to_string(), Condition::Always));
    }
    assert_eq!((keys.stats().keys, keys.stats().bytes), (0, 0), "all that was counted is given back");
}

#[test]
fn a_sweep_is_bounded_and_takes_the_longest_expired_first() {
    let mut keys = keys();
    let count = u64::from(SWEEP_KEYS_MAX) + 10;
    for i in 0..count {
        apply(&mut keys, 0, put(&i.to_string(), Lifetime::ForMs(count - i))).unwrap();
    }
    assert_eq!(keys.stats().expiring, count);
    assert_eq!(keys.sweep(LogTime(count), 3), 3);
    assert_eq!(keys.next_expiry(), Some(LogTime(4)));
    assert_eq!(keys.sweep(LogTime(5), u32::MAX), 2);
    assert_eq!(keys.sweep(LogTime(count), u32::MAX), SWEEP_KEYS_MAX);
    assert_eq!((keys.sweep(LogTime(count), u32::MAX), keys.stats().bytes), (5, 0));
}

#[test]
fn figures_are_per_partition() {
    let mut keys = keys();
    for key in ["{a}1", "{a}2", "b"] {
        apply(&mut keys, 0, put(key, Lifetime::Forever)).unwrap();
    }
    apply(&mut keys, 0, put("b", Lifetime::ForMs(5))).unwrap();
    let stats = keys.stats();
    assert_eq!((stats.keys, stats.writes, stats.expiring), (3, 4, 1));
    let of = |key: &[u8]| &stats.partitions[usize::from(partition_of(key).0)];
    assert_eq!((of(b"a").keys, of(b"a").writes), (2, 2));
    assert_eq!((of(b"b").keys, of(b"b").writes), (1, 2));
    assert_eq!(of(b"b").partition, partition_of(b"b"));
    assert_eq!(stats.partitions.iter().map(|p| p.bytes).sum::<u64>(), stats.bytes);
}
