//! How things are written for people, and JSON.

use std::collections::BTreeMap;

use serde::Serialize;

pub(super) fn json<T: Serialize>(value: &T) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("plain structs encode as JSON");
    text.push('\n');
    text
}

/// Longest line, where words can be broken.
const WIDTH: usize = 110;

/// `name   value` lines, values aligned; long values go on in further lines, broken at spaces. Empty values are left out.
pub(super) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let mut text = String::new();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        let mut line = format!("  {name:width$}");
        for paragraph in value.lines() {
            for word in paragraph.split(' ') {
                if line.len() > width + 2 && line.len() + word.len() > WIDTH {
                    text.push_str(line.trim_end());
                    text.push('\n');
                    line = format!("  {:width$}", "");
                }
                line.push_str(word);
                line.push(' ');
            }
            text.push_str(line.trim_end());
            text.push('\n');
            line = format!("  {:width$}", "");
        }
    }
    text
}

/// Columns two spaces apart; numbers to the right.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let width = |column: usize| {
        std::iter::once(&head).chain(rows).map(|row| row[column].chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| {
            let is_number = cell.chars().all(|c| c.is_ascii_digit() || c == ',' || c == '.');
            if is_number { format!("{cell:>width$}") } else { format!("{cell:width$}") }
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    std::iter::once(&head).chain(rows).map(line).collect()
}

/// `kill 3, pause 1`.
pub(super) fn counts(counts: &BTreeMap<String, u64>) -> String {
    let each: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {}", number(*count))).collect();
    each.join(", ")
}

/// With commas: `12,345`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Milliseconds as seconds, or as minutes and seconds: `0.41 s`, `3 min 12 s`.
pub(super) fn time(ms: u64) -> String {
    match ms / 1000 {
        0..60 => format!("{}.{:02} s", ms / 1000, ms % 1000 / 10),
        s @ 60..3600 => format!("{} min {} s", s / 60, s % 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// `1 host`, `3 hosts`.
pub(super) fn count(number: u64, singular: &str) -> String {
    format!("{} {singular}{}", self::number(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        for (ms, text) in [
            (0, "0.00 s"),
            (412, "0.41 s"),
            (59_999, "59.99 s"),
            (192_000, "3 min 12 s"),
            (7_260_000, "2 h 1 min"),
        ] {
            assert_eq!(time(ms), text);
        }
        for (value, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(number(value), text);
        }
        assert_eq!((count(1, "seed"), count(2_000, "seed")), ("1 seed".into(), "2,000 seeds".into()));
    }

    #[test]
    fn fields_are_aligned_and_broken() {
        let long = "word ".repeat(30);
        let text = fields(&[("a", "1\n2".into()), ("long name", long), ("none", String::new())]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["  a          1", "             2"]);
        assert!(lines[2].starts_with("  long name  word word"), "{text}");
        assert!(lines.len() == 4 && lines.iter().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = vec![vec!["a".to_owned(), "10".to_owned()], vec!["long".to_owned(), "9".to_owned()]];
        assert_eq!(table(&["NAME", "SEEDS"], &rows), "NAME  SEEDS\na        10\nlong      9\n");
    }
}
