//! Builds.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use longshore_model::image::ImageReference;
use longshore_model::operations::BuildArg;

use super::super::{BuildOrder, ContainerEngine, ContextBytes, EngineError, LocalImage};
use super::images::Watch;
use super::{ignore, parse};

/// What the suite works on.
#[derive(Debug)]
pub struct BuildFixture {
    /// In the registry, with a shell.
    pub base: ImageReference,
    /// In no registry, though its registry answers.
    pub missing: ImageReference,
}

/// Runs the whole suite.
pub async fn builds_conform(engine: &dyn ContainerEngine, fixture: &BuildFixture) {
    builds_from_nothing_under_all_names(engine).await;
    follows_a_dockerfile_step_by_step(engine, fixture).await;
    says_which_step_failed_and_what_it_wrote(engine, fixture).await;
    says_what_is_wrong_with_the_context(engine, fixture).await;
    does_not_build_what_breaks_off(engine).await;
    gives_a_build_up_when_dropped(engine, fixture).await;
}

/// A context of these files.
pub fn context_of(files: &[(&str, &str)]) -> Bytes {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, path, text.as_bytes()).expect("memory takes all");
    }
    tar.into_inner().expect("memory takes all").into()
}

fn streamed(bytes: Bytes) -> ContextBytes {
    let pieces: Vec<io::Result<Bytes>> = bytes.chunks(1_000).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
    Box::pin(stream::iter(pieces))
}

fn order(tags: &[&str]) -> BuildOrder {
    BuildOrder {
        tags: tags.iter().map(|tag| parse(tag)).collect(),
        dockerfile: "Dockerfile".to_owned(),
        args: Vec::new(),
        target: None,
        no_cache: false,
        pull: false,
        credentials: Vec::new(),
    }
}

async fn build(
    engine: &dyn ContainerEngine,
    tag: &str,
    files: &[(&str, &str)],
) -> Result<LocalImage, EngineError> {
    engine.build(&order(&[tag]), streamed(context_of(files)), ignore()).await
}

async fn builds_from_nothing_under_all_names(engine: &dyn ContainerEngine) {
    let files = [("Dockerfile", "FROM scratch\nCOPY app /app\nCMD [\"/app\"]\n"), ("app", "hello")];
    let tags = ["built/app:1", "built/app:2", "built/other:1"];
    let watch = Watch::default();
    let built = engine.build(&order(&tags), streamed(context_of(&files)), watch.callback()).await;
    let built = built.expect("the Dockerfile is sound");
    assert!(built.id.starts_with("sha256:") && built.digest.is_none(), "{built:?}");
    let seen = watch.seen();
    assert_eq!(seen.first().map(|first| (first.layers_done, first.layers_total)), Some((0, 3)), "{seen:?}");
    assert_eq!(seen.last().map(|last| (last.layers_done, last.layers_total)), Some((3, 3)), "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0].layers_done <= pair[1].layers_done), "{seen:?}");
    for tag in tags {
        let found = engine.inspect_image(&parse(tag)).await.expect("inspect").expect("it has the name");
        assert_eq!(found.id, built.id, "{tag}");
    }
    let again = build(engine, tags[0], &files).await.expect("the same again");
    assert_eq!(again.id, built.id, "a build is idempotent");
}

async fn follows_a_dockerfile_step_by_step(engine: &dyn ContainerEngine, fixture: &BuildFixture) {
    let text = format!("FROM {}\nARG CODE=1\nRUN echo $CODE\n", fixture.base);
    let files = [("docker/app.Dockerfile", text.as_str())];
    let args = vec![BuildArg { name: "CODE".to_owned(), value: "0".to_owned() }];
    let order = BuildOrder {
        dockerfile: "docker/app.Dockerfile".to_owned(),
        args,
        no_cache: true,
        ..order(&["built/steps:1"])
    };
    let built = engine.build(&order, streamed(context_of(&files)), ignore()).await;
    let built = built.expect("the base image comes from its registry");
    let found = engine.inspect_image(&order.tags[0]).await.expect("inspect");
    assert_eq!(found.map(|found| found.id), Some(built.id));
}

async fn says_which_step_failed_and_what_it_wrote(engine: &dyn ContainerEngine, fixture: &BuildFixture) {
    let text = format!("FROM {}\nRUN echo it is broken && exit 3\n", fixture.base);
    let failed = build(engine, "built/failed:1", &[("Dockerfile", &text)]).await.expect_err("exit 3");
    assert!(matches!(failed, EngineError::BuildFailed { .. }) && !failed.is_transient(), "{failed:?}");
    let said = failed.to_string();
    for part in ["step 2 of 2", "code: 3", "it is broken"] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert_eq!(engine.inspect_image(&parse("built/failed:1")).await.expect("inspect"), None);

    let text = format!("FROM {}\n", fixture.missing);
    let missing = build(engine, "built/failed:1", &[("Dockerfile", &text)]).await.expect_err("no base");
    assert!(matches!(missing, EngineError::ImageNotFound { .. }) && !missing.is_transient(), "{missing:?}");
    assert!(missing.to_string().contains(fixture.missing.repository()), "{missing} names the image");
}

async fn says_what_is_wrong_with_the_context(engine: &dyn ContainerEngine, fixture: &BuildFixture) {
    let copies = format!("FROM {}\nCOPY nothing /\n", fixture.base);
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[("other", "FROM scratch\n")], "Dockerfile"),
        (&[("Dockerfile", "FORM scratch\n")], "unknown instruction"),
        (&[("Dockerfile", &copies)], "nothing"),
    ];
    for (files, part) in cases {
        let error = build(engine, "built/wrong:1", files).await.expect_err(part);
        assert!(matches!(error, EngineError::BuildFailed { .. }) && !error.is_transient(), "{error:?}");
        assert!(error.to_string().contains(part), "{part:?} is not in {error}");
    }
}

async fn does_not_build_what_breaks_off(engine: &dyn ContainerEngine) {
    let whole = context_of(&[("Dockerfile", "FROM scratch\nCOPY big /\n"), ("big", &"x".repeat(100_000))]);
    let pieces = [Ok(whole.slice(..50_000)), Err(io::Error::other("the disk is gone"))];
    let broken = engine.build(&order(&["built/broken:1"]), Box::pin(stream::iter(pieces)), ignore()).await;
    assert!(broken.is_err(), "{broken:?}");
    assert_eq!(engine.inspect_image(&parse("built/broken:1")).await.expect("inspect"), None);
}

async fn gives_a_build_up_when_dropped(engine: &dyn ContainerEngine, fixture: &BuildFixture) {
    let text = format!("FROM {}\nRUN sleep 600\n", fixture.base);
    let watch = Watch::default();
    let context = streamed(context_of(&[("Dockerfile", &text)]));
    let order = order(&["built/slow:1"]);
    let building = engine.build(&order, context, watch.callback());
    tokio::select! {
        biased;
        ended = building => panic!("it sleeps for ten minutes: {ended:?}"),
        () = watch.first() => {}
    }
    assert_eq!(engine.inspect_image(&order.tags[0]).await.expect("inspect"), None);
}
