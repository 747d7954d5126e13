//! Three members of Debian's `etcd-server` on one network of loopback addresses.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::grpc::Etcd;
use crate::address::Subnet;
use crate::wait::eventually_value;

/// Clients come over unix sockets, as Longshore's do. etcd names the file after host and port, in its working folder.
const SOCKET: &str = "localhost:2379";
const PEER_PORT: u16 = 2380;
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Killed, by their process ids, when dropped.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Child>,
    pub endpoints: Vec<PathBuf>,
}

/// What `etcd --version` says on its first line.
pub fn version() -> Result<String> {
    let output = Command::new("etcd").arg("--version").output().context("cannot run etcd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or("unknown").trim_start_matches("etcd Version:").trim().to_owned())
}

impl EtcdCluster {
    /// Starts three members with etcd's defaults and waits until they have a leader that commits.
    pub fn start(dir: &Path, net: &Subnet) -> Result<Self> {
        let numbers = 1..=3u8;
        let url = |host: Ipv4Addr| format!("http://{host}:{PEER_PORT}");
        let cluster: Vec<String> = numbers.clone().map(|n| format!("m{n}={}", url(net.host(n)))).collect();
        let mut this = Self { members: Vec::new(), endpoints: Vec::new() };
        for number in numbers {
            let (name, host) = (format!("m{number}"), net.host(number));
            let home = dir.join(&name);
            std::fs::create_dir(&home)?;
            let log = std::fs::File::create(dir.join(format!("{name}.log")))?;
            let child = Command::new("etcd")
                .args(["--name", &name, "--initial-cluster-state", "new"])
                .args(["--initial-cluster", &cluster.join(",")])
                .args(["--listen-client-urls", &format!("unix://{SOCKET}")])
                .args(["--advertise-client-urls", &format!("unix://{SOCKET}")])
                .args(["--listen-peer-urls", &url(host)])
                .args(["--initial-advertise-peer-urls", &url(host)])
                .args(["--data-dir", "data"])
                .current_dir(&home)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .context("cannot start etcd; its Debian package is etcd-server")?;
            this.members.push(child);
            this.endpoints.push(home.join(SOCKET));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        for endpoint in &this.endpoints {
            eventually_value(&format!("etcd at {} to commit", endpoint.display()), READY_TIMEOUT, || {
                let put = async { Etcd::connect(endpoint).await?.put(b"ready", b"yes").await };
                runtime.block_on(put).map_err(|error| error.to_string())
            });
        }
        Ok(this)
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.kill();
        }
        for member in &mut self.members {
            let _ = member.wait();
        }
    }
}
