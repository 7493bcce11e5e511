//! `budget.tokens.curriculum`: a length that is told in the prompt and tightens while training.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Plan, TokenBudget};
use crate::{Error, Result, State};

/// How the budget falls, as a function of the step alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// A fixed number of drops to a fixed end, evenly spread over the run.
    Drops(Drops),
    /// One factor every so many steps, without an end.
    Every(Every),
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Drops(Drops::default())
    }
}

/// A fixed number of drops to a fixed end: the run is cut into `drops` + 1 equal pieces, and piece k = 0.. has
/// the budget start (end/start)^(k/drops), or start - (start - end) k/drops.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drops {
    /// Budget of the last piece, in tokens.
    pub end: usize,
    /// Drops, n; 0 keeps the first budget all along.
    pub drops: usize,
    /// By equal factors or by equal differences.
    pub shape: Shape,
}

impl Default for Drops {
    fn default() -> Self {
        Self { end: 87, drops: 3, shape: Shape::Exponential }
    }
}

/// The shape in which a budget falls from its start to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// By equal factors.
    #[default]
    Exponential,
    /// By equal differences; better accuracy on hard tasks in the paper, for a few tokens more.
    Linear,
}

/// B(t) = start x factor^floor(t / interval), at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Every {
    /// Factor of each drop, above 0 and up to 1.
    pub factor: f64,
    /// Steps between drops.
    pub interval: usize,
}

impl Default for Every {
    fn default() -> Self {
        Self { factor: 0.7, interval: 150 }
    }
}

impl Schedule {
    /// The budget of step `step` of `steps` before rounding; after the run the last piece stays.
    pub fn raw(&self, start: f64, step: usize, steps: usize) -> f64 {
        match self {
            Self::Every(e) => (start * e.factor.powi((step / e.interval.max(1)) as i32)).max(1.0),
            Self::Drops(d) => d.piece(start, d.piece_at(step, steps)),
        }
    }

    /// The budget of a step in whole tokens: max(1, floor(x + 1e-6)).
    ///
    /// The paper prints 256, 179, 125, 87 for 256 x 0.7^k, which is the floor; the 1e-6 keeps 86.99999999999997 at 87.
    pub fn budget(&self, start: f64, step: usize, steps: usize) -> usize {
        whole(self.raw(start, step, steps))
    }
}

impl Drops {
    /// Budget of piece `k` before rounding.
    pub fn piece(&self, start: f64, k: usize) -> f64 {
        if self.drops == 0 {
            return start;
        }
        let (end, share) = (self.end as f64, k as f64 / self.drops as f64);
        match self.shape {
            Shape::Exponential => start * (end / start).powf(share),
            Shape::Linear => start - (start - end) * share,
        }
    }

    /// First step of piece `k`: ceil(k steps / (drops + 1)).
    pub fn first_step(&self, k: usize, steps: usize) -> usize {
        (k * steps).div_ceil(self.drops + 1)
    }

    fn piece_at(&self, step: usize, steps: usize) -> usize {
        (0..=self.drops).rev().find(|&k| step >= self.first_step(k, steps)).unwrap_or(0)
    }
}

/// A budget in whole tokens: max(1, floor(x + 1e-6)).
pub fn whole(budget: f64) -> usize {
    (budget + 1e-6).floor().max(1.0) as usize
}

/// A length that the prompt tells, generous first and tighter with the steps, so that a model first finds
/// solutions and then shortens them.
///
/// The prompt carries the budget L in the words of `data.told`, and [reward.length] without a `target` pays
/// for keeping it. Generation stops at `limit`, or, with `stop_at_double`, at 2L + 1 where that is less: past
/// 2L the length reward is 0 anyway, but answers that come late are then cut off. The triangular reward has no slope
/// above 2L, so `start` must exceed half of the model's natural length: `start_share` takes it from a probe.
/// What evaluation tells is `eval.budget`. Not for tasks where the answer alone is long, and only tested by its
/// paper up to 256 tokens and in-sample on one of its two data sets; a single late drop ruined hard tasks there.
/// Source: Train Long, Think Short, arXiv 2508.08940.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Curriculum {
    /// First budget in tokens; not read where `start_share` is set.
    pub start: usize,
    /// First budget as a multiple of the mean tokens a completion that `data.probe` measured; absent takes `start`.
    pub start_share: Option<f64>,
    /// How the budget falls.
    pub schedule: Schedule,
    /// New tokens after which generation stops.
    pub limit: usize,
    /// Whether generation stops at 2L + 1 tokens already, where that is less than `limit`.
    pub stop_at_double: bool,
}

impl Default for Curriculum {
    fn default() -> Self {
        Self { start: 256, start_share: None, schedule: Schedule::default(), limit: 512, stop_at_double: false }
    }
}

const STAGE: &str = "budget.tokens.curriculum";

impl Curriculum {
    /// The stage. Errors: budgets of 0, an end above the start, a limit below the start.
    pub fn build(&self) -> Result<Box<dyn TokenBudget>> {
        let key = |name: &str| format!("{STAGE}.{name}");
        if self.start == 0 {
            return Err(Error::config(key("start"), 0, "the smallest budget is 1 token"));
        }
        if let Some(share) = self.start_share.filter(|s| !(*s > 0.0 && s.is_finite())) {
            return Err(Error::config(
                key("start_share"),
                share,
                "it multiplies a length: set it above 0, such as 1.0",
            ));
        }
        if self.start_share.is_none() && self.limit < self.start {
            let why = format!("generation would stop before the first budget of {}: raise `limit`", self.start);
            return Err(Error::config(key("limit"), self.limit, why));
        }
        if self.limit == 0 {
            return Err(Error::config(key("limit"), 0, "a completion needs at least one token"));
        }
        match self.schedule {
            Schedule::Drops(d) if d.end == 0 => {
                return Err(Error::config(key("schedule.drops.end"), 0, "the smallest budget is 1 token"));
            }
            Schedule::Drops(d) if self.start_share.is_none() && d.end > self.start => {
                let why = format!("a curriculum does not rise: lower it to at most `start` = {}", self.start);
                return Err(Error::config(key("schedule.drops.end"), d.end, why));
            }
            Schedule::Every(e) if !(e.factor > 0.0 && e.factor <= 1.0) => {
                let why = "each drop multiplies the budget: choose above 0 and up to 1";
                return Err(Error::config(key("schedule.every.factor"), e.factor, why));
            }
            Schedule::Every(Every { interval: 0, .. }) => {
                return Err(Error::config(key("schedule.every.interval"), 0, "drops are at least 1 step apart"));
            }
            _ => {}
        }
        let start = self.start_share.is_none().then_some(self.start as f64);
        Ok(Box::new(Plans { settings: self.clone(), start }))
    }
}

/// The curriculum with its first budget, once that is known.
struct Plans {
    settings: Curriculum,
    start: Option<f64>,
}

impl TokenBudget for Plans {
    fn plan(&self, step: usize, steps: usize) -> Result<Plan> {
        let start = self.start.ok_or_else(|| Error::Exhausted {
            stage: STAGE,
            why: "`start_share` needs measured lengths: name a file of `candlewick probe` in `data.probe`".into(),
        })?;
        let told = self.settings.schedule.budget(start, step, steps);
        let cap =
            if self.settings.stop_at_double { (2 * told + 1).min(self.settings.limit) } else { self.settings.limit };
        Ok(Plan { told: Some(told), cap })
    }

    fn largest(&self) -> usize {
        self.settings.limit
    }

    fn tells(&self) -> bool {
        true
    }

    fn needs_probe(&self) -> bool {
        self.settings.start_share.is_some()
    }

    fn begin(&mut self, natural: Option<f64>) -> Result<Vec<String>> {
        let (Some(natural), limit) = (natural, self.settings.limit) else { return Ok(Vec::new()) };
        if let Some(share) = self.settings.start_share {
            let start = (share * natural).ceil().max(1.0);
            if start > limit as f64 {
                let why = format!("generation would stop before the first budget of {start}: raise `limit`");
                return Err(Error::config(format!("{STAGE}.limit"), limit, why));
            }
            if let Schedule::Drops(Drops { end, .. }) = self.settings.schedule
                && end as f64 > start
            {
                let why =
                    format!("a curriculum does not rise, and the probe gives a first budget of {start}: lower it");
                return Err(Error::config(format!("{STAGE}.schedule.drops.end"), end, why));
            }
            self.start = Some(start);
        }
        let start = self.start.unwrap_or(f64::INFINITY);
        let is_flat = start < natural / 2.0;
        Ok(Vec::from_iter(is_flat.then(|| {
            format!("the first budget of {start} tokens is under half of the {natural:.0} that completions take: the length reward has no slope there, so raise `{STAGE}.start`")
        })))
    }
}

impl State for Plans {
    fn save(&self) -> Option<serde_json::Value> {
        self.settings.start_share.and(self.start).map(|start| serde_json::json!({ "start": start }))
    }

    fn load(&mut self, saved: &serde_json::Value) -> Result<()> {
        let start = saved.get("start").and_then(serde_json::Value::as_f64);
        let start = start.ok_or_else(|| Error::State { stage: STAGE, why: format!("no `start` in {saved}") })?;
        self.start = Some(start);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paper_s_budgets_and_the_rounding() {
        let every = Schedule::Every(Every::default());
        assert_eq!([0, 150, 300, 450].map(|t| every.budget(256.0, t, 600)), [256, 179, 125, 87]);
        assert_eq!(whole(86.999_999_999_999_97), 87);
        assert_eq!(whole(0.2), 1);
    }

    #[test]
    fn the_budget_never_rises_and_ends_where_it_should() {
        for shape in [Shape::Exponential, Shape::Linear] {
            for drops in [0, 1, 3, 7, 40] {
                let settings = Curriculum {
                    start: 200,
                    schedule: Schedule::Drops(Drops { end: 30, drops, shape }),
                    stop_at_double: true,
                    ..Curriculum::default()
                };
                let stage = settings.build().unwrap();
                let plans: Vec<Plan> = (0..90).map(|t| stage.plan(t, 83).unwrap()).collect();
                assert!(plans.windows(2).all(|w| w[1].told <= w[0].told));
                assert_eq!(plans[0], Plan { told: Some(200), cap: 401 });
                assert_eq!(plans[89].told, Some(if drops == 0 { 200 } else { 30 }));
            }
        }
    }

    #[test]
    fn a_probe_gives_the_start_and_a_restart_keeps_it() {
        let settings = Curriculum { start_share: Some(1.5), ..Curriculum::default() };
        let mut stage = settings.build().unwrap();
        assert!(stage.needs_probe() && stage.plan(0, 10).is_err());
        assert!(stage.begin(Some(100.5)).unwrap().is_empty());
        assert_eq!(stage.plan(0, 10).unwrap().told, Some(151));
        let mut again = settings.build().unwrap();
        again.load(&stage.save().unwrap()).unwrap();
        assert_eq!(again.plan(5, 10).unwrap(), stage.plan(5, 10).unwrap());
        assert!(settings.build().unwrap().begin(Some(10.0)).unwrap_err().to_string().contains("does not rise"));
        let warned = Curriculum::default().build().unwrap().begin(Some(600.0)).unwrap();
        assert!(warned[0].contains("under half of the 600"), "{warned:?}");
    }

    #[test]
    fn impossible_settings_are_refused() {
        let drops = |end| Schedule::Drops(Drops { end, ..Drops::default() });
        let every = |factor, interval| Schedule::Every(Every { factor, interval });
        for bad in [
            Curriculum { start: 0, ..Curriculum::default() },
            Curriculum { limit: 255, ..Curriculum::default() },
            Curriculum { schedule: drops(0), ..Curriculum::default() },
            Curriculum { schedule: drops(257), ..Curriculum::default() },
            Curriculum { schedule: every(1.2, 5), ..Curriculum::default() },
            Curriculum { schedule: every(0.5, 0), ..Curriculum::default() },
            Curriculum { start_share: Some(-1.0), ..Curriculum::default() },
        ] {
            assert!(matches!(bad.build(), Err(Error::Config { .. })), "{bad:?}");
        }
    }
}
