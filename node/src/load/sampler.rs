//! Asks the host how it is, now and then.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use longshore_raft::Runtime;
use tokio_util::sync::CancellationToken;

use super::loads::{EngineRoot, Loads};
use super::probe::{HostProbe, HostSample};

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
                () = self.loads.root_told() => {}
                () = R::sleep(pause) => {}
            }
            pause = SAMPLE_EVERY;
            let (probe, root) = (Arc::clone(&self.probe), self.loads.engine_root());
            // One that hangs is waited for, and no other is begun: threads would pile up. What it told before is too old soon.
            let asked = R::blocking(move || sample(&*probe, &root));
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

fn sample(probe: &dyn HostProbe, root: &EngineRoot) -> io::Result<HostSample> {
    match root {
        EngineRoot::At(root) => probe.sample(Some(root)),
        EngineRoot::Elsewhere => probe.sample(None),
        // Which disk it will be is not known, and another disk's room is no answer.
        EngineRoot::Untold => Ok(HostSample { disk_bytes: 0, disk_free_bytes: 0, ..probe.sample(None)? }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use longshore_raft::NodeId;
    use longshore_raft::consensus::runtime::{AsyncRuntime as _, TokioRuntime};

    use super::super::probe::FixedHost;
    use super::*;

    /// Of any runtime: of a named one the compiler can not show that the futures may be sent.
    fn start<R: Runtime>(loads: &Arc<Loads<R>>) {
        let probe = Arc::new(FixedHost::half_free());
        drop(R::spawn(Sampler { probe, loads: Arc::clone(loads), stop: CancellationToken::new() }.run()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_disk_is_not_told_before_it_is_known_which_one_it_is() {
        let moment = || TokioRuntime::sleep(Duration::from_secs(1));
        let of = |loads: &Arc<Loads<TokioRuntime>>| loads.of(NodeId(1)).map(|seen| seen.load);
        let loads = Loads::<TokioRuntime>::new(NodeId(1), true);
        start(&loads);
        moment().await;
        let load = of(&loads).expect("the host was asked");
        assert_eq!((load.disk_bytes, load.disk_free(), load.memory_bytes), (0, None, 8 << 30));
        loads.engine_answered(Duration::ZERO, Path::new("/var/lib/docker"));
        moment().await;
        assert_eq!(of(&loads).and_then(|load| load.disk_free()), Some(32 << 30), "the host is asked at once");
        // Without an engine it is the node's own.
        let loads = Loads::<TokioRuntime>::new(NodeId(1), false);
        start(&loads);
        moment().await;
        assert_eq!(of(&loads).and_then(|load| load.disk_free()), Some(32 << 30));
    }
}
