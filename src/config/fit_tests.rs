//! One test for each way in which stages may not fit.

use crate::config::Config;

const ONLINE: &str = r#"
[model]
path = "model"
[data]
train = "generated:addition"
[prompts.shuffle]
[budget.rollouts.uniform]
[budget.tokens.fixed]
[rollout.discrete]
[reward.math]
[advantage.group]
[objective.grpo]
"#;

const OFFLINE: &str = r#"
[model]
path = "model"
[data]
train = "demonstrations.jsonl"
[objective.sft]
"#;

/// The one message with which `text`, changed by `sets`, is refused.
fn refused(text: &str, sets: &[&str]) -> String {
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let error = Config::parse("run.toml", text, &sets).expect_err("the config must be refused");
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].message.clone()
}

fn without(text: &str, section: &str) -> String {
    let line = format!("[{section}]\n");
    assert!(text.contains(&line), "{section} is not in the text");
    text.replace(&line, "")
}

#[test]
fn whole_configs_are_accepted() {
    for text in [ONLINE, OFFLINE] {
        Config::parse("run.toml", text, &[]).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn a_run_that_samples_needs_every_stage_and_is_told_which() {
    for section in ["prompts.shuffle", "rollout.discrete", "reward.math", "advantage.group"] {
        let message = refused(&without(ONLINE, section), &[]);
        assert_eq!(
            message,
            format!("missing section [{section}]: objective `grpo` learns from completions that it samples")
        );
    }
    let text = without(&without(ONLINE, "budget.rollouts.uniform"), "budget.tokens.fixed");
    assert!(refused(&text, &[]).starts_with("missing section [budget.rollouts.uniform] and [budget.tokens.fixed]"));
}

#[test]
fn what_nothing_reads_is_refused() {
    assert_eq!(
        refused(&format!("{OFFLINE}[advantage.group]\n"), &[]),
        "nothing reads [advantage]: objective `sft` learns from given examples"
    );
    assert_eq!(
        refused(OFFLINE, &["train.online.epochs=2"]),
        "nothing reads [train.online]: objective `sft` learns from given examples"
    );
    assert!(refused(ONLINE, &["train.offline.epochs=2"]).starts_with("nothing reads [train.offline]"));
    assert!(refused(ONLINE, &["model.reference={}"]).starts_with("nothing reads [model.reference]"));
    assert!(refused(ONLINE, &["eval.every=10"]).starts_with("nothing reads `eval.every`"));
}

#[test]
fn a_kl_term_needs_a_reference_or_adapters() {
    let message = refused(ONLINE, &["objective.grpo.beta=0.04"]);
    assert_eq!(message, "`objective.grpo` needs reference log-probs: add a [model.reference] section");
    assert!(refused(ONLINE, &["advantage.group.kl_in_reward=0.1"]).starts_with("`advantage.group` needs reference"));
    for reference in ["model.reference={}", "model.lora={}"] {
        let sets = ["objective.grpo.beta=0.04".to_owned(), reference.to_owned()];
        Config::parse("run.toml", ONLINE, &sets).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn weights_name_rewards_that_have_a_section() {
    assert_eq!(
        refused(ONLINE, &["advantage.group.weights={ math = 1.0, format = 0.2 }"]),
        "`advantage.group.weights` names the reward `format`, which has no section: add [reward.format]"
    );
    assert_eq!(
        refused(ONLINE, &["advantage.group.weights={ maths = 1.0 }"]),
        "`advantage.group.weights` names the reward `maths`, which has no section: did you mean `math`?"
    );
}

#[test]
fn who_asks_for_a_verdict_must_get_one() {
    let text = ONLINE.replace("[reward.math]", "[reward.length]\ntarget = 9");
    let text = text.replace("[advantage.group]", "[advantage.psr]");
    assert!(refused(&text, &[]).starts_with("`advantage.psr` must know which completions are right: no binary reward"));
    assert!(refused(ONLINE, &["reward.verdict=format"]).contains("`format`, which is not configured"));
}

#[test]
fn a_group_of_one_has_nothing_to_compare() {
    assert_eq!(
        refused(ONLINE, &["budget.rollouts.uniform.mean=1"]),
        "groups of 1 completion give no advantage: `advantage.group` compares the completions of one prompt"
    );
    let sets = ["budget.rollouts.uniform.mean=1".to_owned(), "advantage.rfpp={}".to_owned()];
    Config::parse("run.toml", ONLINE, &sets).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn groups_are_never_cut_into_minibatches() {
    let sets = ["prompts.shuffle.per_step=4", "train.online.minibatches=8"];
    assert_eq!(refused(ONLINE, &sets), "8 minibatches cannot be cut from a step of 4 groups: groups are never cut");
}

#[test]
fn adapters_of_a_sampled_run_have_no_dropout() {
    assert!(
        refused(ONLINE, &["model.lora.dropout=0.1"])
            .starts_with("`model.lora.dropout` must be 0 with objective `grpo`")
    );
    Config::parse("run.toml", OFFLINE, &["model.lora.dropout=0.1".into()]).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn benchmarks_exist_and_have_what_they_ask() {
    assert_eq!(refused(ONLINE, &["eval.benchmarks=['gsm8']"]), "unknown benchmark `gsm8`: did you mean `gsm8k`?");
    assert!(refused(ONLINE, &["eval.benchmarks=['validation']"]).contains("set `data.validation`"));
    assert!(refused(ONLINE, &["eval.benchmarks=['gsm8k=gone.jsonl']"]).ends_with("no such data file: `gone.jsonl`"));
    assert!(refused(ONLINE, &["eval.benchmarks=['generated:adition']"]).contains("did you mean `addition`?"));
    assert!(
        refused(ONLINE, &["eval.benchmarks=['gsm8k']", "eval.samples=4"]).starts_with("4 samples at temperature 0")
    );
}

#[test]
fn impossible_values_are_refused_with_their_rule() {
    for (set, rule) in [
        ("rollout.discrete.temperature=0.0", "set it above 0"),
        ("rollout.discrete.top_p=1.5", "up to 1"),
        ("rollout.discrete.min_p=1.0", "below 1"),
        ("optim.learning_rate=-1e-6", "set it above 0"),
        ("optim.beta2=1.0", "below 1"),
        ("optim.eps=nan", "such as 1e-8"),
        ("eval.temperature=-1.0", "0 or above"),
        ("eval.top_p=0.0", "up to 1"),
        ("eval.min_p=1.0", "below 1"),
        ("eval.stop=['']", "empty text"),
        ("eval.wordings=7", "there are 1 to 6"),
        ("eval.samples=0", ">= 1"),
        ("model.lora.alpha=0.0", "above 0"),
        ("model.lora.targets=[]", "at least one projection"),
        ("run.name=../elsewhere", "not a path"),
        ("rollout.discrete.stop=['']", "empty text"),
        ("prompts.shuffle.per_step=0", "at least"),
    ] {
        let message = refused(ONLINE, &[set]);
        assert!(message.contains(rule), "{set}: {message}");
    }
}

#[test]
fn the_output_folder_must_take_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("taken");
    std::fs::write(&file, "").unwrap();
    let message = refused(ONLINE, &[&format!("run.output={}", file.display())]);
    assert_eq!(message, format!("cannot write to `{}`: it is not a folder", file.display()));
    // A folder that is not there yet is made later, in the nearest one that is.
    let set = format!("run.output={}", folder.path().join("a/b").display());
    Config::parse("run.toml", ONLINE, &[set]).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn soft_steps_fit_only_what_learns_from_their_density() {
    let soft = |set: &str| refused(ONLINE, &["rollout.soft={}", set]);
    assert_eq!(
        soft("rollout.soft.mode=vanilla"),
        "vanilla mixtures are for [eval.soft] and `generate` only: they have no log-density to train on"
    );
    assert!(soft("rollout.soft.mode=dirichlet").starts_with("Dirichlet mixtures are for"));
    assert!(soft("rollout.soft.prob_eps=0.0").starts_with("mixtures without a floor"));
    assert!(
        soft("objective.grpo.entropy_coef=0.01")
            .starts_with("`objective.grpo` cannot learn from soft steps: entropies")
    );
    assert!(soft("credit.tw={}").starts_with("`credit.tw` cannot learn from soft steps"));
    assert!(
        refused(ONLINE, &["objective.soft_grpo={ beta = 0.0 }"]).starts_with("`objective.soft_grpo` has no soft steps")
    );
    let distill = without(ONLINE, "advantage.group");
    let sets = ["rollout.soft={}", "objective.distill={}", "model.reference={}"];
    assert!(refused(&distill, &sets).starts_with("`objective.distill` cannot learn from soft steps: it compares"));
    for sets in [&["rollout.soft={}"][..], &["rollout.soft={}", "objective.soft_grpo={ beta = 0.0 }"]] {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Config::parse("run.toml", ONLINE, &sets).unwrap_or_else(|e| panic!("{e}"));
    }
}

#[test]
fn impossible_soft_settings_are_refused_with_their_rule() {
    for (set, rule) in [
        ("rollout.soft.temperature=0.0", "set it above 0"),
        ("rollout.soft.tau=0.0", "set it above 0"),
        ("rollout.soft.slots=65", ""),
        ("rollout.soft.noise_min=4.0", "set it lower"),
        ("rollout.soft.think_end=''", "end of thinking"),
        ("rollout.soft.answer.top_p=2.0", "up to 1"),
        ("eval.soft.concentration=-1.0", "above 0"),
    ] {
        let sets: Vec<&str> = if set.starts_with("eval") { vec![set] } else { vec!["rollout.soft={}", set] };
        let message = refused(ONLINE, &sets);
        assert!(message.contains(rule), "{set}: {message}");
    }
}

#[test]
fn distillation_needs_a_teacher_and_takes_either_source() {
    let online = without(&without(ONLINE, "advantage.group"), "reward.math");
    let message = refused(&online, &["objective.distill={}"]);
    assert_eq!(message, "`objective.distill` needs reference log-probs: add a [model.reference] section");
    for text in [online.as_str(), OFFLINE] {
        let sets = ["objective.distill={}".to_owned(), "model.reference.path=teacher".to_owned()];
        Config::parse("run.toml", text, &sets).unwrap_or_else(|e| panic!("{e}"));
    }
    let sets = ["objective.distill={ mode = 'policy_gradient', adds_advantage = true }", "model.reference={}"];
    assert!(refused(&online, &sets).contains("missing section [advantage.group]"));
    assert!(refused(&online, &["objective.distill={ gamma = 0.5 }", "model.reference={}"]).contains("leave it out"));
}

#[test]
fn resrl_needs_a_verdict() {
    let text = ONLINE.replace("[reward.math]", "[reward.length]\ntarget = 9");
    assert!(refused(&text, &["credit.resrl={}"]).starts_with("`credit.resrl` must know which completions are right"));
}

#[test]
fn labels_of_real_are_labels() {
    let real = without(ONLINE, "advantage.group").replace("[objective.grpo]", "[objective.real]");
    Config::parse("run.toml", &real, &[]).unwrap_or_else(|e| panic!("{e}"));
    let two = real.replace("[reward.math]\n", "[reward.math]\n[reward.length]\ntarget = 9\n");
    let message = refused(&two, &["reward.verdict=length"]);
    assert!(message.starts_with("`objective.real` learns from labels that are 0 or 1"), "{message}");
    assert!(refused(&real, &["budget.rollouts.uniform.mean=1"]).starts_with("groups of 1 completion teach nothing"));
    assert!(refused(&format!("{real}[advantage.group]\n"), &[]).contains("reads no advantages"));
}

#[test]
fn one_update_a_batch_is_told_to_real_and_adpo() {
    for objective in ["objective.real", "objective.adpo"] {
        let text = ONLINE.replace("[objective.grpo]", &format!("[{objective}]"));
        let text = if objective == "objective.real" { without(&text, "advantage.group") } else { text };
        let notes = Config::parse("run.toml", &text, &[]).unwrap_or_else(|e| panic!("{e}")).notes;
        assert!(notes.iter().any(|n| n.contains("plain policy gradient")), "{notes:?}");
        let notes = Config::parse("run.toml", &text, &["train.online.epochs=2".into()]).unwrap().notes;
        assert!(!notes.iter().any(|n| n.contains("plain policy gradient")), "{notes:?}");
    }
}

#[test]
fn pairs_come_from_the_stage_that_makes_them() {
    let message = refused(&ONLINE.replace("advantage.group", "advantage.pairing"), &[]);
    assert!(message.contains("only [prompts.pairing] makes"), "{message}");
    let pairs = ONLINE.replace("prompts.shuffle", "prompts.pairing").replace("advantage.group", "advantage.pairing");
    let loaded = Config::parse("run.toml", &pairs, &["advantage.pairing.lambda_neg=2.0".into()]);
    assert!(loaded.unwrap().notes[0].contains("group_then_weight"));
}

#[test]
fn rates_and_lengths_are_told_and_read_by_someone() {
    assert!(refused(ONLINE, &["data.probe=rates.jsonl"]).starts_with("nothing reads `data.probe`"));
    assert!(refused(OFFLINE, &["data.probe=rates.jsonl"]).starts_with("nothing reads `data.probe`"));
    assert!(refused(ONLINE, &["data.told=\"{prompt} {tokens}\""]).starts_with("nothing reads `data.told`"));
    assert!(refused(ONLINE, &["eval.budget=final"]).contains("it tells none"));
    assert!(refused(ONLINE, &["data.told=\"{prompt}\""]).contains("must contain"));
    let paid = ONLINE.replace("[reward.math]\n", "[reward.math]\n[reward.length]\n");
    assert!(refused(&paid, &[]).contains("a length that nothing states"));
    let curriculum = paid.replace("budget.tokens.fixed", "budget.tokens.curriculum");
    Config::parse("run.toml", &curriculum, &["eval.budget=final".into()]).unwrap_or_else(|e| panic!("{e}"));
    assert!(
        refused(&curriculum, &["budget.tokens.curriculum.start_share=1.5"]).contains("name its file in `data.probe`")
    );
    assert!(refused(&curriculum, &["budget.tokens.curriculum.schedule.drops.end=0"]).contains("smallest budget is 1"));
    assert!(refused(ONLINE, &["budget.rollouts.knapsack.mean=1"]).contains("cannot pay it"));
    let silent = ONLINE.replace("[reward.math]", "[reward.length]\ntarget = 9");
    assert!(refused(&silent, &["budget.rollouts.knapsack={}"]).starts_with("`budget.rollouts.knapsack` must know"));
}

#[test]
fn a_warm_up_longer_than_the_run_is_told() {
    let notes = |steps: usize| {
        let sets =
            ["run.steps=4".to_owned(), format!("optim.warmup_steps={steps}"), "train.online.epochs=2".to_owned()];
        Config::parse("run.toml", ONLINE, &sets).unwrap_or_else(|e| panic!("{e}")).notes
    };
    assert!(notes(8).is_empty());
    assert!(notes(9)[0].starts_with("`optim.warmup_steps` = 9 is more than the run's 8 optimiser steps"));
}

#[test]
fn adapters_name_layers_that_there_are() {
    let message = refused(ONLINE, &["model.lora.targets=['q_prj']"]);
    assert!(message.starts_with("`model.lora.targets` names `q_prj`: did you mean `q_proj`?"), "{message}");
}

#[test]
fn a_reference_that_moves_is_the_policys_own_and_whole() {
    let kl = &["objective.grpo.beta=0.1"][..];
    let with = |sets: &[&'static str]| refused(ONLINE, &[kl, sets].concat());
    assert!(with(&["model.reference.mixup_alpha=0.1"]).starts_with("nothing reads `model.reference.mixup_alpha`"));
    assert!(with(&["model.reference.sync_steps=0"]).contains("must be a whole number >= 1"));
    assert!(with(&["model.reference={ sync_steps = 8, mixup_alpha = 0.0 }"]).contains("cannot be 0"));
    assert!(with(&["model.reference={ sync_steps = 8, path = 'other' }"]).contains("the policy's own checkpoint"));
    assert!(with(&["model.reference.sync_steps=8", "model.lora.rank=4"]).contains("full fine-tuning"));
}

const REGENERATING: &str = r#"
[model]
path = "model"
[data]
train = "prompts.jsonl"
[reward.math]
[objective.simpo]
[train.offline]
epochs = 3
[train.offline.regenerate]
"#;

#[test]
fn own_pairs_need_rewards_an_objective_and_an_epoch() {
    for set in ["objective.power_dl={}", "objective.orpo={}", "objective.cpo={}"] {
        Config::parse("run.toml", REGENERATING, &[set.into()]).unwrap_or_else(|e| panic!("{e}"));
    }
    for (set, message) in [
        ("objective.sft={}", "[train.offline.regenerate] makes pairs, and objective `sft` learns from demonstrations"),
        (
            "objective.reward_model={}",
            "[train.offline.regenerate] makes pairs, and objective `reward_model` trains a model that scores answers and gives none",
        ),
        ("train.offline.regenerate.start_epoch=3", "comes after the last epoch, 2 (the first is 0)"),
        ("train.offline.max_length=256", "answers of up to 256 tokens leave no room for a prompt"),
        ("train.offline.regenerate.weights={ format = 1.0 }", "which has no section: add [reward.format]"),
        ("train.offline.regenerate.weights={ math = 0.0 }", "gives every reward the weight 0"),
        ("train.offline.regenerate.temperature=0.0", "all answers to a prompt are the same"),
        ("train.offline.regenerate.min_margin=-1.0", "it is 0 or above"),
        ("train.offline.regenerate.weights={ math = inf }", "a weight is a number"),
        ("train.offline.regenerate.top_p=0.0", "up to 1"),
        ("train.offline.regenerate.samples=1", ">= 2"),
        ("reward.length={}", "pays for a length that nothing states: set its `target`"),
    ] {
        let found = refused(REGENERATING, &[set]);
        assert!(found.contains(message), "{set}: {found}");
    }
    let message = refused(&without(REGENERATING, "reward.math"), &[]);
    assert_eq!(message, "missing section [reward]: [train.offline.regenerate] ranks answers by rewards");
    let given = REGENERATING.replace("[train.offline.regenerate]", "");
    assert!(refused(&given, &[]).starts_with("nothing reads [reward]"));
    let steps = ["run.steps=9".to_owned(), "train.offline.regenerate.start_epoch=3".to_owned()];
    Config::parse("run.toml", REGENERATING, &steps).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn labels_that_never_move_are_told() {
    let notes = |every: &str| {
        let sets = ["objective.power_dl={}".to_owned(), format!("train.offline.regenerate.every_epochs={every}")];
        Config::parse("run.toml", REGENERATING, &sets).unwrap().notes
    };
    let is_told = |notes: &[String]| notes.iter().any(|line| line.contains("labels start anew"));
    assert!(is_told(&notes("1")) && !is_told(&notes("2")) && !is_told(&notes("0")));
}
