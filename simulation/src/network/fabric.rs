//! The wires between hosts: one queue of what is under way, and one task that delivers it.
//!
//! Knows hosts and addresses, not nodes. Every fate is drawn from the seed's stream "network" when something is sent; what is
//! under way when a rule comes still arrives. Delivery is in the order of (time, sequence). Virtual time moves in whole
//! milliseconds (tokio's timers do), so that what is due within one is delivered in one go, in order. Must never: call into a
//! node while its lock is held, or deliver to a dead process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use serde::Serialize;
use tokio::sync::Notify;

use super::datagram::Socket;
use super::parcel::{Answer, Cargo, Digest, Failure, Kind, LaneKey, Parcel, ProcessId, ReturnAddress};
use super::process::Process;
use super::rules::{ActiveRule, Fate, is_cut, judge};
use super::tamper::Tamper;
use crate::event;
use crate::plan::{HostId, NetworkShape, Rule};
use crate::random;
use crate::runtime::{Context, current, global_ns, instant_at, sleep_global, spawn_in};

/// The port that every node listens on, as in production.
const NODE_PORT: u16 = 7400;

/// First of the ports that joiners send from.
const EPHEMERAL_PORTS: std::ops::Range<u16> = 49_152..65_535;

/// Hosts are numbered within what an address of 10.0.0.0/16 can say.
const HOSTS_MAX: HostId = 0xffff;

/// After which time the sender learns that a message was lost by chance, as of a broken stream.
const LOSS_NOTICED: Duration = Duration::from_millis(300);

/// What may be under way at a time; more is lost. Far beyond what a fleet sends within its latency, so that only a fault which
/// multiplies messages without end meets it.
const UNDER_WAY_MAX: usize = 1 << 20;

/// What rules may hold at a time; more is lost, as in a full buffer.
const HELD_MAX: usize = 1 << 16;

/// What has happened to messages or datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NetworkStats {
    pub sent: u64,
    /// Copies included.
    pub delivered: u64,
    /// By rules, by chance, or since nobody was there.
    pub dropped: u64,
    pub duplicated: u64,
    /// By rules; those let go since included.
    pub held: u64,
    pub reordered: u64,
    /// Of what was sent.
    pub bytes: u64,
}

impl NetworkStats {
    /// By name, for reports.
    pub fn counts(&self) -> Vec<(String, u64)> {
        let Self { sent, delivered, dropped, duplicated, held, reordered, bytes } = *self;
        let counts = [
            ("sent", sent),
            ("delivered", delivered),
            ("dropped", dropped),
            ("duplicated", duplicated),
            ("held", held),
            ("reordered", reordered),
            ("bytes", bytes),
        ];
        counts.map(|(what, count)| (what.to_owned(), count)).into()
    }
}

/// The network of a run, shared by all hosts. It delivers as long as the run lasts.
pub struct Fabric {
    state: Mutex<State>,
    /// The earliest time at which something arrives may have changed.
    earlier: Notify,
}

struct State {
    shape: NetworkShape,
    zones: Vec<Option<String>>,
    random: SmallRng,
    rules: Vec<ActiveRule>,
    /// What rules hold, by the rule's name, in the order of sending.
    held: VecDeque<(String, Parcel)>,
    /// By time of arrival in global nanoseconds, and sequence.
    under_way: BTreeMap<(u64, u64), Parcel>,
    sequence: u64,
    lanes: BTreeMap<LaneKey, LaneOrder>,
    /// When the last datagram from one host to another arrives. A path keeps its order but for what chance or a rule takes out of it:
    /// were each datagram's latency its own, a burst would be shuffled beyond what QUIC's packet numbers can tell apart.
    paths: BTreeMap<(HostId, HostId), u64>,
    processes: BTreeMap<HostId, Arc<Process>>,
    next_process: ProcessId,
    sockets: BTreeMap<SocketAddr, Weak<Socket>>,
    next_ephemeral: u16,
    tamper: Option<Tamper>,
    stats: NetworkStats,
}

/// Keeps a lane's messages in order.
#[derive(Debug, Default)]
struct LaneOrder {
    /// When the last of them arrives.
    last_ns: u64,
    /// The rule that holds some of them: all that follow wait with those.
    held_by: Option<String>,
}

/// What is to be sent.
pub(super) struct Draft {
    pub(super) from: HostId,
    pub(super) to: HostId,
    pub(super) kind: Kind,
    pub(super) lane: Option<LaneKey>,
    pub(super) len: usize,
    pub(super) digest: Digest,
    pub(super) cargo: Cargo,
}

impl fmt::Debug for Fabric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("Fabric")
            .field("rules", &state.rules)
            .field("stats", &state.stats)
            .finish_non_exhaustive()
    }
}

impl Fabric {
    /// A network between hosts; `zones[0]` is host 1's zone. Hosts without one are in a zone together. Delivers in the
    /// context `world`. Called within a run.
    pub fn new(seed: u64, shape: NetworkShape, zones: Vec<Option<String>>, world: Arc<Context>) -> Arc<Self> {
        let state = State {
            shape,
            zones,
            random: random::stream(seed, "network"),
            rules: Vec::new(),
            held: VecDeque::new(),
            under_way: BTreeMap::new(),
            sequence: 0,
            lanes: BTreeMap::new(),
            paths: BTreeMap::new(),
            processes: BTreeMap::new(),
            next_process: 1,
            sockets: BTreeMap::new(),
            next_ephemeral: EPHEMERAL_PORTS.start,
            tamper: None,
            stats: NetworkStats::default(),
        };
        let fabric = Arc::new(Self { state: Mutex::new(state), earlier: Notify::new() });
        drop(spawn_in(&world, deliver(fabric.clone())));
        fabric
    }

    /// Where the node of a host listens.
    pub fn address(host: HostId) -> SocketAddr {
        assert!((1..=HOSTS_MAX).contains(&host), "hosts are numbered from 1 to {HOSTS_MAX}");
        SocketAddr::from((Ipv4Addr::new(10, 0, (host >> 8) as u8, host as u8), NODE_PORT))
    }

    /// The host that an address belongs to, whatever the port.
    pub(super) fn host_of(address: SocketAddr) -> Option<HostId> {
        let SocketAddr::V4(address) = address else { return None };
        match address.ip().octets() {
            [10, 0, high, low] => Some(HostId::from(high) << 8 | HostId::from(low)).filter(|host| *host > 0),
            _ => None,
        }
    }

    /// Adds a rule behind those that there are.
    pub fn add_rule(&self, rule: Rule) {
        event!("net rule {rule:?}");
        self.state.lock().rules.push(ActiveRule { rule, touching: None });
    }

    /// Takes away the rules of this name; what they held is delivered now, in the order in which it was sent.
    pub fn remove_rule(&self, name: &str) {
        event!("net unrule {name}");
        let mut state = self.state.lock();
        state.rules.retain(|active| active.rule.name != name);
        self.let_go(&mut state, |by, _| by == name);
    }

    /// Takes away all rules.
    pub fn heal(&self) {
        event!("net heal");
        let mut state = self.state.lock();
        state.rules.clear();
        self.let_go(&mut state, |_, _| true);
    }

    /// Takes away all rules for what neither comes from nor goes to one of `hosts`, which stay as broken as they are.
    pub fn heal_except(&self, hosts: &[HostId]) {
        event!("net heal but {hosts:?}");
        let touching: Arc<[HostId]> = hosts.into();
        let mut state = self.state.lock();
        state.rules.iter_mut().for_each(|active| active.touching = Some(touching.clone()));
        self.let_go(&mut state, |_, parcel| !hosts.contains(&parcel.from) && !hosts.contains(&parcel.to));
    }

    /// Hosts to which nothing comes from any other.
    pub fn deaf(&self) -> BTreeSet<HostId> {
        let state = self.state.lock();
        let hosts = 1..=state.zones.len() as HostId;
        let is_deaf =
            |to: &HostId| hosts.clone().filter(|from| from != to).all(|from| is_cut(&state.rules, from, *to));
        hosts.clone().filter(is_deaf).collect()
    }

    pub fn stats(&self) -> NetworkStats {
        self.state.lock().stats
    }

    /// Plants a bug; memory transport only.
    pub fn set_tamper(&self, tamper: Option<Tamper>) {
        event!("net tamper {tamper:?}");
        self.state.lock().tamper = tamper;
    }

    pub(super) fn tamper(&self) -> Option<Tamper> {
        self.state.lock().tamper
    }

    /// Lets go of what a host's process had here. Called when the process has ended, in whatever way: its transport holds the node,
    /// and the node its transport.
    pub fn process_died(&self, host: HostId) {
        let mut state = self.state.lock();
        let process = state.processes.remove(&host);
        let State { processes, lanes, sockets, .. } = &mut *state;
        lanes.retain(|key, _| processes.values().any(|process| process.id == key.process));
        sockets.retain(|_, socket| socket.strong_count() > 0);
        drop(state);
        if let Some(process) = process {
            process.discard();
        }
    }

    /// Registers the process that now runs on a host, in place of the one before.
    pub(super) fn new_process(self: &Arc<Self>, host: HostId) -> Arc<Process> {
        self.process_died(host);
        let mut state = self.state.lock();
        let process = Process::new(state.next_process, host, current());
        state.next_process += 1;
        state.processes.insert(host, process.clone());
        process
    }

    /// A port for a socket that is not the node's own.
    pub(super) fn ephemeral(&self, host: HostId) -> SocketAddr {
        let mut state = self.state.lock();
        let port = state.next_ephemeral;
        state.next_ephemeral = match port + 1 {
            next if EPHEMERAL_PORTS.contains(&next) => next,
            _ => EPHEMERAL_PORTS.start,
        };
        SocketAddr::new(Self::address(host).ip(), port)
    }

    /// Binds a socket. `false`: another of the same process has the address.
    pub(super) fn bind(&self, socket: &Arc<Socket>) -> bool {
        // Let go of outside the lock, should it be the last to hold the socket.
        let other = self.state.lock().sockets.get(&socket.address()).and_then(Weak::upgrade);
        if other.is_some_and(|other| other.is_of(socket.context())) {
            return false;
        }
        self.state.lock().sockets.insert(socket.address(), Arc::downgrade(socket));
        true
    }

    /// Sends something on its way. What the dead send (destructors run when a process is killed) goes nowhere.
    pub(super) fn send(&self, draft: Draft) {
        if current().is_dead() {
            return;
        }
        let Draft { from, to, kind, lane, len, digest, cargo } = draft;
        let now = global_ns();
        let state = &mut *self.state.lock();
        let number = state.stats.sent;
        let label = Box::default();
        let parcel = Parcel { label, number, from, to, kind, len, digest, lane, cargo }.labelled();
        state.stats.sent += 1;
        state.stats.bytes += len as u64;
        let near = state.zone(from) == state.zone(to);
        // What waits on a lane keeps all that follows back, whichever rule meets that.
        let held_by = lane.and_then(|key| state.lanes.get(&key)).and_then(|lane| lane.held_by.clone());
        match judge(&state.rules, &state.shape, (from, to), near, &mut state.random) {
            Fate::Drop(rule) => {
                event!("net drop {parcel} by {}", state.rules[rule].rule.name);
                state.stats.dropped += 1;
            }
            Fate::Lose => {
                event!("net lose {parcel}");
                self.lose(state, now, &parcel);
            }
            Fate::Hold(rule) => {
                let by = held_by.unwrap_or_else(|| state.rules[rule].rule.name.clone());
                self.hold(state, now, by, parcel);
            }
            Fate::Deliver { delay_us, copy_us, reordered, delayed } => {
                if let Some(by) = held_by {
                    return self.hold(state, now, by, parcel);
                }
                event!("net send {parcel}{}", if reordered { " late" } else { "" });
                state.stats.reordered += u64::from(reordered);
                let mut at_ns = now + delay_us * 1000;
                if matches!(parcel.cargo, Cargo::Datagram { .. }) && !reordered && !delayed {
                    let path = state.paths.entry((from, to)).or_default();
                    at_ns = at_ns.max(*path);
                    *path = at_ns;
                }
                if let Some(copy_us) = copy_us {
                    state.stats.duplicated += 1;
                    self.enqueue(state, at_ns, parcel.clone());
                    self.enqueue(state, now + copy_us * 1000, parcel);
                } else {
                    self.enqueue(state, at_ns, parcel);
                }
            }
        }
    }

    fn enqueue(&self, state: &mut State, mut at_ns: u64, parcel: Parcel) {
        if state.under_way.len() >= UNDER_WAY_MAX {
            event!("net overflow {parcel}");
            state.stats.dropped += 1;
            return;
        }
        if let Some(key) = parcel.lane {
            let order = state.lanes.entry(key).or_default();
            at_ns = at_ns.max(order.last_ns);
            order.last_ns = at_ns;
        }
        let key = (at_ns, state.sequence);
        state.sequence += 1;
        let is_first = state.under_way.first_key_value().is_none_or(|(first, _)| key < *first);
        state.under_way.insert(key, parcel);
        if is_first {
            self.earlier.notify_one();
        }
    }

    fn hold(&self, state: &mut State, now: u64, by: String, parcel: Parcel) {
        if state.held.len() >= HELD_MAX {
            event!("net lose {parcel} since too much is held");
            return self.lose(state, now, &parcel);
        }
        event!("net hold {parcel} by {by}");
        state.stats.held += 1;
        if let Some(key) = parcel.lane {
            state.lanes.entry(key).or_default().held_by = Some(by.clone());
        }
        state.held.push_back((by, parcel));
    }

    /// Delivers certain of the things that rules hold, in order. All of a lane that one rule holds go, or none.
    fn let_go(&self, state: &mut State, goes: impl Fn(&str, &Parcel) -> bool) {
        let (gone, kept): (VecDeque<_>, _) =
            std::mem::take(&mut state.held).into_iter().partition(|(by, parcel)| goes(by, parcel));
        state.held = kept;
        let now = global_ns();
        for (_, parcel) in gone {
            if let Some(order) = parcel.lane.and_then(|key| state.lanes.get_mut(&key)) {
                order.held_by = None;
            }
            event!("net release {parcel}");
            self.enqueue(state, now, parcel);
        }
    }

    /// Counts a loss, and sees to it that whoever waits learns of it.
    fn lose(&self, state: &mut State, now: u64, parcel: &Parcel) {
        state.stats.dropped += 1;
        let Some(waiting) = parcel.cargo.waiting() else { return };
        let answer = Err(Failure::NoReply("the stream broke"));
        let other = if waiting.host == parcel.from { parcel.to } else { parcel.from };
        let notice = Parcel {
            from: other,
            to: waiting.host,
            kind: Kind::LossNotice,
            lane: None,
            cargo: Cargo::Reply { to: waiting, answer },
            ..parcel.clone()
        };
        self.enqueue(state, now + LOSS_NOTICED.as_nanos() as u64, notice.labelled());
    }

    /// What is due now, or when the next is.
    fn next(&self, now: u64) -> Result<Parcel, Option<u64>> {
        let state = &mut *self.state.lock();
        match state.under_way.first_entry() {
            Some(first) if first.key().0 <= now => Ok(first.remove()),
            Some(first) => Err(Some(first.key().0)),
            None => Err(None),
        }
    }

    fn hand_over(self: &Arc<Self>, parcel: Parcel) {
        let state = self.state.lock();
        let receiver = match &parcel.cargo {
            Cargo::Datagram { to, .. } => state.sockets.get(to).and_then(Weak::upgrade).map(Receiver::Socket),
            _ => state.processes.get(&parcel.to).cloned().map(Receiver::Process),
        };
        drop(state);
        let wanted = match &receiver {
            Some(Receiver::Socket(socket)) => socket.has_room(),
            Some(Receiver::Process(process)) => process.wants(&parcel),
            None => false,
        };
        event!("net {} {parcel}", if wanted { "deliver" } else { "nobody" });
        if parcel.kind != Kind::LossNotice {
            let stats = &mut self.state.lock().stats;
            stats.delivered += u64::from(wanted);
            stats.dropped += u64::from(!wanted);
        }
        match (receiver, parcel.cargo) {
            (Some(Receiver::Socket(socket)), Cargo::Datagram { from, bytes, .. }) if wanted => {
                socket.receive(from, bytes);
            }
            (Some(Receiver::Process(process)), cargo) if wanted => process.arrive(self, cargo),
            _ => {}
        }
    }

    /// Sends the answer to a request.
    pub(super) fn reply(&self, from: HostId, to: ReturnAddress, kind: Kind, answer: Answer) {
        let (len, digest) = match &answer {
            Ok(body) => (body.len(), Digest::of(body)),
            Err(failure) => {
                let text = format!("{failure:?}");
                (text.len(), Digest::of(text.as_bytes()))
            }
        };
        self.send(Draft {
            from,
            to: to.host,
            kind,
            lane: None,
            len,
            digest,
            cargo: Cargo::Reply { to, answer },
        });
    }
}

enum Receiver {
    Socket(Arc<Socket>),
    Process(Arc<Process>),
}

impl State {
    fn zone(&self, host: HostId) -> Option<&str> {
        self.zones.get(host as usize - 1)?.as_deref()
    }
}

/// The one task that delivers.
async fn deliver(fabric: Arc<Fabric>) {
    let _end = EndOfRun(fabric.clone());
    let mut sleep = pin!(sleep_global(Duration::ZERO));
    loop {
        match fabric.next(global_ns()) {
            Ok(parcel) => fabric.hand_over(parcel),
            Err(None) => fabric.earlier.notified().await,
            Err(Some(at_ns)) => {
                sleep.as_mut().reset(instant_at(at_ns));
                tokio::select! {
                    biased;
                    () = sleep.as_mut() => {}
                    () = fabric.earlier.notified() => {}
                }
            }
        }
    }
}

/// Breaks the circles between the fabric and the nodes that still ran.
struct EndOfRun(Arc<Fabric>);

impl Drop for EndOfRun {
    fn drop(&mut self) {
        let processes = std::mem::take(&mut self.0.state.lock().processes);
        processes.into_values().for_each(|process| process.discard());
    }
}
