//! What is shipped for Prometheus and Grafana, with a real Prometheus that scrapes a real service.

mod dashboard;
mod documentation;
mod metrics;
mod query;
mod takeovers;

use std::collections::BTreeSet;
use std::fs;

use nix::sys::signal::Signal;

use crate::harness::prometheus::{Prometheus, monitoring};
use crate::harness::service::Builder;
use crate::harness::{Client, Service};

use metrics::Exposition;
use query::selectors;

/// Two workers, and a heartbeat a second.
fn builder() -> Builder {
    Builder::new().with("--workers", "2").with("--heartbeat-interval", "1s")
}

/// Names of alerts that are there now, in this state.
fn alerts(prometheus: &Prometheus, state: &str) -> BTreeSet<String> {
    let alerts = prometheus.alerts().into_iter().filter(|alert| alert["state"] == state);
    alerts.map(|alert| alert["labels"]["alertname"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn a_real_prometheus_fires_when_a_takeover_fails_and_sees_that_the_service_is_gone() {
    let builder = builder();
    let service = builder.clone().with("--color", "blue").start();
    let _clients = Client::connect_several(4, &service.url()).await;
    let prometheus = Prometheus::start(service.address);
    prometheus.wait_for("sum(takeovers_total) == 0 and on () websocket_connections_active == 4");
    assert_eq!(alerts(&prometheus, "firing"), BTreeSet::new());

    let elsewhere = tempfile::tempdir().expect("a directory");
    let (status, said) =
        builder.state_dir(elsewhere.path()).with("--color", "green").with("--takeover", "wait").refused();
    assert!(!status.success(), "{said}");
    let alert = prometheus.wait_for_alert("BatonTakeoverFailed", "firing");
    assert_eq!((&alert["labels"]["outcome"], &alert["labels"]["severity"]), (&"refused".into(), &"warning".into()));
    assert_eq!(alert["labels"]["instance"], service.address.to_string());
    assert_eq!(alert["annotations"]["summary"], format!("A takeover on {} came to nothing: refused", service.address));
    assert_eq!(alerts(&prometheus, "firing"), BTreeSet::from(["BatonTakeoverFailed".to_owned()]));

    service.signal(Signal::SIGTERM);
    let alert = prometheus.wait_for_alert("BatonServiceDown", "pending");
    assert_eq!(alert["labels"]["severity"], "critical");
}

#[test]
fn every_metric_and_label_that_a_rule_names_is_there() {
    let service = builder().start();
    let exposition = Exposition::of(&service);
    let rules = Prometheus::start(service.address).rules();
    assert!(rules.len() > 20, "{rules:?}");
    for rule in &rules {
        let query = rule["query"].as_str().expect("a query");
        assert!(!selectors(query).is_empty(), "{query}");
        exposition.assert_knows(query);
        assert_eq!((&rule["health"], &rule["type"]), (&"ok".into(), &"alerting".into()), "{rule}");
    }
}

#[test]
fn every_alert_has_a_test_of_when_it_fires_and_when_it_does_not() {
    let read = |path: &str| fs::read_to_string(monitoring().join(path)).expect("it is shipped");
    let rules = read("alerting/rules.yml");
    let names: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let tests: String = ["backplane", "capacity", "service", "takeovers", "workers"]
        .map(|group| read(&format!("alerting/tests/{group}.yml")))
        .concat();
    for name in names {
        let silent = format!("alertname: {name}\n        exp_alerts: []\n");
        let fires = format!("- labels: 'ALERTS{{alertname=\"{name}\", alertstate=\"firing\"");
        assert!(tests.contains(&silent) && tests.contains(&fires), "{name} has no test");
    }
}

/// Clients that have sent something, before and after a takeover that Prometheus has seen.
async fn busy(prometheus: &Prometheus, builder: Builder, mut service: Service) -> (Service, Vec<Client>) {
    let mut clients = Client::connect_several(8, &service.url()).await;
    prometheus.wait_for("websocket_connections_active == 8");
    talk(&mut clients).await;
    let next = builder.with("--color", "green").with("--takeover", "now").start();
    assert!(service.wait(crate::harness::SOON).success());
    talk(&mut clients).await;
    (next, clients)
}

async fn talk(clients: &mut [Client]) {
    for client in clients {
        for _ in 0..20 {
            client.send("hello").await;
            // Heartbeats come in between.
            while client.json().await["count"].is_null() {}
        }
    }
}
