//! The identifiers that peers agree on. None is ever reused.

use std::fmt;

use bincode::{Decode, Encode};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// One running `longshore`; its certificate names it. Allocated by the control group's log, from 1.
    NodeId(u64), "n"
);
id!(
    /// One Raft group. 0 is the control group; 1..=256 carry partitions.
    GroupId(u32), "g"
);
id!(
    /// One group's copy on one node: openraft's `NodeId`. Allocated by the control group's log, from 1.
    ReplicaId(u64), "r"
);
id!(
    /// A client of a group, registered through its log: the index of the entry that registered it.
    ClientId(u64), "c"
);

impl GroupId {
    /// The group that holds membership, tokens, certificates and, until the ring stands, operations.
    pub const CONTROL: GroupId = GroupId(0);
}

/// The fleet's own identity: 16 random bytes made at `init`, in lower-case hex where people see it.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct FleetId(pub [u8; 16]);

impl fmt::Display for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
