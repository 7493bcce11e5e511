use super::*;

fn write(name: &str, content: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path.to_str().unwrap().to_string())
}

fn rows(count: usize) -> String {
    (0..count).map(|at| format!("{{\"question\": \"What is {at} + 1?\", \"answer\": \"{}\"}}\n", at + 1)).collect()
}

fn config(train: &str) -> DataConfig {
    DataConfig { train: Some(train.into()), ..DataConfig::default() }
}

fn hub() -> Hub {
    Hub { offline: true, ..Hub::default() }
}

fn texts(set: &Dataset) -> Vec<String> {
    set.problems().unwrap().into_iter().map(|problem| problem.text).collect()
}

#[test]
fn a_file_is_loaded_in_order() {
    let (_folder, path) = write("a.jsonl", &rows(5));
    let set = load(&config(&path), &hub(), Split::Train).unwrap();
    assert_eq!(set.len(), 5);
    assert_eq!(set.problems().unwrap()[4].answer.as_deref(), Some("5"));
    assert_eq!(set.files, [PathBuf::from(&path)]);
    let limited = load(&DataConfig { limit: Some(2), ..config(&path) }, &hub(), Split::Train).unwrap();
    assert_eq!(texts(&limited), texts(&set)[..2]);
}

#[test]
fn validation_is_disjoint_and_complete() {
    let (_folder, path) = write("a.jsonl", &(rows(400) + &rows(30)));
    for (validation, expected) in [(Validation::Share(0.25), None), (Validation::Count(40), Some(40))] {
        let config = DataConfig { validation: Some(validation), ..config(&path) };
        let train = load(&config, &hub(), Split::Train).unwrap();
        let held_out = load(&config, &hub(), Split::Validation).unwrap();
        assert_eq!(train.len() + held_out.len(), 430);
        let train: std::collections::HashSet<String> = texts(&train).into_iter().collect();
        let held_out: std::collections::HashSet<String> = texts(&held_out).into_iter().collect();
        assert!(train.is_disjoint(&held_out));
        match expected {
            Some(count) => assert_eq!(held_out.len(), count),
            // Binomial, n = 400, p = 0.25: standard deviation 8.7.
            None => assert!((60..140).contains(&held_out.len()), "{}", held_out.len()),
        }
    }
}

#[test]
fn a_validation_source_takes_its_problems_out_of_training() {
    let (_a, train) = write("train.jsonl", &rows(20));
    let (_b, test) = write("test.jsonl", &rows(3));
    let config = DataConfig { validation: Some(Validation::Source(test)), ..config(&train) };
    assert_eq!(load(&config, &hub(), Split::Train).unwrap().len(), 17);
    assert_eq!(load(&config, &hub(), Split::Validation).unwrap().len(), 3);
}

#[test]
fn generated_problems_need_no_file() {
    let config = DataConfig { validation: Some(Validation::Count(5)), ..config("generated:addition") };
    let train = load(&config, &hub(), Split::Train).unwrap();
    let held_out = load(&config, &hub(), Split::Validation).unwrap();
    assert_eq!(held_out.len(), 5);
    assert!(train.len() > 50);
    let other = DataConfig { validation: Some(Validation::Source("generated:addition".into())), ..config.clone() };
    let held_out = texts(&load(&other, &hub(), Split::Validation).unwrap());
    let train = texts(&load(&other, &hub(), Split::Train).unwrap());
    assert!(held_out.iter().all(|text| !train.contains(text)));
    assert_eq!(train.len() + held_out.len(), 81);
}

#[test]
fn a_source_is_loaded_by_itself_for_evaluation() {
    let (_folder, path) = write("a.jsonl", &rows(5));
    let config = DataConfig { validation: Some(Validation::Share(0.05)), ..config("generated:sums") };
    assert_eq!(load_source(&config, &hub(), &path).unwrap().len(), 5);
    let held_out = load_source(&config, &hub(), "generated:sums").unwrap();
    let train = texts(&load(&config, &hub(), Split::Train).unwrap());
    assert!(held_out.len() > 500);
    assert!(texts(&held_out).iter().all(|text| !train.contains(text)));
}

#[test]
fn errors_name_file_and_line() {
    let (_folder, path) = write("a.jsonl", "{\"question\": \"a\", \"answer\": \"1\"}\n\n{\"question\": 7}\n");
    let error = format!("{:#}", load(&config(&path), &hub(), Split::Train).unwrap_err());
    assert!(error.ends_with("a.jsonl:3: field `question` must be a string, found a number"), "{error}");
    let (_folder, path) = write("a.jsonl", "");
    let error = load(&config(&path), &hub(), Split::Train).unwrap_err().to_string();
    assert!(error.ends_with("a.jsonl` is empty"), "{error}");
}

#[test]
fn impossible_configurations_are_refused() {
    let refused = |config: &DataConfig, split: Split, expected: &str| {
        let error = format!("{:#}", load(config, &hub(), split).unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    let (_folder, path) = write("a.jsonl", &rows(3));
    refused(&DataConfig::default(), Split::Train, "set `data.train`");
    refused(&config(&path), Split::Validation, "set `data.validation`");
    let template = DataConfig { template: Some("no place".into()), ..config(&path) };
    refused(&template, Split::Train, "`data.template` must contain `{problem}`");
    refused(&DataConfig { limit: Some(0), ..config(&path) }, Split::Train, "`data.limit` must be at least 1");
    let all = DataConfig { validation: Some(Validation::Count(3)), ..config(&path) };
    refused(&all, Split::Train, "cannot hold out `3` problems of `3` distinct ones");
    let text = write("t.jsonl", "{\"text\": \"Once upon a time\"}\n");
    let set = load(&config(&text.1), &hub(), Split::Train).unwrap();
    assert!(set.problems().unwrap_err().to_string().contains("is of form `text` and has no prompt"));
}

#[test]
fn the_section_reads_from_toml_and_refuses_what_it_does_not_know() {
    let text = "train = \"generated:sums\"\nvalidation = 0.1\nsystem = \"\"\nseed = 3\n\
                [generated]\nstyle = \"bare\"\n[generated.demonstrations]\nverbose = 1.0\n[columns]\nanswer = \"a\"\n";
    let config: DataConfig = toml::from_str(text).unwrap();
    assert_eq!(config.validation, Some(Validation::Share(0.1)));
    assert_eq!(config.columns.answer.as_deref(), Some("a"));
    let again: DataConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    for (text, expected) in [
        ("train = \"x\"\ntrian = 1", "unknown field `trian`"),
        ("validation = 1.5", "a share above 0 and below 1, a number of problems, or a data source"),
        ("validation = 0", "a share above 0 and below 1"),
        ("validation = -1", "a share above 0 and below 1"),
        ("[generated]\nstyle = \"loud\"", "unknown variant `loud`"),
    ] {
        let error = toml::from_str::<DataConfig>(text).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("line"), "{error}");
    }
    assert_eq!(toml::from_str::<DataConfig>("validation = 20").unwrap().validation, Some(Validation::Count(20)));
    let schema = serde_json::to_string(&schemars::schema_for!(DataConfig)).unwrap();
    assert!(schema.contains("\"validation\"") && schema.contains("per_problem"));
}

/// The data beside the repository, where they are: every file is understood, and quickly.
#[test]
fn known_benchmarks_load() {
    let shared = std::env::var("CANDLEWICK_SHARED").unwrap_or_else(|_| "../shared".into());
    let folder = std::path::Path::new(&shared).join("data");
    if !folder.is_dir() {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: no `{}`", folder.display());
        }
        return;
    }
    for (name, count, form) in [
        ("gsm8k_train", 7473, "prompt-completion"),
        ("gsm8k_test", 1319, "prompt-completion"),
        ("math500", 500, "prompt-completion"),
        ("math_train4500", 4500, "prompt-completion"),
        ("aime24", 30, "prompt-completion"),
        ("aime25", 30, "prompt-completion"),
        ("amc23", 40, "prompt-only"),
        ("svamp", 1000, "prompt-only"),
        ("college_math_ccby", 1260, "prompt-only"),
        ("olympiadbench_en", 675, "prompt-completion"),
        ("preference_instruct", 1100, "preference"),
    ] {
        let path = folder.join(format!("{name}.jsonl"));
        let begun = std::time::Instant::now();
        let set = load(&config(path.to_str().unwrap()), &hub(), Split::Train).unwrap();
        assert!(begun.elapsed().as_secs_f64() < 2.0, "{name} took {:?}", begun.elapsed());
        assert_eq!((set.len(), set.get(0).unwrap().form()), (count, form), "{name}");
        if form != "preference" {
            let unanswered = set.problems().unwrap().iter().filter(|problem| problem.answer.is_none()).count();
            assert_eq!(unanswered, 0, "{name}");
        }
    }
}
