//! Build contexts: folders that people have sent to a node, kept as blobs for a while, and brought to the nodes that build.
//!
//! [`Contexts`] keeps this node's and answers for them; [`Builds`] gets one from whoever has it and has this node's engine build it. Contexts are
//! in no log: the record of a build names one by its digest, and as long as that build has not ended the context is kept. Must never: give an
//! engine bytes that do not have the digest, hold a context in memory, or keep one for good.

mod building;
mod calls;
mod contexts;
mod fetching;
mod upload;

pub(crate) use building::Builds;
pub(crate) use contexts::{ContextError, Contexts};
