//! Separate streams of chance from one seed, so that drawing more from one does not change another.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::plan::Latency;

/// A generator for the stream `name` of `seed`. Distinct names give independent streams.
pub fn stream(seed: u64, name: &str) -> SmallRng {
    let mut hasher = blake3::Hasher::new_derive_key("longshore 2026-11 simulation random stream");
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    SmallRng::from_seed(*hasher.finalize().as_bytes())
}

/// How long one thing of this latency takes.
pub fn draw(random: &mut SmallRng, latency: &Latency) -> Duration {
    let Latency { min_us, max_us, tail_ppm, tail_us } = *latency;
    let is_in_tail = tail_ppm > 0 && random.random_range(0..1_000_000) < tail_ppm;
    Duration::from_micros(if is_in_tail { tail_us } else { random.random_range(min_us..=max_us.max(min_us)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_stay_in_their_range_or_are_the_tail() {
        let mut random = stream(1, "latency");
        let latency = Latency { tail_ppm: 100_000, tail_us: 9_000, ..Latency::even(10, 20) };
        let drawn: Vec<u64> = (0..1000).map(|_| draw(&mut random, &latency).as_micros() as u64).collect();
        assert!(drawn.iter().all(|us| (10..=20).contains(us) || *us == 9_000));
        let tail = drawn.iter().filter(|us| **us == 9_000).count();
        assert!((50..200).contains(&tail), "{tail}");
        assert_eq!(draw(&mut random, &Latency::even(5, 5)).as_micros(), 5);
    }

    #[test]
    fn streams_are_their_own() {
        let draw = |seed, name| stream(seed, name).random::<u64>();
        assert_eq!(draw(1, "network"), draw(1, "network"));
        assert_ne!(draw(1, "network"), draw(1, "disk"));
        assert_ne!(draw(1, "network"), draw(2, "network"));
    }
}
