use candle_core::{DType, Device, Tensor};

use super::*;

/// Right completions lie on a line of two directions, wrong tokens on it or off it.
fn batch() -> Batch {
    let mask = Table::ragged(&[vec![1.0; 6], vec![1.0; 4], vec![1.0; 2], vec![1.0; 3]], 0.0);
    let mut batch = Batch::new(mask, vec![3, 3, 3, 8]).unwrap();
    batch.verdict = vec![Verdict::Right, Verdict::Wrong, Verdict::Missing, Verdict::Wrong];
    let mut rng = Rng::keyed(&[4]);
    let mut plane = |n: usize| -> Vec<f32> {
        (0..n)
            .flat_map(|_| {
                let (a, b) = (rng.normal() as f32, rng.normal() as f32);
                [a, -a, b, -b, 0.0, 0.0, 0.0, 0.0]
            })
            .collect()
    };
    let (right, on) = (plane(6), plane(2));
    let off: Vec<f32> = vec![0.0, 0.0, 0.0, 0.0, 1.0, -1.0, 2.0, -2.0, 0.0, 0.0, 0.0, 0.0, 2.0, -2.0, 0.5, -0.5];
    let tensor = |data: Vec<f32>| Tensor::from_vec(data.clone(), (data.len() / 8, 8), &Device::Cpu).unwrap();
    batch.hidden = Some(vec![tensor(right), tensor([on, off].concat()), tensor(plane(2)), tensor(plane(3))]);
    batch
}

fn small() -> Resrl {
    Resrl { rank: 2, ..Resrl::default() }
}

#[test]
fn tokens_outside_the_subspace_keep_their_weight() {
    let mut batch = batch();
    let metrics = small().build().unwrap().apply(&mut batch).unwrap();
    let credit = batch.credit.unwrap();
    assert_eq!(credit.row(0), [0.1; 6], "right");
    assert!(credit.row(1)[..2].iter().all(|w| (w - 0.1).abs() < 0.05), "on the plane: {:?}", credit.row(1));
    assert!(credit.row(1)[2..4].iter().all(|w| *w > 0.9), "off the plane: {:?}", credit.row(1));
    assert_eq!((credit.row(2), credit.row(3)), (&[1.0; 6][..], &[1.0; 6][..]), "no verdict, no right completion");
    assert_eq!((metrics.get("groups_used"), metrics.get("groups_no_positive")), (Some(1.0), Some(1.0)));
    assert!(metrics.get("residual_ratio").unwrap() > 10.0);
    assert!(batch.hidden.is_none(), "states are dropped once used");
}

#[test]
fn the_shuffled_control_has_the_same_weights_elsewhere() {
    let weights = |shuffled: bool| {
        let mut batch = batch();
        Resrl { shuffled, q_low: 0.0, q_high: 1.0, seed: 1, ..small() }.build().unwrap().apply(&mut batch).unwrap();
        batch.credit.unwrap().row(1)[..4].to_vec()
    };
    let (plain, shuffled) = (weights(false), weights(true));
    assert_ne!(plain, shuffled);
    let sorted = |mut w: Vec<f64>| {
        w.sort_unstable_by(f64::total_cmp);
        w
    };
    assert_eq!(sorted(plain), sorted(shuffled));
}

#[test]
fn a_subset_is_drawn_from_many_tokens_and_replays() {
    let settings = Resrl { max_positive_tokens: 4, ..small() };
    let subset = settings.subset(6, 3).unwrap();
    assert_eq!(subset.len(), 4);
    assert!(subset.windows(2).all(|w| w[0] < w[1]) && Some(subset) == settings.subset(6, 3));
    assert_eq!(settings.subset(4, 3), None);
    let mut batch = batch();
    settings.build().unwrap().apply(&mut batch).unwrap();
    assert!(batch.credit.unwrap().row(1)[2] > 0.5);
}

#[test]
fn bad_states_and_settings_are_named() {
    let apply = |batch: &mut Batch| small().build().unwrap().apply(batch);
    let mut without = batch();
    without.hidden = None;
    assert!(matches!(apply(&mut without), Err(Error::MissingColumn { column: "hidden", .. })));
    let mut broken = batch();
    let nan = Tensor::full(f32::NAN, (4, 8), &Device::Cpu).unwrap();
    broken.hidden.as_mut().unwrap()[1] = nan;
    assert!(matches!(apply(&mut broken), Err(Error::NonFinite { row: 1, .. })));
    let mut short = batch();
    short.hidden.as_mut().unwrap()[0] = Tensor::zeros((2, 8), DType::F32, &Device::Cpu).unwrap();
    assert!(matches!(apply(&mut short), Err(Error::Shape { .. })));
    for bad in [
        Resrl { rank: 0, ..small() },
        Resrl { q_low: 0.9, ..small() },
        Resrl { min_weight: 1.5, ..small() },
        Resrl { positive_scale: f64::NAN, ..small() },
    ] {
        assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
    }
    let error = small().build().unwrap().check_model(2).unwrap_err().to_string();
    assert!(error.contains("`credit.resrl.rank` = 2"), "{error}");
}

#[test]
fn quantiles_are_linear_between_neighbours() {
    assert_eq!(quantile(&[4.0, 1.0, 3.0, 2.0], 0.5), 2.5);
    assert_eq!((quantile(&[7.0], 0.2), quantile(&[1.0, 2.0], 1.0)), (7.0, 2.0));
    assert_eq!(correlation(&[(1.0, 2.0), (1.0, 3.0)]), 0.0);
}
