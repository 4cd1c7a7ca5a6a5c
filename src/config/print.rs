//! `baton run --print-config`: a configuration file that would give the same result, and where each value came from.

use std::fmt::Write;

use super::Loaded;
use super::key::{Group, Key};
use super::keys::KEYS;
use super::problem::Origin;
use super::sources::Raw;

/// The configuration as valid TOML, secrets hidden.
pub(crate) fn print(loaded: &Loaded) -> String {
    let mut text = String::new();
    for group in Group::ALL {
        let separator = if text.is_empty() { "" } else { "\n" };
        writeln!(text, "{separator}# {}", group.title()).expect("a String takes all that is written");
        for key in KEYS.iter().filter(|key| key.group == group) {
            let line = match loaded.raw.get(key.name) {
                Some(raw) if key.hidden => secret(key, raw),
                Some(raw) => format!("{} = {}  # {}", key.name, value(key, raw), raw.origin),
                None => continue,
            };
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

/// A secret is not a key of the output: what stood there in its place would be read as its value.
fn secret(key: &Key, raw: &Raw) -> String {
    match raw.origin {
        Origin::Default => format!("# {} is not set", key.name),
        _ => format!("# {} is set and not shown  # {}", key.name, raw.origin),
    }
}

fn value(key: &Key, raw: &Raw) -> String {
    let text = |text: &String| toml::Value::String(text.clone()).to_string();
    match raw.values.as_slice() {
        [one] if !key.is_list() => one.parse::<i64>().map_or_else(|_| text(one), |number| number.to_string()),
        values => format!("[{}]", values.iter().map(text).collect::<Vec<_>>().join(", ")),
    }
}
