//! Which images this node's engine has, in few bytes: others prefer a node that has what is needed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};
use longshore_model::image::ImageReference;
use longshore_raft::Runtime;
use tokio_util::sync::CancellationToken;

use super::loads::Loads;
use crate::inventory::Inventory;

/// Most images that a node tells of.
pub(super) const IMAGES_MAX: usize = 1_024;
/// The least between two looks: images come in bursts.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Pause after nobody knew, since the engine does not answer.
const AGAIN: Duration = Duration::from_secs(10);

/// The name of an image, cut down to 64 bits of its hash. Two that are alike cost a pull, nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(crate) struct ImageName(pub(super) u64);

impl ImageName {
    pub(crate) fn of(image: &ImageReference) -> Self {
        Self(short(&blake3::hash(image.familiar().as_bytes())))
    }

    /// Of a list of them: two that have the same are the same list.
    pub(super) fn hash_of(names: &[Self]) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for name in names {
            hasher.update(&name.0.to_le_bytes());
        }
        short(&hasher.finalize())
    }
}

fn short(hash: &blake3::Hash) -> u64 {
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    u64::from_le_bytes(*first)
}

/// Of names as engines tell them, in order.
fn hashed(names: &BTreeSet<String>) -> Vec<ImageName> {
    let names = names.iter().filter_map(|name| name.parse().ok()).map(|image| ImageName::of(&image));
    let mut names: Vec<ImageName> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Looks into the inventory again when the engine tells of an image, and asks the engine where there is no inventory. What it knew last stays as
/// long as neither says anything: images do not go with an engine that is away. One per node with an engine.
pub(crate) struct ImageWatch<R: Runtime> {
    pub(crate) inventory: Arc<Inventory<R>>,
    pub(crate) loads: Arc<Loads<R>>,
    pub(crate) stop: CancellationToken,
}

impl<R: Runtime> ImageWatch<R> {
    pub(crate) async fn run(self) {
        let mut again = false;
        loop {
            let due = async {
                if !again {
                    self.loads.images_changed().await;
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = due => {}
            }
            let names = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                names = self.inventory.image_names(IMAGES_MAX) => names,
            };
            again = names.is_none();
            if let Some(names) = names {
                self.loads.take_own_images(hashed(&names));
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = R::sleep(if again { AGAIN } else { LOOK_EVERY }) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_raft::NodeId;
    use longshore_raft::consensus::runtime::{AsyncRuntime as _, TokioRuntime};
    use longshore_storage::tables::TablesError;

    use super::*;
    use crate::docker::{Changed, ContainerEngine as _, FakeEngine};
    use crate::inventory::Heard;
    use crate::node::OpenTables;

    /// Of any runtime: of a named one the compiler can not show that the futures may be sent.
    fn start<R: Runtime>(inventory: &Arc<Inventory<R>>, loads: &Arc<Loads<R>>) {
        let (inventory, loads) = (Arc::clone(inventory), Arc::clone(loads));
        drop(R::spawn(ImageWatch { inventory, loads, stop: CancellationToken::new() }.run()));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_inventory_the_engine_says_it_and_what_was_known_last_stays() {
        let fake = FakeEngine::<TokioRuntime>::new("fake");
        let pull = async |name: &str| {
            let image = name.parse().unwrap();
            fake.publish(&image, vec![1]);
            fake.pull(&image, Arc::new(|_| {})).await.unwrap();
        };
        pull("localhost:5000/app:1").await;
        let open: OpenTables = Arc::new(|| {
            let source = std::io::Error::other("a full disk");
            Err(TablesError::Io { context: "cannot make tables".into(), source })
        });
        let inventory = Inventory::<TokioRuntime>::new(Arc::new(fake.clone()), open);
        let loads = Loads::<TokioRuntime>::new(NodeId(1), true);
        let changed = |engine_tells: bool| {
            if engine_tells {
                loads.hear(&Heard::Changed(Changed::Everything));
            }
            TokioRuntime::sleep(Duration::from_secs(30))
        };
        start(&inventory, &loads);
        changed(true).await;
        assert_eq!(loads.own_images().len(), 1);
        pull("localhost:5000/other:1").await;
        changed(true).await;
        assert_eq!(loads.own_images().len(), 2);
        fake.crash();
        changed(true).await;
        assert_eq!(loads.own_images().len(), 2, "nobody says that they are gone");
        fake.restart();
        fake.forget_all();
        changed(false).await;
        assert_eq!(loads.own_images().len(), 0, "it was asked again until it said something");
    }

    #[test]
    fn images_are_known_by_the_names_that_people_give_them() {
        let name = |text: &str| ImageName::of(&text.parse().unwrap());
        assert_eq!(hashed(&BTreeSet::new()), []);
        // Two names of one image, and something that is none.
        let names = ["nginx:1.27", "docker.io/library/nginx:1.27", "localhost:5000/app:3", "<none>:<none>"];
        let here = hashed(&names.map(str::to_owned).into());
        assert!(here.is_sorted() && here.len() == 2);
        for known in &names[..3] {
            assert!(here.contains(&name(known)), "{known}");
        }
        assert!(!here.contains(&name("nginx")) && !here.contains(&name("nginx:1.28")));
        let hash = ImageName::hash_of(&here);
        assert!(hash != ImageName::hash_of(&here[1..]) && hash == ImageName::hash_of(&here.clone()));
    }
}
