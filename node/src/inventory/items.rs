//! The kinds of things that an engine has: how the engine is asked about them, and where they are kept.

use bincode::{Decode, Encode};
use longshore_raft::Runtime;
use longshore_storage::tables::Table;

use super::Inventory;
use super::shelf::Shelf;
use crate::docker::{BoxFuture, Container, ContainerEngine, EngineError, ListedImage, ListedVolume};

/// A kind of thing.
pub(crate) trait Item: Encode + Decode<()> + Send + Sync + 'static {
    /// Of many, in words.
    const WHAT: &'static str;
    /// By id.
    const ROWS: Table;
    /// From names to ids; none where the id is the name.
    const NAMES: Option<Table>;
    /// Whether the engine lists them by name, not by id.
    const LISTED_BY_NAME: bool;

    fn id(&self) -> &str;
    /// None if the id is the name.
    fn names(&self) -> Vec<&str>;
    /// False of what the engine tells of when it is asked for it, and may leave out of its listing.
    fn is_listed(&self) -> bool {
        true
    }

    /// All that the engine has.
    fn list(engine: &dyn ContainerEngine) -> BoxFuture<'_, Result<Vec<Self>, EngineError>>
    where
        Self: Sized;
    /// By id or name.
    fn find<'a>(
        engine: &'a dyn ContainerEngine,
        key: &str,
    ) -> BoxFuture<'a, Result<Option<Self>, EngineError>>
    where
        Self: Sized;
    /// Where an inventory has them.
    fn shelf<R: Runtime>(inventory: &Inventory<R>) -> &Shelf<R, Self>
    where
        Self: Sized;
}

impl Item for Container {
    const WHAT: &'static str = "containers";
    const ROWS: Table = Table::new("containers");
    const NAMES: Option<Table> = Some(Table::new("container_names"));
    const LISTED_BY_NAME: bool = true;

    fn id(&self) -> &str {
        &self.id
    }

    fn names(&self) -> Vec<&str> {
        vec![&self.name]
    }

    fn list(engine: &dyn ContainerEngine) -> BoxFuture<'_, Result<Vec<Self>, EngineError>> {
        engine.list_containers()
    }

    fn find<'a>(
        engine: &'a dyn ContainerEngine,
        key: &str,
    ) -> BoxFuture<'a, Result<Option<Self>, EngineError>> {
        engine.inspect_container(key)
    }

    fn shelf<R: Runtime>(inventory: &Inventory<R>) -> &Shelf<R, Self> {
        &inventory.containers
    }
}

impl Item for ListedImage {
    const WHAT: &'static str = "images";
    const ROWS: Table = Table::new("images");
    const NAMES: Option<Table> = Some(Table::new("image_names"));
    const LISTED_BY_NAME: bool = false;

    fn id(&self) -> &str {
        &self.id
    }

    fn names(&self) -> Vec<&str> {
        self.tags.iter().map(String::as_str).collect()
    }

    /// Without a name it may be one that only others are built on.
    fn is_listed(&self) -> bool {
        !self.tags.is_empty()
    }

    fn list(engine: &dyn ContainerEngine) -> BoxFuture<'_, Result<Vec<Self>, EngineError>> {
        engine.list_images()
    }

    fn find<'a>(
        engine: &'a dyn ContainerEngine,
        key: &str,
    ) -> BoxFuture<'a, Result<Option<Self>, EngineError>> {
        engine.find_image(key)
    }

    fn shelf<R: Runtime>(inventory: &Inventory<R>) -> &Shelf<R, Self> {
        &inventory.images
    }
}

impl Item for ListedVolume {
    const WHAT: &'static str = "volumes";
    const ROWS: Table = Table::new("volumes");
    const NAMES: Option<Table> = None;
    const LISTED_BY_NAME: bool = false;

    fn id(&self) -> &str {
        &self.name
    }

    fn names(&self) -> Vec<&str> {
        Vec::new()
    }

    fn list(engine: &dyn ContainerEngine) -> BoxFuture<'_, Result<Vec<Self>, EngineError>> {
        engine.list_volumes()
    }

    fn find<'a>(
        engine: &'a dyn ContainerEngine,
        key: &str,
    ) -> BoxFuture<'a, Result<Option<Self>, EngineError>> {
        engine.find_volume(key)
    }

    fn shelf<R: Runtime>(inventory: &Inventory<R>) -> &Shelf<R, Self> {
        &inventory.volumes
    }
}
