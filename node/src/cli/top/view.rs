//! The picture on a screen of any size. Pure: a state and the time in, a frame out.
//!
//! Must never: panic on a small screen, or say by colour alone what words do not say.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::model::Tone;
use super::state::{HELP, Open, Pane, State};
use crate::cli::output;

/// Lines above and below the panes.
const HEADER_LINES: u16 = 3;
const FOOTER_LINES: u16 = 1;
/// A pane's title and the heads of its columns.
const PANE_EXTRA: u16 = 2;
/// The least that a pane is worth showing with.
const PANE_MIN: u16 = PANE_EXTRA + 1;
/// Columns between columns.
const GAP: u16 = 2;
/// The least that a column is cut to.
const COLUMN_MIN: u16 = 6;
/// Characters of a progress bar, without its ends.
const BAR: usize = 16;
/// Characters of a fleet's id that are shown.
const FLEET_CHARS: usize = 8;

const KEYS: &str = "q quit  1 2 3 Tab pane  j k scroll  Enter details  ? help";

/// Lines in which everything has room.
pub(super) fn height_of_all(state: &State) -> u16 {
    let panes = Pane::ALL.map(|pane| wanted_lines(state, pane));
    panes.into_iter().fold(HEADER_LINES + FOOTER_LINES, u16::saturating_add)
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, now_ms: u64) {
    let area = frame.area();
    let header_lines = HEADER_LINES.min(area.height);
    let header = Rect { height: header_lines, ..area };
    let mut lines = header_lines_of(state);
    lines.push(note(state, now_ms));
    frame.render_widget(Paragraph::new(lines), header);
    let footer_lines = FOOTER_LINES.min(area.height - header_lines);
    let body = Rect { y: area.y + header_lines, height: area.height - header_lines - footer_lines, ..area };
    let footer = Rect { y: body.y + body.height, height: footer_lines, ..area };
    let keys = if state.open == Open::Nothing { KEYS } else { "Esc back  j k scroll  q quit" };
    frame.render_widget(Line::styled(keys, Style::new().add_modifier(Modifier::DIM)), footer);
    match &state.open {
        Open::Nothing => {
            let mut y = body.y;
            for (pane, height) in Pane::ALL.into_iter().zip(heights(body.height, state)) {
                draw_pane(frame, state, pane, Rect { y, height, ..body });
                y += height;
            }
        }
        Open::Help { scroll } => draw_text(frame, body, "help", HELP, *scroll),
        Open::Details { scroll, .. } => {
            if let Some((title, text)) = state.details() {
                draw_text(frame, body, &title, &text, *scroll);
            }
        }
    }
}

fn style(state: &State, tone: Tone) -> Style {
    let (colour, bold) = match tone {
        Tone::Bad => (Some(Color::Red), true),
        Tone::Warning => (Some(Color::Yellow), true),
        Tone::Active => (Some(Color::Cyan), false),
        Tone::Good => (Some(Color::Green), false),
        Tone::Plain => (None, false),
    };
    let style = if bold { Style::new().add_modifier(Modifier::BOLD) } else { Style::new() };
    match colour.filter(|_| state.has_colour) {
        Some(colour) => style.fg(colour),
        None => style,
    }
}

fn header_lines_of(state: &State) -> Vec<Line<'static>> {
    let header = &state.picture.header;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    if header.fleet.is_empty() {
        return vec![
            Line::from(vec![Span::styled("longshore", bold), "  asking the node".into()]),
            Line::default(),
        ];
    }
    let quorum = match header.has_quorum {
        Some(true) => Span::styled("quorum", style(state, Tone::Good)),
        Some(false) => Span::styled("NO QUORUM", style(state, Tone::Bad)),
        None => Span::raw("quorum not known"),
    };
    let leader = match &header.leader {
        Some(leader) => Span::raw(format!("leader {leader}, term {}", header.term)),
        None => Span::styled(format!("no leader, term {}", header.term), style(state, Tone::Bad)),
    };
    let fleet: String = header.fleet.chars().take(FLEET_CHARS).collect();
    let first = vec![
        Span::styled("longshore", bold),
        format!("  fleet {fleet}  ").into(),
        quorum,
        "  ".into(),
        leader,
        format!("  seen from {}", header.asked).into(),
    ];
    let all_alive = header.nodes_alive == header.nodes_total;
    let nodes =
        format!("nodes {} of {} alive, {} voting", header.nodes_alive, header.nodes_total, header.voters);
    let mut second =
        vec![Span::styled(nodes, style(state, if all_alive { Tone::Plain } else { Tone::Warning }))];
    second.push(format!("  groups {}", header.groups).into());
    if header.groups_stuck > 0 {
        let stuck = format!(", {} without quorum", header.groups_stuck);
        second.push(Span::styled(stuck, style(state, Tone::Bad)));
    }
    if header.groups_moving > 0 {
        second.push(Span::styled(format!(", {} moving", header.groups_moving), style(state, Tone::Active)));
    }
    if header.is_paused {
        second.push(Span::styled(", ring paused", style(state, Tone::Warning)));
    }
    second.push(format!("  {} cmd/s", header.load).into());
    vec![Line::from(first), Line::from(second)]
}

/// The line for what needs a person: that nobody answers, else the node's own warnings.
fn note(state: &State, now_ms: u64) -> Line<'static> {
    if let Some(problem) = state.problem(now_ms) {
        return Line::styled(problem, style(state, Tone::Bad));
    }
    let warnings = &state.picture.header.warnings;
    match warnings.split_first() {
        None => Line::default(),
        Some((first, [])) => Line::styled(first.clone(), style(state, Tone::Warning)),
        Some((first, rest)) => {
            Line::styled(format!("{first} (and {} more)", rest.len()), style(state, Tone::Warning))
        }
    }
}

/// Lines of each pane: a third of the room if it needs that much, and what is then left to the one in focus first. On a tiny screen that one
/// has all of it.
fn heights(total: u16, state: &State) -> [u16; 3] {
    let focus = state.focus.index();
    let mut heights = [0; 3];
    if total < PANE_MIN * 3 {
        heights[focus] = total;
        return heights;
    }
    let wanted = Pane::ALL.map(|pane| wanted_lines(state, pane));
    heights = wanted.map(|wanted| wanted.min(total / 3));
    let mut left = total - heights.iter().sum::<u16>();
    for pane in std::iter::once(focus).chain(0..wanted.len()) {
        let more = (wanted[pane] - heights[pane]).min(left);
        heights[pane] += more;
        left -= more;
    }
    heights
}

/// A pane without rows has a line that says so.
fn wanted_lines(state: &State, pane: Pane) -> u16 {
    u16::try_from(state.rows(pane).max(1)).unwrap_or(u16::MAX).saturating_add(PANE_EXTRA)
}

/// A line with a title in it, over the whole width.
fn rule(title: &str, width: u16, style: Style) -> Line<'static> {
    let used = Span::raw(title.to_owned()).width() + 4;
    let rest = "─".repeat(usize::from(width).saturating_sub(used));
    Line::from(vec![Span::raw("─ "), Span::styled(title.to_owned(), style), Span::raw(format!(" {rest}─"))])
}

fn draw_text(frame: &mut Frame<'_>, area: Rect, title: &str, text: &str, scroll: usize) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut lines = vec![rule(title, area.width, bold)];
    let room = usize::from(area.height.saturating_sub(1));
    // The last line does not leave the bottom while there is more than a screen.
    let scroll = scroll.min(text.lines().count().saturating_sub(room));
    lines.extend(text.lines().skip(scroll).take(room).map(|line| Line::raw(output::one_line(line))));
    frame.render_widget(Paragraph::new(lines), area);
}

type Cells = Vec<(String, Tone)>;

fn draw_pane(frame: &mut Frame<'_>, state: &State, pane: Pane, area: Rect) {
    if area.height == 0 {
        return;
    }
    let has_focus = pane == state.focus;
    let number = pane.index() + 1;
    let (name, head, rows) = content(state, pane);
    let title = format!("{number} {name} ({})", rows.len());
    let mut title_style = Style::new().add_modifier(Modifier::BOLD);
    if has_focus {
        title_style = title_style.add_modifier(Modifier::REVERSED);
    }
    frame.render_widget(rule(&title, area.width, title_style), Rect { height: 1, ..area });
    let area = Rect { y: area.y + 1, height: area.height - 1, ..area };
    if rows.is_empty() {
        frame.render_widget(Line::raw(nothing(state, pane)), Rect { height: area.height.min(1), ..area });
        return;
    }
    let widths = fitted(&natural_widths(&head, &rows), area.width);
    let shown = widths.len();
    let room = usize::from(area.height.saturating_sub(1));
    let chosen = state.chosen(pane);
    // The chosen row is kept in the middle, as far as there are rows on both sides.
    let first = chosen.saturating_sub(room / 2).min(rows.len().saturating_sub(room));
    let body = rows.into_iter().enumerate().skip(first).take(room).map(|(index, cells)| {
        let cells = cells.into_iter().zip(&widths);
        let row = Row::new(
            cells.map(|((text, tone), width)| Cell::from(cut(text, *width)).style(style(state, tone))),
        );
        let is_chosen = has_focus && index == chosen;
        row.style(if is_chosen { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() })
    });
    let head = Row::new(head.iter().take(shown).copied()).style(Style::new().add_modifier(Modifier::DIM));
    let table =
        Table::new(body, widths.iter().copied().map(Constraint::Length)).header(head).column_spacing(GAP);
    frame.render_widget(table, area);
}

/// What a pane without rows says.
fn nothing(state: &State, pane: Pane) -> String {
    let text = match pane {
        _ if !state.knows(pane) => "not known yet",
        Pane::Nodes => "none",
        Pane::Groups if state.picture.header.groups == 0 => "there are no groups yet",
        Pane::Groups => return format!("all {} groups are healthy", state.picture.header.groups),
        Pane::Operations => "none",
    };
    text.to_owned()
}

/// Name, heads of columns, and rows.
fn content(state: &State, pane: Pane) -> (&'static str, Vec<&'static str>, Vec<Cells>) {
    let plain = |text: &str| (text.to_owned(), Tone::Plain);
    let number = |number: Option<u64>| {
        (number.map_or(output::NONE.to_owned(), |number| number.to_string()), Tone::Plain)
    };
    let picture = &state.picture;
    match pane {
        Pane::Nodes => {
            let rows = picture.nodes.iter().map(|row| {
                let leads = match (row.leads, row.replicas) {
                    (Some(leads), Some(replicas)) => format!("{leads} of {replicas}"),
                    _ => output::NONE.to_owned(),
                };
                let [cpu, memory, disk] = row.used.each_ref().map(|used| plain(used));
                vec![
                    (if row.is_self { format!("{}*", row.name) } else { row.name.clone() }, Tone::Plain),
                    (row.state.0.to_owned(), row.state.1),
                    plain(row.role),
                    row.engine.clone(),
                    cpu,
                    memory,
                    disk,
                    (leads, Tone::Plain),
                    number(row.load),
                    plain(&row.seen),
                    plain(&row.zone),
                ]
            });
            let head = vec![
                "NAME", "STATE", "ROLE", "ENGINE", "CPU", "MEM", "DISK", "LEADS", "CMD/S", "SEEN", "ZONE",
            ];
            ("Nodes", head, rows.collect())
        }
        Pane::Groups => {
            let rows = picture
                .groups
                .iter()
                .map(|row| vec![plain(&row.id), plain(&row.leader), row.what.clone(), plain(&row.members)]);
            ("Groups not healthy", vec!["GROUP", "LEADER", "WHAT", "MEMBERS"], rows.collect())
        }
        Pane::Operations => {
            let rows = picture.operations.iter().map(|row| {
                vec![
                    plain(&row.id),
                    plain(&row.kind),
                    (row.state.0.to_owned(), row.state.1),
                    (bar(row.done), row.state.1),
                    (format!("{} of {}", row.ended, row.parts), Tone::Plain),
                    plain(&row.images),
                ]
            });
            let head = vec!["ID", "KIND", "STATE", "PROGRESS", "ENDED", "IMAGES"];
            ("Operations under way", head, rows.collect())
        }
    }
}

/// `[=======>        ]  45%`.
fn bar(done: f64) -> String {
    let done = done.clamp(0.0, 1.0);
    let filled = (done * BAR as f64) as usize;
    let point = if filled > 0 && filled < BAR { ">" } else { "" };
    format!("[{:BAR$}] {:3}%", "=".repeat(filled - point.len()) + point, (done * 100.0) as u32)
}

fn natural_widths(head: &[&str], rows: &[Cells]) -> Vec<u16> {
    let width = |text: &str| u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX);
    let of_column = |index: usize| {
        let cells = rows.iter().map(|cells| width(&cells[index].0));
        cells.chain([width(head[index])]).max().unwrap_or(0)
    };
    (0..head.len()).map(of_column).collect()
}

/// A text that is too wide, with a mark that there is more.
fn cut(text: String, width: u16) -> String {
    let room = usize::from(width);
    if Span::raw(text.as_str()).width() <= room {
        return text;
    }
    let mut short = String::new();
    for character in text.chars() {
        short.push(character);
        if Span::raw(short.as_str()).width() > room.saturating_sub(1) {
            short.pop();
            break;
        }
    }
    short + "…"
}

/// Widths of as many columns as there is room for: the widest are cut first, then the last ones are left out.
fn fitted(natural: &[u16], total: u16) -> Vec<u16> {
    let mut widths: Vec<u16> = natural.to_vec();
    loop {
        let sum = |widths: &[u16]| {
            let gaps = u32::from(GAP) * widths.len().saturating_sub(1) as u32;
            widths.iter().map(|width| u32::from(*width)).sum::<u32>() + gaps
        };
        let too_much = sum(&widths).saturating_sub(u32::from(total));
        if too_much == 0 {
            return widths;
        }
        let widest = widths.iter().copied().max().unwrap_or(0);
        if widest > COLUMN_MIN {
            // Down to the next widest, or as far as is needed, so that wide tables need few rounds.
            let next =
                widths.iter().copied().filter(|width| *width < widest).max().unwrap_or(0).max(COLUMN_MIN);
            let cut = u32::from(widest - next).min(too_much).max(1) as u16;
            let last = widths.iter().rposition(|width| *width == widest).expect("the widest is one of them");
            widths[last] -= cut;
        } else if widths.len() > 1 {
            widths.pop();
            // What was cut for the one that is left out is given back.
            widths = natural[..widths.len()].to_vec();
        } else {
            return vec![total];
        }
    }
}
