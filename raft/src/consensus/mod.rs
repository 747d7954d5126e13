//! Raft groups over openraft: the only module that names it.

pub mod machine;
pub mod runtime;
