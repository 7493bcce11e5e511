//! Rewards that hold a model: scores against PyTorch, and the rewards built on them.
//!
//! The fixtures and how they were made: `tests/fixtures/README.md`.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use candlewick::model::classifier::Classifier;
use candlewick::model::tokenizer::Tokenizer;
use candlewick::model::weights::Weights;
use candlewick::reward::LocalModels;
use candlewick::reward::verifier::Verifier;
use candlewick_rewards::reward::reward_model::RewardModelConfig;
use candlewick_rewards::reward::verification::{Said, VerdictConfig};
use candlewick_rewards::reward::verifier::VerifierConfig;
use candlewick_rewards::{ConfigError, Graded, Item, Rewards, RewardsConfig};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn fixture(name: &str) -> PathBuf {
    fixtures().join("reward_models").join(name)
}

/// A model of the fixtures together with the tokenizer of the fixtures.
pub(crate) fn with_tokenizer(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for from in [fixture(name), fixtures().join("tokenizer")] {
        for file in std::fs::read_dir(from).unwrap().flatten() {
            std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
    }
    folder
}

fn reference(name: &str) -> (Weights, Vec<Vec<u32>>) {
    let weights = Weights::open_files(&[fixture(name).join("reference.safetensors")]).unwrap();
    let rows = (0..3)
        .map(|i| weights.integers(&format!("tokens_{i}")).unwrap().into_iter().map(|t| t as u32).collect())
        .collect();
    (weights, rows)
}

fn table(weights: &Weights, name: &str) -> Vec<Vec<f64>> {
    weights.load_any(name, DType::F64).unwrap().to_vec2().unwrap()
}

#[test]
fn class_scores_match_pytorch() {
    for (name, labels) in [("llama", 1), ("qwen2", 2)] {
        let (weights, mut rows) = reference(name);
        let expected = table(&weights, "scores");
        rows.insert(1, Vec::new());
        for (dtype, tolerance) in [(DType::F64, 1e-11), (DType::F32, 1e-4)] {
            let model = Classifier::load(&fixture(name), dtype, &Device::Cpu).unwrap();
            for limit in [1, 30, 1000] {
                let mut scores = model.scores(&rows, limit).unwrap();
                assert_eq!(scores.remove(1), None, "an empty row has no score");
                for (row, expected) in scores.iter().zip(&expected) {
                    let row = row.as_ref().unwrap();
                    assert_eq!((row.len(), expected.len()), (labels, labels));
                    for (a, b) in row.iter().zip(expected) {
                        assert!((a - b).abs() < tolerance, "{name}, {dtype:?}, limit {limit}: {a} is not {b}");
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_no_classifier_is_refused() {
    let message = |folder: &Path| format!("{:#}", Classifier::load(folder, DType::F32, &Device::Cpu).unwrap_err());
    let found = message(&fixtures().join("models/llama"));
    assert!(found.contains("holds no `score.weight`"), "{found}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("llama").join("config.json"), folder.path().join("config.json")).unwrap();
    let head = Tensor::zeros((1, 31), DType::F32, &Device::Cpu).unwrap();
    let path = folder.path().join("model.safetensors");
    candlewick::model::weights::write_file(&path, &[("score.weight".into(), head)]).unwrap();
    let found = message(folder.path());
    assert!(found.contains("[1, 31]") && found.contains("[labels, 32]"), "{found}");
}

fn models() -> LocalModels {
    LocalModels { device: Device::Cpu, dtype: DType::F64 }
}

fn item(question: &str, completion: &str, answer: Option<&str>) -> Item {
    Item {
        question: question.into(),
        completion: completion.into(),
        answer: answer.map(str::to_owned),
        completion_tokens: completion.len(),
        ..Item::default()
    }
}

fn grade(rewards: &Rewards, items: &[Item]) -> (Graded, Vec<(String, f64)>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { (rewards.grade(items).await, rewards.figures(1).await) })
}

fn reward_model(change: impl FnOnce(&mut RewardModelConfig)) -> (Rewards, tempfile::TempDir) {
    let folder = with_tokenizer("qwen2");
    let mut config = RewardModelConfig { path: folder.path().display().to_string(), ..RewardModelConfig::default() };
    change(&mut config);
    let config = RewardsConfig { reward_model: Some(config), ..RewardsConfig::default() };
    (Rewards::load(&config, &models()).unwrap(), folder)
}

/// The score of the conversation as ChatML writes it, by the classifier alone.
fn by_hand(folder: &Path, question: &str, completion: &str) -> f64 {
    let text = format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{completion}<|im_end|>\n");
    let tokens = Tokenizer::from_folder(folder).unwrap().encode(&text, false).unwrap();
    let model = Classifier::load(folder, DType::F64, &Device::Cpu).unwrap();
    model.scores(&[tokens], 1000).unwrap()[0].as_ref().unwrap()[0]
}

#[test]
fn a_reward_model_scores_the_conversation_in_its_own_template() {
    let (rewards, folder) = reward_model(|_| {});
    let items = [item("1+1?", "2", None), item("1+1?", "3", None), item("1+1?", "2", None)];
    let (graded, figures) = grade(&rewards, &items);
    let scores: Vec<f64> = graded.scores[0].iter().map(|s| s.clone().unwrap()).collect();
    assert!((scores[0] - by_hand(folder.path(), "1+1?", "2")).abs() < 1e-12);
    assert!((scores[1] - by_hand(folder.path(), "1+1?", "3")).abs() < 1e-12);
    assert_eq!(scores[0], scores[2]);
    assert_eq!(figures[0], ("reward_model/truncated".to_owned(), 0.0));
}

#[test]
fn references_are_subtracted_and_missing_where_there_is_none() {
    let (rewards, folder) = reward_model(|c| c.subtract_reference = true);
    let (graded, _) = grade(&rewards, &[item("1+1?", "3", Some("2")), item("1+1?", "3", None)]);
    let expected = by_hand(folder.path(), "1+1?", "3") - by_hand(folder.path(), "1+1?", "2");
    assert!((graded.scores[0][0].clone().unwrap() - expected).abs() < 1e-12);
    assert!(graded.scores[0][1].as_ref().unwrap_err().to_string().contains("needs a reference answer"));
}

#[test]
fn too_long_conversations_keep_their_end_and_are_counted() {
    let (rewards, _folder) = reward_model(|_| {});
    let (graded, figures) = grade(&rewards, &[item("1+1?", &"x".repeat(500), None), item("1+1?", "2", None)]);
    assert!(graded.scores[0].iter().all(Result::is_ok), "{:?}", graded.scores);
    assert_eq!(figures[0], ("reward_model/truncated".to_owned(), 1.0));
    assert!(figures.iter().any(|(name, value)| name == "reward_model/length_correlation" && value.abs() > 0.99));
}

#[test]
fn a_model_that_cannot_be_loaded_names_its_section() {
    let config = RewardModelConfig { path: "/nowhere/at/all".into(), ..RewardModelConfig::default() };
    let config = RewardsConfig { reward_model: Some(config), ..RewardsConfig::default() };
    let error = Rewards::load(&config, &models()).err().unwrap();
    assert!(matches!(error, ConfigError::Unusable { .. }), "{error:?}");
    assert!(error.to_string().contains("[reward.reward_model]") && error.to_string().contains("/nowhere/at/all"));
}

fn verifier_config(folder: &Path) -> VerifierConfig {
    VerifierConfig {
        path: folder.display().to_string(),
        verdict: VerdictConfig {
            template: Some("{{ question }} {{ prediction }} {{ answer }}".into()),
            min_mass: 0.0,
            ..VerdictConfig::default()
        },
        is_chat: false,
        ..VerifierConfig::default()
    }
}

/// No token of the fixture spells YES or NO, so their first ones count: Y and N.
#[test]
fn golden_verdict_probabilities_match_pytorch() {
    let folder = with_tokenizer("verifier");
    let (weights, rows) = reference("verifier");
    let verifier = Verifier::load(folder.path(), verifier_config(folder.path()), DType::F64, &Device::Cpu).unwrap();
    let beliefs = verifier.beliefs(&rows).unwrap();
    for (belief, expected) in beliefs.iter().zip(table(&weights, "probabilities")) {
        assert!((belief.p_positive - expected[0]).abs() < 1e-12, "{belief:?}, {expected:?}");
        assert!((belief.p_negative - expected[1]).abs() < 1e-12, "{belief:?}, {expected:?}");
        assert_eq!(belief.said, Said::Neither);
    }
}

#[test]
fn a_verifier_scores_answers_asks_once_and_does_not_ask_without_one() {
    let folder = with_tokenizer("verifier");
    let config = verifier_config(folder.path());
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let alone = Verifier::load(folder.path(), config.clone(), DType::F64, &Device::Cpu).unwrap();
    let belief = alone.beliefs(&[tokenizer.encode("1+1? 2 3", true).unwrap()]).unwrap()[0];
    let expected = belief.p_positive / (belief.p_positive + belief.p_negative);
    let load = |config: VerifierConfig| {
        Rewards::load(&RewardsConfig { verifier: Some(config), ..RewardsConfig::default() }, &models()).unwrap()
    };
    let items = [
        item("1+1?", r"\boxed{2}", Some("3")),
        item("1+1?", r"so \boxed{2}", Some("3")),
        item("1+1?", "no idea", Some("3")),
        item("1+1?", r"\boxed{2}", None),
    ];
    let (graded, figures) = grade(&load(config.clone()), &items);
    assert!((graded.scores[0][0].clone().unwrap() - expected).abs() < 1e-12);
    assert_eq!(graded.scores[0][0], graded.scores[0][1]);
    assert_eq!(graded.scores[0][2], Ok(0.0));
    assert!(graded.scores[0][3].is_err());
    assert!(figures.contains(&("verifier/asked".into(), 1.0)), "{figures:?}");
    // Too little probability on the two words is a failure with its number.
    let strict =
        VerifierConfig { verdict: VerdictConfig { min_mass: 0.9, ..config.verdict.clone() }, ..config.clone() };
    let (graded, _) = grade(&load(strict), &items[..1]);
    assert!(graded.scores[0][0].as_ref().unwrap_err().to_string().contains("together have probability"));
    // Standardised over what is there: one value twice and a zero.
    let (graded, _) = grade(&load(VerifierConfig { zscore: true, ..config }), &items);
    let scores: Vec<f64> = graded.scores[0].iter().filter_map(|s| s.clone().ok()).collect();
    assert!(scores.iter().sum::<f64>().abs() < 1e-9 && scores[2] < 0.0, "{scores:?}");
}
