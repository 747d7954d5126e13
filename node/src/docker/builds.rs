//! What an engine is to build, and what it says while it does. Pure, but for the bytes of the context.

use std::io;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use longshore_model::image::ImageReference;
use longshore_model::operations::BuildArg;

use super::{Credentials, PullProgress};

/// Most bytes of what a step wrote that are told of when it fails: its end.
const TAIL_BYTES_MAX: usize = 1_600;
/// Most characters of an instruction that are told.
const INSTRUCTION_CHARS_MAX: usize = 160;

/// A folder as a tar, as it comes.
pub type ContextBytes = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// An image to be built.
#[derive(Debug, Clone)]
pub struct BuildOrder {
    /// What it is called; one at least.
    pub tags: Vec<ImageReference>,
    /// In the context.
    pub dockerfile: String,
    pub args: Vec<BuildArg>,
    pub target: Option<String>,
    pub no_cache: bool,
    pub pull: bool,
    /// For the images that it begins with.
    pub credentials: Vec<Credentials>,
}

/// A step of a Dockerfile that an engine has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) number: u32,
    pub(super) total: u32,
    /// Such as `RUN make`.
    pub(super) instruction: String,
}

impl Step {
    /// Of `Step 2/5 : RUN make`.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (place, instruction) = line.trim().strip_prefix("Step ")?.split_once(" : ")?;
        let (number, total) = place.split_once('/')?;
        let (number, total) = (number.parse().ok()?, total.parse().ok()?);
        let instruction = instruction.chars().take(INSTRUCTION_CHARS_MAX).collect();
        (1..=total).contains(&number).then_some(Self { number, total, instruction })
    }

    /// The image that it begins with, if that is what the step is.
    pub(super) fn base(&self) -> Option<&str> {
        let mut words = self.instruction.split_whitespace();
        let is_from = words.next().is_some_and(|word| word.eq_ignore_ascii_case("from"));
        words.find(|word| is_from && !word.starts_with("--"))
    }
}

/// Follows the text that an engine writes while it builds.
#[derive(Debug, Default)]
pub(super) struct BuildTracker {
    pub(super) step: Option<Step>,
    /// What was built, by its id: of each stage, so that the last one is what was asked for.
    pub(super) image: Option<String>,
    /// The end of what the step's command wrote.
    tail: String,
}

impl BuildTracker {
    /// The engine says what it has built.
    pub(super) fn observe_image(&mut self, id: String) {
        self.image = Some(id);
    }

    /// Takes in a piece of text; gives the progress if a step has begun, or all is done: steps are its layers.
    pub(super) fn observe(&mut self, text: &str) -> Option<PullProgress> {
        if let Some(step) = Step::parse(text) {
            let progress = PullProgress {
                layers_done: step.number - 1,
                layers_total: step.total,
                ..PullProgress::default()
            };
            self.step = Some(step);
            self.tail.clear();
            return Some(progress);
        }
        if let Some(id) = text.strip_prefix("Successfully built ") {
            // Short, but the image's: should the engine say no more.
            self.image.get_or_insert_with(|| id.trim().to_owned());
            let total = self.step.as_ref().map_or(0, |step| step.total);
            return Some(PullProgress { layers_done: total, layers_total: total, ..PullProgress::default() });
        }
        // What the engine says of its own.
        if !text.starts_with(" ---> ") && !text.starts_with("Removing intermediate container ") {
            self.tail.push_str(text);
            let cut = self.tail.len().saturating_sub(TAIL_BYTES_MAX);
            self.tail.drain(..self.tail.ceil_char_boundary(cut));
        }
        None
    }

    pub(super) fn tail(&self) -> String {
        let plain = |c: char| if c == '\n' || !c.is_control() { c } else { ' ' };
        self.tail.trim().chars().map(plain).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_followed_and_their_output_kept() {
        let mut tracker = BuildTracker::default();
        let progress =
            |done, total| Some(PullProgress { layers_done: done, layers_total: total, ..Default::default() });
        assert_eq!(tracker.observe("Step 1/2 : FROM --platform=linux/amd64 app:1 AS a\n"), progress(0, 2));
        assert_eq!(tracker.step.as_ref().unwrap().base(), Some("app:1"));
        assert_eq!(tracker.observe(" ---> 3f57d9401f8d\n"), None);
        assert_eq!(tracker.observe("not of the next step\n"), None);
        assert_eq!(tracker.observe("Step 2/2 : RUN make\n"), progress(1, 2));
        assert_eq!(tracker.step.as_ref().unwrap().base(), None);
        for text in [" ---> Running in 1\n", "\u{1b}one\n", "two\r\n", "Removing intermediate container 1\n"]
        {
            assert_eq!(tracker.observe(text), None);
        }
        assert_eq!(tracker.tail(), " one\ntwo");
        assert_eq!(tracker.observe("Successfully built 3f57\n"), progress(2, 2));
        assert_eq!(tracker.image.as_deref(), Some("3f57"));
        let mut tracker = BuildTracker::default();
        for id in ["sha256:3f56", "sha256:3f57"] {
            tracker.observe_image(id.to_owned());
        }
        tracker.observe("Successfully built 3f57\n");
        assert_eq!(tracker.image.as_deref(), Some("sha256:3f57"));
        for no in ["Step", "Step x/2 : A", "Step 3/2 : A", "Step 0/2 : A", "Step 1/2"] {
            assert_eq!(Step::parse(no), None, "{no}");
        }
    }

    #[test]
    fn of_much_output_the_end_is_kept() {
        let mut tracker = BuildTracker::default();
        for n in 0..10_000 {
            tracker.observe(&format!("ü{n}\n"));
        }
        assert!(tracker.tail.len() <= TAIL_BYTES_MAX && tracker.tail().ends_with("ü9999"));
    }
}
