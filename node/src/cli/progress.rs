//! Progress of an operation: bars on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::op;
use super::output;
use super::terminal::Terminal;
use crate::api::types::{OperationView, SubOperationState, SubOperationView};

/// Shortest time between two lines that tell of progress on one node. Changes of state are told at once.
const LINE_INTERVAL_MS: u64 = 1000;

/// Most bars: what fits on a small terminal. An operation with more parts has one bar for all.
const BARS_MAX: usize = 20;

/// Where progress goes.
pub(super) enum Progress {
    Bars(Bars),
    /// Lines on standard output, or on standard error where that is taken by JSON.
    Lines {
        lines: Lines,
        to_stderr: bool,
    },
    Silent,
}

impl Progress {
    /// Shows where the operation is. `now_ms` counts from any origin.
    pub(super) fn update(&mut self, view: &OperationView, now_ms: u64, terminal: &mut Terminal) {
        match self {
            Self::Bars(bars) => bars.update(view),
            Self::Lines { lines, to_stderr } => {
                let text: String = lines.update(view, now_ms).into_iter().map(|line| line + "\n").collect();
                if *to_stderr {
                    terminal.report(&text);
                } else {
                    // A reader that has gone does not stop the operation; the end will tell.
                    let _ = terminal.print(&text);
                }
            }
            Self::Silent => {}
        }
    }

    /// Says something beside the progress.
    pub(super) fn note(&mut self, text: &str, terminal: &mut Terminal) {
        match self {
            Self::Bars(bars) => bars.above(text),
            Self::Lines { .. } => terminal.report(&format!("{text}\n")),
            Self::Silent => {}
        }
    }

    /// Leaves what is shown where it is.
    pub(super) fn finish(&mut self, terminal: &mut Terminal) {
        if let Self::Bars(bars) = self
            && bars.finish()
        {
            // The cursor stands at the end of the last bar.
            terminal.report("\n");
        }
    }

    /// Whether the failures of parts have been told.
    pub(super) fn tells_failures(&self) -> bool {
        !matches!(self, Self::Silent)
    }
}

/// What is the operation, for its first line.
fn heading(view: &OperationView) -> String {
    let nodes: std::collections::BTreeSet<&str> =
        view.sub_operations.iter().map(|sub| sub.node.as_str()).collect();
    let of = match view.containers.len() {
        0 => output::count(view.images.len(), "image"),
        containers => output::count(containers, "container"),
    };
    format!("operation {}: {} of {of} on {}", view.id, view.kind, output::count(nodes.len(), "node"))
}

fn subject(sub: &SubOperationView) -> String {
    output::one_line(&format!("{}: {}", sub.node, sub.subject))
}

/// Where a part of the operation is, in a few words.
fn stage(unit: &str, sub: &SubOperationView) -> String {
    let text = match (sub.state, &sub.error) {
        (SubOperationState::Succeeded, _) => match &sub.result {
            Some(result) => format!("done, {result}"),
            None => "done".to_owned(),
        },
        (SubOperationState::Failed, error) => {
            format!("failed: {}", error.as_deref().unwrap_or("no reason was given"))
        }
        (SubOperationState::Cancelled, _) => "cancelled".to_owned(),
        // Still at it, after an attempt that failed.
        (_, Some(error)) => format!("attempt {} failed, trying again: {error}", sub.attempts.max(1)),
        (SubOperationState::Assigned, None) => "waiting".to_owned(),
        (SubOperationState::Running, None) if sub.layers_total == 0 && sub.total_bytes == 0 => {
            "running".to_owned()
        }
        (SubOperationState::Running, None) => op::progress_of(unit, sub),
    };
    let lines: Vec<String> = text.lines().map(output::one_line).collect();
    lines.join("\n    ")
}

/// What was last told of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    state: SubOperationState,
    attempts: u32,
    error: Option<String>,
    stage: String,
}

/// Plain lines. Pure: time is passed in.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: bool,
    told: BTreeMap<u32, Told>,
    /// When the last line of each node was printed.
    last_line_ms: BTreeMap<String, u64>,
}

impl Lines {
    /// The lines to print now.
    pub(super) fn update(&mut self, view: &OperationView, now_ms: u64) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.begun {
            self.begun = true;
            lines.push(heading(view));
        }
        for sub in &view.sub_operations {
            let now = Told {
                state: sub.state,
                attempts: sub.attempts,
                error: sub.error.clone(),
                stage: stage(op::unit(view), sub),
            };
            let before = self.told.get(&sub.index);
            if before == Some(&now) {
                continue;
            }
            let same = |before: &Told| {
                (before.state, before.attempts, &before.error) == (now.state, now.attempts, &now.error)
            };
            let only_progress = before.is_some_and(same);
            let due = self.last_line_ms.get(&sub.node).is_none_or(|last| now_ms >= last + LINE_INTERVAL_MS);
            if only_progress && !due {
                continue;
            }
            lines.push(format!("{}: {}", subject(sub), now.stage));
            self.told.insert(sub.index, now);
            self.last_line_ms.insert(sub.node.clone(), now_ms);
        }
        lines
    }
}

/// Bars on standard error.
pub(super) struct Bars {
    multi: MultiProgress,
    bars: BTreeMap<u32, ProgressBar>,
    colour: bool,
    begun: bool,
    failed: Vec<String>,
}

impl Bars {
    pub(super) fn new(colour: bool) -> Self {
        let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { multi, bars: BTreeMap::new(), colour, begun: false, failed: Vec::new() }
    }

    fn update(&mut self, view: &OperationView) {
        if !self.begun {
            self.begun = true;
            self.above(&heading(view));
        }
        if view.sub_operations.len() > BARS_MAX {
            let ended = view.sub_operations.iter().filter(|sub| is_ended(sub.state)).count();
            let bar = self.bar(0, "all", 3);
            bar.set_length(view.sub_operations.len() as u64);
            bar.set_position(ended as u64);
            bar.set_message(format!("{ended} of {} ended", view.sub_operations.len()));
        } else {
            let width = view.sub_operations.iter().map(|sub| subject(sub).chars().count()).max().unwrap_or(0);
            for sub in &view.sub_operations {
                let (position, length) = fill(sub);
                let bar = self.bar(sub.index, &subject(sub), width);
                bar.set_length(length);
                bar.set_position(position);
                bar.set_message(output::one_line(&stage(op::unit(view), sub)));
            }
        }
        let failed = view.sub_operations.iter().filter(|sub| sub.state == SubOperationState::Failed);
        self.failed = failed.map(|sub| format!("{}: {}", subject(sub), stage(op::unit(view), sub))).collect();
    }

    fn bar(&mut self, index: u32, subject: &str, width: usize) -> ProgressBar {
        let bar = self.bars.entry(index).or_insert_with(|| {
            let template = if self.colour {
                "{prefix} [{bar:24.green}] {wide_msg}"
            } else {
                "{prefix} [{bar:24}] {wide_msg}"
            };
            let style = ProgressStyle::with_template(template).expect("the template is well-formed");
            let bar = self.multi.add(ProgressBar::new(1).with_style(style.progress_chars("=> ")));
            bar.set_prefix(format!("{subject:width$}"));
            bar
        });
        bar.clone()
    }

    fn above(&self, text: &str) {
        // The terminal has gone: there is nobody to tell.
        let _ = self.multi.println(text);
    }

    /// Leaves the bars as they are; whether there were any that had not been left before.
    fn finish(&mut self) -> bool {
        let bars = std::mem::take(&mut self.bars);
        for bar in bars.values() {
            bar.abandon();
        }
        // Bars cut long messages; why something failed must be there in full.
        for line in std::mem::take(&mut self.failed) {
            self.above(&line);
        }
        !bars.is_empty()
    }
}

pub(super) fn is_ended(state: SubOperationState) -> bool {
    match state {
        SubOperationState::Assigned | SubOperationState::Running => false,
        SubOperationState::Succeeded | SubOperationState::Failed | SubOperationState::Cancelled => true,
    }
}

/// How far a bar is filled: position and length, the length at least 1. Bytes if they are known, else layers.
pub(super) fn fill(sub: &SubOperationView) -> (u64, u64) {
    match sub.state {
        SubOperationState::Succeeded => (1, 1),
        _ if sub.total_bytes > 0 => (sub.current_bytes.min(sub.total_bytes), sub.total_bytes),
        _ => (u64::from(sub.layers_done.min(sub.layers_total)), u64::from(sub.layers_total.max(1))),
    }
}

/// The last line: `operation op1 succeeded: 3 of 3 done in 12s`.
pub(super) fn summary(view: &OperationView) -> String {
    let count = |state| view.sub_operations.iter().filter(|sub| sub.state == state).count();
    let total = view.sub_operations.len();
    let mut text = format!(
        "operation {} {}: {} of {total} done",
        view.id,
        output::operation_state(view.state).0,
        count(SubOperationState::Succeeded)
    );
    let failed = count(SubOperationState::Failed);
    if failed > 0 {
        text.push_str(&format!(", {failed} failed"));
    }
    let cancelled = count(SubOperationState::Cancelled);
    if cancelled > 0 {
        text.push_str(&format!(", {cancelled} cancelled"));
    }
    if let Some(ended_at_ms) = view.ended_at_ms {
        text.push_str(&format!(" in {}", output::span(ended_at_ms.saturating_sub(view.submitted_at_ms))));
    }
    text
}

/// Most failures that are repeated with an error.
const FAILURES_MAX: usize = 10;

/// The failures, one a line, each indented; for where progress was not shown.
pub(super) fn failures(view: &OperationView) -> String {
    let failed: Vec<_> =
        view.sub_operations.iter().filter(|sub| sub.state == SubOperationState::Failed).collect();
    let shown = failed.iter().take(FAILURES_MAX);
    let mut text: String =
        shown.map(|sub| format!("\n  {}: {}", subject(sub), stage(op::unit(view), sub))).collect();
    if failed.len() > FAILURES_MAX {
        text.push_str(&format!("\n  and {} more", failed.len() - FAILURES_MAX));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::operation;
    use crate::api::types::OperationState;

    const IMAGE: &str = "docker.io/library/nginx:1.27";

    #[test]
    fn lines_tell_changes_at_once_and_progress_once_a_second() {
        let mut lines = Lines::default();
        let mut view = operation("op1", OperationState::Planned);
        assert_eq!(
            lines.update(&view, 0),
            [
                "operation op1: pull of 1 image on 2 nodes".to_owned(),
                format!("alpha: {IMAGE}: waiting"),
                format!("beta: {IMAGE}: waiting"),
            ]
        );
        assert_eq!(lines.update(&view, 5_000), Vec::<String>::new());

        view.sub_operations[0].state = SubOperationState::Running;
        view.sub_operations[0].layers_total = 0;
        assert_eq!(lines.update(&view, 5_000), [format!("alpha: {IMAGE}: running")]);
        let progress = |view: &mut OperationView, bytes| {
            let sub = &mut view.sub_operations[0];
            (sub.layers_done, sub.layers_total, sub.current_bytes, sub.total_bytes) = (1, 3, bytes, 4 << 20);
        };
        for (bytes, now_ms) in [(1 << 20, 5_100), (2 << 20, 5_999)] {
            progress(&mut view, bytes);
            assert_eq!(lines.update(&view, now_ms), Vec::<String>::new());
        }
        let expected = format!("alpha: {IMAGE}: 1 of 3 layers, 2.00 MiB of 4.00 MiB");
        assert_eq!(lines.update(&view, 6_000), [expected]);
        progress(&mut view, 3 << 20);
        assert_eq!(lines.update(&view, 6_500), Vec::<String>::new());

        view.sub_operations[0].error = Some("the registry is down".into());
        let expected = format!("alpha: {IMAGE}: attempt 1 failed, trying again: the registry is down");
        assert_eq!(lines.update(&view, 6_501), [expected]);
        (view.sub_operations[0].error, view.sub_operations[0].attempts) = (None, 2);
        assert_eq!(lines.update(&view, 6_502).len(), 1);

        view.sub_operations[0].state = SubOperationState::Succeeded;
        view.sub_operations[0].result = Some("sha256:ab".into());
        view.sub_operations[1].state = SubOperationState::Failed;
        view.sub_operations[1].error = Some("no such\nimage".into());
        assert_eq!(
            lines.update(&view, 6_503),
            [
                format!("alpha: {IMAGE}: done, sha256:ab"),
                format!("beta: {IMAGE}: failed: no such\n    image"),
            ]
        );
    }

    #[test]
    fn one_node_s_many_parts_share_its_second() {
        let mut lines = Lines::default();
        let mut view = operation("op1", OperationState::Running);
        view.sub_operations[1].node = "alpha".into();
        lines.update(&view, 0);
        for sub in &mut view.sub_operations {
            (sub.current_bytes, sub.total_bytes) = (1, 2);
        }
        assert_eq!(lines.update(&view, 1_000).len(), 1);
        assert_eq!(lines.update(&view, 1_999).len(), 0);
        assert_eq!(lines.update(&view, 2_000).len(), 1);
    }

    #[test]
    fn bars_fill() {
        let mut sub = operation("op1", OperationState::Running).sub_operations.remove(0);
        (sub.layers_done, sub.layers_total, sub.current_bytes, sub.total_bytes) = (0, 0, 0, 0);
        assert_eq!(fill(&sub), (0, 1));
        (sub.layers_done, sub.layers_total) = (9, 4);
        assert_eq!(fill(&sub), (4, 4));
        (sub.current_bytes, sub.total_bytes) = (7, 5);
        assert_eq!(fill(&sub), (5, 5));
        sub.state = SubOperationState::Succeeded;
        assert_eq!(fill(&sub), (1, 1));
    }

    #[test]
    fn bars_of_small_and_large_operations() {
        let mut bars = Bars::new(false);
        bars.multi.set_draw_target(ProgressDrawTarget::hidden());
        let mut view = operation("op1", OperationState::Partial);
        bars.update(&view);
        let messages: Vec<String> = bars.bars.values().map(ProgressBar::message).collect();
        assert_eq!(messages, ["done", "failed: no reason was given"]);
        assert_eq!(bars.bars[&0].prefix().len(), bars.bars[&1].prefix().len());
        assert!(bars.finish());
        assert!(!bars.finish(), "once");

        let mut bars = Bars::new(true);
        bars.multi.set_draw_target(ProgressDrawTarget::hidden());
        let one = view.sub_operations[1].clone();
        view.sub_operations
            .extend((2..=BARS_MAX as u32).map(|index| SubOperationView { index, ..one.clone() }));
        bars.update(&view);
        assert_eq!(bars.bars.len(), 1);
        assert_eq!(bars.bars[&0].message(), "21 of 21 ended");
    }

    #[test]
    fn summaries() {
        let mut view = operation("op1", OperationState::Succeeded);
        view.ended_at_ms = Some(view.submitted_at_ms + 12_000);
        assert_eq!(summary(&view), "operation op1 succeeded: 2 of 2 done in 12s");
        let mut view = operation("op2", OperationState::Partial);
        view.sub_operations[1].error = Some("why".into());
        assert_eq!(summary(&view), "operation op2 partial: 1 of 2 done, 1 failed");
        assert_eq!(failures(&view), format!("\n  beta: {IMAGE}: failed: why"));
        let one = view.sub_operations[1].clone();
        view.sub_operations.extend((0..20).map(|_| one.clone()));
        assert!(failures(&view).ends_with("\n  and 11 more"));
    }
}
