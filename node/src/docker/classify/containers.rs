//! What the engine says of requests about containers.

use super::shorten;
use crate::docker::EngineError;

/// What a request was about. The image is empty where only a container is named.
#[derive(Debug, Clone, Copy)]
pub(in crate::docker) struct Subject<'a> {
    pub(in crate::docker) container: &'a str,
    pub(in crate::docker) image: &'a str,
}

impl<'a> Subject<'a> {
    pub(in crate::docker) fn of(container: &'a str) -> Self {
        Self { container, image: "" }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    DiskFull,
    Interrupted,
    NoSuchContainer,
    NoSuchImage,
    NameTaken,
    PortTaken,
    NotRunning,
    StillRunning,
    WrongPlatform,
}

/// Of requests about containers, likewise. Status codes say less: 404 is a missing network too, 409 four different things.
const TROUBLES: &[(&str, Trouble)] = &[
    ("no space left on device", Trouble::DiskFull),
    ("disk quota exceeded", Trouble::DiskFull),
    ("context canceled", Trouble::Interrupted),
    ("no such container", Trouble::NoSuchContainer),
    ("no such image", Trouble::NoSuchImage),
    ("is already in use by container", Trouble::NameTaken),
    ("port is already allocated", Trouble::PortTaken),
    ("address already in use", Trouble::PortTaken),
    ("is not running", Trouble::NotRunning),
    ("is restarting, wait until", Trouble::NotRunning),
    ("cannot remove a running container", Trouble::StillRunning),
    ("cannot remove a paused container", Trouble::StillRunning),
    ("cannot remove a restarting container", Trouble::StillRunning),
    ("container is running: stop the container before removing", Trouble::StillRunning),
    ("container is paused and must be unpaused first", Trouble::StillRunning),
    ("container is restarting: stop the container before removing", Trouble::StillRunning),
    ("does not match the specified platform", Trouble::WrongPlatform),
    ("exec format error", Trouble::WrongPlatform),
];

/// The error of a request about a container, from the text of the engine's reply.
pub(in crate::docker) fn container_error(endpoint: &str, subject: Subject<'_>, message: &str) -> EngineError {
    let detail = readable(message);
    let said = message.to_lowercase();
    let container = subject.container.to_owned();
    let trouble = TROUBLES.iter().find(|(phrase, _)| said.contains(phrase)).map(|(_, trouble)| *trouble);
    match trouble {
        Some(Trouble::DiskFull) => EngineError::DiskFull { detail },
        Some(Trouble::Interrupted) => EngineError::Interrupted { endpoint: endpoint.to_owned(), detail },
        Some(Trouble::NoSuchContainer) => EngineError::NoSuchContainer { container },
        Some(Trouble::NoSuchImage) => EngineError::NoSuchImage { image: subject.image.to_owned() },
        Some(Trouble::NameTaken) => EngineError::NameTaken { name: container },
        Some(Trouble::PortTaken) => EngineError::PortTaken { container, detail },
        Some(Trouble::NotRunning) => EngineError::NotRunning { container },
        Some(Trouble::StillRunning) => EngineError::StillRunning { container },
        Some(Trouble::WrongPlatform) => {
            let image =
                if subject.image.is_empty() { format!("of {container}") } else { subject.image.to_owned() };
            EngineError::WrongPlatform { image, detail }
        }
        None => EngineError::Refused { detail },
    }
}

/// Whether the engine refused to remove what it is removing.
pub(in crate::docker) fn is_being_removed(message: &str) -> bool {
    message.contains("is already in progress")
}

/// Cuts off the names of the programs that a message has come through, which tell a reader nothing.
fn readable(message: &str) -> String {
    const LAST_BEARERS: [&str; 3] = [
        "unable to start container process: ",
        "starting container process caused: ",
        "driver failed programming external connectivity on endpoint ",
    ];
    let mut text = message.trim();
    for bearer in LAST_BEARERS {
        if let Some((_, said)) = text.split_once(bearer) {
            text = said;
        }
    }
    // `web (8e1f...): Bind for 0.0.0.0:80 failed`
    if let Some((_, said)) = text.split_once("): Bind for ") {
        return shorten(&format!("Bind for {said}"));
    }
    shorten(text.strip_suffix(": unknown").unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject<'_> = Subject { container: "web", image: "nginx:latest" };

    /// Recorded from Engine 20.10.24, but for those marked with a later version, which are from its sources.
    const TABLE: &[(&str, &str, &str)] = &[
        ("no container", "No such container: web", "no container web"),
        ("no image", "No such image: nginx:latest", "no image nginx:latest"),
        (
            "name",
            "Conflict. The container name \"/web\" is already in use by container \"4f4692a80bf0\". You have to remove (or rename) that container to be able to reuse that name.",
            "the name web is taken",
        ),
        (
            "port",
            "driver failed programming external connectivity on endpoint web (e883ede6): Bind for 0.0.0.0:18080 failed: port is already allocated",
            "host: Bind for 0.0.0.0:18080 failed: port is already allocated",
        ),
        (
            "port",
            "driver failed programming external connectivity on endpoint web (e883ede6): Error starting userland proxy: listen tcp4 0.0.0.0:80: bind: address already in use",
            "listen tcp4 0.0.0.0:80: bind: address already in use",
        ),
        // 28
        (
            "port",
            "failed to set up container networking: driver failed programming external connectivity on endpoint web (e883): failed to bind host port for 0.0.0.0:80:172.17.0.2:80/tcp: address already in use",
            "failed to bind host port for 0.0.0.0:80",
        ),
        ("not running", "Container d4c60072f80a74b1 is not running", "container web is not running"),
        (
            "running",
            "You cannot remove a running container 4f4692a8. Stop the container before attempting removal or force remove",
            "container web is running",
        ),
        // 25
        (
            "running",
            "cannot remove container \"/web\": container is running: stop the container before removing or force remove",
            "container web is running",
        ),
        (
            "running",
            "You cannot remove a restarting container 4f4692a8. Stop the container before attempting removal or force remove",
            "container web is running",
        ),
        (
            "platform",
            "image with reference nginx:latest was found but does not match the specified platform: wanted linux/arm64, actual: linux/amd64",
            "nginx:latest does not run on this host",
        ),
        (
            "platform",
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec /bin/sh: exec format error: unknown",
            "host: exec /bin/sh: exec format error",
        ),
        ("disk", "mkdir /var/lib/docker/overlay2/1205: no space left on device", "no space left on device"),
        ("interrupted", "context canceled", "went away"),
        // A missing network comes with status 404, like a missing container.
        ("refused", "network nope not found", "refused: network nope not found"),
        ("refused", "Minimum memory limit allowed is 6MB", "6MB"),
        ("refused", "unable to find user nobody1: no matching entries in passwd file", "nobody1"),
        (
            "refused",
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"/nope\": stat /nope: no such file or directory: unknown",
            "refused: exec: \"/nope\": stat /nope: no such file or directory",
        ),
        (
            "refused",
            "OCI runtime exec failed: exec failed: unable to start container process: exec: \"nope\": executable file not found in $PATH: unknown",
            "refused: exec: \"nope\": executable file not found in $PATH",
        ),
        ("refused", "something nobody has seen yet", "something nobody has seen yet"),
        ("refused", "", "the engine gave no reason"),
    ];

    fn kind(error: &EngineError) -> &'static str {
        match error {
            EngineError::NoSuchContainer { .. } => "no container",
            EngineError::NoSuchImage { .. } => "no image",
            EngineError::NameTaken { .. } => "name",
            EngineError::PortTaken { .. } => "port",
            EngineError::NotRunning { .. } => "not running",
            EngineError::StillRunning { .. } => "running",
            EngineError::WrongPlatform { .. } => "platform",
            EngineError::DiskFull { .. } => "disk",
            EngineError::Interrupted { .. } => "interrupted",
            EngineError::Refused { .. } => "refused",
            other => panic!("a message about a container never means {other:?}"),
        }
    }

    #[test]
    fn messages_about_containers() {
        for (expected, message, shown) in TABLE {
            let error = container_error("/run/docker.sock", SUBJECT, message);
            assert_eq!(kind(&error), *expected, "{message:?}");
            assert_eq!(error.is_transient(), matches!(*expected, "disk" | "interrupted"), "{message:?}");
            assert!(error.to_string().contains(shown), "{error} says {shown:?}");
            assert!(!error.to_string().contains("unknown"), "{error}");
        }
    }

    #[test]
    fn phrases_are_lower_case_as_the_texts_they_are_sought_in() {
        for (phrase, _) in TROUBLES {
            assert_eq!(*phrase, phrase.to_lowercase());
        }
    }

    #[test]
    fn a_container_whose_image_is_not_known_is_named_itself() {
        let error = container_error("/run/docker.sock", Subject::of("web"), "exec format error");
        assert_eq!(error.to_string(), "image of web does not run on this host: exec format error");
    }

    #[test]
    fn what_is_being_removed_is_told_from_what_can_not_be() {
        assert!(is_being_removed("removal of container web is already in progress"));
        assert!(!is_being_removed("You cannot remove a running container web."));
    }
}
