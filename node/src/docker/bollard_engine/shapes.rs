//! Between the port's words for containers and those of the Docker API. Pure.

use std::collections::BTreeMap;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerState as DockerState, ContainerStateStatusEnum,
    ContainerSummary, ContainerSummaryStateEnum, HealthStatusEnum, HostConfig, Mount, MountType, PortBinding,
    PortMap, RestartPolicy as DockerPolicy, RestartPolicyNameEnum,
};
use longshore_model::container::{MountSource, PortMapping, Protocol, RestartPolicy};

use super::super::{Container, ContainerState, NewContainer};
use super::containers::unix_time;

const NANO_CPUS_PER_MILLI: i64 = 1_000_000;

/// What `docker run` asks for.
pub(super) fn to_be_made(container: &NewContainer) -> ContainerCreateBody {
    let spec = &container.spec;
    let mut labels = spec.labels.clone();
    labels.extend(container.labels.clone());
    let ports: Vec<(String, PortBinding)> = spec.ports.iter().map(bound).collect();
    let mut bindings = PortMap::default();
    for (port, binding) in ports.iter().cloned() {
        bindings.entry(port).or_default().get_or_insert_default().push(binding);
    }
    ContainerCreateBody {
        image: Some(spec.image.familiar()),
        cmd: some_if(spec.command.clone(), !spec.command.is_empty()),
        // An empty list means what the image says, an empty word means nothing.
        entrypoint: spec.entrypoint.clone().map(|words| match words.is_empty() {
            true => vec![String::new()],
            false => words,
        }),
        env: Some(spec.env.iter().map(ToString::to_string).collect()),
        exposed_ports: Some(bindings.keys().cloned().collect()),
        volumes: Some(spec.mounts.iter().filter_map(unnamed).collect()),
        working_dir: spec.working_dir.clone(),
        user: spec.user.clone(),
        labels: Some(labels.into_iter().collect()),
        stop_timeout: spec.stop_grace_s.map(i64::from),
        host_config: Some(HostConfig {
            binds: Some(spec.mounts.iter().filter_map(named).collect()),
            mounts: Some(spec.mounts.iter().filter_map(unnamed_read_only).collect()),
            port_bindings: Some(bindings),
            restart_policy: Some(policy(spec.restart)),
            memory: spec.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            nano_cpus: spec.cpu_millis.map(|millis| i64::from(millis) * NANO_CPUS_PER_MILLI),
            network_mode: spec.network.clone(),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn some_if<T>(value: T, is: bool) -> Option<T> {
    is.then_some(value)
}

fn bound(mapping: &PortMapping) -> (String, PortBinding) {
    let PortMapping { ip, host_port, port, protocol } = *mapping;
    let protocol = match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let binding = PortBinding {
        host_ip: ip.map(|ip| ip.to_string()),
        host_port: Some(host_port.map_or_else(String::new, |port| port.to_string())),
    };
    (format!("{port}/{protocol}"), binding)
}

/// A mount in `docker run`'s own spelling; Docker makes what is missing at its source.
fn named(mount: &longshore_model::container::Mount) -> Option<String> {
    match mount.source {
        MountSource::Host(_) | MountSource::Volume(_) => Some(mount.to_string()),
        MountSource::Anonymous => None,
    }
}

fn unnamed(mount: &longshore_model::container::Mount) -> Option<String> {
    let unnamed = mount.source == MountSource::Anonymous && !mount.read_only;
    some_if(mount.target.clone(), unnamed)
}

/// `docker run --volume` has no such thing, `--mount` has.
fn unnamed_read_only(mount: &longshore_model::container::Mount) -> Option<Mount> {
    let unnamed = mount.source == MountSource::Anonymous && mount.read_only;
    let asked = Mount {
        target: Some(mount.target.clone()),
        typ: Some(MountType::VOLUME),
        read_only: Some(true),
        ..Mount::default()
    };
    some_if(asked, unnamed)
}

fn policy(restart: RestartPolicy) -> DockerPolicy {
    let (name, retries) = match restart {
        RestartPolicy::No => (RestartPolicyNameEnum::NO, None),
        RestartPolicy::OnFailure { retries_max } => {
            (RestartPolicyNameEnum::ON_FAILURE, Some(retries_max.into()))
        }
        RestartPolicy::Always => (RestartPolicyNameEnum::ALWAYS, None),
        RestartPolicy::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
    };
    DockerPolicy { name: Some(name), maximum_retry_count: retries }
}

/// From all that the engine says of one container.
pub(super) fn container(found: ContainerInspectResponse) -> Container {
    let config = found.config.unwrap_or_default();
    let docker_state = found.state.unwrap_or_default();
    let settings = found.network_settings.unwrap_or_default();
    let mut ports = Vec::new();
    for (port, bindings) in settings.ports.unwrap_or_default() {
        for PortBinding { host_ip, host_port } in bindings.unwrap_or_default() {
            ports.push(shown_port(host_ip.as_deref(), host_port.as_deref().unwrap_or_default(), &port));
        }
    }
    ports.sort_unstable();
    let health = docker_state.health.as_ref().and_then(|health| match health.status {
        Some(HealthStatusEnum::HEALTHY) => Some("healthy".to_owned()),
        Some(HealthStatusEnum::UNHEALTHY) => Some("unhealthy".to_owned()),
        _ => None,
    });
    let state = state(&docker_state);
    Container {
        id: found.id.unwrap_or_default(),
        name: bare(&found.name.unwrap_or_default()),
        image: config.image.unwrap_or_default(),
        state,
        labels: config.labels.unwrap_or_default().into_iter().collect(),
        created_unix_s: found.created.as_deref().and_then(unix_time).map_or(0, |at| at.as_secs()),
        ports,
        health: health.filter(|_| state.is_up()),
    }
}

pub(super) fn state(state: &DockerState) -> ContainerState {
    use ContainerStateStatusEnum as Status;
    match state.status {
        Some(Status::CREATED) => ContainerState::Created,
        Some(Status::RUNNING | Status::STOPPING) => ContainerState::Running,
        Some(Status::PAUSED) => ContainerState::Paused,
        Some(Status::RESTARTING) => ContainerState::Restarting,
        Some(Status::REMOVING | Status::DEAD) => ContainerState::Dead,
        Some(Status::EXITED | Status::EMPTY) | None => {
            ContainerState::Exited { code: state.exit_code.unwrap_or_default() }
        }
    }
}

/// From a line of a list. `None` if that leaves out what is asked for: how it ended, or what it was made from.
pub(super) fn listed_container(summary: ContainerSummary) -> Option<Container> {
    use ContainerSummaryStateEnum as Status;
    let status = summary.status.unwrap_or_default();
    let state = match summary.state? {
        Status::CREATED => ContainerState::Created,
        Status::RUNNING | Status::STOPPING => ContainerState::Running,
        Status::PAUSED => ContainerState::Paused,
        Status::RESTARTING => ContainerState::Restarting,
        Status::REMOVING | Status::DEAD => ContainerState::Dead,
        Status::EXITED => ContainerState::Exited { code: exit_code(&status)? },
        Status::EMPTY => return None,
    };
    // Whose image has lost its name, or given it to another, is listed with the image's id.
    let image = summary.image.filter(|image| summary.image_id.as_ref() != Some(image))?;
    let mut ports = Vec::new();
    for port in summary.ports.unwrap_or_default() {
        let Some(host_port) = port.public_port else { continue };
        let protocol = port.typ.map_or_else(|| "tcp".to_owned(), |typ| typ.to_string());
        let inside = format!("{}/{protocol}", port.private_port);
        ports.push(shown_port(port.ip.as_deref(), &host_port.to_string(), &inside));
    }
    ports.sort_unstable();
    let health = match () {
        () if status.ends_with("(healthy)") => Some("healthy".to_owned()),
        () if status.ends_with("(unhealthy)") => Some("unhealthy".to_owned()),
        () => None,
    };
    // Those of links have a second slash.
    let names = summary.names.unwrap_or_default();
    let own = names.iter().find(|name| !bare(name).contains('/'))?;
    Some(Container {
        id: summary.id?,
        name: bare(own),
        image,
        state,
        labels: BTreeMap::from_iter(summary.labels.unwrap_or_default()),
        created_unix_s: summary.created.and_then(|at| u64::try_from(at).ok()).unwrap_or(0),
        ports,
        health: health.filter(|_| state.is_up()),
    })
}

/// Of `Exited (137) 5 minutes ago`.
fn exit_code(status: &str) -> Option<i64> {
    let rest = status.strip_prefix("Exited (")?;
    rest.split_once(')')?.0.parse().ok()
}

/// The name without the slash that the API puts before it.
fn bare(name: &str) -> String {
    name.strip_prefix('/').unwrap_or(name).to_owned()
}

fn shown_port(ip: Option<&str>, host_port: &str, inside: &str) -> String {
    match ip {
        Some(ip) if ip.contains(':') => format!("[{ip}]:{host_port}->{inside}"),
        Some(ip) if !ip.is_empty() => format!("{ip}:{host_port}->{inside}"),
        _ => format!("0.0.0.0:{host_port}->{inside}"),
    }
}
