//! What there has to be when a fleet has settled.

use std::collections::BTreeMap;

use longshore_model::container::CopyOf;

use super::*;

/// So many pulls of one host that hang, until they are given up, leave no place for an attempt.
const PULLS_AT_ONCE: usize = 4;

impl Containers {
    /// A host of which something is expected: it is there, and nothing of it stays broken.
    fn is_lit(&self, host: HostId) -> bool {
        !self.unhealed.contains(&host)
            && !self.is_behind(host)
            && self.hosts.get(&host).is_some_and(|state| state.process_ns.is_some())
    }

    /// A leader stays as long as a majority hears it, and whoever does not is behind.
    fn is_behind(&self, host: HostId) -> bool {
        let leads = |broken: &HostId| self.led.values().any(|hosts| hosts.contains(broken));
        self.strained.iter().any(|(broken, other)| *other == host && leads(broken))
    }

    pub(super) fn judge(&mut self, at_ns: u64) -> Result<(), Violation> {
        let able =
            self.hosts.iter().filter(|(host, _)| self.has_engine.contains(host) && self.is_lit(**host));
        let able: Vec<&HostState> = able.map(|(_, state)| state).collect();
        if able.is_empty() || able.iter().any(|state| state.pulls >= PULLS_AT_ONCE) {
            // Nobody can do it, or somebody that has been given it can not.
            self.undecided = u64::from(!self.runs.is_empty());
            return Ok(());
        }
        let wrong_in = |led: bool| self.wrong_run(led).or_else(|| self.left_over(led));
        let wrong = wrong_in(true);
        self.undecided = u64::from(wrong.is_none() && wrong_in(false).is_some());
        wrong.map_or(Ok(()), |what| {
            Err(Violation { promise: Promise::Liveness, checker: NAME.into(), at_ns, what })
        })
    }

    /// A run that is not as it is wanted, in a group that somebody has led, or in one that nobody has.
    fn wrong_run(&self, led: bool) -> Option<String> {
        let mut by_copy: BTreeMap<(LogPosition, u32), Vec<&Running>> = BTreeMap::new();
        for it in self.running.values() {
            if let Some(CopyOf { run, copy }) = it.origin.kept {
                by_copy.entry((self.place(run), copy)).or_default().push(it);
            }
        }
        for (at, run) in self.runs.iter().filter(|(at, _)| self.led.contains_key(&at.group) == led) {
            let wanted = match run.wanted {
                Wanted::Up => 1,
                Wanted::Stopped(_) | Wanted::Removed(_) => 0,
                Wanted::Unclear => continue,
            };
            for copy in 0..run.copies {
                let all = by_copy.get(&(*at, copy)).map(Vec::as_slice).unwrap_or_default();
                let lit = all.iter().filter(|it| self.is_lit(it.host)).count();
                if lit != wanted && !(lit == 0 && self.half_broken) {
                    let there: Vec<String> = all
                        .iter()
                        .map(|it| {
                            format!(
                                "{} on host {} since {} ({:?})",
                                it.name,
                                it.host,
                                seconds(it.since_ns),
                                it.origin
                            )
                        })
                        .collect();
                    return Some(format!(
                        "the fleet has had time to settle, and copy {copy} of the run {at}, which is to be {:?}, has {lit} containers \
                         instead of {wanted}: {there:?}",
                        run.wanted
                    ));
                }
            }
        }
        None
    }

    /// A container that runs and should not: of a part that was cancelled, or beside another one of the same part.
    fn left_over(&self, led: bool) -> Option<String> {
        let mut seen: BTreeMap<Unit, &Running> = BTreeMap::new();
        let is_judged = |it: &&Running| {
            let record = it.origin.kept.map_or(it.origin.sub.operation, |copy| copy.run);
            self.is_lit(it.host) && self.led.contains_key(&self.place(record).group) == led
        };
        for it in self.running.values().filter(is_judged) {
            let cancelled = self.cancelled.get(&self.place(it.origin.sub.operation));
            if let Some((_, since_ns)) = cancelled.filter(|(parts, _)| parts.contains(&it.origin.sub.index)) {
                return Some(format!(
                    "the fleet has had time to settle, and host {} runs {} (since {}), whose cancellation was acknowledged at {}",
                    it.host,
                    it.name,
                    seconds(it.since_ns),
                    seconds(*since_ns)
                ));
            }
            if let Some(other) = seen.insert(unit_of(&it.origin), it) {
                return Some(format!(
                    "the fleet has had time to settle, and hosts {} and {} both run {}",
                    other.host, it.host, it.name
                ));
            }
        }
        None
    }
}
