//! What is to be seen, out of what the node answered. Pure.

use crate::api::types::{
    EngineView, NodeList, NodeState, NodeView, OperationView, PlacementView, RingView, StatusView,
};
use crate::cli::{node, op, output, progress, ring};

/// One question that is asked of the node again and again, each by itself: where one is slow, the others go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Status,
    Nodes,
    Ring,
    Operations,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Self::Status, Self::Nodes, Self::Ring, Self::Operations];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Nodes => "nodes",
            Self::Ring => "groups",
            Self::Operations => "operations",
        }
    }
}

/// What the node last answered to each question.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    pub(super) status: Option<StatusView>,
    pub(super) nodes: Option<NodeList>,
    pub(super) ring: Option<RingView>,
    pub(super) operations: Option<Vec<OperationView>>,
}

impl Answers {
    pub(super) fn has(&self, part: Part) -> bool {
        match part {
            Part::Status => self.status.is_some(),
            Part::Nodes => self.nodes.is_some(),
            Part::Ring => self.ring.is_some(),
            Part::Operations => self.operations.is_some(),
        }
    }
}

/// How a thing is, told by a colour where there are colours, and always by words beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tone {
    Bad,
    Warning,
    Active,
    Good,
    Plain,
}

/// The first lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) fleet: String,
    /// The node that answers.
    pub(super) asked: String,
    pub(super) leader: Option<String>,
    pub(super) term: u64,
    /// None: not known yet.
    pub(super) has_quorum: Option<bool>,
    pub(super) nodes_alive: u32,
    pub(super) nodes_total: u32,
    pub(super) voters: u32,
    pub(super) groups: usize,
    pub(super) groups_stuck: usize,
    pub(super) groups_moving: usize,
    pub(super) is_paused: bool,
    /// Commands a second, over all groups.
    pub(super) load: u64,
    pub(super) warnings: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct NodeRow {
    pub(super) name: String,
    pub(super) is_self: bool,
    pub(super) state: (&'static str, Tone),
    pub(super) role: &'static str,
    pub(super) engine: (String, Tone),
    /// Of processors, memory and disk, how much is in use.
    pub(super) used: [String; 3],
    /// Groups; none if the ring is not known.
    pub(super) leads: Option<u32>,
    pub(super) replicas: Option<u32>,
    /// Commands a second in the groups that it leads, as far as their leaders have said.
    pub(super) load: Option<u64>,
    pub(super) seen: String,
    pub(super) zone: String,
    pub(super) view: NodeView,
}

/// A group that is not as it should be.
#[derive(Debug, Clone)]
pub(super) struct GroupRow {
    pub(super) id: String,
    pub(super) leader: String,
    pub(super) members: String,
    pub(super) what: (String, Tone),
    pub(super) view: PlacementView,
}

#[derive(Debug, Clone)]
pub(super) struct OperationRow {
    pub(super) id: String,
    pub(super) kind: String,
    pub(super) state: (&'static str, Tone),
    /// 0 to 1.
    pub(super) done: f64,
    pub(super) ended: usize,
    pub(super) parts: usize,
    pub(super) images: String,
    pub(super) view: OperationView,
}

/// Everything that is to be seen of the fleet.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    pub(super) header: Header,
    pub(super) nodes: Vec<NodeRow>,
    pub(super) groups: Vec<GroupRow>,
    pub(super) operations: Vec<OperationRow>,
}

impl Picture {
    pub(super) fn of(answers: &Answers) -> Self {
        let nodes = answers.nodes.as_ref().map_or(&[][..], |list| &list.nodes);
        let operations = answers.operations.as_deref().unwrap_or_default();
        Self {
            header: header(answers),
            nodes: nodes.iter().map(|node| node_row(node, answers.ring.as_ref())).collect(),
            groups: answers.ring.as_ref().map_or(Vec::new(), |ring| group_rows(ring, nodes)),
            operations: operations.iter().map(operation_row).collect(),
        }
    }
}

fn header(answers: &Answers) -> Header {
    let mut header = Header::default();
    if let Some(status) = &answers.status {
        header.fleet = output::one_line(&status.fleet);
        header.asked = output::one_line(&status.name);
        header.leader = status.leader.as_deref().map(output::one_line);
        header.term = status.term;
        (header.nodes_alive, header.nodes_total) = (status.nodes_alive, status.nodes_total);
        header.voters = status.voters;
        header.warnings = status.warnings.iter().map(|warning| output::one_line(warning)).collect();
    }
    if let Some(ring) = &answers.ring {
        header.groups = ring.groups.len();
        header.groups_stuck = ring.groups.iter().filter(|group| !group.stuck_without.is_empty()).count();
        header.groups_moving = ring.groups.iter().filter(|group| group.change.is_some()).count();
        header.is_paused = ring.paused;
        header.load = ring.groups.iter().map(|group| group.load).sum();
    }
    // Each of the two says whether it was read with a quorum.
    let stale = [answers.nodes.as_ref().map(|list| list.stale), answers.ring.as_ref().map(|ring| ring.stale)];
    header.has_quorum = stale.into_iter().flatten().reduce(|one, other| one || other).map(|stale| !stale);
    header
}

fn node_tone(state: NodeState) -> Tone {
    match state {
        NodeState::Alive => Tone::Good,
        NodeState::Suspect => Tone::Warning,
        NodeState::Failed => Tone::Bad,
        NodeState::Left => Tone::Plain,
    }
}

fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Alive => "alive",
        NodeState::Suspect => "suspect",
        NodeState::Failed => "failed",
        NodeState::Left => "left",
    }
}

fn node_row(node: &NodeView, ring: Option<&RingView>) -> NodeRow {
    let in_ring = ring.and_then(|ring| ring.nodes.iter().find(|member| member.name == node.name));
    let led = |group: &&PlacementView| group.leader.as_deref() == Some(&node.name);
    let engine_tone = match node.engine {
        EngineView::Unavailable { .. } => Tone::Bad,
        EngineView::Ready { .. } | EngineView::NotConfigured | EngineView::Unknown => Tone::Plain,
    };
    NodeRow {
        name: output::one_line(&node.name),
        is_self: node.is_self,
        state: (state_word(node.state), node_tone(node.state)),
        role: output::role(node.role),
        engine: (output::one_line(&output::engine(&node.engine).0), engine_tone),
        used: output::used(node.load.as_ref()),
        leads: in_ring.map(|member| member.leaders),
        replicas: in_ring.map(|member| member.replicas),
        load: ring.map(|ring| ring.groups.iter().filter(led).map(|group| group.load).sum()),
        seen: node.last_seen_ms.map_or(output::NONE.to_owned(), output::ago),
        zone: node.zone.as_deref().map_or(output::NONE.to_owned(), output::one_line),
        view: node.clone(),
    }
}

/// The groups that are not healthy, the worst first.
fn group_rows(ring: &RingView, nodes: &[NodeView]) -> Vec<GroupRow> {
    let unhealthy = ring.groups.iter().filter_map(|group| Some((group, ailment(group, ring, nodes)?)));
    let mut rows: Vec<GroupRow> = unhealthy
        .map(|(group, what)| GroupRow {
            id: output::one_line(&group.group),
            leader: group.leader.as_deref().map_or(output::NONE.to_owned(), output::one_line),
            members: output::one_line(&group.members.join(", ")),
            what: (output::one_line(&what.0), what.1),
            view: group.clone(),
        })
        .collect();
    rows.sort_by_key(|row| row.what.1);
    rows
}

/// What is wrong with a group, the worst of it.
fn ailment(group: &PlacementView, ring: &RingView, nodes: &[NodeView]) -> Option<(String, Tone)> {
    if !group.stuck_without.is_empty() {
        return Some((format!("no quorum: {} missing", group.stuck_without.join(", ")), Tone::Bad));
    }
    if let Some(why) = &group.failure {
        return Some((format!("not open here: {why}"), Tone::Bad));
    }
    let state_of = |name: &String| nodes.iter().find(|node| node.name == *name).map(|node| node.state);
    let away = group.members.iter().filter_map(|name| match state_of(name)? {
        NodeState::Alive => None,
        state => Some(format!("{name} {}", state_word(state))),
    });
    let away: Vec<String> = away.collect();
    if !away.is_empty() {
        return Some((away.join(", "), Tone::Warning));
    }
    if group.leader.is_none() {
        return Some(("no leader known".to_owned(), Tone::Warning));
    }
    if group.change.is_some() {
        return Some((ring::change(group).0, Tone::Active));
    }
    let (has, wants) = (group.members.len(), ring.replicas as usize);
    (has < wants).then(|| (format!("{has} of {wants} replicas"), Tone::Warning))
}

fn operation_row(operation: &OperationView) -> OperationRow {
    let subs = &operation.sub_operations;
    let ended = subs.iter().filter(|sub| progress::is_ended(sub.state)).count();
    let share = |sub| {
        let (position, length) = progress::fill(sub);
        position as f64 / length as f64
    };
    // What has failed is over, however far it came.
    let done: f64 = subs.iter().map(|sub| if progress::is_ended(sub.state) { 1.0 } else { share(sub) }).sum();
    let tone = if operation.state.is_terminal() { Tone::Plain } else { Tone::Active };
    OperationRow {
        id: output::one_line(&operation.id),
        kind: output::one_line(&operation.kind),
        state: (operation.state.name(), tone),
        done: if subs.is_empty() { 0.0 } else { done / subs.len() as f64 },
        ended,
        parts: subs.len(),
        images: output::one_line(
            &operation.images.iter().map(|image| familiar(image)).collect::<Vec<_>>().join(", "),
        ),
        view: operation.clone(),
    }
}

/// An image as people write it: there is little room for where every name begins.
fn familiar(image: &str) -> &str {
    image.strip_prefix("docker.io/library/").unwrap_or(image)
}

/// Everything about one thing, in lines.
pub(super) fn details_of_node(row: &NodeRow) -> String {
    let count = |number: Option<u32>| number.map_or(output::NONE.to_owned(), |number| number.to_string());
    let load = row.load.map_or(output::NONE.to_owned(), |load| load.to_string());
    let ring = output::fields(&[
        ("leads", format!("{} groups, about {load} commands a second", count(row.leads))),
        ("replicas", count(row.replicas)),
    ]);
    // First what is nowhere else: all of it is more than a small screen.
    format!("{ring}\n{}", node::render(&row.view))
}

pub(super) fn details_of_group(row: &GroupRow) -> String {
    let group = &row.view;
    let names = |names: &[String]| if names.is_empty() { output::NONE.to_owned() } else { names.join(", ") };
    let mut pairs = vec![
        ("group", group.group.clone()),
        ("partitions", format!("{} to {}", group.partitions.first, group.partitions.last)),
        ("is not well", row.what.0.clone()),
        ("leader", group.leader.clone().unwrap_or_else(|| "none known".to_owned())),
        ("members", names(&group.members)),
        ("should be on", names(&group.target)),
        ("load", format!("about {} commands a second", group.load)),
    ];
    if let Some(change) = &group.change {
        pairs.push(("change", format!("{}\nit waits for {}", ring::change(group).0, change.waits_for)));
    }
    if let Some(failure) = &group.failure {
        pairs.push(("here", format!("not open: {failure}")));
    }
    format!("{}\nMore: longshore group inspect {}\n", output::fields(&pairs), group.group)
}

pub(super) fn details_of_operation(row: &OperationRow) -> String {
    op::render(&row.view, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake;
    use crate::api::types::{OperationState, SubOperationState};

    #[test]
    fn what_a_group_ails() {
        let ring = fake::ring(false);
        let nodes = ["alpha", "beta", "gamma"]
            .map(|name| NodeView { state: NodeState::Alive, ..fake::node(1, name) });
        let healthy = PlacementView {
            leader: Some("alpha".into()),
            change: None,
            stuck_without: vec![],
            failure: None,
            members: ["alpha", "beta", "gamma"].map(String::from).to_vec(),
            ..ring.groups[0].clone()
        };
        let of = |group: &PlacementView, nodes: &[NodeView]| ailment(group, &ring, nodes);
        assert_eq!(of(&healthy, &nodes), None);
        let ill = PlacementView { leader: None, ..healthy.clone() };
        assert_eq!(of(&ill, &nodes), Some(("no leader known".into(), Tone::Warning)));
        let ill = PlacementView { members: vec!["alpha".into(), "beta".into()], ..healthy.clone() };
        assert_eq!(of(&ill, &nodes), Some(("2 of 3 replicas".into(), Tone::Warning)));
        let ill = PlacementView { failure: Some("bad disk".into()), ..healthy.clone() };
        assert_eq!(of(&ill, &nodes), Some(("not open here: bad disk".into(), Tone::Bad)));
        let mut some_away = nodes.to_vec();
        some_away[1].state = NodeState::Failed;
        assert_eq!(of(&healthy, &some_away), Some(("beta failed".into(), Tone::Warning)));
        let stuck = PlacementView { stuck_without: vec!["beta".into(), "gamma".into()], ..healthy };
        assert_eq!(of(&stuck, &some_away), Some(("no quorum: beta, gamma missing".into(), Tone::Bad)));
    }

    #[test]
    fn an_operation_is_as_far_as_its_parts_are_on_average() {
        let mut view = fake::operation("op1", OperationState::Running);
        assert_eq!(operation_row(&view).done, 0.0);
        (view.sub_operations[0].current_bytes, view.sub_operations[0].total_bytes) = (3, 4);
        assert_eq!(operation_row(&view).done, 0.375);
        view.sub_operations[1].state = SubOperationState::Failed;
        let row = operation_row(&view);
        assert_eq!((row.done, row.ended, row.parts), (0.875, 1, 2));
        view.sub_operations.clear();
        assert_eq!(operation_row(&view).done, 0.0);
    }

    #[test]
    fn a_quorum_is_what_both_listings_were_read_with() {
        let mut answers = Answers::default();
        assert_eq!(header(&answers).has_quorum, None);
        answers.nodes = Some(NodeList { nodes: vec![], stale: false });
        assert_eq!(header(&answers).has_quorum, Some(true));
        answers.ring = Some(RingView { stale: true, ..fake::ring(false) });
        assert_eq!(header(&answers).has_quorum, Some(false));
    }

    #[test]
    fn text_from_elsewhere_reaches_no_terminal() {
        let mut node = fake::node(1, "a\u{1b}[31mb");
        node.zone = Some("z\n".into());
        let row = node_row(&node, None);
        assert_eq!((row.name.as_str(), row.zone.as_str(), row.load), ("a [31mb", "z ", None));
    }
}
