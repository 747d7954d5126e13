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
/// poll on, none of them ends the process by itself. Gives the signal's name. SIGHUP is left alone if the process was started
/// with it ignored, as by `nohup`.
///
/// # Errors
/// If the system gives no signal handlers.
pub async fn stop_requested() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = if is_hang_up_ignored() { None } else { Some(signal(SignalKind::hangup())?) };
    Ok(tokio::select! {
        biased;
        () = wait(&mut terminate) => "SIGTERM",
        () = wait(&mut interrupt) => "SIGINT",
        () = wait_if(&mut hang_up) => "SIGHUP",
    })
}

async fn wait_if(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => wait(signal).await,
        None => std::future::pending().await,
    }
}

/// As the kernel tells it; `false` where it does not. To be asked before a handler is set.
fn is_hang_up_ignored() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hang_up(&status))
}

/// From the mask of ignored signals (proc(5)): SIGHUP is the first.
fn ignores_hang_up(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

async fn wait(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        // The stream of signals does not end while the runtime lives.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status =
            |mask: &str| format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t1\n");
        assert!(ignores_hang_up(&status("0000000000001001")));
        assert!(!ignores_hang_up(&status("0000000000001000")));
        assert!(!ignores_hang_up("SigIgn:\tnothing\n") && !ignores_hang_up(""));
    }
}
