//! SIGINT and SIGTERM ask the node to stop; a second one ends the process at once.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that was told twice: 128 + SIGINT.
const IMPATIENT: i32 = 130;

/// Cancels the token on the first signal.
///
/// # Errors
/// If the handlers cannot be installed.
pub(super) fn stop_on_signals(token: CancellationToken) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    #[expect(clippy::disallowed_methods, reason = "signals exist outside the simulated world only")]
    drop(tokio::spawn(async move {
        loop {
            tokio::select! {
                biased;
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if token.is_cancelled() {
                std::process::exit(IMPATIENT);
            }
            tracing::info!("stopping; a second signal ends the process at once");
            token.cancel();
        }
    }));
    Ok(())
}
