//! `grpo.json`: advantage estimators, the losses at the leaves, and the way from logits to the loss.

mod advantages;
mod from_logits;
mod losses;

use super::cases;

const TOLERANCE: f64 = 1e-9;

#[test]
fn golden_grpo() {
    for case in cases("grpo") {
        if case.inputs.has("logits") {
            from_logits::check(&case);
        } else if losses::LOGP.iter().any(|name| case.inputs.has(name)) {
            losses::check(&case);
        } else if case.inputs.keys().iter().any(|key| key.starts_with("rewards")) {
            advantages::check(&case);
        } else {
            panic!("{}: no known kind of case has the inputs {:?}", case.path, case.inputs.keys());
        }
        case.inputs.finish();
        case.config.finish();
        case.expected.finish();
    }
}
