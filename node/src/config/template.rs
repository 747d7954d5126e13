//! The commented configuration file.

use super::keys::{KEYS, Kind};

/// A TOML file that says what every setting means and sets none.
pub fn template() -> String {
    let mut text = String::from(
        "# Longshore's configuration. Everything here is optional. The command line comes first, then LONGSHORE_*\n\
         # variables, then this file, then the defaults. `longshore config show` says what is in force and from where.\n",
    );
    let mut section = "";
    for key in KEYS {
        let (table, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if table != section {
            text.push_str(&format!("\n[{table}]\n"));
            section = table;
        }
        text.push('\n');
        for line in key.doc.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        let flag = key.flag.map_or(String::new(), |flag| format!("{flag}, "));
        text.push_str(&format!("# ({flag}{})\n", key.env));
        text.push_str(&format!("#{name} = {}\n", key.example));
        assert!(key.kind != Kind::Table || table.is_empty(), "a table setting would nest in another table");
    }
    text
}
