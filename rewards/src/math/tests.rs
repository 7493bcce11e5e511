//! Laws, bounds and hand-made cases.

use proptest::prelude::*;

use super::*;

fn boxed(answer: &str) -> String {
    format!("So the answer is $\\boxed{{{answer}}}$.")
}

fn right(gold: &str, answer: &str) -> bool {
    grade(gold, &boxed(answer), &patient()).correct
}

/// The time limit is for production; a loaded test machine is not what these tests are about.
fn patient() -> GradeConfig {
    GradeConfig { limits: Limits { soft_millis: 5000, ..Limits::default() }, ..GradeConfig::default() }
}

fn check(gold: &str, answer: &str, expected: bool) {
    let verdict = grade(gold, &boxed(answer), &patient());
    assert_eq!(verdict.correct, expected, "gold {gold}, answer {answer}: {verdict:?}");
}

#[test]
fn numbers() {
    for (gold, answer, expected) in [
        ("1,234,567", "1234567", true),
        ("32, 349", "32349", false),
        ("(1,234)", "1234", false),
        ("100,200,300", "100, 200, 300", true),
        (r"0.\overline{36}", r"\frac{4}{11}", true),
        (r"0.1\overline{6}", "1/6", true),
        (r"0.\dot{3}", r"\frac13", true),
        ("1500", r"1.5 \times 10^{3}", true),
        ("0.00015", "1.5e-4", true),
        (r"-\frac{7}{3}", r"-2\frac{1}{3}", true),
        (r"-\frac{7}{3}", r"-2+\frac{1}{3}", false),
        (r"\frac{5}{3}", "1 2/3", true),
        (r"\frac{5}{2}", "2½", true),
        (r"\frac{1}{3}", "0.33333333", true),
        (r"\frac{1}{3}", "0.33333334", false),
        (r"\frac{1}{3}", "0.333", false),
        ("1", "0.9999999", false),
        (r"\sqrt{2}", "1.4142136", true),
        (r"\pi", "3.14159", false),
        ("58500", "58501", false),
        ("1.6e-19", "1.6e-18", false),
        (r"7^{100}\cdot 7", "7^{101}", true),
        ("7^{100}", "7^{100}+1", false),
        ("2.5", "2,5", true),
        ("25", "2,5", false),
        ("7", "seven", true),
        ("12", "1 2", false),
        (r"\frac{13}{4}", r"13 \over 4", true),
        ("10", r"5 \choose 2", true),
        ("3×10⁵", "300000", true),
        ("50\\%", "0.5", true),
        ("25", "25\\%", true),
        ("18", "1800", false),
        (r"33\frac{1}{3}\%", r"\frac{1}{3}", true),
        (r"12\text{ cm}^2", "12", true),
        ("m", r"5\text{ m}", false),
        ("1011_2", "1011_3", false),
        ("1011_2", "11", true),
        ("1A3_{16}", "1a3_{16}", true),
        ("3:4", "4:3", false),
        ("12:00", "1:00", false),
        ("1234567", "1.234.567", true),
        ("1.234", "1'234", false),
        (r"\frac{9}{2}", r"4{1\over2}", true),
        ("2", r"4{1\over2}", false),
    ] {
        check(gold, answer, expected);
    }
}

/// `C(10,3)` is a number where nothing else can be meant: a point may be given for one of its coordinates.
#[test]
fn counts_and_points() {
    for (gold, answer, expected) in [
        ("120", "C(10,3)", true),
        ("70", "C(8,4)", true),
        ("720", "P(10,3)", true),
        ("119", "C(10,3)-1", true),
        (r"\frac{5}{32}", r"\frac{C(5,1)}{2^5}", true),
        ("(10,3)", "C(10,3)", true),
        ("C(10,3)", "(10,3)", true),
        ("C(10,3)", r"\frac{10!}{3!\,7!}", true),
        ("C(10,3)", "120", false),
        ("(10,3)", r"\binom{10}{3}", false),
        ("5", "P(5,1)", false),
        ("5", "C(5,4)", false),
        ("6", "P(3,2)", false),
        ("1", "P(4,0)", false),
        ("120", r"{}_{10}C_{3}", true),
        ("3", r"{}_{10}C_{3}", false),
        ("10", "10 choose 3", false),
    ] {
        check(gold, answer, expected);
    }
}

/// What `\log` without a base means, the gold says.
#[test]
fn logarithms_without_a_base() {
    for (gold, answer, expected) in [
        (r"\log_{10} 2", r"\log 2", true),
        (r"\log 2", r"\log_{10} 2", true),
        (r"\log 2", r"\ln 2", false),
        (r"\ln 2", r"\log 2", true),
        (r"\ln 2+\log 2", r"\log 2+\ln 2", true),
        (r"\ln 2+\log 2", r"2\ln 2", false),
        (r"\frac{\log 2}{\log 3}", r"\log_3 2", true),
        ("2", r"\log 100", true),
        ("e", r"\log 100", false),
    ] {
        check(gold, answer, expected);
    }
}

#[test]
fn expressions() {
    for (gold, answer, expected) in [
        (r"\sqrt{6+4\sqrt{2}}", r"2+\sqrt{2}", true),
        (r"\sqrt[3]{-8}", "-2", true),
        (r"\cos\frac{\pi}{5}", r"\frac{1+\sqrt5}{4}", true),
        (r"\sin 30^\circ", "1/2", true),
        (r"\sinh(0)", "0", true),
        (r"\sin \pi", "0", true),
        ("e^{1000}", "e^{500}e^{500}", true),
        ("e^{1000}", "e^{1000}+1", false),
        (r"\ln 8", r"3\ln 2", true),
        (r"\ln 5", r"\log_{10} 5", false),
        ("2^{n+1}", r"2\cdot 2^n", true),
        ("2^{n+1}", "2^n+1", false),
        (r"\binom{n}{3}", r"\frac{n(n-1)(n-2)}{6}", true),
        ("n!", "n(n-1)!", true),
        ("|x|", "x", false),
        (r"\sqrt{x^2}", "|x|", true),
        (r"\ln(x+1)", r"\ln x + 1", false),
        ("(x+1)^{1000}", "(x+1)^{1000}+1", false),
        ("x_1", "x_2", false),
        ("abc", "cab", false),
        (r"\frac{x^3}{3}+C", r"\frac13 x^3+c", true),
        ("i", r"\frac{1+i}{1-i}", true),
        ("1", r"e^{2\pi i}", true),
        (r"1-\frac1{\mathrm e}", r"1+\frac1{\mathrm e}", false),
        ("15", "15x", false),
    ] {
        check(gold, answer, expected);
    }
}

#[test]
fn collections_and_relations() {
    for (gold, answer, expected) in [
        (r"\{1,2\}", "2,1", true),
        (r"\{1,2\}", "(1,2)", false),
        ("(1,2)", "x=1, y=2", true),
        ("(1,2)", "x=2, y=1", false),
        ("x=1,y=2", "y=2,x=1", true),
        (r"\pm 3", r"x=3 \text{ or } x=-3", true),
        (r"\pm 3", "3", false),
        ("1,-2", "(1,-2)", false),
        ("x=1,y=-2", "(1,-2)", true),
        (r"\frac{-1\pm\sqrt{5}}{2}", r"\frac{-1+\sqrt5}{2}, \frac{-1-\sqrt5}{2}", true),
        ("5", r"5\text{ or }6", false),
        (r"[0,1]\cup[1,2]", "[0,2]", true),
        (r"[0,1)\cup(1,2]", "[0,2]", false),
        ("[0,1)", r"0\le x<1", true),
        (r"(-\infty,1)\cup(1,\infty)", r"\mathbb{R}\setminus\{1\}", true),
        (r"[2,\infty)", r"[2,\infty]", true),
        (r"x\le -1 \text{ or } x\ge 2", r"(-\infty,-1]\cup[2,\infty)", true),
        (r"\begin{pmatrix}1/2&0\\0&1/2\end{pmatrix}", r"\frac12\begin{pmatrix}1&0\\0&1\end{pmatrix}", true),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", false),
        ("3x+4y=12", "4y=12-3x", true),
        ("3x+4y=12", "3x-4y=12", false),
        ("5", "2x=10", false),
        ("7", "a+b=3+4=7", true),
        ("7", "a+b=3+4=8", false),
        ("xy=1", r"y=\frac1x", true),
        ("(3,4]", r"-x\in(3,4]", false),
        ("(3,4]", r"x\in(3,4]", true),
        (r"\text{undefined}", r"-\text{undefined}", false),
        (r"7:00 \text{ am}", "-7:00", false),
        ("f(2)<f(1)<f(4)", "f(4)>f(1)>f(2)", true),
        ("f(2)<f(1)<f(4)", "f(5)<f(1)<f(4)", false),
        ("f(2)<f(1)", "f(2)<f(3)", false),
        ("A: 4, B: 5", "A: 4, B: 6", false),
        ("0:3", "0:5", false),
        ("20\\cdot 3=60.5", "20\\cdot 3=61.5", false),
        (r"\heart \frac{1}{23}", r"\heart\frac{12}{3}", false),
        (r"\heart \frac{1}{23}", r"\heart\frac{1}{23}", true),
        ("x>5", "2x>10", true),
        ("x>5", r"x\ge5", false),
        (r"\text{A and C}", "A, C", true),
        (r"\text{(C)}", "C)", true),
        (r"\text{(C)}", "B", false),
        (r"\text{east}", "northeast", false),
        (r"\text{no solution}", r"\emptyset", true),
    ] {
        check(gold, answer, expected);
    }
}

#[test]
fn policies_change_what_is_taken() {
    let with =
        |policy: Policy, gold: &str, answer: &str| grade(gold, &boxed(answer), &GradeConfig { policy, ..patient() });
    let strict = Policy { units: Units::Strict, ..Policy::default() };
    assert!(with(Policy::default(), r"4\text{ hours}", r"4\text{ minutes}").flags.contains(&Flag::UnitMismatch));
    assert!(!with(strict.clone(), r"4\text{ hours}", r"4\text{ minutes}").correct);
    assert!(with(strict.clone(), r"35\text{ cm}", r"0.35\text{ m}").correct);
    assert!(!with(strict, r"5\text{ km}", r"5\text{ miles}").correct);
    assert!(with(Policy { angle_units: true, ..Policy::default() }, r"90^\circ", r"\frac{\pi}{2}").correct);
    assert!(!with(Policy::default(), r"90^\circ", r"\frac{\pi}{2}").correct);
    assert!(with(Policy { rel_tol: Some(0.01), ..Policy::default() }, "9.8", "9.81").correct);
    assert!(!with(Policy::default(), "9.8", "9.81").correct);
    assert!(!with(Policy { percent_lenient: false, ..Policy::default() }, "25", "25\\%").correct);
    assert!(with(Policy { rename_variables: true, ..Policy::default() }, "x^2+y", "a^2+b").correct);
    assert!(
        !with(Policy { vector_tuple: false, ..Policy::default() }, r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)")
            .correct
    );
    assert!(!with(Policy { base_value: false, ..Policy::default() }, "1011_2", "11").correct);
    let rounded = Policy { min_decimals: 4, ..Policy::default() };
    assert!(with(rounded, r"\frac13", "0.3333").flags.contains(&Flag::Approximate));
}

#[test]
fn verdicts_say_why() {
    let verdict = |gold: &str, completion: &str| grade(gold, completion, &patient());
    assert_eq!(verdict("1", "no idea").reason, Some(Reason::NoAnswer));
    assert_eq!(verdict("1", "<think> 1").flags, [Flag::TruncatedThink]);
    assert_eq!(verdict("1", r"\boxed{2}").reason, Some(Reason::Different));
    assert_eq!(verdict("1", r"\boxed{1\text{ or }2}").reason, Some(Reason::Hedged));
    assert_eq!(verdict("1", r"\boxed{\frac{1}}").reason, Some(Reason::Unparsable));
    assert_eq!(verdict("1", r"\boxed{(1,2)}").reason, Some(Reason::TypeMismatch));
    assert_eq!(verdict("1", r"\boxed{9^{9^{9^9}}}").reason, Some(Reason::TooLarge));
    assert_eq!(
        verdict("1", &format!("\\boxed{{{}1{}}}", "\\sqrt{".repeat(500), "}".repeat(500))).reason,
        Some(Reason::TooDeep)
    );
    assert_eq!(verdict(r"a \unknown b", r"\boxed{a+b}").flags, [Flag::GoldUnparsable]);
    assert_eq!(verdict("18", r"\boxed{18\text{ cm}}").flags, [Flag::UnitDropped]);
    assert_eq!(verdict("52_8", r"\boxed{52}").flags, [Flag::BaseDropped]);
    assert_eq!(verdict(r"90^\circ", r"\boxed{90}").method, Method::Exact);
    assert_eq!(verdict("He has 9*2 = 18 left.\n#### 1,018", r"\boxed{1018}").gold_normal, "1018");
    assert_eq!(verdict(r"\frac12", r"\boxed{0.5}").method, Method::Decimal);
}

/// Inputs made to hang, overflow or fill memory. Debug builds are slow, so the bound is loose here;
/// `docs/grading.md` has the measured worst case.
#[test]
fn hostile_answers_are_refused_quickly() {
    let mut hostile: Vec<(String, String, Option<bool>)> = vec![
        ("1".into(), "x".repeat(1_000_000), Some(false)),
        ("1".into(), "\\boxed{1} ".repeat(100_000), Some(true)),
        ("1".into(), format!("\\boxed{{{}", "{".repeat(1_000_000)), Some(false)),
        ("1".into(), format!("\\boxed{{{}}}", "9".repeat(1_000_000)), Some(false)),
        ("1".into(), "$".repeat(1_000_000), Some(false)),
        ("18".into(), format!("{}\\boxed{{18}}", "lorem ipsum ".repeat(90_000)), Some(true)),
        ("1".into(), format!("\\boxed{{{}1{}}}", "\\frac{1}{1+".repeat(50_000), "}".repeat(50_000)), Some(false)),
        ("18".into(), format!("\\boxed{{{}18{}}}", "(".repeat(200_000), ")".repeat(200_000)), None),
        ("200001".into(), format!("\\boxed{{{}1}}", "1+".repeat(200_000)), None),
    ];
    for answer in [
        "(10^{10})!".to_string(),
        "9^{9^{9^9}}".to_string(),
        r"\sum_{k=1}^{1000000000} k^2".to_string(),
        r"\sum_{k=1}^{9999} \sum_{j=1}^{9999} k^j".to_string(),
        r"\binom{10^9}{10^8}".to_string(),
        "(x+y+z)^{200}".to_string(),
        r"\sqrt[99999]{2^{99999}+1}".to_string(),
        "e^{e^{e^{e^{e^e}}}}".to_string(),
        r"\sin(10^{300})".to_string(),
        r"\int_0^\infty e^{-x^2} dx".to_string(),
        "(".repeat(2000),
        format!("{}18{}", "(".repeat(1500), ")".repeat(1500)),
        "_{".repeat(1500),
        "1/".repeat(1500) + "1",
        "2^".repeat(1500) + "1",
        "x!".repeat(1500),
        "-".repeat(4000) + "1",
        "|".repeat(3000),
        r"\sqrt".repeat(700),
        r"\frac".repeat(700),
        r"\sin".repeat(900),
        "1,".repeat(2000),
        r"1\pm".repeat(500) + "1",
        r"\cup".repeat(900),
        r"\text{".repeat(600),
        r"\begin{pmatrix}".repeat(200),
        "x".repeat(4000),
        "9".repeat(4000),
        format!("0.{}", "1".repeat(4000)),
        r"(1,2)\setminus".repeat(300) + "(1,2)",
        (1..700).map(|n| format!("\\sqrt{{{n}}}")).collect::<Vec<_>>().join(","),
    ] {
        for gold in ["18", "x^2+1", r"\sqrt{2}", "(1,2)", "1,2,3", r"(0,1)\cup(2,3)", "x+y=1"] {
            hostile.push((gold.into(), format!("\\boxed{{{answer}}}"), None));
        }
        hostile.push((answer.clone(), format!("\\boxed{{{answer}}}"), None));
        hostile.push((answer.clone(), format!("\\boxed{{{answer}+1}}"), Some(false)));
    }
    let config = GradeConfig::default();
    for (gold, completion, expected) in hostile {
        let start = Instant::now();
        let verdict = grade(&gold, &completion, &config);
        let taken = start.elapsed();
        let shown: String = completion.chars().take(60).collect();
        assert!(taken < Duration::from_millis(1500), "{taken:?} for gold {gold:.60}, {shown}: {:?}", verdict.reason);
        if let Some(expected) = expected {
            assert_eq!(verdict.correct, expected, "gold {gold:.60}, {shown}: {verdict:?}");
        }
    }
}

/// Random answers put together from pieces of LaTeX, most of them sensible.
fn answer() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (-999i64..1000).prop_map(|n| n.to_string()),
        (0u32..100, 0u32..1000).prop_map(|(a, b)| format!("{a}.{b}")),
        Just("x".to_string()),
        Just("y".to_string()),
        Just(r"\pi".to_string()),
        Just("i".to_string()),
        Just("e".to_string()),
    ];
    leaf.prop_recursive(3, 16, 3, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            pair.clone().prop_map(|(a, b)| format!("\\frac{{{a}}}{{{b}}}")),
            pair.clone().prop_map(|(a, b)| format!("({a})+({b})")),
            pair.clone().prop_map(|(a, b)| format!("({a})\\cdot({b})")),
            pair.clone().prop_map(|(a, b)| format!("({a})-({b})")),
            inner.clone().prop_map(|a| format!("\\sqrt{{{a}}}")),
            inner.clone().prop_map(|a| format!("({a})^2")),
            inner.clone().prop_map(|a| format!("\\sin({a})")),
            inner.prop_map(|a| format!("|{a}|")),
        ]
    })
}

/// An answer of one kind made of two parts.
fn of_kind(kind: usize, a: &str, b: &str) -> String {
    match kind {
        0 => format!("({a})-({b})"),
        1 => format!("({a}, {b})"),
        2 => format!("\\{{{a}, {b}\\}}"),
        3 => format!("{a}, {b}"),
        4 => format!("\\begin{{pmatrix}} {a} & {b} \\end{{pmatrix}}"),
        _ => format!("{a} < {b}"),
    }
}

fn any_answer() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => answer(),
        1 => (answer(), answer()).prop_map(|(a, b)| format!("({a}, {b})")),
        1 => (answer(), answer()).prop_map(|(a, b)| format!("\\{{{a}, {b}\\}}")),
        1 => (answer(), answer()).prop_map(|(a, b)| format!("{a}, {b}")),
        1 => (answer(), answer()).prop_map(|(a, b)| format!("\\begin{{pmatrix}} {a} \\\\ {b} \\end{{pmatrix}}")),
        1 => answer().prop_map(|a| format!("x = {a}")),
        1 => (answer(), answer()).prop_map(|(a, b)| format!("{a} < {b}")),
    ]
}

const PIECES: &[&str] = &[
    "\\frac",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "1",
    "23",
    "4.5",
    ".",
    ",",
    ";",
    "x",
    "abc",
    "and",
    "\\text{",
    "\\sqrt",
    "^",
    "_",
    "\\pm",
    "\\cup",
    "\\infty",
    "\\left",
    "\\right",
    "|",
    "\\{",
    "\\}",
    "=",
    "<",
    "\\le",
    "\\boxed{",
    "$",
    "%",
    "\\%",
    "^\\circ",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "&",
    "\\\\",
    "!",
    "\\sin",
    "\\log",
    "\\sum",
    "\\overline{",
    "\\binom",
    "²",
    "½",
    "−",
    "√",
    " ",
    "\n",
    "/",
    ":",
    "e",
    "i",
    "\\pi",
    "\\mathbb{R}",
    "\\setminus",
    "\\in",
    "cm",
    "\\mathrm{",
    "\\choose",
    "\\over",
    "\u{200b}",
    "é",
    "\\",
    "'",
    "\\bmod",
    "\\lfloor",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_equals_itself(a in any_answer()) {
        prop_assert!(right(&a, &a), "{a}");
    }

    #[test]
    fn layout_does_not_matter(a in any_answer()) {
        let spaced = a.replace('+', " + ").replace(')', " ) ").replace("\\cdot", " \\cdot ");
        let sized = a.replace('(', "\\left(").replace(')', "\\right)");
        for other in [format!("${a}$"), format!("{{{a}}}"), format!("\\displaystyle {a}"), spaced, sized] {
            prop_assert!(right(&a, &other), "{a} is not {other}");
            prop_assert!(right(&other, &a), "{other} is not {a}");
        }
    }

    #[test]
    fn sums_commute_and_grading_is_symmetric(a in answer(), b in answer()) {
        // What is defined nowhere (0/0) equals only what is written the same.
        let is_defined = |answer: &str| right(&format!("({answer})+0\\cdot 1"), answer);
        prop_assume!(is_defined(&a) && is_defined(&b));
        let (one, other) = (format!("({a})+({b})"), format!("({b})+({a})"));
        prop_assert!(right(&one, &other), "{} is not {}", one, other);
        prop_assert_eq!(right(&a, &b), right(&b, &a), "{} and {}", a, b);
    }

    #[test]
    fn answers_of_one_kind_are_symmetric(kind in 0usize..6, a in answer(), b in answer(), c in answer(), swaps in any::<bool>()) {
        let is_defined = |answer: &str| right(&format!("({answer})+0\\cdot 1"), answer);
        prop_assume!(is_defined(&a) && is_defined(&b) && is_defined(&c));
        let (one, other) = (of_kind(kind, &a, &b), if swaps { of_kind(kind, &b, &a) } else { of_kind(kind, &a, &c) });
        let (forth, back) = (right(&one, &other), right(&other, &one));
        prop_assert_eq!(forth, back, "{} and {}", one, other);
        // A set and a list have no order.
        prop_assert!(forth || !(swaps && (kind == 2 || kind == 3)), "{} and {}", one, other);
    }

    #[test]
    fn one_more_is_another_number(a in answer()) {
        let more = format!("({a})+1");
        prop_assert!(!right(&a, &more), "{} is {}", a, more);
    }

    #[test]
    fn nothing_panics(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..40), gold in any_answer()) {
        let text = pieces.concat();
        let config = GradeConfig::default();
        for (gold, completion) in [(gold.as_str(), text.as_str()), (text.as_str(), gold.as_str()), (text.as_str(), text.as_str())] {
            let _ = grade(gold, completion, &config);
            let _ = grade(gold, &boxed(completion), &config);
        }
        let _ = normalise(&text);
        for mode in Mode::ALL {
            let _ = compat::is_correct(mode, &gold, &text, &config);
        }
    }

    #[test]
    fn same_normal_form_means_equal(a in any_answer()) {
        prop_assert_eq!(normalise(&a), normalise(&format!("$ {a} $")));
    }
}
