//! Stage `objective`: a loss over leaves, the values that a model gives for each row of a batch.
//!
//! An objective never sees a model. It is handed leaf tensors (log-probs, entropies, scores) and
//! returns a scalar; the caller takes the gradient at the leaves and pulls it back through the
//! model. Losses that couple every row of a batch are therefore exact whatever the micro-batch.

pub mod adpo;
pub mod cpo;
pub mod distill;
pub mod dpo;
pub mod grpo;
pub mod kto;
pub mod orpo;
pub mod pairs;
pub mod power_dl;
pub mod real;
pub mod reward_model;
mod rows;
pub mod scalar;
pub mod sft;
pub mod simpo;
pub mod soft_grpo;

use candle_core::Tensor;

use crate::registry::variants;
use crate::row::divergence::Divergence;
use crate::{Batch, Metrics, Needs, Result, State};

variants! {
    /// `[objective.<variant>]`: what is minimised.
    pub enum ObjectiveConfig for Objective {
        "grpo" => Grpo(grpo::Grpo),
        "sft" => Sft(sft::Sft),
        "real" => Real(real::Real),
        "adpo" => Adpo(adpo::Adpo),
        "dpo" => Dpo(dpo::Dpo),
        "cpo" => Cpo(cpo::Cpo),
        "simpo" => Simpo(simpo::Simpo),
        "orpo" => Orpo(orpo::Orpo),
        "kto" => Kto(kto::Kto),
        "power_dl" => PowerDl(power_dl::PowerDl),
        "reward_model" => RewardModel(reward_model::RewardModel),
        "soft_grpo" => SoftGrpo(soft_grpo::SoftGrpo),
        "distill" => Distill(distill::Distill),
    }
    default Grpo
}

/// The values that a model gives for a batch; f64 on the CPU, variables where gradients are wanted.
#[derive(Debug, Clone)]
pub struct Leaves {
    /// Log-prob of each completion token at the sampling temperature, [N,T]. Masked entries are
    /// arbitrary finite numbers.
    pub logp: Tensor,
    /// Entropy of each next-token distribution in nats, [N,T], if declared as a leaf.
    pub entropy: Option<Tensor>,
    /// Divergence from a teacher, [N,T], if declared.
    pub divergence: Option<Tensor>,
    /// Scalar score of each row, [N], if declared.
    pub score: Option<Tensor>,
}

/// A loss and what to report of it.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The scalar to minimise, f64, with the leaves in its history.
    pub value: Tensor,
    /// What to report; the loop adds `objective/<variant>/`.
    pub metrics: Metrics,
}

/// Which columns of the batch an objective uses. A section of the config that nothing reads is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    /// The advantage stage's result.
    pub advantage: bool,
    /// The credit stage's result.
    pub credit: bool,
    /// The verdict.
    pub verdict: bool,
    /// The raw scores.
    pub scores: bool,
}

/// Which rows an objective on given examples takes a batch of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rows {
    /// Demonstrations, each a group of its own.
    #[default]
    Demonstrations,
    /// Pairs: a chosen and a rejected row in this order.
    Pairs {
        /// A third row holds the prompt, to be learnt too.
        with_prompt: bool,
    },
    /// Answers marked as good or bad.
    Labelled {
        /// After each row one with its prompt and the answer of another row of the batch.
        with_mismatched: bool,
    },
    /// Lists of answers to one prompt, with what each is worth: scores as advantages, or probabilities as labels too.
    Lists,
    /// Pairs of answers marked as good or bad, to different prompts: good with bad, good with good.
    PassFail,
}

/// A loss over leaves.
pub trait Objective: State + Send {
    /// What it needs of the scoring pass and of the leaves, besides log-probs.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// What it uses of the batch. One that reads nothing of it learns from given examples.
    fn reads(&self) -> Reads {
        Reads::default()
    }

    /// Whether a row's gradient depends on other rows' leaves, beyond the step's [`crate::batch::Totals`].
    ///
    /// If not, the loss of a batch is the sum of the losses of its micro-batches.
    fn couples_rows(&self) -> bool;

    /// Whether a row's gradient depends on the other rows of its group, and on no more: then the loss of a batch is
    /// the sum over groups, and a group that does not fit into a micro-batch is scored whole first. So it is with
    /// pairs, each of which is a group and is never cut.
    fn couples_group(&self) -> bool {
        matches!(self.rows(), Rows::Pairs { .. } | Rows::PassFail)
    }

    /// Whether its loss sets the completions of one prompt against each other: it learns nothing from a group of one,
    /// and at its first update it is a plain policy gradient.
    fn compares_within_group(&self) -> bool {
        false
    }

    /// Which rows it learns from, if these are given examples.
    fn rows(&self) -> Rows {
        Rows::default()
    }

    /// Whether a row whose advantage is zero throughout surely has zero gradient, so that it need
    /// not be run through the model.
    fn rests_without_advantage(&self) -> bool {
        false
    }

    /// Whether it learns from completions wherever they come from: given ones, or, with a [rollout] section, sampled ones.
    fn takes_any_source(&self) -> bool {
        false
    }

    /// The setting that only completions of the policy itself can serve.
    fn refuses_given_examples(&self) -> Option<crate::Error> {
        None
    }

    /// Why soft steps cannot be learned from; `None` if their density serves as a log-prob.
    fn refuses_soft_steps(&self) -> Option<&'static str> {
        None
    }

    /// Why it has nothing to do without soft steps.
    fn refuses_discrete_steps(&self) -> Option<&'static str> {
        None
    }

    /// The divergence that its `divergence` leaf is.
    fn divergence(&self) -> Option<Divergence> {
        None
    }

    /// Rows whose gradient is surely zero for another reason, [N]; empty if there is none.
    fn idle_rows(&self, _batch: &Batch) -> Vec<bool> {
        Vec::new()
    }

    /// Whether the verdict is a label, so that the reward that gives it must say 0 or 1 and nothing else.
    fn needs_binary_verdict(&self) -> bool {
        false
    }

    /// What works but is seldom meant, a line each, to be shown when the config is checked.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// Looks at the whole batch that is trained on, once, before its first update and before the totals of any
    /// step are counted; may clear the mask of tokens that are not to be trained on.
    fn prepare(&mut self, _batch: &mut Batch) -> Result<()> {
        Ok(())
    }

    /// The loss of a batch, or of a micro-batch that carries its step's totals.
    fn loss(&self, batch: &Batch, leaves: &Leaves) -> Result<Loss>;

    /// Moves the objective's own state, once the optimiser has accepted the step.
    fn commit(&mut self, _batch: &Batch, _metrics: &Metrics) -> Result<()> {
        Ok(())
    }
}
