//! A Prometheus of a test's own, with the shipped configuration and rules.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::service::die_with_us;
use super::{free_address, http, within};

/// It discovers its targets in steps of five seconds, at a pace that cannot be set.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running Prometheus. Dropping it kills it.
pub struct Prometheus {
    child: Child,
    dir: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What is shipped.
pub fn monitoring() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring")
}

impl Prometheus {
    /// Scrapes this service instead of the one on the usual port, and every second, but with the shipped rules. Waits
    /// until it has scraped it.
    #[track_caller]
    pub fn start(service: SocketAddr) -> Prometheus {
        let dir = tempfile::Builder::new().prefix("baton-prometheus-").tempdir().expect("a temporary directory");
        let address = free_address();
        let shipped = fs::read_to_string(monitoring().join("prometheus.yml")).expect("it is shipped");
        let rules = monitoring().join("alerting/rules.yml");
        let changes = [
            ("localhost:8000", service.to_string()),
            ("scrape_interval: 15s", "scrape_interval: 1s".to_owned()),
            ("evaluation_interval: 5s", "evaluation_interval: 1s".to_owned()),
            ("- alerting/rules.yml", format!("- {}", rules.display())),
        ];
        let configuration = changes.into_iter().fold(shipped, |text, (from, to)| {
            assert_eq!(text.matches(from).count(), 1, "{from} in prometheus.yml");
            text.replace(from, &to)
        });
        let file = dir.path().join("prometheus.yml");
        fs::write(&file, configuration).expect("a file of ours");
        let log = File::create(dir.path().join("log")).expect("a file of ours");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        die_with_us(&mut command);
        let child = command.spawn().expect("prometheus is installed");
        let prometheus = Prometheus { child, dir, address };
        prometheus.wait_for("up == 1");
        prometheus
    }

    /// The series that a query has now: labels, and the value.
    #[track_caller]
    pub fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let data = self.ask(&format!("query?query={}", encoded(query))).unwrap_or_else(|error| {
            panic!("{query}: {error}");
        });
        let series = data["result"].as_array().unwrap_or_else(|| panic!("{query}: {data}"));
        let value = |series: &Value| series["value"][1].as_str().and_then(|value| value.parse().ok());
        series.iter().map(|series| (series["metric"].clone(), value(series).expect("a number"))).collect()
    }

    /// Waits until a query has some series.
    #[track_caller]
    pub fn wait_for(&self, query: &str) -> Vec<(Value, f64)> {
        within(PATIENCE, &format!("{query}\n{}", self.log()), || {
            // It does not answer until it has started.
            self.ask("query?query=1").ok()?;
            Some(self.query(query)).filter(|series| !series.is_empty())
        })
    }

    /// The alerts that are pending or firing.
    #[track_caller]
    pub fn alerts(&self) -> Vec<Value> {
        let data = self.ask("alerts").expect("it runs");
        data["alerts"].as_array().expect("a list").clone()
    }

    /// Waits until an alert of this name is firing, or pending.
    #[track_caller]
    pub fn wait_for_alert(&self, name: &str, state: &str) -> Value {
        within(PATIENCE, &format!("{name} is {state}"), || {
            self.alerts().into_iter().find(|alert| alert["labels"]["alertname"] == name && alert["state"] == state)
        })
    }

    /// The rules that it has loaded.
    #[track_caller]
    pub fn rules(&self) -> Vec<Value> {
        let data = self.ask("rules").expect("it runs");
        let groups = data["groups"].as_array().expect("a list");
        groups.iter().flat_map(|group| group["rules"].as_array().expect("a list")).cloned().collect()
    }

    /// `data` of what its API answers.
    fn ask(&self, what: &str) -> Result<Value, String> {
        // HTTP/1.0, so that nothing comes in chunks.
        let request = format!("GET /api/v1/{what} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
        let answer = http::request(self.address, &request).map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_str(&answer.body).map_err(|_| answer.body.clone())?;
        if answer["status"] == "success" { Ok(answer["data"].take()) } else { Err(answer["error"].to_string()) }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// As a value in a URL (RFC 3986).
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).into() } else { format!("%{byte:02X}") })
        .collect()
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(10).collect();
            eprintln!("--- the end of the log of Prometheus:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
