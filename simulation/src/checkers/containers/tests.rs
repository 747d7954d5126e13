//! Each rule, kept and broken.

use longshore_model::partition::PartitionId;

use longshore_raft::NodeId;

use super::*;
use crate::checkers::testing::{History, plan, status};
use crate::observation::Change;
use crate::plan::{Hosts, Rule};

const SECOND_NS: u64 = 1_000_000_000;

fn partition() -> PartitionId {
    PartitionId(0)
}

fn operation(index: u64) -> OperationId {
    OperationId { index, position: 0, partition: partition() }
}

/// Attempt `token` at the part of the operation at `index`; as a copy of the run that began at `run`.
fn origin(index: u64, token: u32, run: Option<u64>) -> Origin {
    let kept = run.map(|run| CopyOf { run: operation(run), copy: 0 });
    Origin { sub: SubKey { operation: operation(index), index: 0 }, token, kept }
}

fn place(index: u64) -> LogPosition {
    LogPosition { group: plan(&[]).fleet.groups().group_of(partition()).0, index, position: 0 }
}

#[derive(Default)]
struct Story {
    history: History,
    calls: u64,
}

impl Story {
    /// Three hosts whose processes run.
    fn new() -> Self {
        let mut story = Self::default();
        for host in 1..=3 {
            story.see(Seen::Started { host, incarnation: 1 });
        }
        story.after(60)
    }

    fn see(&mut self, seen: Seen) {
        self.history.see(seen);
    }

    fn after(mut self, seconds: u64) -> Self {
        self.history.at_ns += seconds * SECOND_NS;
        self
    }

    fn then(mut self, seen: Seen) -> Self {
        self.see(seen);
        self
    }

    fn starts(self, host: HostId, start: u64, origin: Origin) -> Self {
        let name = format!("c{start}");
        self.then(Seen::ContainerStarted {
            host,
            start,
            labels: origin.labels("fleet", NodeId(host.into()), &name),
            name,
        })
    }

    fn ends(self, host: HostId, start: u64) -> Self {
        self.then(Seen::ContainerEnded { host, start, code: 137 })
    }

    fn call(mut self, what: Call, outcome: Outcome) -> Self {
        self.calls += 1;
        let call = self.calls;
        self.then(Seen::Invoked { client: 1, host: 1, call, what }).then(Seen::Completed {
            client: 1,
            call,
            outcome,
        })
    }

    fn keeps(self, index: u64) -> Self {
        let run = Some(RunShape { copies: 1, kept: true });
        let what = Call::Submit { serial: index, image: "app:s1".into(), run };
        self.call(what, Outcome::Submitted(place(index)))
    }

    fn changes(self, index: u64, change: Change, outcome: Outcome) -> Self {
        self.call(Call::Change { at: place(index), change }, outcome)
    }

    /// The faults end, the group is led, and time passes.
    fn settles(self) -> Self {
        self.settles_led_by(2)
    }

    fn settles_led_by(self, host: HostId) -> Self {
        let mut led = status(host.into(), 1, Some(host.into()), None);
        led.group = place(5).group;
        self.then(Seen::Healed).then(Seen::Status { host, status: led }).after(60).then(Seen::Settled)
    }

    /// Likewise, but nobody leads the group any more.
    fn settles_in_the_dark(self) -> Self {
        let mut follower = status(2, 1, Some(1), None);
        follower.group = place(5).group;
        self.then(Seen::Healed).then(Seen::Status { host: 2, status: follower }).after(60).then(Seen::Settled)
    }

    #[track_caller]
    fn expect(&self, name: &str, expected: Option<&str>) {
        self.history.expect(name, Containers::new(&plan(&[])), expected);
    }
}

const fn condition(host: HostId, condition: EngineCondition) -> Seen {
    Seen::Engine { host, condition }
}

#[test]
fn an_earlier_attempt_is_stopped_before_a_later_one_starts() {
    let begun = || Story::new().starts(1, 1, origin(5, 1, None));
    begun()
        .after(16)
        .ends(1, 1)
        .after(4)
        .starts(2, 2, origin(5, 2, None))
        .after(60)
        .settles()
        .expect("in turn", None);
    let both = begun().after(20).starts(2, 2, origin(5, 2, None)).after(4).then(Seen::Healed);
    both.expect("its node lives", Some("its lease is over"));
    let stood_still = begun().then(Seen::Paused { host: 1 }).after(20).starts(2, 2, origin(5, 2, None));
    let stood_still = stood_still.after(4).then(Seen::Resumed { host: 1 }).after(1).ends(1, 1);
    stood_still.expect("its node stood still", None);
    let lied =
        begun().then(condition(1, EngineCondition::Unreliable)).after(20).starts(2, 2, origin(5, 2, None));
    lied.after(4).then(Seen::Healed).expect("its engine does not do as it says", None);
}

#[test]
fn nothing_moves_while_a_lease_holds() {
    let begun = || Story::new().starts(1, 1, origin(5, 1, None)).after(1);
    let moved = |story: Story| story.after(3).starts(2, 2, origin(5, 2, None));
    moved(begun().then(Seen::Paused { host: 1 })).expect("stands still", Some("the lease holds"));
    let died = Seen::Ended { host: 1, incarnation: 1, power_loss: false, how: "killed".into() };
    moved(begun().then(died.clone())).expect("died", Some("the lease holds"));
    let failed = begun().then(condition(1, EngineCondition::Unreliable));
    moved(failed).expect("its attempt may have failed", None);
    let restarted = begun().then(died).then(Seen::Started { host: 1, incarnation: 2 });
    moved(restarted).expect("its next process may have given up", None);
}

#[test]
fn what_was_superseded_is_not_started() {
    let replaced = || {
        Story::new()
            .keeps(5)
            .starts(1, 1, origin(5, 1, Some(5)))
            .then(Seen::Paused { host: 1 })
            .after(30)
            .starts(2, 2, origin(9, 1, Some(5)))
            .after(10)
    };
    let late = replaced().ends(1, 1).then(Seen::Resumed { host: 1 });
    let after = |story: Story, seconds| story.after(seconds).starts(1, 3, origin(5, 1, Some(5)));
    after(late, 20).expect("long after it went on", Some("what takes its place"));
    let late = replaced().ends(1, 1).then(Seen::Resumed { host: 1 });
    after(late, 0).expect("it may have asked before it stood still", None);
    let restarted = replaced().ends(1, 1).then(Seen::Resumed { host: 1 }).after(20);
    let restarted =
        restarted.then(condition(1, EngineCondition::Unreliable)).then(condition(1, EngineCondition::Well));
    after(restarted, 0).expect("its engine was started anew", None);
}

#[test]
fn a_host_runs_one_container_of_a_copy() {
    let story = Story::new().keeps(5).starts(1, 1, origin(5, 1, Some(5)));
    story.after(30).starts(1, 2, origin(9, 1, Some(5))).expect("two of a copy", Some("has run there since"));
    let others = Story::new().starts(1, 1, origin(5, 1, None)).starts(1, 2, origin(6, 1, None));
    others.expect("two operations", None);
}

#[test]
fn what_was_taken_back_does_not_start() {
    let cancelled = |parts: &[u32]| {
        let what = Call::Cancel { at: place(5), serial: 5 };
        Story::new().call(what, Outcome::Cancelled(parts.iter().copied().collect()))
    };
    cancelled(&[0]).starts(1, 1, origin(5, 1, None)).ends(1, 1).expect("it had been answered", None);
    cancelled(&[0]).after(3).starts(1, 1, origin(5, 1, None)).expect("cancelled", Some("cancellation"));
    cancelled(&[1]).after(3).starts(1, 1, origin(5, 1, None)).expect("another part", None);
    for change in [Change::Stop, Change::Remove] {
        let changed = |outcome| Story::new().keeps(5).changes(5, change, outcome).after(3);
        let started = |story: Story| story.starts(1, 1, origin(5, 1, Some(5)));
        started(changed(Outcome::Done)).expect("acknowledged", Some("stopped or removed"));
        started(changed(Outcome::Unknown("timeout".into()))).expect("perhaps", None);
        started(changed(Outcome::Refused("no".into()))).expect("refused", None);
    }
}

#[test]
fn who_hears_nobody_starts_nothing() {
    let deaf = |hosts: &[HostId]| Seen::Deaf { hosts: hosts.iter().copied().collect() };
    let started = |story: Story| story.starts(1, 1, origin(5, 1, None));
    started(Story::new().then(deaf(&[1])).after(2)).expect("cut off", Some("can not have asked"));
    started(Story::new().then(deaf(&[1])).after(1)).expect("it may have heard just before", None);
    started(Story::new().then(deaf(&[2])).after(9)).expect("another one", None);
    started(Story::new().then(deaf(&[1])).after(9).then(deaf(&[]))).expect("it hears again", None);
    let mut alone = status(1, 1, Some(1), None);
    (alone.group, alone.voters) = (place(5).group, vec![1]);
    let alone = Story::new().then(Seen::Status { host: 1, status: alone }).then(deaf(&[1])).after(2);
    started(alone).expect("it is a quorum", None);
}

#[test]
fn in_the_end_there_is_what_is_wanted() {
    let up = || Story::new().keeps(5).starts(1, 1, origin(5, 1, Some(5)));
    up().settles().expect("up", None);
    Story::new().keeps(5).settles().expect("never came", Some("0 containers instead of 1"));
    up().after(9)
        .starts(2, 2, origin(9, 1, Some(5)))
        .settles()
        .expect("two", Some("2 containers instead of 1"));
    let stopped = || up().changes(5, Change::Stop, Outcome::Done);
    stopped().ends(1, 1).settles().expect("stopped", None);
    stopped().settles().expect("not stopped", Some("1 containers instead of 0"));
    let again = stopped().ends(1, 1).changes(5, Change::Start, Outcome::Done);
    again.settles().expect("not started again", Some("0 containers instead of 1"));
    let lost = stopped().changes(5, Change::Start, Outcome::Unknown("timeout".into()));
    lost.settles().expect("nobody knows", None);
    up().changes(5, Change::Remove, Outcome::Done).settles().expect("not removed", Some("instead of 0"));
    let cancel = Call::Cancel { at: place(6), serial: 6 };
    let cancelled =
        Story::new().starts(1, 1, origin(6, 1, None)).call(cancel, Outcome::Cancelled([0].into()));
    cancelled.settles().expect("cancelled, and still there", Some("whose cancellation was acknowledged"));
    let dark = Seen::Ended { host: 1, incarnation: 1, power_loss: false, how: "killed".into() };
    let moved = up().then(dark).after(9).starts(2, 2, origin(9, 1, Some(5)));
    moved.settles().expect("beside one on a host that is down", None);
}

#[test]
fn nothing_is_expected_of_a_group_that_nobody_leads_nor_of_a_host_beside_a_broken_one() {
    let two = || {
        let first = Story::new().keeps(5).starts(1, 1, origin(5, 1, Some(5)));
        first.after(9).starts(2, 2, origin(9, 1, Some(5)))
    };
    let undecided = |story: &Story| {
        story.history.judge(vec![Box::new(Containers::new(&plan(&[])))]).unwrap()[0].undecided
    };
    assert_eq!(undecided(&two().settles_in_the_dark()), 1);
    let up = || Story::new().keeps(5).starts(1, 1, origin(5, 1, Some(5)));
    assert_eq!((undecided(&up().settles_in_the_dark()), undecided(&up().settles())), (0, 0));
    // Host 1 does not reach host 3, which stays broken and may lead.
    let rule = Rule {
        name: "cut".into(),
        from: Hosts::Only(vec![1]),
        to: Hosts::Only(vec![3]),
        chance_ppm: 1_000_000,
        verdict: Verdict::Drop,
    };
    let with = |faults: &[Fault]| {
        let mut plan = plan(faults);
        plan.unhealed = vec![3];
        Containers::new(&plan)
    };
    let (cut, two_there) = ([Fault::AddRule { rule }], Some("2 containers instead of 1"));
    two().settles_led_by(3).history.expect("cut off", with(&cut), None);
    two().settles_led_by(2).history.expect("from one that does not lead", with(&cut), two_there);
    two().settles_led_by(3).history.expect("not cut off", with(&[]), two_there);
}

#[test]
fn nothing_that_counts_ends_any_more() {
    let settled = || Story::new().keeps(5).starts(1, 1, origin(5, 1, Some(5))).settles();
    settled().after(20).then(Seen::Ending).expect("at rest", None);
    settled().after(20).ends(1, 1).expect("flaps", Some("although the fleet had settled"));
}

#[test]
fn a_run_is_known_until_it_is_removed() {
    let kept = || Story::new().keeps(5);
    kept().changes(5, Change::Stop, Outcome::Missing).expect("lost", Some("nobody has removed"));
    let perhaps = kept().changes(5, Change::Remove, Outcome::Unknown("timeout".into()));
    perhaps.changes(5, Change::Remove, Outcome::Missing).settles().expect("removed", None);
}
