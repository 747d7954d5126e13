//! The planted bugs: what each is, where it is planted, and which faults bring it to light.
//!
//! They test the simulation itself: a bug of a kind that has broken other systems is put in, and the checkers must find it by what it
//! does, never by looking for it. As many as possible come through the ports, so that they need no other build: a disk that lies,
//! replies that are false, a host that is restored wrongly. The rest are hooks of one line in production code (`mutant!`), which only a
//! build with the feature `mutants` contains. Owns the list and the planting; whoever runs seeds decides how long to look.

use crate::disk::{DiskMutant, HostDisk};
use crate::network::{Fabric, Tamper};
use crate::plan::profile::Profile;

/// How to get the hooks.
pub const BUILD_HINT: &str = "build with them: cargo build --release -p longshore-simulation --features mutants \
                              --target-dir target/mutants";

/// Where a bug is planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// In every host's disk, or in what drives its log.
    Disk(DiskMutant),
    /// In the replies that travel between nodes; in memory transport only.
    Network(Tamper),
    /// In how a wiped host comes back: the world does it.
    Wipe,
    /// At the lines of production code that name it, in these files.
    Hook(&'static [&'static str]),
}

/// What kind of mistake it is: one that has broken systems of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Acknowledged before it was durable (NATS JetStream 2.12.1, etcd #14370).
    AcknowledgedTooEarly,
    /// A log or state that lost or changed what it held, and goes on (NATS JetStream).
    SilentCorruption,
    /// A crash in the middle of compaction or snapshot (etcd #13766, #14685, #17780).
    CrashInCompaction,
    /// A commit without a quorum (openraft #1802).
    CommitWithoutQuorum,
    /// A read error taken for data (openraft #1795).
    ReadErrorIgnored,
    /// A read without proof of leadership (Consul, RedisRaft).
    StaleRead,
    /// Elections that never end under a link that works one way (TigerBeetle).
    ElectionLivelock,
    /// A command applied twice after an unknown outcome (FoundationDB layers, openraft #1890).
    AppliedTwice,
    /// Told as certainly not done, and done.
    DeniedThoughDone,
    /// A replica that lost its data under an id that still counts.
    IdentityReused,
    /// Work that outlives the right to do it.
    LeaseOutlived,
    /// A healthy leader that is replaced for no reason (what restarts did to quiescent groups elsewhere).
    LeaderDeposed,
    /// A replica that sleeps although there is something it lacks.
    NeverWoken,
    /// More of a group changed at a time than it can do without.
    MovedTooMuch,
    /// Requests served by a rule that others have replaced.
    EpochIgnored,
    /// Time that does not pass where nobody asks for it.
    TimeStopped,
    /// Something started or kept although it was taken back.
    TakenBackInVain,
    /// Something taken away that was wanted.
    WantedRemoved,
}

/// A planted bug.
#[derive(Debug, Clone, Copy)]
pub struct Mutant {
    pub name: &'static str,
    /// What is planted, in a sentence.
    pub description: &'static str,
    pub class: Class,
    pub plant: Plant,
    /// Which faults bring it to light, and what is seen then.
    pub exposed_by: &'static str,
    /// Where to look for it, in turn.
    pub profiles: &'static [Profile],
}

impl Mutant {
    /// Whether only a build with the feature `mutants` contains it.
    pub const fn needs_feature(&self) -> bool {
        matches!(self.plant, Plant::Hook(_))
    }
}

/// Named by the world, which plants it.
pub const REUSE_REPLICA_ID: &str = "reuse-replica-id";

/// All of them.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "acknowledge-before-sync",
        description: "a sync of the log returns at once; the bytes reach the disk half a second later",
        class: Class::AcknowledgedTooEarly,
        plant: Plant::Disk(DiskMutant::AcknowledgeBeforeSync),
        exposed_by: "A power loss within half a second of a write. One host is enough for a vote or an entry to go from a log that \
                     had promised it; all hosts at once lose acknowledged writes.",
        profiles: &[Profile::Disk, Profile::Swarm],
    },
    Mutant {
        name: "skip-directory-sync",
        description: "a folder is never synced, so that names of new files are durable by luck only",
        class: Class::AcknowledgedTooEarly,
        plant: Plant::Disk(DiskMutant::SkipDirectorySync),
        exposed_by: "A power loss after the log went on to a fresh segment, or after a snapshot was saved: the file is gone with all that \
                     was acknowledged in it. Small segments and few entries a snapshot make it likely.",
        profiles: &[Profile::Disk, Profile::Swarm],
    },
    Mutant {
        name: "call-back-early",
        description: "the log calls back when a batch is written; the sync follows in the background",
        class: Class::AcknowledgedTooEarly,
        plant: Plant::Disk(DiskMutant::CallBackEarly),
        exposed_by: "A power loss within a tenth of a second of an acknowledgement, longer on a slow disk: of a majority, or of the one host \
                     that made it a majority.",
        profiles: &[Profile::Disk, Profile::Swarm],
    },
    Mutant {
        name: "commit-on-a-minority",
        description: "append requests are answered as done without being sent, so that a leader commits alone",
        class: Class::CommitWithoutQuorum,
        plant: Plant::Network(Tamper::ForgeAppendSuccess),
        exposed_by: "Nothing more is needed than a look at the durable logs of the voters; any change of leaders loses acknowledged writes.",
        profiles: &[Profile::Calm, Profile::Network],
    },
    Mutant {
        name: "grant-every-pre-vote",
        description: "every pre-vote is granted, so that whoever is cut off begins one term after the other",
        class: Class::ElectionLivelock,
        plant: Plant::Network(Tamper::GrantPreVotes),
        exposed_by: "A host that is cut off from the leader and hears another: it campaigns again and again, and raises its term each time. \
                     (It deposes nobody before the network heals: votes honour a leader's lease as well.)",
        profiles: &[Profile::Network, Profile::Swarm],
    },
    Mutant {
        name: REUSE_REPLICA_ID,
        description: "a wiped host keeps its identity and starts again with an empty log",
        class: Class::IdentityReused,
        plant: Plant::Wipe,
        exposed_by: "A wipe of a voter: its vote goes back to nothing. While another voter is behind or away, the two make a quorum that \
                     knows nothing of committed entries.",
        profiles: &[Profile::Membership, Profile::Swarm],
    },
    Mutant {
        name: "apply-twice-on-retry",
        description: "the reply to a command is not remembered, so that a retry is applied again",
        class: Class::AppliedTwice,
        plant: Plant::Hook(&["raft/src/consensus/state.rs"]),
        exposed_by: "A reply that is lost after its command was applied (a dropped message, a leader that dies), while another client \
                     writes the same register: the older value comes back.",
        profiles: &[Profile::Network, Profile::Swarm],
    },
    Mutant {
        name: "purge-past-the-snapshot",
        description: "the log is purged when a snapshot is taken; it becomes durable two seconds later",
        class: Class::CrashInCompaction,
        plant: Plant::Hook(&["raft/src/consensus/state.rs"]),
        exposed_by: "A crash in the two seconds after a snapshot: the log begins behind the newest durable snapshot, and what lies between \
                     is nowhere on that host. Few entries a snapshot make it likely.",
        profiles: &[Profile::Disk, Profile::Swarm],
    },
    Mutant {
        name: "ignore-a-read-error",
        description: "what the log can not read counts as zeros",
        class: Class::ReadErrorIgnored,
        plant: Plant::Hook(&["storage/src/log/segmented/segment.rs"]),
        exposed_by: "A read that fails while a node starts: the log seems to end there, and what was acknowledged behind it is cut off, \
                     votes included.",
        profiles: &[Profile::Disk, Profile::Swarm],
    },
    Mutant {
        name: "resurrect-recycled-bytes",
        description: "checksums and batches are not bound to the use of a file, so that bytes of an earlier use count",
        class: Class::SilentCorruption,
        plant: Plant::Hook(&[
            "storage/src/log/segmented/format.rs",
            "storage/src/log/segmented/batch.rs",
            "storage/src/log/segmented/scan.rs",
        ]),
        exposed_by: "A restart after segments were used again, so small segments and few entries a snapshot: old votes and bounds come \
                     behind the new ones, or the log is taken for damaged, on a majority if all lose power at once.",
        profiles: &[Profile::Disk, Profile::Swarm],
    },
    Mutant {
        name: "forget-a-truncation",
        description: "cutting the log back is not written down, so that after a restart the entries cut off are back",
        class: Class::SilentCorruption,
        plant: Plant::Hook(&["storage/src/log/segmented/handle.rs"]),
        exposed_by: "A leader cut off with entries that only it holds, replaced, healed, and restarted before its log has grown past \
                     them: terms go back within its log.",
        profiles: &[Profile::Swarm],
    },
    Mutant {
        name: "read-by-lease",
        description: "reads trust the leader's lease instead of asking a quorum",
        class: Class::StaleRead,
        plant: Plant::Hook(&["raft/src/consensus/reads.rs"]),
        exposed_by: "A leader that is cut off or stands still, is replaced within its lease (failover does not wait for leases), and \
                     answers a read.",
        profiles: &[Profile::Network, Profile::Clock],
    },
    Mutant {
        name: "forget-the-lease",
        description: "a pull goes on when its lease has ended",
        class: Class::LeaseOutlived,
        plant: Plant::Hook(&["node/src/operations/attempt.rs"]),
        exposed_by: "A slow or hanging pull on a node that can not renew for 20 seconds (cut off, without a quorum, or stood still): the \
                     node is given the sub-operation again while its first pull is under way.",
        profiles: &[Profile::Containers, Profile::Swarm],
    },
    Mutant {
        name: "restart-with-ticks-on",
        description: "a replica that is opened ticks without asking who leads, others believe any candidate, and no leader looks after a \
                      node that is back",
        class: Class::LeaderDeposed,
        plant: Plant::Hook(&["raft/src/consensus/wake.rs"]),
        exposed_by: "A host that restarts while groups rest: its replicas campaign, and healthy leaders are deposed.",
        profiles: &[Profile::Storm],
    },
    Mutant {
        name: "quiesce-with-a-lagging-follower",
        description: "a leader puts its group to rest as soon as it has answered, and followers agree whatever they lack",
        class: Class::NeverWoken,
        plant: Plant::Hook(&["raft/src/consensus/quiesce.rs", "raft/src/consensus/quiesce_leader.rs"]),
        exposed_by: "The news of the last commit is lost on its way to a follower, and then nobody asks for anything: replicas at rest \
                     differ for good.",
        profiles: &[Profile::Ring, Profile::Storm],
    },
    Mutant {
        name: "replica-id-reused-on-return",
        description: "a replica's id is made of its group and node, so that a node that gets a group back gets the old id",
        class: Class::IdentityReused,
        plant: Plant::Hook(&["raft/src/model/ring/change.rs"]),
        exposed_by: "A node that gives a group up and gets it back: its weight is taken away and given back, or it was dead for long.",
        profiles: &[Profile::Ring],
    },
    Mutant {
        name: "move-two-replicas-at-once",
        description: "a group of which two replicas are to be elsewhere has both replaced in one change",
        class: Class::MovedTooMuch,
        plant: Plant::Hook(&["raft/src/model/ring/table.rs"]),
        exposed_by: "A new target by which a group is on two other nodes: several join at a time, or weights change by much.",
        profiles: &[Profile::Ring],
    },
    Mutant {
        name: "serve-under-an-old-epoch",
        description: "a front does not say which epoch of the ring it goes by, and so is served under any",
        class: Class::EpochIgnored,
        plant: Plant::Hook(&["node/src/ring/front.rs"]),
        exposed_by: "A call through a node that has not heard of a move yet, just after the group has.",
        profiles: &[Profile::Ring],
    },
    Mutant {
        name: "log-time-stops-in-an-idle-group",
        description: "log time is that of the last entry, so that it passes only while there are entries",
        class: Class::TimeStopped,
        plant: Plant::Hook(&["raft/src/consensus/state.rs"]),
        exposed_by: "A key with a time to live in a group of which nothing is asked: it is still there when it should be gone.",
        profiles: &[Profile::Ring, Profile::Storm],
    },
    Mutant {
        name: "deny-what-was-done",
        description: "a change that was made and that this node does not see yet is told as refused for want of a quorum",
        class: Class::DeniedThoughDone,
        plant: Plant::Hook(&["node/src/service/mod.rs"]),
        exposed_by: "A follower that lacks an entry for long, since a message with it was lost, while it is asked to change something: others \
                     read the value of a write that was refused.",
        profiles: &[Profile::Network, Profile::Swarm],
    },
    Mutant {
        name: "start-without-asking",
        description: "a container is started once it is made, without a look at the lease",
        class: Class::TakenBackInVain,
        plant: Plant::Hook(&["node/src/operations/containers.rs"]),
        exposed_by: "A node that is cut off while it brings an image: it starts what another may be doing by then, or nobody wants any \
                     more.",
        profiles: &[Profile::Runs],
    },
    Mutant {
        name: "move-before-the-lease-ended",
        description: "a part under way on a node that is not heard of goes to another one at once",
        class: Class::LeaseOutlived,
        plant: Plant::Hook(&["node/model/src/operations/record.rs"]),
        exposed_by: "A node that is cut off, stands still or dies between the start of a container and the record of it: another one runs                      while the lease still holds under which the first was started.",
        profiles: &[Profile::Runs],
    },
    Mutant {
        name: "remove-what-counts",
        description: "a node that looks after its containers now and then removes one that should run",
        class: Class::WantedRemoved,
        plant: Plant::Hook(&["node/src/engines/caretaker.rs"]),
        exposed_by: "Any run that is kept up: it never comes to rest.",
        profiles: &[Profile::Containers, Profile::Swarm],
    },
    Mutant {
        name: "cancel-is-forgotten",
        description: "a part that was cancelled is given to whoever claims it again",
        class: Class::TakenBackInVain,
        plant: Plant::Hook(&["node/model/src/operations/table.rs"]),
        exposed_by: "An operation that is cancelled while its node is at it: the node hears that its lease is lost, claims again, and begins                      anew.",
        profiles: &[Profile::Containers, Profile::Swarm],
    },
];

/// Why a bug can not be planted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MutantError {
    #[error("there is no planted bug {name:?}{}", .nearest.map(|near| format!("; did you mean {near}?")).unwrap_or_default())]
    Unknown { name: String, nearest: Option<&'static str> },
    /// Build with the feature.
    #[error("this build has no hook for {0}; {BUILD_HINT}")]
    NotBuilt(&'static str),
}

/// Looks a planted bug up, and whether this build has it.
pub fn find(name: &str) -> Result<&'static Mutant, MutantError> {
    let Some(found) = MUTANTS.iter().find(|mutant| mutant.name == name) else {
        let distance = |mutant: &&Mutant| strsim::damerau_levenshtein(mutant.name, name);
        let nearest = MUTANTS.iter().min_by_key(distance).filter(|near| distance(near) <= name.len() / 2);
        return Err(MutantError::Unknown { name: name.to_owned(), nearest: nearest.map(|near| near.name) });
    };
    if found.needs_feature() && !hooks_are_built() {
        return Err(MutantError::NotBuilt(found.name));
    }
    Ok(found)
}

/// Whether this build contains the hooks.
pub const fn hooks_are_built() -> bool {
    cfg!(feature = "mutants")
}

/// Plants a bug, or none, on this thread's run. To be called before any node starts: a bug is in the program from the start, on all
/// hosts alike. [`Plant::Wipe`] is left to the world, and the network's come with [`tamper`].
pub fn plant(name: Option<&str>, disks: &[HostDisk]) -> Result<(), MutantError> {
    let found = name.map(find).transpose()?;
    let (mut in_disks, mut hook) = (None, None);
    match found.map(|mutant| (mutant.name, mutant.plant)) {
        Some((_, Plant::Disk(mutant))) => in_disks = Some(mutant),
        Some((name, Plant::Hook(_))) => hook = Some(name),
        Some((_, Plant::Wipe | Plant::Network(_))) | None => {}
    }
    disks.iter().for_each(|disk| disk.set_mutant(in_disks));
    select(hook);
    Ok(())
}

/// Falsifies replies from now on, if that is the bug. To be called when the fleet has formed: one that never forms shows nothing.
pub fn tamper(name: Option<&str>, fabric: &Fabric) -> Result<(), MutantError> {
    let found = name.map(find).transpose()?;
    fabric.set_tamper(match found.map(|mutant| mutant.plant) {
        Some(Plant::Network(tamper)) => Some(tamper),
        _ => None,
    });
    Ok(())
}

#[cfg(feature = "mutants")]
fn select(hook: Option<&'static str>) {
    longshore_storage::mutant::select(hook);
}

#[cfg(not(feature = "mutants"))]
fn select(hook: Option<&'static str>) {
    assert!(hook.is_none(), "find refuses what is not built");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Files of production code that name each hook.
    fn hooks() -> BTreeSet<(String, String)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a crate lies in the workspace");
        let mut dirs: Vec<_> =
            ["storage/src", "raft/src", "node/model/src", "node/src"].map(|dir| root.join(dir)).into();
        let mut found = BTreeSet::new();
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(&dir).expect("a folder of sources").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
                let file =
                    path.strip_prefix(root).expect("it is below the root").to_string_lossy().into_owned();
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                for name in code.filter_map(|line| line.split_once("mutant!(\"")?.1.split('"').next()) {
                    found.insert((name.to_owned(), file.clone()));
                }
            }
        }
        found
    }

    #[test]
    fn every_hook_is_on_the_list_and_the_other_way_round() {
        let mut listed = BTreeSet::new();
        for mutant in MUTANTS {
            if let Plant::Hook(files) = mutant.plant {
                listed.extend(files.iter().map(|file| (mutant.name.to_owned(), (*file).to_owned())));
            }
        }
        assert_eq!(hooks(), listed);
    }

    #[test]
    fn names_are_unique_and_each_is_looked_for_somewhere() {
        let names: BTreeSet<_> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), MUTANTS.len());
        assert!(MUTANTS.iter().all(|mutant| !mutant.profiles.is_empty() && !mutant.exposed_by.is_empty()));
    }

    #[test]
    fn what_can_not_be_planted_is_said() {
        let unknown = find("acknowlege-before-sync").unwrap_err();
        assert!(unknown.to_string().ends_with("did you mean acknowledge-before-sync?"), "{unknown}");
        assert_eq!(find("x").unwrap_err().to_string(), "there is no planted bug \"x\"");
        let built = find("read-by-lease");
        if hooks_are_built() {
            assert!(built.is_ok());
        } else {
            assert!(built.unwrap_err().to_string().contains("--features mutants"));
        }
        assert!(find(REUSE_REPLICA_ID).is_ok());
    }
}
