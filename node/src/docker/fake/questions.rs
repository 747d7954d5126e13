//! What the fake is asked: how often, and whether it answers at all.

use longshore_raft::Runtime;

use super::super::EngineError;
use super::{FakeEngine, State};

/// How often the fake was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// For one container, image or volume.
    pub things: u64,
    /// For all of a kind.
    pub lists: u64,
}

impl<R: Runtime> FakeEngine<R> {
    /// How often it was asked so far, whatever came of it.
    pub fn asked(&self) -> Asked {
        self.state.lock().asked
    }

    /// Whether it stands still, as a process that was stopped does: nothing that is asked is answered until it goes on.
    pub fn stand_still(&self, still: bool) {
        self.change(|state, _| state.still = still);
    }

    pub(super) async fn thing<T>(&self, look: impl FnOnce(&State) -> T + Send) -> Result<T, EngineError> {
        self.up()?.asked.things += 1;
        self.answer(look).await
    }

    pub(super) async fn list<T>(&self, look: impl FnOnce(&State) -> T + Send) -> Result<T, EngineError> {
        self.up()?.asked.lists += 1;
        self.answer(look).await
    }

    pub(super) async fn answer<T>(&self, look: impl FnOnce(&State) -> T + Send) -> Result<T, EngineError> {
        let life = self.up()?.life;
        self.unless_down(life, self.eventually(|state| (!state.still).then_some(()))).await?;
        Ok(look(&*self.up()?))
    }
}
