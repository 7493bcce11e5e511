use super::*;
use crate::{Outcome, Table};

/// Prompts with k of 16 right, by id.
fn known(right: &[usize]) -> Success {
    let mut success = Success::default();
    for (id, &k) in right.iter().enumerate() {
        let outcomes: Vec<bool> = (0..16).map(|i| i < k).collect();
        success.record(id, &outcomes, 16, 160);
    }
    success
}

fn choose(stage: &mut dyn Prompts, success: &Success, n: usize) -> Vec<PromptId> {
    stage.choose(success.len(), success, n, &mut Rng::keyed(&[1])).unwrap()
}

/// A draw in which each group of 4 has as many right completions as stated.
fn draw(ids: &[PromptId], right: &[usize]) -> Batch {
    let groups = ids.iter().flat_map(|&id| [id; 4]).collect();
    let mut batch = Batch::new(Table::filled(4 * ids.len(), 2, 1.0), groups).unwrap();
    for (g, &k) in right.iter().enumerate() {
        for i in 0..4 {
            batch.verdict[4 * g + i] = if i < k { Verdict::Right } else { Verdict::Wrong };
        }
    }
    batch
}

fn end_of_step(stage: &mut dyn Prompts) {
    stage.observe(&Outcome::Step { step: 0, is_accepted: true, entropy: None, accuracy: None, tokens: None });
}

#[test]
fn the_rarest_come_first_and_the_least_used_before_them() {
    // Hard: 3 (k=1), 0 (k=2); easy: 5 (k=15), 1 (k=14). Never: 2 (0), 4 (16), 6 (8).
    let success = known(&[2, 14, 0, 1, 16, 15, 8]);
    let mut stage = Pairing { pairs: 1, ..Pairing::default() }.build().unwrap();
    assert_eq!(choose(stage.as_mut(), &success, 2), [3, 5]);
    assert_eq!(choose(stage.as_mut(), &success, 2), [0, 1], "another draw of the step brings others");
    stage.accept(&draw(&[0, 1], &[1, 3])).unwrap();
    assert!(choose(stage.as_mut(), &success, 2).is_empty(), "the bands are used up in this step");
    end_of_step(stage.as_mut());
    assert_eq!(choose(stage.as_mut(), &success, 2), [3, 5], "a new step, equal uses");
}

#[test]
fn both_sides_are_equal_in_number_and_tagged() {
    let success = known(&[1, 2, 2, 15]);
    let mut stage = Pairing { pairs: 3, ..Pairing::default() }.build().unwrap();
    let chosen = choose(stage.as_mut(), &success, 6);
    assert_eq!(chosen, [0, 3], "one easy prompt makes one pair");
    let mut batch = draw(&chosen, &[1, 3]);
    stage.tag(&mut batch);
    assert_eq!(batch.role[0], Role::Hard);
    assert_eq!((batch.role[7], batch.pair[0], batch.pair[7]), (Role::Easy, Some(0), Some(0)));
    let accepted = stage.accept(&batch).unwrap();
    assert_eq!((accepted.keep, accepted.metrics.get("short")), (vec![0, 1], Some(2.0)));
}

#[test]
fn a_pair_without_any_difference_is_refused_as_a_whole() {
    let success = known(&[1, 2, 15, 14]);
    let mut stage = Pairing { pairs: 2, ..Pairing::default() }.build().unwrap();
    let chosen = choose(stage.as_mut(), &success, 4);
    assert_eq!(chosen, [0, 2, 1, 3]);
    let accepted = stage.accept(&draw(&chosen, &[0, 4, 0, 3])).unwrap();
    assert_eq!((accepted.keep, accepted.metrics.get("refused")), (vec![2, 3], Some(1.0)));
}

#[test]
fn a_refused_pair_is_drawn_again_where_there_is_no_other_and_kept_at_last() {
    let success = known(&[1, 15]);
    for (fallback, kept) in [(Fallback::FewerPairs, vec![0, 1]), (Fallback::Stop, Vec::new())] {
        let mut stage = Pairing { max_draws: 2, fallback, ..Pairing::default() }.build().unwrap();
        assert_eq!(choose(stage.as_mut(), &success, 2), [0, 1]);
        let first = stage.accept(&draw(&[0, 1], &[0, 4])).unwrap();
        assert_eq!((first.keep, first.metrics.get("refused")), (vec![], Some(1.0)));
        assert_eq!(choose(stage.as_mut(), &success, 2), [0, 1], "the same once more");
        let last = stage.accept(&draw(&[0, 1], &[0, 4])).unwrap();
        assert_eq!((last.metrics.get("flat"), last.keep), (Some(kept.len() as f64 / 2.0), kept), "{fallback:?}");
    }
}

#[test]
fn a_side_with_no_prompt_left_takes_the_nearest_and_says_so_or_stops() {
    let mut success = known(&[1, 15, 0]);
    let settings = Pairing { window: 16, ..Pairing::default() };
    let mut stage = settings.build().unwrap();
    assert_eq!(choose(stage.as_mut(), &success, 2), [0, 1]);
    end_of_step(stage.as_mut());
    let visit: Vec<bool> = (0..16).map(|i| i < 9).collect();
    success.record(0, &visit, 16, 0);
    assert!(settings.build().unwrap().choose(3, &success, 2, &mut Rng::keyed(&[0])).is_err(), "never a pair");
    for _ in 0..2 {
        let chosen = choose(stage.as_mut(), &success, 2);
        assert_eq!(chosen, [0, 1], "9 of 16 is nearer to the hard band than no success at all");
        let accepted = stage.accept(&draw(&chosen, &[2, 3])).unwrap();
        assert_eq!(accepted.metrics.get("substitutes"), Some(1.0), "and does not become hard by it");
        end_of_step(stage.as_mut());
    }
    let mut more = known(&[1, 15, 0, 6, 10]);
    more.record(0, &visit, 16, 0);
    more.record(1, &[true; 16], 16, 0);
    let chosen = choose(stage.as_mut(), &more, 2);
    assert_eq!(chosen, [0, 4], "the nearest by their fading means; the solved and the unsolved prompt never stand in");
    assert_eq!(stage.accept(&draw(&chosen, &[2, 3])).unwrap().metrics.get("substitutes"), Some(2.0));
    end_of_step(stage.as_mut());
    success.record(1, &[true; 16], 16, 0);
    let error = stage.choose(3, &success, 2, &mut Rng::keyed(&[0])).unwrap_err().to_string();
    assert!(error.contains("0 in that of easy"), "one prompt with both outcomes makes no pair: {error}");
    let mut strict = Pairing { fallback: Fallback::Stop, ..settings }.build().unwrap();
    let error = strict.choose(3, &success, 2, &mut Rng::keyed(&[0])).unwrap_err().to_string();
    assert!(error.contains("0 lie in the band of hard") && error.contains("fewer_pairs"), "{error}");
}

#[test]
fn pairs_of_one_step_have_numbers_of_their_own_whatever_was_refused() {
    let success = known(&[1, 2, 1, 15, 14, 15]);
    let mut stage = Pairing { pairs: 2, ..Pairing::default() }.build().unwrap();
    let numbers = |stage: &dyn Prompts, ids: &[PromptId]| {
        let mut batch = draw(ids, &vec![1; ids.len()]);
        stage.tag(&mut batch);
        (0..ids.len()).map(|g| batch.pair[4 * g].unwrap()).collect::<Vec<_>>()
    };
    let chosen = choose(stage.as_mut(), &success, 4);
    let first = numbers(stage.as_ref(), &chosen);
    stage.accept(&draw(&chosen, &[0, 4, 1, 4])).unwrap();
    let again = choose(stage.as_mut(), &success, 2);
    let second = numbers(stage.as_ref(), &again);
    assert_eq!((first, second), (vec![0, 0, 1, 1], vec![2, 2]));
}

#[test]
fn midrange_prompts_fill_a_short_side_only_when_asked_and_are_counted() {
    let success = known(&[1, 15, 6, 11]);
    let settings = Pairing { pairs: 2, fallback: Fallback::Midrange, ..Pairing::default() };
    let mut stage = settings.build().unwrap();
    let chosen = choose(stage.as_mut(), &success, 4);
    assert_eq!(chosen, [0, 1, 2, 3]);
    let accepted = stage.accept(&draw(&chosen, &[1, 3, 2, 2])).unwrap();
    assert_eq!((accepted.metrics.get("midrange"), accepted.metrics.get("known")), (Some(2.0), Some(2.0)));
    end_of_step(stage.as_mut());
    let chosen = choose(stage.as_mut(), &success, 4);
    let accepted = stage.accept(&draw(&chosen, &[1, 3, 2, 2])).unwrap();
    assert_eq!(accepted.metrics.get("midrange"), Some(2.0), "one that stood in before does so again");
}

#[test]
fn a_learnt_hard_prompt_stays_until_it_is_promoted_and_a_saturated_one_waits() {
    let mut success = known(&[1, 15]);
    let mut stage = Pairing { window: 16, fallback: Fallback::Stop, ..Pairing::default() }.build().unwrap();
    assert_eq!(choose(stage.as_mut(), &success, 2), [0, 1]);
    end_of_step(stage.as_mut());
    let visit = |k: usize| (0..16).map(|i| i < k).collect::<Vec<_>>();
    success.record(0, &visit(7), 16, 0);
    assert_eq!(choose(stage.as_mut(), &success, 2), [0, 1], "7 of 16 is above the band and below promotion");
    end_of_step(stage.as_mut());
    success.record(1, &visit(16), 16, 0);
    let error = stage.choose(2, &success, 2, &mut Rng::keyed(&[0])).unwrap_err().to_string();
    assert!(error.contains("1 lie in the band of hard") && error.contains("0 in that of easy"), "{error}");
    success.record(1, &visit(14), 16, 0);
    success.record(0, &visit(9), 16, 0);
    assert!(stage.choose(2, &success, 2, &mut Rng::keyed(&[0])).is_err(), "9 of 16 is promoted");
}

#[test]
fn waiting_and_unknown_prompts_are_measured_and_not_kept() {
    let mut success = known(&[1, 15, 1]);
    let settings = Pairing { window: 16, reprobe_every: Some(2), reprobe: 2, ..Pairing::default() };
    let mut stage = settings.build().unwrap();
    assert_eq!(choose(stage.as_mut(), &success, 2), [0, 1]);
    end_of_step(stage.as_mut());
    success.record(0, &[false; 16], 16, 0);
    let chosen = stage.choose(5, &success, 2, &mut Rng::keyed(&[0])).unwrap();
    assert_eq!(chosen[..3], [2, 1, 0], "0 waits with no success left and is measured first: {chosen:?}");
    assert!(chosen[3] == 3 || chosen[3] == 4, "then one of the unknown: {chosen:?}");
    let accepted = stage.accept(&draw(&chosen, &[1, 3, 1, 1])).unwrap();
    assert_eq!((accepted.keep, accepted.metrics.get("measured")), (vec![0, 1], Some(2.0)));
}

#[test]
fn a_restart_continues_with_the_same_pairs() {
    let success = known(&[1, 2, 1, 15, 14, 13, 2, 14]);
    let settings = Pairing { pairs: 1, band: Some(3), cool_down: 1, ..Pairing::default() };
    let mut a = settings.build().unwrap();
    for _ in 0..3 {
        choose(a.as_mut(), &success, 2);
        end_of_step(a.as_mut());
    }
    let mut b = settings.build().unwrap();
    b.load(&a.save().unwrap()).unwrap();
    for _ in 0..5 {
        assert_eq!(choose(a.as_mut(), &success, 2), choose(b.as_mut(), &success, 2));
        end_of_step(a.as_mut());
        end_of_step(b.as_mut());
    }
    assert!(b.load(&serde_json::json!({"steps": "x"})).is_err());
}

#[test]
fn an_unmeasured_pool_is_told_what_to_do() {
    let mut stage = Pairing::default().build().unwrap();
    let error = stage.choose(9, &Success::default(), 2, &mut Rng::keyed(&[0])).unwrap_err().to_string();
    assert!(error.contains("candlewick probe") && error.contains("data.probe"), "{error}");
}

#[test]
fn impossible_settings_are_refused() {
    for bad in [
        Pairing { pairs: 0, ..Pairing::default() },
        Pairing { window: 1, ..Pairing::default() },
        Pairing { window: 65, ..Pairing::default() },
        Pairing { min_count: 33, ..Pairing::default() },
        Pairing { band: Some(0), ..Pairing::default() },
        Pairing { band: Some(17), ..Pairing::default() },
        Pairing { promote_at: 1.0, ..Pairing::default() },
        Pairing { reprobe_every: Some(0), ..Pairing::default() },
    ] {
        assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
    }
}
