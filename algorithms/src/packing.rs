//! Which sequences stand together in a row or micro-batch of fixed capacity.

/// Bins of sequences by best-fit decreasing: longest first (ties: lower index first), each into the open
/// bin with the least room that still takes it (ties: oldest bin), else into a new one.
///
/// `lengths` in tokens, `capacity` in tokens a bin; returns indices, in the order in which they were
/// placed. Sequences of length 0 are dropped. One longer than the capacity is a bin of its own, and
/// overfull: callers that cannot have that truncate, split or refuse it before. At most 11/9 of the
/// fewest bins plus 6/9. O(n log n).
///
/// Source: "Fewer Truncations Improve Language Modeling", arXiv 2404.10830; equal-room ties there and in
/// TRL go in queue order, here to the oldest bin, which gives the same number of bins.
pub fn best_fit_decreasing(lengths: &[usize], capacity: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).filter(|&i| lengths[i] > 0).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(lengths[i]));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    let mut open = std::collections::BTreeSet::new(); // (room, bin)
    for i in order {
        let fitting = open.range((lengths[i], 0)..).next().copied();
        let (room, bin) = match fitting {
            Some(found) => {
                open.remove(&found);
                found
            }
            None => {
                bins.push(Vec::new());
                (capacity, bins.len() - 1)
            }
        };
        bins[bin].push(i);
        open.insert((room.saturating_sub(lengths[i]), bin));
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn every_sequence_stands_in_one_bin_that_holds_it() {
        let mut rng = Rng::keyed(&[3]);
        for _ in 0..50 {
            let lengths: Vec<usize> = (0..rng.below(40)).map(|_| rng.below(20) as usize).collect();
            let bins = best_fit_decreasing(&lengths, 19);
            let mut seen: Vec<usize> = bins.concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..lengths.len()).filter(|&i| lengths[i] > 0).collect::<Vec<_>>());
            let fill = |bin: &Vec<usize>| bin.iter().map(|&i| lengths[i]).sum::<usize>();
            assert!(bins.iter().all(|bin| fill(bin) <= 19));
            // Whatever opened a bin fitted into none before it.
            for (b, bin) in bins.iter().enumerate() {
                assert!(bins[..b].iter().all(|before| {
                    let earlier = before.iter().filter(|&&i| (lengths[bin[0]], i) < (lengths[i], bin[0]));
                    earlier.map(|&i| lengths[i]).sum::<usize>() + lengths[bin[0]] > 19
                }));
            }
        }
    }

    #[test]
    fn a_sequence_beyond_the_capacity_stands_alone() {
        assert_eq!(best_fit_decreasing(&[3, 12, 5], 8), [vec![1], vec![2, 0]]);
    }
}
