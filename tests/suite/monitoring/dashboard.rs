//! The dashboard: what can be told of it without Grafana, and its queries, asked of a real Prometheus.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::metrics::Exposition;
use super::{builder, busy};
use crate::harness::prometheus::{Prometheus, monitoring};
use crate::harness::within;

/// What every panel takes its data from.
const SOURCE: &str = "${datasource}";
/// Grafana's grid is so many columns wide.
const COLUMNS: u64 = 24;

fn dashboard() -> Value {
    let text = fs::read_to_string(monitoring().join("grafana/dashboards/baton.json")).expect("it is shipped");
    serde_json::from_str(&text).expect("JSON")
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().unwrap_or_else(|| panic!("no list {name} in {of}"))
}

fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of[name].as_str().unwrap_or_else(|| panic!("no text {name} in {of}"))
}

/// Panels that show data: all but the rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    list(dashboard, "panels").iter().filter(|panel| panel["type"] != "row").collect()
}

/// Every query of a panel, and how its series are called.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let targets = panels(dashboard).into_iter().flat_map(|panel| list(panel, "targets"));
    targets.map(|target| (concrete(text(target, "expr")), text(target, "legendFormat").to_owned())).collect()
}

/// As Grafana would ask it.
fn concrete(query: &str) -> String {
    let query = query.replace("$__rate_interval", "2m").replace("$__interval", "2m").replace("$instance", ".*");
    assert!(!query.contains('$'), "a variable that is not known: {query}");
    query
}

/// Labels that a legend names: `{{slot}}`.
fn labels_of(legend: &str) -> impl Iterator<Item = &str> {
    legend.split("{{").skip(1).filter_map(|rest| Some(rest.split_once("}}")?.0))
}

#[test]
fn it_is_what_grafana_takes() {
    let dashboard = dashboard();
    assert_eq!((text(&dashboard, "uid"), text(&dashboard, "title")), ("baton", "baton"));
    let rows = list(&dashboard, "panels").iter().filter(|panel| panel["type"] == "row");
    let rows: Vec<&str> = rows.map(|row| text(row, "title")).collect();
    let expected = ["Overview", "Connections", "Messages", "Latency", "Errors", "Workers", "Takeovers", "Backplane"];
    assert_eq!(rows, expected);
    let ids: BTreeSet<u64> = list(&dashboard, "panels").iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), list(&dashboard, "panels").len(), "each panel has an id of its own");
    let titles: BTreeSet<&str> = panels(&dashboard).into_iter().map(|panel| text(panel, "title")).collect();
    assert!(titles.len() > 40, "{titles:?}");
    for panel in panels(&dashboard) {
        let title = text(panel, "title");
        assert!(!text(panel, "description").is_empty(), "{title}");
        assert!(!text(&panel["fieldConfig"]["defaults"], "unit").is_empty(), "{title}");
        assert!(["timeseries", "stat", "heatmap", "table"].contains(&text(panel, "type")), "{title}");
        let sources = list(panel, "targets").iter().chain([panel]).map(|it| &it["datasource"]);
        for source in sources {
            assert_eq!((text(source, "type"), text(source, "uid")), ("prometheus", SOURCE), "{title}");
        }
        let references: BTreeSet<&str> = list(panel, "targets").iter().map(|target| text(target, "refId")).collect();
        assert_eq!(references.len(), list(panel, "targets").len(), "{title}: each query has a name of its own");
    }
    let variables: Vec<&str> = list(&dashboard["templating"], "list").iter().map(|it| text(it, "name")).collect();
    assert_eq!(variables, ["datasource", "instance"]);
}

#[test]
fn no_panel_lies_upon_another() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    for panel in list(&dashboard, "panels") {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|name| panel["gridPos"][name].as_u64().expect("a number"));
        assert!(w > 0 && h > 0 && x + w <= COLUMNS, "{panel}");
        let cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
        cells.for_each(|cell| assert!(taken.insert(cell), "{} lies upon another", panel["title"]));
    }
}

#[test]
fn it_asks_for_metrics_that_there_are_and_leaves_none_out() {
    let exposition = Exposition::of(&builder().start());
    let dashboard = dashboard();
    let queries: Vec<String> = queries(&dashboard).into_iter().map(|(query, _)| query).collect();
    queries.iter().for_each(|query| exposition.assert_knows(query));
    let annotations = list(&dashboard["annotations"], "list").iter().filter_map(|it| it["expr"].as_str());
    annotations.for_each(|query| exposition.assert_knows(&concrete(query)));
    assert_eq!(exposition.unasked(&queries), BTreeSet::new(), "are on no panel");
}

#[tokio::test]
async fn every_query_is_answered_with_numbers_by_a_real_prometheus() {
    let builder = builder();
    let service = builder.clone().with("--color", "blue").start();
    let prometheus = Prometheus::start(service.address);
    let (_service, _clients) = busy(&prometheus, builder, service).await;
    let limit = std::time::Duration::from_secs(60);
    for (query, legend) in queries(&dashboard()) {
        let series = within(limit, &format!("numbers for {query}: {:?}", prometheus.query(&query)), || {
            let series = prometheus.query(&query);
            (!series.is_empty() && series.iter().all(|(_, value)| value.is_finite())).then_some(series)
        });
        for label in labels_of(&legend) {
            assert!(series.iter().all(|(labels, _)| labels[label].is_string()), "{legend}: {query}: {series:?}");
        }
    }
    for annotation in list(&dashboard()["annotations"], "list").iter().filter_map(|it| it["expr"].as_str()) {
        prometheus.query(&concrete(annotation));
    }
    let completed = prometheus.query("takeovers_total{outcome=\"completed\"}");
    assert_eq!(completed.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1.0]);
    let handed = prometheus.query("takeover_connections_total{fate=\"handed_over\"}");
    // Connections of HTTP between two requests, as that of Prometheus, come along too.
    assert!(handed.len() == 1 && handed[0].1 >= 8.0, "{handed:?}");
}

/// As Grafana reads it: each kind of file names what it provides.
#[test]
fn the_provisioning_files_name_what_they_provide() {
    let read = |path: &str| fs::read_to_string(monitoring().join("grafana/provisioning").join(path)).expect("shipped");
    let (source, provider) = (read("datasources/prometheus.yml"), read("dashboards/baton.yml"));
    for (file, lines) in [
        (&source, &["apiVersion: 1", "datasources:", "    type: prometheus", "    url: http://localhost:9090"]),
        (&provider, &["apiVersion: 1", "providers:", "    type: file", "      path: /var/lib/grafana/dashboards"]),
    ] {
        lines.iter().for_each(|line| assert!(file.lines().any(|have| have == *line), "{line:?} in {file}"));
    }
}
