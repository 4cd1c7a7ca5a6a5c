//! `/metrics` of a running service, as those who ask for it see it.

use std::collections::{BTreeMap, BTreeSet};

use super::query::selectors;
use crate::harness::{Service, http};

/// Of these it is Prometheus that knows.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];
/// Labels that a scrape adds.
const OF_THE_TARGET: [&str; 2] = ["job", "instance"];

/// Everything that a service tells.
#[derive(Debug)]
pub(super) struct Exposition {
    /// Names as they are asked for, and the values of each label.
    samples: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    /// Names of the families as they are documented, with `_total`, and their types.
    pub(super) families: BTreeMap<String, String>,
}

impl Exposition {
    #[track_caller]
    pub(super) fn of(service: &Service) -> Exposition {
        let answer = http::get(service.address, "/metrics").expect("/metrics answers");
        assert!(answer.header("content-type").is_some_and(|it| it.starts_with("application/openmetrics-text")));
        let (mut samples, mut families) = (BTreeMap::new(), BTreeMap::new());
        for line in answer.body.lines() {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                let (name, kind) = family.split_once(' ').expect("a name and a type");
                let suffix = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                families.insert(format!("{name}{suffix}"), kind.to_owned());
            } else if !line.starts_with('#') {
                let (sample, value) = line.rsplit_once(' ').expect("a value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
                let known: &mut BTreeMap<String, BTreeSet<String>> = samples.entry(name.to_owned()).or_default();
                for (label, value) in labels.trim_end_matches('}').split(',').filter_map(|it| it.split_once('=')) {
                    known.entry(label.to_owned()).or_default().insert(value.trim_matches('"').to_owned());
                }
            }
        }
        assert_eq!(answer.body.lines().last(), Some("# EOF"));
        Exposition { samples, families }
    }

    /// That there is all that a query asks for.
    #[track_caller]
    pub(super) fn assert_knows(&self, query: &str) {
        for selector in selectors(query) {
            if OF_PROMETHEUS.contains(&&*selector.name) {
                continue;
            }
            let labels = self.samples.get(&selector.name);
            let labels = labels.unwrap_or_else(|| panic!("no metric {} for {query}", selector.name));
            for matcher in selector.matchers.iter().filter(|it| !OF_THE_TARGET.contains(&&*it.label)) {
                let values = labels.get(&matcher.label);
                let values = values.unwrap_or_else(|| panic!("no label {} for {query}", matcher.label));
                for value in &matcher.values {
                    assert!(values.contains(value), "{} has no {}={value:?}: {query}", selector.name, matcher.label);
                }
            }
        }
    }

    /// Families that none of these queries asks for.
    pub(super) fn unasked(&self, queries: &[String]) -> BTreeSet<String> {
        let asked: BTreeSet<String> = queries.iter().flat_map(|it| selectors(it)).map(|it| it.name).collect();
        let is_asked =
            |family: &str| ["", "_bucket", "_sum", "_count"].iter().any(|it| asked.contains(&format!("{family}{it}")));
        self.families.keys().filter(|family| !is_asked(family)).cloned().collect()
    }
}

#[test]
fn the_names_that_users_rely_on_are_there() {
    let exposition = Exposition::of(&super::builder().start());
    let families = [
        ("websocket_connections_active", "gauge"),
        ("websocket_messages_total", "counter"),
        ("websocket_errors_total", "counter"),
        ("websocket_message_duration_seconds", "histogram"),
        ("app_startup_time_seconds", "gauge"),
        ("baton_build_info", "info"),
        ("takeovers_total", "counter"),
        ("worker_open_fds", "gauge"),
    ];
    for (name, kind) in families {
        assert_eq!(exposition.families.get(name).map(String::as_str), Some(kind), "{name}");
    }
    exposition
        .assert_knows("websocket_messages_total{type=\"received\"} + websocket_errors_total{type=\"invalid_json\"}");
}
