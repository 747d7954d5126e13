//! Injected faults of a memory disk: calls that fail, a full disk, a hook before each call.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

/// The kinds of calls that can be made to fail or be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskCall {
    Open,
    Rename,
    Remove,
    List,
    CreateDir,
    SyncDir,
    Read,
    Write,
    SetLen,
    Sync,
}

/// Told of each call and its path before it takes place.
pub type DiskHook = Arc<dyn Fn(DiskCall, &str) + Send + Sync>;

#[derive(Default)]
pub(super) struct Faults {
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    calls: BTreeMap<DiskCall, u64>,
    /// The counts of calls at which to fail.
    failing: Vec<(DiskCall, u64)>,
    capacity: Option<u64>,
    hook: Option<DiskHook>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.plan.lock();
        f.debug_struct("Faults")
            .field("calls", &plan.calls)
            .field("failing", &plan.failing)
            .field("capacity", &plan.capacity)
            .finish_non_exhaustive()
    }
}

impl Faults {
    pub(super) fn fail_nth(&self, call: DiskCall, nth: u64) {
        assert!(nth > 0, "the next call is the first");
        let mut plan = self.plan.lock();
        let at = plan.calls.get(&call).copied().unwrap_or(0) + nth;
        plan.failing.push((call, at));
    }

    pub(super) fn clear(&self) {
        self.plan.lock().failing.clear();
    }

    pub(super) fn set_capacity(&self, bytes: Option<u64>) {
        self.plan.lock().capacity = bytes;
    }

    pub(super) fn capacity(&self) -> Option<u64> {
        self.plan.lock().capacity
    }

    pub(super) fn set_hook(&self, hook: Option<DiskHook>) {
        self.plan.lock().hook = hook;
    }

    pub(super) fn calls(&self, call: DiskCall) -> u64 {
        self.plan.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// Counts a call, tells the hook (outside the lock: it may block), and fails if this is one that is to fail.
    pub(super) fn before(&self, call: DiskCall, path: &str) -> io::Result<()> {
        let (hook, failing) = {
            let mut plan = self.plan.lock();
            let count = plan.calls.entry(call).or_default();
            *count += 1;
            let now = (call, *count);
            let failing = plan.failing.contains(&now);
            plan.failing.retain(|planned| *planned != now);
            (plan.hook.clone(), failing)
        };
        if let Some(hook) = hook {
            hook(call, path);
        }
        if failing { Err(io::Error::other(format!("injected fault: {call:?} of {path}"))) } else { Ok(()) }
    }
}
