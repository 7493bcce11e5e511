//! Counter-based random numbers: Philox4x32-10, keyed by what a number is for.
//!
//! A generator is named by a key such as (seed, step, prompt, sample), so any rollout can be
//! replayed alone, in any order, on any number of threads.
//! Source: "Parallel Random Numbers: As Easy as 1, 2, 3" (Salmon et al., SC 2011).

/// A counter-based generator; cheap to make, copies continue independently from the same place.
#[derive(Debug, Clone)]
pub struct Rng {
    key: [u32; 2],
    stream: u64,
    counter: u64,
    block: [u32; 4],
    used: usize,
}

impl Rng {
    /// The generator of a key. Keys of different length or content give unrelated streams.
    pub fn keyed(key: &[u64]) -> Self {
        // Two independent 64-bit digests of the key name the Philox key and the upper counter.
        let (mut a, mut b) = (0x9e37_79b9_7f4a_7c15_u64, 0xd1b5_4a32_d192_ed03_u64);
        for &word in key.iter().chain(std::iter::once(&(key.len() as u64))) {
            a = mix(a ^ word);
            b = mix(b.rotate_left(23) ^ word.wrapping_mul(0xff51_afd7_ed55_8ccd));
        }
        Self { key: [a as u32, (a >> 32) as u32], stream: b, counter: 0, block: [0; 4], used: 4 }
    }

    /// 32 uniform bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let counter =
                [self.counter as u32, (self.counter >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32];
            self.block = philox(counter, self.key);
            self.counter += 1;
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1) with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in (0, 1): never either end, so its logarithm is finite.
    pub fn open_uniform(&mut self) -> f64 {
        ((self.next_u64() >> 12) as f64 + 0.5) * (1.0 / (1u64 << 52) as f64)
    }

    /// Uniform in 0..n without bias. `n` must not be 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "an empty range has no member");
        let limit = u64::MAX - u64::MAX % n;
        loop {
            let x = self.next_u64();
            if x < limit {
                return x % n;
            }
        }
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.open_uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Standard Gumbel, -ln(-ln u).
    pub fn gumbel(&mut self) -> f64 {
        -(-self.open_uniform().ln()).ln()
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// The finaliser of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn philox(mut c: [u32; 4], mut k: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xd251_1f53;
        let p1 = u64::from(c[2]) * 0xcd9e_8d57;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k[0], p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k[1], p0 as u32];
        k = [k[0].wrapping_add(0x9e37_79b9), k[1].wrapping_add(0xbb67_ae85)];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors of the Random123 distribution (philox4x32-10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    }

    #[test]
    fn keys_name_streams_and_streams_replay() {
        let draw = |key: &[u64]| {
            let mut rng = Rng::keyed(key);
            [rng.next_u64(), rng.next_u64(), rng.next_u64()]
        };
        assert_eq!(draw(&[1, 2, 3]), draw(&[1, 2, 3]));
        assert_ne!(draw(&[1, 2, 3]), draw(&[1, 3, 2]));
        assert_ne!(draw(&[1]), draw(&[1, 0]));
    }

    #[test]
    fn moments_are_right() {
        let mut rng = Rng::keyed(&[7]);
        let n = 200_000;
        let (mut u, mut z, mut zz, mut g) = (0.0, 0.0, 0.0, 0.0);
        for _ in 0..n {
            u += rng.uniform();
            let x = rng.normal();
            z += x;
            zz += x * x;
            g += rng.gumbel();
        }
        let n = f64::from(n);
        assert!((u / n - 0.5).abs() < 0.004);
        assert!((z / n).abs() < 0.012 && (zz / n - 1.0).abs() < 0.02);
        assert!((g / n - 0.577_215_664_9).abs() < 0.015);
    }
}
