//! Sums what an engine says of single layers into the progress of a pull. Pure.
//!
//! Invariants of what is reported: no figure of `PullProgress` ever falls but by the engine's announcing more layers,
//! `layers_done <= layers_total`, `current_bytes <= total_bytes`.

use std::collections::BTreeMap;

use super::PullProgress;

/// Layers told apart. An image has at most 127 (the kernel's limit on overlays), manifests of one pull a few more;
/// further ones would only be missing from the sums.
const MAX_LAYERS: usize = 1024;

/// One message of the engine's progress stream, as far as it matters here. Bytes are negative when unknown.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LayerMessage<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) status: &'a str,
    pub(super) current_bytes: Option<i64>,
    pub(super) total_bytes: Option<i64>,
}

#[derive(Debug, Default)]
struct Layer {
    current_bytes: u64,
    /// As large as the largest figure seen for this layer; 0 while unknown.
    total_bytes: u64,
    done: bool,
}

#[derive(Debug, Default)]
pub(super) struct PullTracker {
    layers: BTreeMap<String, Layer>,
    reported: PullProgress,
}

impl PullTracker {
    /// Takes in one message; gives the progress if the message changed it.
    pub(super) fn observe(&mut self, message: LayerMessage<'_>) -> Option<PullProgress> {
        let phase = Phase::of(message.status)?;
        let id = message.id?;
        if !self.layers.contains_key(id) && self.layers.len() >= MAX_LAYERS {
            return None;
        }
        let layer = self.layers.entry(id.to_owned()).or_default();
        layer.enter(phase, message);

        let progress = self.sum();
        assert!(progress.layers_done <= progress.layers_total, "{progress:?}");
        assert!(progress.current_bytes <= progress.total_bytes, "{progress:?}");
        if progress == self.reported {
            return None;
        }
        self.reported = progress;
        Some(progress)
    }

    fn sum(&self) -> PullProgress {
        let mut sum = PullProgress::default();
        for layer in self.layers.values() {
            sum.layers_total += 1;
            sum.layers_done += u32::from(layer.done);
            sum.current_bytes = sum.current_bytes.saturating_add(layer.current_bytes);
            sum.total_bytes = sum.total_bytes.saturating_add(layer.total_bytes);
        }
        sum
    }
}

/// The progress of a push. Engines do not say which layer a message is of, so layers are counted by what is said of each once.
#[derive(Debug, Default)]
pub(super) struct PushTracker {
    progress: PullProgress,
}

impl PushTracker {
    /// As [`PullTracker::observe`], by the status alone.
    pub(super) fn observe(&mut self, status: &str) -> Option<PullProgress> {
        let progress = &mut self.progress;
        match status {
            "Preparing" => progress.layers_total += 1,
            "Pushed" | "Layer already exists" => progress.layers_done += 1,
            mounted if mounted.starts_with("Mounted from ") => progress.layers_done += 1,
            _ => return None,
        }
        // An engine that says more of a layer than is known here must not make a bar run over.
        progress.layers_total = progress.layers_total.max(progress.layers_done);
        Some(*progress)
    }
}

impl Layer {
    fn enter(&mut self, phase: Phase, message: LayerMessage<'_>) {
        match phase {
            Phase::Announced => {}
            Phase::Downloading => {
                let known = |bytes: Option<i64>| u64::try_from(bytes.unwrap_or(0)).unwrap_or(0);
                // A download that is tried again begins at 0; a bar that jumps back would only confuse.
                self.current_bytes = self.current_bytes.max(known(message.current_bytes));
                self.total_bytes = self.total_bytes.max(known(message.total_bytes)).max(self.current_bytes);
            }
            Phase::Downloaded => self.current_bytes = self.total_bytes,
            Phase::Done => {
                self.current_bytes = self.total_bytes;
                self.done = true;
            }
        }
    }
}

/// How far one layer is. What else the engine says (`Retrying in 5 seconds`, `Digest: ...`) changes no sum.
#[derive(Debug, Clone, Copy)]
enum Phase {
    Announced,
    Downloading,
    /// Downloaded, perhaps being checked or extracted. Extraction repeats the layer's bytes; they are not counted twice.
    Downloaded,
    Done,
}

impl Phase {
    fn of(status: &str) -> Option<Self> {
        Some(match status {
            "Pulling fs layer" | "Waiting" => Self::Announced,
            "Downloading" => Self::Downloading,
            "Verifying Checksum" | "Download complete" | "Extracting" => Self::Downloaded,
            "Pull complete" | "Already exists" => Self::Done,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Row = (Option<&'static str>, &'static str, Option<(i64, i64)>);

    fn replay(rows: &[Row]) -> (PullTracker, Vec<PullProgress>) {
        let mut tracker = PullTracker::default();
        let mut seen: Vec<PullProgress> = Vec::new();
        for (id, status, bytes) in rows {
            let message = LayerMessage {
                id: *id,
                status,
                current_bytes: bytes.map(|(current, _)| current),
                total_bytes: bytes.map(|(_, total)| total),
            };
            if let Some(progress) = tracker.observe(message) {
                if let Some(last) = seen.last() {
                    assert!(progress.layers_done >= last.layers_done, "{last:?} then {progress:?}");
                    assert!(progress.current_bytes >= last.current_bytes, "{last:?} then {progress:?}");
                    assert_ne!(progress, *last, "reported twice");
                }
                seen.push(progress);
            }
        }
        (tracker, seen)
    }

    fn progress(layers: (u32, u32), bytes: (u64, u64)) -> PullProgress {
        PullProgress {
            layers_done: layers.0,
            layers_total: layers.1,
            current_bytes: bytes.0,
            total_bytes: bytes.1,
        }
    }

    /// Recorded from Engine 20.10.24 pulling an image of one layer.
    #[test]
    fn one_layer() {
        let (_, seen) = replay(&[
            (Some("1"), "Pulling from big", None),
            (Some("bb362bcc8dae"), "Pulling fs layer", None),
            (Some("bb362bcc8dae"), "Downloading", Some((342_016, 32_531_376))),
            (Some("bb362bcc8dae"), "Downloading", Some((29_088_179, 32_531_376))),
            (Some("bb362bcc8dae"), "Verifying Checksum", None),
            (Some("bb362bcc8dae"), "Download complete", None),
            (Some("bb362bcc8dae"), "Extracting", Some((327_680, 32_531_376))),
            (Some("bb362bcc8dae"), "Extracting", Some((32_531_376, 32_531_376))),
            (Some("bb362bcc8dae"), "Pull complete", None),
            (None, "Digest: sha256:ea8594359c34637289cf8c0922e0eabe92231ad4fa7aa542323b92dff206f96c", None),
            (None, "Status: Downloaded newer image for 127.0.0.1:5555/big:1", None),
        ]);
        let expected = [
            progress((0, 1), (0, 0)),
            progress((0, 1), (342_016, 32_531_376)),
            progress((0, 1), (29_088_179, 32_531_376)),
            progress((0, 1), (32_531_376, 32_531_376)),
            progress((1, 1), (32_531_376, 32_531_376)),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn layers_that_exist_count_as_done_without_bytes() {
        let (_, seen) = replay(&[
            (Some("a"), "Already exists", None),
            (Some("b"), "Pulling fs layer", None),
            (Some("c"), "Pulling fs layer", None),
            (Some("c"), "Waiting", None),
            (Some("b"), "Downloading", Some((10, 100))),
            (Some("c"), "Downloading", Some((5, 50))),
            (Some("c"), "Download complete", None),
            (Some("b"), "Download complete", None),
            (Some("b"), "Pull complete", None),
            (Some("c"), "Pull complete", None),
        ]);
        assert_eq!(seen.first(), Some(&progress((1, 1), (0, 0))));
        assert!(seen.contains(&progress((1, 3), (15, 150))), "{seen:?}");
        assert_eq!(seen.last(), Some(&progress((3, 3), (150, 150))));
    }

    /// The registry dropped the connection; the engine waits, and begins the layer again.
    #[test]
    fn a_download_tried_again_never_goes_back() {
        let (tracker, seen) = replay(&[
            (Some("a"), "Pulling fs layer", None),
            (Some("a"), "Downloading", Some((60, 100))),
            (Some("a"), "Retrying in 5 seconds", None),
            (Some("a"), "Downloading", Some((1, 100))),
            (Some("a"), "Downloading", Some((70, 100))),
        ]);
        assert_eq!(seen.last(), Some(&progress((0, 1), (70, 100))));
        assert_eq!(seen.len(), 3, "the step back is not reported: {seen:?}");
        assert_eq!(tracker.layers.len(), 1);
    }

    #[test]
    fn an_unknown_size_grows_with_what_has_come() {
        let (_, seen) = replay(&[
            (Some("a"), "Downloading", Some((10, -1))),
            (Some("a"), "Downloading", Some((20, 0))),
            (Some("a"), "Pull complete", None),
        ]);
        let expected = [progress((0, 1), (10, 10)), progress((0, 1), (20, 20)), progress((1, 1), (20, 20))];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_names_no_layer_changes_nothing() {
        let (_, seen) = replay(&[
            (None, "Downloading", Some((1, 2))),
            (Some("a"), "Something new", Some((1, 2))),
            (Some("latest"), "Pulling from library/nginx", None),
        ]);
        assert_eq!(seen, []);
    }

    #[test]
    fn absurd_figures_saturate() {
        let (_, seen) = replay(&[
            (Some("a"), "Downloading", Some((i64::MAX, i64::MAX))),
            (Some("b"), "Downloading", Some((i64::MAX, i64::MAX))),
            (Some("c"), "Downloading", Some((i64::MAX, i64::MAX))),
        ]);
        assert_eq!(seen.last().map(|last| last.total_bytes), Some(u64::MAX));
    }

    #[test]
    fn the_number_of_layers_is_limited() {
        let mut tracker = PullTracker::default();
        for layer in 0..2 * MAX_LAYERS {
            let id = layer.to_string();
            tracker.observe(LayerMessage { id: Some(&id), status: "Waiting", ..LayerMessage::default() });
        }
        assert_eq!(tracker.layers.len(), MAX_LAYERS);
    }
}
