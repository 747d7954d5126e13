//! What `longshore top` knows and where the person is in it: answers, panes, the row chosen, what is open. Pure: time is passed in.

use std::collections::BTreeMap;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{self, Answers, Part, Picture};
use crate::api::types::{NodeList, OperationView, RingView, StatusView};
use crate::cli::output;

/// A node that has said nothing for so long is said not to answer.
const SILENT_MS: u64 = 3_000;

/// One answer, or why there is none.
#[derive(Debug)]
pub(super) enum Answer {
    Status(Box<StatusView>),
    Nodes(NodeList),
    Ring(Box<RingView>),
    Operations(Vec<OperationView>),
    Failed(Part, String),
}

impl Answer {
    fn part(&self) -> Part {
        match self {
            Self::Status(_) => Part::Status,
            Self::Nodes(_) => Part::Nodes,
            Self::Ring(_) => Part::Ring,
            Self::Operations(_) => Part::Operations,
            Self::Failed(part, _) => *part,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pane {
    Nodes,
    Groups,
    Operations,
}

impl Pane {
    pub(super) const ALL: [Self; 3] = [Self::Nodes, Self::Groups, Self::Operations];

    pub(super) fn index(self) -> usize {
        Self::ALL.iter().position(|pane| *pane == self).expect("all are listed")
    }

    fn after(self, steps: usize) -> Self {
        Self::ALL[(self.index() + steps) % Self::ALL.len()]
    }
}

/// What lies over the panes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Open {
    Nothing,
    Help {
        scroll: usize,
    },
    /// Of one row, by its name or id: rows come and go.
    Details {
        pane: Pane,
        id: String,
        scroll: usize,
    },
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    Quit,
}

#[derive(Debug)]
pub(super) struct State {
    /// The node that is asked, as it is written for `--host`.
    pub(super) target: String,
    pub(super) has_colour: bool,
    answers: Answers,
    pub(super) picture: Picture,
    /// When the status last came; the beginning counts.
    heard_ms: u64,
    problems: BTreeMap<Part, String>,
    pub(super) focus: Pane,
    chosen: [usize; 3],
    pub(super) open: Open,
}

impl State {
    pub(super) fn new(target: String, has_colour: bool) -> Self {
        Self {
            target,
            has_colour,
            answers: Answers::default(),
            picture: Picture::default(),
            heard_ms: 0,
            problems: BTreeMap::new(),
            focus: Pane::Nodes,
            chosen: [0; 3],
            open: Open::Nothing,
        }
    }

    /// Takes an answer in. A failure leaves what was known before as it is.
    pub(super) fn take(&mut self, answer: Answer, now_ms: u64) {
        let part = answer.part();
        self.problems.remove(&part);
        match answer {
            Answer::Status(status) => {
                self.heard_ms = now_ms;
                self.answers.status = Some(*status);
            }
            Answer::Nodes(nodes) => self.answers.nodes = Some(nodes),
            Answer::Ring(ring) => self.answers.ring = Some(*ring),
            Answer::Operations(operations) => self.answers.operations = Some(operations),
            Answer::Failed(part, why) => {
                self.problems.insert(part, output::one_line(&why));
            }
        }
        self.picture = Picture::of(&self.answers);
    }

    pub(super) fn knows(&self, pane: Pane) -> bool {
        self.answers.has(match pane {
            Pane::Nodes => Part::Nodes,
            Pane::Groups => Part::Ring,
            Pane::Operations => Part::Operations,
        })
    }

    pub(super) fn rows(&self, pane: Pane) -> usize {
        match pane {
            Pane::Nodes => self.picture.nodes.len(),
            Pane::Groups => self.picture.groups.len(),
            Pane::Operations => self.picture.operations.len(),
        }
    }

    /// The row that is chosen in a pane; there may be none.
    pub(super) fn chosen(&self, pane: Pane) -> usize {
        self.chosen[pane.index()].min(self.rows(pane).saturating_sub(1))
    }

    /// What is wrong with the answers, the worst of it.
    pub(super) fn problem(&self, now_ms: u64) -> Option<String> {
        let silent_ms = now_ms.saturating_sub(self.heard_ms);
        let status = self.problems.get(&Part::Status);
        if status.is_some() || silent_ms >= SILENT_MS {
            let why = status.map_or_else(|| format!("{} does not answer", self.target), Clone::clone);
            let last = if self.answers.status.is_some() { "; this is the last picture" } else { "" };
            return Some(format!("no answer for {}{last}: {why}", output::span(silent_ms)));
        }
        let (part, why) = self.problems.first_key_value()?;
        let how = if self.answers.has(*part) { "are as they were before" } else { "are not known" };
        Some(format!("{} {how}: {why}", part.name()))
    }

    /// The lines of what is open, with its title.
    pub(super) fn details(&self) -> Option<(String, String)> {
        let Open::Details { pane, id, .. } = &self.open else { return None };
        let picture = &self.picture;
        let (what, text) = match pane {
            Pane::Nodes => {
                ("node", picture.nodes.iter().find(|row| row.name == *id).map(model::details_of_node))
            }
            Pane::Groups => {
                ("group", picture.groups.iter().find(|row| row.id == *id).map(model::details_of_group))
            }
            Pane::Operations => {
                let row = picture.operations.iter().find(|row| row.id == *id);
                ("operation", row.map(model::details_of_operation))
            }
        };
        let gone = match pane {
            Pane::Nodes => "It is no node of the fleet any more.",
            Pane::Groups => "It is healthy now.",
            Pane::Operations => "It is not under way any more; `longshore op inspect` shows it.",
        };
        Some((format!("{what} {id}"), text.unwrap_or_else(|| gone.to_owned())))
    }

    fn id_chosen(&self) -> Option<String> {
        let (pane, picture) = (self.focus, &self.picture);
        let row = self.chosen(pane);
        match pane {
            Pane::Nodes => picture.nodes.get(row).map(|row| row.name.clone()),
            Pane::Groups => picture.groups.get(row).map(|row| row.id.clone()),
            Pane::Operations => picture.operations.get(row).map(|row| row.id.clone()),
        }
    }

    /// What a key does. `page` is how many lines a page has.
    pub(super) fn press(&mut self, key: KeyEvent, page: usize) -> Flow {
        let is_ctrl = key.modifiers.contains(KeyModifiers::CONTROL);
        let steps = match key.code {
            KeyCode::Char('c') if is_ctrl => return Flow::Quit,
            KeyCode::Char(_) if is_ctrl => return Flow::GoOn,
            KeyCode::Char('q') => return Flow::Quit,
            KeyCode::Char('?') => {
                self.open = match self.open {
                    Open::Help { .. } => Open::Nothing,
                    _ => Open::Help { scroll: 0 },
                };
                return Flow::GoOn;
            }
            KeyCode::Esc | KeyCode::Backspace => {
                self.open = Open::Nothing;
                return Flow::GoOn;
            }
            KeyCode::Enter => {
                self.open = match (&self.open, self.id_chosen()) {
                    (Open::Nothing, Some(id)) => Open::Details { pane: self.focus, id, scroll: 0 },
                    _ => Open::Nothing,
                };
                return Flow::GoOn;
            }
            KeyCode::Char(digit @ '1'..='3') => return self.focus(Pane::ALL[digit as usize - '1' as usize]),
            KeyCode::Tab | KeyCode::Right => return self.focus(self.focus.after(1)),
            KeyCode::BackTab | KeyCode::Left => return self.focus(self.focus.after(Pane::ALL.len() - 1)),
            KeyCode::Down | KeyCode::Char('j') => 1,
            KeyCode::Up | KeyCode::Char('k') => -1,
            KeyCode::PageDown | KeyCode::Char(' ') => page as isize,
            KeyCode::PageUp => -(page as isize),
            KeyCode::Home | KeyCode::Char('g') => isize::MIN,
            KeyCode::End | KeyCode::Char('G') => isize::MAX,
            _ => return Flow::GoOn,
        };
        self.scroll(steps);
        Flow::GoOn
    }

    fn focus(&mut self, pane: Pane) -> Flow {
        self.focus = pane;
        self.open = Open::Nothing;
        Flow::GoOn
    }

    fn scroll(&mut self, steps: isize) {
        let moved = |at: usize, rows: usize| at.saturating_add_signed(steps).min(rows.saturating_sub(1));
        let lines = self.details().map_or(HELP.lines().count(), |(_, text)| text.lines().count());
        match &mut self.open {
            Open::Nothing => {
                let pane = self.focus;
                self.chosen[pane.index()] = moved(self.chosen(pane), self.rows(pane));
            }
            Open::Help { scroll } | Open::Details { scroll, .. } => *scroll = moved(*scroll, lines),
        }
    }
}

pub(super) const HELP: &str = "\
q, Ctrl-C           quit
1, 2, 3             nodes, groups that are not healthy, operations under way
Tab, left, right    the next pane, or the one before
up, down, k, j      choose a row, or scroll
PgUp, PgDn, space   the same, a page at a time
g, G, Home, End     to the first, to the last
Enter               everything about the row that is chosen
Esc                 back
?                   this help, or back

LEADS and CMD/S tell of the groups that a node leads: how many, and how many
commands a second go to them, roughly, as their leaders last said.
A group is here when it has no quorum, cannot be opened by this node, has a
member that is not alive, has no known leader, or is being moved.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake;
    use crate::api::types::OperationState;

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    fn state() -> State {
        let mut state = State::new("unix:///x.sock".into(), false);
        let nodes = (1..=3).map(|id| fake::node(id, &format!("node-{id}"))).collect();
        state.take(Answer::Nodes(NodeList { nodes, stale: false }), 0);
        state.take(Answer::Ring(Box::new(fake::ring(false))), 0);
        state
    }

    #[test]
    fn keys_move_within_what_is_there() {
        let mut state = state();
        let mut press = |code| {
            assert_eq!(state.press(key(code), 10), Flow::GoOn);
            (state.focus, state.chosen(state.focus))
        };
        assert_eq!(press(KeyCode::Up), (Pane::Nodes, 0));
        assert_eq!(press(KeyCode::Down), (Pane::Nodes, 1));
        assert_eq!(press(KeyCode::Char('j')), (Pane::Nodes, 2));
        assert_eq!(press(KeyCode::Char('j')), (Pane::Nodes, 2));
        assert_eq!(press(KeyCode::Char('g')), (Pane::Nodes, 0));
        assert_eq!(press(KeyCode::Tab), (Pane::Groups, 0));
        assert_eq!(press(KeyCode::PageDown), (Pane::Groups, 2));
        assert_eq!(press(KeyCode::BackTab), (Pane::Nodes, 0));
        assert_eq!(press(KeyCode::Char('3')), (Pane::Operations, 0));
        assert_eq!(press(KeyCode::End), (Pane::Operations, 0));
        assert_eq!(press(KeyCode::Tab), (Pane::Nodes, 0));
        assert_eq!(press(KeyCode::Char('2')), (Pane::Groups, 2));
    }

    #[test]
    fn only_q_and_ctrl_c_quit() {
        let ctrl = |letter| KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL);
        for (event, flow) in [
            (key(KeyCode::Char('q')), Flow::Quit),
            (ctrl('c'), Flow::Quit),
            (ctrl('q'), Flow::GoOn),
            (key(KeyCode::Char('c')), Flow::GoOn),
            (key(KeyCode::Esc), Flow::GoOn),
        ] {
            assert_eq!(state().press(event, 10), flow, "{event:?}");
        }
    }

    #[test]
    fn details_are_of_the_row_that_was_chosen_even_when_others_come() {
        let mut state = state();
        state.press(key(KeyCode::Down), 10);
        state.press(key(KeyCode::Enter), 10);
        let nodes = |ids: &[u64]| {
            let nodes = ids.iter().map(|id| fake::node(*id, &format!("node-{id}"))).collect();
            Answer::Nodes(NodeList { nodes, stale: false })
        };
        state.take(nodes(&[7, 8, 2]), 0);
        let (title, text) = state.details().unwrap();
        assert!(title == "node node-2" && text.contains("10.0.0.2:7400"), "{title}\n{text}");
        state.take(nodes(&[7]), 0);
        assert_eq!(state.details().unwrap().1, "It is no node of the fleet any more.");
        state.press(key(KeyCode::Esc), 10);
        assert_eq!(state.details(), None);
        state.press(key(KeyCode::Char('3')), 10);
        state.press(key(KeyCode::Enter), 10);
        assert_eq!(state.open, Open::Nothing, "there is no operation to show");
        state.take(Answer::Operations(vec![fake::operation("op1", OperationState::Running)]), 0);
        state.press(key(KeyCode::Enter), 10);
        assert_eq!(state.details().unwrap().0, "operation op1");
    }

    #[test]
    fn a_node_that_does_not_answer_leaves_its_last_picture() {
        let mut state = state();
        assert_eq!(state.problem(1_000), None);
        assert_eq!(state.problem(3_000).unwrap(), "no answer for 3s: unix:///x.sock does not answer");
        state.take(Answer::Failed(Part::Ring, "it has\nno time".into()), 3_000);
        state.take(Answer::Failed(Part::Status, "nobody is there".into()), 3_000);
        assert_eq!(state.problem(4_000).unwrap(), "no answer for 4s: nobody is there");
        assert_eq!((state.rows(Pane::Nodes), state.rows(Pane::Groups)), (3, 3));
    }

    #[test]
    fn one_question_that_fails_is_named() {
        let mut state = state();
        state.take(Answer::Failed(Part::Operations, "it has\nno time".into()), 0);
        assert_eq!(state.problem(0).unwrap(), "operations are not known: it has no time");
        state.take(Answer::Operations(vec![]), 0);
        assert_eq!(state.problem(0), None);
        state.take(Answer::Failed(Part::Operations, "late".into()), 0);
        assert_eq!(state.problem(0).unwrap(), "operations are as they were before: late");
    }
}
