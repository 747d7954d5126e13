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

#[cfg(test)]
mod tests {
    use longshore_model::container::ContainerSpec;
    use serde_json::{Value, json};

    use super::*;

    fn made(change: impl FnOnce(&mut ContainerSpec)) -> Value {
        let mut spec = ContainerSpec::of("nginx".parse().unwrap());
        change(&mut spec);
        let labels = BTreeMap::from([("dev.longshore.token".to_owned(), "1".to_owned())]);
        let new = NewContainer { name: "web".to_owned(), spec, labels };
        serde_json::to_value(to_be_made(&new)).unwrap()
    }

    #[test]
    fn nothing_is_asked_for_that_was_not() {
        let body = made(|_| {});
        assert_eq!(body["Image"], "nginx:latest");
        assert_eq!(body["Labels"], json!({ "dev.longshore.token": "1" }));
        for absent in ["Cmd", "Entrypoint", "User", "WorkingDir", "StopTimeout", "Tty"] {
            assert_eq!(body[absent], Value::Null, "{absent}");
        }
        for absent in ["Memory", "NanoCpus", "NetworkMode"] {
            assert_eq!(body["HostConfig"][absent], Value::Null, "{absent}");
        }
        assert_eq!(body["HostConfig"]["RestartPolicy"], json!({ "Name": "no" }));
    }

    #[test]
    fn everything_is_asked_for_as_docker_run_does() {
        let body = made(|spec| {
            spec.command = vec!["serve".to_owned()];
            spec.entrypoint = Some(vec![]);
            spec.env = vec!["LEVEL=a=b".parse().unwrap()];
            spec.ports =
                ["8080:80", "[::1]:53:53/udp", "127.0.0.1:8081:80", "9"].map(|p| p.parse().unwrap()).to_vec();
            spec.mounts = ["/etc/app:/app:ro", "data:/data", "/cache", "/frozen:ro"]
                .map(|m| m.parse().unwrap())
                .to_vec();
            spec.restart = RestartPolicy::OnFailure { retries_max: 3 };
            spec.memory_bytes = Some(64 << 20);
            spec.cpu_millis = Some(1500);
            spec.labels = BTreeMap::from([("colour".to_owned(), "blue".to_owned())]);
            spec.user = Some("nobody".to_owned());
            spec.working_dir = Some("/srv".to_owned());
            spec.network = Some("inner".to_owned());
            spec.stop_grace_s = Some(30);
        });
        assert_eq!(body["Cmd"], json!(["serve"]));
        assert_eq!(body["Entrypoint"], json!([""]), "an empty one takes the image's away");
        assert_eq!(body["Env"], json!(["LEVEL=a=b"]));
        assert_eq!(body["Labels"], json!({ "colour": "blue", "dev.longshore.token": "1" }));
        assert_eq!((&body["User"], &body["WorkingDir"]), (&json!("nobody"), &json!("/srv")));
        assert_eq!(body["StopTimeout"], 30);
        assert_eq!(body["ExposedPorts"], json!({ "80/tcp": {}, "53/udp": {}, "9/tcp": {} }));
        assert_eq!(body["Volumes"], json!({ "/cache": {} }));
        let host = &body["HostConfig"];
        let ports = json!({
            "80/tcp": [{ "HostPort": "8080" }, { "HostIp": "127.0.0.1", "HostPort": "8081" }],
            "53/udp": [{ "HostIp": "::1", "HostPort": "53" }],
            "9/tcp": [{ "HostPort": "" }],
        });
        assert_eq!(host["PortBindings"], ports);
        assert_eq!(host["Binds"], json!(["/etc/app:/app:ro", "data:/data"]));
        assert_eq!(host["Mounts"], json!([{ "Target": "/frozen", "Type": "volume", "ReadOnly": true }]));
        assert_eq!(host["RestartPolicy"], json!({ "Name": "on-failure", "MaximumRetryCount": 3 }));
        assert_eq!((&host["Memory"], &host["NanoCpus"]), (&json!(64 << 20), &json!(1_500_000_000)));
        assert_eq!(host["NetworkMode"], "inner");
    }

    fn summary(change: Value) -> ContainerSummary {
        let mut summary = json!({
            "Id": "4f46", "Names": ["/other/alias", "/web"], "Image": "nginx", "ImageID": "sha256:29c9",
            "Created": 1_700_000_000, "State": "running", "Status": "Up 2 minutes (healthy)", "Labels": { "a": "b" },
            "Ports": [
                { "IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" },
                { "IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" },
                { "PrivatePort": 443, "Type": "tcp" },
            ],
        });
        summary.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(summary).unwrap()
    }

    #[test]
    fn lines_of_a_list_are_read() {
        let found = listed_container(summary(json!({}))).unwrap();
        assert_eq!((found.id.as_str(), found.name.as_str(), found.image.as_str()), ("4f46", "web", "nginx"));
        assert_eq!(found.ports, ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp"]);
        assert_eq!((found.state, found.health.as_deref()), (ContainerState::Running, Some("healthy")));
        assert_eq!((found.created_unix_s, found.labels["a"].as_str()), (1_700_000_000, "b"));
        let ended = |status: &str| listed_container(summary(json!({ "State": "exited", "Status": status })));
        let code = |status| ended(status).map(|found| found.state);
        assert_eq!(code("Exited (137) 5 minutes ago"), Some(ContainerState::Exited { code: 137 }));
        assert_eq!(code("Exited (-1) 5 minutes ago"), Some(ContainerState::Exited { code: -1 }));
        assert_eq!(code("Ended"), None, "the engine has to be asked");
        let id_only = summary(json!({ "Image": "sha256:29c9" }));
        assert_eq!(listed_container(id_only), None, "the engine has to be asked what it was made from");
        for (state, expected) in [
            ("created", ContainerState::Created),
            ("paused", ContainerState::Paused),
            ("restarting", ContainerState::Restarting),
            ("removing", ContainerState::Dead),
            ("dead", ContainerState::Dead),
        ] {
            let found = listed_container(summary(json!({ "State": state, "Status": "" }))).unwrap();
            assert_eq!((found.state, found.health), (expected, None));
        }
    }
}
