//! Builds of the fake: it reads the context and the Dockerfile, and does what the few instructions that it knows would.
//!
//! Of a command it knows `echo WORDS`, `exit CODE`, `sleep SECONDS`, and these one after the other with `&&`.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use futures_util::StreamExt;
use longshore_model::image::ImageReference;
use longshore_raft::Runtime;

use super::super::builds::{BuildOrder, BuildTracker, ContextBytes};
use super::super::{Changed, EngineError, LocalImage, OnProgress, classify};
use super::pulls::{FakeImage, PullScript, pulled};
use super::{ARCH, FakeEngine, interrupted};

const ENDPOINT: &str = "fake";
/// Most bytes of a context: it is held in memory.
const CONTEXT_BYTES_MAX: usize = 64 << 20;

/// Of a context: what its files hold, by path. Those that have no bytes are folders, links or empty.
type Files = BTreeMap<String, Vec<u8>>;

fn refused(tracker: &BuildTracker, message: &str) -> EngineError {
    classify::build_error(ENDPOINT, tracker.step.as_ref(), &tracker.tail(), message)
}

fn read(context: &[u8]) -> Result<Files, String> {
    let unreadable = |error: std::io::Error| format!("Error processing tar file: {error}");
    let mut archive = tar::Archive::new(context);
    let mut files = Files::new();
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).trim_end_matches('/').to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(unreadable)?;
        files.insert(path, bytes);
    }
    Ok(files)
}

/// The instructions of a Dockerfile, without comments, with their continued lines in one.
fn instructions(dockerfile: &str) -> Vec<String> {
    let joined = dockerfile.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
}

impl<R: Runtime> FakeEngine<R> {
    pub(super) async fn build_image(
        &self,
        order: BuildOrder,
        mut context: ContextBytes,
        on_progress: OnProgress,
    ) -> Result<LocalImage, EngineError> {
        let (script, life) = {
            let mut state = self.up()?;
            (state.scripts.pop_front().unwrap_or_else(|| state.standing.clone()), state.life)
        };
        let mut bytes = Vec::new();
        while let Some(piece) = self.unless_down(life, context.next()).await? {
            // A body that breaks off is a connection that breaks off.
            bytes.extend_from_slice(&piece.map_err(|_| interrupted())?);
            if bytes.len() > CONTEXT_BYTES_MAX {
                return Err(EngineError::DiskFull { detail: "no space left on device".to_owned() });
            }
        }
        let mut tracker = BuildTracker::default();
        let files = read(&bytes).map_err(|message| refused(&tracker, &message))?;
        let dockerfile = files.get(&order.dockerfile).ok_or_else(|| {
            refused(&tracker, &format!("Cannot locate specified Dockerfile: {}", order.dockerfile))
        })?;
        let instructions = instructions(&String::from_utf8_lossy(dockerfile));
        if let Some(unknown) = instructions.iter().find(|line| !is_known(line)) {
            let word = unknown.split_whitespace().next().unwrap_or("").to_uppercase();
            let message = format!("dockerfile parse error line 1: unknown instruction: {word}");
            return Err(refused(&tracker, &message));
        }
        for (number, instruction) in instructions.iter().enumerate() {
            self.step(&script, u32::try_from(number).unwrap_or(u32::MAX), life).await?;
            let line = format!("Step {}/{} : {instruction}\n", number + 1, instructions.len());
            tracker.observe(&line).into_iter().for_each(|progress| on_progress(progress));
            self.follow(instruction, &files, &mut tracker, life).await?;
        }
        tracker.observe("Successfully built 0\n").into_iter().for_each(|progress| on_progress(progress));
        if let PullScript::Works { step } = script {
            self.unless_down(life, R::sleep(step)).await?;
        }
        let built = built(&order, &bytes);
        let image = pulled(&built);
        self.change_if_up(|state, _| {
            state.room()?;
            state.containers.changed(Changed::Image(built.id.clone()));
            state.local.extend(order.tags.into_iter().map(|tag| (tag, built.clone())));
            Ok(image)
        })
    }

    async fn follow(
        &self,
        instruction: &str,
        files: &Files,
        tracker: &mut BuildTracker,
        life: u64,
    ) -> Result<(), EngineError> {
        let (word, rest) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
        match word.to_uppercase().as_str() {
            "FROM" => {
                let base = tracker.step.as_ref().and_then(|step| step.base()).unwrap_or_default().to_owned();
                let is_there = base == "scratch" || {
                    let image: Option<ImageReference> = base.parse().ok();
                    let state = self.up()?;
                    image.is_some_and(|i| state.local.contains_key(&i) || state.registry.contains_key(&i))
                };
                match is_there {
                    true => Ok(()),
                    false => Err(refused(tracker, "manifest unknown: manifest unknown")),
                }
            }
            "COPY" => {
                let source = rest.split_whitespace().next().unwrap_or("").trim_end_matches('/');
                let inside = format!("{source}/");
                let is_there = source == "." || files.keys().any(|f| f == source || f.starts_with(&inside));
                match is_there {
                    true => Ok(()),
                    false => {
                        let message = format!(
                            "COPY failed: file not found in build context or excluded by .dockerignore: stat {source}: file does not exist"
                        );
                        Err(refused(tracker, &message))
                    }
                }
            }
            "RUN" => self.run_command(rest, tracker, life).await,
            _ => Ok(()),
        }
    }

    async fn run_command(
        &self,
        command: &str,
        tracker: &mut BuildTracker,
        life: u64,
    ) -> Result<(), EngineError> {
        for part in command.split("&&") {
            let (word, rest) = part.trim().split_once(' ').unwrap_or((part.trim(), ""));
            match word {
                "echo" => drop(tracker.observe(&format!("{rest}\n"))),
                "sleep" => {
                    let seconds = rest.parse().unwrap_or(0);
                    self.unless_down(life, R::sleep(Duration::from_secs(seconds))).await?;
                }
                "exit" if rest != "0" => {
                    let message =
                        format!("The command '/bin/sh -c {command}' returned a non-zero code: {rest}");
                    return Err(refused(tracker, &message));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_known(instruction: &str) -> bool {
    const KNOWN: [&str; 10] =
        ["FROM", "COPY", "RUN", "ARG", "ENV", "CMD", "ENTRYPOINT", "LABEL", "WORKDIR", "USER"];
    let word = instruction.split_whitespace().next().unwrap_or("").to_uppercase();
    KNOWN.contains(&word.as_str())
}

/// What it is follows from what it was made of.
fn built(order: &BuildOrder, context: &[u8]) -> FakeImage {
    let mut hasher = blake3::Hasher::new();
    hasher.update(context).update(format!("{:?} {:?}", order.args, order.target).as_bytes());
    FakeImage {
        id: format!("sha256:{}", hasher.finalize().to_hex()),
        // Of no registry.
        digest: String::new(),
        layers: vec![context.len() as u64],
        arch: ARCH.to_owned(),
    }
}
