//! The layout's rules: who may import whom, what is pure, and what every file keeps.

use std::collections::BTreeMap;
use std::path::Path;

use cargo_metadata::{DependencyKind, MetadataCommand};
use longshore_tests::binary::workspace;
use longshore_tests::sources::{
    LAYERS, LINES_MAX, MUTANTS, Source, all, code_of, wrong_arrows, wrong_features, wrong_in,
};

/// Packages with their normal dependencies, and the packages' folders.
fn packages() -> (Vec<(String, Vec<String>)>, Vec<String>) {
    let metadata = MetadataCommand::new()
        .manifest_path(workspace().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata describes the workspace");
    let mut packages = Vec::new();
    let mut dirs = Vec::new();
    for package in &metadata.packages {
        let normal =
            package.dependencies.iter().filter(|dependency| dependency.kind == DependencyKind::Normal);
        packages.push((package.name.to_string(), normal.map(|dependency| dependency.name.clone()).collect()));
        let dir = package.manifest_path.parent().expect("a manifest lies in a folder");
        let dir = Path::new(dir.as_str()).strip_prefix(workspace()).expect("members lie in the workspace");
        dirs.push(dir.to_string_lossy().into_owned());
    }
    (packages, dirs)
}

#[test]
fn packages_depend_on_lower_ones_only() {
    let (packages, _) = packages();
    assert!(packages.len() >= 5, "the workspace has its crates: {packages:?}");
    assert_eq!(wrong_arrows(&packages), Vec::<String>::new());
}

#[test]
fn no_package_has_planted_bugs_unasked() {
    let metadata = MetadataCommand::new()
        .manifest_path(workspace().join("Cargo.toml"))
        .no_deps()
        .exec()
        .expect("cargo metadata describes the workspace");
    let (mut wrong, mut with_hooks) = (Vec::new(), 0);
    for package in &metadata.packages {
        let wanted = package.dependencies.iter();
        let wanted: Vec<_> =
            wanted.map(|dependency| (dependency.name.clone(), dependency.features.clone())).collect();
        wrong.extend(wrong_features(&package.name, &package.features, &wanted));
        with_hooks += usize::from(package.features.contains_key(MUTANTS));
    }
    assert!(with_hooks > 0, "the feature has another name now, and this test sees nothing");
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn each_feature_rule_can_fail() {
    let features = |of: &[(&str, &[&str])]| {
        let owned = |implied: &[&str]| implied.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        of.iter().map(|(name, implied)| ((*name).to_owned(), owned(implied))).collect::<BTreeMap<_, _>>()
    };
    for wrong in [
        features(&[("default", &["mutants"])]),
        features(&[("default", &["all"]), ("all", &["dep/mutants"])]),
        features(&[("default", &["a"]), ("a", &["b", "default"]), ("b", &["dep?/mutants"])]),
    ] {
        assert_eq!(wrong_features("crate", &wrong, &[]).len(), 1, "{wrong:?}");
    }
    let fine = features(&[("default", &["std"]), ("mutants", &["dep/mutants"])]);
    let wants = |feature: &str| [("dep".to_owned(), vec![feature.to_owned()])];
    assert!(wrong_features("crate", &fine, &wants("std")).is_empty());
    assert_eq!(wrong_features("crate", &fine, &wants("mutants")).len(), 1);
}

#[test]
fn every_file_keeps_the_rules() {
    let (_, dirs) = packages();
    let sources = all(workspace(), &dirs);
    for dir in &dirs {
        let prefix = format!("{dir}/src/");
        assert!(sources.iter().any(|source| source.path.starts_with(&prefix)), "{dir} has sources");
    }
    let wrong: Vec<String> = sources.iter().flat_map(wrong_in).collect();
    assert!(wrong.is_empty(), "{} complaints:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn each_arrow_rule_can_fail() {
    let package = |name: &str, dependencies: &[&str]| {
        vec![(name.to_owned(), dependencies.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())]
    };
    for (index, lower) in LAYERS.iter().enumerate() {
        for upper in &LAYERS[index..] {
            assert_eq!(wrong_arrows(&package(lower, &[upper])).len(), 1, "{lower} -> {upper}");
        }
        for below in &LAYERS[..index] {
            assert!(wrong_arrows(&package(lower, &[below])).is_empty(), "{lower} -> {below}");
        }
    }
    for (name, dependency) in [
        ("longshore-node", "openraft"),
        ("longshore-node", "openraft-rt-tokio"),
        ("longshore-model", "rustls"),
        ("longshore-storage", "quinn"),
        ("longshore-raft", "sled"),
        ("longshore-tests", "bollard"),
        ("longshore-surprise", "serde"),
    ] {
        assert_eq!(wrong_arrows(&package(name, &[dependency])).len(), 1, "{name} -> {dependency}");
    }
}

#[test]
fn each_file_rule_can_fail() {
    let long = format!("//! Long.\n{}", "const X: u8 = 1;\n".repeat(LINES_MAX));
    let cases: &[(&str, &str, &str)] = &[
        ("node/src/node.rs", "use openraft::Raft;", "names openraft"),
        ("raft/src/transport/wire.rs", "type V = openraft::Vote<T>;", "names openraft"),
        ("node/src/node.rs", "use openraft_rt::AsyncRuntime;", "names openraft_rt"),
        ("raft/src/consensus/group.rs", "use quinn::Endpoint;", "names quinn"),
        ("node/src/api/server.rs", "use rustls::ServerConfig;", "names rustls"),
        ("node/src/join.rs", "use rcgen::KeyPair;", "names rcgen"),
        ("storage/src/log/mod.rs", "let db = sled::open(path);", "names sled"),
        ("node/src/operations/mod.rs", "use bollard::Docker;", "names bollard"),
        ("raft/src/model/ring.rs", "use tokio::sync::mpsc;", "pure code names tokio"),
        ("node/model/src/cache.rs", "use std::time::Instant;", "pure code names Instant"),
        ("node/model/src/cache.rs", "use std::time::{Duration, SystemTime};", "pure code names SystemTime"),
        ("node/model/src/cache.rs", "let x = rand::random();", "pure code names rand"),
        ("node/model/src/cache.rs", "use std::collections::HashMap;", "pure code names HashMap"),
        ("node/model/src/cache.rs", "fn f(s: std::net::UdpSocket) {}", "pure code names UdpSocket"),
        ("node/model/src/cache.rs", "let x = std::fs::read(p);", "pure code uses std::fs"),
        ("node/model/src/cache.rs", "use std::{collections::BTreeMap, fs};", "pure code uses std::fs"),
        ("raft/src/model/detector.rs", "std::thread::yield_now();", "pure code uses std::thread"),
        ("node/src/node.rs", "tokio::select! { x = f() => {} }", "not `biased;`"),
        ("node/src/node.rs", "select!(\n  // biased;\n  x = f() => {})", "not `biased;`"),
        ("node/src/node.rs", "#[test]\n#[ignore]\nfn f() {}", "ignores a test"),
        ("node/src/node.rs", "#[ignore = \"slow\"]\nfn f() {}", "ignores a test"),
        ("node/src/node.rs", "#[cfg(simulation)]\nfn f() {}", "only for the simulation"),
        ("node/src/node.rs", "#[cfg(any(test, simulation))]\nfn f() {}", "only for the simulation"),
        ("node/src/node.rs", "#[cfg(feature = \"simulation\")]\nfn f() {}", "only for the simulation"),
        ("node/src/node.rs", "#[allow(dead_code)]\nfn f() {}", "without a reason"),
        ("node/src/node.rs", "#[expect(clippy::all)]\nfn f() {}", "without a reason"),
    ];
    for (path, code, complaint) in cases {
        let wrong = wrong_in(&Source::new(path, &format!("//! Docs.\n{code}\n")));
        assert!(wrong.len() == 1 && wrong[0].contains(complaint), "{path}: {code}\ngave {wrong:?}");
    }
    let wrong = wrong_in(&Source::new("node/src/node.rs", &long));
    assert!(wrong.len() == 1 && wrong[0].contains("601 lines"), "{wrong:?}");
    let wrong = wrong_in(&Source::new("node/src/node.rs", "// Docs?\nfn f() {}\n"));
    assert!(wrong.len() == 1 && wrong[0].contains("module docs"), "{wrong:?}");
}

#[test]
fn what_is_allowed_gives_no_complaint() {
    let cases: &[(&str, &str)] = &[
        ("raft/src/consensus/group.rs", "use openraft::Raft;"),
        ("raft/src/transport/quic.rs", "use quinn::Endpoint; use rustls as tls;"),
        ("node/src/docker/engine.rs", "use bollard::Docker;"),
        ("simulation/src/net.rs", "use quinn::Runtime;"),
        (
            "node/src/node.rs",
            "/* openraft /* nested */ quinn */ // sled\nlet s = \"bollard\"; let r = r#\"rcgen \" \"#;",
        ),
        ("node/src/node.rs", "tokio::select! {\n biased;\n x = f() => {} }"),
        ("node/src/node.rs", "let operands = rand_like; my_select!(x);"),
        (
            "node/model/src/cache.rs",
            "use std::{collections::BTreeMap, time::Duration}; use std::net::SocketAddr; use std::fmt;",
        ),
        ("node/model/src/cache.rs", "fn instant<'a>(c: &'a str) -> char { '\"' }"),
        ("node/src/node.rs", "#[expect(clippy::disallowed_methods, reason = \"a port\")]\nfn f() {}"),
    ];
    for (path, code) in cases {
        let wrong = wrong_in(&Source::new(path, &format!("//! Docs.\n{code}\n")));
        assert!(wrong.is_empty(), "{path}: {code}\ngave {wrong:?}");
    }
}

#[test]
fn literals_and_comments_are_blanked_and_code_is_kept() {
    let text =
        "let a = \"x \\\" y\"; // z\nlet b = 'c'; let d: &'static str = r##\"q\"# w\"##; /* e\n */ f()";
    let code = code_of(text);
    assert_eq!(code.lines().count(), text.lines().count());
    let words: Vec<&str> =
        code.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    assert_eq!(words, ["let", "a", "let", "b", "let", "d", "static", "str", "f"]);
}
