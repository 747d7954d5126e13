//! Who does what of a submission: waits for what is not known yet, and counts what was decided here a moment ago.

use std::time::Duration;

use longshore_model::operations::placement::lot;
use longshore_raft::Runtime;

use super::Service;
use super::asking::{AskedFor, each_at};
use super::placing::{Asked, Placed, Wanted};
use crate::api::types::*;
use crate::operations::{Ticket, images_of, open_parts};

/// How long a submission waits for nodes to tell what it asks for.
const TOLD_WITHIN: Duration = Duration::from_secs(4);

impl<R: Runtime> Service<R> {
    /// Who does what, with all that was decided here a moment ago. `of`: what tells the request from others.
    pub(super) fn place(
        &self,
        wanted: &Wanted,
        asked_for: &AskedFor,
        of: &[&[u8]],
    ) -> (Result<Placed, ApiError>, Option<Ticket<R>>) {
        let told = |node| self.core.loads.of(node).map(|seen| seen.age);
        let deciding = self.lately.decide(|operation| self.front.is_logged_here(operation), told);
        // What was seen in a log just now is counted there.
        let open = open_parts(&self.core, &self.replicas);
        let images = images_of(&asked_for.kind());
        let number = [self.core.me.0.to_le_bytes(), deciding.number().to_le_bytes()].concat();
        let lot = lot(&[of, &[&number[..]]].concat());
        let known = Asked { open: &open, placed: &deciding.placed(), images: &images, lot };
        let placed = self.core.group.with_state(|state| match asked_for {
            AskedFor::Images(kind) => wanted.parts(&self.core, state, &known, kind.works() as u32),
            AskedFor::Run(run) => wanted.copies(&self.core, state, &known, run.copies),
            AskedFor::Containers(_, nodes) => Ok(Placed { parts: each_at(nodes), left_out: Vec::new() }),
        });
        let ticket = placed.as_ref().ok().map(|placed| deciding.note(&placed.parts));
        (placed, ticket)
    }

    /// Waits for nodes to tell what is asked for, if that could change where it goes: those that were started just now, or that this one has not heard
    /// of since it was.
    pub(super) async fn until_told(&self, wanted: &Wanted) {
        let told = async {
            let mut seen = 0;
            loop {
                let mut heard = std::pin::pin!(self.core.loads.heard());
                heard.as_mut().enable();
                if !self.core.group.with_state(|state| wanted.is_untold(&self.core, state)) {
                    return;
                }
                tokio::select! {
                    biased;
                    () = heard.as_mut() => {}
                    version = self.core.group.changed(seen) => seen = version,
                }
            }
        };
        // Whoever is still not known then is named.
        let _ = R::timeout(TOLD_WITHIN, told).await;
    }
}
