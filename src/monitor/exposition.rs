//! What `/metrics` says: OpenMetrics text as numbers.

use std::collections::BTreeMap;

use super::histogram::Histogram;

/// One scrape.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Exposition {
    points: Vec<Point>,
}

#[derive(Clone, Debug, PartialEq)]
struct Point {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Exposition {
    /// Reads the text. A line that cannot be read is an error: half of the numbers would be taken for all.
    pub(super) fn parse(text: &str) -> Result<Exposition, String> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let points = lines.map(|line| point(line).ok_or_else(|| format!("{line:?} is no line of OpenMetrics")));
        Ok(Exposition { points: points.collect::<Result<_, _>>()? })
    }

    /// A family by the values of its label.
    pub(super) fn family(&self, name: &str, label: &str) -> BTreeMap<&str, f64> {
        self.labelled(name, label).collect()
    }

    /// A histogram without labels, by its name without `_bucket`.
    pub(super) fn histogram(&self, name: &str) -> Histogram {
        let name = format!("{name}_bucket");
        let buckets = self.labelled(&name, "le").filter_map(|(bound, count)| {
            // `+Inf` is a number to Rust as well.
            Some((bound.parse().ok()?, count))
        });
        Histogram::new(buckets.collect())
    }

    fn labelled<'a>(&'a self, name: &str, label: &str) -> impl Iterator<Item = (&'a str, f64)> {
        self.points.iter().filter(move |point| point.name == name).filter_map(move |point| {
            let (_, value) = point.labels.iter().find(|(name, _)| name == label)?;
            Some((value.as_str(), point.value))
        })
    }
}

/// `name{label="value",…} number`, and what may follow.
fn point(line: &str) -> Option<Point> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (vec![], rest),
    };
    let value = rest.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Point { name: name.to_owned(), labels, value })
}

/// The labels, and what comes after the closing brace.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, after) = rest.split_once("=\"")?;
        let (value, after) = quoted(after)?;
        labels.push((name.to_owned(), value));
        rest = after;
    }
}

/// A text up to its closing quote, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_families_and_histograms() {
        let text = "\
# HELP websocket_connections_active WebSockets open now.
# TYPE websocket_connections_active gauge
websocket_connections_active 6.0
websocket_errors_total{type=\"invalid_json\"} 2
websocket_errors_total{type=\"store\"} 0 1700000000
odd{a=\"q\\\"}\\n\",b=\"2\"} 1e-3 # {trace=\"x\"} 1
d_bucket{le=\"0.1\"} 3
d_bucket{le=\"+Inf\"} 4
# EOF
";
        let scrape = Exposition::parse(text).unwrap();
        let errors = scrape.family("websocket_errors_total", "type");
        assert_eq!(errors, BTreeMap::from([("invalid_json", 2.0), ("store", 0.0)]));
        assert_eq!(scrape.family("odd", "a"), BTreeMap::from([("q\"}\n", 0.001)]));
        assert_eq!(scrape.histogram("d"), Histogram::new(vec![(0.1, 3.0), (f64::INFINITY, 4.0)]));
    }

    #[test]
    fn what_is_no_exposition_is_refused() {
        for text in ["<html>", "a{b=\"c} 1", "a{b} 1", "a b", "a{b=\"c\"}"] {
            assert!(Exposition::parse(text).is_err(), "{text}");
        }
        assert_eq!(Exposition::parse(""), Ok(Exposition::default()));
    }
}
