//! Many runs: each in a process of its own, which is this program again.
//!
//! A run owns its process: the thread-local parts of a runtime, tokio's scheduler and openraft's are not made to be begun twice, and a
//! run that crashes or hangs must not take others with it. Nothing here is part of a run: real time and processes are used freely.

pub mod child;
pub mod determinism;
pub mod hunt;
pub mod results;
pub mod shrink;
pub mod sweep;

#[cfg(test)]
pub(crate) mod fake;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Most seeds of one sweep: what a results file can still be searched for.
const SEEDS_MAX: u64 = 10_000_000;

/// A range of seeds, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    pub from: u64,
    /// The last one, included.
    pub to: u64,
}

impl Seeds {
    pub fn iter(self) -> std::ops::RangeInclusive<u64> {
        self.from..=self.to
    }

    pub fn count(self) -> u64 {
        self.to - self.from + 1
    }
}

impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.from, self.to)
    }
}

impl FromStr for Seeds {
    type Err = String;

    /// `A..B` (without B), `A..=B`, or one seed.
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            text.trim()
                .parse::<u64>()
                .map_err(|_| format!("`{text}` is not a seed: write A..B (without B), A..=B, or one number"))
        };
        let (from, to) = match text.split_once("..") {
            None => (number(text)?, Some(number(text)?)),
            Some((from, to)) => match to.strip_prefix('=') {
                Some(to) => (number(from)?, Some(number(to)?)),
                None => (number(from)?, number(to)?.checked_sub(1)),
            },
        };
        match to {
            Some(to) if to < from => Err(format!("there is no seed in {text}")),
            None => Err(format!("there is no seed in {text}")),
            Some(to) if to - from >= SEEDS_MAX => Err(format!("more than {SEEDS_MAX} seeds in {text}")),
            Some(to) => Ok(Self { from, to }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_seeds() {
        let parse = |text: &str| text.parse::<Seeds>();
        for (text, from, to) in [("0..40", 0, 39), ("3..=5", 3, 5), ("7", 7, 7), ("0..1", 0, 0)] {
            assert_eq!(parse(text), Ok(Seeds { from, to }), "{text}");
        }
        assert_eq!(parse("2..4").unwrap().iter().collect::<Vec<_>>(), [2, 3]);
        assert_eq!(parse("2..4").unwrap().count(), 2);
        for (text, expected) in [
            ("5..5", "there is no seed in 5..5"),
            ("9..3", "there is no seed in 9..3"),
            ("0..0", "there is no seed in 0..0"),
            ("4..=3", "there is no seed"),
            ("a..3", "`a` is not a seed"),
            ("", "`` is not a seed"),
            ("0..99999999999", "more than 10000000 seeds"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
