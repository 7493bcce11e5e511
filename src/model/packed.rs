//! Several sequences laid one after the other, without padding.
//!
//! A segment is a run of tokens that attend to each other causally, and to the whole of an
//! optional prefix: another segment that stands earlier in the pack. The rollouts of a group
//! share their prompt as prefix, so the prompt is computed once, in both directions.

use std::ops::Range;

/// A run of tokens of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Index of its first token in the pack.
    pub start: usize,
    /// Number of tokens.
    pub len: usize,
    /// The segment whose tokens come before it in its sequence.
    pub prefix: Option<usize>,
}

/// A token whose input is a mixture of embeddings instead of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixed {
    /// Index of the token in the pack.
    pub at: usize,
    /// Token ids, [K].
    pub ids: Vec<u32>,
    /// Their weights, [K].
    pub weights: Vec<f64>,
}

/// Tokens of several sequences, their positions and who attends to whom.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Packed {
    /// Token ids, [N].
    pub tokens: Vec<u32>,
    /// Position of each token in its own sequence, [N].
    pub positions: Vec<u32>,
    /// Runs of tokens, in order; a prefix stands before the segments that use it.
    pub segments: Vec<Segment>,
    /// Segments that share a prefix, with it at the head: ranges of `segments`.
    pub families: Vec<Range<usize>>,
    /// Tokens that are fed as mixtures, all of the same K.
    pub mixed: Vec<Mixed>,
    /// Whether the gradient ends at the inputs, so that none reaches the embedding table there.
    pub has_fixed_inputs: bool,
}

impl Packed {
    /// An empty pack.
    pub fn new() -> Self {
        Self::default()
    }

    /// One sequence alone.
    pub fn single(tokens: &[u32]) -> Self {
        let mut packed = Self::new();
        packed.push(tokens);
        packed
    }

    /// Adds a sequence that shares nothing; returns its segment.
    pub fn push(&mut self, tokens: &[u32]) -> usize {
        let index = self.segments.len();
        self.families.push(index..index + 1);
        self.append(tokens, 0, None)
    }

    /// Adds a continuation of the newest family's first segment; returns its segment.
    ///
    /// # Panics
    /// If no sequence was pushed before.
    pub fn push_continuation(&mut self, tokens: &[u32]) -> usize {
        let family = self.families.last_mut().expect("a continuation follows its prefix");
        family.end += 1;
        let prefix = family.start;
        let first = self.segments[prefix].len;
        self.append(tokens, first, Some(prefix))
    }

    fn append(&mut self, tokens: &[u32], first_position: usize, prefix: Option<usize>) -> usize {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((first_position..first_position + tokens.len()).map(|p| p as u32));
        self.segments.push(Segment { start, len: tokens.len(), prefix });
        self.segments.len() - 1
    }

    /// Number of tokens, N.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens of a segment, as indices into the pack.
    pub fn range(&self, segment: usize) -> Range<usize> {
        let s = self.segments[segment];
        s.start..s.start + s.len
    }
}
