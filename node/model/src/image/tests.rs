//! A table of what is valid and what it stands for, a table of what is not and why, and properties over generated text.

use proptest::prelude::*;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::*;

const SHA256: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const HEX_64: &str = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a";

/// As given, in full, familiar.
const VALID: &[(&str, &str, &str)] = &[
    // Short names stand for the official repositories.
    ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
    ("nginx:latest", "docker.io/library/nginx:latest", "nginx:latest"),
    ("nginx:1.27-alpine", "docker.io/library/nginx:1.27-alpine", "nginx:1.27-alpine"),
    ("library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
    ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
    ("docker.io/library/nginx:1", "docker.io/library/nginx:1", "nginx:1"),
    ("index.docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
    ("index.docker.io/a/b:c", "docker.io/a/b:c", "a/b:c"),
    ("a/b", "docker.io/a/b:latest", "a/b:latest"),
    ("a/b/c/d", "docker.io/a/b/c/d:latest", "a/b/c/d:latest"),
    ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
    ("library", "docker.io/library/library:latest", "library:latest"),
    ("0", "docker.io/library/0:latest", "0:latest"),
    // Registries: a dot, a port, or localhost.
    ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
    ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x:latest"),
    ("localhost:5000/x:1", "localhost:5000/x:1", "localhost:5000/x:1"),
    ("host:80/a/b:c", "host:80/a/b:c", "host:80/a/b:c"),
    (
        "127.0.0.1:5000/docker/docker",
        "127.0.0.1:5000/docker/docker:latest",
        "127.0.0.1:5000/docker/docker:latest",
    ),
    ("127.0.0.1/x", "127.0.0.1/x:latest", "127.0.0.1/x:latest"),
    (
        "quay.io/prometheus/prometheus",
        "quay.io/prometheus/prometheus:latest",
        "quay.io/prometheus/prometheus:latest",
    ),
    ("ghcr.io/a/b-c_d.e:v1_2.3-4", "ghcr.io/a/b-c_d.e:v1_2.3-4", "ghcr.io/a/b-c_d.e:v1_2.3-4"),
    ("Registry.Example.COM/x", "Registry.Example.COM/x:latest", "Registry.Example.COM/x:latest"),
    ("xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com/myimage:xn--n3h.com", "xn--n3h.com/myimage:xn--n3h.com"),
    (
        "sub-dom1.foo.com/bar/baz/quux",
        "sub-dom1.foo.com/bar/baz/quux:latest",
        "sub-dom1.foo.com/bar/baz/quux:latest",
    ),
    ("[::1]:5000/x", "[::1]:5000/x:latest", "[::1]:5000/x:latest"),
    ("[2001:db8::1]/a/b:c", "[2001:db8::1]/a/b:c", "[2001:db8::1]/a/b:c"),
    // Without a slash there is no registry, whatever it looks like.
    ("localhost", "docker.io/library/localhost:latest", "localhost:latest"),
    ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
    ("docker.io", "docker.io/library/docker.io:latest", "docker.io:latest"),
    ("foo_bar.com:8080", "docker.io/library/foo_bar.com:8080", "foo_bar.com:8080"),
    ("foo/foo_bar.com:8080", "docker.io/foo/foo_bar.com:8080", "foo/foo_bar.com:8080"),
    // Here the short form would name another registry, so the familiar form keeps the long one.
    ("docker.io/a.b/c", "docker.io/a.b/c:latest", "docker.io/a.b/c:latest"),
    ("docker.io/localhost/c", "docker.io/localhost/c:latest", "docker.io/localhost/c:latest"),
    // Separators.
    ("a.b/c.d/e", "a.b/c.d/e:latest", "a.b/c.d/e:latest"),
    ("docker/docker--alpine", "docker.io/docker/docker--alpine:latest", "docker/docker--alpine:latest"),
    ("a----b", "docker.io/library/a----b:latest", "a----b:latest"),
    ("a__b_c.d-e", "docker.io/library/a__b_c.d-e:latest", "a__b_c.d-e:latest"),
    ("foo/foo__bar", "docker.io/foo/foo__bar:latest", "foo/foo__bar:latest"),
    // Tags may have capitals and begin with an underscore.
    ("a:_", "docker.io/library/a:_", "a:_"),
    ("a:V1.0-RC_1..-", "docker.io/library/a:V1.0-RC_1..-", "a:V1.0-RC_1..-"),
];

const INVALID: &[(&str, &str)] = &[
    ("", "is missing"),
    (" nginx", "character ' ' at 1"),
    ("nginx\n", "character '\\n' at 6"),
    ("na me", "character ' ' at 3"),
    ("ngïnx", "character 'ï' at 3"),
    ("nginx\0", "at 6"),
    ("https://github.com/docker/docker", "leave out \"https://\""),
    (HEX_64, "is an image id"),
    // Capitals, with what was probably meant.
    ("Nginx", "did you mean \"nginx\"?"),
    ("docker/Docker:V1", "did you mean \"docker/docker:V1\"?"),
    ("Foo/bar", "did you mean \"foo/bar\"?"),
    ("Localhost/x", "did you mean \"localhost/x\"?"),
    ("docker.io/docker/Docker", "did you mean \"docker.io/docker/docker\"?"),
    ("aa/asdf$$^/Aa", "did you mean"),
    // Registries.
    (":5000/x", "the registry is wrong at 1"),
    ("localhost:/x", "the registry is wrong at 10: the port is missing"),
    ("localhost:50a0/x", "the registry is wrong at 13: a port has only digits"),
    ("a:b/c", "the registry is wrong at 3: a port has only digits"),
    ("-docker.io/docker/docker", "the registry is wrong at 1"),
    ("docker-.io/docker/docker", "the registry is wrong at 7"),
    ("docker..io/x", "the registry is wrong at 8: a part of the host name is empty"),
    (".docker.io/x", "the registry is wrong at 1"),
    ("foo_bar.com:5000/x", "the registry is wrong at 4"),
    ("user:pw@host.com/x", "the digest is wrong at 9: a digest is written algorithm:hex"),
    ("[::1/x", "the registry is wrong at 1: the IPv6 address has no closing bracket"),
    ("[::g]/x", "the registry is wrong at 4"),
    ("[fe80::1%eth0]:5000/x", "the registry is wrong at 9"),
    ("[2001:db8::192.0.2.33]:5000/x", "the registry is wrong at 15"),
    ("[::1]x/y", "the registry is wrong at 6: only a port may follow"),
    ("[::1]:/y", "the registry is wrong at 6: the port is missing"),
    ("[]:1/y", "the registry is wrong at 2: the IPv6 address is empty"),
    // Repositories.
    ("/", "the repository is wrong at 1"),
    ("/x", "the repository is wrong at 1"),
    ("x/", "the repository is wrong at 3: there is an empty name"),
    (":x", "the repository is wrong at 1: it is missing"),
    ("localhost:5000/", "the repository is wrong at 16: it is missing"),
    ("docker///docker", "the repository is wrong at 8"),
    ("-docker", "the repository is wrong at 1"),
    ("docker-", "the repository is wrong at 7"),
    ("docker_", "the repository is wrong at 7"),
    ("docker.", "the repository is wrong at 7"),
    ("_docker/_docker", "the repository is wrong at 1"),
    ("____/____", "the repository is wrong at 1"),
    (".docker", "the repository is wrong at 1"),
    ("a/.b", "the repository is wrong at 3"),
    ("a___b", "the repository is wrong at 4: names are joined"),
    ("a..b", "the repository is wrong at 3: names are joined"),
    ("a._b", "the repository is wrong at 3: names are joined"),
    ("a-_b", "the repository is wrong at 3: names are joined"),
    ("a$b", "the repository is wrong at 2: a name has only"),
    ("a.$b", "the repository is wrong at 3: a name has only"),
    ("../x", "the registry is wrong at 1"),
    ("a/../x", "the repository is wrong at 3"),
    ("a\\b", "the repository is wrong at 2"),
    ("[abc]/x", "the repository is wrong at 1"),
    // Tags.
    ("nginx:", "the tag is wrong at 7: nothing follows the colon"),
    ("nginx:.1", "the tag is wrong at 7: a tag begins with"),
    ("nginx:-1", "the tag is wrong at 7: a tag begins with"),
    ("nginx:a:b", "the tag is wrong at 8"),
    ("nginx:a+b", "the tag is wrong at 8"),
    ("x/y:5000/z", "the tag is wrong at 9"),
    ("nginx:@sha256:00", "the tag is wrong at 7"),
    // Digests.
    ("nginx@", "the digest is wrong at 7"),
    ("nginx@sha256", "the digest is wrong at 7: a digest is written algorithm:hex"),
    ("nginx@md5:d41d8cd98f00b204e9800998ecf8427e", "the digest is wrong at 7: the algorithm must be"),
    ("nginx@SHA256:e3b0", "the digest is wrong at 7: the algorithm must be"),
    ("nginx@sha256:e3b0c442", "the digest is wrong at 22: the digest has the wrong length"),
    ("nginx@sha256:E3B0", "the digest is wrong at 14: a digest has only lower-case"),
    ("nginx@sha256:zz", "the digest is wrong at 14"),
    ("@sha256:e3b0", "the repository is wrong at 1"),
];

fn parse(text: &str) -> ImageReference {
    text.parse().unwrap_or_else(|error| panic!("{text:?} should be valid: {error}"))
}

fn refusal(text: &str) -> ReferenceError {
    match text.parse::<ImageReference>() {
        Ok(reference) => panic!("{text:?} should be refused, was taken for {reference}"),
        Err(error) => error,
    }
}

#[test]
fn valid_references_are_normalised() {
    for (given, full, familiar) in VALID {
        let reference = parse(given);
        assert_eq!(reference.to_string(), *full, "full spelling of {given:?}");
        assert_eq!(reference.familiar(), *familiar, "familiar spelling of {given:?}");
        assert_eq!(parse(full), reference, "{given:?} through its full spelling");
        assert_eq!(parse(familiar), reference, "{given:?} through its familiar spelling");
    }
}

#[test]
fn invalid_references_say_what_and_where() {
    for (given, expected) in INVALID {
        let message = refusal(given).to_string();
        assert!(message.contains(expected), "{given:?} said {message:?}, not {expected:?}");
    }
}

#[test]
fn digests_of_each_algorithm_and_length() {
    for (algorithm, digits) in [("sha256", 64), ("sha384", 96), ("sha512", 128)] {
        let digest = format!("{algorithm}:{}", "0a".repeat(digits / 2));
        let reference = parse(&format!("nginx@{digest}"));
        assert_eq!(reference.digest(), Some(digest.as_str()));
        assert_eq!(reference.tag(), None, "a digest stands for no tag");
        for wrong in [digits - 1, digits + 1] {
            let message = refusal(&format!("nginx@{algorithm}:{}", "a".repeat(wrong))).to_string();
            assert!(message.contains("wrong length"), "{message}");
        }
    }
    let both = parse(&format!("localhost:5000/a/b:1@{SHA256}"));
    assert_eq!((both.registry(), both.repository()), ("localhost:5000", "a/b"));
    assert_eq!((both.tag(), both.digest()), (Some("1"), Some(SHA256)));
    assert_eq!(both.to_string(), format!("localhost:5000/a/b:1@{SHA256}"));
    assert_eq!(both.name(), "localhost:5000/a/b");
}

#[test]
fn an_identifier_with_a_registry_or_a_tag_is_a_name() {
    assert_eq!(parse(&format!("docker.io/{HEX_64}")).repository(), format!("library/{HEX_64}"));
    assert_eq!(parse(&format!("{HEX_64}:x")).familiar(), format!("{HEX_64}:x"));
    assert_eq!(parse(&HEX_64[..63]).tag(), Some("latest"));
}

#[test]
fn length_is_limited_in_the_shortest_spelling() {
    let longest = "a".repeat(MAX_REFERENCE_LENGTH);
    let reference = parse(&longest);
    assert_eq!(parse(&reference.to_string()), reference, "the full spelling stays valid");
    assert_eq!(refusal(&format!("{longest}a")), ReferenceError::TooLong { length: MAX_REFERENCE_LENGTH + 1 });
    assert_eq!(refusal(&"a".repeat(1 << 20)), ReferenceError::TooLong { length: 1 << 20 });

    let tagged = format!("{}:1", "a".repeat(MAX_REFERENCE_LENGTH - 2));
    parse(&tagged);
    assert_eq!(refusal(&format!("b{tagged}")), ReferenceError::TooLong { length: MAX_REFERENCE_LENGTH + 1 });

    parse(&format!("a:{}", "t".repeat(MAX_TAG_LENGTH)));
    let message = refusal(&format!("a:{}", "t".repeat(MAX_TAG_LENGTH + 1))).to_string();
    assert!(message.contains("at most 128"), "{message}");
}

#[test]
fn serde_writes_the_full_text_and_validates() {
    struct Written(ImageReference);
    impl fmt::Display for Written {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.serialize(f)
        }
    }
    let read = |text: &'static str| {
        let deserializer: StrDeserializer<'_, ValueError> = text.into_deserializer();
        ImageReference::deserialize(deserializer)
    };
    assert_eq!(Written(parse("nginx")).to_string(), "docker.io/library/nginx:latest");
    assert_eq!(read("nginx:1"), Ok(parse("nginx:1")));
    let message = read("Nginx").unwrap_err().to_string();
    assert!(message.contains("lower case"), "{message}");
}

#[test]
fn bincode_validates_on_decode() {
    let config = bincode::config::standard().with_limit::<1024>();
    let bytes = bincode::encode_to_vec("../../etc/passwd", config).unwrap();
    let decoded = bincode::decode_from_slice::<ImageReference, _>(&bytes, config);
    assert!(matches!(decoded, Err(DecodeError::OtherString(_))), "{decoded:?}");
}

#[test]
fn display_honours_width() {
    assert_eq!(format!("{:>12}|", parse("a.b/c:d")), "     a.b/c:d|");
}

fn registry() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        "[a-zA-Z0-9]([a-zA-Z0-9-]{0,6}[a-zA-Z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,4}[a-z0-9])?){1,3}",
        Just("localhost".to_owned()),
        "\\[[0-9a-fA-F:]{1,20}:\\]",
    ];
    prop_oneof![host.clone(), (host, 1..=u16::MAX).prop_map(|(host, port)| format!("{host}:{port}"))]
}

fn digest() -> impl Strategy<Value = String> {
    prop_oneof!["sha256:[0-9a-f]{64}", "sha384:[0-9a-f]{96}", "sha512:[0-9a-f]{128}"]
}

/// Registry, path, tag and digest; any but the path may be absent.
type Parts = (Option<String>, String, Option<String>, Option<String>);

fn parts() -> impl Strategy<Value = Parts> {
    let path = "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}){0,2}";
    let tag = proptest::option::of("[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}");
    (proptest::option::of(registry()), path, tag, proptest::option::of(digest())).prop_map(
        |(registry, path, tag, digest)| {
            // a_b.c/d cannot be written without a registry: a_b.c would be taken for one, and is none.
            let ambiguous = path.split_once('/').is_some_and(|(first, _)| first.contains('.'));
            let implied = if ambiguous { Some(DEFAULT_REGISTRY.to_owned()) } else { None };
            (registry.or(implied), path, tag, digest)
        },
    )
}

fn spell((registry, path, tag, digest): &Parts) -> String {
    let mut text = registry.as_ref().map_or(String::new(), |registry| format!("{registry}/"));
    text.push_str(path);
    if let Some(tag) = tag {
        text.push_str(&format!(":{tag}"));
    }
    if let Some(digest) = digest {
        text.push_str(&format!("@{digest}"));
    }
    text
}

proptest! {
    #[test]
    fn generated_references_keep_their_parts(parts in parts()) {
        let text = spell(&parts);
        let (registry, path, tag, digest) = parts;
        let reference = parse(&text);
        if let Some(registry) = registry {
            let official = if registry == DEFAULT_REGISTRY && !path.contains('/') { "library/" } else { "" };
            prop_assert_eq!(reference.registry(), registry);
            prop_assert_eq!(reference.repository(), format!("{official}{path}"));
        } else {
            let official = if path.contains('/') { "" } else { "library/" };
            prop_assert_eq!(reference.registry(), "docker.io");
            prop_assert_eq!(reference.repository(), format!("{official}{path}"));
        }
        let implied = if digest.is_none() { Some("latest".to_owned()) } else { None };
        prop_assert_eq!(reference.tag().map(str::to_owned), tag.or(implied));
        prop_assert_eq!(reference.digest().map(str::to_owned), digest);
    }

    #[test]
    fn every_spelling_parses_to_the_same_reference(parts in parts()) {
        let reference = parse(&spell(&parts));
        prop_assert_eq!(&parse(&reference.to_string()), &reference);
        prop_assert_eq!(&parse(&reference.familiar()), &reference);
        prop_assert!(reference.familiar().len() <= reference.to_string().len());
        let padded = format!("{reference:>300}");
        prop_assert_eq!(padded.trim_start(), reference.to_string());
    }

    #[test]
    fn bincode_round_trips(parts in parts()) {
        let config = bincode::config::standard().with_limit::<1024>();
        let reference = parse(&spell(&parts));
        let bytes = bincode::encode_to_vec(&reference, config).unwrap();
        prop_assert_eq!(&bytes, &bincode::encode_to_vec(reference.to_string(), config).unwrap());
        let (decoded, used) = bincode::decode_from_slice::<ImageReference, _>(&bytes, config).unwrap();
        prop_assert_eq!(decoded, reference);
        prop_assert_eq!(used, bytes.len());
    }

    /// Never a panic, and what is accepted satisfies the invariants.
    #[test]
    fn any_text_is_accepted_soundly_or_refused(text in prop_oneof![any::<String>(), "[a-zA-Z0-9:/@._\\[\\]-]{0,60}"]) {
        match text.parse::<ImageReference>() {
            Ok(reference) => {
                prop_assert!(reference.tag().is_some() || reference.digest().is_some());
                prop_assert_eq!(&parse(&reference.to_string()), &reference);
                prop_assert_eq!(&parse(&reference.familiar()), &reference);
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    /// One changed character of a valid reference: the likeliest mistakes.
    #[test]
    fn a_slip_of_the_finger_never_panics(parts in parts(), at in 0..400_usize, by in any::<char>()) {
        let mut text: Vec<char> = spell(&parts).chars().collect();
        let at = at % text.len();
        text[at] = by;
        let text: String = text.into_iter().collect();
        if let Ok(reference) = text.parse::<ImageReference>() {
            prop_assert_eq!(&parse(&reference.to_string()), &reference);
        }
    }
}
