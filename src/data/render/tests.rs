use super::*;
use crate::model::tokenizer::SpecialTokens;
use std::path::Path;

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn tokenizer() -> Tokenizer {
    Tokenizer::from_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer")).unwrap()
}

fn renderer_with(config: &DataConfig, source: Option<&str>) -> Renderer {
    let template = source.map(|source| ChatTemplate::new(source, SpecialTokens::default()).unwrap());
    Renderer::new(config, tokenizer(), template, Map::new(), None)
}

fn renderer() -> Renderer {
    renderer_with(&DataConfig::default(), Some(CHATML))
}

fn problem(text: &str) -> Problem {
    Problem {
        id: text.into(),
        prompt: Prompt::Messages(vec![Message::user(text)]),
        text: text.into(),
        answer: None,
        meta: Map::new(),
    }
}

/// The text that is to be learnt.
fn learnt(tokens: &Tokens) -> String {
    assert_eq!(tokens.ids.len(), tokens.learnt.len());
    let ids: Vec<u32> =
        tokens.ids.iter().zip(&tokens.learnt).filter(|(_, learnt)| **learnt).map(|(&id, _)| id).collect();
    tokenizer().decode(&ids, false).unwrap()
}

#[test]
fn a_completion_is_learnt_with_its_eos_and_no_further() {
    let renderer = renderer();
    let prompt = Prompt::Messages(vec![Message::user("What is 2 + 3?")]);
    let tokens = renderer.completion(&prompt, &Reply::Messages(vec![Message::assistant("5")])).unwrap();
    assert_eq!(learnt(&tokens), "5<|im_end|>");
    // The prompt is exactly what sampling gets.
    let ids = renderer.prompt(&prompt).unwrap();
    assert_eq!(tokens.ids[..tokens.prompt_len()], ids);

    let plain = renderer.completion(&Prompt::Text("2+3=".into()), &Reply::Text("5".into())).unwrap();
    assert_eq!(learnt(&plain), "5<|im_end|>");
    let ended = renderer.completion(&Prompt::Text("2+3=".into()), &Reply::Text("5<|im_end|>\n".into())).unwrap();
    assert_eq!(ended, plain);
    let mixed = renderer.completion(&Prompt::Text("2+3=".into()), &Reply::Messages(vec![]));
    assert!(mixed.unwrap_err().to_string().contains("both be plain text or both be messages"));
}

#[test]
fn merges_across_the_border_do_not_change_the_prompt() {
    let renderer = renderer();
    // `th` is one token of this vocabulary, so prompt and completion together begin otherwise.
    let tokens = renderer.completion(&Prompt::Text("t".into()), &Reply::Text("he".into())).unwrap();
    assert_eq!(tokens.ids[..1], tokenizer().encode("t", false).unwrap());
    assert_eq!(learnt(&tokens), "he<|im_end|>");
}

#[test]
fn a_conversation_is_learnt_in_the_assistant_s_turns() {
    let messages = vec![
        Message::system("Be exact."),
        Message::user("2 + 3?"),
        Message::assistant("5"),
        Message::user("3 + 3?"),
        Message::assistant("6"),
    ];
    let example = Example::Conversation { id: "c".into(), messages };
    let marked = "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}";
    let Tokenised::Row(with_marks) = renderer_with(&DataConfig::default(), Some(marked)).example(&example).unwrap()
    else {
        panic!()
    };
    assert_eq!(learnt(&with_marks), "5<|im_end|>6<|im_end|>");
    let Tokenised::Row(without) = renderer().example(&example).unwrap() else { panic!() };
    assert_eq!(without.ids, with_marks.ids);
    // Without marks the line feed after an inner turn belongs to the turn.
    assert_eq!(learnt(&without), "5<|im_end|>\n6<|im_end|>");

    let forgetful = "{% for m in messages %}{{ '[' + m.role + ']' }}{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";
    let error = renderer_with(&DataConfig::default(), Some(forgetful)).example(&example).unwrap_err();
    assert!(format!("{error:#}").contains("renders earlier turns otherwise than later ones"), "{error:#}");
}

/// transformers' own mask under the same tokenizer and template; tests/fixtures/make_text.py makes the cases.
#[test]
fn the_mask_is_that_of_transformers_up_to_the_last_eos() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat_templates/generation");
    let source = std::fs::read_to_string(folder.join("template.jinja")).unwrap();
    let cases: Json = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let renderer = renderer_with(&DataConfig::default(), Some(&source));
    let mut count = 0;
    for case in cases["cases"].as_array().unwrap() {
        let mask: Vec<u8> = serde_json::from_value(case["assistant_mask"].clone()).unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        let Some(last) = mask.iter().rposition(|&bit| bit == 1) else {
            continue;
        };
        if case["add_generation_prompt"] == true {
            continue;
        }
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let tokens = renderer.conversation(&messages).unwrap();
        assert_eq!(tokens.ids, ids[..=last], "{}", case["name"]);
        assert_eq!(tokens.learnt, mask[..=last].iter().map(|&bit| bit == 1).collect::<Vec<_>>(), "{}", case["name"]);
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn pairs_and_texts() {
    let pair = Example::Preference {
        problem: problem("2 + 3?"),
        chosen: Reply::Messages(vec![Message::assistant("5")]),
        rejected: Reply::Messages(vec![Message::assistant("6")]),
    };
    let Tokenised::Pair { chosen, rejected } = renderer().example(&pair).unwrap() else { panic!() };
    assert_eq!((learnt(&chosen), learnt(&rejected)), ("5<|im_end|>".into(), "6<|im_end|>".into()));
    assert_eq!(chosen.prompt_len(), rejected.prompt_len());
    let text = Example::Text { id: "t".into(), text: "the end".into() };
    let Tokenised::Row(tokens) = renderer().example(&text).unwrap() else { panic!() };
    assert_eq!(learnt(&tokens), "the end<|im_end|>");
}

#[test]
fn long_prompts_are_left_out_and_counted() {
    let config = DataConfig { max_prompt_tokens: Some(40), ..DataConfig::default() };
    let renderer = renderer_with(&config, Some(CHATML));
    let problems = vec![problem("2 + 3?"), problem(&"9 + ".repeat(30)), problem("3 + 3?")];
    let prompts = renderer.prompts(problems.clone(), 1000).unwrap();
    assert_eq!((prompts.kept.len(), prompts.dropped), (2, 1));
    assert_eq!(prompts.kept[1].0.text, "3 + 3?");
    assert!(prompts.kept.iter().all(|(_, ids)| ids.len() <= 40));
    // The context of the model binds too.
    let error = renderer.prompts(problems, 5).unwrap_err().to_string();
    assert!(error.contains("all `3` prompts are longer than `5` tokens"), "{error}");
}

#[test]
fn prompts_with_two_bos_are_counted() {
    let plain = |text: &str| Problem { prompt: Prompt::Text(text.into()), ..problem(text) };
    let problems = vec![plain("<|im_start|><|im_start|>2+3="), plain("<|im_start|>2+3=")];
    let prompts = renderer().prompts(problems, 100).unwrap();
    assert_eq!((prompts.kept.len(), prompts.doubled_bos), (2, 1));
}

#[test]
fn an_empty_system_prompt_means_none() {
    let with_default = format!(
        "{{% if messages[0].role != 'system' %}}{{{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}}}{{% endif %}}{CHATML}"
    );
    let prompt = Prompt::Messages(vec![Message::user("Hi")]);
    let text = |system: Option<&str>| {
        let config = DataConfig { system: system.map(String::from), ..DataConfig::default() };
        renderer_with(&config, Some(&with_default)).text(&prompt).unwrap()
    };
    assert!(text(None).starts_with("<|im_start|>system\nBe kind."));
    assert_eq!(text(Some("")), "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    let config = DataConfig { system: Some(String::new()), ..DataConfig::default() };
    let renderer = renderer_with(&config, Some(&with_default));
    let tokens = renderer.completion(&prompt, &Reply::Messages(vec![Message::assistant("5")])).unwrap();
    assert_eq!(learnt(&tokens), "5<|im_end|>");
    assert!(!tokenizer().decode(&tokens.ids, false).unwrap().contains("Be kind."));
}

#[test]
fn messages_without_a_template_are_refused() {
    let error = renderer_with(&DataConfig::default(), None).text(&problem("x").prompt).unwrap_err().to_string();
    assert!(error.contains("has no chat template: set `data.conversational = false`"), "{error}");
    let error = renderer().prompt(&Prompt::Text(String::new())).unwrap_err().to_string();
    assert!(error.contains("has no tokens"), "{error}");
}
