//! Which key is asked for next.

use rand::RngExt;
use rand::rngs::SmallRng;

/// Exponent of the Zipf distribution: that of YCSB (Cooper et al., SoCC 2010).
const ZIPF_EXPONENT: f64 = 0.99;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distribution {
    Uniform,
    Zipf,
    /// The first key only.
    Hot,
}

impl Distribution {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::Hot => "hot",
        }
    }
}

/// The name of a key by its number.
pub(super) fn name(number: u32) -> String {
    format!("key-{number:08}")
}

/// Draws numbers of keys.
#[derive(Debug)]
pub(super) enum KeyChooser {
    Uniform(u32),
    /// For each key the share of it and all before it, ascending to 1.
    Table(Vec<f64>),
    Hot,
}

impl KeyChooser {
    pub(super) fn new(distribution: Distribution, keys: u32) -> Self {
        assert!(keys > 0, "there is a key to choose");
        match distribution {
            Distribution::Uniform => Self::Uniform(keys),
            Distribution::Hot => Self::Hot,
            Distribution::Zipf => {
                let mut sum = 0.0;
                let mut table: Vec<f64> = (1..=keys)
                    .map(|rank| {
                        sum += f64::from(rank).powf(-ZIPF_EXPONENT);
                        sum
                    })
                    .collect();
                table.iter_mut().for_each(|share| *share /= sum);
                Self::Table(table)
            }
        }
    }

    pub(super) fn choose(&self, random: &mut SmallRng) -> u32 {
        match self {
            Self::Hot => 0,
            Self::Uniform(keys) => random.random_range(0..*keys),
            Self::Table(shares) => {
                let drawn: f64 = random.random();
                let index = shares.partition_point(|share| *share <= drawn);
                index.min(shares.len() - 1) as u32
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn counts(distribution: Distribution, keys: u32, draws: u32) -> Vec<u32> {
        let chooser = KeyChooser::new(distribution, keys);
        let mut random = SmallRng::seed_from_u64(7);
        let mut counts = vec![0; keys as usize];
        for _ in 0..draws {
            counts[chooser.choose(&mut random) as usize] += 1;
        }
        counts
    }

    #[test]
    fn uniform_and_hot() {
        let uniform = counts(Distribution::Uniform, 10, 100_000);
        assert!(uniform.iter().all(|count| (9_500..10_500).contains(count)), "{uniform:?}");
        assert_eq!(counts(Distribution::Hot, 3, 100), [100, 0, 0]);
        for distribution in [Distribution::Uniform, Distribution::Zipf] {
            assert_eq!(counts(distribution, 1, 10), [10]);
        }
    }

    #[test]
    fn zipf_follows_the_power_of_the_rank() {
        let zipf = counts(Distribution::Zipf, 1_000, 200_000);
        // The harmonic number of 1000 at exponent 0.99 is 7.7289.
        for rank in [1, 2, 10] {
            let expected = 200_000.0 * f64::from(rank).powf(-ZIPF_EXPONENT) / 7.7289;
            let got = f64::from(zipf[rank as usize - 1]);
            assert!((got / expected - 1.0).abs() < 0.05, "rank {rank}: {got} of {expected}");
        }
        assert!(zipf[900..].iter().sum::<u32>() > 0, "the tail is drawn from as well");
    }
}
