//! What operations do, and the pieces of work that they have.

use bincode::{Decode, Encode};

use super::build::BuildSpec;
use super::record::OperationId;
use crate::container::{ContainerSpec, CopyOf, SpecError, check_name};
use crate::image::ImageReference;

/// Most pieces of work of one operation that is about images.
pub const IMAGES_MAX: usize = 64;
/// Most containers that one operation makes, ends or removes.
pub const CONTAINERS_MAX: usize = 1_024;

/// What is to be done. What is about images may be begun again, and by two nodes at once. (A name that moves is an exception of sorts: an
/// attempt that is repeated can give or send it once more after another operation has moved it on.)
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum OperationKind {
    Pull {
        images: Vec<ImageReference>,
    },
    Push {
        images: Vec<ImageReference>,
    },
    /// Further names for an image that the engine has.
    Tag {
        source: ImageReference,
        targets: Vec<ImageReference>,
    },
    /// Makes an image.
    Build(Box<BuildSpec>),
    /// Containers, all alike.
    Run(Box<RunSpec>),
    /// Ends the processes of containers.
    Stop {
        containers: Vec<ContainerTarget>,
        /// Time between the polite signal and the one that ends it.
        grace_s: Option<u32>,
    },
    /// Starts containers that are there and do not run.
    Start {
        containers: Vec<ContainerTarget>,
    },
    /// Takes containers away.
    Remove {
        containers: Vec<ContainerTarget>,
        /// Those too that run.
        force: bool,
    },
}

/// Containers to be run.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RunSpec {
    pub container: ContainerSpec,
    /// What they are called: as it is if there is one, followed by `.1`, `.2` and so on if there are more.
    pub name: Option<String>,
    pub copies: u32,
    pub upkeep: Upkeep,
}

/// What the fleet does for a container once it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Upkeep {
    /// Nothing: it is its engine's.
    None,
    /// Keeps all copies running, elsewhere if need be.
    Keep,
    /// This one takes the place of a copy that was lost.
    Replaces(CopyOf),
}

/// A container that is there.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ContainerTarget {
    /// The engine's id of it: names can be given to another one.
    pub id: String,
    /// For people.
    pub name: String,
}

impl RunSpec {
    pub fn check(&self) -> Result<(), SpecError> {
        self.container.check()?;
        match (&self.name, self.upkeep) {
            // Made of one that was checked.
            (_, Upkeep::Replaces(_)) | (None, _) => Ok(()),
            (Some(name), _) => check_name(name),
        }
    }

    /// What the copy of this number is called, in the run `of`.
    pub fn container_name(&self, of: OperationId, copy: u32) -> String {
        let base = self.name.clone().unwrap_or_else(|| format!("longshore-{of}"));
        match self.copies {
            1 => base,
            _ => format!("{base}.{}", copy + 1),
        }
    }
}

impl OperationKind {
    /// What [`Self::name`] can be.
    pub const NAMES: [&'static str; 8] = ["pull", "push", "tag", "build", "run", "stop", "start", "rm"];

    pub fn name(&self) -> &'static str {
        match self {
            Self::Pull { .. } => "pull",
            Self::Push { .. } => "push",
            Self::Tag { .. } => "tag",
            Self::Build(_) => "build",
            Self::Run(_) => "run",
            Self::Stop { .. } => "stop",
            Self::Start { .. } => "start",
            Self::Remove { .. } => "rm",
        }
    }

    /// How many pieces of work it has.
    pub fn works(&self) -> usize {
        match self {
            Self::Pull { images } | Self::Push { images } => images.len(),
            Self::Tag { targets, .. } => targets.len(),
            Self::Build(_) => 1,
            Self::Run(run) => run.copies as usize,
            Self::Stop { containers, .. } | Self::Start { containers } | Self::Remove { containers, .. } => {
                containers.len()
            }
        }
    }

    /// How many it can have.
    pub fn works_max(&self) -> usize {
        match self {
            Self::Pull { .. } | Self::Push { .. } | Self::Tag { .. } => IMAGES_MAX,
            Self::Build(_) => 1,
            Self::Run(_) | Self::Stop { .. } | Self::Start { .. } | Self::Remove { .. } => CONTAINERS_MAX,
        }
    }

    /// Bytes of what was asked for, without images.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Pull { .. } | Self::Push { .. } | Self::Tag { .. } => 0,
            Self::Build(build) => build.text_bytes(),
            Self::Run(run) => run.container.text_bytes(),
            Self::Stop { containers, .. } | Self::Start { containers } | Self::Remove { containers, .. } => {
                containers.iter().map(|container| container.id.len() + container.name.len()).sum()
            }
        }
    }

    /// Whether a piece of it may be begun by a node while another one may still be at it.
    pub fn may_run_twice(&self) -> bool {
        matches!(self, Self::Pull { .. } | Self::Push { .. } | Self::Tag { .. } | Self::Build(_))
    }

    /// Whether another node could do it instead. What is about a container is done where the container is.
    pub fn may_move(&self) -> bool {
        self.may_run_twice() || matches!(self, Self::Run(_))
    }

    /// A piece of work by its place, in the order of the request. `of` is the operation.
    pub fn work(&self, of: OperationId, place: u32) -> Option<Work> {
        let at = place as usize;
        Some(match self {
            Self::Pull { images } => Work::Pull(images.get(at)?.clone()),
            Self::Push { images } => Work::Push(images.get(at)?.clone()),
            Self::Tag { source, targets } => {
                Work::Tag { source: source.clone(), target: targets.get(at)?.clone() }
            }
            Self::Build(build) if place == 0 => Work::Build(build.clone()),
            Self::Build(_) => return None,
            Self::Run(run) if place < run.copies => Work::Run {
                name: run.container_name(of, place),
                container: Box::new(run.container.clone()),
                kept: run.copy_of(of, place),
            },
            Self::Run(_) => return None,
            Self::Stop { containers, grace_s } => {
                Work::Stop { container: containers.get(at)?.clone(), grace_s: *grace_s }
            }
            Self::Start { containers } => Work::Start { container: containers.get(at)?.clone() },
            Self::Remove { containers, force } => {
                Work::Remove { container: containers.get(at)?.clone(), force: *force }
            }
        })
    }

    /// What a piece of work is about, for people: see [`Work::subject`].
    pub fn subject(&self, of: OperationId, place: u32) -> String {
        match self {
            Self::Build(build) => build.subject(),
            Self::Run(run) => run.container_name(of, place),
            _ => self.work(of, place).map_or_else(String::new, |work| work.subject()),
        }
    }

    pub fn images(&self) -> Vec<&ImageReference> {
        match self {
            Self::Pull { images } | Self::Push { images } => images.iter().collect(),
            Self::Tag { source, targets } => std::iter::once(source).chain(targets).collect(),
            Self::Build(build) => build.tags.iter().collect(),
            Self::Run(run) => vec![&run.container.image],
            Self::Stop { .. } | Self::Start { .. } | Self::Remove { .. } => Vec::new(),
        }
    }

    /// The images that an engine is to have for it: one for each piece of work, or one that is all the work's, or none.
    pub fn images_used(&self) -> Vec<&ImageReference> {
        match self {
            Self::Tag { source, .. } => vec![source],
            _ => self.images(),
        }
    }

    /// The containers that it is about, by the names that it knew them by.
    pub fn containers(&self, of: OperationId) -> Vec<String> {
        match self {
            Self::Pull { .. } | Self::Push { .. } | Self::Tag { .. } | Self::Build(_) => Vec::new(),
            Self::Run(run) => (0..run.copies).map(|copy| run.container_name(of, copy)).collect(),
            Self::Stop { containers, .. } | Self::Start { containers } | Self::Remove { containers, .. } => {
                containers.iter().map(|container| container.name.clone()).collect()
            }
        }
    }
}

impl RunSpec {
    /// Which copy that the fleet keeps its piece of work is, if it keeps it.
    pub fn copy_of(&self, of: OperationId, place: u32) -> Option<CopyOf> {
        match self.upkeep {
            Upkeep::None => None,
            Upkeep::Keep => Some(CopyOf { run: of, copy: place }),
            Upkeep::Replaces(copy) => Some(copy),
        }
    }
}

/// What a node does for a sub-operation: one piece of an operation's work.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Work {
    Pull(ImageReference),
    Push(ImageReference),
    Tag { source: ImageReference, target: ImageReference },
    Build(Box<BuildSpec>),
    Run { name: String, container: Box<ContainerSpec>, kept: Option<CopyOf> },
    Stop { container: ContainerTarget, grace_s: Option<u32> },
    Start { container: ContainerTarget },
    Remove { container: ContainerTarget, force: bool },
}

impl Work {
    /// What it is about, for people: the image that it brings, sends or names, or the container.
    pub fn subject(&self) -> String {
        match self {
            Self::Pull(image) | Self::Push(image) | Self::Tag { target: image, .. } => image.familiar(),
            Self::Build(build) => build.subject(),
            Self::Run { name, .. } => name.clone(),
            Self::Stop { container, .. } | Self::Start { container } | Self::Remove { container, .. } => {
                container.name.clone()
            }
        }
    }
}
