use super::*;
use serde_json::json;

fn read_with(config: &DataConfig, row: Json) -> Result<Example> {
    let Json::Object(row) = row else { panic!("a row is an object") };
    RowReader::new(config, "set").read(row, 3)
}

fn read(row: Json) -> Example {
    read_with(&DataConfig::default(), row).unwrap()
}

fn problem(example: &Example) -> &Problem {
    example.problem().unwrap()
}

fn user(text: &str) -> Prompt {
    Prompt::Messages(vec![Message::user(text)])
}

#[test]
fn gsm8k_is_understood() {
    let example = read(json!({"question": "How many?", "answer": "40+32 = <<40+32=72>>72\n#### 1,072"}));
    assert_eq!(problem(&example).answer.as_deref(), Some("1072"));
    assert_eq!(problem(&example).prompt, user("How many?"));
    assert_eq!(problem(&example).id, "set:3");
    let Example::Completion { completion: Reply::Messages(reply), .. } = &example else { panic!("{example:?}") };
    assert_eq!(reply[0].text(), "40+32 = <<40+32=72>>72\n#### 1,072");
}

#[test]
fn math_is_understood_with_and_without_an_answer() {
    let row =
        json!({"problem": "Solve.", "solution": "So $\\boxed{1}$, no: $\\boxed{\\frac{1}{2}}$.", "level": "Level 2"});
    let example = read(row);
    assert_eq!(problem(&example).answer.as_deref(), Some("\\frac{1}{2}"));
    assert_eq!(problem(&example).meta["level"], "Level 2");
    let example = read(json!({"problem": "Solve.", "solution": "x", "answer": "7", "unique_id": "test/1"}));
    assert_eq!(problem(&example).answer.as_deref(), Some("7"));
    assert_eq!(problem(&example).id, "test/1");
}

#[test]
fn benchmarks_are_understood() {
    let svamp =
        read(json!({"ID": "chal-1", "Body": "Each pack costs 76 dollars", "Question": "How much?", "Answer": 51.0}));
    assert_eq!(problem(&svamp).prompt, user("Each pack costs 76 dollars. How much?"));
    assert_eq!(problem(&svamp).answer.as_deref(), Some("51"));
    let olympiad =
        read(json!({"id": 1606, "question": "Q", "final_answer": ["2", "3"], "solution": ["first", "second"]}));
    assert_eq!(problem(&olympiad).answer.as_deref(), Some("2, 3"));
    assert_eq!(problem(&olympiad).id, "1606");
    let aime = read(json!({"id": 60, "problem": "P", "question": "P", "answer": "204"}));
    assert_eq!(problem(&aime).prompt, user("P"));
    assert!(!problem(&aime).meta.contains_key("question"));
}

#[test]
fn prompts_keep_the_form_they_have() {
    let plain = read(json!({"prompt": "The sky is", "completion": " blue."}));
    let Example::Completion { problem, completion } = &plain else { panic!() };
    assert_eq!(problem.prompt, Prompt::Text("The sky is".into()));
    assert_eq!(*completion, Reply::Text(" blue.".into()));
    let chat = read(json!({
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": [{"role": "assistant", "content": "Hello"}]
    }));
    let Example::Completion { problem, completion } = &chat else { panic!() };
    assert_eq!(problem.prompt, user("Hi"));
    assert_eq!(*completion, Reply::Messages(vec![Message::assistant("Hello")]));
    let only = read(json!({"prompt": [{"role": "user", "content": "Hi"}], "answer": true}));
    assert_eq!(only.form(), "prompt-only");
    assert_eq!(super::tests::problem(&only).answer.as_deref(), Some("true"));
}

#[test]
fn preferences_explicit_and_implicit() {
    let explicit = read(json!({"instruction": "Spell", "input": "freind", "chosen": "friend", "rejected": "fiend"}));
    let Example::Preference { problem, chosen, .. } = &explicit else { panic!() };
    assert_eq!(problem.prompt, user("Spell\n\nfreind"));
    assert_eq!(*chosen, Reply::Messages(vec![Message::assistant("friend")]));

    // TRL, extract_prompt: the space before the first difference belongs to the replies.
    let implicit = read(json!({"chosen": "The sky is blue.", "rejected": "The sky is green."}));
    let Example::Preference { problem, chosen, rejected } = &implicit else { panic!() };
    assert_eq!(problem.prompt, Prompt::Text("The sky is".into()));
    assert_eq!((chosen, rejected), (&Reply::Text(" blue.".into()), &Reply::Text(" green.".into())));

    let turn = |text: &str| json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": text}]);
    // A prompt field beside whole conversations is the same prompt once more.
    let whole = read(json!({"prompt": "Hi", "chosen": turn("Hello"), "rejected": turn("No")}));
    let Example::Preference { problem, rejected, .. } = &whole else { panic!() };
    assert_eq!(problem.prompt, user("Hi"));
    assert_eq!(*rejected, Reply::Messages(vec![Message::assistant("No")]));
}

#[test]
fn language_modelling_and_conversations() {
    assert_eq!(read(json!({"text": "Once"})), Example::Text { id: "set:3".into(), text: "Once".into() });
    let example = read(json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}));
    assert_eq!(example.form(), "conversation");
    let question = read(json!({"messages": [{"role": "user", "content": "a"}], "answer": 3}));
    assert_eq!(problem(&question).answer.as_deref(), Some("3"));
}

#[test]
fn system_prompt_and_template_are_applied() {
    let config = DataConfig {
        system: Some("Think.".into()),
        template: Some("{problem} Answer in \\boxed{}.".into()),
        ..DataConfig::default()
    };
    let example = read_with(&config, json!({"problem": "1+1?"})).unwrap();
    let expected = vec![Message::system("Think."), Message::user("1+1? Answer in \\boxed{}.")];
    assert_eq!(problem(&example).prompt, Prompt::Messages(expected));
    assert_eq!(problem(&example).text, "1+1?");
    // The data's own system prompt stays.
    let own = json!([{"role": "system", "content": "Own."}, {"role": "user", "content": "Hi"}]);
    let example = read_with(&config, json!({"prompt": own})).unwrap();
    assert_eq!(problem(&example).prompt, Prompt::Messages(vec![Message::system("Own."), Message::user("Hi")]));
    let plain = DataConfig { conversational: Some(false), ..DataConfig::default() };
    let example = read_with(&plain, json!({"problem": "1+1?"})).unwrap();
    assert_eq!(problem(&example).prompt, Prompt::Text("1+1?".into()));
}

#[test]
fn columns_can_be_named() {
    let columns =
        Columns { problem: Some("q".into()), answer: Some("reward_model.ground_truth".into()), ..Columns::default() };
    let config = DataConfig { columns, ..DataConfig::default() };
    let row = json!({"q": "1+1?", "prompt": "ignored", "reward_model": {"ground_truth": 2, "style": "rule"}});
    let example = read_with(&config, row).unwrap();
    assert_eq!(problem(&example).prompt, user("1+1?"));
    assert_eq!(problem(&example).answer.as_deref(), Some("2"));
    let error = read_with(&config, json!({"question": "1+1?"})).unwrap_err().to_string();
    assert_eq!(error, "no field `q` (columns.problem) among `question`");
}

#[test]
fn rows_that_make_no_sense_are_refused() {
    for (row, expected) in [
        (json!({"foo": 1, "bar": 2}), "no prompt, problem, messages or text among the fields `foo`, `bar`"),
        (json!({"question": 7}), "field `question` must be a string, found a number"),
        (json!({"question": "  "}), "field `question` is empty"),
        (json!({"question": "q", "answer": {"x": 1}}), "field `answer` must be a string or a number, found an object"),
        (
            json!({"prompt": [{"content": "x"}]}),
            "must be a list of messages with `role` and `content`: missing field `role`",
        ),
        (json!({"messages": []}), "field `messages` is an empty list"),
        (json!({"chosen": "a b", "rejected": "a"}), "beginning of the other"),
        (json!({"chosen": "a", "rejected": "b"}), "no common beginning"),
        (json!({"prompt": "p", "completion": [{"role": "assistant", "content": "x"}]}), "does not fit the prompt"),
    ] {
        let error = format!("{:#}", read_with(&DataConfig::default(), row).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn boxes_are_found() {
    assert_eq!(last_boxed("a \\boxed{{1}{2}} b").as_deref(), Some("{1}{2}"));
    assert_eq!(last_boxed("\\boxed{1} then \\fbox{2}").as_deref(), Some("2"));
    assert_eq!(last_boxed("\\boxed{1"), None);
    assert_eq!(last_boxed("none"), None);
}

#[test]
fn lists_hold_replies_and_what_each_is_worth() {
    let Example::Ranked { candidates, worth, problem } =
        read(json!({"prompt": "2+2=", "candidates": ["4", "5", "6"], "ranks": [1, 2, 2], "source": "x"}))
    else {
        panic!()
    };
    assert_eq!((candidates.len(), problem.text.as_str()), (3, "2+2="));
    assert_eq!(worth.utilities(), [1.0, 0.5, 0.5]);
    assert_eq!(worth.of(&[1, 2]), Worth::Ranks(vec![1.0, 1.0]));
    assert_eq!(problem.meta["source"], "x");
    assert_eq!(Worth::Probs(vec![0.5, 0.25, 0.25]).of(&[0, 2]), Worth::Probs(vec![2.0 / 3.0, 1.0 / 3.0]));
    let chat = read(json!({"problem": "2+2=?", "candidates": ["4", "5"], "scores": [1.5, -2]}));
    let Example::Ranked { candidates, .. } = chat else { panic!() };
    assert_eq!(candidates[1], Reply::Messages(vec![Message::assistant("5")]));
    for (row, expected) in [
        (json!({"prompt": "p", "candidates": ["a", "b"]}), "no `scores`, `probs` or `ranks`"),
        (json!({"prompt": "p", "candidates": ["a"], "scores": [1]}), "fewer than 2"),
        (json!({"prompt": "p", "candidates": ["a", "b"], "scores": [1]}), "1 values for 2 candidates"),
        (json!({"prompt": "p", "candidates": ["a", "b"], "scores": [1, "x"]}), "must be a list of numbers"),
        (json!({"prompt": "p", "candidates": ["a", "b"], "probs": [0.9, 0.9]}), "sum to 1"),
        (json!({"prompt": "p", "candidates": ["a", "b"], "ranks": [0, 1]}), "from 1 to 2"),
        (json!({"prompt": "p", "candidates": ["a", "b"], "ranks": [1, 2], "scores": [1, 2]}), "keep one"),
        (json!({"prompt": "p", "candidates": "a", "scores": [1]}), "must be a list of replies"),
    ] {
        let error = format!("{:#}", read_with(&DataConfig::default(), row.clone()).expect_err("refused"));
        assert!(error.contains(expected), "expected `{expected}` in `{error}` of {row}");
    }
}
