//! Separate streams of chance from one seed, so that drawing more from one does not change another.

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// A generator for the stream `name` of `seed`. Distinct names give independent streams.
pub fn stream(seed: u64, name: &str) -> SmallRng {
    let mut hasher = blake3::Hasher::new_derive_key("longshore 2026-11 simulation random stream");
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    SmallRng::from_seed(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn streams_are_their_own() {
        let draw = |seed, name| stream(seed, name).random::<u64>();
        assert_eq!(draw(1, "network"), draw(1, "network"));
        assert_ne!(draw(1, "network"), draw(1, "disk"));
        assert_ne!(draw(1, "network"), draw(2, "network"));
    }
}
