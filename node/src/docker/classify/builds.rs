//! Errors of builds. Texts were collected from Engine 20.10.

use super::super::EngineError;
use super::super::builds::Step;
use super::{Cause, Context, cause, pull_error, shorten};

/// The error of a build, from the text the engine gave in its reply or in the middle of the stream. `step` is where it was, `tail` the end of
/// what that had written.
pub(in super::super) fn build_error(
    endpoint: &str,
    step: Option<&Step>,
    tail: &str,
    message: &str,
) -> EngineError {
    let detail = shorten(message);
    // What a command says of itself is no matter of the engine's.
    let is_command = message.contains("returned a non-zero code");
    if let Some(base) = step.and_then(Step::base)
        && !is_command
    {
        match pull_error(Context { endpoint, image: base }, message) {
            EngineError::Refused { .. } => {}
            error => return error,
        }
    }
    match cause(message) {
        Some(Cause::DiskFull) if !is_command => return EngineError::DiskFull { detail },
        Some(Cause::Interrupted) if !is_command => {
            return EngineError::Interrupted { endpoint: endpoint.to_owned(), detail };
        }
        // `COPY --from` and `ADD` bring things, too.
        Some(Cause::RegistryUnavailable) if !is_command => {
            let image = step.map_or_else(|| "the build".to_owned(), |step| step.instruction.clone());
            return EngineError::RegistryUnavailable { image, detail };
        }
        _ => {}
    }
    let Some(step) = step else { return EngineError::BuildFailed { detail } };
    let Step { number, total, instruction } = step;
    let wrote = if tail.is_empty() { String::new() } else { format!("; it wrote:\n{tail}") };
    EngineError::BuildFailed { detail: format!("step {number} of {total} ({instruction}): {detail}{wrote}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(step: Option<&str>, tail: &str, message: &str) -> EngineError {
        let step = step.map(|line| Step::parse(line).unwrap());
        build_error("/run/docker.sock", step.as_ref(), tail, message)
    }

    #[test]
    fn messages_of_engines() {
        const FROM: Option<&str> = Some("Step 1/2 : FROM nope:1");
        const RUN: Option<&str> = Some("Step 2/2 : RUN make");
        let code = "The command '/bin/sh -c make' returned a non-zero code: 2";
        let failed = error(RUN, "cc: not found\nno space left on device", code);
        assert!(matches!(failed, EngineError::BuildFailed { .. }) && !failed.is_transient());
        let text = failed.to_string();
        for part in ["step 2 of 2 (RUN make)", "code: 2", "it wrote:\ncc: not found"] {
            assert!(text.contains(part), "{text}");
        }
        for (step, message) in [
            (None, "dockerfile parse error line 1: unknown instruction: FORM"),
            (None, "Cannot locate specified Dockerfile: Dockerfile"),
            (RUN, "failed to reach build target nope in Dockerfile"),
            (
                RUN,
                "COPY failed: file not found in build context or excluded by .dockerignore: stat x: file does not exist",
            ),
            (RUN, "The command '/bin/sh -c connection refused' returned a non-zero code: 1"),
        ] {
            let refused = error(step, "", message);
            assert!(matches!(refused, EngineError::BuildFailed { .. }), "{refused:?}");
            assert!(refused.to_string().contains(message), "{refused}");
        }
        let missing = "pull access denied for nope, repository does not exist or may require 'docker login'";
        let missing = error(FROM, "", missing);
        assert!(
            matches!(&missing, EngineError::ImageNotFound { image, .. } if image == "nope:1"),
            "{missing:?}"
        );
        let down = error(FROM, "", "Get \"http://127.0.0.1:1/v2/\": connect: connection refused");
        assert!(matches!(down, EngineError::RegistryUnavailable { .. }), "{down:?}");
        let full = error(RUN, "", "write /var/lib/docker/x: no space left on device");
        assert!(matches!(full, EngineError::DiskFull { .. }), "{full:?}");
        assert!(matches!(error(None, "", "context canceled"), EngineError::Interrupted { .. }));
    }
}
