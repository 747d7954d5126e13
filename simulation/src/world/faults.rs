//! Carries out what a plan says shall happen.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use longshore_node::api::client::{Client, ClientError, Target};
use longshore_node::api::types::{ErrorCode, LeaveQuery, NodeAvailability, NodeUpdate, RemoveQuery};
use rand::RngExt;

use super::World;
use super::host::{Host, Process};
use crate::event;
use crate::mutants::REUSE_REPLICA_ID;
use crate::observation::Seen;
use crate::plan::{Fault, HostId, Scheduled, node_name};
use crate::runtime::{self, SimRuntime};

/// Between attempts of an operator whose command was not taken.
const OPERATOR_RETRY: Duration = Duration::from_secs(2);
/// How long a host whose power fails in the middle of a disk call may go without one.
const MID_CALL_PATIENCE: Duration = Duration::from_millis(45);
/// After which an operator gives up.
const OPERATOR_ATTEMPTS: u32 = 30;

impl World {
    /// Lets all faults happen, each at its time since now.
    pub(super) async fn run_faults(self: &Arc<Self>, faults: &[Scheduled]) {
        let begin = runtime::global_ns();
        for Scheduled { at_ms, fault } in faults {
            let at = begin + at_ms * 1_000_000;
            let wait = at.saturating_sub(runtime::global_ns());
            runtime::sleep_global(Duration::from_nanos(wait)).await;
            let name = fault.name();
            let done = self.inflict(fault);
            event!("fault {name} {} {fault:?}", if done { "done" } else { "does not fit" });
            if done {
                self.recorder.count("faults", fault.reported_as());
            }
        }
    }

    /// Whether it changed anything.
    fn inflict(self: &Arc<Self>, fault: &Fault) -> bool {
        match fault {
            Fault::Kill { host } => self.kill(*host, false),
            Fault::PowerLoss { host, at_call: 0 } => self.kill(*host, true),
            Fault::PowerLoss { host, at_call } => self.lose_power_at_call(*host, *at_call),
            Fault::PowerLossAll => {
                let all: Vec<HostId> = self.hosts.lock().keys().copied().collect();
                all.into_iter().filter(|host| self.kill(*host, true)).count() > 0
            }
            Fault::Stop { host } => {
                self.host_mut(*host, |host| host.restarts = false);
                self.with_process(*host, |process| process.shutdown.cancel())
            }
            Fault::Start { host } => {
                let (runs, stops) = self.host_mut(*host, |host| {
                    // What is still stopping starts again when it has stopped, as a service manager would do it.
                    host.restarts = host.is_stopping();
                    (host.is_running(), host.restarts)
                });
                if !runs {
                    self.start(*host);
                }
                !runs || stops
            }
            Fault::Pause { host } => {
                let pauses = self.with_process(*host, |process| process.context.pause());
                if pauses {
                    self.recorder.see(Seen::Paused { host: *host });
                }
                pauses
            }
            Fault::Resume { host } => self.resume(*host),
            Fault::Wipe { host } => {
                let killed = self.kill(*host, false);
                self.wipe(*host);
                killed
            }
            Fault::Leave { host } => self.leave(*host),
            Fault::Remove { host } => {
                let world = Arc::clone(self);
                let host = *host;
                drop(runtime::spawn_in(&self.context, async move { world.remove(host).await }));
                true
            }
            Fault::AddRule { rule } => {
                self.fabric.add_rule(rule.clone());
                self.recorder.see(Seen::Deaf { hosts: self.fabric.deaf() });
                true
            }
            Fault::RemoveRule { name } => {
                // Before what was held back is delivered.
                self.recorder.see(Seen::Deaf { hosts: BTreeSet::new() });
                self.fabric.remove_rule(name);
                self.recorder.see(Seen::Deaf { hosts: self.fabric.deaf() });
                true
            }
            Fault::HealNetwork => {
                self.fabric.heal();
                self.recorder.see(Seen::Deaf { hosts: self.fabric.deaf() });
                true
            }
            Fault::StepWallClock { host, by_ms } => {
                self.hosts.lock()[host].clock.step_wall(*by_ms);
                true
            }
            Fault::SetDrift { host, drift_ppm } => {
                self.hosts.lock()[host].clock.set_drift(runtime::global_ns(), *drift_ppm);
                true
            }
            Fault::Weigh { host, weight } => {
                let mut hosts = self.hosts.lock();
                hosts.get_mut(host).expect("a plan names hosts that there are").weight = *weight;
                true
            }
            Fault::Drain { host } | Fault::Undrain { host } => {
                let (world, host) = (Arc::clone(self), *host);
                let drain = matches!(fault, Fault::Drain { .. });
                drop(runtime::spawn_in(&self.context, async move { world.drain(host, drain).await }));
                true
            }
            Fault::PauseRing | Fault::ResumeRing | Fault::RebalanceRing => {
                let (world, fault) = (Arc::clone(self), fault.clone());
                drop(runtime::spawn_in(&self.context, async move { world.operate_ring(&fault).await }));
                true
            }
            Fault::SlowDisk { .. }
            | Fault::FullDisk { .. }
            | Fault::FailSync { .. }
            | Fault::FailRead { .. }
            | Fault::Rot { .. } => self.inflict_disk(fault),
            Fault::EngineDown { .. }
            | Fault::EngineUp { .. }
            | Fault::EnginePulls { .. }
            | Fault::EngineCalls { .. }
            | Fault::EngineForgets { .. } => self.inflict_engine(fault),
        }
    }

    fn inflict_disk(&self, fault: &Fault) -> bool {
        let hosts = self.hosts.lock();
        match fault {
            Fault::SlowDisk { host, sync } => hosts[host].disk.set_sync_latency(*sync),
            Fault::FullDisk { host, full } => hosts[host].disk.set_full(*full),
            Fault::FailSync { host } => hosts[host].disk.fail_next_sync(),
            Fault::FailRead { host } => hosts[host].disk.fail_next_read(),
            Fault::Rot { host } => return hosts[host].disk.rot(&mut self.random.lock()),
            _ => unreachable!("the others are not the disk's"),
        }
        true
    }

    fn inflict_engine(&self, fault: &Fault) -> bool {
        let hosts = self.hosts.lock();
        let (Fault::EngineDown { host }
        | Fault::EngineUp { host }
        | Fault::EnginePulls { host, .. }
        | Fault::EngineCalls { host, .. }
        | Fault::EngineForgets { host }) = fault
        else {
            unreachable!("the others are not the engine's")
        };
        let Some(engine) = &hosts[host].engine else { return false };
        match fault {
            Fault::EngineDown { .. } => engine.down(),
            Fault::EngineUp { .. } => engine.up(),
            Fault::EnginePulls { pulls, .. } => engine.set_pulls(*pulls),
            Fault::EngineCalls { calls, percent, .. } => engine.set_calls(*calls, *percent),
            _ => engine.forget_images(),
        }
        true
    }

    /// Lets a process go on. Whether there is one.
    pub(super) fn resume(&self, id: HostId) -> bool {
        // Before it does anything.
        if self.hosts.lock()[&id].process.is_some() {
            self.recorder.see(Seen::Resumed { host: id });
        }
        self.with_process(id, |process| process.context.resume())
    }

    fn host_mut<T>(&self, id: HostId, act: impl FnOnce(&mut Host) -> T) -> T {
        act(self.hosts.lock().get_mut(&id).expect("a plan names hosts that there are"))
    }

    fn with_process(&self, host: HostId, act: impl FnOnce(&Process)) -> bool {
        let process = self.hosts.lock()[&host].process.clone();
        process.as_ref().map(act).is_some()
    }

    /// Kills a process; with `power_loss` the host loses power. Whether there was one.
    pub(super) fn kill(self: &Arc<Self>, id: HostId, power_loss: bool) -> bool {
        let process = self.host_mut(id, |host| {
            host.wanted = false;
            host.restarts = false;
            let process = host.process.take();
            if let Some(process) = &process {
                process.context.kill();
            }
            // A host may lose power while its node is down, too: what the node left unsynced goes.
            if power_loss {
                host.disk.power_loss(&mut self.random.lock());
                host.has_power = false;
            } else if process.is_some() {
                host.disk.process_died();
            }
            process
        });
        if power_loss && let Some(engine) = self.hosts.lock()[&id].engine.clone() {
            engine.lose_power();
        }
        let Some(process) = process else { return false };
        self.fabric.process_died(id);
        let how = if power_loss { "power loss" } else { "killed" };
        self.recorder.see(Seen::Ended {
            host: id,
            incarnation: process.incarnation,
            power_loss,
            how: how.into(),
        });
        if power_loss {
            // What survives on all disks together: before anybody is told again what is lost here.
            self.show_all_durable();
        } else {
            self.show_durable(id);
        }
        true
    }

    /// Kills the host's process in the middle of the nth call of its disk from now, with the power; after a while in any case.
    fn lose_power_at_call(self: &Arc<Self>, id: HostId, calls: u32) -> bool {
        let Some(incarnation) = self.hosts.lock()[&id].process.as_ref().map(|process| process.incarnation)
        else {
            return self.kill(id, true);
        };
        let lost = Arc::new(tokio::sync::Notify::new());
        let told = Arc::clone(&lost);
        self.hosts.lock()[&id].disk.lose_power_at_call(u64::from(calls), move || told.notify_one());
        let world = Arc::clone(self);
        drop(runtime::spawn_in(&self.context, async move {
            let has_struck = tokio::select! {
                biased;
                () = lost.notified() => true,
                () = runtime::sleep_global(MID_CALL_PATIENCE) => false,
            };
            let is_same = {
                let hosts = world.hosts.lock();
                hosts[&id].process.as_ref().is_some_and(|process| process.incarnation == incarnation)
            };
            // The process may have ended by itself since, for want of its disk: the disk works again when the host has lost its power.
            if has_struck || is_same {
                world.kill(id, true);
            }
        }));
        true
    }

    fn wipe(&self, id: HostId) {
        let mut hosts = self.hosts.lock();
        let host = hosts.get_mut(&id).expect("a plan names hosts that there are");
        if !host.is_member {
            return;
        }
        if self.plan.mutant.as_deref() == Some(REUSE_REPLICA_ID) {
            // The planted bug: the identity is restored from a backup, the log is not.
            host.disk.lose_log_and_snapshots();
            return;
        }
        host.empty();
        drop(hosts);
        self.recorder.see(Seen::Wiped { host: id });
        let world = self.this();
        // The dead node's record keeps its vote until an operator removes it.
        drop(runtime::spawn_in(&self.context, async move {
            runtime::sleep_global(OPERATOR_RETRY).await;
            world.remove_name_until_done(id, &node_name(id, world.generation(id) - 1)).await;
        }));
    }

    /// `longshore leave` on the host itself.
    fn leave(self: &Arc<Self>, id: HostId) -> bool {
        let Some(client) = self.client(id) else { return false };
        let world = Arc::clone(self);
        drop(runtime::spawn_in(&self.context, async move {
            let left = client.leave(LeaveQuery::default()).await;
            event!("leave host {id}: {}", outcome(&left));
            world.recorder.count("operator", if left.is_ok() { "left" } else { "leave refused" });
        }));
        true
    }

    /// `longshore node rm`, said to some other node.
    async fn remove(self: &Arc<Self>, id: HostId) -> bool {
        let name = self.hosts.lock()[&id].node_name();
        self.remove_name(id, &name).await
    }

    async fn remove_name(self: &Arc<Self>, id: HostId, name: &str) -> bool {
        let others: Vec<HostId> = self
            .hosts
            .lock()
            .values()
            .filter(|host| host.id != id && host.is_up())
            .map(|host| host.id)
            .collect();
        if others.is_empty() {
            return false;
        }
        let other = others[self.random.lock().random_range(0..others.len())];
        let Some(client) = self.client(other) else { return false };
        let removed = client.remove_node(name, RemoveQuery::default()).await;
        event!("remove {name} through host {other}: {}", outcome(&removed));
        self.recorder.count("operator", if removed.is_ok() { "removed" } else { "removal refused" });
        match removed {
            Ok(_) => true,
            // Somebody else was quicker, or the answer to an earlier attempt was lost.
            Err(ClientError::Api { error, .. }) => error.code == ErrorCode::NotFound,
            Err(_) => false,
        }
    }

    /// `longshore node update --availability`, said to some node. Whether it was done, or is a thing of the past.
    async fn drain(self: &Arc<Self>, id: HostId, drain: bool) -> bool {
        let name = self.hosts.lock()[&id].node_name();
        let up: Vec<HostId> =
            self.hosts.lock().values().filter(|host| host.is_up()).map(|host| host.id).collect();
        if up.is_empty() {
            return false;
        }
        let host = up[self.random.lock().random_range(0..up.len())];
        let Some(client) = self.client(host) else { return false };
        let availability = if drain { NodeAvailability::Draining } else { NodeAvailability::Active };
        let update = NodeUpdate { availability: Some(availability), ..NodeUpdate::default() };
        let done = client.update_node(&name, &update).await;
        event!("{} {name} through host {host}: {}", if drain { "drain" } else { "undrain" }, outcome(&done));
        let what = match (&done, drain) {
            (Ok(_), true) => "drained",
            (Ok(_), false) => "undrained",
            (Err(_), true) => "drain refused",
            (Err(_), false) => "undrain refused",
        };
        self.recorder.count("operator", what);
        match done {
            Ok(_) => true,
            Err(ClientError::Api { error, .. }) => {
                matches!(error.code, ErrorCode::NotFound | ErrorCode::Conflict)
            }
            Err(_) => false,
        }
    }

    /// Nodes that an operator drained take work again.
    pub(super) async fn undrain_all(self: &Arc<Self>) {
        let drained: BTreeSet<HostId> = self
            .plan
            .faults
            .iter()
            .filter_map(|scheduled| match scheduled.fault {
                Fault::Drain { host } => Some(host),
                _ => None,
            })
            .collect();
        for host in drained {
            for _ in 0..OPERATOR_ATTEMPTS {
                if self.drain(host, false).await {
                    break;
                }
                runtime::sleep_global(OPERATOR_RETRY).await;
            }
        }
    }

    /// `longshore ring pause`, `resume` or `rebalance`, said to some node. Whether it was done.
    async fn operate_ring(self: &Arc<Self>, fault: &Fault) -> bool {
        let up: Vec<HostId> =
            self.hosts.lock().values().filter(|host| host.is_up()).map(|host| host.id).collect();
        if up.is_empty() {
            return false;
        }
        let host = up[self.random.lock().random_range(0..up.len())];
        let Some(client) = self.client(host) else { return false };
        let done = match fault {
            Fault::PauseRing => client.pause_ring(true).await.map(drop),
            Fault::ResumeRing => client.pause_ring(false).await.map(drop),
            _ => client.rebalance_ring().await.map(drop),
        };
        event!("{} through host {host}: {}", fault.name(), outcome(&done));
        self.recorder.count("operator", if done.is_ok() { fault.name() } else { "ring refused" });
        done.is_ok()
    }

    pub(super) async fn resume_ring(self: &Arc<Self>) {
        for _ in 0..OPERATOR_ATTEMPTS {
            if self.operate_ring(&Fault::ResumeRing).await {
                return;
            }
            runtime::sleep_global(OPERATOR_RETRY).await;
        }
    }

    pub(super) async fn remove_until_done(self: &Arc<Self>, id: HostId) {
        let name = self.hosts.lock()[&id].node_name();
        self.remove_name_until_done(id, &name).await;
    }

    async fn remove_name_until_done(self: &Arc<Self>, id: HostId, name: &str) {
        for _ in 0..OPERATOR_ATTEMPTS {
            if self.remove_name(id, name).await {
                return;
            }
            runtime::sleep_global(OPERATOR_RETRY).await;
        }
    }

    /// A client of the host's node, if one runs.
    pub(crate) fn client(&self, id: HostId) -> Option<Client<SimRuntime>> {
        let process = self.hosts.lock().get(&id)?.process.clone()?;
        Some(Client::new(Target::Memory(process.dialer)))
    }
}

fn outcome<T>(result: &Result<T, ClientError>) -> String {
    match result {
        Ok(_) => "done".into(),
        Err(error) => error.to_string(),
    }
}
