//! What Docker's events are about. Pure.

use bollard::models::{EventMessage, EventMessageTypeEnum};

use super::super::Changed;

/// Begins the events of commands in containers, health checks among them.
const EXEC: &str = "exec_";
/// Of a container that an image was made of.
const COMMIT: &str = "commit";
/// Where such an event names the image.
const COMMITTED: &str = "imageID";
/// Comes after the events of all that was removed, and names nothing.
const PRUNE: &str = "prune";
/// Change nothing that is listed.
const OF_IMAGES_WITHOUT_EFFECT: [&str; 2] = ["push", "save"];
const OF_VOLUMES_WITHOUT_EFFECT: [&str; 2] = ["mount", "unmount"];

/// What changed; `None` if nothing did that is listed.
pub(super) fn subject(event: EventMessage) -> Option<Changed> {
    let action = event.action.unwrap_or_default();
    let actor = event.actor.unwrap_or_default();
    let id = actor.id.unwrap_or_default();
    let (about, has_effect): (fn(String) -> Changed, _) = match event.typ? {
        EventMessageTypeEnum::CONTAINER if action == COMMIT => {
            let image = actor.attributes.and_then(|mut attributes| attributes.remove(COMMITTED));
            return Some(image.map_or(Changed::Everything, Changed::Image));
        }
        EventMessageTypeEnum::CONTAINER => (Changed::Container, !action.starts_with(EXEC)),
        EventMessageTypeEnum::IMAGE => (Changed::Image, !OF_IMAGES_WITHOUT_EFFECT.contains(&action.as_str())),
        EventMessageTypeEnum::VOLUME => {
            (Changed::Volume, !OF_VOLUMES_WITHOUT_EFFECT.contains(&action.as_str()))
        }
        _ => return None,
    };
    match id.is_empty() {
        _ if !has_effect || action == PRUNE => None,
        true => Some(Changed::Everything),
        false => Some(about(id)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(kind: &str, action: &str, id: &str) -> Option<Changed> {
        let attributes = json!({ "imageID": "sha256:1205", "name": "web" });
        let event =
            json!({ "Type": kind, "Action": action, "Actor": { "ID": id, "Attributes": attributes } });
        subject(serde_json::from_value(event).unwrap())
    }

    #[test]
    fn events_say_what_they_are_about() {
        for action in ["create", "start", "die", "destroy", "rename", "health_status: healthy"] {
            assert_eq!(of("container", action, "4f46"), Some(Changed::Container("4f46".into())), "{action}");
        }
        assert_eq!(of("image", "pull", "nginx:1"), Some(Changed::Image("nginx:1".into())));
        assert_eq!(of("image", "delete", "sha256:29c9"), Some(Changed::Image("sha256:29c9".into())));
        assert_eq!(of("volume", "create", "data"), Some(Changed::Volume("data".into())));
        assert_eq!(of("container", "commit", "4f46"), Some(Changed::Image("sha256:1205".into())));
        assert_eq!(of("image", "untag", ""), Some(Changed::Everything), "an engine that does not say");
    }

    #[test]
    fn what_changes_nothing_is_no_event() {
        for (kind, action) in [
            ("container", "exec_create: /bin/check"),
            ("container", "exec_die"),
            ("image", "push"),
            ("image", "save"),
            ("volume", "mount"),
            ("volume", "unmount"),
            ("network", "connect"),
        ] {
            assert_eq!(of(kind, action, "4f46"), None, "{kind} {action}");
        }
        assert_eq!(of("container", "prune", ""), None);
    }
}
