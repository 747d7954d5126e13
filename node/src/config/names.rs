//! What nodes, zones and labels may be called. Names appear in tables, paths and logs of the whole fleet, so they are short
//! and plain.

/// Most characters of a node's name, as of a host name's label (RFC 1123).
pub const NAME_MAX_CHARS: usize = 63;
/// Most characters of a zone and of a label's key.
pub const KEY_MAX_CHARS: usize = 63;
/// Most bytes of a label's value; the membership record allows no more.
pub const LABEL_VALUE_MAX_BYTES: usize = 253;
/// Most labels of one node: the membership record of every node carries them.
pub const LABELS_MAX: usize = 64;

/// Checks a node's name: 1 to 63 of `a-z`, `0-9` and inner `-`, and nothing that commands take for an id.
pub fn check_node_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let inner = |c: char| c != '-';
    let ends = name.starts_with(inner) && name.ends_with(inner);
    if !(1..=NAME_MAX_CHARS).contains(&name.len()) || !name.chars().all(plain) || !ends {
        return Err(format!(
            "{name:?} is not a name for a node; use 1 to {NAME_MAX_CHARS} lower-case letters, digits and inner hyphens"
        ));
    }
    let digits = name.strip_prefix('n').unwrap_or(name);
    if name == "self" || (!digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit())) {
        return Err(format!(
            "{name:?} is not a name for a node, since commands take it for an id; use another"
        ));
    }
    Ok(())
}

/// A node name made of a host name: its first label, in lower case, other characters as hyphens.
pub fn name_of_host(host: &str) -> String {
    let first = host.split('.').next().unwrap_or("").to_ascii_lowercase();
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = first.chars().map(plain).take(NAME_MAX_CHARS).collect();
    name.trim_matches('-').to_owned()
}

/// Checks a zone: 1 to 63 of `A-Z`, `a-z`, `0-9`, `.`, `_`, `-`.
pub fn check_zone(zone: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if (1..=KEY_MAX_CHARS).contains(&zone.len()) && zone.chars().all(plain) {
        return Ok(());
    }
    Err(format!(
        "{zone:?} is not a zone; use 1 to {KEY_MAX_CHARS} letters, digits, dots, hyphens and underscores"
    ))
}

/// Checks a region: like a zone.
pub fn check_region(region: &str) -> Result<(), String> {
    check_zone(region).map_err(|error| error.replace("is not a zone", "is not a region"))
}

/// Checks a label's key: like a zone, with `/` as well, beginning and ending with a letter or digit.
pub fn check_label_key(key: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let edge = |c: char| c.is_ascii_alphanumeric();
    let fits = (1..=KEY_MAX_CHARS).contains(&key.len()) && key.chars().all(plain);
    if fits && key.starts_with(edge) && key.ends_with(edge) {
        return Ok(());
    }
    Err(format!(
        "{key:?} is not a key for a label; use 1 to {KEY_MAX_CHARS} letters and digits, with dots, hyphens, \
         underscores and slashes between them"
    ))
}

/// Checks a label's value: up to 253 bytes of printable characters; may be empty.
pub fn check_label_value(value: &str) -> Result<(), String> {
    if value.len() <= LABEL_VALUE_MAX_BYTES && !value.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!(
        "{value:?} is not a value for a label; use up to {LABEL_VALUE_MAX_BYTES} bytes of printable characters"
    ))
}

/// Parses and checks `key=value`.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err(format!("{text:?} is not a label; write key=value"));
    };
    check_label_key(key)?;
    check_label_value(value)?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn node_names() {
        let long = "a".repeat(63);
        for good in ["a", "web-1", "9lives", "node-1", "n", "n1a", "selfie", long.as_str()] {
            assert_eq!(check_node_name(good), Ok(()), "{good:?}");
        }
        let too_long = "a".repeat(64);
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a b",
            "a_b",
            "é",
            "a\n",
            "self",
            "7",
            "n7",
            "n0012",
            too_long.as_str(),
        ] {
            let error = check_node_name(bad).unwrap_err();
            assert!(error.contains("name"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn names_of_hosts() {
        for (host, name) in [
            ("Web-1.example.org", "web-1"),
            ("my_host", "my-host"),
            ("-x-", "x"),
            ("...", ""),
            ("localhost", "localhost"),
        ] {
            assert_eq!(name_of_host(host), name);
        }
    }

    #[test]
    fn zones_and_labels() {
        for good in ["a", "eu-west-1a", "Rack_7.b"] {
            assert_eq!(check_zone(good), Ok(()));
        }
        for bad in ["", "a b", "a/b", "ä", &"z".repeat(64)] {
            assert!(check_zone(bad).is_err(), "{bad:?}");
        }
        let cases = [
            ("a=1", Some(("a", "1"))),
            ("a=", Some(("a", ""))),
            ("a=b=c", Some(("a", "b=c"))),
            ("org.example/disk=ssd größer", Some(("org.example/disk", "ssd größer"))),
            ("novalue", None),
            ("=x", None),
            ("-a=x", None),
            ("a/=x", None),
            ("a b=x", None),
            ("a=\u{7}", None),
        ];
        for (text, expected) in cases {
            let parsed = parse_label(text).ok();
            assert_eq!(parsed.as_ref().map(|(k, v)| (k.as_str(), v.as_str())), expected, "{text:?}");
        }
        assert!(parse_label(&format!("a={}", "v".repeat(253))).is_ok());
        assert!(parse_label(&format!("a={}", "v".repeat(254))).is_err());
        assert!(parse_label("novalue").unwrap_err().contains("novalue"));
    }

    proptest! {
        #[test]
        fn a_host_gives_a_good_name_or_none(host in ".{0,80}") {
            let name = name_of_host(&host);
            let id_like = check_node_name(&name).is_err_and(|error| error.contains("id"));
            prop_assert!(name.is_empty() || id_like || check_node_name(&name).is_ok(), "{name:?}");
        }
    }
}
