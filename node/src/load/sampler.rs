//! Asks the host how it is, now and then.

use std::sync::Arc;
use std::time::Duration;

use longshore_raft::Runtime;
use tokio_util::sync::CancellationToken;

use super::loads::Loads;
use super::probe::HostProbe;

/// How often the host is asked.
const SAMPLE_EVERY: Duration = Duration::from_secs(5);

/// See the module's docs. One per node.
pub(crate) struct Sampler<R: Runtime> {
    pub(crate) probe: Arc<dyn HostProbe>,
    pub(crate) loads: Arc<Loads<R>>,
    pub(crate) stop: CancellationToken,
}

impl<R: Runtime> Sampler<R> {
    pub(crate) async fn run(self) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = R::sleep(pause) => pause = SAMPLE_EVERY,
            }
            let (probe, root) = (Arc::clone(&self.probe), self.loads.engine_root());
            // One that hangs is waited for, and no other is begun: threads would pile up. What it told before is too old soon.
            let asked = R::blocking(move || probe.sample(root.as_deref()));
            let sampled = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                sampled = asked => sampled,
            };
            match sampled.and_then(|sampled| sampled) {
                Ok(sample) => self.loads.take_host(sample),
                Err(error) => tracing::debug!(%error, "the host does not tell how busy it is"),
            }
        }
    }
}
