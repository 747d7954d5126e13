//! What a request asks for, read and checked.

use longshore_model::container::{ContainerSpec, EnvVar, Mount, PortMapping, RestartPolicy};
use longshore_model::image::ImageReference;
use longshore_model::operations::{ContainerTarget, OperationKind, Part, RunSpec, Upkeep};
use longshore_raft::{NodeId, Runtime};

use super::Service;
use super::engines::{Found, copy_of, target};
use crate::api::types::*;

/// By how its parts come to be.
pub(super) enum AskedFor {
    /// Work that the nodes are chosen for.
    Images(OperationKind),
    /// Containers, as many as are placed.
    Run(Box<RunSpec>),
    /// What is done where each container is.
    Containers(OperationKind, Vec<NodeId>),
}

fn invalid(error: impl ToString) -> ApiError {
    ApiError::new(ErrorCode::Invalid, error.to_string())
}

impl AskedFor {
    pub(super) fn kind(&self) -> OperationKind {
        match self {
            Self::Images(kind) | Self::Containers(kind, _) => kind.clone(),
            Self::Run(run) => OperationKind::Run(run.clone()),
        }
    }

    /// With as many copies as there are parts; as asked for if there are none, for then it is to be refused.
    pub(super) fn into_kind(self, parts: u32) -> OperationKind {
        match self {
            Self::Images(kind) | Self::Containers(kind, _) => kind,
            Self::Run(run) => OperationKind::Run(Box::new(RunSpec {
                copies: if parts == 0 { run.copies } else { parts },
                ..*run
            })),
        }
    }
}

/// A part for each container, where it is.
pub(super) fn each_at(nodes: &[NodeId]) -> Vec<Part> {
    nodes.iter().zip(0..).map(|(node, work)| Part { node: *node, work, why: None }).collect()
}

impl<R: Runtime> Service<R> {
    pub(super) async fn asked_for(
        &self,
        action: Action,
        on: &[String],
        copies: u32,
    ) -> Result<AskedFor, ApiError> {
        Ok(match action {
            Action::Pull { images } => {
                AskedFor::Images(OperationKind::Pull { images: parse_images(&images)? })
            }
            Action::Push { images } => AskedFor::Images(OperationKind::Push { images: parse_tags(&images)? }),
            Action::Tag { source, targets } => AskedFor::Images(OperationKind::Tag {
                source: parse_image(&source)?,
                targets: parse_tags(&targets)?,
            }),
            Action::Build(build) => {
                AskedFor::Images(OperationKind::Build(Box::new(self.build_spec(*build).await?)))
            }
            Action::Run(run) => AskedFor::Run(Box::new(run_spec(*run, copies)?)),
            Action::Stop { containers, grace_s } => {
                let (containers, nodes) = self.targets(&containers, on).await?;
                AskedFor::Containers(OperationKind::Stop { containers, grace_s }, nodes)
            }
            Action::Start { containers } => {
                let (containers, nodes) = self.targets(&containers, on).await?;
                AskedFor::Containers(OperationKind::Start { containers }, nodes)
            }
            Action::Rm { containers, force } => {
                let (containers, nodes) = self.targets(&containers, on).await?;
                AskedFor::Containers(OperationKind::Remove { containers, force }, nodes)
            }
        })
    }

    /// The containers that the names mean, and where they are; none that the fleet would only start again.
    async fn targets(
        &self,
        names: &[String],
        on: &[String],
    ) -> Result<(Vec<ContainerTarget>, Vec<NodeId>), ApiError> {
        if names.is_empty() {
            return Err(invalid("there is no container named"));
        }
        let on = match on {
            [] => None,
            [one] => Some(one.as_str()),
            _ => return Err(invalid("containers are looked for on one node, or on all")),
        };
        let found: Vec<Found> = self.containers_named(names, on, true).await?;
        let fleet = self.core.fleet.to_string();
        let copies =
            found.iter().filter_map(|(_, container)| Some((copy_of(container, &fleet)?.run, container)));
        let copies: Vec<_> = copies.collect();
        if !copies.is_empty() {
            // What was left of a run that is gone goes by itself, but a person may be faster.
            let kept = self.kept().await?;
            if let Some((run, container)) =
                copies.iter().find(|(run, _)| kept.iter().any(|kept| kept.run == *run))
            {
                let message =
                    format!("container {} is a copy of run {run}, which the fleet keeps up", container.name);
                return Err(ApiError::new(ErrorCode::Conflict, message).hint(format!(
                    "stop or remove the run: `longshore op stop {run}`, `longshore op rm {run}`"
                )));
            }
        }
        Ok(found.iter().map(|(node, container)| (target(container), *node)).unzip())
    }
}

fn parse_image(text: &str) -> Result<ImageReference, ApiError> {
    text.parse::<ImageReference>().map_err(invalid)
}

fn parse_images(images: &[String]) -> Result<Vec<ImageReference>, ApiError> {
    images.iter().map(|text| parse_image(text)).collect()
}

/// A digest follows from what an image is; nobody can choose it.
fn parse_tags(images: &[String]) -> Result<Vec<ImageReference>, ApiError> {
    let images = parse_images(images)?;
    match images.iter().find(|image| image.digest().is_some()) {
        Some(image) => {
            Err(invalid(format!("{image} names a digest; a name that is given or pushed has a tag")))
        }
        None => Ok(images),
    }
}

fn run_spec(run: RunRequest, copies: u32) -> Result<RunSpec, ApiError> {
    let restart = run.restart.as_deref().map(str::parse::<RestartPolicy>).transpose().map_err(invalid)?;
    if run.keep && restart.is_some_and(|restart| restart != RestartPolicy::No) {
        let error = invalid("either the fleet keeps a container up, or its engine restarts it");
        return Err(error
            .hint("leave the restart policy away: what the fleet keeps up is started again when it fails"));
    }
    let parse_all =
        |texts: &[String]| texts.iter().map(|text| text.parse::<EnvVar>()).collect::<Result<Vec<_>, _>>();
    let container = ContainerSpec {
        image: parse_image(&run.image)?,
        command: run.command,
        entrypoint: run.entrypoint,
        env: parse_all(&run.env).map_err(invalid)?,
        ports: run
            .ports
            .iter()
            .map(|text| text.parse::<PortMapping>())
            .collect::<Result<_, _>>()
            .map_err(invalid)?,
        mounts: run
            .volumes
            .iter()
            .map(|text| text.parse::<Mount>())
            .collect::<Result<_, _>>()
            .map_err(invalid)?,
        restart: restart.unwrap_or_default(),
        memory_bytes: run.memory_bytes,
        cpu_millis: run.cpu_millis,
        labels: run.labels,
        user: run.user,
        working_dir: run.working_dir,
        network: run.network,
        stop_grace_s: run.stop_grace_s,
    };
    let upkeep = if run.keep { Upkeep::Keep } else { Upkeep::None };
    let spec = RunSpec { container, name: run.name, copies, upkeep };
    spec.check().map_err(invalid)?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RunRequest {
        RunRequest { image: "web:1".into(), ..RunRequest::default() }
    }

    #[test]
    fn a_run_is_read_as_docker_run_reads_it() {
        let run = RunRequest {
            name: Some("web".into()),
            env: vec!["A=b".into()],
            ports: vec!["8080:80".into()],
            volumes: vec!["data:/var".into()],
            restart: Some("on-failure:3".into()),
            cpu_millis: Some(500),
            ..request()
        };
        let spec = run_spec(run, 2).unwrap();
        assert_eq!((spec.copies, spec.upkeep, spec.name.as_deref()), (2, Upkeep::None, Some("web")));
        assert_eq!(spec.container.restart, RestartPolicy::OnFailure { retries_max: 3 });
        assert_eq!(spec.container.ports[0].to_string(), "8080:80");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let cases = [
            (RunRequest { image: "Web".into(), ..request() }, "Web"),
            (RunRequest { name: Some("a b".into()), ..request() }, "a b"),
            (RunRequest { env: vec!["A".into()], ..request() }, "variable"),
            (RunRequest { ports: vec!["x:80".into()], ..request() }, "port"),
            (RunRequest { volumes: vec!["./a:/b".into()], ..request() }, "volume"),
            (RunRequest { restart: Some("never".into()), ..request() }, "restart policy"),
            (RunRequest { restart: Some("always".into()), keep: true, ..request() }, "either the fleet"),
            (RunRequest { memory_bytes: Some(1), ..request() }, "6 MiB"),
        ];
        for (request, why) in cases {
            let refused = run_spec(request, 1).unwrap_err();
            assert!(refused.code == ErrorCode::Invalid && refused.message.contains(why), "{why}: {refused}");
        }
    }
}
