//! Lanes as streams: which stream carries a lane, at what priority, within what limits. Pure.

use super::{APPEND_STREAMS, Lane};

/// Streams that one node opens to another: one for heartbeats, one for control, the append streams, one for bulk.
pub(super) const STREAMS: usize = 3 + APPEND_STREAMS as usize;

/// First bytes of a lane's stream: `L`, the version of the framing, the lane, the append stream.
pub(super) const LANE_HEADER_BYTES: usize = 4;
const MAGIC: u8 = b'L';
const FRAMING_VERSION: u8 = 1;

/// What may wait on one stream, in each direction.
#[derive(Debug, Clone, Copy)]
pub(super) struct LaneLimits {
    /// Requests without an answer.
    pub(super) requests: usize,
    /// Bytes of their bodies, at the requester not yet written, at the answerer not yet answered; and bytes of answers
    /// not yet written.
    pub(super) bytes: usize,
}

/// One of the streams, in the order of their priorities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamIndex(usize);

impl StreamIndex {
    pub(super) fn of(lane: Lane) -> Self {
        match lane {
            Lane::Heartbeat => Self(0),
            Lane::Control => Self(1),
            Lane::Append { key } => Self(2 + (key % APPEND_STREAMS) as usize),
            Lane::Bulk => Self(STREAMS - 1),
        }
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..STREAMS).map(Self)
    }

    pub(super) fn get(self) -> usize {
        self.0
    }

    /// The lane of a request with this key on this stream; `None` if the key does not belong here.
    pub(super) fn lane(self, key: u32) -> Option<Lane> {
        let lane = match self.0 {
            0 => Lane::Heartbeat,
            1 => Lane::Control,
            i if i == STREAMS - 1 => Lane::Bulk,
            _ => Lane::Append { key },
        };
        let fits = matches!(lane, Lane::Append { .. }) || key == 0;
        (fits && Self::of(lane) == self).then_some(lane)
    }

    /// Most bytes of one body.
    pub(super) fn max_body_bytes(self) -> usize {
        self.any_lane().max_body_bytes()
    }

    /// quinn's stream priority: higher goes first.
    pub(super) fn priority(self) -> i32 {
        match self.any_lane() {
            Lane::Heartbeat => 3,
            Lane::Control => 2,
            Lane::Append { .. } => 1,
            Lane::Bulk => 0,
        }
    }

    pub(super) fn limits(self) -> LaneLimits {
        let lane = self.any_lane();
        let bytes = match lane {
            Lane::Heartbeat => 1 << 20,
            Lane::Control => 32 << 20,
            Lane::Append { .. } | Lane::Bulk => 64 << 20,
        };
        LaneLimits { requests: lane.max_unanswered(), bytes }
    }

    pub(super) fn header(self) -> [u8; LANE_HEADER_BYTES] {
        let (lane, stream) = match self.any_lane() {
            Lane::Heartbeat => (0, 0),
            Lane::Control => (1, 0),
            Lane::Append { key } => (2, key as u8),
            Lane::Bulk => (3, 0),
        };
        [MAGIC, FRAMING_VERSION, lane, stream]
    }

    pub(super) fn from_header(header: [u8; LANE_HEADER_BYTES]) -> Option<Self> {
        Self::all().find(|s| s.header() == header)
    }

    /// The lane, with the smallest key that comes here.
    fn any_lane(self) -> Lane {
        match self.0 {
            0 => Lane::Heartbeat,
            1 => Lane::Control,
            i if i == STREAMS - 1 => Lane::Bulk,
            i => Lane::Append { key: i as u32 - 2 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_its_stream_and_comes_back_from_it() {
        let mut lanes = vec![Lane::Heartbeat, Lane::Control, Lane::Bulk];
        lanes.extend((0..20).map(|key| Lane::Append { key }));
        for lane in lanes {
            let stream = StreamIndex::of(lane);
            let key = if let Lane::Append { key } = lane { key } else { 0 };
            assert_eq!(stream.lane(key), Some(lane));
            assert_eq!(StreamIndex::from_header(stream.header()), Some(stream));
            assert_eq!(stream.max_body_bytes(), lane.max_body_bytes());
            assert!(stream.limits().bytes >= lane.max_body_bytes(), "a largest body would never fit");
        }
        let priorities: Vec<i32> = StreamIndex::all().map(StreamIndex::priority).collect();
        assert!(priorities.is_sorted_by(|a, b| a >= b), "{priorities:?}");
    }

    #[test]
    fn keys_and_headers_that_belong_elsewhere_are_refused() {
        assert_eq!(StreamIndex::of(Lane::Heartbeat).lane(1), None);
        assert_eq!(StreamIndex::of(Lane::Bulk).lane(7), None);
        assert_eq!(StreamIndex::of(Lane::Append { key: 1 }).lane(2), None);
        for header in
            [*b"XXXX", [b'L', 2, 0, 0], [b'L', 1, 4, 0], [b'L', 1, 2, APPEND_STREAMS as u8], [b'L', 1, 0, 1]]
        {
            assert_eq!(StreamIndex::from_header(header), None, "{header:?}");
        }
    }
}
