//! Asking an HTTP service politely: bounded, rate-limited, retried, and no more once it is down.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{StatusCode, Url};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::ConfigError;

/// How a service is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// Name of the environment variable that holds the key, sent as a bearer token; the key itself is never written anywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_env: Option<String>,
    /// Requests under way at one time.
    #[schemars(range(min = 1))]
    pub concurrency: usize,
    /// Requests a minute at most; absent sets no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<f64>,
    /// Seconds to connect.
    pub connect_timeout_seconds: f64,
    /// Seconds for one request, answer included.
    pub timeout_seconds: f64,
    /// Further attempts after a timeout, a broken connection, status 429 or 5xx.
    pub retries: u32,
    /// Seconds before the first further attempt; each next one waits twice as long, up to a minute, unless the service says how long (`Retry-After`).
    pub backoff_seconds: f64,
    /// Requests in a row that may fail before the rest of the step is not asked any more.
    #[schemars(range(min = 1))]
    pub max_consecutive_failures: usize,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        ServiceConfig {
            key_env: None,
            concurrency: 32,
            requests_per_minute: None,
            connect_timeout_seconds: 5.0,
            timeout_seconds: 60.0,
            retries: 4,
            backoff_seconds: 0.5,
            max_consecutive_failures: 20,
        }
    }
}

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A service under one address.
pub(super) struct Service {
    http: reqwest::Client,
    url: Url,
    config: ServiceConfig,
    permits: Semaphore,
    next: Mutex<Option<Instant>>,
    failures: AtomicUsize,
    figures: Figures,
}

/// Counts since they were last read.
#[derive(Default)]
struct Figures {
    requests: AtomicU64,
    retries: AtomicU64,
    timeouts: AtomicU64,
    milliseconds: Mutex<Vec<f64>>,
}

/// What came of one attempt, if no answer did.
enum Trouble {
    /// Another attempt may do better, after at least this time.
    Passing(String, Option<Duration>),
    /// It will not.
    Lasting(String),
}

impl Service {
    /// `section` is such as `judge`, for messages; `key` that of the address in it.
    pub(super) fn new(section: &str, key: &str, url: &str, config: &ServiceConfig) -> Result<Self, ConfigError> {
        let bad = |key: &str, value: String, fix: &str| ConfigError::BadValue {
            key: format!("{section}.{key}"),
            value,
            fix: fix.into(),
        };
        let parsed = Url::parse(url).ok().filter(|u| ["http", "https"].contains(&u.scheme()) && u.has_host());
        let parsed =
            parsed.ok_or_else(|| bad(key, url.into(), "give an address such as `http://localhost:8000/v1`"))?;
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(bad(key, "(hidden)".into(), "no password stands in an address: use `service.key_env`"));
        }
        for (key, seconds) in [
            ("connect_timeout_seconds", config.connect_timeout_seconds),
            ("timeout_seconds", config.timeout_seconds),
            ("requests_per_minute", config.requests_per_minute.unwrap_or(1.0)),
        ] {
            if !(seconds > 0.0 && seconds < 1e6) {
                return Err(bad(&format!("service.{key}"), seconds.to_string(), "give a number above 0"));
            }
        }
        if !(0.0..1e4).contains(&config.backoff_seconds) {
            return Err(bad("service.backoff_seconds", config.backoff_seconds.to_string(), "give seconds, 0 or more"));
        }
        let counts =
            [("concurrency", config.concurrency), ("max_consecutive_failures", config.max_consecutive_failures)];
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(bad(&format!("service.{key}"), "0".into(), "give at least 1"));
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs_f64(config.connect_timeout_seconds))
            .timeout(Duration::from_secs_f64(config.timeout_seconds));
        if is_local(&parsed) {
            builder = builder.no_proxy();
        }
        let http = builder
            .build()
            .map_err(|error| ConfigError::Unusable { reward: section.into(), message: error.to_string() })?;
        Ok(Service {
            http,
            url: parsed,
            permits: Semaphore::new(config.concurrency),
            config: config.clone(),
            next: Mutex::new(None),
            failures: AtomicUsize::new(0),
            figures: Figures::default(),
        })
    }

    /// The key from the environment, where one is named.
    ///
    /// Errors: the variable is not set.
    pub(super) fn key(&self) -> Result<Option<String>, String> {
        let Some(name) = &self.config.key_env else { return Ok(None) };
        match std::env::var(name) {
            Ok(key) if !key.trim().is_empty() => Ok(Some(key.trim().to_owned())),
            _ => Err(format!("the environment variable `{name}` that `service.key_env` names is not set")),
        }
    }

    /// What a person should know before the run starts.
    pub(super) fn warning(&self) -> Option<String> {
        let is_open = self.config.key_env.is_some() && self.url.scheme() == "http" && !is_local(&self.url);
        is_open
            .then(|| format!("the key is sent to {} unencrypted: use https", self.url.host_str().unwrap_or_default()))
    }

    /// Asks, as often as the config allows; the answer's JSON.
    ///
    /// Dropping the future gives up the request. Errors: what happened at the last attempt, in a line.
    pub(super) async fn post(&self, body: &Value) -> Result<Value, String> {
        let key = self.key()?;
        let _permit = self.permits.acquire().await.map_err(|error| error.to_string())?;
        let mut attempt = 0;
        loop {
            if self.failures.load(Ordering::Relaxed) >= self.config.max_consecutive_failures {
                let n = self.config.max_consecutive_failures;
                return Err(format!("not asked: {n} requests in a row have failed in this step"));
            }
            self.wait_for_turn().await;
            let started = Instant::now();
            self.figures.requests.fetch_add(1, Ordering::Relaxed);
            let trouble = match self.once(body, key.as_deref()).await {
                Ok(answer) => {
                    self.failures.store(0, Ordering::Relaxed);
                    let taken = started.elapsed().as_secs_f64() * 1e3;
                    self.figures.milliseconds.lock().unwrap_or_else(PoisonError::into_inner).push(taken);
                    return Ok(answer);
                }
                Err(trouble) => trouble,
            };
            let (message, at_least) = match trouble {
                Trouble::Lasting(message) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    return Err(message);
                }
                Trouble::Passing(message, at_least) => (message, at_least),
            };
            if attempt == self.config.retries {
                self.failures.fetch_add(1, Ordering::Relaxed);
                return Err(format!("{message} (after {} attempts)", attempt + 1));
            }
            self.figures.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(at_least.unwrap_or_else(|| self.wait(body, attempt)).min(LONGEST_WAIT)).await;
            attempt += 1;
        }
    }

    async fn once(&self, body: &Value, key: Option<&str>) -> Result<Value, Trouble> {
        let mut request = self.http.post(self.url.clone()).json(body);
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        let broken = |error: reqwest::Error| {
            if error.is_timeout() {
                self.figures.timeouts.fetch_add(1, Ordering::Relaxed);
            }
            Trouble::Passing(reason(&error.without_url()), None)
        };
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        let asked_to_wait = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let at_least = asked_to_wait.filter(|s| (0.0..1e6).contains(s)).map(Duration::from_secs_f64);
        let text = response.text().await.map_err(broken)?;
        if !status.is_success() {
            let start: String = text.chars().take(200).collect();
            let message = format!("status {status}: {}", start.split_whitespace().collect::<Vec<_>>().join(" "));
            return Err(match status {
                StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Trouble::Passing(message, at_least),
                status if status.is_server_error() => Trouble::Passing(message, at_least),
                _ => Trouble::Lasting(message),
            });
        }
        serde_json::from_str(&text).map_err(|error| {
            let start: String = text.chars().take(80).collect();
            Trouble::Passing(format!("the answer is no JSON ({error}): `{start}`"), None)
        })
    }

    /// Exponential, times 0.5 to 1.5 by the request itself, so that many do not come back at once.
    fn wait(&self, body: &Value, attempt: u32) -> Duration {
        let hash = Sha256::digest(format!("{attempt}{body}"));
        let jitter = 0.5 + f64::from(u16::from_be_bytes([hash[0], hash[1]])) / 65_536.0;
        Duration::from_secs_f64((self.config.backoff_seconds * 2_f64.powi(attempt.min(20) as i32) * jitter).min(60.0))
    }

    async fn wait_for_turn(&self) {
        let Some(rate) = self.config.requests_per_minute else { return };
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = next.map_or(Instant::now(), |next| next.max(Instant::now()));
            *next = Some(turn + Duration::from_secs_f64(60.0 / rate));
            turn
        };
        tokio::time::sleep_until(turn.into()).await;
    }

    /// Counts since the last call; also lets a service that was given up be asked again.
    pub(super) fn figures(&self) -> Vec<(String, f64)> {
        self.failures.store(0, Ordering::Relaxed);
        let read = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed) as f64;
        let mut times = std::mem::take(&mut *self.figures.milliseconds.lock().unwrap_or_else(PoisonError::into_inner));
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len().max(1) - 1)).copied();
        let counts = [
            ("requests", Some(read(&self.figures.requests))),
            ("retries", Some(read(&self.figures.retries))),
            ("timeouts", Some(read(&self.figures.timeouts))),
            ("latency_p50_ms", at(0.5)),
            ("latency_p95_ms", at(0.95)),
        ];
        counts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

fn is_local(url: &Url) -> bool {
    matches!(url.host_str(), Some("localhost" | "[::1]")) || url.host_str().is_some_and(|h| h.starts_with("127."))
}

/// The last cause of an error, which says most.
fn reason(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let (first, last) = (error.to_string(), last.to_string());
    if first == last { first } else { format!("{first}: {last}") }
}
