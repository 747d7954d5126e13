//! Builds through the fleet, on real engines, of real folders; and everything that can be wrong with a folder.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use longshore_node::api::types::{ContextList, OperationState, OperationView};
use longshore_tests::binary;
use longshore_tests::cli::{Ended, clean_environment, exit_code};
use longshore_tests::procfs::resident_bytes;
use longshore_tests::registry::UNLIMITED;
use longshore_tests::tools::{Tool, have};
use longshore_tests::yard::Yard;
use longshore_tests::{Fleet, eventually, eventually_value, machine};

const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        write(folder.path(), path, text);
    }
    folder
}

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().expect("it is in the folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

fn build(yard: &Yard, peer: usize, folder: &Path, args: &[&str]) -> Ended {
    let words = ["op", "build", folder.to_str().expect("plain")].into_iter().chain(args.iter().copied());
    yard.fleet.peers[peer].cli(words).start().wait(PATIENCE)
}

fn has_image(yard: &Yard, engine: usize, tag: &str) -> bool {
    yard.image_id(engine, &tag.parse().expect("a reference")).is_some()
}

/// What the folders that were sent to a peer are.
fn contexts(fleet: &Fleet, peer: usize) -> ContextList {
    fleet.peers[peer].http().get("/v1/contexts").expect("a list")
}

fn inspect(yard: &Yard, peer: usize, id: &str) -> Result<OperationView, String> {
    yard.fleet.peers[peer].http().operation(id).map_err(|error| error.to_string())
}

fn said(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

#[test]
fn one_folder_is_built_on_every_host_and_sent_once() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(3, "build", UNLIMITED);
    yard.fleet.ring_settles();
    let base = yard.registry.image(yard.hosts.small_image());
    let dockerfile = format!(
        "FROM {base}\nARG WHO=nobody\nCOPY . /app\nRUN [ ! -e /app/secret ] && [ -e /app/keep.log ] && echo for $WHO > /who\nCMD [\"cat\", \"/app/hello\", \"/who\"]\n"
    );
    let dir = folder(&[
        ("docker/app", &dockerfile),
        (".dockerignore", "*.log\n!keep.log\nsecret\ndocker\n"),
        ("hello", "hello from the folder\n"),
        ("secret", "s3cret"),
        ("keep.log", ""),
        ("noise.log", "noise"),
    ]);
    let file = dir.path().join("docker/app");
    let flags = ["-f", file.to_str().expect("plain"), "-t", "app:1", "-t", "app:latest"];
    let flags = [&flags[..], &["--build-arg", "WHO=all", "--strategy", "replicated"]].concat();
    let built = build(&yard, 1, dir.path(), &flags);
    built.ok();
    assert!(said(&built).contains("sent the folder"), "{built}");
    for engine in 0..3 {
        assert!(has_image(&yard, engine, "app:1") && has_image(&yard, engine, "app:latest"), "{engine}");
    }
    let id = yard.fleet.peers[0].http().operations(1).expect("a list")[0].id.clone();
    let inspected = yard.fleet.peers[0].cli(["op", "inspect", &id]).run();
    for part in ["build", "docker/app", "sent to p2", "WHO", "5 of 5 steps"] {
        assert!(inspected.ok().contains(part), "{part}\n{inspected}");
    }
    assert!(!inspected.ok().contains("WHO=all"), "values are not shown\n{inspected}");

    // It runs on each of them.
    yard.fleet.peers[2].cli(["op", "run", "app:1", "--name", "hi", "--replicas", "3"]).run().ok();
    eventually("each to say what is in it", PATIENCE, || {
        let logs = yard.fleet.peers[0].cli(["op", "logs", "hi"]).run();
        let text = logs.ok();
        text.matches("hello from the folder").count() == 3 && text.matches("for all").count() == 3
    });

    // The node has it already; another does not, and neither has what was changed.
    let flags = ["-f", file.to_str().expect("plain"), "-t", "app:2"];
    assert!(!said(&build(&yard, 1, dir.path(), &flags)).contains("sent the folder"));
    assert!(has_image(&yard, 1, "app:2") && !has_image(&yard, 0, "app:2"), "on the node that was asked");
    write(dir.path(), "hello", "another\n");
    assert!(said(&build(&yard, 1, dir.path(), &flags)).contains("sent the folder"));
    assert_eq!(contexts(&yard.fleet, 1).contexts.len(), 2);
}

#[test]
fn builds_that_fail_say_where_and_what_was_written() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(2, "buildbad", UNLIMITED);
    yard.fleet.ring_settles();
    let base = yard.registry.image(yard.hosts.small_image());
    let missing = yard.registry.image(&yard.hosts.missing_image());
    let try_with = |dockerfile: &str, args: &[&str]| {
        let dir = folder(&[("Dockerfile", dockerfile), ("x", "x")]);
        build(&yard, 0, dir.path(), &[&["-t", "bad:1"], args].concat())
    };
    let cases: [(String, &[&str], &[&str]); 5] = [
        (
            format!("FROM {base}\nRUN echo one && echo it is broken && exit 3\n"),
            &[],
            &["step 2 of 2", "code: 3", "\n    one\n    it is broken"],
        ),
        (format!("FROM {missing}\n"), &[], &["not found", &missing.to_string()]),
        ("FORM scratch\n".to_owned(), &[], &["unknown instruction", "FORM"]),
        (format!("FROM {base}\nCOPY nothing /\n"), &[], &["step 2 of 2", "nothing"]),
        (format!("FROM {base} AS first\n"), &["--target", "second"], &["second"]),
    ];
    for (dockerfile, args, parts) in cases {
        let ended = try_with(&dockerfile, args);
        assert_eq!(ended.code, 1, "{ended}");
        for part in parts {
            assert!(said(&ended).contains(part), "does not say {part:?}\n{ended}");
        }
        assert!(!has_image(&yard, 0, "bad:1"));
        let operation = &yard.fleet.peers[0].http().operations(1).expect("a list")[0];
        assert_eq!(operation.sub_operations[0].attempts, 1, "what can not succeed is tried once");
    }

    // A build that is cancelled is one that Docker stops.
    let dir = folder(&[("Dockerfile", &format!("FROM {base}\nRUN sleep 600\n"))]);
    let detached = build(&yard, 0, dir.path(), &["-t", "bad:1", "--detach"]);
    let id = detached.ok().trim().to_owned();
    let containers = |engine: usize| {
        let reply = longshore_tests::http::Http::unix(yard.hosts.socket(engine))
            .send(hyper::Method::GET, "/containers/json?all=1", &[], None)
            .expect("the engine answers");
        serde_json::from_slice::<Vec<serde_json::Value>>(&reply.body).expect("a list").len()
    };
    eventually("the step to run", PATIENCE, || containers(0) == 1);
    yard.fleet.peers[1].cli(["op", "cancel", &id]).run().ok();
    eventually("the step to be ended", PATIENCE, || containers(0) == 0);

    // One engine of two is down.
    yard.hosts.stop(1).expect("it stops");
    let dir = folder(&[("Dockerfile", "FROM scratch\nCOPY x /\n"), ("x", "x")]);
    let ended = build(
        &yard,
        0,
        dir.path(),
        &["-t", "half:1", "--on", "p1", "--on", "p2", "--strategy", "replicated", "--timeout", "6s"],
    );
    assert_eq!(ended.code, 5, "{ended}");
    assert!(said(&ended).contains("p2") && has_image(&yard, 0, "half:1"), "{ended}");
}

#[test]
fn a_folder_comes_from_whoever_has_it() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let mut yard = Yard::of(3, "buildfrom", UNLIMITED);
    yard.fleet.ring_settles();
    let one = folder(&[("Dockerfile", "FROM scratch\nCOPY x /\n"), ("x", "one")]);
    let two = folder(&[("Dockerfile", "FROM scratch\nCOPY x /\n"), ("x", "two")]);
    build(&yard, 0, one.path(), &["-t", "one:1", "--on", "p3"]).ok();
    assert_eq!((contexts(&yard.fleet, 0).contexts.len(), contexts(&yard.fleet, 2).contexts.len()), (1, 1));

    // Both are for p2, which is away; when it is back, the node that they were sent to is.
    yard.fleet.peers[1].kill9();
    yard.fleet.settle_as(2, None);
    let submit = |yard: &Yard, folder: &Path, tag: &str| {
        let detached = build(yard, 0, folder, &["-t", tag, "--on", "p2", "--detach"]);
        detached.ok().trim().to_owned()
    };
    let (first, second) = (submit(&yard, one.path(), "one:2"), submit(&yard, two.path(), "two:1"));
    yard.fleet.peers[0].kill9();
    yard.fleet.peers[1].restart();
    let view = eventually_value("p2 to get the first from p3", PATIENCE, || {
        let view = inspect(&yard, 1, &first)?;
        if view.state.is_terminal() { Ok(view) } else { Err(format!("{view:?}")) }
    });
    assert_eq!(view.state, OperationState::Succeeded, "{view:?}");
    assert!(has_image(&yard, 1, "one:2"));
    let why = eventually_value("p2 to say whom the second wants for", PATIENCE, || {
        let view = inspect(&yard, 1, &second)?;
        view.sub_operations[0].error.clone().ok_or_else(|| format!("{view:?}"))
    });
    assert!(why.contains("it is on p1, which does not answer"), "{why}");

    // Folders outlive the process of their node, and so does the build.
    yard.fleet.peers[0].restart();
    let view = yard.wait_ended(1, &second);
    assert_eq!(view.state, OperationState::Succeeded, "{view:?}");
    assert!(has_image(&yard, 1, "two:1"));

    // Of one that is nowhere any more.
    let lost = folder(&[("Dockerfile", "FROM scratch\nCOPY x /\n"), ("x", "lost")]);
    let failed = folder(&[("Dockerfile", "FROM scratch\nCOPY nothing /\n"), ("x", "lost")]);
    build(&yard, 0, lost.path(), &["-t", "lost:1"]).ok();
    assert_eq!(build(&yard, 0, failed.path(), &["-t", "lost:2"]).code, 1);
    let id = yard.fleet.peers[0].http().operations(1).expect("a list")[0].id.clone();
    yard.fleet.peers[0].terminate(PATIENCE);
    fs::remove_dir_all(yard.fleet.peers[0].spec.data_dir.join("contexts")).expect("they are there");
    yard.fleet.peers[0].restart();
    let again = yard.fleet.peers[0].cli(["op", "retry", &id]).run();
    assert_eq!(again.code, 1, "{again}");
    assert!(
        said(&again).contains("the build context is gone") && said(&again).contains("build again"),
        "{again}"
    );
}

#[test]
fn large_folders_are_held_in_no_node_s_memory() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(2, "buildbig", UNLIMITED);
    yard.fleet.ring_settles();
    let dir = folder(&[("Dockerfile", "FROM scratch\nCOPY big /\n")]);
    let piece: Vec<u8> = (0..MIB as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(dir.path().join("big"), piece.repeat(200)).expect("a large file");
    let pids: Vec<u32> = yard.fleet.peers.iter().map(|peer| peer.pid()).collect();
    let before: Vec<u64> = pids.iter().map(|pid| resident_bytes(*pid)).collect();
    let path = dir.path().to_str().expect("plain");
    let words = ["op", "build", path, "-t", "big:1", "--strategy", "replicated"];
    let client = yard.fleet.peers[0].cli(words).start();
    let mut most = vec![0; pids.len()];
    eventually("the builds to end", PATIENCE, || {
        for (most, pid) in most.iter_mut().zip(&pids) {
            *most = resident_bytes(*pid).max(*most);
        }
        let said = client.stdout();
        said.contains("succeeded") || said.contains("failed")
    });
    client.wait(PATIENCE).ok();
    println!("before {before:?}, at most {most:?}");
    for (before, most) in before.iter().zip(&most) {
        assert!(most.saturating_sub(*before) < 64 * MIB, "a node grew from {before} to {most}");
    }
    assert!(has_image(&yard, 0, "big:1") && has_image(&yard, 1, "big:1"));
}

#[test]
fn what_is_wrong_with_a_folder_is_said_before_anything_is_sent() {
    let _machine = machine::share();
    let fleet = Fleet::with(1, "folders", |mut spec| {
        spec.env.push(("LONGSHORE_LIMITS_BUILD_CONTEXT".to_owned(), "1MiB".into()));
        spec
    });
    let good: &[(&str, &str)] = &[("Dockerfile", "FROM scratch\nCOPY x /\n"), ("x", "x")];
    let tries = |path: &str, args: &[&str]| {
        let words = ["op", "build", path, "-t", "app:1"].into_iter().chain(args.iter().copied());
        fleet.peers[0].cli(words).run()
    };
    let wrong = |files: &[(&str, &str)], spoil: &dyn Fn(&Path), error: &[&str], hint: &[&str]| {
        let dir = folder(files);
        spoil(dir.path());
        tries(dir.path().to_str().expect("plain"), &[]).fails(2, error, hint);
    };
    let nothing = |_: &Path| {};
    tries("/does/not/exist", &[]).fails(2, &["/does/not/exist", "no folder"], &["folder"]);
    tries("-", &[]).fails(2, &["folder of this host"], &["unpack"]);
    tries("https://example.org/app.git", &[]).fails(2, &["folder of this host"], &["fetch"]);
    wrong(&good[1..], &nothing, &["no Dockerfile", "Dockerfile"], &["-f"]);
    wrong(
        &[good[0], (".dockerignore", "a\n[b\n")],
        &nothing,
        &["line 2 of .dockerignore", "[b"],
        &["bracket"],
    );
    let link = |target: &'static str| move |dir: &Path| symlink(target, dir.join("link")).expect("a link");
    wrong(good, &link("/etc/passwd"), &["link leads out of the folder", "/etc/passwd"], &[".dockerignore"]);
    wrong(good, &link("../../x"), &["link leads out of the folder", "../../x"], &[".dockerignore"]);
    wrong(
        good,
        &|dir| drop(UnixListener::bind(dir.join("s")).expect("a socket")),
        &["s is a socket"],
        &[".dockerignore"],
    );
    let pipe = |dir: &Path| {
        let made = Command::new("mkfifo").arg(dir.join("pipe")).status().expect("mkfifo");
        assert!(made.success());
    };
    wrong(good, &pipe, &["pipe is a named pipe"], &[".dockerignore"]);
    let fill = |dir: &Path| {
        write(dir, "large", &"x".repeat(1_000_000));
        write(dir, "larger", &"x".repeat(1_200_000));
    };
    wrong(good, &fill, &["takes 1.00 MiB at most", "larger (1.14 MiB), large"], &["limits.build_context"]);

    let dir = folder(good);
    let path = dir.path().to_str().expect("plain");
    let other = folder(good);
    let outside = other.path().join("Dockerfile");
    tries(path, &["-f", outside.to_str().expect("plain")]).fails(2, &["is not in the folder"], &["-f"]);
    tries(path, &["-f", "/does/not/exist"]).fails(2, &["no Dockerfile at /does/not/exist"], &["-f"]);
    tries(path, &["-t", "UPPER"]).fails(2, &["UPPER"], &[]);
    tries(path, &["--build-arg", "NOT_SET"]).fails(2, &["NOT_SET has no value"], &["NOT_SET=VALUE"]);
    tries(path, &["--build-arg", "A=1", "--build-arg", "A=2"]).fails(2, &["A is given twice"], &[]);

    if have(Tool::Root) {
        // Root reads everything, unless it may not.
        fs::set_permissions(dir.path().join("x"), fs::Permissions::from_mode(0o000))
            .expect("its mode is set");
        let mut command = Command::new("setpriv");
        command.arg("--bounding-set=-dac_override,-dac_read_search").arg(binary::longshore());
        clean_environment(&mut command);
        command.arg("--host").arg(fleet.peers[0].socket()).args(["op", "build", path, "-t", "app:1"]);
        let output = command.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(exit_code(output.status), 2, "{text}");
        assert!(text.contains("x can not be read") && text.contains(".dockerignore"), "{text}");
    }
    // But for the arguments that only the node can judge, nothing came to it.
    let operations = fleet.peers[0].http().operations(10).expect("a list");
    assert!(operations.is_empty(), "{operations:?}");
    assert_eq!(contexts(&fleet, 0).contexts.len(), 1);
    assert_eq!(contexts(&fleet, 0).context_max_bytes, MIB);
}

#[test]
fn an_upload_that_breaks_off_or_is_too_large_leaves_nothing() {
    let _machine = machine::share();
    let mut fleet = Fleet::with(1, "uploads", |mut spec| {
        spec.env.push(("LONGSHORE_LIMITS_BUILD_CONTEXT".to_owned(), "1MiB".into()));
        spec
    });
    let send = |announced: usize, bytes: usize| {
        use std::io::{Read, Write};
        let socket = fleet.peers[0].socket();
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("it listens");
        let head = format!(
            "POST /v1/contexts HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {announced}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("it reads");
        // It may have said no already.
        let _ = stream.write_all(&vec![7; bytes]);
        if bytes < announced {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let mut reply = String::new();
        let _ = stream.read_to_string(&mut reply);
        reply
    };
    let folder_of = || {
        let listed = fs::read_dir(fleet.peers[0].spec.data_dir.join("contexts")).expect("a folder");
        listed.count()
    };
    assert!(send(2 << 20, 1000).contains("too_large"));
    send(500_000, 400_000);
    eventually("what was half sent to be gone", PATIENCE, || folder_of() == 0);
    assert!(send(500_000, 500_000).starts_with("HTTP/1.1 201"));
    let kept = contexts(&fleet, 0).contexts;
    assert_eq!((kept.len(), kept[0].bytes, kept[0].digest.len()), (1, 500_000, 64));

    // It is there after a crash.
    fleet.peers[0].kill9();
    fleet.peers[0].restart();
    assert_eq!(contexts(&fleet, 0).contexts, kept);
}
