//! A failure in a file: everything that a run needs to happen again, and what it must then come to.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::observation::Violation;
use crate::plan::Plan;
use crate::result::{RunResult, VERSION};
use crate::trace::TraceSummary;

/// Of the file. Goes up with each change of it, or of plans.
pub const FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capsule {
    pub format: u32,
    pub version: String,
    /// Digest of the program that ran; see [`this_build`].
    pub build: String,
    pub trace: TraceSummary,
    pub violation: Option<Violation>,
    pub harness_error: Option<String>,
    pub plan: Plan,
}

/// A file that is no capsule for this program. Nothing was run.
#[derive(Debug, thiserror::Error)]
pub enum CapsuleError {
    #[error("cannot read {path}: {source}", path = .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path} is not a capsule: {why}", path = .path.display())]
    NotACapsule { path: PathBuf, why: String },
    #[error("{path} has capsule format {found}; this program reads {FORMAT}", path = .path.display())]
    OtherFormat { path: PathBuf, found: u64 },
    #[error("{path} was written by version {found}; this is {VERSION}", path = .path.display())]
    OtherVersion { path: PathBuf, found: String },
}

impl Capsule {
    pub fn of(result: &RunResult, build: &str) -> Self {
        Self {
            format: FORMAT,
            version: result.version.clone(),
            build: build.to_owned(),
            trace: result.trace.clone(),
            violation: result.violation.clone(),
            harness_error: result.harness_error.clone(),
            plan: result.plan.clone(),
        }
    }

    /// # Errors
    /// If the file is not there, or no capsule of this format and version.
    pub fn read(path: &Path) -> Result<Self, CapsuleError> {
        let bytes = std::fs::read(path)
            .map_err(|source| CapsuleError::Unreadable { path: path.to_owned(), source })?;
        let wrong = |why: String| CapsuleError::NotACapsule { path: path.to_owned(), why };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        // Of another format or version nothing else is expected to be understood.
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        let format = format.ok_or_else(|| wrong("it has no `format`".to_owned()))?;
        if format != u64::from(FORMAT) {
            return Err(CapsuleError::OtherFormat { path: path.to_owned(), found: format });
        }
        let version = value.get("version").and_then(serde_json::Value::as_str);
        let version = version.ok_or_else(|| wrong("it has no `version`".to_owned()))?;
        if version != VERSION {
            return Err(CapsuleError::OtherVersion { path: path.to_owned(), found: version.to_owned() });
        }
        let capsule: Self = serde_json::from_value(value).map_err(|e| wrong(e.to_string()))?;
        capsule.plan.check().map_err(|what| wrong(format!("its plan cannot be run: {what}")))?;
        Ok(capsule)
    }

    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self).expect("a capsule encodes as JSON");
        text.push(b'\n');
        std::fs::write(path, text)
    }

    /// What happened when the plan was run again.
    pub fn compare(&self, again: &RunResult) -> Replayed {
        let same_outcome = self.violation == again.violation && self.harness_error == again.harness_error;
        match (self.trace == again.trace, same_outcome) {
            (true, true) => Replayed::Same,
            (false, true) => Replayed::OtherTrace,
            (_, false) => Replayed::OtherOutcome,
        }
    }
}

/// How a second run compares with the one in the capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Replayed {
    /// To the byte.
    Same,
    /// It came to the same end on another way.
    OtherTrace,
    OtherOutcome,
}

/// Digest of the program that runs: two builds with one digest do the same.
///
/// # Errors
/// If the program's own file cannot be read.
pub fn this_build() -> std::io::Result<String> {
    let program = std::fs::File::open(std::env::current_exe()?)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(program)?;
    Ok(hasher.finalize().to_hex()[..12].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::Promise;
    use crate::plan::expand::{Options, expand};

    fn failed() -> RunResult {
        let mut result = RunResult::empty(expand(5, &Options::default()));
        result.trace = TraceSummary { hash: "ab".into(), events: 9 };
        result.violation = Some(Violation {
            promise: Promise::Safety,
            checker: "oracle".into(),
            at_ns: 17,
            what: "lost".into(),
        });
        result
    }

    #[test]
    fn a_capsule_holds_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("capsule.json");
        let capsule = Capsule::of(&failed(), "b1");
        capsule.write(&path).unwrap();
        assert_eq!(Capsule::read(&path).unwrap(), capsule);
        let mut again = failed();
        (again.cpu_ms, again.wall_ms) = (5, 6);
        assert_eq!(capsule.compare(&again), Replayed::Same);
        again.trace.hash = "cd".into();
        assert_eq!(capsule.compare(&again), Replayed::OtherTrace);
        again.violation = None;
        assert_eq!(capsule.compare(&again), Replayed::OtherOutcome);
    }

    #[test]
    fn what_is_no_capsule_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("capsule.json");
        let error = Capsule::read(&path).unwrap_err();
        assert!(error.to_string().starts_with("cannot read /"), "{error}");
        let good = serde_json::to_value(Capsule::of(&failed(), "b1")).unwrap();
        let with = |key: &str, value: serde_json::Value| {
            let mut changed = good.clone();
            changed[key] = value;
            changed.to_string()
        };
        let mut plan = good["plan"].clone();
        plan["load"]["clients"] = 0.into();
        for (text, expected) in [
            ("{".to_owned(), "is not a capsule: EOF"),
            ("{}".to_owned(), "is not a capsule: it has no `format`"),
            (r#"{"format": 2, "new": true}"#.to_owned(), "has capsule format 2; this program reads 1"),
            (r#"{"format": 1}"#.to_owned(), "it has no `version`"),
            (with("version", "0.0.7".into()), "was written by version 0.0.7; this is "),
            (with("extra", 1.into()), "unknown field `extra`"),
            (with("plan", plan), "its plan cannot be run: load: clients"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = Capsule::read(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error} (expected: {expected})");
        }
    }

    #[test]
    fn a_build_has_one_digest() {
        assert_eq!(this_build().unwrap(), this_build().unwrap());
        assert_eq!(this_build().unwrap().len(), 12);
    }
}
