//! The rules that the sources keep, as functions from text to complaints. `tests/arrows.rs` applies them to the workspace.
//!
//! Pure but for [`all`]. They look at code only: comments and literals are blanked first, so that docs may name anything. A rule
//! here is a rough reading of Rust, good enough to catch an honest mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A Rust file: its path from the workspace's root, and its text.
#[derive(Debug, Clone)]
pub struct Source {
    pub path: String,
    pub text: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}

/// Every Rust file of the workspace's crates.
pub fn all(root: &Path, crate_dirs: &[String]) -> Vec<Source> {
    let mut files = Vec::new();
    let mut dirs: Vec<std::path::PathBuf> = crate_dirs
        .iter()
        .flat_map(|dir| ["src", "tests", "benches"].map(|sub| root.join(dir).join(sub)))
        .collect();
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root).expect("it was found below the root");
                let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
                files.push(Source::new(&relative.to_string_lossy(), &text));
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// A crate that only some places may name, and why.
#[derive(Debug)]
pub struct Confined {
    pub crates: &'static [&'static str],
    /// Path prefixes of those places.
    pub to: &'static [&'static str],
    /// Packages that may depend on them.
    pub packages: &'static [&'static str],
}

/// Each engine behind our ports is named in one module; the simulation's fake ports aside.
pub const CONFINED: &[Confined] = &[
    Confined {
        crates: &["openraft"],
        to: &["raft/src/consensus/", "simulation/"],
        packages: &["longshore-raft", "longshore-simulation"],
    },
    // The runtime's traits, on which `Runtime` is built: not consensus, and no business of the crates above.
    Confined {
        crates: &["openraft_rt", "openraft_rt_tokio", "openraft_rt_sim"],
        to: &["raft/src/", "simulation/"],
        packages: &["longshore-raft", "longshore-simulation"],
    },
    Confined {
        crates: &["quinn", "quinn_proto", "rustls", "rcgen"],
        to: &["raft/src/transport/", "simulation/"],
        packages: &["longshore-raft", "longshore-simulation"],
    },
    Confined { crates: &["sled"], to: &["storage/src/tables"], packages: &["longshore-storage"] },
    Confined {
        crates: &["bollard"],
        to: &["node/src/docker/", "simulation/"],
        packages: &["longshore-node", "longshore-simulation"],
    },
];

/// Where code is pure: no I/O, clock, chance, task, or map with random order.
pub const PURE: &[&str] = &["raft/src/model/", "node/model/src/"];

/// Words that pure code does not use.
const IMPURE_WORDS: &[&str] = &[
    "tokio",
    "openraft",
    "Instant",
    "SystemTime",
    "rand",
    "getrandom",
    "HashMap",
    "HashSet",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
];

/// Modules of `std` that pure code does not use.
const IMPURE_STD: &[&str] = &["fs", "thread", "process", "env", "io"];

/// The workspace's packages, lower first. A package depends on those before it only.
pub const LAYERS: &[&str] = &[
    "longshore-storage",
    "longshore-raft",
    "longshore-model",
    "longshore-node",
    "longshore-simulation",
    "longshore-tests",
];

/// Longest file allowed.
pub const LINES_MAX: usize = 600;

/// Complaints about the arrows between packages, given as (package, its normal dependencies).
pub fn wrong_arrows(packages: &[(String, Vec<String>)]) -> Vec<String> {
    let layer = |name: &str| LAYERS.iter().position(|known| *known == name);
    let mut wrong = Vec::new();
    for (package, dependencies) in packages {
        let Some(own) = layer(package) else {
            wrong.push(format!("{package} has no place among the layers"));
            continue;
        };
        for dependency in dependencies {
            if layer(dependency).is_some_and(|other| other >= own) {
                wrong.push(format!(
                    "{package} must not depend on {dependency}: arrows go {}",
                    LAYERS.join(" <- ")
                ));
            }
            for confined in CONFINED {
                let name = dependency.replace('-', "_");
                if confined.crates.contains(&name.as_str()) && !confined.packages.contains(&package.as_str())
                {
                    wrong.push(format!(
                        "{package} must not depend on {dependency}: only {:?} may",
                        confined.packages
                    ));
                }
            }
        }
    }
    wrong
}

/// The feature that compiles hooks for planted bugs. Only a build that asks for it by name may have it.
pub const MUTANTS: &str = "mutants";

/// Complaints about a package that has planted bugs unasked: by its default features, or by those it wants of a dependency.
pub fn wrong_features(
    package: &str,
    features: &BTreeMap<String, Vec<String>>,
    dependencies: &[(String, Vec<String>)],
) -> Vec<String> {
    let plants = |feature: &str| feature.rsplit('/').next() == Some(MUTANTS);
    let mut wrong = Vec::new();
    let mut open = vec!["default".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(feature) = open.pop() {
        if plants(&feature) {
            wrong.push(format!("{package} has {feature} by default"));
        }
        for implied in features.get(&feature).into_iter().flatten() {
            if seen.insert(implied.clone()) {
                open.push(implied.clone());
            }
        }
    }
    for (dependency, wanted) in dependencies {
        if wanted.iter().any(|feature| plants(feature)) {
            wrong.push(format!("{package} wants {dependency} with {MUTANTS}"));
        }
    }
    wrong
}

/// Complaints about one file, by all rules for files.
pub fn wrong_in(source: &Source) -> Vec<String> {
    let code = code_of(&source.text);
    let mut wrong = Vec::new();
    let mut complain = |what: String| wrong.push(format!("{}: {what}", source.path));
    for confined in CONFINED {
        let allowed = confined.to.iter().any(|place| source.path.starts_with(place));
        for name in confined.crates.iter().filter(|name| !allowed && has_word(&code, name)) {
            complain(format!("names {name}, which only {:?} may", confined.to));
        }
    }
    if PURE.iter().any(|place| source.path.starts_with(place)) {
        for word in IMPURE_WORDS.iter().filter(|word| has_word(&code, word)) {
            complain(format!("pure code names {word}"));
        }
        for module in IMPURE_STD.iter().filter(|module| uses_std(&code, module)) {
            complain(format!("pure code uses std::{module}"));
        }
    }
    if !source.text.starts_with("//!") {
        complain("does not start with module docs (`//!`)".to_owned());
    }
    let lines = source.text.lines().count();
    if lines > LINES_MAX {
        complain(format!("has {lines} lines, more than {LINES_MAX}"));
    }
    let dense: String = code.split_whitespace().collect();
    if unbiased_select(&dense) {
        complain("has a `select!` that is not `biased;`: its order would be random".to_owned());
    }
    if dense.contains("#[ignore") || dense.contains(",ignore)]") {
        complain("ignores a test".to_owned());
    }
    if cfg_names(&code, "simulation")
        || source.text.contains("feature = \"simulation\"") && has_cfg_feature(&code)
    {
        complain("has code only for the simulation".to_owned());
    }
    if attribute_without_reason(&code) {
        complain("has an `allow` or `expect` attribute without a reason".to_owned());
    }
    wrong
}

/// The code with comments and the insides of string and character literals blanked; same length and lines in characters.
pub fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match literal_end(&chars, at) {
            Some(end) => end,
            None => {
                code.push(chars[at]);
                at += 1;
                continue;
            }
        };
        code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

/// Where the comment or literal that begins at `at` ends; `None` when none begins there.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let get = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let find = |from: usize, wanted: &dyn Fn(usize) -> bool| (from..chars.len()).find(|index| wanted(*index));
    match (get(at), get(at + 1)) {
        ('/', '/') => Some(find(at, &|index| chars[index] == '\n').unwrap_or(chars.len())),
        ('/', '*') => {
            let (mut depth, mut index) = (1, at + 2);
            while depth > 0 && index < chars.len() {
                let step = match (get(index), get(index + 1)) {
                    ('/', '*') => (1, 2),
                    ('*', '/') => (-1, 2),
                    _ => (0, 1),
                };
                depth += step.0;
                index += step.1;
            }
            Some(index.min(chars.len()))
        }
        ('r', '"' | '#') if at == 0 || !is_word(chars[at - 1]) || chars[at - 1] == 'b' => {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            if get(at + 1 + hashes) != '"' {
                return None;
            }
            let closes =
                |index: usize| chars[index] == '"' && (1..=hashes).all(|offset| get(index + offset) == '#');
            Some(find(at + hashes + 2, &closes).map_or(chars.len(), |index| index + hashes + 1))
        }
        ('"', _) => {
            let mut index = at + 1;
            while index < chars.len() && chars[index] != '"' {
                index += if chars[index] == '\\' { 2 } else { 1 };
            }
            Some((index + 1).min(chars.len()))
        }
        // A character, not a lifetime: `'x'` or an escape.
        ('\'', '\\') => find(at + 3, &|index| chars[index] == '\'').map(|index| index + 1),
        ('\'', _) if get(at + 2) == '\'' => Some(at + 3),
        _ => None,
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

fn has_word(code: &str, wanted: &str) -> bool {
    words(code).any(|word| word == wanted)
}

/// `std::module`, or `std::{..., module, ...}`.
fn uses_std(code: &str, module: &str) -> bool {
    let dense: String = code.split_whitespace().collect();
    dense.split("std::").skip(1).any(|rest| match rest.strip_prefix('{') {
        Some(group) => has_word(balanced(group, '{', '}'), module),
        None => words(rest).next() == Some(module) && rest.starts_with(module),
    })
}

/// What comes before the bracket that closes the one just before `text`.
fn balanced(text: &str, open: char, close: char) -> &str {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        if c == open {
            depth += 1;
        } else if c == close {
            depth -= 1;
            if depth == 0 {
                return &text[..at];
            }
        }
    }
    text
}

fn unbiased_select(dense: &str) -> bool {
    dense.match_indices("select!").any(|(at, name)| {
        let own_macro = dense[..at].chars().next_back().is_some_and(is_word);
        let body = dense[at + name.len()..].trim_start_matches(['{', '(', '[']);
        !own_macro && !body.starts_with("biased;")
    })
}

fn cfg_names(code: &str, wanted: &str) -> bool {
    let dense: String = code.split_whitespace().collect();
    ["cfg(", "cfg_attr(", "cfg!("]
        .iter()
        .any(|form| dense.split(form).skip(1).any(|rest| has_word(balanced(rest, '(', ')'), wanted)))
}

fn has_cfg_feature(code: &str) -> bool {
    cfg_names(code, "feature")
}

fn attribute_without_reason(code: &str) -> bool {
    let dense: String = code.split_whitespace().collect();
    ["allow(", "expect("].iter().any(|form| {
        ["#[", "#!["].iter().any(|open| {
            dense
                .split(&format!("{open}{form}"))
                .skip(1)
                .any(|rest| !has_word(balanced(rest, '(', ')'), "reason"))
        })
    })
}
