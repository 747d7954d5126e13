//! A bit mixer for hashes and test seeds. Not cryptographic.

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit moves about half of the output bits.
pub(crate) fn mix64(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
