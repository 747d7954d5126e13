//! What of a kind the engine has to be asked about, and whether the rows are what it has.
//!
//! Marks are numbered; work is taken with all marks made so far, and answers them when it is done. So whoever waits for the marks of this moment is not
//! held up by those that come later. Knows no engine and no table.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Most things that are asked for one by one, where there are few of them; with more marks all are listed.
pub(super) const KEYS_LEAST: usize = 32;
/// A listing costs an engine as much as asking for one thing in so many of all there are; and whatever there are, not more are asked for than this.
const ROWS_PER_KEY: usize = 16;
const KEYS_MOST: usize = 1_024;
/// How long a listing stands against doubts: a busy engine may be slow to answer, and is not helped by being asked for everything.
const DOUBT_AFTER_MS: u64 = 60_000;

/// Whether the engine is heard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Standing {
    #[default]
    Deaf,
    Hears,
    /// It is heard, and what it was asked last it did not answer.
    Unanswered,
}

#[derive(Debug, Default)]
struct State {
    keys: BTreeSet<String>,
    all: bool,
    /// Rows of the last listing.
    rows: usize,
    /// Marks so far, and those that are answered.
    made: u64,
    answered: u64,
    standing: Standing,
    /// Counts the times that the engine began to be heard.
    stretch: u64,
    /// All was listed in this stretch.
    complete: bool,
    /// When the rows were known to be complete: at the last listing, or when that ended.
    as_of_unix_ms: Option<u64>,
    waiting: usize,
}

impl State {
    fn keys_max(&self) -> usize {
        (self.rows / ROWS_PER_KEY).clamp(KEYS_LEAST, KEYS_MOST)
    }

    /// Anything may have changed.
    fn mark_all(&mut self) {
        self.all = true;
        self.keys.clear();
        self.made += 1;
    }
}

/// Marks of one kind.
#[derive(Debug, Default)]
pub(super) struct Marks {
    state: Mutex<State>,
    /// There may be work, or the end of a stretch to be noted. For the one who does the work.
    stirred: Notify,
    /// Marks were answered, or will not be.
    settled: Notify,
    /// Somebody waits.
    hurried: Notify,
}

/// What to ask the engine about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Work {
    /// By id or name; none if all are to be listed.
    pub(super) keys: BTreeSet<String>,
    pub(super) all: bool,
    made: u64,
    stretch: u64,
}

impl Marks {
    /// The thing with this id or name may have changed.
    pub(super) fn mark(&self, key: String) {
        let mut state = self.state.lock();
        if !state.all {
            state.keys.insert(key);
            if state.keys.len() > state.keys_max() {
                state.all = true;
                state.keys.clear();
            }
        }
        state.made += 1;
        drop(state);
        self.stirred.notify_one();
    }

    /// Anything may have.
    pub(super) fn mark_all(&self) {
        self.state.lock().mark_all();
        self.stirred.notify_one();
    }

    /// The engine did not answer somebody. Unless all was listed just now, it is again: an engine that stands still tells of nothing.
    pub(super) fn doubt(&self, now_unix_ms: u64) {
        let listed_ms = self.state.lock().as_of_unix_ms;
        if listed_ms.is_none_or(|at| now_unix_ms.abs_diff(at) >= DOUBT_AFTER_MS) {
            self.mark_all();
        }
    }

    /// The engine is heard from now on.
    pub(super) fn hears(&self) {
        let mut state = self.state.lock();
        if state.standing == Standing::Deaf {
            state.standing = Standing::Hears;
            state.stretch += 1;
        }
        // In one step with that: until all was listed, the rows are those of before.
        state.mark_all();
        drop(state);
        self.stirred.notify_one();
    }

    /// The rows are others, or none: nothing of what was answered counts any more.
    pub(super) fn begin_anew(&self) {
        let mut state = self.state.lock();
        state.complete = false;
        state.as_of_unix_ms = None;
        state.mark_all();
        drop(state);
        self.stirred.notify_one();
    }

    /// It is not.
    pub(super) fn broke_off(&self, now_unix_ms: u64) {
        let mut state = self.state.lock();
        if state.standing == Standing::Hears && state.complete {
            state.as_of_unix_ms = Some(now_unix_ms);
        }
        state.standing = Standing::Deaf;
        state.complete = false;
        drop(state);
        self.settled.notify_waiters();
        self.stirred.notify_one();
    }

    /// Most things that are asked for one by one now.
    pub(super) fn keys_max(&self) -> usize {
        self.state.lock().keys_max()
    }

    pub(super) fn has_work(&self) -> bool {
        let state = self.state.lock();
        state.standing != Standing::Deaf && (state.all || !state.keys.is_empty())
    }

    /// All there is to ask; `None` if there is nothing, or nobody to ask.
    pub(super) fn take(&self) -> Option<Work> {
        let mut state = self.state.lock();
        if state.standing == Standing::Deaf || (!state.all && state.keys.is_empty()) {
            return None;
        }
        Some(Work {
            keys: std::mem::take(&mut state.keys),
            all: std::mem::take(&mut state.all),
            made: state.made,
            stretch: state.stretch,
        })
    }

    /// The rows say what the engine answered. `listed`: all, and so many.
    pub(super) fn answered(&self, work: &Work, listed: Option<usize>, now_unix_ms: u64) {
        let mut state = self.state.lock();
        if state.stretch == work.stretch && state.standing != Standing::Deaf {
            state.answered = work.made;
            state.standing = Standing::Hears;
            state.complete |= listed.is_some();
            if let Some(rows) = listed {
                state.rows = rows;
                state.as_of_unix_ms = Some(now_unix_ms);
            }
        }
        drop(state);
        self.settled.notify_waiters();
    }

    /// The engine did not answer. All has to be listed now: one thing may be stuck in it, which a listing passes over.
    pub(super) fn unanswered(&self, now_unix_ms: u64) {
        let mut state = self.state.lock();
        state.all = true;
        state.keys.clear();
        if state.standing == Standing::Hears {
            if state.complete {
                state.as_of_unix_ms = Some(now_unix_ms);
            }
            state.standing = Standing::Unanswered;
        }
        drop(state);
        self.settled.notify_waiters();
    }

    /// Whether the rows are what the engine has, with all marks of this moment; resolves when that is known.
    pub(super) async fn current(&self) -> bool {
        let _waiting = Waiting::begin(self);
        let made = self.state.lock().made;
        self.hurried.notify_one();
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            settled.as_mut().enable();
            {
                let state = self.state.lock();
                if state.standing != Standing::Hears {
                    return false;
                }
                if state.answered >= made {
                    return true;
                }
            }
            settled.await;
        }
    }

    /// When the rows were what the engine had, in milliseconds since 1970.
    pub(super) fn as_of(&self, now_unix_ms: u64) -> Option<u64> {
        let state = self.state.lock();
        match state.standing == Standing::Hears && state.complete && state.answered >= state.made {
            true => Some(now_unix_ms),
            false => state.as_of_unix_ms,
        }
    }

    /// What is to be remembered of that.
    pub(super) fn noted_as_of(&self) -> Option<u64> {
        self.state.lock().as_of_unix_ms
    }

    /// It was remembered.
    pub(super) fn remember_as_of(&self, unix_ms: Option<u64>) {
        let mut state = self.state.lock();
        state.as_of_unix_ms = state.as_of_unix_ms.or(unix_ms);
    }

    pub(super) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// Resolves when somebody waits.
    pub(super) async fn hurried(&self) {
        while self.state.lock().waiting == 0 {
            self.hurried.notified().await;
        }
    }
}

/// Counts one who waits, for as long as it lives.
struct Waiting<'a>(&'a Marks);

impl<'a> Waiting<'a> {
    fn begin(marks: &'a Marks) -> Self {
        marks.state.lock().waiting += 1;
        Self(marks)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

#[cfg(test)]
#[path = "marks_tests.rs"]
mod tests;
