//! Scenarios that ship make sense; mistakes are named.

use super::*;
use crate::plan::fair::is_fair;
use crate::plan::{Fault, Hosts};

const HEAD: &str = "description = \"why\"\n[fleet]\nhosts = 3\nfault_ms = 60_000\n";

fn plan(faults: &str, seed: u64) -> Plan {
    Scenario::parse("test", &format!("{HEAD}{faults}")).unwrap_or_else(|e| panic!("{e}")).plan(seed)
}

/// `at_ms do host` of each fault.
fn told(plan: &Plan) -> Vec<String> {
    let host = |fault: &Fault| fault.host().map_or(String::new(), |host| format!(" {host}"));
    plan.faults.iter().map(|s| format!("{} {}{}", s.at_ms, s.fault.name(), host(&s.fault))).collect()
}

#[test]
fn those_that_ship_are_complete_and_fair() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    files.sort();
    assert_eq!(files, SHIPPED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for (name, _) in SHIPPED {
        let scenario = Scenario::find(name).unwrap_or_else(|error| panic!("{error}"));
        assert!(scenario.description.len() > 80, "{name} says why");
        for seed in 0..100 {
            let plan = scenario.plan(seed);
            assert_eq!((plan.check(), is_fair(&plan)), (Ok(()), Ok(())), "{name}, seed {seed}");
            assert!(!plan.faults.is_empty() && !plan.hold.is_empty(), "{name}");
            assert_eq!(scenario.plan(seed), plan);
        }
    }
}

#[test]
fn rules_expand() {
    let cases: &[(&str, &[&str])] = &[
        ("[[fault]]\ndo = 'kill'\nhost = 2\nat_ms = 5\nfor_ms = 10", &["5 kill 2", "15 start 2"]),
        (
            "[[fault]]\ndo = 'stop'\nhosts = [3, 1]\nstagger_ms = 7\nat_ms = 5\nfor_ms = 3",
            &["5 stop 3", "8 start 3", "12 stop 1", "15 start 1"],
        ),
        (
            "[[fault]]\ndo = 'power_loss_all'\nevery_ms = 30_000\nfor_ms = 100",
            &[
                "30000 power_loss_all",
                "30100 start 1",
                "30100 start 2",
                "30100 start 3",
                "60000 power_loss_all",
            ],
        ),
        (
            "[[fault]]\ndo = 'step_wall_clock'\nby_ms = -9\nhost = 1\nevery_ms = 10\nfrom_ms = 1\nto_ms = 11",
            &["1 step_wall_clock 1", "11 step_wall_clock 1"],
        ),
        ("[[fault]]\ndo = 'heal_network'\nat_ms = 0", &["0 heal_network"]),
        ("[[fault]]\ndo = 'full_disk'\nhost = 1\nat_ms = 4\nfor_ms = 1", &["4 full_disk 1", "5 full_disk 1"]),
        (
            "[[fault]]\ndo = 'engine_pulls'\npulls = { hangs = { after_steps = 2 } }\nhost = 1\nat_ms = 4\nfor_ms = 1",
            &["4 engine_pulls 1", "5 engine_pulls 1", "5 engine_up 1"],
        ),
        (
            "[[fault]]\ndo = 'link'\nhost = 1\nverdict = 'hold'\nat_ms = 4\nfor_ms = 1",
            &["4 add_rule", "4 add_rule", "5 remove_rule"],
        ),
    ];
    for (faults, expected) in cases {
        assert_eq!(told(&plan(faults, 1)), *expected, "{faults}");
    }
    // What would end after the faults is left to the healing.
    let ended = plan("[[fault]]\ndo = 'kill'\nhost = 1\nat_ms = 59_000\nfor_ms = 9_000", 1);
    assert_eq!(told(&ended), ["59000 kill 1"]);
}

#[test]
fn seeds_decide_what_is_left_open() {
    let faults = "[[fault]]\ndo = 'pause'\npick = 2\nbetween_ms = [1_000, 2_000]\ntimes = 3";
    let plans: Vec<Vec<String>> = (0..20).map(|seed| told(&plan(faults, seed))).collect();
    for each in &plans {
        assert_eq!(each.len(), 6);
        assert!(each.iter().all(|told| told.starts_with("1") && told.contains(" pause ")), "{each:?}");
    }
    assert!(plans.iter().any(|each| each != &plans[0]));
}

#[test]
fn links() {
    let rules = |more: &str| {
        let plan =
            plan(&format!("[[fault]]\ndo = 'link'\nhosts = [1, 2]\nverdict = 'drop'\nat_ms = 1\n{more}"), 0);
        let rules = plan.faults.into_iter().map(|s| match s.fault {
            Fault::AddRule { rule } => (rule.from, rule.to, rule.chance_ppm),
            other => panic!("{other:?}"),
        });
        rules.collect::<Vec<_>>()
    };
    let (near, far) = (Hosts::Only(vec![1, 2]), Hosts::Except(vec![1, 2]));
    let always = 1_000_000;
    assert_eq!(rules(""), [(near.clone(), far.clone(), always), (far.clone(), near.clone(), always)]);
    assert_eq!(rules("one_way = 'out'"), [(near.clone(), far.clone(), always)]);
    assert_eq!(rules("one_way = 'in'\nchance_ppm = 9"), [(far, near.clone(), 9)]);
    assert_eq!(rules("one_way = 'out'\nto = [3]"), [(near, Hosts::Only(vec![3]), always)]);
}

#[test]
fn mistakes_are_named_with_line_and_nearest_key() {
    let fault =
        |text: &str| format!("{HEAD}\n[[fault]]\ndo = 'kill'\nhost = 1\nat_ms = 1\n\n[[fault]]\n{text}\n");
    let cases: &[(String, &str)] = &[
        ("descripton = 'x'\n".into(), "test, line 1: unknown key `descripton`; did you mean `description`?"),
        (HEAD.replace("hosts", "hostts"), "test, line 3: unknown key `hostts`; did you mean `hosts`?"),
        (
            format!("{HEAD}[load]\nclients = 2\nthinks = {{ min_us = 1, max_us = 2 }}\n"),
            "line 7: unknown key `thinks`; did you mean `think`?",
        ),
        (
            format!("{HEAD}[fleet.network]\nnear = {{ min_us = 1, max_uss = 2 }}\n"),
            "line 6: unknown key `max_uss`; did you mean `max_us`?",
        ),
        (
            format!("{HEAD}[hold]\nmin_write = 2\n"),
            "line 6: unknown key `min_write`; did you mean `min_writes`?",
        ),
        (
            fault("do = 'pause'\nhostts = [1]\nat_ms = 3"),
            "line 13: unknown key `hostts`; did you mean `hosts`?",
        ),
        (fault("do = 'pause'\nhost = 1\natms = 3"), "line 14: unknown key `atms`; did you mean `at_ms`?"),
        (
            fault("do = 'set_drift'\nhost = 1\ndrift_pm = 3\nat_ms = 1"),
            "line 14: unknown key `drift_pm`; did you mean `drift_ppm`?",
        ),
        (
            fault("do = 'link'\nhost = 1\nverdct = 'drop'\nat_ms = 1"),
            "line 14: unknown key `verdct`; did you mean `verdict`?",
        ),
        (fault("do = 'pawse'\nhost = 1\nat_ms = 3"), "line 11: unknown value `pawse`; did you mean `pause`?"),
        (fault("do = 'lnk'\nhost = 1\nat_ms = 3"), "unknown value `lnk`; did you mean `link`?"),
        (fault("host = 1\nat_ms = 3"), "line 11: it must say what happens"),
        (fault("do = 'pause'\nhost = 1"), "line 11: it must say when"),
        (fault("do = 'pause'\nat_ms = 1"), "it must say whom"),
        (fault("do = 'pause'\nhost = 1\nat_ms = 1\nevery_ms = 3"), "more than once when"),
        (fault("do = 'pause'\nhost = 1\npick = 1\nat_ms = 1"), "more than once whom"),
        (fault("do = 'pause'\nhost = 4\nat_ms = 1"), "there is no host 4"),
        (fault("do = 'pause'\npick = 4\nat_ms = 1"), "line 13: `pick` is 4: from 1 to 3"),
        (fault("do = 'pause'\nhost = 1\nat_ms = 1\ntimes = 2"), "line 15: `times` goes with between_ms only"),
        (fault("do = 'pause'\nhost = 1\nbetween_ms = [5, 2]"), "line 14: `between_ms` begins at 5"),
        (fault("do = 'pause'\nhost = 1\nevery_ms = 0"), "line 14: `every_ms` is 0"),
        (fault("do = 'heal_network'\nhost = 1\nat_ms = 1"), "it happens to no host"),
        (fault("do = 'leave'\nhost = 1\nat_ms = 1\nfor_ms = 2"), "line 15: `for_ms`: leave has no end"),
        (fault("do = 'set_drift'\nhost = 1\nat_ms = 1"), "missing field `drift_ppm`"),
        (HEAD.replace("hosts = 3", "hosts = 'three'"), "line 3: invalid type: string"),
        (HEAD.replace("hosts = 3", "hosts = 0"), "fleet.hosts is 0"),
        (format!("{HEAD}late = [4]\n"), "there is no host 4"),
        (format!("{HEAD}late = [1]\n"), "the first host founds the fleet"),
        (format!("{HEAD}zones = ['a']\n"), "fleet.zones has 1 zones for 3 hosts"),
        (format!("{HEAD}unhealed = [9]\n"), "unhealed: there is no host 9"),
        ("[fleet".into(), "line 1: "),
    ];
    for (text, expected) in cases {
        let error = Scenario::parse("test", text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n(expected: {expected})\n{text}");
    }
}

#[test]
fn files_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mine.toml");
    std::fs::write(&path, HEAD).unwrap();
    let scenario = Scenario::find(path.to_str().unwrap()).unwrap();
    assert_eq!((scenario.name.as_str(), scenario.description.as_str()), ("mine", "why"));
    assert_ne!(scenario.digest(), Scenario::find("slow-disk").unwrap().digest());
    std::fs::write(&path, format!("{HEAD}colour = 1\n")).unwrap();
    let error = Scenario::find(path.to_str().unwrap()).unwrap_err().to_string();
    assert!(error.contains("mine.toml, line 5: unknown key `colour`; known are hosts, late,"), "{error}");
    let error = Scenario::find("slow-dsk").unwrap_err().to_string();
    assert!(error.starts_with("cannot read slow-dsk"), "{error}");
}
