//! Profiles: which kinds of faults happen, how often, and to what kind of fleet.

use serde::{Deserialize, Serialize};

use super::episodes::Kind;

/// What a run is about.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// Nothing but light latency: what a run costs, and that it works at all
    Calm,
    /// Partitions of every shape, loss, delay, duplicates, messages held back
    Network,
    /// Slow syncs, errors, full disks, loss of power, rot
    Disk,
    /// Joins, leaves, removals, wiped hosts that come back
    Membership,
    /// Clocks that drift and step, processes that stand still
    Clock,
    /// Engines that are down, hang, fail, lie, crash, forget
    Containers,
    /// Containers on engines that are well and take their time, while hosts are cut off, stand still, die
    Runs,
    /// Everything, the kinds of faults and every parameter drawn from the seed
    #[default]
    Swarm,
    /// Groups of the ring that move: joins, leaves, other weights, removals, deaths, partitions
    Ring,
    /// One of five dies, while all groups rest or while all are busy
    Storm,
}

impl Profile {
    pub const ALL: [Self; 10] = [
        Self::Calm,
        Self::Network,
        Self::Disk,
        Self::Membership,
        Self::Clock,
        Self::Containers,
        Self::Runs,
        Self::Swarm,
        Self::Ring,
        Self::Storm,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Network => "network",
            Self::Disk => "disk",
            Self::Membership => "membership",
            Self::Clock => "clock",
            Self::Containers => "containers",
            Self::Runs => "runs",
            Self::Swarm => "swarm",
            Self::Ring => "ring",
            Self::Storm => "storm",
        }
    }

    /// Whether clients use keys of the ring.
    pub const fn uses_ring(self) -> bool {
        matches!(self, Self::Ring | Self::Storm)
    }

    /// Kinds of faults, and how often each comes in two minutes on average; thousandths. Swarm draws its own.
    pub(super) const fn kinds(self) -> &'static [(Kind, u64)] {
        match self {
            // A storm is drawn as a whole.
            Self::Calm | Self::Swarm | Self::Storm => &[],
            Self::Ring => &[
                (Kind::Weigh, 1_500),
                (Kind::RingHands, 1_000),
                (Kind::LongDeath, 1_000),
                (Kind::Kill, 1_500),
                (Kind::Restart, 1_500),
                (Kind::PowerLoss, 1_000),
                (Kind::Leave, 700),
                (Kind::Remove, 500),
                (Kind::Wipe, 700),
                (Kind::Isolate, 1_000),
                (Kind::Split, 700),
                (Kind::OneWay, 500),
                (Kind::Delay, 500),
                (Kind::Loss, 300),
                (Kind::Pause, 500),
            ],
            Self::Network => &[
                (Kind::Split, 2_000),
                (Kind::Isolate, 2_500),
                (Kind::OneWay, 2_000),
                (Kind::Bridge, 1_000),
                (Kind::Flap, 1_000),
                (Kind::Loss, 1_500),
                (Kind::Delay, 1_500),
                (Kind::Jitter, 1_000),
                (Kind::Duplicate, 1_000),
                (Kind::HoldBack, 2_000),
                (Kind::Kill, 1_000),
            ],
            Self::Disk => &[
                (Kind::PowerLoss, 2_500),
                (Kind::PowerLossSeveral, 1_500),
                (Kind::PowerLossAll, 1_000),
                (Kind::SlowDisk, 2_000),
                (Kind::FullDisk, 1_500),
                (Kind::FailSync, 1_000),
                (Kind::FailRead, 1_500),
                (Kind::Rot, 600),
                (Kind::Kill, 1_500),
                (Kind::CrashLoop, 500),
            ],
            Self::Membership => &[
                (Kind::Leave, 1_500),
                (Kind::Remove, 1_000),
                (Kind::Wipe, 1_500),
                (Kind::Drain, 1_000),
                (Kind::Restart, 1_500),
                (Kind::Kill, 1_500),
                (Kind::Isolate, 1_000),
                (Kind::Split, 500),
            ],
            Self::Clock => &[
                (Kind::StepWall, 4_000),
                (Kind::Drift, 4_000),
                (Kind::Pause, 3_000),
                (Kind::Kill, 1_000),
                (Kind::Isolate, 500),
            ],
            Self::Containers => &[
                (Kind::EngineDown, 2_500),
                (Kind::EngineTrouble, 5_000),
                (Kind::EngineForgets, 2_000),
                (Kind::EngineCalls, 3_000),
                (Kind::Kill, 2_000),
                (Kind::Pause, 1_000),
                (Kind::Isolate, 1_000),
            ],
            Self::Runs => &[
                (Kind::Isolate, 4_000),
                (Kind::Split, 1_000),
                (Kind::OneWay, 1_000),
                (Kind::Pause, 1_500),
                (Kind::Kill, 1_500),
                (Kind::Restart, 700),
                (Kind::Drain, 1_500),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn names_are_those_of_the_command_line_and_of_files() {
        assert_eq!(Profile::value_variants(), Profile::ALL);
        for profile in Profile::ALL {
            assert_eq!(profile.to_possible_value().unwrap().get_name(), profile.name());
            assert_eq!(serde_json::to_value(profile).unwrap(), profile.name());
        }
    }
}
