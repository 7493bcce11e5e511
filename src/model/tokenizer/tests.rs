use super::*;
use serde_json::json;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer")
}

/// A copy of the fixture whose other files can be changed.
fn folder(files: &[(&str, Json)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture().join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    folder
}

#[test]
fn text_becomes_the_ids_transformers_gives() {
    let tokenizer = Tokenizer::from_folder(&fixture()).unwrap();
    let cases = read_json(&fixture().join("cases.json")).unwrap().unwrap();
    for case in cases.as_array().unwrap() {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(case["text"].as_str().unwrap(), false).unwrap(), ids);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), case["decoded"].as_str().unwrap());
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), case["decoded_without_special"].as_str().unwrap());
        let offsets = tokenizer.encode_with_offsets(case["text"].as_str().unwrap()).unwrap();
        assert_eq!(offsets.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    }
}

#[test]
fn special_tokens_come_from_all_files() {
    let tokenizer = Tokenizer::from_folder(&fixture()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), &[2][..], 0));
    // The tokenizer's EOS first, then all of generation_config.json; config.json only without those.
    let folder_ = folder(&[
        ("tokenizer_config.json", json!({"eos_token": {"content": "<|im_end|>", "lstrip": false}})),
        ("generation_config.json", json!({"eos_token_id": [0, 2, 4], "pad_token_id": 3})),
        ("config.json", json!({"eos_token_id": 9, "bos_token_id": 1})),
    ]);
    let tokenizer = Tokenizer::from_folder(folder_.path()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), &[2, 0, 4][..], 3));
    assert!(tokenizer.is_eos(4) && !tokenizer.is_eos(9));
    let folder_ = folder(&[("config.json", json!({"eos_token_id": 9, "pad_token_id": null}))]);
    let tokenizer = Tokenizer::from_folder(folder_.path()).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (None, &[9][..], 9));
}

#[test]
fn a_wrong_tokenizer_is_a_clear_error() {
    let tokenizer = Tokenizer::from_folder(&fixture()).unwrap();
    assert_eq!(tokenizer.id_limit(), 96);
    for size in [96, 128, 192] {
        tokenizer.check_vocab(size).unwrap();
    }
    let error = tokenizer.check_vocab(95).unwrap_err().to_string();
    assert!(error.contains("has ids up to `95` but the model has `95` embedding rows"), "{error}");
    let error = tokenizer.check_vocab(49152).unwrap_err().to_string();
    assert!(error.contains("has only `96` ids for the model's `49152`"), "{error}");
    let folder_ = folder(&[("config.json", json!({"eos_token_id": 500}))]);
    let error = Tokenizer::from_folder(folder_.path()).unwrap().check_vocab(96).unwrap_err().to_string();
    assert!(error.contains("special token id `500`"), "{error}");
}

#[test]
fn folders_that_lack_something_are_refused() {
    let empty = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_folder(empty.path()).unwrap_err().to_string();
    assert!(error.starts_with("no `tokenizer.json` in"), "{error}");
    let refused = |files: &[(&str, Json)], expected: &str| {
        let folder = folder(files);
        let error = format!("{:#}", Tokenizer::from_folder(folder.path()).unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    refused(&[], "no eos token in");
    refused(
        &[("tokenizer_config.json", json!({"eos_token": "<gone>"}))],
        "the eos token `<gone>` is not in the vocabulary",
    );
    refused(
        &[("generation_config.json", json!({"eos_token_id": "two"}))],
        "`eos_token_id` must be a token id or a list",
    );
    let broken = folder(&[]);
    std::fs::write(broken.path().join("tokenizer.json"), "{\"version\": \"1.0\"").unwrap();
    let error = Tokenizer::from_folder(broken.path()).unwrap_err().to_string();
    assert!(error.contains("cannot read the tokenizer"), "{error}");
}

#[test]
fn padding_and_truncation_of_the_file_are_switched_off() {
    let folder = folder(&[("config.json", json!({"eos_token_id": 2}))]);
    let path = folder.path().join("tokenizer.json");
    let mut json: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
    json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
    std::fs::write(&path, json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    assert_eq!(tokenizer.encode("12 + 30", false).unwrap().len(), 7);
}

#[test]
fn files_are_copied_as_they_are() {
    let tokenizer = Tokenizer::from_folder(&fixture()).unwrap();
    let to = tempfile::tempdir().unwrap();
    tokenizer.copy_files(to.path()).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(std::fs::read(fixture().join(name)).unwrap(), std::fs::read(to.path().join(name)).unwrap());
    }
    assert!(!to.path().join("cases.json").exists());
    let error = tokenizer.copy_files(Path::new("no-such-folder")).unwrap_err().to_string();
    assert!(error.contains("cannot write `no-such-folder/tokenizer.json`"), "{error}");
}

/// A byte-level vocabulary, where one character may be several tokens: each byte its own id.
fn byte_level() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    // The byte-level alphabet: printable bytes stand for themselves, the others for U+0100 on.
    let printable =
        |byte: u32| (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte);
    let mut next = 256;
    let mut vocab = serde_json::Map::new();
    for byte in 0..256u32 {
        let code = if printable(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        vocab.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    vocab.insert("<end>".into(), json!(256));
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 256, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []}
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("config.json"), json!({"eos_token_id": 256}).to_string()).unwrap();
    folder
}

#[test]
fn streaming_gives_whole_characters_and_the_whole_text() {
    let folder = byte_level();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    for text in ["plain text", "Grüße, 世界 🙂 done", "é", "🙂🙂"] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(ids.len(), text.len(), "one id a byte");
        let mut stream = tokenizer.stream(true);
        let mut pieces = Vec::new();
        for id in ids {
            pieces.extend(stream.push(id).unwrap());
        }
        assert!(pieces.iter().all(|piece| !piece.contains(char::REPLACEMENT_CHARACTER)), "{pieces:?}");
        assert_eq!(pieces.len(), text.chars().count());
        assert_eq!(pieces.concat() + &stream.finish().unwrap(), text);
    }
}

#[test]
fn streaming_ends_with_what_was_held_back() {
    let folder = byte_level();
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    let mut stream = tokenizer.stream(true);
    // The first two bytes of a character of three.
    let ids = tokenizer.encode("a世", false).unwrap();
    assert_eq!(stream.push(ids[0]).unwrap().as_deref(), Some("a"));
    assert_eq!(stream.push(ids[1]).unwrap(), None);
    assert_eq!(stream.push(ids[2]).unwrap(), None);
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
    let mut stream = tokenizer.stream(true);
    assert_eq!(stream.push(256).unwrap(), None);
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn the_real_tokenizer_loads_quickly() {
    let shared = std::env::var("CANDLEWICK_SHARED").unwrap_or_else(|_| "../shared".into());
    let folder = Path::new(&shared).join("models/smollm2-135m-instruct");
    if !folder.is_dir() {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: no `{}`", folder.display());
        }
        return;
    }
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    tokenizer.check_vocab(49152).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), &[2][..], 2));
    let special = SpecialTokens::from_folder(&folder).unwrap();
    let template = super::super::chat_template::ChatTemplate::from_folder(&folder, special).unwrap().unwrap();
    assert_eq!(template.warnings(&tokenizer), [""; 0]);
    let options = super::super::chat_template::RenderOptions::prompt();
    let user = [super::super::chat_template::Message::user("What is 2 + 3? Answer with just the number.")];
    let text = template.render(&user, &options).unwrap();
    assert_eq!(
        text,
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nWhat is 2 + 3? Answer with just the number.<|im_end|>\n<|im_start|>assistant\n"
    );
    let ids = tokenizer.encode(&text, false).unwrap();
    assert_eq!(ids[0], 1);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    let (without, warning) = template.render_without_system(&user, &options).unwrap();
    assert_eq!(warning, None);
    assert!(without.starts_with("<|im_start|>user\nWhat"), "{without}");
}
