//! `longshore top`: the fleet as it lives.
//!
//! Here is the loop; what is shown is made out of answers by `model`, what keys do is in `state`, how it looks in `view`, and `screen` owns the
//! terminal. Must never: change anything in the fleet, or wake a group that is at rest.

mod model;
mod screen;
mod state;
#[cfg(test)]
mod tests;
mod view;

use std::time::Duration;

use clap::Args;
use crossterm::event::{Event, EventStream, KeyEventKind};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use longshore_raft::consensus::runtime::AsyncRuntime as _;
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::error::{CliError, Exit};
use super::session::{Client, Runtime, Session};
use super::signals;
use crate::api::timer::Stopwatch;
use crate::api::types::OperationQuery;
use model::Part;
use screen::Screen;
use state::{Answer, Flow, State};

/// From one answer to the next question, and at most between two pictures.
const REFRESH: Duration = Duration::from_secs(1);

/// How long an answer may take. A node that cannot reach a quorum takes a while to say so.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Most operations under way that are shown, the newest.
const OPERATIONS_MAX: u32 = 100;

/// Columns of a picture that goes elsewhere than to a terminal.
const COLUMNS: u16 = 100;

#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Print one picture, as text, and end
    #[arg(long)]
    once: bool,
}

pub(super) async fn top(session: &mut Session<'_>, args: TopArgs) -> Result<(), CliError> {
    let client = session.client.clone().with_reply_timeout(REPLY_TIMEOUT);
    let mut state = State::new(client.target().to_string(), session.terminal.stdout_colour);
    if args.once {
        return once(session, &client, state).await;
    }
    let is_dumb = session.terminal.variables.get("TERM").is_some_and(|term| term == "dumb");
    if is_dumb || !(session.terminal.stdin_is_terminal && session.terminal.stdout_is_terminal) {
        return Err(CliError::new(Exit::Usage, "there is no terminal to draw on").hint(
            "`longshore top --once` prints one picture; `longshore status` and `longshore node ls` tell the same in lines",
        ));
    }
    // A node that is not there is told as by any other command.
    let status = tokio::select! {
        biased;
        () = &mut session.interrupt => return Err(CliError::quiet(Exit::Interrupted)),
        status = client.status() => status?,
    };
    state.take(Answer::Status(Box::new(status)), 0);
    let mut screen = Screen::open(&mut session.terminal.stdout).map_err(no_terminal)?;
    live(&client, &mut state, &mut screen).await
}

fn no_terminal(error: std::io::Error) -> CliError {
    CliError::new(Exit::Failed, format!("the terminal cannot be used: {error}"))
        .hint("`longshore top --once` prints one picture")
}

async fn live(client: &Client, state: &mut State, screen: &mut Screen<'_>) -> Result<(), CliError> {
    let watch = Stopwatch::<Runtime>::start();
    let now_ms = || u64::try_from(watch.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut stop = std::pin::pin!(signals::stop_requested());
    let mut keys = EventStream::new();
    let mut answers: FuturesUnordered<_> =
        Part::ALL.into_iter().map(|part| ask(client, part, Duration::ZERO)).collect();
    loop {
        screen.draw(|frame| view::draw(frame, state, now_ms())).map_err(no_terminal)?;
        tokio::select! {
            biased;
            _ = &mut stop => return Err(CliError::quiet(Exit::Interrupted)),
            event = keys.next() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => {
                    if state.press(key, usize::from(screen.height() / 2)) == Flow::Quit {
                        return Ok(());
                    }
                }
                // A new size is taken by the next frame.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(no_terminal(error)),
                None => return Ok(()),
            },
            Some(answer) = answers.next() => {
                let (part, answer) = answer;
                state.take(answer, now_ms());
                answers.push(ask(client, part, REFRESH));
            }
            // Ages go on while nothing comes.
            () = Runtime::sleep(REFRESH) => {}
        }
    }
}

/// Asks one question, `after` a while.
async fn ask(client: &Client, part: Part, after: Duration) -> (Part, Answer) {
    if !after.is_zero() {
        Runtime::sleep(after).await;
    }
    let answer = match part {
        Part::Status => client.status().await.map(|status| Answer::Status(Box::new(status))),
        Part::Nodes => client.list_nodes().await.map(Answer::Nodes),
        Part::Ring => client.ring().await.map(|ring| Answer::Ring(Box::new(ring))),
        Part::Operations => {
            let limit = Some(OPERATIONS_MAX);
            let query = OperationQuery { limit, active: true, ..OperationQuery::default() };
            client.list_operations(&query).await.map(Answer::Operations)
        }
    };
    (part, answer.unwrap_or_else(|error| Answer::Failed(part, error.to_string())))
}

/// One picture as lines of text.
async fn once(session: &mut Session<'_>, client: &Client, mut state: State) -> Result<(), CliError> {
    let asked = async {
        state.take(Answer::Status(Box::new(client.status().await?)), 0);
        let rest = Part::ALL.into_iter().filter(|part| *part != Part::Status);
        let mut answers: FuturesUnordered<_> = rest.map(|part| ask(client, part, Duration::ZERO)).collect();
        while let Some((_, answer)) = answers.next().await {
            state.take(answer, 0);
        }
        Ok::<(), CliError>(())
    };
    tokio::select! {
        biased;
        () = &mut session.interrupt => return Err(CliError::quiet(Exit::Interrupted)),
        asked = asked => asked?,
    }
    let columns = match session.terminal.stdout_is_terminal {
        true => crossterm::terminal::size().map_or(COLUMNS, |(columns, _)| columns),
        false => COLUMNS,
    };
    let text = frame_as_text(&state, columns, view::height_of_all(&state), 0);
    // The last line tells of keys, which do nothing here.
    let without_keys = text.trim_end().rsplit_once('\n').map_or("", |(above, _)| above);
    session.print(&format!("{}\n", without_keys.trim_end()))
}

/// A frame of this size, in lines without spaces at their ends.
fn frame_as_text(state: &State, columns: u16, lines: u16, now_ms: u64) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(columns, lines));
    let Ok(_) = terminal.draw(|frame| view::draw(frame, state, now_ms));
    let buffer = terminal.backend().buffer();
    let cells = buffer.content().chunks(usize::from(columns.max(1)));
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    cells.map(|cells| line(cells).trim_end().to_owned() + "\n").collect()
}
