//! What an engine can do, as names that operations can ask for.

use std::collections::BTreeSet;

use longshore_model::operations::placement::arch_of_go;
use longshore_raft::model::membership::{CAPABILITIES_MAX, CAPABILITY_BYTES_MAX};

use super::EngineInfo;

/// The runtime that NVIDIA's container toolkit adds to an engine.
const NVIDIA: &str = "nvidia";

impl EngineInfo {
    /// `os:linux`, `arch:amd64`, `storage-driver:overlay2`, `cgroup:v2`, `runtime:NAME` for each of its runtimes, and `gpu` if one of them is NVIDIA's. What
    /// is not a short word is left out, and runtimes that are too many.
    pub fn capabilities(&self) -> BTreeSet<String> {
        let gpu = self.runtimes.iter().any(|runtime| runtime == NVIDIA).then(|| "gpu".to_owned());
        let named = |kind: &str, name: &str| (!name.is_empty()).then(|| format!("{kind}:{name}"));
        let cgroup =
            if self.cgroup_version.is_empty() { String::new() } else { format!("v{}", self.cgroup_version) };
        let own = [
            gpu,
            named("os", &self.os),
            named("arch", arch_of_go(&self.arch)),
            named("storage-driver", &self.storage_driver),
            named("cgroup", &cgroup),
        ];
        let runtimes = self.runtimes.iter().filter_map(|runtime| named("runtime", runtime));
        let is_word =
            |name: &String| name.len() <= CAPABILITY_BYTES_MAX && name.bytes().all(|b| b.is_ascii_graphic());
        own.into_iter().flatten().chain(runtimes).filter(is_word).take(CAPABILITIES_MAX).collect()
    }
}

#[cfg(test)]
mod tests {
    use longshore_raft::consensus::runtime::TokioRuntime;

    use super::*;
    use crate::docker::{ContainerEngine, FakeEngine};

    #[tokio::test]
    async fn an_engine_tells_what_it_can_do() {
        let info = FakeEngine::<TokioRuntime>::new("fake").info().await.unwrap();
        let expected = ["arch:amd64", "cgroup:v2", "os:linux", "runtime:runc", "storage-driver:overlay2"];
        assert_eq!(info.capabilities(), expected.map(str::to_owned).into());
        let runtimes = ["io.containerd.runc.v2", "nvidia", "with space", ""].map(str::to_owned).to_vec();
        let info = EngineInfo { runtimes, arch: "x86_64".into(), cgroup_version: String::new(), ..info };
        let expected = ["arch:amd64", "gpu", "os:linux", "runtime:io.containerd.runc.v2", "runtime:nvidia"];
        let expected = expected.into_iter().chain(["storage-driver:overlay2"]).map(str::to_owned);
        assert_eq!(info.capabilities(), expected.collect());
        let runtimes = (0..100).map(|i| format!("r{i:03}")).chain(["x".repeat(100)]).collect();
        let many = EngineInfo { runtimes, ..info }.capabilities();
        assert!(many.len() == CAPABILITIES_MAX && many.contains("os:linux") && many.contains("runtime:r000"));
    }
}
