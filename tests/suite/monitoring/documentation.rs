//! `docs/OBSERVABILITY.md` names all that there is, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::metrics::Exposition;
use super::{builder, busy};
use crate::harness::prometheus::{Prometheus, monitoring};

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/OBSERVABILITY.md");
    fs::read_to_string(path).expect("it is shipped")
}

/// What stands below a heading, up to the next one of its rank.
fn section<'a>(document: &'a str, heading: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let rank = heading.split(' ').next().expect("hashes");
    rest.split(&format!("\n{rank} ")).next().expect("a first part")
}

/// Names in the first column of the tables: `| `name` |`, `| `name`, `other` |`.
fn first_column(section: &str) -> BTreeSet<String> {
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let names = cells.flat_map(|cell| cell.split(", ").map(|name| name.trim_matches(['`', ' ', '|'])));
    names.map(|name| name.split('{').next().expect("a first part").to_owned()).collect()
}

#[test]
fn it_names_every_metric_with_its_type() {
    let exposition = Exposition::of(&builder().start());
    let document = document();
    let metrics = section(&document, "## Metrics");
    let known: BTreeSet<String> = exposition.families.keys().cloned().collect();
    assert_eq!(first_column(metrics), known);
    for (name, kind) in &exposition.families {
        let row = metrics.lines().find(|line| line.starts_with(&format!("| `{name}")));
        let row = row.unwrap_or_else(|| panic!("no row for {name}"));
        assert!(row.contains(&format!("| {kind} |")), "{name} is a {kind}: {row}");
    }
}

#[test]
fn it_says_of_every_alert_what_to_do() {
    let rules = fs::read_to_string(monitoring().join("alerting/rules.yml")).expect("it is shipped");
    let fields = |name: &str| -> Vec<String> {
        let lines = rules.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(name));
        lines.map(|value| value.trim().trim_matches(['"', '\'']).to_owned()).collect()
    };
    let (names, runbooks, severities) = (fields("alert:"), fields("runbook:"), fields("severity:"));
    assert!(names.len() > 20 && names.len() == runbooks.len() && names.len() == severities.len());
    assert!(fields("summary:").len() == names.len() && fields("description:").len() == names.len());
    let document = document();
    let alerts = section(&document, "## Alerts");
    let headings: BTreeMap<&str, &str> =
        alerts.split("\n### ").skip(1).map(|part| part.split_once('\n').expect("text below the heading")).collect();
    assert_eq!(headings.keys().copied().collect::<BTreeSet<_>>(), names.iter().map(String::as_str).collect());
    for ((name, runbook), severity) in names.iter().zip(runbooks).zip(severities) {
        assert_eq!(runbook, format!("docs/OBSERVABILITY.md#{}", name.to_lowercase()));
        assert!(headings[name.as_str()].trim_start().starts_with(&severity), "{name} is {severity}");
    }
}

/// Those that a service writes which has had clients and has handed over, with all that it has to say.
#[tokio::test]
async fn it_names_every_field_of_the_log() {
    let builder = builder().with("--log-level", "debug");
    let service = builder.clone().with("--color", "blue").start();
    let prometheus = Prometheus::start(service.address);
    let (service, _clients) = busy(&prometheus, builder, service).await;
    let document = document();
    let documented = first_column(section(&document, "## Log"));
    let mut seen = BTreeSet::new();
    for line in service.log_lines() {
        seen.extend(line.as_object().expect("an object").keys().cloned());
    }
    assert!(seen.len() > 15, "{seen:?}");
    let unknown: Vec<&String> = seen.difference(&documented).collect();
    assert!(unknown.is_empty(), "not in docs/OBSERVABILITY.md: {unknown:?}");
}
