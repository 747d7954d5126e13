//! A fleet on real engines, with a registry.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;
use longshore_model::image::ImageReference;
use longshore_node::api::types::{Action, OperationRequest, OperationView, Strategy};

use crate::cli::{Ended, Running};
use crate::counting_proxy::CountingProxy;
use crate::docker_hosts::DockerHosts;
use crate::fleet::{Fleet, Site};
use crate::http::Http;
use crate::peer::PeerSpec;
use crate::registry::RegistryProxy;
use crate::wait::eventually_value;

/// How long a pull may take.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(90);

/// A fleet with an engine for each peer, a counting proxy before each engine, and a proxy before the registry.
#[derive(Debug)]
pub struct Yard {
    pub fleet: Fleet,
    pub proxies: Vec<CountingProxy>,
    pub registry: RegistryProxy,
    pub hosts: DockerHosts,
    _runtime: tokio::runtime::Runtime,
}

impl Yard {
    pub fn of(count: u8, label: &str, bytes_per_second: u64) -> Self {
        Self::with(count, label, bytes_per_second, |spec| spec)
    }

    /// As [`Yard::of`]; `change` may change what each peer is started with.
    pub fn with(
        count: u8,
        label: &str,
        bytes_per_second: u64,
        change: impl Fn(PeerSpec) -> PeerSpec,
    ) -> Self {
        let hosts = DockerHosts::start(count as usize).expect("engines start");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime for the proxies");
        let site = Site::new(label);
        let context = runtime.enter();
        let registry =
            runtime.block_on(RegistryProxy::start(hosts.registry(), bytes_per_second)).expect("a proxy");
        let sockets: Vec<PathBuf> =
            (0..count as usize).map(|engine| site.path(&format!("engine-{}.sock", engine + 1))).collect();
        let proxies: Vec<CountingProxy> = sockets
            .iter()
            .enumerate()
            .map(|(engine, socket)| CountingProxy::start(socket, hosts.socket(engine)).expect("a proxy"))
            .collect();
        drop(context);
        let fleet = Fleet::on(site, count, |spec| {
            let number: usize = spec.name[1..].parse().expect("peers are named p1, p2, ...");
            let socket = format!("unix://{}", sockets[number - 1].display());
            change(spec.docker(socket))
        });
        Self { fleet, proxies, registry, hosts, _runtime: runtime }
    }

    /// The engine's own id of an image, if it has it.
    pub fn image_id(&self, engine: usize, image: &ImageReference) -> Option<String> {
        let reply = Http::unix(self.hosts.socket(engine))
            .send(Method::GET, &format!("/images/{image}/json"), &[], None)
            .expect("the engine answers");
        if !reply.status.is_success() {
            return None;
        }
        let json: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
        Some(json["Id"].as_str().expect("an image has an id").to_owned())
    }

    pub fn pull(&self, peer: usize, images: &[&ImageReference], strategy: Strategy) -> OperationView {
        let action = Action::Pull { images: images.iter().map(|image| image.to_string()).collect() };
        let request = OperationRequest::new(action, strategy);
        self.fleet.peers[peer].http().submit(&request, None).expect("submitted")
    }

    /// The operation once it has ended, as this peer shows it.
    #[track_caller]
    pub fn wait_ended(&self, peer: usize, id: &str) -> OperationView {
        eventually_value("the operation to end", PULL_TIMEOUT, || {
            let view = self.fleet.peers[peer].http().operation(id).map_err(|error| error.to_string())?;
            if view.state.is_terminal() { Ok(view) } else { Err(format!("{:?}", view.sub_operations)) }
        })
    }

    /// Runs `op pull` at a peer.
    pub fn cli_pull(&self, peer: usize, args: &[&str], images: &[&ImageReference]) -> Ended {
        self.start_cli_pull(peer, args, images).wait(PULL_TIMEOUT)
    }

    pub fn start_cli_pull(&self, peer: usize, args: &[&str], images: &[&ImageReference]) -> Running {
        let images: Vec<String> = images.iter().map(|image| image.to_string()).collect();
        let words = ["op", "pull"].iter().copied().chain(images.iter().map(String::as_str));
        self.fleet.peers[peer].cli(words.chain(args.iter().copied())).start()
    }
}
