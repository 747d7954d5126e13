//! Joining, over both transports.

use longshore_raft::transport::join::JoinError;

use super::*;

const KINDS: [TransportKind; 2] = [TransportKind::Memory, TransportKind::Quic];

/// A fleet of one on host 1, and a joiner on host 2.
async fn join(
    world: &World,
    seeds: &[HostId],
    authority: [u8; 32],
    body: &'static str,
) -> Result<Bytes, JoinError> {
    let joiner = context("h2", SEED);
    let seeds = seeds.iter().map(|host| Fabric::address(*host).to_string()).collect();
    let port = joiner.enter(|| network_port(world.kind, &world.fabric, 2));
    let asked = joiner.enter(|| port.join(seeds, authority, body.into()));
    crate::runtime::spawn_in(&joiner, asked).await.expect("the joiner lives")
}

fn with_fleet(test: impl AsyncFn(&World, [u8; 32])) {
    for kind in KINDS {
        traced(SEED, async || {
            let world = World::plain(kind);
            let _node = world.start_on(1, 1, Probe::echo());
            test(&world, world.authority.fingerprint()).await;
        });
    }
}

#[test]
fn a_joiner_is_heard_by_the_first_seed_that_answers() {
    with_fleet(async |world, authority| {
        let reply = join(world, &[9, 1], authority, "me").await.unwrap();
        assert_eq!(reply, "me from 10.0.0.2");
    });
}

#[test]
fn refusals_and_strangers_are_told() {
    with_fleet(async |world, authority| {
        let refused = join(world, &[1], authority, "no").await;
        assert!(matches!(&refused, Err(JoinError::Refused(why)) if why == "not you"), "{refused:?}");
        let stranger = join(world, &[1], [9; 32], "me").await;
        let found = |e: &JoinError| matches!(e, JoinError::CaMismatch { found, .. } if *found == authority);
        assert!(stranger.as_ref().is_err_and(found), "{stranger:?}");
        let nobody = join(world, &[8, 9], authority, "me").await;
        assert!(matches!(&nobody, Err(JoinError::Unreachable(tried)) if tried.len() == 2), "{nobody:?}");
        let nowhere = join(world, &[], authority, "me").await;
        assert!(matches!(nowhere, Err(JoinError::Protocol(_))), "{nowhere:?}");
    });
}

#[test]
fn an_undecided_join_has_an_unknown_outcome() {
    with_fleet(async |world, authority| {
        let undecided = join(world, &[1], authority, "never").await;
        assert!(matches!(undecided, Err(JoinError::NoReply { .. })), "{undecided:?}");
    });
}
