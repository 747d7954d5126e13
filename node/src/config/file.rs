//! The TOML file as a layer of values. Knows names and forms; what values mean is for others.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Problem, Problems};
use super::keys::{self, KEYS, Key, Kind};
use super::layers::{Layer, Source, Value};

/// Most bytes of a configuration file; a real one has a few thousand.
const FILE_MAX_BYTES: u64 = 1 << 20;

pub(super) fn read(path: &Path) -> Result<String, Problem> {
    let unreadable = |message: String| Problem::Unreadable { path: path.to_owned(), message };
    let length = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if length > FILE_MAX_BYTES {
        return Err(unreadable(format!("it has {length} bytes, over the limit of {FILE_MAX_BYTES}")));
    }
    fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))
}

/// All values in `text`; what is wrong goes to `problems`.
pub(super) fn parse(path: &Path, text: &str, problems: &mut Problems) -> Layer {
    let mut walk = Walk { path, text, problems, layer: Layer::new() };
    match DeTable::parse(text) {
        Ok(table) => walk.table("", table.get_ref()),
        Err(error) => {
            let line = error.span().map_or(1, |span| walk.line(span.start));
            let message = error.message().to_owned();
            walk.problems.push(Problem::Syntax { path: path.to_owned(), line, message });
        }
    }
    walk.layer
}

struct Walk<'a> {
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Problems,
    layer: Layer,
}

impl Walk<'_> {
    fn line(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn at(&self, offset: usize) -> Source {
        Source::File { path: self.path.to_owned(), line: self.line(offset) }
    }

    fn table(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let full = format!("{prefix}{}", name.get_ref());
            let at = self.at(name.span().start);
            let section = format!("{full}.");
            if let Some(key) = KEYS.iter().find(|key| key.name == full) {
                self.setting(key, at, value);
            } else if KEYS.iter().any(|key| key.name.starts_with(&section)) {
                match value.get_ref() {
                    DeValue::Table(inner) => self.table(&section, inner),
                    _ => self
                        .problems
                        .push(Problem::BadValue { at, message: format!("`{full}` must be a table") }),
                }
            } else {
                let nearest = keys::nearest(&full, KEYS.iter().map(|key| key.name));
                self.problems.push(Problem::UnknownKey { at, key: full, nearest });
            }
        }
    }

    fn setting(&mut self, key: &'static Key, at: Source, value: &Spanned<DeValue<'_>>) {
        let (parsed, expected) = match key.kind {
            Kind::Scalar => (scalar(value.get_ref()).map(Value::Text), "a string or a whole number"),
            Kind::List => (list(value.get_ref()).map(Value::List), "an array of strings"),
            Kind::Table => (string_table(value.get_ref()).map(Value::Table), "a table of strings"),
        };
        match parsed {
            Some(value) => {
                self.layer.insert(key.name, (value, at));
            }
            None => self.problems.push(Problem::WrongType { at, key: key.name, expected }),
        }
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        _ => None,
    }
}

fn list(value: &DeValue<'_>) -> Option<Vec<String>> {
    let DeValue::Array(items) = value else { return None };
    items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

fn string_table(value: &DeValue<'_>) -> Option<BTreeMap<String, String>> {
    let DeValue::Table(table) = value else { return None };
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        let key: &std::borrow::Cow<'_, str> = key.get_ref();
        Some((key.to_string(), scalar(value.get_ref())?))
    };
    table.iter().map(entry).collect()
}
