//! The results file of a sweep: a JSON line a seed, appended as seeds end, so that the next sweep carries on.
//!
//! Invariant: what is in the file is never changed, but for a last line that was cut off when a sweep died: that one is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::child::Ran;
use crate::observation::Violation;
use crate::result::Verdict;

/// What is kept of a seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub seed: u64,
    /// Everything else that the run was asked for, as arguments of `run`.
    pub what: String,
    pub version: String,
    pub build: String,
    pub verdict: Verdict,
    pub trace: String,
    pub events: u64,
    pub elections: u64,
    pub faults: BTreeMap<String, u64>,
    /// Client calls that were answered or not, all together.
    pub calls: u64,
    pub undecided: u64,
    pub virtual_ms: u64,
    pub cpu_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violation: Option<Violation>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harness_error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capsule: Option<PathBuf>,
}

impl Record {
    pub fn new(seed: u64, what: &str, version: &str, build: &str, ran: &Ran) -> Self {
        let mut record = Self {
            seed,
            what: what.to_owned(),
            version: version.to_owned(),
            build: build.to_owned(),
            verdict: ran.verdict(),
            trace: String::new(),
            events: 0,
            elections: 0,
            faults: BTreeMap::new(),
            calls: 0,
            undecided: 0,
            virtual_ms: 0,
            cpu_ms: 0,
            violation: None,
            harness_error: None,
            capsule: None,
        };
        match ran {
            Ran::Broken(what) => record.harness_error = Some(what.clone()),
            Ran::Reported(report) => {
                let result = &report.result;
                record.trace = result.trace.hash.clone();
                record.events = result.trace.events;
                record.elections = result.elections;
                record.faults = result.faults.clone();
                record.calls = result.calls.values().flat_map(BTreeMap::values).sum();
                record.undecided = result.undecided();
                (record.virtual_ms, record.cpu_ms) = (result.virtual_ms, result.cpu_ms);
                record.violation = result.violation.clone();
                record.harness_error = result.harness_error.clone();
            }
        }
        record
    }

    fn key(&self) -> (u64, &str) {
        (self.seed, &self.what)
    }
}

/// An open results file.
#[derive(Debug)]
pub struct Results {
    file: File,
    /// Of this version and build.
    records: Vec<Record>,
    seen: BTreeSet<(u64, String)>,
}

/// Not a results file, or not one that can be written.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    #[error("cannot write results to {path}: {source}", path = .path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[error("{path}, line {line}: not a result of a sweep: {why}", path = .path.display())]
    NotResults { path: PathBuf, line: usize, why: String },
}

impl Results {
    /// Opens or begins a file. Results of other versions and builds stay in it and are passed over.
    ///
    /// # Errors
    /// If it cannot be read and appended to, or holds something else.
    pub fn open(path: &Path, version: &str, build: &str) -> Result<Self, ResultsError> {
        let unwritable = |source| ResultsError::Unwritable { path: path.to_owned(), source };
        let file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(unwritable)?;
        let mut reader = BufReader::new(file);
        let (mut records, mut whole_bytes) = (Vec::new(), 0);
        let mut text = String::new();
        for line in 1.. {
            text.clear();
            let bytes = reader.read_line(&mut text).map_err(unwritable)?;
            if !text.ends_with('\n') {
                break;
            }
            whole_bytes += bytes as u64;
            let wrong = |why: serde_json::Error| ResultsError::NotResults {
                path: path.to_owned(),
                line,
                why: why.to_string(),
            };
            let origin: Origin = serde_json::from_str(&text).map_err(wrong)?;
            if (origin.version.as_str(), origin.build.as_str()) == (version, build) {
                records.push(serde_json::from_str(&text).map_err(wrong)?);
            }
        }
        let mut file = reader.into_inner();
        file.set_len(whole_bytes).and_then(|()| file.seek(io::SeekFrom::End(0))).map_err(unwritable)?;
        let seen = records.iter().map(|record: &Record| (record.seed, record.what.clone())).collect();
        Ok(Self { file, records, seen })
    }

    /// Whether there is a result already.
    pub fn has(&self, seed: u64, what: &str) -> bool {
        self.seen.contains(&(seed, what.to_owned()))
    }

    /// # Errors
    /// If it cannot be written.
    pub fn append(&mut self, record: Record) -> io::Result<()> {
        let mut line = serde_json::to_vec(&record).expect("a record encodes as JSON");
        line.push(b'\n');
        self.file.write_all(&line)?;
        let (seed, what) = record.key();
        self.seen.insert((seed, what.to_owned()));
        self.records.push(record);
        Ok(())
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

/// What every line has, of whatever version.
#[derive(Deserialize)]
struct Origin {
    version: String,
    build: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(seed: u64) -> Record {
        Record::new(seed, "--profile swarm", "1", "b", &Ran::Broken("no".into()))
    }

    #[test]
    fn a_sweep_carries_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.jsonl");
        let mut results = Results::open(&path, "1", "b").unwrap();
        results.append(record(1)).unwrap();
        results.append(record(2)).unwrap();
        drop(results);
        // The sweep died while it wrote.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"seed\":3,\"wha").unwrap();
        let mut results = Results::open(&path, "1", "b").unwrap();
        assert_eq!(results.records(), [record(1), record(2)]);
        assert!(results.has(2, "--profile swarm") && !results.has(3, "--profile swarm"));
        assert!(!results.has(2, "--profile calm"));
        results.append(record(3)).unwrap();
        drop(results);
        let results = Results::open(&path, "1", "b").unwrap();
        assert_eq!(results.records().len(), 3);
        // Of another build nothing counts, and nothing is lost.
        let mut other = Results::open(&path, "1", "c").unwrap();
        assert_eq!(other.records(), []);
        other.append(Record { build: "c".into(), ..record(1) }).unwrap();
        assert_eq!(Results::open(&path, "1", "b").unwrap().records().len(), 3);
        assert_eq!(Results::open(&path, "1", "c").unwrap().records().len(), 1);
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        let text = "{\"version\":\"1\",\"build\":\"x\"}\nbuy milk\n";
        std::fs::write(&path, text).unwrap();
        let error = Results::open(&path, "1", "b").unwrap_err().to_string();
        assert!(error.contains("notes.txt, line 2: not a result of a sweep"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let error = Results::open(&dir.path().join("no/such"), "1", "b").unwrap_err().to_string();
        assert!(error.starts_with("cannot write results to /"), "{error}");
    }
}
