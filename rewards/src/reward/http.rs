//! The `http` reward: a scoring service of the user's.

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::service::{Service, ServiceConfig};
use super::{ConfigError, Item, Models, Reward, RewardError, RewardSection};

/// Rewards what a service of yours scores: POST `{"items": [...]}`, answered by `{"scores": [...]}`.
///
/// An item has `id`, `question`, `prompt`, `completion`, `answer`, `completion_tokens`, `is_truncated`, `told`, `verdict`
/// and `meta` with every other column of the data. A score is a number, or null, or `{"error": "why"}`: then it is
/// missing, and counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Address of the service.
    pub url: String,
    /// Whether its scores are 1 for right and 0 for wrong, so that they can be the verdict.
    pub is_binary: bool,
    /// Completions in one request, sent when all of a step are there. Absent sends each alone as soon as it is finished.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// How the service is asked.
    pub service: ServiceConfig,
}

impl RewardSection for HttpConfig {
    fn build(&self, _: &dyn Models) -> Result<Box<dyn Reward>, ConfigError> {
        if self.batch == Some(0) {
            let fix = "give at least 1".into();
            return Err(ConfigError::BadValue { key: "http.batch".into(), value: "0".into(), fix });
        }
        Ok(Box::new(Http { service: Service::new("http", "url", &self.url, &self.service)?, config: self.clone() }))
    }
}

struct Http {
    service: Service,
    config: HttpConfig,
}

impl Http {
    async fn chunk(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        let body = json!({ "items": items.iter().map(Item::to_json).collect::<Vec<_>>() });
        let all = |message: String| vec![Err(RewardError::failed("http", message)); items.len()];
        match self.service.post(&body).await {
            Err(message) => all(message),
            Ok(answer) => match answer.get("scores").and_then(Value::as_array) {
                Some(scores) if scores.len() == items.len() => scores.iter().map(|s| self.read(s)).collect(),
                Some(scores) => all(format!("{} scores came back for {} completions", scores.len(), items.len())),
                None => all("the answer has no list `scores`".into()),
            },
        }
    }

    fn read(&self, score: &Value) -> Result<f64, RewardError> {
        match score {
            Value::Number(number) => {
                let value = number.as_f64().unwrap_or(f64::NAN);
                if self.config.is_binary && value != 0.0 && value != 1.0 {
                    return Err(RewardError::failed(
                        "http",
                        format!("`{value}` is neither 0 nor 1, as `is_binary` says"),
                    ));
                }
                Ok(value)
            }
            Value::Null => Err(RewardError::failed("http", "the service gave no score")),
            Value::Object(object) => {
                let why = object.get("error").and_then(Value::as_str).unwrap_or("the score is an object");
                Err(RewardError::failed("http", why))
            }
            other => Err(RewardError::failed("http", format!("`{other}` is no score"))),
        }
    }
}

#[async_trait]
impl Reward for Http {
    fn name(&self) -> &str {
        "http"
    }

    async fn score(&self, items: &[Item]) -> Vec<Result<f64, RewardError>> {
        let chunks = items.chunks(self.config.batch.unwrap_or(1));
        // The service's own limit says how many are asked at one time.
        let asked = futures_util::future::join_all(chunks.map(|chunk| self.chunk(chunk))).await;
        asked.into_iter().flatten().collect()
    }

    fn is_binary(&self) -> bool {
        self.config.is_binary
    }

    fn is_batched(&self) -> bool {
        self.config.batch.is_some()
    }

    async fn start(&self) -> Result<Vec<String>, RewardError> {
        self.service.key().map_err(|message| RewardError::failed("http", message))?;
        Ok(self.service.warning().into_iter().collect())
    }

    async fn figures(&self, _: usize) -> Vec<(String, f64)> {
        self.service.figures()
    }
}
