//! Signals as futures.

use std::pin::Pin;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Resolves at Ctrl-C; never, where there is none to wait for.
pub(super) type Interrupt = Pin<Box<dyn Future<Output = ()> + Send>>;

/// From now on Ctrl-C resolves this instead of ending the process. Lazy: a command that does not look at it is ended by
/// Ctrl-C as usual.
pub(super) fn interrupt() -> Interrupt {
    Box::pin(async {
        match signal(SignalKind::interrupt()) {
            Ok(mut signal) => wait(&mut signal).await,
            Err(error) => {
                // Ctrl-C keeps its default action then.
                tracing::warn!(%error, "cannot watch for Ctrl-C");
                std::future::pending().await
            }
        }
    })
}

/// Resolves when the process is asked to stop: SIGTERM, SIGINT (Ctrl-C) or SIGHUP (the terminal has gone). From the first
/// poll on, none of them ends the process by itself. Gives the signal's name.
///
/// # Errors
/// If the system gives no signal handlers.
pub async fn stop_requested() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        biased;
        () = wait(&mut terminate) => "SIGTERM",
        () = wait(&mut interrupt) => "SIGINT",
        () = wait(&mut hang_up) => "SIGHUP",
    })
}

async fn wait(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        // The stream of signals does not end while the runtime lives.
        std::future::pending().await
    }
}
