//! Configs that are refused, with place and fix, and `--set`.

use crate::program::{Folder, ONLINE};

#[test]
fn an_unknown_key_is_shown_with_the_key_that_was_meant() {
    let text = ONLINE.replace("temperature = 1.0", "temprature = 1.0");
    assert_eq!(
        Folder::new().refuses(&text, &[]),
        "\
error: unknown key `temprature` in [rollout.discrete]: did you mean `temperature`?
  --> run.toml:17:1
17 | temprature = 1.0
   | ^^^^^^^^^^
   = keys: temperature, top_k, top_p, min_p, stop
"
    );
}

#[test]
fn a_key_of_another_section_is_found() {
    let text = ONLINE.replace("per_step = 4", "per_step = 4\nlearning_rate = 1e-5");
    assert_eq!(
        Folder::new().refuses(&text, &[]),
        "\
error: unknown key `learning_rate` in [prompts.shuffle]: did you mean `optim.learning_rate`?
 --> run.toml:9:1
9 | learning_rate = 1e-5
  | ^^^^^^^^^^^^^
  = keys: per_step
"
    );
}

#[test]
fn a_wrong_type_names_the_type_and_what_the_key_is_for() {
    let text = ONLINE.replace("limit = 64", "limit = \"64\"");
    let found = Folder::new().refuses(&text, &[]);
    let expected = "\
error: `budget.tokens.fixed.limit` must be a whole number >= 0, not the string \"64\"
  --> run.toml:14:9
14 | limit = \"64\"
   |         ^^^^
";
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn a_word_that_is_no_choice_lists_the_choices() {
    let text = ONLINE.replace("learning_rate = 1e-6", "schedule = \"liner\"");
    assert_eq!(
        Folder::new().refuses(&text, &[]),
        "\
error: `optim.schedule` cannot be \"liner\": did you mean `linear`?
  --> run.toml:26:12
26 | schedule = \"liner\"
   |            ^^^^^^^
   = choices: linear, cosine, constant, cooldown, table
"
    );
}

#[test]
fn two_variants_of_a_stage_are_explained() {
    let text = format!("{ONLINE}\n[objective.sft]\n");
    assert_eq!(
        Folder::new().refuses(&text, &[]),
        "\
error: [objective] has 2 variants: `grpo`, `sft`
  --> run.toml:28:12
28 | [objective.sft]
   |            ^^^
   = a stage has one variant: keep [objective.grpo] or [objective.sft]
"
    );
}

#[test]
fn an_unknown_variant_lists_the_variants() {
    let found = Folder::new().refuses(&ONLINE.replace("[objective.grpo]", "[objective.gpro]"), &[]);
    let expected = "\
error: unknown variant `gpro` of [objective]: did you mean [objective.grpo]?
  --> run.toml:23:12
23 | [objective.gpro]
   |            ^^^^
   = variants: grpo, sft";
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn a_missing_stage_is_named() {
    let found = Folder::new().refuses(&ONLINE.replace("[objective.grpo]", ""), &[]);
    let expected = "\
error: missing section [objective]: add [objective.grpo] or another variant
 --> run.toml
 = variants: grpo, sft";
    assert!(found.starts_with(expected), "{found}");
    let found = Folder::new().refuses(&ONLINE.replace("[advantage.group]", ""), &[]);
    assert_eq!(
        found,
        "\
error: missing section [advantage.group]: objective `grpo` learns from completions that it samples
 --> run.toml
 = add [advantage.group]
"
    );
}

#[test]
fn text_that_is_not_toml_is_shown() {
    let found = Folder::new().refuses(&ONLINE.replace("mean = 8", "mean = "), &[]);
    assert!(found.starts_with("error: not valid TOML: "), "{found}");
    assert!(found.contains("--> run.toml:11:"), "{found}");
}

#[test]
fn every_problem_is_reported_at_once_in_the_order_of_the_file() {
    let text = ONLINE.replace("per_step = 4", "per_stp = 4").replace("mean = 8", "mean = 1.5");
    let found = Folder::new().refuses(&text, &[]);
    let places: Vec<&str> = found.lines().filter(|l| l.contains("-->")).map(str::trim).collect();
    assert_eq!(places, ["--> run.toml:8:1", "--> run.toml:11:8"], "{found}");
}

#[test]
fn a_problem_that_the_command_line_made_is_shown_there() {
    let found = Folder::new().refuses(ONLINE, &["--set", "optim.learning_rat=1e-5"]);
    let expected = "\
error: unknown key `learning_rat` in [optim]: did you mean `learning_rate`?
 --> --set optim.learning_rat=1e-5
";
    assert!(found.starts_with(expected), "{found}");
    let found = Folder::new().refuses(ONLINE, &["--set", "objective.grpo.beta=0.04"]);
    let expected = "\
error: `objective.grpo` needs reference log-probs: add a [model.reference] section
";
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn set_changes_the_resolved_config_and_says_what_it_replaced() {
    let folder = Folder::new();
    folder.write_model();
    folder.write("run.toml", ONLINE);
    let sets = ["--set", "optim.learning_rate=2e-5", "--set", "advantage.rloo={}", "--set", "run.name=other"];
    let done = folder.run(&[&["check", "run.toml"], &sets[..]].concat());
    assert_eq!(done.status, 0, "{}", done.stderr);
    for line in ["learning_rate = 2e-5", "[advantage.rloo", "name = \"other\""] {
        assert!(done.stdout.contains(line), "{line}:\n{}", done.stdout);
    }
    assert!(!done.stdout.contains("[advantage.group"));
    assert_eq!(done.stderr, "note: --set advantage.rloo replaces [advantage.group] of the file, with all its keys\n");
}

#[test]
fn check_prints_the_arithmetic_of_a_step_and_the_memory() {
    let folder = Folder::new();
    folder.write_model();
    folder.write("run.toml", ONLINE);
    let done = folder.run(&["check", "run.toml"]);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    for line in [
        "          4  prompts             prompts.shuffle",
        "        x 8  rollouts each       budget.rollouts.uniform",
        "       = 32  completions",
        "       x 64  tokens at most      budget.tokens.fixed",
        "     = 2048  new tokens at most",
        "        100  steps            the default",
        "       3200  completions",
    ] {
        assert!(done.stdout.lines().any(|l| l == line), "`{line}` is not in\n{}", done.stdout);
    }
    // 1000 x 64 + 2 (2 x 64 x 64 + 2 x 64 x 32 + 3 x 64 x 128 + 2 x 64) + 64 = 138,048 parameters.
    assert!(done.stdout.contains("0.1 M x 4 bytes"), "{}", done.stdout);
    assert!(done.stdout.contains("\npeak: "), "{}", done.stdout);
    assert!(!folder.path().join("runs").exists(), "check writes nothing");
}

#[test]
fn the_resolved_file_is_a_config_that_resolves_to_itself() {
    let folder = Folder::new();
    folder.write_model();
    folder.write("run.toml", ONLINE);
    let resolved = |stdout: String| stdout.split("\na step\n").next().expect("the arithmetic follows").to_owned();
    let first = resolved(folder.run(&["check", "run.toml"]).stdout);
    folder.write("again.toml", &first);
    let done = folder.run(&["check", "again.toml"]);
    assert_eq!((done.status, done.stderr.as_str()), (0, ""));
    assert_eq!(resolved(done.stdout), first);
}
