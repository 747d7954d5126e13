//! Containers: what one is made of, as people write it, and the labels by which the fleet knows its own.
//!
//! Must never: know of an engine, or make a container that an engine would read otherwise than `docker run` does.

mod labels;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bincode::{Decode, Encode};

pub use labels::{CopyOf, LABEL_PREFIX, Origin};

use crate::image::ImageReference;

/// Longest name of a container that is asked for: what the fleet adds to it must fit into a DNS label.
pub const NAME_BYTES_MAX: usize = 48;
/// Most items of a kind in one container: words of its command, variables, ports, mounts, labels.
pub const ITEMS_MAX: usize = 256;
/// Most bytes of all texts of one container. It is in the log, and in every snapshot while its operation is kept.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// Least memory of a container: Docker's own limit.
pub const MEMORY_MIN: u64 = 6 * 1024 * 1024;

/// What `docker run` takes, of what the fleet can carry out on any host.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ContainerSpec {
    pub image: ImageReference,
    /// Empty: what the image says.
    pub command: Vec<String>,
    /// `None`: what the image says.
    pub entrypoint: Option<Vec<String>>,
    pub env: Vec<EnvVar>,
    pub ports: Vec<PortMapping>,
    pub mounts: Vec<Mount>,
    pub restart: RestartPolicy,
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u32>,
    pub labels: BTreeMap<String, String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub network: Option<String>,
    /// Time between the polite signal and the one that ends it; the engine's default if there is none.
    pub stop_grace_s: Option<u32>,
}

/// `NAME=VALUE`. The name is not empty and has no `=` and no NUL.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct EnvVar {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// `[IP:][HOST_PORT:]PORT[/udp]`: a port of the container that the host answers for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct PortMapping {
    /// Of the host; all of its addresses if there is none.
    pub ip: Option<IpAddr>,
    /// Of the host; any free one if there is none.
    pub host_port: Option<u16>,
    pub port: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum MountSource {
    /// A folder or file of the host, by its absolute path.
    Host(String),
    /// A volume of the engine, made if it is not there.
    Volume(String),
    /// A volume without a name, the container's own.
    Anonymous,
}

/// `[SOURCE:]TARGET[:ro]`
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Mount {
    pub source: MountSource,
    /// Absolute, in the container.
    pub target: String,
    pub read_only: bool,
}

/// What the engine itself does when the container ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub enum RestartPolicy {
    #[default]
    No,
    /// So often at most; for ever if 0.
    OnFailure {
        retries_max: u32,
    },
    Always,
    UnlessStopped,
}

/// Why a container can not be what was asked for. The text is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("{0:?} is not a port such as 8080:80, 127.0.0.1:53:53/udp or 80")]
    Port(String),
    #[error(
        "{0:?} is not a volume such as data:/var/lib/data, /etc/app:/etc/app:ro or /cache; paths are absolute"
    )]
    Mount(String),
    #[error("{0:?} is not a restart policy: no, on-failure, on-failure:N, always or unless-stopped")]
    Restart(String),
    #[error("{0:?} is not a variable such as LEVEL=debug")]
    Env(String),
    #[error(
        "{0:?} is not a container's name: 2 to {NAME_BYTES_MAX} of A-Z a-z 0-9 . _ - beginning with a letter or digit"
    )]
    Name(String),
    #[error("labels that begin with {LABEL_PREFIX} are the fleet's own")]
    Label,
    #[error("two of the container's {0} are the same: {1}")]
    Twice(&'static str, String),
    #[error("a container can have {ITEMS_MAX} {0} at most")]
    TooMany(&'static str),
    #[error("the texts of a container (command, variables, labels) can have {TEXT_BYTES_MAX} bytes at most")]
    TooLong,
    #[error("a container needs 6 MiB of memory at least")]
    Memory,
    #[error("a container needs some processor time")]
    Cpus,
}

/// Checks a name that is asked for, by the rule of [`SpecError::Name`].
pub fn check_name(name: &str) -> Result<(), SpecError> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let fine = name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    match first && fine && (2..=NAME_BYTES_MAX).contains(&name.len()) {
        true => Ok(()),
        false => Err(SpecError::Name(name.to_owned())),
    }
}

impl ContainerSpec {
    /// A container of the image, with nothing asked for.
    pub fn of(image: ImageReference) -> Self {
        Self {
            image,
            command: Vec::new(),
            entrypoint: None,
            env: Vec::new(),
            ports: Vec::new(),
            mounts: Vec::new(),
            restart: RestartPolicy::No,
            memory_bytes: None,
            cpu_millis: None,
            labels: BTreeMap::new(),
            user: None,
            working_dir: None,
            network: None,
            stop_grace_s: None,
        }
    }

    /// The limits, and what an engine would refuse on every host.
    pub fn check(&self) -> Result<(), SpecError> {
        let counts = [
            ("words in its command", self.command.len()),
            ("words in its entrypoint", self.entrypoint.as_ref().map_or(0, Vec::len)),
            ("variables", self.env.len()),
            ("ports", self.ports.len()),
            ("volumes", self.mounts.len()),
            ("labels", self.labels.len()),
        ];
        if let Some((what, _)) = counts.iter().find(|(_, count)| *count > ITEMS_MAX) {
            return Err(SpecError::TooMany(what));
        }
        if self.labels.keys().any(|key| key.starts_with(LABEL_PREFIX)) {
            return Err(SpecError::Label);
        }
        if self.text_bytes() > TEXT_BYTES_MAX {
            return Err(SpecError::TooLong);
        }
        if self.memory_bytes.is_some_and(|bytes| bytes < MEMORY_MIN) {
            return Err(SpecError::Memory);
        }
        if self.cpu_millis == Some(0) {
            return Err(SpecError::Cpus);
        }
        let host_ports = self.ports.iter().filter(|port| port.host_port.is_some());
        if let Some(port) = twice(host_ports.map(|p| (p.ip, p.host_port, p.protocol)).collect()) {
            return Err(SpecError::Twice("ports of the host", port.1.unwrap_or(0).to_string()));
        }
        match twice(self.mounts.iter().map(|mount| mount.target.as_str()).collect()) {
            Some(target) => Err(SpecError::Twice("volumes", target.to_owned())),
            None => Ok(()),
        }
    }

    /// Bytes of all its texts, the image aside.
    pub fn text_bytes(&self) -> usize {
        let words = self.command.iter().chain(self.entrypoint.iter().flatten());
        let env = self.env.iter().flat_map(|var| [&var.name, &var.value]);
        let labels = self.labels.iter().flat_map(|(key, value)| [key, value]);
        let mounts = self.mounts.iter().map(|mount| &mount.target);
        let sources = self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Host(text) | MountSource::Volume(text) => Some(text),
            MountSource::Anonymous => None,
        });
        let single = [&self.user, &self.working_dir, &self.network].into_iter().flatten();
        words.chain(env).chain(labels).chain(mounts).chain(sources).chain(single).map(String::len).sum()
    }
}

fn twice<T: Ord + Copy>(mut items: Vec<T>) -> Option<T> {
    items.sort_unstable();
    items.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
}
