//! `longshore op build`: sends a folder to the node, once, and has engines build it.

mod beneath;
mod folder;
mod ignore;
mod pack;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longshore_model::image::ImageReference;
use longshore_raft::Runtime as _;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::error::{CliError, Exit};
use super::output;
use super::session::{Runtime, Session};
use super::submit::{self, HowArgs, StrategyArg, WhereArgs};
use crate::api::types::{Action, BuildRequest, ContextView};
use crate::config::Variables;
use folder::{Folder, FolderError};
use pack::{Measured, PackError, pack};

/// Bytes that are gathered before they are sent, and such pieces that wait for the node.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_MAX: usize = 8;

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The folder; what its .dockerignore lists is not sent
    #[arg(value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// What the image is called; may be repeated
    #[arg(long = "tag", short, value_name = "NAME[:TAG]", required = true)]
    tags: Vec<String>,
    /// The Dockerfile, which must be in the folder; a link counts as what it points to [default: DIR/Dockerfile]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Set an argument of the Dockerfile, or take it from the environment if there is no value; may be repeated. They are in the fleet's records and in
    /// the image's history: no place for secrets
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    args: Vec<String>,
    /// The stage that is wanted; the last one if none is named
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Do every step again
    #[arg(long)]
    no_cache: bool,
    /// Ask registries for the images that it begins with, also for those that are there
    #[arg(long)]
    pull: bool,
    #[command(flatten)]
    place: WhereArgs,
    #[command(flatten)]
    how: HowArgs,
}

impl From<FolderError> for CliError {
    fn from(error: FolderError) -> Self {
        let exit = match error {
            FolderError::Changed { .. } => Exit::Failed,
            _ => Exit::Usage,
        };
        Self::new(exit, error.to_string()).hint(error.hint())
    }
}

fn failed(error: PackError) -> CliError {
    match error {
        PackError::Folder(error) => error.into(),
        PackError::Out(error) => CliError::new(Exit::Failed, format!("the folder can not be read: {error}")),
    }
}

pub(super) async fn build(session: &mut Session<'_>, args: BuildArgs) -> Result<(), CliError> {
    let BuildArgs { path, tags, file, args, target, no_cache, pull, place, how } = args;
    if let Some(error) = tags.iter().find_map(|tag| tag.parse::<ImageReference>().err()) {
        return Err(CliError::new(Exit::Usage, error.to_string()));
    }
    let variables = &session.terminal.variables;
    let args = args.iter().map(|arg| with_value(arg, variables)).collect::<Result<Vec<_>, _>>()?;
    if path.to_str().is_some_and(|path| path == "-" || path.contains("://")) {
        let error = CliError::new(Exit::Usage, "a build is made of a folder of this host");
        return Err(error.hint("fetch or unpack it first, and give the folder"));
    }
    let folder = off_thread(move || Folder::look(&path, file.as_deref()).map_err(CliError::from)).await?;
    let folder = Arc::new(folder);
    let limit = session.client.list_contexts().await?.context_max_bytes;
    check_size(&folder, folder.file_bytes(), limit)?;
    let measured = {
        let folder = Arc::clone(&folder);
        off_thread(move || {
            let mut measured = Measured::default();
            pack(&folder, &mut measured).map(|()| measured).map_err(failed)
        })
        .await?
    };
    // With the headers of its files.
    check_size(&folder, measured.bytes, limit)?;
    let context = match session.client.find_context(&measured.digest()).await? {
        Some(known) => known,
        None => send(session, &folder, measured.bytes, how.is_quiet()).await?,
    };
    let request = BuildRequest {
        context: context.digest,
        tags,
        dockerfile: folder.dockerfile.clone(),
        args,
        target,
        no_cache,
        pull,
    };
    let action = Action::Build(Box::new(request));
    submit::submit_and_follow(session, action, StrategyArg::Local, place, how).await
}

/// `NAME=VALUE`; the value from the environment if there is none.
fn with_value(arg: &str, variables: &Variables) -> Result<String, CliError> {
    if arg.contains('=') {
        return Ok(arg.to_owned());
    }
    let value = variables.get(arg).ok_or_else(|| {
        let message = format!("build argument {arg} has no value, and no variable of that name is set");
        CliError::new(Exit::Usage, message).hint(format!("write --build-arg {arg}=VALUE"))
    })?;
    Ok(format!("{arg}={value}"))
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    let done = Runtime::blocking(work).await;
    done.map_err(|error| CliError::new(Exit::Failed, format!("the folder can not be read: {error}")))?
}

fn check_size(folder: &Folder, bytes: u64, limit: u64) -> Result<(), CliError> {
    if bytes <= limit {
        return Ok(());
    }
    let largest = folder.largest(output::bytes);
    let error = FolderError::TooLarge { bytes: output::bytes(bytes), limit: output::bytes(limit), largest };
    Err(error.into())
}

/// Sends the folder as it is read.
async fn send(
    session: &mut Session<'_>,
    folder: &Arc<Folder>,
    bytes: u64,
    is_quiet: bool,
) -> Result<ContextView, CliError> {
    let bar = progress_bar(session, bytes, is_quiet);
    let (pieces, taken) = mpsc::channel(PIECES_MAX);
    let why = Arc::new(Mutex::new(None));
    let packing = {
        let (folder, why) = (Arc::clone(folder), Arc::clone(&why));
        Runtime::blocking(move || {
            let mut out = Pieces { pieces, gathered: Vec::with_capacity(PIECE_BYTES) };
            if let Err(error) = pack(&folder, &mut out) {
                // The request must not look as if it were whole.
                let _ = out.pieces.blocking_send(Err(io::Error::other("the folder was not read whole")));
                *why.lock() = Some(error);
            }
        })
    };
    let counted = {
        let bar = bar.clone();
        stream::unfold(taken, |mut taken| async move { taken.recv().await.map(|piece| (piece, taken)) })
            .inspect(move |piece: &io::Result<Bytes>| {
                bar.inc(piece.as_ref().map_or(0, |piece| piece.len() as u64))
            })
    };
    let sending = session.client.send_context(bytes, counted);
    let sent = tokio::select! {
        biased;
        () = &mut session.interrupt => {
            bar.finish_and_clear();
            session.terminal.report("Interrupted; nothing was submitted.\n");
            return Err(CliError::quiet(Exit::Interrupted));
        }
        (sent, _) = futures_util::future::join(sending, packing) => sent,
    };
    bar.finish_and_clear();
    let broken = why.lock().take();
    match (sent, broken) {
        (Ok(context), _) => {
            if !is_quiet {
                session.terminal.report(&format!("sent the folder: {}\n", output::bytes(context.bytes)));
            }
            Ok(context)
        }
        (Err(_), Some(error @ PackError::Folder(_))) => Err(failed(error)),
        (Err(error), _) => {
            let error = CliError::from(error);
            let what_to_do = error.hint.as_deref().unwrap_or("try again");
            Err(CliError { hint: Some(format!("nothing was submitted; {what_to_do}")), ..error })
        }
    }
}

fn progress_bar(session: &Session<'_>, bytes: u64, is_quiet: bool) -> ProgressBar {
    let is_shown = session.terminal.stderr_is_terminal && !is_quiet;
    let target = if is_shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let template = "sending the folder [{bar:24}] {bytes} of {total_bytes}";
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    ProgressBar::with_draw_target(Some(bytes), target).with_style(style.progress_chars("=> "))
}

/// Gathers what is written into pieces, and waits while the node takes them.
struct Pieces {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    gathered: Vec<u8>,
}

impl Write for &mut Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let gathered = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE_BYTES));
        if gathered.is_empty() {
            return Ok(());
        }
        let sent = self.pieces.blocking_send(Ok(gathered.into()));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}
