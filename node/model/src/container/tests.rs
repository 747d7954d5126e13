//! Tests of how containers are written, and known again.

use super::*;
use crate::operations::SubKey;
use longshore_raft::NodeId;

fn spec() -> ContainerSpec {
    ContainerSpec::of("nginx".parse().unwrap())
}

#[test]
fn ports_are_read_as_docker_reads_them() {
    let loopback = Some(IpAddr::from([127, 0, 0, 1]));
    let port = |ip, host_port, port, protocol| PortMapping { ip, host_port, port, protocol };
    let cases = [
        ("80", port(None, None, 80, Protocol::Tcp)),
        ("8080:80", port(None, Some(8080), 80, Protocol::Tcp)),
        ("127.0.0.1:8080:80", port(loopback, Some(8080), 80, Protocol::Tcp)),
        ("127.0.0.1::80", port(loopback, None, 80, Protocol::Tcp)),
        ("53:53/udp", port(None, Some(53), 53, Protocol::Udp)),
        ("[::1]:53:53/udp", port(Some("::1".parse().unwrap()), Some(53), 53, Protocol::Udp)),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse::<PortMapping>(), Ok(expected), "{text}");
        assert_eq!(expected.to_string(), text);
    }
    assert_eq!("80/tcp".parse::<PortMapping>(), "80".parse());
    for bad in ["", ":", "0", "65536", "80:", ":80", "a:80", "1:2:3", "80/sctp", "80-90:80", "-1", " 80"] {
        assert_eq!(bad.parse::<PortMapping>(), Err(SpecError::Port(bad.to_owned())));
    }
}

#[test]
fn volumes_are_read_as_docker_reads_them() {
    let mount = |source, target: &str, read_only| Mount { source, target: target.to_owned(), read_only };
    let cases = [
        ("/cache", mount(MountSource::Anonymous, "/cache", false)),
        ("data:/var", mount(MountSource::Volume("data".into()), "/var", false)),
        ("/etc/app:/etc/app:ro", mount(MountSource::Host("/etc/app".into()), "/etc/app", true)),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse::<Mount>(), Ok(expected.clone()), "{text}");
        assert_eq!(expected.to_string(), text);
    }
    assert_eq!("data:/var:rw".parse::<Mount>(), "data:/var".parse());
    for bad in
        ["", "data", "data:", ":/var", "./a:/var", "a/b:/var", "data:var", "data:/", "/a:/b:/c", "-a:/b"]
    {
        assert_eq!(bad.parse::<Mount>(), Err(SpecError::Mount(bad.to_owned())));
    }
}

#[test]
fn policies_and_variables_are_read_as_they_are_written() {
    for text in ["no", "on-failure", "on-failure:3", "always", "unless-stopped"] {
        assert_eq!(text.parse::<RestartPolicy>().unwrap().to_string(), text);
    }
    for bad in ["", "never", "on-failure:", "on-failure:-1", "On-Failure"] {
        assert!(bad.parse::<RestartPolicy>().is_err(), "{bad}");
    }
    let var = |name: &str, value: &str| EnvVar { name: name.to_owned(), value: value.to_owned() };
    assert_eq!("A=b=c".parse(), Ok(var("A", "b=c")));
    assert_eq!("A=".parse(), Ok(var("A", "")));
    for bad in ["", "A", "=b", "A=\0"] {
        assert!(bad.parse::<EnvVar>().is_err(), "{bad:?}");
    }
}

#[test]
fn what_no_host_could_run_is_refused() {
    assert_eq!(spec().check(), Ok(()));
    let env = |count: usize, bytes: usize| {
        (0..count).map(|i| EnvVar { name: format!("V{i}"), value: "x".repeat(bytes) }).collect()
    };
    let port = |text: &str| text.parse::<PortMapping>().unwrap();
    let mount = |text: &str| text.parse::<Mount>().unwrap();
    let own = BTreeMap::from([(format!("{LABEL_PREFIX}token"), "1".to_owned())]);
    let cases = [
        (ContainerSpec { env: env(257, 0), ..spec() }, "256 variables"),
        (ContainerSpec { env: env(2, TEXT_BYTES_MAX / 2), ..spec() }, "65536 bytes"),
        (ContainerSpec { labels: own, ..spec() }, "the fleet's own"),
        (ContainerSpec { memory_bytes: Some(MEMORY_MIN - 1), ..spec() }, "6 MiB"),
        (ContainerSpec { cpu_millis: Some(0), ..spec() }, "processor"),
        (ContainerSpec { ports: vec![port("80:80"), port("80:81")], ..spec() }, "the same: 80"),
        (ContainerSpec { mounts: vec![mount("a:/x"), mount("b:/x")], ..spec() }, "the same: /x"),
    ];
    for (spec, why) in cases {
        assert!(spec.check().unwrap_err().to_string().contains(why), "{why}");
    }
    let udp =
        ContainerSpec { ports: vec![port("53:53"), port("53:53/udp"), port("80"), port("80")], ..spec() };
    assert_eq!(udp.check(), Ok(()));
    for bad in ["", "a", "-a", "a b", "\u{e4}", &"a".repeat(NAME_BYTES_MAX + 1)] {
        assert!(check_name(bad).is_err(), "{bad}");
    }
    assert_eq!(check_name("web_1.a-B"), Ok(()));
}

#[test]
fn a_container_is_known_by_its_labels_in_its_own_fleet() {
    let run: crate::operations::OperationId = "op-3-4-5".parse().unwrap();
    for kept in [None, Some(CopyOf { run, copy: 2 })] {
        let origin = Origin { sub: SubKey { operation: run, index: 7 }, token: 3, kept };
        let labels = origin.labels("f1", NodeId(3), "web.1");
        assert_eq!((Origin::made_by(&labels), Origin::made_by(&BTreeMap::new())), (Some(NodeId(3)), None));
        assert!(labels.keys().all(|key| key.starts_with(LABEL_PREFIX)));
        assert_eq!(Origin::of(&labels, "web.1", "f1"), Some(origin));
        assert_eq!(Origin::of(&labels, "web.1", "f2"), None, "another fleet's");
        assert_eq!(
            Origin::of(&labels, "mine", "f1"),
            None,
            "made of an image that `docker commit` made of it"
        );
        let mut cut = labels.clone();
        cut.remove(TOKEN_LABEL);
        assert_eq!(Origin::of(&cut, "web.1", "f1"), None);
    }
    assert_eq!(Origin::of(&BTreeMap::new(), "web.1", "f1"), None);
}

const TOKEN_LABEL: &str = "dev.longshore.token";
