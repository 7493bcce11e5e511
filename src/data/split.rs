//! Cutting a validation split out of training data, by the hash of the problem's text.
//!
//! The same problem is on the same side in every run, on every machine and with every seed, also
//! when rows are added or reordered (exactly so for a share). Rows with the same text stay together.

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

/// How much to hold out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// Each problem with this probability, by its hash.
    Share(f64),
    /// The problems with the smallest hashes, this many distinct ones.
    Count(usize),
}

/// The first 8 bytes of the text's SHA-256, big-endian. White space at both ends does not count.
pub fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.trim().as_bytes());
    u64::from_be_bytes(std::array::from_fn(|at| digest[at]))
}

/// Whether a hash falls into a share of all hashes.
pub(super) fn in_share(hash: u64, share: f64) -> bool {
    // 2^64 as f64 is exact; hashes above it in rounding are never below a share under 1.
    (hash as f64) < share * 18_446_744_073_709_551_616.0
}

/// For each row's [`hash`] whether the row is held out.
///
/// Errors: a count that leaves nothing to train on.
pub fn held_out(hashes: &[u64], amount: Amount) -> Result<Vec<bool>> {
    match amount {
        Amount::Share(share) => Ok(hashes.iter().map(|&hash| in_share(hash, share)).collect()),
        Amount::Count(count) => {
            let mut distinct = hashes.to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            if count >= distinct.len() {
                bail!("cannot hold out `{count}` problems of `{}` distinct ones", distinct.len());
            }
            Ok(hashes.iter().map(|&hash| hash < distinct[count]).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(count: usize) -> Vec<u64> {
        (0..count).map(|at| hash(&format!("problem {at}"))).collect()
    }

    // python3 -c "import hashlib; print(int.from_bytes(hashlib.sha256(b'2+2').digest()[:8], 'big'))"
    #[test]
    fn the_hash_is_sha256() {
        assert_eq!(hash("2+2"), 1_931_910_247_571_046_728);
        assert_eq!(hash(" 2+2\n"), hash("2+2"));
    }

    #[test]
    fn a_share_is_near_its_size_and_keeps_its_members() {
        let small = held_out(&hashes(5000), Amount::Share(0.1)).unwrap();
        let large = held_out(&hashes(10_000), Amount::Share(0.1)).unwrap();
        assert_eq!(small, large[..5000]);
        let count = large.iter().filter(|&&out| out).count();
        // Binomial, n = 10000, p = 0.1: standard deviation 30.
        assert!((850..1150).contains(&count), "{count}");
    }

    #[test]
    fn a_count_is_exact_and_duplicates_stay_together() {
        let mut rows = hashes(100);
        rows.extend(hashes(100));
        let flags = held_out(&rows, Amount::Count(7)).unwrap();
        assert_eq!(flags.iter().filter(|&&out| out).count(), 14);
        assert_eq!(flags[..100], flags[100..]);
        let error = held_out(&rows, Amount::Count(100)).unwrap_err();
        assert_eq!(error.to_string(), "cannot hold out `100` problems of `100` distinct ones");
    }
}
