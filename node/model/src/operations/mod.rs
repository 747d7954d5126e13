//! Operations: one Docker action, split into sub-operations, one per node and piece of work, each under a lease.
//!
//! Docker can not be fenced, so a sub-operation has a lease and a token (the attempt's number). Its node stops the work when the
//! lease ends by that node's own clock, counted from before it asked; another attempt may start only after lease + grace of
//! log time, or at once when the same node asks in a new incarnation (the lock on its data folder proves that the old process,
//! and with it its connection to the engine, is gone).
//!
//! Invariants: at most one attempt of a sub-operation holds the lease; an ended sub-operation never changes again; an operation has
//! ended exactly when all its sub-operations have; every record kept has at least one sub-operation.

pub mod build;
pub mod command;
mod image;
pub mod kind;
pub mod load;
pub mod placement;
pub mod record;
pub mod table;
pub mod upkeep;

pub use build::{BuildArg, BuildContext, BuildError, BuildSpec};
pub use command::{Failure, FailureKind, OperationCommand, OperationReply};
pub use kind::*;
pub use record::*;
pub use table::{CancelError, ClaimReply, Listed, Listing, Operations, SUBS_MAX, Submission, SubmitError};
pub use upkeep::{CopyNews, CopyState, Kept, KeptCopy, Move, Replaced, UpkeepChange, UpkeepError, Verdict};
