//! Progress of many runs: a bar on a terminal, a line now and then elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Console;

/// Without a terminal, there is a line for each such part of the whole.
const PARTS: u64 = 20;

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: u64,
    done: u64,
    what: &'static str,
}

impl Progress {
    /// `what` is counted: `seeds`.
    pub(super) fn new(total: u64, what: &'static str, console: &Console<'_>) -> Self {
        let bar = console.stderr_is_terminal.then(|| {
            let style = ProgressStyle::with_template(
                "[{bar:40}] {pos} of {len} {prefix}, {per_sec}, {eta} left  {wide_msg}",
            );
            let style = style.expect("the template is well-formed").progress_chars("=> ");
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            bar.with_style(style).with_prefix(what)
        });
        Self { bar, total, done: 0, what }
    }

    /// One more is done; `state` says how it is going.
    pub(super) fn advance(&mut self, state: &str, console: &mut Console<'_>) {
        self.done += 1;
        match &self.bar {
            Some(bar) => {
                bar.set_message(state.to_owned());
                bar.inc(1);
            }
            None if self.done * PARTS / self.total.max(1) > (self.done - 1) * PARTS / self.total.max(1) => {
                console.report(&format!("{} of {} {}: {state}\n", self.done, self.total, self.what));
            }
            None => {}
        }
    }

    /// Says something beside the progress.
    pub(super) fn note(&self, text: &str, console: &mut Console<'_>) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => console.report(&format!("{text}\n")),
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
