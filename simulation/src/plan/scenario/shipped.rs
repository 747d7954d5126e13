//! Scenarios that are part of this program, so that they can be named from anywhere.

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../scenarios/", $name, ".toml")))),*]
    };
}

/// Name and text.
pub const SHIPPED: &[(&str, &str)] = shipped![
    "all-lose-power",
    "clock-an-hour-off",
    "follower-rot",
    "full-disk",
    "join-during-partition",
    "leader-power-loss",
    "minority-deaf",
    "one-way-link",
    "pull-while-leader-dies",
    "rolling-restart",
    "slow-disk",
    "wiped-rejoins",
];
