//! The stages of an online run: built, asked what they need, saved and restored together.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candlewick_algorithms::advantage::Advantage;
use candlewick_algorithms::budget::rollouts::RolloutBudget;
use candlewick_algorithms::budget::tokens::TokenBudget;
use candlewick_algorithms::credit::Credit;
use candlewick_algorithms::objective::Objective;
use candlewick_algorithms::prompts::Prompts;
use candlewick_algorithms::success::Success;
use candlewick_algorithms::{Needs, Outcome, State};

use crate::config::{Config, ObjectiveConfig, Online};

/// The stages of a run, in the order of a step.
pub(super) struct Stages {
    pub(super) prompts: Box<dyn Prompts>,
    pub(super) rollouts: Box<dyn RolloutBudget>,
    pub(super) tokens: Box<dyn TokenBudget>,
    pub(super) advantage: Option<Box<dyn Advantage>>,
    pub(super) credit: Option<Box<dyn Credit>>,
    pub(super) objective: Box<dyn Objective>,
    pub(super) success: Success,
}

impl Stages {
    /// Every stage that the config names.
    pub(super) fn build(config: &Config, online: &Online) -> Result<Self> {
        Ok(Self {
            prompts: online.prompts.build()?,
            rollouts: online.budget.rollouts.build()?,
            tokens: online.budget.tokens.build()?,
            advantage: online.advantage.map(|a| a.build()).transpose()?,
            credit: online.credit.map(|c| c.build()).transpose()?,
            objective: config.objective.build()?,
            success: Success::default(),
        })
    }

    /// What the scoring pass must give, where a step makes so many updates.
    pub(super) fn needs(&self, updates: usize) -> Needs {
        let mut needs = self.objective.needs();
        needs.old_logp |= updates > 1;
        for more in
            [self.advantage.as_ref().map(|a| a.needs()), self.credit.as_ref().map(|c| c.needs())].into_iter().flatten()
        {
            needs = needs.union(&more);
        }
        needs
    }

    /// Each stage with the name of its section.
    fn each(&mut self, mut visit: impl FnMut(&'static str, &mut dyn State) -> Result<()>) -> Result<()> {
        visit("prompts", self.prompts.as_mut())?;
        visit("budget.rollouts", self.rollouts.as_mut())?;
        visit("budget.tokens", self.tokens.as_mut())?;
        if let Some(advantage) = &mut self.advantage {
            visit("advantage", advantage.as_mut())?;
        }
        if let Some(credit) = &mut self.credit {
            visit("credit", credit.as_mut())?;
        }
        visit("objective", self.objective.as_mut())
    }

    /// A copy of the objective as it stands: what it goes through leaves the one that trains untouched.
    pub(super) fn objective_apart(&self, config: &ObjectiveConfig) -> Result<Box<dyn Objective>> {
        let mut copy = config.build()?;
        if let Some(saved) = self.objective.save() {
            copy.load(&saved)?;
        }
        Ok(copy)
    }

    /// What the stages remember, by section.
    pub(super) fn save(&mut self) -> Result<BTreeMap<String, serde_json::Value>> {
        let mut saved = BTreeMap::from([("success".to_owned(), serde_json::to_value(&self.success)?)]);
        self.each(|name, stage| {
            saved.extend(stage.save().map(|value| (name.to_owned(), value)));
            Ok(())
        })?;
        Ok(saved)
    }

    /// Takes back what [`Stages::save`] gave.
    pub(super) fn load(&mut self, saved: &BTreeMap<String, serde_json::Value>) -> Result<()> {
        if let Some(success) = saved.get("success") {
            self.success = serde_json::from_value(success.clone())
                .context("the checkpoint's success statistics cannot be read")?;
        }
        self.each(|name, stage| match saved.get(name) {
            Some(value) => Ok(stage.load(value)?),
            None => Ok(()),
        })
    }

    /// Tells every stage what happened.
    pub(super) fn observe(&mut self, outcome: &Outcome) -> Result<()> {
        self.each(|_, stage| {
            stage.observe(outcome);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use candlewick_algorithms::budget::rollouts::RolloutsConfig;
    use candlewick_algorithms::budget::tokens::TokensConfig;
    use candlewick_algorithms::prompts::PromptsConfig;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_objective_apart_knows_what_was_remembered_and_changes_nothing() {
        let config = ObjectiveConfig::named("power_dl").unwrap();
        let mut stages = Stages {
            prompts: PromptsConfig::default().build().unwrap(),
            rollouts: RolloutsConfig::default().build().unwrap(),
            tokens: TokensConfig::default().build().unwrap(),
            advantage: None,
            credit: None,
            objective: config.build().unwrap(),
            success: Success::default(),
        };
        let labels = json!({"labels": [[3, 0.5, 2]]});
        stages.objective.load(&labels).unwrap();
        let mut apart = stages.objective_apart(&config).unwrap();
        assert_eq!(apart.save(), Some(labels.clone()));
        apart.load(&json!({"labels": []})).unwrap();
        assert_eq!(stages.objective.save(), Some(labels));
    }
}
