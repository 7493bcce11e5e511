//! The seeded generator behind resampling: SplitMix64 ("Fast splittable pseudorandom number generators",
//! Steele, Lea and Flood, OOPSLA 2014). Statistics need no more, and this crate depends on no stage that has one.

/// A generator of 64-bit numbers; equal seeds give equal streams on every machine.
#[derive(Debug, Clone)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// A generator at the start of `seed`'s stream.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A generator for one named thing under a run's seed, the same whatever came before it (FNV-1a of the name).
    pub fn keyed(seed: u64, name: &str) -> Self {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let mut mixed = Self::new(seed ^ hash);
        Self::new(mixed.next_u64())
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [0, 1), a multiple of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in 0..`bound`, which must be at least 1; without bias, by rejection.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let draw = self.next_u64();
            if draw < limit {
                return (draw % bound) as usize;
            }
        }
    }

    /// Moves `k` of the elements, drawn without replacement, to the front in random order.
    pub fn draw_to_front<T>(&mut self, elements: &mut [T], k: usize) {
        for place in 0..k.min(elements.len()) {
            let other = place + self.below(elements.len() - place);
            elements.swap(place, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First outputs for seed 1234567 as published with the reference implementation.
    #[test]
    fn stream_is_the_reference_stream() {
        let mut generator = SplitMix64::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| generator.next_u64()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn below_is_even_and_in_range() {
        let mut generator = SplitMix64::new(3);
        let mut counts = [0usize; 7];
        for _ in 0..70_000 {
            counts[generator.below(7)] += 1;
        }
        // Standard deviation of a count is about 93.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 450), "{counts:?}");
    }
}
