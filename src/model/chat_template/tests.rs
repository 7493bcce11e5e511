use super::*;
use crate::model::tokenizer::Tokenizer;
use serde_json::json;
use std::path::PathBuf;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, SpecialTokens::default()).unwrap()
}

fn special(tokens: &Json) -> SpecialTokens {
    let token = |name: &str| tokens[name].as_str().map(String::from);
    SpecialTokens {
        bos: token("bos_token"),
        eos: token("eos_token"),
        pad: token("pad_token"),
        unk: token("unk_token"),
        others: Vec::new(),
    }
}

fn messages(json: Json) -> Vec<Message> {
    serde_json::from_value(json).unwrap()
}

fn options(case: &Json) -> RenderOptions {
    RenderOptions {
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap_or(false),
        tools: case["tools"].as_array().cloned(),
        variables: case["kwargs"].as_object().cloned().unwrap_or_default(),
        now: case["now"].as_str().map(date_time),
    }
}

/// `2024-07-26T12:00:00`, whatever separates the numbers.
fn date_time(text: &str) -> PrimitiveDateTime {
    let numbers: Vec<u16> =
        text.split(|character: char| !character.is_ascii_digit()).map(|number| number.parse().unwrap()).collect();
    let [year, month, day, hour, minute, second] = numbers[..] else {
        panic!("`{text}` is not a date and a time");
    };
    let small = |number: u16| u8::try_from(number).unwrap();
    let month = time::Month::try_from(small(month)).unwrap();
    let date = time::Date::from_calendar_date(i32::from(year), month, small(day)).unwrap();
    date.with_hms(small(hour), small(minute), small(second)).unwrap()
}

/// Every case was rendered by transformers; tests/fixtures/make_text.py makes them.
#[test]
fn templates_render_as_in_transformers() {
    let mut count = 0;
    for entry in std::fs::read_dir(fixtures().join("chat_templates")).unwrap() {
        let folder = entry.unwrap().path();
        let source = std::fs::read_to_string(folder.join("template.jinja")).unwrap();
        let cases = read_json(&folder.join("cases.json")).unwrap().unwrap();
        let template = ChatTemplate::new(&source, special(&cases["special_tokens"])).unwrap();
        for case in cases["cases"].as_array().unwrap() {
            let name = format!("{}: {}", folder.display(), case["name"]);
            let rendered = template.render(&messages(case["messages"].clone()), &options(case));
            match (case["expected"].as_str(), case["error"].as_str()) {
                (Some(expected), None) => assert_eq!(rendered.unwrap(), expected, "{name}"),
                (None, Some(error)) => {
                    let found = rendered.unwrap_err().to_string();
                    assert_eq!(found, format!("the chat template refuses the conversation: {error}"), "{name}");
                }
                _ => panic!("{name}: a case has either text or error"),
            }
            count += 1;
        }
    }
    assert!(count >= 20, "only {count} cases");
}

#[test]
fn generation_marks_give_the_spans_transformers_gives() {
    let folder = fixtures().join("chat_templates/generation");
    let source = std::fs::read_to_string(folder.join("template.jinja")).unwrap();
    let cases = read_json(&folder.join("cases.json")).unwrap().unwrap();
    let template = ChatTemplate::new(&source, special(&cases["special_tokens"])).unwrap();
    assert!(template.has_generation_marks());
    for case in cases["cases"].as_array().unwrap() {
        let rendered = template.render_marked(&messages(case["messages"].clone()), &options(case)).unwrap();
        let texts: Vec<&str> = rendered.assistant.unwrap().into_iter().map(|span| &rendered.text[span]).collect();
        let expected: Vec<&str> =
            case["assistant_texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
        assert_eq!(texts, expected, "{}", case["name"]);
    }
}

// Right: jinja2 with trim_blocks and lstrip_blocks, the tags taken as those of a block.
#[test]
fn generation_tags_trim_as_blocks_do() {
    let source = "a\n  {% generation %}\nb\n  {% endgeneration %}\nc{%- generation -%}\n d \n{%- endgeneration -%}\n e";
    let rendered = template(source).render_marked(&[], &RenderOptions::default()).unwrap();
    assert_eq!(rendered.text, "a\nb\ncde");
    assert_eq!(rendered.assistant.unwrap(), [2..4, 5..6]);
    assert_eq!(template("x").render_marked(&[], &RenderOptions::default()).unwrap().assistant, None);
}

#[test]
fn marks_that_cannot_be_followed_are_refused() {
    let source = "{% set x %}{% generation %}ab{% endgeneration %}{% endset %}{{ x }}{{ x }}";
    let twice = template(source).render_marked(&[], &RenderOptions::default()).unwrap();
    assert_eq!(twice.assistant.unwrap(), [0..2, 2..4]);
    let cut = "{% set x %}{% generation %}ab{% endgeneration %}{% endset %}{{ x[1:] }}";
    let error = template(cut).render_marked(&[], &RenderOptions::default()).unwrap_err().to_string();
    assert!(error.contains("generation marks of the chat template cannot be followed"), "{error}");
}

// Right: json.dumps(value, ensure_ascii=False, ...) of Python 3.
#[test]
fn tojson_writes_as_python_does() {
    let value = json!({"b": [1, 2.0, null, true], "a": "é<&'\"\n\u{1}", "e": {}, "l": []});
    let options =
        RenderOptions { variables: [("v".to_string(), value)].into_iter().collect(), ..RenderOptions::default() };
    for (source, expected) in [
        ("{{ v | tojson }}", r#"{"b": [1, 2.0, null, true], "a": "é<&'\"\n\u0001", "e": {}, "l": []}"#),
        ("{{ v.b | tojson(indent=2) }}", "[\n  1,\n  2.0,\n  null,\n  true\n]"),
        ("{{ v.a | tojson(ensure_ascii=true) }}", r#""\u00e9<&'\"\n\u0001""#),
        ("{{ v.b | tojson(separators=[',', ':']) }}", "[1,2.0,null,true]"),
        ("{{ {'z': 1, 'y': 2} | tojson(sort_keys=true) }}", r#"{"y": 2, "z": 1}"#),
    ] {
        assert_eq!(template(source).render(&[], &options).unwrap(), expected, "{source}");
    }
    let error = template("{{ gone | tojson }}").render(&[], &options).unwrap_err().to_string();
    assert!(error.contains("`tojson` cannot write a value of kind undefined"), "{error}");
}

// Right: jinja2 and Python's str.
#[test]
fn python_habits_of_templates() {
    for (source, expected) in [
        ("{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }}", "bc ab"),
        ("{{ 'a:b:c'.partition(':')[2] }} {{ 'a:b:c'.rpartition(':')[0] }}", "b:c a:b"),
        ("{{ 'a:b:c'.rsplit(':', 1)[0] }} {{ 'a:b:c'.split(':')[-1] }}", "a:b c"),
        ("{{ true }} {{ none }} {{ [1, 'a'] }}", "True None [1, 'a']"),
        ("{{ messages[::-1] | length }}", "0"),
        ("{% set ns = namespace(x=1) %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "4"),
        (
            "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        ("{{ {'a': 1}.get('b', 7) }}{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "7a1"),
        ("{{ tools is none }} {{ nothing is defined }}", "True False"),
    ] {
        assert_eq!(template(source).render(&[], &RenderOptions::default()).unwrap(), expected, "{source}");
    }
}

#[test]
fn errors_carry_the_template_s_words() {
    let refuse = template("{{ raise_exception('roles must alternate') }}");
    let error = refuse.render(&[], &RenderOptions::default()).unwrap_err().to_string();
    assert_eq!(error, "the chat template refuses the conversation: roles must alternate");
    let error = ChatTemplate::new("a\n{% if %}", SpecialTokens::default()).unwrap_err().to_string();
    assert!(error.contains("at line 2"), "{error}");
    let error = template("\n{{ none.x.y }}").render(&[], &RenderOptions::default()).unwrap_err().to_string();
    assert!(error.contains("the chat template fails at line 2"), "{error}");
}

#[test]
fn templates_are_found_where_checkpoints_keep_them() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let load = || ChatTemplate::from_folder(folder.path(), SpecialTokens::default());
    assert!(load().unwrap().is_none());
    write("tokenizer_config.json", r#"{"chat_template": "config"}"#);
    assert_eq!(load().unwrap().unwrap().source(), "config");
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]}"#,
    );
    let named = load().unwrap().unwrap();
    let with_tools = RenderOptions { tools: Some(vec![json!({})]), ..RenderOptions::default() };
    assert_eq!(named.render(&[], &with_tools).unwrap(), "tools");
    assert_eq!(named.render(&[], &RenderOptions::default()).unwrap(), "plain");
    write("chat_template.jinja", "file");
    assert_eq!(load().unwrap().unwrap().source(), "file");
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "a", "template": ""}, {"name": "b", "template": ""}]}"#,
    );
    assert!(format!("{:#}", load().unwrap_err()).contains("no chat template is named `default`, only a, b"));
    write("tokenizer_config.json", "{");
    assert!(load().unwrap_err().to_string().contains("is not valid JSON"));
}

const WITH_DEFAULT: &str = "{% if messages[0].role != 'system' %}<s>system\nBe kind.<e>\n{% endif %}{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}<e>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}";

#[test]
fn the_template_s_own_system_prompt_can_be_left_out() {
    let user = [Message::user("Hi")];
    let template_of = |source: &str, bos: &str| {
        let special = SpecialTokens { bos: Some(bos.into()), ..SpecialTokens::default() };
        ChatTemplate::new(source, special).unwrap()
    };
    let plain = template_of(WITH_DEFAULT, "<s>");
    let (text, warning) = plain.render_without_system(&user, &RenderOptions::prompt()).unwrap();
    assert_eq!((text.as_str(), warning), ("<s>user\nHi<e>\n<s>assistant\n", None));
    // A BOS of its own is kept.
    let with_bos = template_of(&format!("<b>{WITH_DEFAULT}"), "<b>");
    assert!(with_bos.render(&user, &RenderOptions::prompt()).unwrap().starts_with("<b><s>system"));
    let (text, _) = with_bos.render_without_system(&user, &RenderOptions::prompt()).unwrap();
    assert_eq!(text, "<b><s>user\nHi<e>\n<s>assistant\n");
    // An explicit system message stays.
    let own = [Message::system("Mine."), Message::user("Hi")];
    let (text, _) = plain.render_without_system(&own, &RenderOptions::default()).unwrap();
    assert_eq!(text, "<s>system\nMine.<e>\n<s>user\nHi<e>\n");
    // A template without one renders as before.
    let bare = template_of("{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}", "<b>");
    let (text, warning) = bare.render_without_system(&user, &RenderOptions::default()).unwrap();
    assert_eq!((text.as_str(), warning), ("[user]Hi", None));
    // Where turns must alternate it cannot be told.
    let strict = "{% if messages|length == 2 %}{{ raise_exception('alternate') }}{% endif %}{{ messages[0].content }}";
    let (_, warning) = template_of(strict, "<b>").render_without_system(&user, &RenderOptions::default()).unwrap();
    assert!(warning.is_some());
}

#[test]
fn doubtful_templates_are_warned_of() {
    let tokenizer = Tokenizer::from_folder(&fixtures().join("tokenizer")).unwrap();
    let warnings = |source: &str| template(source).warnings(&tokenizer);
    assert_eq!(
        warnings("<|im_start|>user{{ messages[0].content }}{% if add_generation_prompt %}!{% endif %}"),
        [""; 0]
    );
    let none = warnings("{{ messages[0].content }}");
    assert!(none.len() == 1 && none[0].contains("no generation prompt"), "{none:?}");
    let twice = warnings("<|im_start|><|im_start|>{{ messages[0].content }}{% if add_generation_prompt %}!{% endif %}");
    assert!(twice.len() == 1 && twice[0].contains("BOS token twice"), "{twice:?}");
    let broken = warnings("{{ raise_exception('no') }}");
    assert!(broken[0].contains("cannot render one user message"), "{broken:?}");
}
