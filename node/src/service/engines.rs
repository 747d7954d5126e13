//! What the engines of the fleet have, whoever made it: listings, and the containers that a name means.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use longshore_model::container::{CopyOf, Origin};
use longshore_model::operations::ContainerTarget;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::EngineReport;
use longshore_raft::{NodeId, Runtime};

use super::Service;
use super::nodes::no_such_node;
use super::views::name_of;
use crate::api::types::*;
use crate::docker::{Container, ContainerState};
use crate::engines::{CallError, CallErrorKind, EngineCall, EngineReply, Listing, SeenLast};

/// Engines that are asked at a time.
const ASKED_AT_ONCE: usize = 16;
/// Hexadecimal digits of an id that are enough to mean a container.
const ID_DIGITS_MIN: usize = 4;

pub(super) fn call_error(error: CallError) -> ApiError {
    let code = match error.kind {
        CallErrorKind::NotFound => ErrorCode::NotFound,
        CallErrorKind::Conflict | CallErrorKind::Unavailable => ErrorCode::Conflict,
        CallErrorKind::Busy => ErrorCode::Busy,
        CallErrorKind::Other => ErrorCode::Internal,
    };
    ApiError::new(code, error.message)
}

/// Nodes that did not answer, and why.
type Missing = Vec<(NodeId, String)>;

/// What every node answered, and those that did not.
pub(super) struct Asked<T> {
    pub(super) items: Vec<(NodeId, T)>,
    /// Nodes whose engine did not answer, of which these are what it had when it was heard last.
    stale: Vec<(NodeId, SeenLast)>,
    pub(super) missing: Missing,
}

impl<T> Asked<T> {
    /// Without what is of an engine that did not answer: that shows what there was, and is nothing to act on.
    fn fresh(mut self) -> Self {
        for (node, seen) in std::mem::take(&mut self.stale) {
            self.items.retain(|(of, _)| *of != node);
            self.missing.push((node, seen.why));
        }
        self
    }
}

/// A container, and where it is.
pub(super) type Found = (NodeId, Container);

impl<R: Runtime> Service<R> {
    /// The nodes to ask: one, or all members. Those without an engine are left out.
    fn nodes_to_ask(&self, on: Option<&str>) -> Result<(Vec<NodeId>, Missing), ApiError> {
        self.core.group.with_state(|state| {
            if let Some(on) = on {
                // Whatever its standing: a node that is drained is just what one looks at.
                let node = match on {
                    "self" => self.core.me,
                    _ => state.membership.resolve(on).map_err(no_such_node)?.id,
                };
                return Ok((vec![node], Vec::new()));
            }
            let (mut ask, mut missing) = (Vec::new(), Vec::new());
            for node in state.membership.members() {
                match (&node.engine, self.core.peer_state(node.id)) {
                    (EngineReport::NotConfigured, _) => {}
                    (_, PeerState::Failed) => missing.push((node.id, "the node is dead".to_owned())),
                    _ => ask.push(node.id),
                }
            }
            Ok((ask, missing))
        })
    }

    /// Asks the engine of every node, some at a time; in the order of the nodes.
    async fn ask_all<T>(
        &self,
        on: Option<&str>,
        call: EngineCall,
        unpack: fn(EngineReply) -> Option<Listing<T>>,
    ) -> Result<Asked<T>, ApiError> {
        let (nodes, missing) = self.nodes_to_ask(on)?;
        let asked = nodes.into_iter().map(|node| {
            let (engines, call) = (self.work.engines.clone(), call.clone());
            async move { (node, engines.ask(node, call).await) }
        });
        let mut answers = futures_util::stream::iter(asked).buffered(ASKED_AT_ONCE);
        let mut all = Asked { items: Vec::new(), stale: Vec::new(), missing };
        while let Some((node, answer)) = answers.next().await {
            match answer.map(unpack) {
                Ok(Some(listing)) => {
                    if listing.cut {
                        all.missing.push((node, "it has more than fit into a message".to_owned()));
                    }
                    all.stale.extend(listing.last_seen.map(|seen| (node, seen)));
                    all.items.extend(listing.items.into_iter().map(|item| (node, item)));
                }
                Ok(None) => all.missing.push((node, "it gave an answer that makes no sense here".to_owned())),
                Err(error) => all.missing.push((node, error.message)),
            }
        }
        Ok(all)
    }

    async fn all_containers(&self, on: Option<&str>) -> Result<Asked<Container>, ApiError> {
        self.ask_all(on, EngineCall::Containers, |reply| match reply {
            EngineReply::Containers(list) => Some(list),
            _ => None,
        })
        .await
    }

    fn missing_view(&self, missing: Missing) -> Vec<MissingNode> {
        self.core.group.with_state(|state| {
            missing.into_iter().map(|(node, why)| MissingNode { node: name_of(state, node), why }).collect()
        })
    }

    fn stale_view(&self, stale: Vec<(NodeId, SeenLast)>) -> Vec<StaleNode> {
        let now_ms = R::unix_time_ms();
        self.core.group.with_state(|state| {
            let view = |(node, seen): (NodeId, SeenLast)| StaleNode {
                node: name_of(state, node),
                as_of_ms: now_ms.saturating_sub(seen.age_ms),
                why: seen.why,
            };
            stale.into_iter().map(view).collect()
        })
    }

    pub(super) async fn container_list(&self, query: EngineQuery) -> Result<ContainerList, ApiError> {
        let asked = self.all_containers(query.on.as_deref()).await?;
        let fleet = self.core.fleet.to_string();
        let containers = self.core.group.with_state(|state| {
            let view = |(node, container)| container_view(name_of(state, node), container, &fleet);
            asked.items.into_iter().map(view).collect()
        });
        let (stale, missing) = (self.stale_view(asked.stale), self.missing_view(asked.missing));
        Ok(ContainerList { containers, stale, missing })
    }

    pub(super) async fn image_list(&self, query: EngineQuery) -> Result<ImageList, ApiError> {
        let unpack = |reply| match reply {
            EngineReply::Images(list) => Some(list),
            _ => None,
        };
        let asked = self.ask_all(query.on.as_deref(), EngineCall::Images, unpack).await?;
        let images = self.core.group.with_state(|state| {
            let images = asked.items.into_iter().map(|(node, image)| ImageView {
                node: name_of(state, node),
                id: image.id,
                tags: image.tags,
                size_bytes: image.size_bytes,
                created_at_ms: image.created_unix_s.saturating_mul(1_000),
            });
            images.collect()
        });
        let (stale, missing) = (self.stale_view(asked.stale), self.missing_view(asked.missing));
        Ok(ImageList { images, stale, missing })
    }

    pub(super) async fn volume_list(&self, query: EngineQuery) -> Result<VolumeList, ApiError> {
        let unpack = |reply| match reply {
            EngineReply::Volumes(list) => Some(list),
            _ => None,
        };
        let asked = self.ask_all(query.on.as_deref(), EngineCall::Volumes, unpack).await?;
        let volumes = self.core.group.with_state(|state| {
            let volumes = asked.items.into_iter().map(|(node, volume)| VolumeView {
                node: name_of(state, node),
                name: volume.name,
                driver: volume.driver,
            });
            volumes.collect()
        });
        let (stale, missing) = (self.stale_view(asked.stale), self.missing_view(asked.missing));
        Ok(VolumeList { volumes, stale, missing })
    }

    /// The containers that these names mean: by name, by id or the beginning of one, or all of a run that is kept up, by its name or id. Each has to
    /// mean something; a name that containers of several nodes have by chance means none.
    pub(super) async fn containers_named(
        &self,
        names: &[String],
        on: Option<&str>,
        for_change: bool,
    ) -> Result<Vec<Found>, ApiError> {
        let asked = self.all_containers(on).await?.fresh();
        let fleet = self.core.fleet.to_string();
        let mut chosen: BTreeMap<(NodeId, String), Container> = BTreeMap::new();
        for name in names {
            let fitting: Vec<&Found> = asked.items.iter().filter(|(_, c)| means(name, c, &fleet)).collect();
            let exact: Vec<&Found> =
                fitting.iter().copied().filter(|(_, c)| c.name == *name || c.id == *name).collect();
            let by_name_alone = !exact.is_empty();
            let mut fitting = if by_name_alone { exact } else { fitting };
            // Nodes may share an engine: whoever made it, or the first.
            fitting.sort_by_key(|(node, c)| (c.id.clone(), Origin::made_by(&c.labels) != Some(*node), *node));
            fitting.dedup_by_key(|(_, c)| c.id.clone());
            if for_change && !by_name_alone && !asked.missing.is_empty() {
                return Err(self.not_all_seen(name, &asked.missing));
            }
            if fitting.is_empty() {
                return Err(self.nothing_named(name, on, &asked.missing));
            }
            let copies = |(_, c): &&Found| {
                Origin::of(&c.labels, &c.name, &fleet).map(|o| o.kept.map_or(o.sub.operation, |k| k.run))
            };
            let first = copies(&fitting[0]);
            if fitting.len() > 1 && (first.is_none() || fitting.iter().any(|found| copies(found) != first)) {
                return Err(self.ambiguous(name, &fitting));
            }
            for (node, container) in fitting {
                chosen.insert((*node, container.id.clone()), container.clone());
            }
        }
        Ok(chosen.into_iter().map(|((node, _), container)| (node, container)).collect())
    }

    fn nothing_named(&self, name: &str, on: Option<&str>, missing: &[(NodeId, String)]) -> ApiError {
        let place = on.map_or("on any node that answered".to_owned(), |on| format!("on {on}"));
        let message = format!("there is no container {name:?} {place}");
        let error = ApiError::new(ErrorCode::NotFound, message);
        match missing {
            [] => error.hint("`longshore op ps` lists the containers"),
            missing => {
                let names = self.missing_view(missing.to_vec());
                let names: Vec<String> = names.into_iter().map(|missing| missing.node).collect();
                error.hint(format!("not all nodes were seen: {} did not answer", names.join(", ")))
            }
        }
    }

    /// Half of what is meant would be changed, and the other half not, without a word.
    fn not_all_seen(&self, name: &str, missing: &[(NodeId, String)]) -> ApiError {
        let names = self.missing_view(missing.to_vec());
        let names: Vec<String> = names.into_iter().map(|missing| missing.node).collect();
        let message =
            format!("not all that {name:?} could mean is seen: {} did not answer", names.join(", "));
        ApiError::new(ErrorCode::Conflict, message).hint("name a container in full, or a node with --on")
    }

    fn ambiguous(&self, name: &str, fitting: &[&Found]) -> ApiError {
        let places: Vec<String> = self.core.group.with_state(|state| {
            let place = |(node, c): &&Found| format!("{} on {}", c.name, name_of(state, *node));
            fitting.iter().map(place).collect()
        });
        let message = format!("{name:?} means several containers: {}", places.join(", "));
        ApiError::new(ErrorCode::Conflict, message).hint("say which: by its id, or with --on NODE")
    }
}

/// Whether a name could mean a container.
fn means(name: &str, container: &Container, fleet: &str) -> bool {
    let is_id = name.len() >= ID_DIGITS_MIN && name.bytes().all(|b| b.is_ascii_hexdigit());
    if container.name == name || (is_id && container.id.starts_with(&name.to_ascii_lowercase())) {
        return true;
    }
    let Some(origin) = Origin::of(&container.labels, &container.name, fleet) else { return false };
    let of = origin.kept.map_or(origin.sub.operation, |copy| copy.run);
    let is_copy = container.name.strip_prefix(name).is_some_and(|rest| {
        rest.strip_prefix('.').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    });
    is_copy || of.to_string() == name
}

/// As an operation names it.
pub(super) fn target(container: &Container) -> ContainerTarget {
    ContainerTarget { id: container.id.clone(), name: container.name.clone() }
}

/// Which copy of a run that is kept up a container is.
pub(super) fn copy_of(container: &Container, fleet: &str) -> Option<CopyOf> {
    Origin::of(&container.labels, &container.name, fleet)?.kept
}

fn container_view(node: String, container: Container, fleet: &str) -> ContainerView {
    let origin = Origin::of(&container.labels, &container.name, fleet);
    let (state, exit_code) = match container.state {
        ContainerState::Created => (ContainerStateView::Created, None),
        ContainerState::Running => (ContainerStateView::Running, None),
        ContainerState::Paused => (ContainerStateView::Paused, None),
        ContainerState::Restarting => (ContainerStateView::Restarting, None),
        ContainerState::Exited { code } => (ContainerStateView::Exited, Some(code)),
        ContainerState::Dead => (ContainerStateView::Dead, None),
    };
    ContainerView {
        node,
        id: container.id,
        name: container.name,
        image: container.image,
        state,
        exit_code,
        health: container.health,
        ports: container.ports,
        created_at_ms: container.created_unix_s.saturating_mul(1_000),
        operation: origin.map(|origin| origin.sub.operation.to_string()),
        run: origin.and_then(|origin| origin.kept).map(|copy| copy.run.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::operations::SubKey;

    use super::*;

    fn container(name: &str, labels: BTreeMap<String, String>) -> Container {
        Container {
            id: "ab12".repeat(16),
            name: name.into(),
            image: "web:1".into(),
            state: ContainerState::Running,
            labels,
            created_unix_s: 0,
            ports: Vec::new(),
            health: None,
        }
    }

    #[test]
    fn names_ids_and_runs_mean_containers() {
        let operation = "op-1-2-3".parse().unwrap();
        let origin = Origin { sub: SubKey { operation, index: 0 }, token: 1, kept: None };
        let ours = container("web.1", origin.labels("f", NodeId(1), "web.1"));
        for name in ["web.1", "web", "op-1-2-3", "ab12", "AB12ab"] {
            assert!(means(name, &ours, "f"), "{name}");
        }
        for name in ["we", "web.", "web.2", "ab1", "op-1-2-4", "b12a", ""] {
            assert!(!means(name, &ours, "f"), "{name}");
        }
        let theirs = container("web.1", BTreeMap::new());
        assert!(
            means("web.1", &theirs, "f") && !means("web", &theirs, "f"),
            "a stranger's has its name only"
        );
        assert!(!means("web.x", &container("web.x.y", origin.labels("f", NodeId(1), "web.x.y")), "f"));
    }
}
