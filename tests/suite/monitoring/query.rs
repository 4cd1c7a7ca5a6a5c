//! What a PromQL query asks for. Not a parser: it finds names and matchers in queries that Prometheus has accepted.

use std::iter::Peekable;
use std::str::Chars;

/// A metric that a query names, and what it wants of its labels.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Selector {
    pub(super) name: String,
    pub(super) matchers: Vec<Matcher>,
}

/// `label="value"`.
#[derive(Debug, PartialEq)]
pub(super) struct Matcher {
    pub(super) label: String,
    /// What may stand there; of a regular expression its alternatives.
    pub(super) values: Vec<String>,
}

/// Words that stand before a list of labels.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

pub(super) fn selectors(query: &str) -> Vec<Selector> {
    let mut found = Vec::new();
    let mut rest = query.chars().peekable();
    while let Some(next) = rest.peek().copied() {
        if next == '[' {
            skip_past(&mut rest, ']');
        } else if is_of_a_name(next) {
            let word = take_while(&mut rest, is_of_a_name);
            skip_space(&mut rest);
            if BEFORE_LABELS.contains(&&*word) {
                if rest.peek() == Some(&'(') {
                    skip_past(&mut rest, ')');
                }
            } else if rest.peek() == Some(&'{') {
                rest.next();
                found.push(Selector { name: word, matchers: matchers(&mut rest) });
            } else if !OPERATORS.contains(&&*word) && !is_number(&word) && !is_function(rest.clone()) {
                found.push(Selector { name: word, matchers: Vec::new() });
            }
        } else {
            assert!(next != '"' && next != '{', "neither a function of text nor a selector without a name: {query}");
            rest.next();
        }
    }
    found
}

/// Up to the closing brace.
fn matchers(rest: &mut Peekable<Chars<'_>>) -> Vec<Matcher> {
    let mut found = Vec::new();
    loop {
        take_while(rest, |c| c == ',' || c.is_whitespace());
        if rest.next_if_eq(&'}').is_some() {
            return found;
        }
        let label = take_while(rest, is_of_a_name);
        let operator = take_while(rest, |c| "=!~".contains(c));
        assert!(!label.is_empty() && rest.next_if_eq(&'"').is_some(), "a matcher begins with {label:?}{operator:?}");
        let value = take_while(rest, |c| c != '"');
        rest.next();
        let values = match operator.as_str() {
            "=" | "!=" => vec![value],
            _ => value.split('|').map(str::to_owned).collect(),
        };
        found.push(Matcher { label, values });
    }
}

/// Whether what stands before this is a function, or an aggregation: `sum(…)`, `sum by (…) (…)`.
fn is_function(mut rest: Peekable<Chars<'_>>) -> bool {
    rest.peek() == Some(&'(') || ["by", "without"].contains(&&*take_while(&mut rest, is_of_a_name))
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

fn take_while(rest: &mut Peekable<Chars<'_>>, wanted: impl Fn(char) -> bool) -> String {
    std::iter::from_fn(|| rest.next_if(|c| wanted(*c))).collect()
}

fn skip_space(rest: &mut Peekable<Chars<'_>>) {
    take_while(rest, char::is_whitespace);
}

fn skip_past(rest: &mut Peekable<Chars<'_>>, end: char) {
    rest.by_ref().take_while(|c| *c != end).for_each(drop);
}

#[test]
fn names_and_matchers_are_found_and_nothing_else() {
    let query = "histogram_quantile(0.95, sum by (job, le) (rate(a_bucket{job=\"x\", le=~\"1|+Inf\"}[5m]))) > 1e3
        and on (job) sum(b_total) by (job) / 300 unless ignoring(state) c offset 5m";
    let found = selectors(query);
    let names: Vec<&str> = found.iter().map(|selector| selector.name.as_str()).collect();
    assert_eq!(names, ["a_bucket", "b_total", "c"]);
    let matcher = |label: &str, values: &[&str]| Matcher {
        label: label.to_owned(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    assert_eq!(found[0].matchers, [matcher("job", &["x"]), matcher("le", &["1", "+Inf"])]);
    assert!(found[1].matchers.is_empty() && found[2].matchers.is_empty());
}
