//! When thinking ends: the end marker, the cold stop, the limit on soft steps.

/// What moves a completion from thinking to answering, or ends it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// The end marker.
    pub think_end: u32,
    /// Steps whose entropy in nats is below this are certain ones; 0 = no cold stop.
    pub entropy_threshold: f64,
    /// Successive certain steps that make a cold stop.
    pub length_threshold: usize,
    /// Whether as many certain steps end the answer, too.
    pub abort_after_thinking: bool,
    /// Most soft steps; the next step is the end marker.
    pub max_steps: Option<usize>,
}

/// Where a completion stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phase {
    /// Whether its steps are soft.
    pub is_thinking: bool,
    /// Successive certain steps so far.
    pub low_run: usize,
    steps: usize,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The visible token, possibly replaced by the end marker.
    pub token: u32,
    /// Whether the mixture is fed back; otherwise the token alone.
    pub is_soft: bool,
    /// Whether the end marker was put in place of what was drawn.
    pub is_forced: bool,
    /// Whether the completion ends here.
    pub is_aborted: bool,
}

impl Default for Phase {
    /// Thinking starts with the first token.
    fn default() -> Self {
        Self { is_thinking: true, low_run: 0, steps: 0 }
    }
}

impl Phase {
    /// Takes in a step that was drawn in this phase: its visible token and its entropy in nats.
    ///
    /// In this order: count certain steps; when thinking, a full run (or the limit on steps) puts the
    /// end marker in the token's place; the marker ends thinking, is fed back alone and clears the run;
    /// when answering already, a full run ends the completion if the rule says so. Source: Soft
    /// Thinking, arXiv 2505.15778; the limit on steps is ours, for models that never close.
    pub fn advance(&mut self, rule: &Rule, token: u32, entropy: f64) -> Decision {
        let has_cold_stop = rule.entropy_threshold > 0.0;
        if has_cold_stop {
            self.low_run = if entropy < rule.entropy_threshold { self.low_run + 1 } else { 0 };
        }
        let is_cold = has_cold_stop && self.low_run >= rule.length_threshold;
        if !self.is_thinking {
            let is_aborted = is_cold && rule.abort_after_thinking;
            return Decision { token, is_soft: false, is_forced: false, is_aborted };
        }
        let is_forced = is_cold || rule.max_steps.is_some_and(|most| self.steps >= most);
        let token = if is_forced { rule.think_end } else { token };
        self.steps += 1;
        if token == rule.think_end {
            self.is_thinking = false;
            self.low_run = 0;
        }
        Decision { token, is_soft: self.is_thinking, is_forced, is_aborted: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule =
        Rule { think_end: 9, entropy_threshold: 0.0, length_threshold: 1, abort_after_thinking: true, max_steps: None };

    #[test]
    fn without_a_threshold_only_the_marker_ends_thinking() {
        let mut phase = Phase::default();
        assert!(phase.advance(&RULE, 4, 0.0).is_soft && phase.advance(&RULE, 4, 0.0).is_soft);
        assert!(!phase.advance(&RULE, 9, 5.0).is_soft && !phase.advance(&RULE, 4, 0.0).is_aborted);
    }

    #[test]
    fn the_limit_on_steps_closes_thinking() {
        let (rule, mut phase) = (Rule { max_steps: Some(2), ..RULE }, Phase::default());
        let tokens: Vec<Decision> = [1, 2, 3, 4].into_iter().map(|t| phase.advance(&rule, t, 1.0)).collect();
        assert_eq!(tokens.iter().map(|d| d.token).collect::<Vec<_>>(), [1, 2, 9, 4]);
        assert_eq!(tokens.iter().map(|d| d.is_soft).collect::<Vec<_>>(), [true, true, false, false]);
        assert!(tokens[2].is_forced && !tokens[3].is_forced);
    }
}
