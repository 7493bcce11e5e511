use super::*;
use std::collections::HashMap;

fn config(options: GeneratedConfig) -> DataConfig {
    DataConfig { generated: options, ..DataConfig::default() }
}

fn problems(kind: Kind, config: &DataConfig, split: Split) -> Vec<Problem> {
    let examples = examples(kind, config, None, split).unwrap();
    examples.iter().map(|example| example.problem().unwrap().clone()).collect()
}

fn sorted_operands(problem: &Problem) -> Vec<i64> {
    let mut operands: Vec<i64> = serde_json::from_value(problem.meta["operands"].clone()).unwrap();
    operands.sort_unstable();
    operands
}

/// A second opinion on answers: operators in order, written without the generator's own steps.
fn evaluate(expression: &str) -> i128 {
    let words: Vec<&str> = expression.split(' ').collect();
    let number = |word: &str| word.parse::<i128>().unwrap();
    words[1..].chunks(2).fold(number(words[0]), |total, pair| match pair[0] {
        "+" => total + number(pair[1]),
        "-" => total - number(pair[1]),
        "*" => total * number(pair[1]),
        other => panic!("{other}"),
    })
}

#[test]
fn answers_are_right() {
    for kind in [Kind::Addition, Kind::Subtraction, Kind::Multiplication, Kind::Sums, Kind::Mixed] {
        let config = config(GeneratedConfig { digits: 2, count: Some(300), ..GeneratedConfig::default() });
        for problem in problems(kind, &config, Split::Train) {
            let expression = problem.text.strip_prefix("What is ").unwrap().split('?').next().unwrap();
            assert_eq!(problem.answer.unwrap(), evaluate(expression).to_string(), "{expression}");
        }
    }
    for problem in problems(Kind::Linear, &config(GeneratedConfig::default()), Split::Train) {
        let equation = problem.text.strip_prefix("Solve ").unwrap().split(" for").next().unwrap();
        let (left, c) = equation.split_once(" = ").unwrap();
        let (a, b) = left.split_once("x + ").unwrap();
        let (a, b, c): (i64, i64, i64) = (a.parse().unwrap(), b.parse().unwrap(), c.parse().unwrap());
        assert_eq!(a * problem.answer.unwrap().parse::<i64>().unwrap() + b, c);
    }
}

#[test]
fn training_and_held_out_share_no_operands_in_any_order_of_any_kind() {
    let mut sides: HashMap<Vec<i64>, Split> = HashMap::new();
    for kind in Kind::ALL {
        for digits in [1, 2] {
            for split in [Split::Train, Split::Validation] {
                let options = GeneratedConfig { digits, ..GeneratedConfig::default() };
                let config = DataConfig { seed: u64::from(digits), ..config(options) };
                for problem in problems(kind, &config, split) {
                    let side = *sides.entry(sorted_operands(&problem)).or_insert(split);
                    assert_eq!(side, split, "{}", problem.text);
                }
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_problems_and_held_out_ones_do_not_depend_on_it() {
    let with_seed = |seed| DataConfig {
        seed,
        ..config(GeneratedConfig { count: Some(50), digits: 2, ..GeneratedConfig::default() })
    };
    assert_eq!(problems(Kind::Sums, &with_seed(1), Split::Train), problems(Kind::Sums, &with_seed(1), Split::Train));
    assert_ne!(problems(Kind::Sums, &with_seed(1), Split::Train), problems(Kind::Sums, &with_seed(2), Split::Train));
    assert_eq!(
        problems(Kind::Sums, &with_seed(1), Split::Validation),
        problems(Kind::Sums, &with_seed(2), Split::Validation)
    );
}

#[test]
fn small_spaces_are_exhausted_without_repetition() {
    let config = config(GeneratedConfig::default());
    let train = problems(Kind::Addition, &config, Split::Train);
    let held_out = problems(Kind::Addition, &config, Split::Validation);
    // 9 x 9 ordered pairs of one digit.
    assert_eq!(train.len() + held_out.len(), 81);
    assert!(held_out.len() >= 8, "{}", held_out.len());
    let texts: HashSet<&String> = train.iter().chain(&held_out).map(|problem| &problem.text).collect();
    assert_eq!(texts.len(), 81);
}

#[test]
fn counts_and_shares_are_kept_or_refused() {
    let options = GeneratedConfig { count: Some(1000), ..GeneratedConfig::default() };
    let error = examples(Kind::Addition, &config(options), None, Split::Train).unwrap_err().to_string();
    assert!(error.contains("distinct training problems exist for `1000` asked: raise digits or terms"), "{error}");
    let sums = config(GeneratedConfig { held_out_min_terms: Some(4), ..GeneratedConfig::default() });
    let held_out = examples(Kind::Sums, &sums, Some(Amount::Count(600)), Split::Validation).unwrap();
    assert_eq!(held_out.len(), 600);
    assert!(held_out.iter().all(|example| example.problem().unwrap().meta["terms"].as_u64() >= Some(4)));
    let wide = config(GeneratedConfig { digits: 3, count: Some(500), ..GeneratedConfig::default() });
    let half = examples(Kind::Addition, &wide, Some(Amount::Share(0.5)), Split::Validation).unwrap();
    assert!(half.len() > 500);
}

#[test]
fn bare_style_and_demonstrations() {
    let options = GeneratedConfig {
        style: Style::Bare,
        demonstrations: Some(Demonstrations { per_problem: 3, ..Demonstrations::default() }),
        min_terms: Some(3),
        max_terms: Some(3),
        count: Some(40),
        ..GeneratedConfig::default()
    };
    let examples = examples(Kind::Sums, &config(options), None, Split::Train).unwrap();
    assert_eq!(examples.len(), 120);
    for example in &examples {
        let Example::Completion { problem, completion: Reply::Text(text) } = example else { panic!() };
        assert_eq!(problem.prompt, Prompt::Text(problem.text.clone()));
        let operands: Vec<i64> = serde_json::from_value(problem.meta["operands"].clone()).unwrap();
        let (first, total) = (operands[0] + operands[1], operands.iter().sum::<i64>());
        assert_eq!(problem.text, format!("{}+{}+{}=", operands[0], operands[1], operands[2]));
        let expected = match problem.id.rsplit(':').next().unwrap() {
            "verbose" => format!("{}+{}={first};{first}+{}={total}", operands[0], operands[1], operands[2]),
            "terse" => format!("{first},{total}"),
            _ => total.to_string(),
        };
        assert_eq!(*text, expected);
    }
}

#[test]
fn the_mix_of_lengths_follows_the_weights() {
    let options = GeneratedConfig {
        demonstrations: Some(Demonstrations::default()),
        count: Some(7000),
        ..GeneratedConfig::default()
    };
    let examples = examples(Kind::Sums, &config(options), None, Split::Train).unwrap();
    let count = |name: &str| examples.iter().filter(|example| example.id().ends_with(name)).count();
    // 2 : 1 : 0.5 of 7000; the binomial deviations are below 42.
    for (name, expected) in [("verbose", 4000), ("terse", 2000), ("direct", 1000)] {
        assert!(count(name).abs_diff(expected) < 200, "{name} {}", count(name));
    }
}

#[test]
fn linear_equations_in_bare_style() {
    let options = GeneratedConfig { style: Style::Bare, count: Some(5), ..GeneratedConfig::default() };
    for problem in problems(Kind::Linear, &config(options), Split::Train) {
        assert!(problem.text.ends_with(",x=") && !problem.text.contains(' '), "{}", problem.text);
    }
}

#[test]
fn impossible_options_are_refused() {
    let base = GeneratedConfig::default;
    for (options, expected) in [
        (GeneratedConfig { digits: 0, ..base() }, "`data.generated.digits` must be 1 to 12"),
        (GeneratedConfig { min: 5, max: Some(4), ..base() }, "min <= max"),
        (GeneratedConfig { min_terms: Some(1), ..base() }, "`data.generated.min_terms` must be 2 to 64"),
        (GeneratedConfig { held_out: 1.0, ..base() }, "`data.generated.held_out` must be above 0 and below 1"),
        (GeneratedConfig { question: Some("?".into()), ..base() }, "must contain `{expression}`"),
        (
            GeneratedConfig {
                demonstrations: Some(Demonstrations { direct: 0.0, per_problem: 3, ..Demonstrations::default() }),
                ..base()
            },
            "per_problem` is `3` but `2` lengths have a weight",
        ),
    ] {
        let error = options.check().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let terms = config(GeneratedConfig { max_terms: Some(3), ..base() });
    let error = examples(Kind::Linear, &terms, None, Split::Train).unwrap_err().to_string();
    assert!(error.contains("fixed number of terms"), "{error}");
    let huge = config(GeneratedConfig {
        digits: 12,
        min: 999_999_999_999,
        min_terms: Some(12),
        max_terms: Some(12),
        ..base()
    });
    let error = examples(Kind::Multiplication, &huge, None, Split::Train).unwrap_err().to_string();
    assert!(error.contains("do not fit 128 bits"), "{error}");
}
