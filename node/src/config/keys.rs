//! The table of settings.

/// Form of a value in the TOML file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string; a whole number is taken as well.
    Scalar,
    /// An array of strings. In a variable: separated by commas.
    List,
    /// A table of strings. In a variable: `key=value`, separated by commas.
    Table,
}

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Dotted path in the TOML file; the setting's name everywhere.
    pub name: &'static str,
    pub env: &'static str,
    /// Command-line flag, if it has one.
    pub flag: Option<&'static str>,
    pub kind: Kind,
    /// Never shown.
    pub secret: bool,
    /// An example for the template; what the default is, if that is a fixed value.
    pub example: &'static str,
    pub doc: &'static str,
}

const fn key(
    name: &'static str,
    env: &'static str,
    flag: &'static str,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key { name, env, flag: Some(flag), kind: Kind::Scalar, secret: false, example, doc }
}

const fn limit(name: &'static str, env: &'static str, example: &'static str, doc: &'static str) -> Key {
    Key { name, env, flag: None, kind: Kind::Scalar, secret: false, example, doc }
}

/// All settings, in the order of the template.
pub const KEYS: &[Key] = &[
    key(
        "data_dir",
        "LONGSHORE_DATA_DIR",
        "--data-dir",
        "\"/var/lib/longshore\"",
        "Where the node keeps its identity, log and snapshots. Default: /var/lib/longshore for root, else\n\
         $XDG_DATA_HOME/longshore or ~/.local/share/longshore.",
    ),
    key(
        "name",
        "LONGSHORE_NAME",
        "--name",
        "\"web-1\"",
        "What people call this node: 1 to 63 lower-case letters, digits and inner hyphens. Default: the host name.",
    ),
    key(
        "listen",
        "LONGSHORE_LISTEN",
        "--listen",
        "\"0.0.0.0:7400\"",
        "IP[:PORT] for the other nodes (QUIC, UDP).",
    ),
    key(
        "advertise",
        "LONGSHORE_ADVERTISE",
        "--advertise",
        "\"eth0\"",
        "IP|INTERFACE[:PORT] that the other nodes reach this one at. Default: the listen address if it is concrete,\n\
         else the address of the interface with the default route.",
    ),
    key(
        "api",
        "LONGSHORE_API",
        "--api",
        "\"127.0.0.1:7400\"",
        "IP:PORT of the HTTP API over TCP (reads only, loopback only), or \"none\". The unix socket is always there.\n\
         Default: 127.0.0.1:7400, or the listen address if that is loopback.",
    ),
    key(
        "docker",
        "LONGSHORE_DOCKER",
        "--docker",
        "\"unix:///var/run/docker.sock\"",
        "Socket of the Docker Engine that this node works with, or \"none\".",
    ),
    key(
        "zone",
        "LONGSHORE_ZONE",
        "--zone",
        "\"rack-7\"",
        "What fails together with this node: voters and replicas are spread over zones. Default: none.",
    ),
    key(
        "region",
        "LONGSHORE_REGION",
        "--region",
        "\"eu-north\"",
        "Where this node is, as people see it: shown with the node. Default: none.",
    ),
    key(
        "weight",
        "LONGSHORE_WEIGHT",
        "--weight",
        "16384",
        "How much data this node holds, relative to other nodes' weights; 0: none. Default: the host's memory in MiB.",
    ),
    Key {
        name: "labels",
        env: "LONGSHORE_LABELS",
        flag: Some("--label"),
        kind: Kind::Table,
        secret: false,
        example: "{ disk = \"ssd\" }",
        doc: "Labels of this node.",
    },
    key(
        "log.format",
        "LONGSHORE_LOG_FORMAT",
        "--log-format",
        "\"text\"",
        "\"text\" or \"json\"; logs go to standard error.",
    ),
    key(
        "log.level",
        "LONGSHORE_LOG_LEVEL",
        "--log-level",
        "\"info\"",
        "error, warn, info, debug or trace; or a filter such as \"info,longshore_raft=debug\".",
    ),
    Key {
        name: "join.peers",
        env: "LONGSHORE_JOIN_PEERS",
        flag: Some("HOST[:PORT]"),
        kind: Kind::List,
        secret: false,
        example: "[\"192.0.2.1:7400\"]",
        doc: "For `longshore join`: nodes to ask, as HOST[:PORT].",
    },
    Key {
        name: "join.token",
        env: "LONGSHORE_JOIN_TOKEN",
        flag: Some("--token"),
        kind: Kind::Scalar,
        secret: true,
        example: "\"LSJ1-...\"",
        doc: "For `longshore join`: the token. Better kept in a file of its own (next line).",
    },
    key(
        "join.token_file",
        "LONGSHORE_JOIN_TOKEN_FILE",
        "--token-file",
        "\"/run/secrets/longshore-token\"",
        "A file with the token.",
    ),
    key(
        "join.timeout",
        "LONGSHORE_JOIN_TIMEOUT",
        "--join-timeout",
        "\"10s\"",
        "For `longshore join`: give up when no peer could be reached for so long.",
    ),
    key(
        "ring.groups",
        "LONGSHORE_RING_GROUPS",
        "--groups",
        "32",
        "For `longshore init`: Raft groups that carry the fleet's data: 32, 64, 128 or 256. Fixed for its life. Take 256 for more than\n\
         about 50 nodes.",
    ),
    key(
        "ring.replication",
        "LONGSHORE_RING_REPLICATION",
        "--replication",
        "3",
        "For `longshore init`: replicas of each group: 1, 3 or 5, as soon as there are as many nodes.",
    ),
    limit(
        "ring.death_pause",
        "LONGSHORE_RING_DEATH_PAUSE",
        "\"5m\"",
        "How long a node has to be dead before its data is copied to others.",
    ),
    limit(
        "ring.copy_rate",
        "LONGSHORE_RING_COPY_RATE",
        "\"64MiB\"",
        "Bytes a second that this node sends when data is copied to other nodes: two groups move at a time, each at half of it, or faster if it would take over 30 s.",
    ),
    key(
        "history.keep",
        "LONGSHORE_HISTORY_KEEP",
        "--history-keep",
        "\"24h\"",
        "How long operations that have ended are in this node's history, since they were submitted: 1h to 90d.",
    ),
    limit(
        "limits.api_connections",
        "LONGSHORE_LIMITS_API_CONNECTIONS",
        "1024",
        "Open connections to each API listener. The next one is told `busy`.",
    ),
    limit(
        "limits.api_requests",
        "LONGSHORE_LIMITS_API_REQUESTS",
        "512",
        "API requests worked on at once, per listener. The next one is told `busy`.",
    ),
    limit(
        "limits.docker_operations",
        "LONGSHORE_LIMITS_DOCKER_OPERATIONS",
        "4",
        "Pieces of operations that this node's engine carries out at once; others wait their turn.",
    ),
    limit(
        "limits.build_context",
        "LONGSHORE_LIMITS_BUILD_CONTEXT",
        "\"512MiB\"",
        "Largest folder that can be sent to this node to be built.",
    ),
    limit(
        "limits.build_contexts",
        "LONGSHORE_LIMITS_BUILD_CONTEXTS",
        "\"2GiB\"",
        "What this node keeps of such folders, at least twice `build_context`; the one used longest ago makes room, and all go an hour after their last use, but none that a build needs which has not ended.",
    ),
    limit(
        "limits.disk_floor",
        "LONGSHORE_LIMITS_DISK_FLOOR",
        "\"1GiB\"",
        "What is left free of the disk with the data folder, whatever folders are sent to be built. Default: 5 % of the disk, 1GiB at least and 16GiB at most.",
    ),
    limit("limits.api_body", "LONGSHORE_LIMITS_API_BODY", "\"1MiB\"", "Largest body of an API request."),
    limit(
        "limits.api_header_timeout",
        "LONGSHORE_LIMITS_API_HEADER_TIMEOUT",
        "\"10s\"",
        "Time for the head of an API request; idle connections are closed after it, too.",
    ),
    limit(
        "limits.api_body_timeout",
        "LONGSHORE_LIMITS_API_BODY_TIMEOUT",
        "\"10s\"",
        "Time for the body of an API request.",
    ),
];

/// Variables that are no settings: the command line's own.
pub const OTHER_VARIABLES: &[&str] = &["LONGSHORE_HOST", "LONGSHORE_CONFIG"];

/// The setting of this name.
///
/// # Panics
/// If there is none: names are constants of this crate.
pub fn find(name: &str) -> &'static Key {
    KEYS.iter().find(|key| key.name == name).unwrap_or_else(|| panic!("no setting is called {name}"))
}

/// The candidate nearest to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Below this, suggestions confuse more than they help (clap uses the same figure).
    const SIMILAR: f64 = 0.7;
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity > SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_follow_one_rule() {
        let mut names = BTreeSet::new();
        for key in KEYS {
            assert!(names.insert(key.name), "{} is there twice", key.name);
            let env = format!("LONGSHORE_{}", key.name.to_uppercase().replace('.', "_"));
            assert_eq!(key.env, env);
            assert!(!key.doc.is_empty());
        }
    }

    #[test]
    fn nearest_names() {
        let names = || KEYS.iter().map(|key| key.name);
        assert_eq!(nearest("lissten", names()), Some("listen"));
        assert_eq!(nearest("advertize", names()), Some("advertise"));
        assert_eq!(nearest("log.fromat", names()), Some("log.format"));
        assert_eq!(nearest("limits.api_conections", names()), Some("limits.api_connections"));
        assert_eq!(nearest("xyzzy", names()), None);
    }
}
