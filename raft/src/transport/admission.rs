//! Which of two connections between a pair of nodes stays. Pure.
//!
//! The dialler says hello with a stamp, the other side welcomes it with its own. Both sides decide by this one rule, on
//! what each has seen, so that of two dials at once exactly one is welcomed, and a node that lost its connection or was
//! restarted can replace one that is dead but not yet known to be.

use crate::model::ids::NodeId;

/// When, on a node's own count, it asked for or agreed to a connection. `incarnation` is drawn at random when the
/// transport starts; `sequence` grows with every stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
}

/// What is known of a peer when it asks to be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Down,
    Dialling,
    /// Connected; with the peer's stamp of that connection.
    Up(Stamp),
}

/// What becomes of a request to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    /// Our own dial goes first; decide again when it is settled.
    Wait,
    /// Overtaken by the connection in use.
    Void,
}

/// The rule by which two nodes that dial each other end up with one connection: of two dials under way, the lower node's
/// wins. A request to connect that was made before the connection in use came to be is void; a later one means that the
/// peer has lost that connection, if only by a restart.
pub(super) fn decide(me: NodeId, peer: NodeId, view: View, hello: Stamp, waited: bool) -> Verdict {
    match view {
        View::Up(used) if used.incarnation == hello.incarnation && hello.sequence < used.sequence => {
            Verdict::Void
        }
        View::Dialling if me < peer && !waited => Verdict::Wait,
        View::Up(_) | View::Dialling | View::Down => Verdict::Accept,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId(1);
    const HIGH: NodeId = NodeId(2);

    fn stamp(incarnation: u64, sequence: u64) -> Stamp {
        Stamp { incarnation, sequence }
    }

    #[test]
    fn who_may_connect() {
        let (yes, no, wait) = (Verdict::Accept, Verdict::Void, Verdict::Wait);
        let table = [
            ("nothing yet", LOW, HIGH, View::Down, stamp(1, 1), false, yes),
            ("the lower node's dial goes first", LOW, HIGH, View::Dialling, stamp(1, 1), false, wait),
            ("unless it takes too long", LOW, HIGH, View::Dialling, stamp(1, 1), true, yes),
            ("the higher node gives way", HIGH, LOW, View::Dialling, stamp(1, 1), false, yes),
            (
                "a dial from before the welcome is void",
                LOW,
                HIGH,
                View::Up(stamp(1, 6)),
                stamp(1, 5),
                false,
                no,
            ),
            ("however long it waited", LOW, HIGH, View::Up(stamp(1, 6)), stamp(1, 5), true, no),
            ("the peer lost the connection", LOW, HIGH, View::Up(stamp(1, 6)), stamp(1, 7), false, yes),
            ("the peer restarted", LOW, HIGH, View::Up(stamp(1, 6)), stamp(2, 1), false, yes),
            ("the peer restarted, higher", HIGH, LOW, View::Up(stamp(1, 6)), stamp(2, 1), false, yes),
        ];
        for (what, me, peer, view, hello, waited, expected) in table {
            assert_eq!(decide(me, peer, view, hello, waited), expected, "{what}");
        }
    }

    #[test]
    fn two_dials_never_both_wait_nor_both_go_ahead() {
        let hello = stamp(1, 1);
        let low = decide(LOW, HIGH, View::Dialling, hello, false);
        let high = decide(HIGH, LOW, View::Dialling, hello, false);
        assert_eq!((low, high), (Verdict::Wait, Verdict::Accept));
    }
}
