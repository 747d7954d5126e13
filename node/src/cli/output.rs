//! Tables, JSON, and how quantities are written for people.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Color, ContentArrangement, Table};
use serde::Serialize;

use crate::api::types::{
    EngineView, LoadView, NodeAvailability, NodeRole, NodeState, OperationState, Strategy, SubOperationState,
    TokenState,
};

pub(super) fn json<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("plain structs encode as JSON");
    text.push('\n');
    text
}

/// What does not apply, or is not known.
pub(super) const NONE: &str = "-";

/// A cell, coloured where colour is wanted.
#[derive(Debug, Clone)]
pub(super) struct Text(pub(super) String, pub(super) Option<Color>);

impl<T: Into<String>> From<T> for Text {
    fn from(text: T) -> Self {
        Self(text.into(), None)
    }
}

/// A table without borders, columns three spaces apart, one line a row; no space at the ends of lines.
pub(super) fn table(head: &[&str], rows: Vec<Vec<Text>>, colour: bool) -> String {
    let mut table = Table::new();
    table
        .load_preset(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(head.to_vec());
    if colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for row in rows {
        assert_eq!(row.len(), head.len(), "a row has a cell for each column");
        table.add_row(row.into_iter().map(|Text(text, color)| {
            let cell = Cell::new(one_line(&text));
            color.map_or(cell.clone(), |color| cell.fg(color))
        }));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    lines(table.to_string().lines())
}

/// `name:  value` lines, values aligned. A value of several lines is indented below its name.
pub(super) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len() + 1).max().unwrap_or(0);
    lines(pairs.iter().map(|(name, value)| {
        let indent = format!("\n{:width$}  ", "");
        format!("{:width$}  {}", format!("{name}:"), value.trim_end().replace('\n', &indent))
    }))
}

fn lines(lines: impl Iterator<Item = impl AsRef<str>>) -> String {
    lines.map(|line| format!("{}\n", line.as_ref().trim_end())).collect()
}

/// Text from elsewhere must not break a table's lines or reach the terminal's control sequences.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A span in its one or two largest units: `4s`, `3m 5s`, `2h 10m`, `5d 3h`.
pub(super) fn span(ms: u64) -> String {
    let s = ms / 1000;
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        _ => format!("{large}{large_unit} {small}{small_unit}"),
    };
    match s {
        0 if ms > 0 => format!("{ms}ms"),
        0..60 => format!("{s}s"),
        60..3600 => two(s / 60, "m", s % 60, "s"),
        3600..86400 => two(s / 3600, "h", s % 3600 / 60, "m"),
        _ => two(s / 86400, "d", s % 86400 / 3600, "h"),
    }
}

/// How long ago something was, in its largest unit. Heartbeats come several times a second: below 2 s is now.
pub(super) fn ago(ms: u64) -> String {
    match ms / 1000 {
        0..2 => "now".to_owned(),
        s @ 2..60 => format!("{s}s ago"),
        s @ 60..3600 => format!("{}m ago", s / 60),
        s @ 3600..86400 => format!("{}h ago", s / 3600),
        s => format!("{}d ago", s / 86400),
    }
}

/// Bytes in binary units with three significant digits, or all of them below 1 KiB.
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    match value {
        _ if unit == "B" => format!("{bytes} B"),
        v if v < 10.0 => format!("{v:.2} {unit}"),
        v if v < 100.0 => format!("{v:.1} {unit}"),
        v => format!("{v:.0} {unit}"),
    }
}

/// A time in UTC, to the second.
pub(super) fn time(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms);
    humantime::format_rfc3339_seconds(time).to_string()
}

pub(super) fn role(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Leader => "leader",
        NodeRole::Voter => "voter",
        NodeRole::Learner => "learner",
        NodeRole::None => NONE,
    }
}

pub(super) fn node_state(state: NodeState) -> Text {
    let (text, color) = match state {
        NodeState::Alive => ("alive", Color::Green),
        NodeState::Suspect => ("suspect", Color::Yellow),
        NodeState::Failed => ("failed", Color::Red),
        NodeState::Left => ("left", Color::DarkGrey),
    };
    Text(text.to_owned(), Some(color))
}

pub(super) fn availability(availability: NodeAvailability) -> Text {
    let (text, color) = match availability {
        NodeAvailability::Active => ("active", None),
        NodeAvailability::Paused => ("paused", Some(Color::Yellow)),
        NodeAvailability::Draining => ("draining", Some(Color::Yellow)),
    };
    Text(text.to_owned(), color)
}

pub(super) fn engine(engine: &EngineView) -> Text {
    match engine {
        EngineView::Ready { version, .. } => version.as_str().into(),
        EngineView::Unavailable { .. } => Text("unavailable".to_owned(), Some(Color::Red)),
        EngineView::NotConfigured => "none".into(),
        EngineView::Unknown => NONE.into(),
    }
}

/// The same, with everything that is known.
pub(super) fn engine_in_full(engine: &EngineView) -> String {
    match engine {
        EngineView::Ready { version, api_version, arch, cpus, memory_bytes, .. } => {
            let host = format!("{}, {} of memory", count(*cpus as usize, "processor"), bytes(*memory_bytes));
            format!("Docker {version} (API {api_version}, {arch}; {host})")
        }
        EngineView::Unavailable { reason } => format!("unavailable: {reason}"),
        EngineView::NotConfigured => "none (started with --docker none)".to_owned(),
        EngineView::Unknown => "not reported yet".to_owned(),
    }
}

/// How much of processors, memory and disk is in use.
pub(super) fn used(load: Option<&LoadView>) -> [String; 3] {
    let Some(load) = load else { return [NONE, NONE, NONE].map(str::to_owned) };
    let share = |free: u64, all: u64| match all {
        0 => NONE.to_owned(),
        all => format!("{}%", u128::from(all.saturating_sub(free)) * 100 / u128::from(all)),
    };
    [
        format!("{}%", load.cpu_busy_percent),
        share(load.memory_free_bytes, load.memory_bytes),
        share(load.disk_free_bytes, load.disk_bytes),
    ]
}

pub(super) fn token_state(state: TokenState) -> Text {
    let (text, color) = match state {
        TokenState::Valid => ("valid", Color::Green),
        TokenState::Expired => ("expired", Color::DarkGrey),
        TokenState::UsedUp => ("used up", Color::DarkGrey),
        TokenState::Revoked => ("revoked", Color::Red),
    };
    Text(text.to_owned(), Some(color))
}

pub(super) fn operation_state(state: OperationState) -> Text {
    let (text, color) = match state {
        OperationState::Planned => ("planned", None),
        OperationState::Running => ("running", Some(Color::Cyan)),
        OperationState::Succeeded => ("succeeded", Some(Color::Green)),
        OperationState::Partial => ("partial", Some(Color::Yellow)),
        OperationState::Failed => ("failed", Some(Color::Red)),
        OperationState::Cancelled => ("cancelled", Some(Color::DarkGrey)),
    };
    Text(text.to_owned(), color)
}

pub(super) fn sub_operation_state(state: SubOperationState) -> Text {
    let (text, color) = match state {
        SubOperationState::Assigned => ("assigned", None),
        SubOperationState::Running => ("running", Some(Color::Cyan)),
        SubOperationState::Succeeded => ("succeeded", Some(Color::Green)),
        SubOperationState::Failed => ("failed", Some(Color::Red)),
        SubOperationState::Cancelled => ("cancelled", Some(Color::DarkGrey)),
    };
    Text(text.to_owned(), color)
}

pub(super) fn strategy(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Local => "local",
        Strategy::Replicated => "replicated",
        Strategy::Distributed => "distributed",
    }
}

/// `2 nodes`, `1 node`.
pub(super) fn count(number: usize, singular: &str) -> String {
    format!("{number} {singular}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let spans =
            [(0, "0s"), (7, "7ms"), (999, "999ms"), (59_999, "59s"), (60_000, "1m"), (185_000, "3m 5s")];
        let longer = [(7_800_000, "2h 10m"), (86_400_000, "1d"), (442_800_000, "5d 3h")];
        for (ms, text) in spans.into_iter().chain(longer) {
            assert_eq!(span(ms), text);
        }
        for (ms, text) in
            [(0, "now"), (1_999, "now"), (2_000, "2s ago"), (61_000, "1m ago"), (7_200_000, "2h ago")]
        {
            assert_eq!(ago(ms), text);
        }
        assert_eq!(ago(90_000_000), "1d ago");
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (15_728_640, "15.0 MiB"),
            (314_572_800, "300 MiB"),
            (1 << 40, "1.00 TiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
        assert_eq!(time(1_700_000_000_000), "2023-11-14T22:13:20Z");
        assert_eq!((count(1, "node"), count(2, "node")), ("1 node".into(), "2 nodes".into()));
    }

    #[test]
    fn tables_are_plain_lines() {
        let rows = vec![
            vec!["a".into(), "b\n\u{1b}[31mc".into()],
            vec![Text("long".into(), Some(Color::Red)), "".into()],
        ];
        let plain = table(&["ONE", "TWO"], rows.clone(), false);
        assert_eq!(plain, "ONE    TWO\na      b  [31mc\nlong\n");
        assert!(table(&["ONE", "TWO"], rows, true).contains("\u{1b}[38;5;9mlong"), "no colour");
        assert_eq!(table(&["ONE"], vec![], false), "ONE\n");
    }

    #[test]
    fn fields_are_aligned() {
        let text = fields(&[("a", "1".into()), ("long name", "2\n3\n".into()), ("empty", String::new())]);
        assert_eq!(text, "a:          1\nlong name:  2\n            3\nempty:\n");
    }
}
