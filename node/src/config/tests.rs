//! Layers, defaults, addresses and mistakes, as tables.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::addresses::{self, Advertise};
use super::*;

/// A host with a few interfaces, run by nobody special.
struct TestHost {
    name: &'static str,
    route: Option<&'static str>,
    root: bool,
}

const HOST: TestHost = TestHost { name: "Box-7.example.org", route: Some("eth0"), root: false };

impl Host for TestHost {
    fn name(&self) -> String {
        self.name.to_owned()
    }
    fn interfaces(&self) -> io::Result<Vec<(String, IpAddr)>> {
        let pairs = [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("eth0", "fe80::1"),
            ("eth0", "192.0.2.10"),
            ("eth0", "2001:db8::10"),
            ("wg0", "10.8.0.2"),
            ("v6only", "2001:db8::20"),
            ("bare", "fe80::2"),
        ];
        Ok(pairs.into_iter().map(|(name, ip)| (name.to_owned(), ip.parse().unwrap())).collect())
    }
    fn default_interface(&self, _ipv6: bool) -> Option<String> {
        self.route.map(str::to_owned)
    }
    fn is_root(&self) -> bool {
        self.root
    }
}

fn variables(pairs: &[(&str, &str)]) -> Variables {
    let home = [("HOME", "/home/somebody")];
    home.iter().chain(pairs).map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn load(flags: Flags, pairs: &[(&str, &str)], config: Option<&Path>) -> Result<Settings, ConfigError> {
    Settings::load(flags, &variables(pairs), config, &HOST)
}

fn node_config(flags: Flags) -> Result<NodeConfig, String> {
    load(flags, &[], None).and_then(|s| s.node_config(&HOST)).map_err(|error| error.to_string())
}

/// The value of a setting and its source, as `config show` prints them.
fn row(settings: &Settings, name: &str) -> (String, String) {
    let row = settings.rows().into_iter().find(|(known, _, _)| *known == name).unwrap();
    (row.1, row.2.to_string())
}

fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("longshore.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn defaults() {
    let config = node_config(Flags::default()).unwrap();
    assert_eq!(config.data_dir, Path::new("/home/somebody/.local/share/longshore"));
    assert_eq!(config.socket_path(), Path::new("/home/somebody/.local/share/longshore/longshore.sock"));
    assert_eq!(config.name, "box-7");
    assert_eq!(config.listen.to_string(), "0.0.0.0:7400");
    assert_eq!(config.advertise.to_string(), "192.0.2.10:7400");
    assert_eq!(config.api.unwrap().to_string(), "127.0.0.1:7400");
    assert_eq!(config.docker_endpoint().as_deref(), Some("unix:///var/run/docker.sock"));
    assert_eq!((config.zone, config.labels.len()), (None, 0));
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.api_limits, crate::api::limits::ApiLimits::default());
    assert!(config.given.is_empty() && config.warnings.is_empty());
}

#[test]
fn data_folders_by_default() {
    type Case = (&'static [(&'static str, &'static str)], bool, Option<&'static str>);
    let cases: [Case; 5] = [
        (&[], true, Some("/var/lib/longshore")),
        (&[("HOME", "/h")], false, Some("/h/.local/share/longshore")),
        (&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")], false, Some("/x/longshore")),
        (&[("HOME", "/h"), ("XDG_DATA_HOME", "relative")], false, Some("/h/.local/share/longshore")),
        (&[], false, None),
    ];
    for (pairs, root, expected) in cases {
        let host = TestHost { root, ..HOST };
        let variables = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let settings = Settings::load(Flags::default(), &variables, None, &host).unwrap();
        let config = settings.node_config(&host);
        match (expected, config) {
            (Some(expected), Ok(config)) => assert_eq!(config.data_dir, Path::new(expected)),
            (None, Err(error)) => assert!(error.to_string().contains("--data-dir"), "{error}"),
            (expected, got) => panic!("{expected:?}, got {got:?}"),
        }
    }
}

#[test]
fn names_by_default() {
    for (host, expected) in
        [("web.example", "web"), ("n1", "node-n1"), ("42", "node-42"), ("", "node"), ("self", "node-self")]
    {
        let host = TestHost { name: host, ..HOST };
        let settings = Settings::load(Flags::default(), &variables(&[]), None, &host).unwrap();
        assert_eq!(settings.node_config(&host).unwrap().name, expected);
    }
}

#[test]
fn flags_over_variables_over_file_over_defaults() {
    let (_folder, path) = file("zone = \"z-file\"\nname = \"n-file\"\n\n[log]\nlevel = \"warn\"\n");
    let flags = Flags::default().text("zone", Some("z-flag"));
    let pairs = [("LONGSHORE_ZONE", "z-env"), ("LONGSHORE_NAME", "n-env"), ("LONGSHORE_LISTEN", "")];
    let settings = load(flags, &pairs, Some(&path)).unwrap();
    assert_eq!(row(&settings, "zone"), ("z-flag".into(), "--zone".into()));
    assert_eq!(row(&settings, "name"), ("n-env".into(), "LONGSHORE_NAME".into()));
    assert_eq!(row(&settings, "log.level"), ("warn".into(), format!("{}:5", path.display())));
    assert_eq!(row(&settings, "listen"), ("0.0.0.0:7400".into(), "default".into()));
    assert_eq!(row(&settings, "advertise"), ("192.0.2.10:7400".into(), "default".into()));
    assert_eq!(row(&settings, "labels"), (String::new(), "default".into()));
    let config = settings.node_config(&HOST).unwrap();
    assert_eq!((config.zone.as_deref(), config.name.as_str()), (Some("z-flag"), "n-env"));
    assert_eq!(config.given.into_iter().collect::<Vec<_>>(), ["log.level", "name", "zone"]);
}

#[test]
fn every_setting_can_be_in_the_file_and_in_a_variable() {
    let text = r#"
        data_dir = "data"
        name = "web-1"
        listen = "127.0.0.2"
        advertise = "wg0:7500"
        api = "none"
        docker = "none"
        zone = "east"
        labels = { disk = "ssd", cores = 8 }
        [log]
        format = "json"
        level = "debug"
        [join]
        peers = ["one", "192.0.2.1:7401", "2001:db8::1"]
        token = "LSJ1-x"
        timeout = "2s"
        [limits]
        api_connections = 3
        api_requests = "2"
        api_body = "64KiB"
        api_header_timeout = "1s"
        api_body_timeout = "500ms"
    "#;
    let (folder, path) = file(text);
    Settings::check_file(&path).unwrap();
    let settings = load(Flags::default(), &[], Some(&path)).unwrap();
    let config = settings.node_config(&HOST).unwrap();
    assert_eq!(config.data_dir, folder.path().join("data"));
    assert_eq!(config.listen.to_string(), "127.0.0.2:7400");
    assert_eq!(config.advertise.to_string(), "10.8.0.2:7500");
    assert_eq!((config.api, &config.docker), (None, &None));
    assert_eq!(config.labels, [("cores".into(), "8".into()), ("disk".into(), "ssd".into())].into());
    assert_eq!((config.api_limits.connections_max, config.api_limits.requests_max), (3, 2));
    assert_eq!((config.api_limits.body_max_bytes, config.api_limits.body_timeout.as_millis()), (65536, 500));
    let join = settings.join_config(&mut io::empty()).unwrap();
    let peers: Vec<String> = join.peers.iter().map(PeerAddress::to_string).collect();
    assert_eq!(peers, ["one:7400", "192.0.2.1:7401", "[2001:db8::1]:7400"]);
    assert_eq!((join.token.expose(), join.timeout.as_secs()), ("LSJ1-x", 2));

    // The same through variables.
    let from_file: Vec<_> = settings.rows().into_iter().map(|(name, value, _)| (name, value)).collect();
    let pairs: Vec<(&str, &str)> = from_file
        .iter()
        .filter(|(name, value)| !value.is_empty() && *name != "join.token_file")
        .map(|(name, value)| {
            (keys::find(name).env, if *name == "join.token" { "LSJ1-x" } else { value.as_str() })
        })
        .collect();
    let again = load(Flags::default(), &pairs, None).unwrap();
    for (name, value, source) in again.rows() {
        if !value.is_empty() {
            assert_eq!(source, Source::Variable(keys::find(name).env), "{name}");
        }
    }
    let same = again.node_config(&HOST).unwrap();
    assert_eq!(
        (same.labels, same.advertise, same.api_limits),
        (config.labels, config.advertise, config.api_limits)
    );
    assert_eq!(again.join_config(&mut io::empty()).unwrap().peers, join.peers);
}

#[test]
fn mistakes_in_files_are_told_with_their_lines_all_at_once() {
    let cases: &[(&str, &[&str])] = &[
        ("lissten = \"127.0.0.1\"\n", &["longshore.toml:1: unknown key `lissten`; did you mean `listen`?"]),
        (
            "\n[log]\nfromat = \"json\"\n",
            &["longshore.toml:3: unknown key `log.fromat`; did you mean `log.format`?"],
        ),
        ("[loging]\nlevel = \"info\"\n", &["longshore.toml:1: unknown key `loging`"]),
        ("xyzzy = 1\n", &["longshore.toml:1: unknown key `xyzzy`"]),
        ("name = \n", &["longshore.toml:1: "]),
        ("name = \"a\"\nname = \"b\"\n", &["longshore.toml:2: duplicate key"]),
        ("name = true\n", &["longshore.toml:1: `name` must be a string or a whole number"]),
        ("labels = [\"a=b\"]\n", &["longshore.toml:1: `labels` must be a table of strings"]),
        ("[join]\npeers = \"one\"\n", &["longshore.toml:2: `join.peers` must be an array of strings"]),
        ("limits = 3\n", &["longshore.toml:1: `limits` must be a table"]),
        (
            "zone = \"a b\"\nname = \"No\"\n\n[log]\nformat = \"xml\"\n",
            &[
                "longshore.toml:1: \"a b\" is not a zone",
                "longshore.toml:2: \"No\" is not a name",
                "longshore.toml:5: \"xml\" is not a log format",
            ],
        ),
        ("[limits]\napi_body = \"1EB\"\n", &["longshore.toml:2: \"1EB\" is not a size"]),
        ("[limits]\napi_body = \"1GiB\"\n", &["longshore.toml:2: 1GiB is not between 1KiB and 64MiB"]),
        ("[limits]\napi_requests = 0\n", &["\"0\" is not a whole number between 1 and 65536"]),
        ("[limits]\napi_body_timeout = \"1ms\"\n", &["1ms is not between 100ms and 10m"]),
        ("[history]\nkeep = \"59m\"\n", &["59m is not between 1h and 90d"]),
        ("[history]\nkeep = \"91days\"\n", &["91days is not between 1h and 90d"]),
        ("[labels]\n\"a b\" = \"c\"\n", &["longshore.toml:1: \"a b\" is not a key for a label"]),
        ("[join]\npeers = [\"a:b\"]\n", &["\"a:b\" is not the address of a node"]),
    ];
    for (text, expected) in cases {
        let (_folder, path) = file(text);
        let error = Settings::check_file(&path).expect_err(text);
        assert_eq!(error.problems.len(), expected.len(), "{text}: {error}");
        let message = error.to_string();
        for part in *expected {
            assert!(message.contains(part), "{text}: {message}");
        }
        // What is wrong by itself is wrong in use.
        let in_use = load(Flags::default(), &[], Some(&path)).and_then(|settings| {
            settings.node_config(&HOST).map(drop).and(settings.join_config(&mut io::empty()).map(drop))
        });
        assert!(in_use.is_err(), "{text}");
    }
    let nowhere = Path::new("/nowhere/longshore.toml");
    let error = load(Flags::default(), &[], Some(nowhere)).unwrap_err().to_string();
    assert!(error.starts_with("cannot read /nowhere/longshore.toml: "), "{error}");
}

#[test]
fn the_file_in_the_data_folder_is_found_and_stays_there() {
    let (folder, path) = file("zone = \"found\"\n");
    let flags = || Flags::default().text("data_dir", folder.path().to_str());
    let settings = load(flags(), &[], None).unwrap();
    assert_eq!(settings.file.as_deref(), Some(path.as_path()));
    assert_eq!(row(&settings, "zone").0, "found");
    std::fs::write(&path, "data_dir = \"/elsewhere\"\n").unwrap();
    let error = load(flags(), &[], None).unwrap_err().to_string();
    assert!(error.contains("`data_dir` has no place"), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert_eq!(load(flags(), &[], None).unwrap().file, None);
}

#[test]
fn unknown_variables_are_warned_of() {
    let pairs =
        [("LONGSHORE_ADVERTIZE", "x"), ("LONGSHORE_HOST", "x"), ("LONGSHORE_CONFIG", "x"), ("OTHER", "x")];
    let settings = load(Flags::default(), &pairs, None).unwrap();
    let expected = "the variable LONGSHORE_ADVERTIZE means nothing; did you mean LONGSHORE_ADVERTISE?";
    assert_eq!(settings.warnings, [expected]);
    assert_eq!(settings.node_config(&HOST).unwrap().warnings, [expected]);
}

#[test]
fn labels_from_flags_and_variables() {
    let flags = Flags::default().many("labels", vec!["a=1".into(), "b=".into(), "a=2".into()]);
    let config = node_config(flags).unwrap();
    assert_eq!(config.labels, [("a".into(), "2".into()), ("b".into(), String::new())].into());
    let error = node_config(Flags::default().many("labels", vec!["novalue".into()])).unwrap_err();
    assert_eq!(error, "--label: \"novalue\" is not a label; write key=value");
    let many = (0..65).map(|i| format!("k{i}=v")).collect();
    let error = node_config(Flags::default().many("labels", many)).unwrap_err();
    assert!(error.contains("limit of 64"), "{error}");
}

#[test]
fn listen_addresses() {
    for (text, expected) in [
        ("0.0.0.0", Some("0.0.0.0:7400")),
        ("127.0.0.2:1", Some("127.0.0.2:1")),
        ("127.0.0.1:0", Some("127.0.0.1:0")),
        ("::", Some("[::]:7400")),
        ("[::1]", Some("[::1]:7400")),
        ("[::1]:9", Some("[::1]:9")),
        ("eth0", None),
        ("localhost:7400", None),
        (":7400", None),
        ("1.2.3.4:99999", None),
        ("", None),
    ] {
        let parsed = addresses::parse_listen(text).ok().map(|address| address.to_string());
        assert_eq!(parsed.as_deref(), expected, "{text:?}");
    }
}

#[test]
fn api_addresses() {
    for (listen, api, expected) in [
        ("0.0.0.0", None, Ok(Some("127.0.0.1:7400"))),
        ("192.0.2.10:9", None, Ok(Some("127.0.0.1:7400"))),
        ("127.0.0.2:7500", None, Ok(Some("127.0.0.2:7500"))),
        ("[::1]:7500", None, Ok(Some("[::1]:7500"))),
        ("127.0.0.2", Some("none"), Ok(None)),
        ("0.0.0.0", Some("127.0.0.9:1"), Ok(Some("127.0.0.9:1"))),
        ("0.0.0.0", Some("0.0.0.0:80"), Err("loopback")),
        ("0.0.0.0", Some("192.0.2.10:80"), Err("neither TLS nor access control")),
        ("0.0.0.0", Some("7400"), Err("is not an address for the API")),
    ] {
        let config = node_config(Flags::default().text("listen", Some(listen)).text("api", api));
        match (config, expected) {
            (Ok(config), Ok(expected)) => {
                assert_eq!(config.api.map(|a| a.to_string()).as_deref(), expected, "{api:?}")
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (got, expected) => panic!("{api:?}: {expected:?}, got {got:?}"),
        }
    }
}

#[test]
fn advertised_addresses() {
    for (listen, advertise, expected) in [
        ("0.0.0.0", None, Ok("192.0.2.10:7400")),
        ("0.0.0.0:0", None, Ok("192.0.2.10:0")),
        ("[::]:7400", None, Ok("[2001:db8::10]:7400")),
        ("192.0.2.10:9", None, Ok("192.0.2.10:9")),
        ("0.0.0.0:9", Some("198.51.100.1"), Ok("198.51.100.1:9")),
        ("0.0.0.0:9", Some("198.51.100.1:10"), Ok("198.51.100.1:10")),
        ("0.0.0.0:9", Some("[2001:db8::9]:10"), Ok("[2001:db8::9]:10")),
        ("0.0.0.0:9", Some("wg0"), Ok("10.8.0.2:9")),
        ("0.0.0.0:9", Some("wg0:10"), Ok("10.8.0.2:10")),
        ("[::]:9", Some("wg0"), Ok("10.8.0.2:9")),
        ("[::]:9", Some("eth0"), Ok("[2001:db8::10]:9")),
        ("0.0.0.0", Some("v6only"), Err("v6only has no IPv4 address")),
        ("[::]", Some("bare"), Err("bare has no IPv6 address")),
        (
            "0.0.0.0",
            Some("no-such-interface"),
            Err("no interface no-such-interface with an address; there are: lo, eth0,"),
        ),
        ("0.0.0.0", Some("0.0.0.0"), Err("nobody's address")),
        ("0.0.0.0", Some("eth0:x"), Err("neither an address nor an interface")),
        ("0.0.0.0", Some(""), Err("neither an address nor an interface")),
    ] {
        let config = node_config(Flags::default().text("listen", Some(listen)).text("advertise", advertise));
        match (config, expected) {
            (Ok(config), Ok(expected)) => assert_eq!(config.advertise.to_string(), expected, "{advertise:?}"),
            (Err(error), Err(part)) => assert!(error.contains(part), "{advertise:?}: {error}"),
            (got, expected) => panic!("{advertise:?}: {expected:?}, got {got:?}"),
        }
    }
    let host = TestHost { route: None, ..HOST };
    let settings = Settings::load(Flags::default(), &variables(&[]), None, &host).unwrap();
    let error = settings.node_config(&host).unwrap_err().to_string();
    assert!(error.contains("--advertise IP|INTERFACE[:PORT]"), "{error}");
    assert_eq!(addresses::parse_advertise("eth0"), Ok(Advertise::Interface("eth0".into(), None)));
}

#[test]
fn docker_sockets() {
    for (text, expected) in [
        ("none", Some(None)),
        ("unix:///run/docker.sock", Some(Some("/run/docker.sock"))),
        ("/run/docker.sock", Some(Some("/run/docker.sock"))),
        ("unix://run/docker.sock", None),
        ("tcp://127.0.0.1:2375", None),
        ("", None),
    ] {
        let parsed = addresses::parse_docker(text).ok();
        assert_eq!(parsed, expected.map(|path| path.map(Into::into)), "{text:?}");
    }
}

#[test]
fn peers_to_ask() {
    for (text, expected) in [
        ("one", Some("one:7400")),
        ("one.example.org:1", Some("one.example.org:1")),
        ("192.0.2.1", Some("192.0.2.1:7400")),
        ("::1", Some("[::1]:7400")),
        ("[::1]:5", Some("[::1]:5")),
        ("one:0", None),
        ("192.0.2.1:0", None),
        ("0.0.0.0", None),
        ("one:x", None),
        ("a b", None),
        ("", None),
    ] {
        let parsed = addresses::parse_peer(text).ok().map(|peer| peer.to_string());
        assert_eq!(parsed.as_deref(), expected, "{text:?}");
    }
}

#[test]
fn tokens_come_from_the_highest_layer_and_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "  LSJ1-file\n").unwrap();
    let path = path.to_str().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    let empty = empty.to_str().unwrap();
    let peer = || Flags::default().many("join.peers", vec!["one".into()]);
    let from_file = [("LONGSHORE_JOIN_TOKEN_FILE", path)];
    let from_both = [("LONGSHORE_JOIN_TOKEN", "LSJ1-env"), ("LONGSHORE_JOIN_TOKEN_FILE", path)];
    type Case<'a> = (Flags, &'a [(&'a str, &'a str)], Result<&'a str, &'a str>);
    let cases: Vec<Case<'_>> = vec![
        (
            peer().text("join.token", Some("LSJ1-flag")),
            &[("LONGSHORE_JOIN_TOKEN", "LSJ1-env")],
            Ok("LSJ1-flag"),
        ),
        (peer(), &[("LONGSHORE_JOIN_TOKEN", "LSJ1-env")], Ok("LSJ1-env")),
        (peer(), &from_file, Ok("LSJ1-file")),
        (
            peer().text("join.token_file", Some(path)),
            &[("LONGSHORE_JOIN_TOKEN", "LSJ1-env")],
            Ok("LSJ1-file"),
        ),
        (peer().text("join.token_file", Some("-")), &[], Ok("LSJ1-stdin")),
        (peer(), &from_both, Err("given twice, by LONGSHORE_JOIN_TOKEN and by LONGSHORE_JOIN_TOKEN_FILE")),
        (peer(), &[], Err("no token; give one with")),
        (
            peer().text("join.token_file", Some("/nowhere/token")),
            &[],
            Err("cannot read the token from /nowhere/token"),
        ),
        (peer().text("join.token_file", Some(empty)), &[], Err("there is no token in")),
        (Flags::default().text("join.token", Some("LSJ1-flag")), &[], Err("no node to ask")),
    ];
    for (flags, pairs, expected) in cases {
        let settings = load(flags, pairs, None).unwrap();
        let join = settings.join_config(&mut "LSJ1-stdin\n".as_bytes());
        match (&join, expected) {
            (Ok(join), Ok(expected)) => assert_eq!(join.token.expose(), expected),
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (got, expected) => panic!("{expected:?}, got {got:?}"),
        }
        let shown = format!("{settings:?} {join:?} {:?}", settings.rows());
        assert!(!shown.contains("LSJ1-"), "{shown}");
    }
    let flags = Flags::default().text("join.token", Some("LSJ1-flag"));
    assert!(!format!("{flags:?}").contains("LSJ1-"));
}

#[test]
fn the_template_is_a_good_file_and_so_are_its_examples() {
    let (_folder, path) = file(&template());
    Settings::check_file(&path).unwrap();
    let load_all = load(Flags::default(), &[], Some(&path)).unwrap();
    assert!(load_all.rows().iter().all(|(_, _, source)| *source == Source::Default));
    let uncommented: String = template()
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect();
    let (_folder, path) = file(&uncommented);
    Settings::check_file(&path).unwrap();
    let settings = load(Flags::default(), &[], Some(&path)).unwrap();
    for (name, value, source) in settings.rows() {
        assert!(matches!(source, Source::File { .. }), "{name} = {value} is from {source}");
    }
}

#[test]
fn what_a_node_was_started_with_is_read_back_as_it_was() {
    let given = || {
        Flags::default()
            .text("listen", Some("127.0.0.2:7500"))
            .text("docker", Some("none"))
            .text("zone", Some("eu-1"))
            .text("log.level", Some("debug"))
            .text("name", Some("ash"))
    };
    let first = node_config(given()).unwrap();
    assert!(!first.keep.contains_key("name"), "the name is in the fleet's record");
    let text = settings_file(&first.keep);
    let (_folder, path) = file(&text);
    let again = load(Flags::default(), &[], Some(&path)).unwrap().node_config(&HOST).unwrap();
    assert_eq!(again.keep, first.keep, "{text}");
    assert_eq!((again.listen, again.advertise, again.api), (first.listen, first.advertise, first.api));
    assert_eq!((again.docker, again.zone, again.log.filter), (first.docker, first.zone, first.log.filter));
}
