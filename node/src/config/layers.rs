//! The layers of configuration and which of them each value comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{ConfigError, Problem, Problems};
use super::host::Host;
use super::keys::{self, KEYS, Kind, OTHER_VARIABLES};
use super::{file, node};

/// Name of the configuration file that is looked for in the data folder.
pub const FILE_NAME: &str = "longshore.toml";

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    List(Vec<String>),
    Table(BTreeMap<String, String>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::List(items) => f.write_str(&items.join(",")),
            Self::Table(entries) => {
                let entries: Vec<_> = entries.iter().map(|(key, value)| format!("{key}={value}")).collect();
                f.write_str(&entries.join(","))
            }
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Flag(&'static str),
    Variable(&'static str),
    File { path: PathBuf, line: usize },
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => f.write_str(name),
            Self::Variable(name) => f.write_str(name),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

pub(super) type Layer = BTreeMap<&'static str, (Value, Source)>;

/// Values given on the command line, by the names of settings.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Flags(BTreeMap<&'static str, Value>);

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names only: there may be a secret among the values.
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Flags {
    /// Sets a scalar, if it was given.
    pub fn text(mut self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        if let Some(value) = value {
            self.0.insert(keys::find(name).name, Value::Text(value.into()));
        }
        self
    }

    /// Sets a list, or a table from its `key=value` items, if any were given.
    pub fn many(mut self, name: &'static str, values: Vec<String>) -> Self {
        if !values.is_empty() {
            self.0.insert(keys::find(name).name, Value::List(values));
        }
        self
    }
}

/// Environment variables, by name.
pub type Variables = BTreeMap<String, String>;

/// The merged layers. Typed values are made of it by [`Settings::node_config`] and [`Settings::join_config`].
#[derive(Clone)]
pub struct Settings {
    pub(super) values: Layer,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// What is odd but does no harm, one sentence each.
    pub warnings: Vec<String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.rows()).finish()
    }
}

impl Settings {
    /// Merges flags, variables, the file and the fixed defaults. `config` is the file named with `--config` or
    /// `LONGSHORE_CONFIG`; without one, `longshore.toml` in the data folder is read if it exists.
    pub fn load(
        flags: Flags,
        variables: &Variables,
        config: Option<&Path>,
        host: &dyn Host,
    ) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let mut values = Layer::new();
        let mut warnings = Vec::new();
        let variables_layer = read_variables(variables, &mut problems, &mut warnings);
        let flags_layer: Layer = flags
            .0
            .into_iter()
            .filter_map(|(name, value)| {
                let key = keys::find(name);
                let source = Source::Flag(key.flag.expect("only settings with a flag are set by flags"));
                Some((name, (shape(key.kind, value, &source, &mut problems)?, source)))
            })
            .collect();
        let file = match config {
            Some(path) => Some(path.to_owned()),
            None => {
                let folder = flags_layer.get("data_dir").or(variables_layer.get("data_dir"));
                let folder = folder.map(|(value, _)| PathBuf::from(value.to_string()));
                let folder = folder.or_else(|| node::default_data_dir(variables, host));
                folder.map(|folder| folder.join(FILE_NAME)).filter(|path| path.is_file())
            }
        };
        if let Some(path) = &file {
            match file::read(path) {
                Ok(text) => values.extend(file::parse(path, &text, &mut problems)),
                Err(problem) => problems.push(problem),
            }
            refuse_wandering_data_dir(config.is_none(), &values, &mut problems);
        }
        values.extend(variables_layer);
        values.extend(flags_layer);
        node::add_defaults(&mut values, variables, host);
        problems.finish(Some(Self { values, file, warnings }))
    }

    /// The data folder alone, for commands that only look for the socket in it. A file is read only if it is named.
    pub fn data_dir(
        flag: Option<&str>,
        variables: &Variables,
        config: Option<&Path>,
        host: &dyn Host,
    ) -> Result<PathBuf, ConfigError> {
        let variable = variables.get("LONGSHORE_DATA_DIR").filter(|path| !path.is_empty());
        if let Some(path) = flag.or(variable.map(String::as_str)) {
            return Ok(PathBuf::from(path));
        }
        if config.is_some() {
            return Self::load(Flags::default(), variables, config, host)?.data_dir_value();
        }
        node::default_data_dir(variables, host)
            .ok_or_else(|| Problem::Missing(node::NO_DATA_DIR.to_owned()).into())
    }

    /// Checks a file by itself: its keys and every value that can be checked without this host's addresses.
    pub fn check_file(path: &Path) -> Result<(), ConfigError> {
        let mut problems = Problems::default();
        let text = file::read(path)?;
        let values = file::parse(path, &text, &mut problems);
        node::check_values(&values, &mut problems);
        problems.finish(Some(()))
    }

    /// Whether the setting was given anywhere, as opposed to being a default.
    pub fn is_given(&self, name: &'static str) -> bool {
        self.values.get(keys::find(name).name).is_some_and(|(_, source)| *source != Source::Default)
    }

    /// Every setting with its value, secrets masked, and where that is from, in the order of [`KEYS`].
    pub fn rows(&self) -> Vec<(&'static str, String, Source)> {
        KEYS.iter()
            .map(|key| match self.values.get(key.name) {
                Some((_, source)) if key.secret => (key.name, "(secret)".to_owned(), source.clone()),
                Some((value, source)) => (key.name, value.to_string(), source.clone()),
                None => (key.name, String::new(), Source::Default),
            })
            .collect()
    }

    pub(super) fn get(&self, name: &'static str) -> Option<&(Value, Source)> {
        self.values.get(keys::find(name).name)
    }
}

/// A file that was found in a data folder must not lead to another one: nobody would look for it there again.
fn refuse_wandering_data_dir(found_there: bool, values: &Layer, problems: &mut Problems) {
    if let (true, Some((_, at))) = (found_there, values.get("data_dir")) {
        let message = "`data_dir` has no place in a file that is itself found in the data folder; name the file with \
                       --config, or use --data-dir or LONGSHORE_DATA_DIR";
        problems.push(Problem::BadValue { at: at.clone(), message: message.to_owned() });
    }
}

fn read_variables(variables: &Variables, problems: &mut Problems, warnings: &mut Vec<String>) -> Layer {
    let mut layer = Layer::new();
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("LONGSHORE_")) {
        match KEYS.iter().find(|key| key.env == name) {
            // An empty variable counts as unset, so that it can be cleared for one command.
            Some(_) if value.is_empty() => {}
            Some(key) => {
                let source = Source::Variable(key.env);
                let value = match key.kind {
                    Kind::Scalar => Value::Text(value.clone()),
                    Kind::List | Kind::Table => Value::List(split_commas(value)),
                };
                if let Some(value) = shape(key.kind, value, &source, problems) {
                    layer.insert(key.name, (value, source));
                }
            }
            None if OTHER_VARIABLES.contains(&name.as_str()) => {}
            None => {
                let names = KEYS.iter().map(|key| key.env).chain(OTHER_VARIABLES.iter().copied());
                let nearest = keys::nearest(name, names).map(|near| format!("; did you mean {near}?"));
                warnings.push(format!("the variable {name} means nothing{}", nearest.unwrap_or_default()));
            }
        }
    }
    layer
}

fn split_commas(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// Brings a value from a flag or variable into the form of its setting.
fn shape(kind: Kind, value: Value, at: &Source, problems: &mut Problems) -> Option<Value> {
    match (kind, value) {
        (Kind::Table, Value::List(items)) => {
            let mut entries = BTreeMap::new();
            for item in items {
                let (key, value) = problems.take(at, super::names::parse_label(&item))?;
                entries.insert(key, value);
            }
            Some(Value::Table(entries))
        }
        (_, value) => Some(value),
    }
}
