//! Forms of data, faults, and batches, on the quickstart's tokenizer.

use std::path::Path;

use serde_json::Map;

use super::super::audit::Fault;
use super::*;
use crate::data::{DataConfig, Split};
use crate::hub::Hub;
use crate::model::chat_template::ChatTemplate;
use crate::model::tokenizer::Tokenizer;

const PAIRS: Rows = Rows::Pairs { with_prompt: false };

/// The examples of JSON lines, or why they are refused.
fn read(lines: &[&str], rows: Rows, max_length: usize, cuts: bool) -> Result<Examples> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let config = DataConfig { train: Some(path.display().to_string()), ..DataConfig::default() };
    let dataset = crate::data::load(&config, &Hub::from_env(), Split::Train)?;
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart");
    let renderer = Arc::new(Renderer::new(&config, Tokenizer::from_folder(&model)?, None, Map::new(), None));
    let reading = Reading { rows, max_length, cuts, columns: config.columns.clone(), seed: 0, objective: "test" };
    Examples::read(dataset, &renderer, &reading)
}

fn refused(lines: &[&str], rows: Rows) -> String {
    format!("{:#}", read(lines, rows, 100, true).expect_err("refused"))
}

const GOOD: &str = r#"{"id": "good", "prompt": "1+2=", "chosen": "3", "rejected": "45"}"#;

#[test]
fn faults_are_counted_named_and_left_out() {
    let rows = [
        GOOD,
        r#"{"id": "same", "prompt": "1+3=", "chosen": "4", "rejected": "4"}"#,
        r#"{"id": "empty", "prompt": "1+4=", "chosen": "5", "rejected": ""}"#,
        r#"{"id": "long", "prompt": "1+2+3+4+5+6+7+8=", "chosen": "36", "rejected": "35"}"#,
        r#"{"id": "cut", "prompt": "1+5=", "chosen": "1+5=6;6", "rejected": "7"}"#,
        r#"{"id": "cut to the same", "prompt": "1+5=", "chosen": "1+5=61", "rejected": "1+5=62"}"#,
        r#"{"id": "tied", "prompt": "1+6=", "chosen": "7", "rejected": "8", "label": 0.5, "margin": 2}"#,
    ];
    let found = read(&rows, PAIRS, 9, true).unwrap();
    let ids: Vec<&str> = found.held().iter().map(|g| g.id.as_str()).collect();
    assert_eq!(ids, ["good", "cut", "tied"]);
    let audit = &found.audit;
    assert_eq!((audit.read, audit.kept, audit.tied, audit.cut), (7, 3, 1, 3));
    assert_eq!(audit.names[&Fault::Identical], ["same", "cut to the same"]);
    assert_eq!(audit.names[&Fault::Empty], ["empty"]);
    assert_eq!(audit.names[&Fault::PromptTooLong], ["long"]);
    assert!(audit.lines().iter().any(|l| l.contains("`empty`")), "{:?}", audit.lines());
    assert_eq!((found.held()[2].label, found.held()[2].margin), (Some(0.5), Some(2.0)));
    // Where nothing may be cut, the long ones are left out instead.
    let whole = read(&rows, PAIRS, 9, false).unwrap();
    assert_eq!(whole.audit.dropped[&Fault::TooLong], 3);
    assert_eq!(whole.audit.cut, 0);
}

#[test]
fn batches_alternate_sides_with_masks_after_the_prompt() {
    let second = r#"{"prompt": "7+1=", "chosen": "8", "rejected": "9", "label": 0.75}"#;
    let examples = read(&[GOOD, second], PAIRS, 100, true).unwrap();
    let batch = examples.batch(&[1, 0]).unwrap();
    assert_eq!(batch.role, [Role::Chosen, Role::Rejected, Role::Chosen, Role::Rejected]);
    assert_eq!((batch.group.as_slice(), batch.pair[0], batch.pair[2]), ([0, 0, 1, 1].as_slice(), Some(1), Some(0)));
    assert_eq!((batch.label[0], batch.label[2]), (Some(0.75), None));
    assert_eq!(batch.tokens[2][..batch.prompt_len[2]], batch.tokens[3][..batch.prompt_len[3]]);
    assert_eq!(batch.row_tokens(3), (batch.tokens[3].len() - batch.prompt_len[3]) as f64, "the end is learnt");
    let with_prompt = read(&[GOOD], Rows::Pairs { with_prompt: true }, 100, true).unwrap().batch(&[0]).unwrap();
    assert_eq!(with_prompt.role[2], Role::Prompt);
    assert_eq!(with_prompt.row_tokens(2), (with_prompt.prompt_len[0] - 1) as f64);
}

#[test]
fn marked_answers_come_from_labels_or_from_pairs() {
    let rows = [
        r#"{"prompt": "1+2=", "completion": "3", "label": true}"#,
        r#"{"prompt": "4+4=", "completion": "9", "label": 0}"#,
        GOOD,
    ];
    let labelled = Rows::Labelled { with_mismatched: true };
    let found = read(&rows, labelled, 100, true).unwrap();
    assert_eq!((found.audit.desirable, found.audit.undesirable), (2, 2));
    let batch = found.batch(&[0, 1]).unwrap();
    assert_eq!(batch.role, [Role::Desirable, Role::Mismatched, Role::Undesirable, Role::Mismatched]);
    // The first prompt meets the answer of the last row with another prompt, around the end.
    let answer = |row: usize| batch.tokens[row][batch.prompt_len[row]..].to_vec();
    assert_eq!(answer(1), answer(2));
    assert_eq!(answer(3), answer(0));
    assert!(refused(&[r#"{"prompt": "1", "completion": "3", "label": "yes"}"#], labelled).contains("marks no answer"));
    assert!(refused(&[r#"{"prompt": "1", "completion": "3"}"#], labelled).contains("no field `label`"));
    assert!(refused(&[GOOD], labelled).contains("same prompt"));
}

#[test]
fn comparisons_join_passing_answers_with_failing_and_passing_ones() {
    let rows = [
        r#"{"prompt": "1+2=", "completion": "3", "label": true}"#,
        r#"{"prompt": "4+4=", "completion": "8", "label": true}"#,
        r#"{"prompt": "4+5=", "completion": "8", "label": false}"#,
    ];
    let found = read(&rows, Rows::PassFail, 100, false).unwrap();
    assert_eq!(found.len(), 4);
    for group in found.held() {
        assert_eq!(group.rows[0].role, Role::Desirable, "a comparison begins with a passing answer");
        assert_ne!(group.rows[0].tokens, group.rows[1].tokens);
    }
    assert!(refused(&rows[..2], Rows::PassFail).contains("both kinds"));
}

#[test]
fn what_cannot_be_learnt_from_is_refused_by_name() {
    let label = r#"{"id": "far", "prompt": "1+2=", "chosen": "3", "rejected": "4", "label": 1.5}"#;
    assert!(refused(&[label], PAIRS).contains("row `far`"));
    assert!(refused(&[r#"{"prompt": "1+2=", "completion": "3"}"#], PAIRS).contains("learns from pairs"));
    assert!(refused(&[GOOD], Rows::Demonstrations).contains("learns from completions"));
    let same = r#"{"prompt": "1+3=", "chosen": "4", "rejected": "4"}"#;
    assert!(refused(&[same], PAIRS).contains("1 have equal answers"));
}

const LIST: &str =
    r#"{"id": "list", "prompt": "1+2=", "candidates": ["3", "45", "", "3", "6"], "scores": [2, 0.5, 1, 1, 0.5]}"#;

#[test]
fn lists_keep_what_can_be_compared_with_its_worth() {
    let pair = r#"{"prompt": "7+1=", "chosen": "8", "rejected": "9", "label": 0.75}"#;
    let few = r#"{"id": "few", "prompt": "1+2=", "candidates": ["3", "3"], "ranks": [1, 2]}"#;
    let examples = read(&[LIST, few, pair], Rows::Lists, 100, true).unwrap();
    let audit = &examples.audit;
    assert_eq!((audit.kept, audit.tied, audit.dropped[&Fault::Empty], audit.dropped[&Fault::TooFew]), (2, 1, 1, 1));
    let batch = examples.batch(&[1, 0]).unwrap();
    assert_eq!(batch.group, [0, 0, 1, 1, 1]);
    assert!(batch.role.iter().all(|role| *role == Role::Ranked));
    assert_eq!(batch.label, [Some(0.75), Some(0.25), None, None, None]);
    let Some(Advantages::Row(utilities)) = batch.advantage else { panic!() };
    assert_eq!(utilities, [0.75, 0.25, 2.0, 0.5, 0.5]);
    assert!(refused(&[r#"{"prompt": "1+2=", "completion": "3"}"#], Rows::Lists).contains("learns from lists"));
}

#[test]
fn a_list_is_every_pair_of_unequal_worth() {
    let pairs = read(&[LIST], PAIRS, 100, true).unwrap();
    let ids: Vec<&str> = pairs.held().iter().map(|g| g.id.as_str()).collect();
    assert_eq!(ids, ["list:1>2", "list:1>3"], "the two of equal score are not compared");
    assert_eq!(pairs.held()[0].margin, Some(1.5));
    assert!(refused(&[LIST], Rows::Demonstrations).contains("learns from completions"));
}

/// Demonstrations of a JSONL file and of a JSON array, which is held.
fn demonstrations(rows: &[String], template: Option<&str>) -> [Examples; 2] {
    let folder = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart");
    [("rows.jsonl", rows.join("\n")), ("rows.json", format!("[{}]", rows.join(",")))].map(|(name, content)| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        let config = DataConfig { train: Some(path.display().to_string()), ..DataConfig::default() };
        let dataset = crate::data::load(&config, &Hub::from_env(), Split::Train).unwrap();
        let tokenizer = Tokenizer::from_folder(&model).unwrap();
        let template = template.map(|t| ChatTemplate::new(t, tokenizer.special().clone()).unwrap());
        let renderer = Arc::new(Renderer::new(&config, tokenizer, template, Map::new(), None));
        let columns = config.columns.clone();
        let rows = Rows::Demonstrations;
        let reading = Reading { rows, max_length: 12, cuts: false, columns, seed: 0, objective: "sft" };
        Examples::read(dataset, &renderer, &reading).unwrap()
    })
}

#[test]
fn demonstrations_on_disk_are_those_in_memory() {
    let rows: Vec<String> = (0..3000)
        .map(|i| match i % 7 {
            6 => format!("{{\"id\": \"long {i}\", \"prompt\": \"1+2+3+4+5=\", \"completion\": \"15;{i}\"}}"),
            _ => format!("{{\"prompt\": \"{i}+1=\", \"completion\": \"{}\"}}", i + 1),
        })
        .collect();
    let [on_disk, held] = demonstrations(&rows, None);
    assert!(on_disk.held().is_empty() && held.held().len() == 2572);
    assert_eq!((on_disk.len(), on_disk.audit.read), (2572, 3000));
    assert_eq!(on_disk.audit.dropped, held.audit.dropped);
    assert_eq!(on_disk.audit.names, held.audit.names);
    let chosen = [2571, 6, 0, 1300];
    let (a, b) = (on_disk.batch(&chosen).unwrap(), held.batch(&chosen).unwrap());
    assert_eq!((&a.tokens, &a.prompt_len, &a.mask, &a.pair), (&b.tokens, &b.prompt_len, &b.mask, &b.pair));
}

#[test]
fn only_the_assistants_turns_of_a_conversation_are_learnt() {
    let marked = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}${% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    let turn = |role: &str, content: &str| format!("{{\"role\": \"{role}\", \"content\": \"{content}\"}}");
    let turns = [turn("user", "1+2="), turn("assistant", "3"), turn("user", "4+4="), turn("assistant", "8")];
    let row = format!("{{\"messages\": [{}]}}", turns.join(", "));
    for examples in demonstrations(&[row], Some(marked)) {
        let batch = examples.batch(&[0]).unwrap();
        // 1+2= 3$ 4+4= 8$, of which the answers and their ends count.
        assert_eq!((batch.tokens[0].len(), batch.prompt_len[0]), (12, 4));
        assert_eq!(batch.mask.row(0), [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    }
}

/// Token ids as they were sampled: no end is added to what was cut off, and faults are those of given pairs.
#[test]
fn own_answers_are_taken_as_they_were_sampled() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quickstart");
    let config = DataConfig::default();
    let renderer = Renderer::new(&config, Tokenizer::from_folder(&model).unwrap(), None, Map::new(), None);
    let reading =
        |rows| Reading { rows, max_length: 6, cuts: true, columns: config.columns.clone(), seed: 0, objective: "test" };
    let pair = |id: &str, chosen: &[u32], rejected: &[u32]| Sampled {
        id: id.into(),
        prompt: vec![3, 4, 5],
        answers: [chosen.to_vec(), rejected.to_vec()],
        cut: usize::from(id == "cut"),
        margin: 0.5,
    };
    let pairs = vec![
        pair("cut", &[6, 1], &[7, 7, 7]),
        pair("same", &[6, 1], &[6, 1]),
        pair("empty", &[6, 1], &[1]),
        pair("good", &[8, 1], &[9, 9, 1]),
    ];
    let own = |rows| Examples::of_own(pairs.clone(), &renderer, &reading(rows), 40).unwrap();
    let found = own(PAIRS);
    let audit = &found.audit;
    assert_eq!((audit.read, audit.kept, audit.cut), (4, 2, 1));
    assert_eq!((audit.dropped[&Fault::Identical], audit.dropped[&Fault::Empty]), (1, 1));
    let batch = found.batch(&[1, 0]).unwrap();
    assert_eq!((batch.pair[0], batch.pair[2], batch.margin[0]), (Some(41), Some(40), Some(0.5)));
    assert_eq!((batch.tokens[3].as_slice(), batch.prompt_len[3]), ([3, 4, 5, 7, 7, 7].as_slice(), 3));
    assert_eq!(own(Rows::Pairs { with_prompt: true }).batch(&[0]).unwrap().role[2], Role::Prompt);
    assert_eq!(own(Rows::Lists).batch(&[0]).unwrap().label, [Some(1.0), Some(0.0)]);
    let marked = own(Rows::Labelled { with_mismatched: false });
    assert_eq!((marked.len(), marked.audit.desirable, marked.audit.undesirable), (4, 2, 2));
    let ties = vec![pair("same", &[6, 1], &[6, 1])];
    assert!(Examples::of_own(ties, &renderer, &reading(PAIRS), 0).unwrap().is_empty());
}
