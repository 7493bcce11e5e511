//! Whether pairs can be made of the policy's own answers, and whether somebody learns from them.

use candlewick_algorithms::objective::Rows;
use candlewick_rewards::Rewards;

use super::Stages;
use super::online::{untold_length, without_section};
use crate::config::load::Finding;
use crate::config::{Config, Kind, ObjectiveConfig, OfflineConfig, RegenerateConfig};

/// The section's path.
const SECTION: &str = "train.offline.regenerate";

/// A run that makes pairs: its objective takes them, rewards tell the better answer, and there is an epoch to make them in.
pub(super) fn check(
    config: &Config,
    settings: &RegenerateConfig,
    train: &OfflineConfig,
    stages: &Stages,
    findings: &mut Vec<Finding>,
) {
    let objective = config.objective.variant();
    let cannot = match stages.objective.rows() {
        _ if stages.objective.needs().score_leaf => Some("trains a model that scores answers and gives none"),
        Rows::Demonstrations => Some("learns from demonstrations"),
        Rows::PassFail => Some("learns from comparisons across prompts"),
        Rows::Pairs { .. } | Rows::Lists | Rows::Labelled { .. } => None,
    };
    if let Some(cannot) = cannot {
        findings.push(Finding {
            help: Some("remove the section, or choose among dpo, cpo, simpo, orpo, kto, power_dl and adpo".into()),
            ..Finding::at(SECTION, format!("[{SECTION}] makes pairs, and objective `{objective}` {cannot}"))
        });
    }
    if let Some(epoch) = train.epochs.checked_sub(1).filter(|last| settings.start_epoch > *last)
        && config.run.steps.is_none()
    {
        let message = format!(
            "`{SECTION}.start_epoch` = {} comes after the last epoch, {epoch} (the first is 0): raise `train.offline.epochs`",
            settings.start_epoch
        );
        findings.push(Finding { is_key: false, ..Finding::at(&format!("{SECTION}.start_epoch"), message) });
    }
    if train.max_length.is_some_and(|most| settings.limit >= most) {
        let message = format!(
            "answers of up to {} tokens leave no room for a prompt under `train.offline.max_length`: lower `limit`",
            settings.limit
        );
        findings.push(Finding { is_key: false, ..Finding::at(&format!("{SECTION}.limit"), message) });
    }
    let Some(rewards) = &config.reward else {
        findings.push(Finding {
            help: Some("add a reward, such as [reward.math]".into()),
            ..Finding::at(SECTION, format!("missing section [reward]: [{SECTION}] ranks answers by rewards"))
        });
        return;
    };
    untold_length(config, "set its `target`", findings);
    let Ok(rewards) = Rewards::new(rewards) else { return };
    let (present, key) = (rewards.names(), format!("{SECTION}.weights"));
    for name in settings.weights.keys().filter(|n| !present.contains(&n.as_str())) {
        findings.push(without_section(&key, &format!("{key}.{name}"), name, &present));
    }
    if present.iter().all(|name| settings.weights.get(*name) == Some(&0.0)) {
        let message = format!("`{key}` gives every reward the weight 0, so that all answers tie: raise one");
        findings.push(Finding { is_key: false, ..Finding::at(&key, message) });
    }
}

/// What works but is seldom meant.
pub(super) fn warning(config: &Config) -> Option<String> {
    let Kind::Offline(offline) = config.kind() else { return None };
    let settings = offline.train.regenerate.as_ref().filter(|r| r.every_epochs == 1)?;
    let ObjectiveConfig::PowerDl(power) = &config.objective else { return None };
    (power.gamma > 0.0 && offline.train.epochs > settings.start_epoch + 1).then(|| {
        format!(
            "labels start anew with every regeneration, and each pair is then seen once: for `objective.power_dl.gamma` to act set `{SECTION}.every_epochs` to 2 or more"
        )
    })
}
