//! What a node is started with again: a configuration file of the settings that were given the first time.

use std::collections::BTreeMap;

/// Settings that `init` and `join` write down for `run`, if they were given. The name and the labels are in the fleet's record.
pub(super) const KEPT: &[&str] = &[
    "listen",
    "advertise",
    "api",
    "docker",
    "zone",
    "region",
    "weight",
    "ring.death_pause",
    "ring.copy_rate",
    "limits.docker_operations",
    "limits.build_context",
    "limits.build_contexts",
    "limits.disk_floor",
    "history.keep",
    "log.format",
    "log.level",
];

/// A configuration file with these settings, by their names.
pub fn settings_file(settings: &BTreeMap<&'static str, String>) -> String {
    let mut text = String::from(
        "# What this node was started with the first time; `longshore run` reads it, flags and LONGSHORE_* win over it.\n\
         # `longshore config default` shows all there is to set.\n",
    );
    let mut table = "";
    // Settings without a table come first, as TOML wants it.
    let mut sorted: Vec<_> = settings.iter().collect();
    sorted.sort_by_key(|(name, _)| (name.contains('.'), **name));
    for (name, value) in sorted {
        let (of_table, key) = name.split_once('.').unwrap_or(("", name));
        if of_table != table {
            text.push_str(&format!("\n[{of_table}]\n"));
            table = of_table;
        }
        text.push_str(&format!("{key} = {}\n", toml::Value::String(value.clone())));
    }
    text
}
