//! Throws bytes at the grader: half of the inputs as text, half as a choice of LaTeX pieces.
//!
//! `cargo fuzz run grade` from the `rewards` folder. Beside panics it looks for verdicts that take
//! too long and for answers that do not equal themselves. The stable compiler builds it too, from the
//! `fuzz` folder, as a program that takes a corpus folder and libFuzzer's options:
//!
//! ```text
//! RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
//!   -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
//!   -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Cdebug-assertions -Coverflow-checks \
//!   -Ccodegen-units=1" cargo build --release --target x86_64-unknown-linux-gnu
//! ```

#![no_main]

use std::time::Duration;

use candlewick_rewards::math::{GradeConfig, Mode, compat, equivalent, grade, normalise};
use libfuzzer_sys::fuzz_target;

const PIECES: [&str; 64] = [
    "\\frac", "{", "}", "(", ")", "[", "]", "1", "23", "4.5", ".", ",", ";", "x", "abc", " and ", "\\text{", "\\sqrt", "^", "_", "\\pm",
    "\\cup", "\\infty", "\\left", "\\right", "|", "\\{", "\\}", "=", "<", "\\le", "\\boxed{", "$", "%", "\\%", "^\\circ",
    "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\", "!", "\\sin", "\\log", "\\sum", "\\overline{", "\\binom", "²", "½", "−", "√",
    "\n", "/", ":", "e", "i", "\\pi", "\\mathbb{R}", "\\setminus", "\\in", "cm", "9999", "\\bmod", "\\lfloor", "+",
];

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let text = if first % 2 == 0 {
        String::from_utf8_lossy(rest).into_owned()
    } else {
        rest.iter().map(|byte| PIECES[usize::from(byte % 64)]).collect()
    };
    let middle = (text.len() / 2..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
    let (gold, answer) = text.split_at(middle);
    let config = GradeConfig::default();
    for completion in [answer.to_string(), format!("\\boxed{{{answer}}}"), format!("The answer is ${answer}$.")] {
        let verdict = grade(gold, &completion, &config);
        assert!(verdict.elapsed < Duration::from_secs(2), "took {:?}", verdict.elapsed);
    }
    assert!(equivalent(&text, &text, &config), "an answer does not equal itself");
    let _ = normalise(&text);
    for mode in Mode::ALL {
        let _ = compat::is_correct(mode, gold, answer, &config);
    }
});
