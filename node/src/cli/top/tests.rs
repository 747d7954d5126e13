//! Frames of several sizes, to the letter where that is short.

use super::*;
use crate::api::fake;
use crate::api::types::*;

fn status() -> StatusView {
    StatusView {
        version: "0.1.0".into(),
        fleet: "00112233445566778899aabbccddeeff".into(),
        node_id: "n1".into(),
        name: "alpha".into(),
        address: "10.0.0.1:7400".into(),
        role: NodeRole::Leader,
        leader: Some("alpha".into()),
        term: 3,
        applied_index: 41,
        committed_index: 42,
        voters: 3,
        nodes_alive: 2,
        nodes_total: 3,
        operations_running: 1,
        engine: EngineView::NotConfigured,
        uptime_ms: 1,
        clock_skew_max_ms: None,
        warnings: vec!["node gamma is suspected to be dead".into(), "the disk is slow".into()],
    }
}

/// A fleet of `nodes`, whose groups but the first six are healthy.
fn fleet(nodes: u64) -> State {
    let mut state = State::new("unix:///x.sock".into(), true);
    state.take(Answer::Status(Box::new(status())), 0);
    let names = ["alpha", "beta", "gamma"];
    let node = |id: u64| {
        let name = names.get(id as usize - 1).map_or_else(|| format!("node-{id}"), |name| (*name).to_owned());
        NodeView { state: NodeState::Alive, ..fake::node(id, &name) }
    };
    let nodes = (1..=nodes).map(node).collect();
    state.take(Answer::Nodes(NodeList { nodes, stale: false }), 0);
    let mut ring = fake::ring(false);
    ring.groups[0].load = 1200;
    state.take(Answer::Ring(Box::new(ring)), 0);
    let mut operation = fake::operation("op-171-42-0", OperationState::Running);
    (operation.sub_operations[0].current_bytes, operation.sub_operations[0].total_bytes) = (3 << 20, 4 << 20);
    operation.sub_operations[1].state = SubOperationState::Succeeded;
    state.take(Answer::Operations(vec![operation]), 0);
    state
}

#[test]
fn eighty_columns_by_twenty_four_lines() {
    let expected = "\
longshore  fleet 00112233  quorum  leader alpha, term 3  seen from alpha
nodes 2 of 3 alive, 3 voting  groups 32, 1 without quorum, 1 moving  1200 cmd/s
node gamma is suspected to be dead (and 1 more)
─ 1 Nodes (3) ──────────────────────────────────────────────────────────────────
NAME    STATE  ROLE    ENGINE       CPU  MEM  DISK  LEADS     CMD/S  SEEN  ZONE
alpha*  alive  leader  26.1.5       7%   25%  75%   11 of 32  1200   now   -
beta    alive  voter   none         14%  25%  75%   11 of 32  0      now   east
gamma   alive  voter   unavailable  -    -    -     10 of 32  0      now   -
─ 2 Groups not healthy (3) ─────────────────────────────────────────────────────
GROUP  LEADER  WHAT                                   MEMBERS
g3     -       no quorum: beta, gamma missing         alpha, beta, gamma
g4     alpha   not open here: it is damaged: block 3  alpha, beta, gamma
g2     beta    +delta -gamma, catching up             alpha, beta, gamma
─ 3 Operations under way (1) ───────────────────────────────────────────────────
ID           KIND  STATE    PROGRESS                 ENDED   IMAGES
op-171-42-0  pull  running  [=============>  ]  87%  1 of 2  nginx:1.27







q quit  1 2 3 Tab pane  j k scroll  Enter details  ? help
";
    assert_eq!(frame_as_text(&fleet(3), 80, 24, 0), expected);
}

#[test]
fn a_large_screen_shows_everything_in_full() {
    let text = frame_as_text(&fleet(20), 200, 50, 0);
    assert_eq!(text.lines().count(), 50);
    for whole in ["node-20 ", "not open here: it is damaged: block 3", "nginx:1.27"] {
        assert!(text.contains(whole), "no {whole:?} in\n{text}");
    }
}

#[test]
fn many_rows_keep_the_chosen_one_in_sight() {
    let mut state = fleet(60);
    let press = |state: &mut State, code| {
        state.press(crossterm::event::KeyEvent::from(code), 10);
        frame_as_text(state, 80, 24, 0)
    };
    use crossterm::event::KeyCode::{Char, Down, End};
    assert!(frame_as_text(&state, 80, 24, 0).contains("alpha*"));
    let text = press(&mut state, End);
    assert!(text.contains("node-60 ") && !text.contains("alpha*"), "{text}");
    // The other panes keep a row each.
    assert!(text.contains("\ng3 ") && text.contains("\nop-171-42-0 "), "{text}");
    press(&mut state, Char('g'));
    for _ in 0..30 {
        press(&mut state, Down);
    }
    let text = frame_as_text(&state, 80, 24, 0);
    assert!(text.contains("node-31 ") && text.contains("node-29 ") && text.contains("node-33 "), "{text}");
}

#[test]
fn no_size_and_no_state_panics() {
    use crossterm::event::KeyCode::{Char, Enter, Esc};
    let states = || [State::new("x".into(), false), fleet(1), fleet(40)];
    for mut state in states() {
        for code in [Esc, Char('2'), Char('3'), Char('1'), Enter, Char('G'), Char('?'), Char('G')] {
            state.press(crossterm::event::KeyEvent::from(code), 3);
            for (columns, lines) in
                [(0, 0), (1, 1), (1, 40), (3, 2), (10, 4), (20, 5), (30, 12), (79, 13), (300, 3)]
            {
                let text = frame_as_text(&state, columns, lines, 9_000);
                if columns > 0 {
                    assert_eq!(text.lines().count(), usize::from(lines), "{columns}x{lines}");
                }
            }
        }
    }
}

#[test]
fn a_tiny_screen_shows_the_pane_in_focus() {
    let mut state = fleet(3);
    let text = frame_as_text(&state, 40, 10, 0);
    assert!(text.contains("1 Nodes") && text.contains("gamma") && !text.contains("2 Groups"), "{text}");
    state.press(crossterm::event::KeyEvent::from(crossterm::event::KeyCode::Tab), 5);
    let text = frame_as_text(&state, 40, 10, 0);
    assert!(text.contains("2 Groups") && text.contains("g2") && !text.contains("1 Nodes"), "{text}");
}

#[test]
fn what_is_open_lies_over_the_panes() {
    let mut state = fleet(3);
    let mut press = |code| {
        state.press(crossterm::event::KeyEvent::from(code), 5);
        frame_as_text(&state, 80, 24, 0)
    };
    use crossterm::event::KeyCode::{Char, Enter, Esc};
    let text = press(Enter);
    assert!(
        text.contains("─ node alpha ─") && text.contains("10.0.0.1:7400") && !text.contains("2 Groups"),
        "{text}"
    );
    assert!(text.contains("about 1200 commands a second"), "{text}");
    let text = press(Char('?'));
    assert!(text.contains("─ help ─") && text.contains("Ctrl-C"), "{text}");
    assert!(press(Esc).contains("2 Groups"));
    press(Char('2'));
    let text = press(Enter);
    assert!(text.contains("─ group g3 ─") && text.contains("beta, gamma missing"), "{text}");
}

#[test]
fn what_is_cut_says_so_and_what_has_no_room_is_left_out() {
    let text = frame_as_text(&fleet(3), 60, 24, 0);
    assert!(text.contains("\ng4     alpha   not open here: it is dam…  alpha, beta, gamma\n"), "{text}");
    let text = frame_as_text(&fleet(3), 30, 24, 0);
    assert!(text.contains("\nNAME    STATE  ROLE    ENGINE\n"), "{text}");
    assert!(text.contains("\nalpha*  alive  leader  26.1.5\n"), "{text}");
}

#[test]
fn silence_is_said_and_the_last_picture_stays() {
    let mut state = fleet(3);
    state.take(Answer::Failed(Part::Status, "no longshore is running at unix:///x.sock".into()), 5_000);
    let text = frame_as_text(&state, 100, 24, 12_000);
    let expected = "no answer for 12s; this is the last picture: no longshore is running at unix:///x.sock";
    assert!(text.contains(expected) && text.contains("gamma"), "{text}");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let styles = |has_colour| {
        let mut state = fleet(3);
        state.has_colour = has_colour;
        let Ok(mut terminal) = Terminal::new(TestBackend::new(80, 24));
        let Ok(_) = terminal.draw(|frame| view::draw(frame, &state, 0));
        let plain = [ratatui::style::Color::Reset; 2];
        terminal.backend().buffer().content().iter().filter(|cell| [cell.fg, cell.bg] != plain).count()
    };
    assert_eq!(styles(false), 0);
    assert!(styles(true) > 20);
}
