//! Frames on a lane's stream: a fixed header, then the body. Pure.
//!
//! ```text
//! length of the body: u32 | key: u32 | request id: u64 | kind: u8 | body
//! ```
//!
//! Big endian. A length is checked against the lane's limit before anything is allocated for it, and memory then grows
//! with what has really arrived. Must never: read past a frame, or keep more than one unfinished frame.

use bytes::{Buf, BufMut, Bytes, BytesMut};

pub(super) const HEADER_BYTES: usize = 17;

/// Reasons are for people to read; longer ones are cut.
pub(super) const REASON_MAX_BYTES: usize = 1 << 10;

/// What is set aside at first for a body that spans several chunks, however long it says it is.
const BODY_CHUNK_BYTES: usize = 64 << 10;

/// Bodies up to this size are copied next to their headers: cheaper than a chunk of their own.
const COPY_MAX_BYTES: usize = 1 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Request,
    Reply,
    /// The handler refused; the body is the reason.
    Refusal,
    /// The handler answered, but the answer cannot be sent; the body is the reason.
    NoReply,
}

impl Kind {
    fn from_wire(byte: u8) -> Option<Self> {
        [Kind::Request, Kind::Reply, Kind::Refusal, Kind::NoReply].into_iter().find(|k| *k as u8 == byte)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    /// The key of an append lane; 0 on others and in answers.
    pub(super) key: u32,
    /// Chosen by the requester, never twice on a lane; answers carry it back.
    pub(super) id: u64,
    pub(super) body: Bytes,
}

/// What a peer of the same version never sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {len} bytes is over the lane's limit of {limit} bytes")]
    TooLong { len: usize, limit: usize },
    #[error("unknown kind of frame {0}")]
    UnknownKind(u8),
}

#[derive(Debug, Clone, Copy)]
struct Header {
    len: usize,
    key: u32,
    id: u64,
    kind: Kind,
}

/// Takes frames out of the chunks of a stream.
#[derive(Debug)]
pub(super) struct Decoder {
    limit: usize,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    /// The frame whose body is incomplete. Invariant: `body.len() < header.len`.
    partial: Option<(Header, BytesMut)>,
}

impl Decoder {
    /// `limit`: most bytes of a body.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, header: [0; HEADER_BYTES], header_filled: 0, partial: None }
    }

    /// Takes the next frame out of `input`, as far as it reaches. `None` means that `input` is used up. After an error
    /// the stream is of no more use.
    pub(super) fn next(&mut self, input: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        let (header, mut body) = match self.partial.take() {
            Some(partial) => partial,
            None => {
                let Some(header) = self.read_header(input)? else { return Ok(None) };
                if input.len() >= header.len {
                    return Ok(Some(frame(header, input.split_to(header.len))));
                }
                (header, BytesMut::with_capacity(header.len.min(BODY_CHUNK_BYTES)))
            }
        };
        let take = input.len().min(header.len - body.len());
        body.extend_from_slice(&input[..take]);
        input.advance(take);
        if body.len() < header.len {
            self.partial = Some((header, body));
            return Ok(None);
        }
        Ok(Some(frame(header, body.freeze())))
    }

    /// Whether the stream may end here.
    pub(super) fn at_boundary(&self) -> bool {
        self.header_filled == 0 && self.partial.is_none()
    }

    fn read_header(&mut self, input: &mut Bytes) -> Result<Option<Header>, FrameError> {
        let take = input.len().min(HEADER_BYTES - self.header_filled);
        self.header[self.header_filled..self.header_filled + take].copy_from_slice(&input[..take]);
        input.advance(take);
        self.header_filled += take;
        if self.header_filled < HEADER_BYTES {
            return Ok(None);
        }
        self.header_filled = 0;
        let mut bytes = &self.header[..];
        let (len, key, id, kind) =
            (bytes.get_u32() as usize, bytes.get_u32(), bytes.get_u64(), bytes.get_u8());
        if len > self.limit {
            return Err(FrameError::TooLong { len, limit: self.limit });
        }
        let kind = Kind::from_wire(kind).ok_or(FrameError::UnknownKind(kind))?;
        Ok(Some(Header { len, key, id, kind }))
    }
}

fn frame(header: Header, body: Bytes) -> Frame {
    Frame { kind: header.kind, key: header.key, id: header.id, body }
}

/// Frames on their way out, gathered so that one write takes them all.
#[derive(Debug, Default)]
pub(super) struct Batch {
    headers: BytesMut,
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    /// Puts raw bytes in front of what follows (the lane header of a new stream).
    pub(super) fn push_raw(&mut self, bytes: &[u8]) {
        self.headers.put_slice(bytes);
        self.bytes += bytes.len();
    }

    pub(super) fn push(&mut self, kind: Kind, key: u32, id: u64, body: Bytes) {
        let len = u32::try_from(body.len()).expect("lane limits are far below 4 GiB, and were checked");
        self.headers.reserve(HEADER_BYTES + body.len().min(COPY_MAX_BYTES));
        self.headers.put_u32(len);
        self.headers.put_u32(key);
        self.headers.put_u64(id);
        self.headers.put_u8(kind as u8);
        self.bytes += HEADER_BYTES + body.len();
        if body.len() <= COPY_MAX_BYTES {
            self.headers.put_slice(&body);
        } else {
            self.chunks.push(self.headers.split().freeze());
            self.chunks.push(body);
        }
    }

    /// Bytes gathered since the last [`Batch::chunks`].
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What is to be written; the batch is empty afterwards but for the chunks handed out, which `clear` drops.
    pub(super) fn chunks(&mut self) -> &mut [Bytes] {
        if !self.headers.is_empty() {
            self.chunks.push(self.headers.split().freeze());
        }
        self.bytes = 0;
        &mut self.chunks
    }

    pub(super) fn clear(&mut self) {
        self.chunks.clear();
    }
}

/// Cuts a reason to what a frame may carry, at a character's boundary.
pub(super) fn reason_bytes(reason: String) -> Bytes {
    let mut end = reason.len().min(REASON_MAX_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut bytes = reason.into_bytes();
    bytes.truncate(end);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 4096;

    fn decode_all(
        decoder: &mut Decoder,
        mut chunk: Bytes,
        frames: &mut Vec<Frame>,
    ) -> Result<(), FrameError> {
        while let Some(frame) = decoder.next(&mut chunk)? {
            frames.push(frame);
        }
        assert!(chunk.is_empty(), "the decoder left input behind");
        Ok(())
    }

    fn encode(frames: &[Frame]) -> Bytes {
        let mut batch = Batch::default();
        for f in frames {
            batch.push(f.kind, f.key, f.id, f.body.clone());
        }
        let len = batch.len();
        let bytes = batch.chunks().concat();
        assert_eq!(bytes.len(), len);
        bytes.into()
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let kind =
            prop_oneof![Just(Kind::Request), Just(Kind::Reply), Just(Kind::Refusal), Just(Kind::NoReply)];
        (kind, any::<u32>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..LIMIT))
            .prop_map(|(kind, key, id, body)| Frame { kind, key, id, body: body.into() })
    }

    proptest! {
        #[test]
        fn frames_survive_any_chopping(frames in proptest::collection::vec(any_frame(), 0..8),
                                       cuts in proptest::collection::vec(1usize..600, 1..64)) {
            let mut wire = encode(&frames);
            let (mut decoder, mut out, mut cuts) = (Decoder::new(LIMIT), Vec::new(), cuts.into_iter().cycle());
            while !wire.is_empty() {
                let cut = cuts.next().unwrap().min(wire.len());
                decode_all(&mut decoder, wire.split_to(cut), &mut out).unwrap();
            }
            prop_assert_eq!(out, frames);
            prop_assert!(decoder.at_boundary());
        }

        #[test]
        fn noise_never_panics_nor_grows(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = Decoder::new(LIMIT);
            let mut out = Vec::new();
            for chunk in noise.chunks(7) {
                if decode_all(&mut decoder, Bytes::copy_from_slice(chunk), &mut out).is_err() {
                    break;
                }
            }
            prop_assert!(out.iter().all(|f| f.body.len() <= LIMIT));
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_is_set_aside() {
        let mut wire = BytesMut::new();
        wire.put_u32(u32::MAX);
        wire.put_bytes(0, HEADER_BYTES - 4);
        let refused = Decoder::new(LIMIT).next(&mut wire.freeze());
        assert_eq!(refused, Err(FrameError::TooLong { len: u32::MAX as usize, limit: LIMIT }));
    }

    #[test]
    fn memory_grows_with_what_arrived_not_with_what_was_announced() {
        let mut decoder = Decoder::new(64 << 20);
        let mut wire = BytesMut::new();
        wire.put_u32(64 << 20);
        wire.put_bytes(0, HEADER_BYTES - 4);
        wire.put_bytes(7, 100);
        assert_eq!(decoder.next(&mut wire.freeze()), Ok(None));
        let (_, body) = decoder.partial.as_ref().unwrap();
        assert!(body.capacity() <= BODY_CHUNK_BYTES, "{} bytes set aside for 100", body.capacity());
        assert!(!decoder.at_boundary());
    }

    #[test]
    fn unknown_kinds_are_refused() {
        let mut wire = encode(&[Frame { kind: Kind::Request, key: 0, id: 1, body: Bytes::new() }]).to_vec();
        wire[HEADER_BYTES - 1] = 9;
        assert_eq!(Decoder::new(LIMIT).next(&mut wire.into()), Err(FrameError::UnknownKind(9)));
    }

    #[test]
    fn reasons_are_cut_at_a_character() {
        assert_eq!(reason_bytes("short".into()), Bytes::from_static(b"short"));
        let long = reason_bytes("é".repeat(REASON_MAX_BYTES));
        assert!(long.len() <= REASON_MAX_BYTES && std::str::from_utf8(&long).is_ok());
        let odd = reason_bytes(format!("x{}", "é".repeat(REASON_MAX_BYTES)));
        assert!(odd.len() < REASON_MAX_BYTES && std::str::from_utf8(&odd).is_ok());
    }
}
