//! This node's own word on where it is and which engine answers: proposed when it differs from the record.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::control::{Command, Reply};
use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::model::membership::{Announcement, EngineFacts, EngineReport};
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::docker::EngineInfo;

/// How often the engine is asked whether it is there. A lost engine shows at once when it is used; this is for the listing.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How long the engine may take to answer before it counts as unavailable.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

pub(crate) struct Announcer<R: Runtime> {
    pub(crate) core: Arc<Core<R>>,
    pub(crate) address: SocketAddr,
    pub(crate) zone: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) weight: u32,
    pub(crate) stop: CancellationToken,
}

impl<R: Runtime> Announcer<R> {
    pub(crate) async fn run(self) {
        self.until_admitted().await;
        loop {
            let engine = self.probe().await;
            self.announce_if_changed(engine).await;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = R::sleep(PROBE_EVERY) => {}
            }
        }
    }

    /// Resolves when this copy of the state has caught up with this node's own admission, or the node stops.
    async fn until_admitted(&self) {
        let mut seen = 0;
        while self.core.group.with_state(|s| s.membership.get(self.core.me).is_none()) {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                version = self.core.group.changed(seen) => seen = version,
            }
        }
    }

    async fn probe(&self) -> EngineReport {
        let Some(engine) = &self.core.engine else { return EngineReport::NotConfigured };
        let asked = R::Instant::now();
        let reason = match R::timeout(PROBE_TIMEOUT, engine.info()).await {
            Ok(Ok(info)) => {
                self.core.loads.engine_answered(R::Instant::now() - asked, Path::new(&info.root_dir));
                let capabilities = info.capabilities();
                let EngineInfo { version, api_version, arch, cpus, memory_bytes, .. } = info;
                let facts = EngineFacts { arch, cpus, memory_bytes, capabilities };
                return EngineReport::Ready { version, api_version, facts };
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the Docker engine did not answer within {} s", PROBE_TIMEOUT.as_secs()),
        };
        self.core.loads.engine_silent();
        EngineReport::Unavailable { reason }
    }

    async fn announce_if_changed(&self, engine: EngineReport) {
        let version = env!("CARGO_PKG_VERSION");
        let current = self.core.group.with_state(|state| {
            let me = state.membership.get(self.core.me)?;
            let same = me.profile.address == self.address
                && me.profile.zone == self.zone
                && me.profile.region == self.region
                && me.profile.version == version
                && me.profile.weight == self.weight
                && me.engine == engine;
            Some(same)
        });
        if current != Some(false) {
            return;
        }
        if let EngineReport::Unavailable { reason } = &engine {
            tracing::warn!(%reason, "the Docker engine is not available");
        }
        let said = Announcement {
            address: self.address,
            zone: self.zone.clone(),
            region: self.region.clone(),
            version: version.to_owned(),
            weight: self.weight,
            engine,
        };
        let command = Command::Announce { node: self.core.me, said };
        match self.core.group.propose(command).await {
            Ok(Reply::Done) => {}
            Ok(other) => tracing::warn!(?other, "the fleet refused this node's announcement"),
            Err(error) => tracing::debug!(%error, "cannot announce; trying again"),
        }
    }
}
