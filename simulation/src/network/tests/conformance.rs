//! Both simulated transports against the conformance suite of the real ones, each rule in a run of its own.

use longshore_raft::transport::conformance;

use super::*;

macro_rules! memory {
    ($($rule:ident)*) => { $(
        #[test]
        fn $rule() {
            traced(SEED, async || conformance::$rule(&World::plain(TransportKind::Memory)).await);
        }
    )* };
}

macro_rules! quic {
    ($($rule:ident)*) => { $(
        #[test]
        fn $rule() {
            traced(SEED, async || conformance::$rule(&World::plain(TransportKind::Quic)).await);
        }
    )* };
}

mod memory {
    use super::*;

    longshore_raft::transport_rules!(messages, memory);
    // What needs no connections of those that are about them.
    memory! {
        replies_over_the_limit_are_no_refusals
        too_many_requests_are_turned_away
        closing_fails_what_waits
    }
}

mod quic {
    use super::*;

    longshore_raft::transport_rules!(all, quic);
}
