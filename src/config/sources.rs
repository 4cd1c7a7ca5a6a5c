//! Where values come from, and which of them counts.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::key::{Fallback, Key};
use super::keys::{self, KEYS};
use super::problem::{Origin, Problem};

/// Read when no other file is named, if it is there.
pub(crate) const DEFAULT_FILE: &str = "/etc/baton/baton.toml";

/// Names the configuration file, where `--config` does not.
pub(crate) const FILE_VARIABLE: &str = "BATON_CONFIG";

/// The password of a new superuser, for who cannot type it. It is no setting.
pub(crate) const PASSWORD_VARIABLE: &str = "BATON_SUPERUSER_PASSWORD";

/// The environment, as a value, so that a reload sees what the start saw, and a test what it made up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// That of this process.
    pub(crate) fn of_process() -> Environment {
        std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .collect()
    }

    /// The value of a variable; an empty one counts as not set.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
impl Environment {
    /// Without some of its variables.
    pub(crate) fn without(&self, names: &[&str]) -> Environment {
        Environment(
            self.0
                .iter()
                .filter(|(name, _)| !names.contains(&name.as_str()))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        )
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Environment {
        Environment(variables.into_iter().collect())
    }
}

/// All that configuration is made from. Read anew at a reload: flags and environment stay, the file may have changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    /// What the command line says, by key.
    pub(crate) flags: BTreeMap<&'static str, Vec<String>>,
    /// `--config`.
    pub(crate) file: Option<PathBuf>,
    /// The environment at the start.
    pub(crate) environment: Environment,
}

/// A value as it was written: one text, or several for a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Raw {
    pub(crate) values: Vec<String>,
    pub(crate) origin: Origin,
}

/// What was set, by key, the strongest source only.
#[derive(Debug)]
pub(crate) struct Gathered {
    set: BTreeMap<&'static str, Raw>,
    pub(crate) file: Option<PathBuf>,
}

impl Gathered {
    /// What was set for this key, if anything.
    pub(crate) fn set_value(&self, key: &str) -> Option<&str> {
        self.set.get(key)?.values.first().map(String::as_str)
    }

    /// What counts for this key: what was set, or its default.
    pub(crate) fn value_of(&self, key: &Key, environment: &Environment) -> Result<Raw, Problem> {
        if let Some(raw) = self.set.get(key.name) {
            return Ok(raw.clone());
        }
        let values = match key.default {
            Fallback::Text(text) => vec![text.to_owned()],
            Fallback::List(texts) => texts.iter().map(|text| (*text).to_owned()).collect(),
            Fallback::Derived(derive) => vec![derive(environment).map_err(|reason| Problem::NoDefault {
                key: key.name,
                variable: key.variable(),
                reason,
            })?],
        };
        Ok(Raw { values, origin: Origin::Default })
    }
}

impl Sources {
    /// With another flag, or another value of it.
    pub(crate) fn with(mut self, key: &'static str, value: &str) -> Sources {
        self.flags.insert(key, vec![value.to_owned()]);
        self
    }

    /// The command line that says the same, for another process.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let file = self.file.as_ref().map(|path| {
            let mut argument = OsString::from("--config=");
            argument.push(path);
            argument
        });
        let flags =
            self.flags.iter().flat_map(|(key, values)| values.iter().map(move |v| format!("--{key}={v}").into()));
        file.into_iter().chain(flags).collect()
    }

    /// Reads every source, weakest first, so that the strongest stays.
    pub(crate) fn gather(&self, problems: &mut Vec<Problem>) -> Gathered {
        let mut set = BTreeMap::new();
        let file = self.read_file(&mut set, problems);
        for key in KEYS {
            set.extend(self.in_environment(key).map(|raw| (key.name, raw)));
            if let Some(values) = self.flags.get(key.name) {
                set.insert(key.name, Raw { values: values.clone(), origin: Origin::Flag(key.name) });
            }
        }
        let known = |name: &str| {
            [FILE_VARIABLE, PASSWORD_VARIABLE].contains(&name) || KEYS.iter().any(|key| key.variable() == name)
        };
        let unknown = self.environment.0.keys().filter(|name| name.starts_with("BATON_") && !known(name));
        problems.extend(unknown.map(|name| Problem::unknown_variable(name)));
        Gathered { set, file }
    }

    /// The key's own variable, or the first of its other ones that says something.
    fn in_environment(&self, key: &Key) -> Option<Raw> {
        let own = key.variable();
        let own = self.environment.get(&own).map(|value| (own.clone(), value.to_owned()));
        let mut others = key.variables.iter();
        let other = || {
            others.find_map(|variable| {
                let value = (variable.read)(self.environment.get(variable.name)?)?;
                Some((variable.name.to_owned(), value))
            })
        };
        let (name, value) = own.or_else(other)?;
        let values = match key.is_list() {
            true => value.split(',').map(|part| part.trim().to_owned()).collect(),
            false => vec![value],
        };
        Some(Raw { values, origin: Origin::Variable(name) })
    }

    fn read_file(&self, set: &mut BTreeMap<&'static str, Raw>, problems: &mut Vec<Problem>) -> Option<PathBuf> {
        let variable = self.environment.get(FILE_VARIABLE);
        let (path, origin) = match (&self.file, variable) {
            (Some(path), _) => (path.clone(), Origin::Flag("config")),
            (None, Some(path)) => (PathBuf::from(path), Origin::Variable(FILE_VARIABLE.to_owned())),
            (None, None) => (PathBuf::from(DEFAULT_FILE), Origin::Default),
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound && origin == Origin::Default => return None,
            Err(error) => {
                problems.push(Problem::Unreadable { path, origin, reason: error.to_string() });
                return None;
            }
        };
        parse(&path, &text, set, problems);
        Some(path)
    }
}

fn parse(path: &Path, text: &str, set: &mut BTreeMap<&'static str, Raw>, problems: &mut Vec<Problem>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let (line, column) = position(text, at);
        problems.push(Problem::Syntax { path: path.to_owned(), line, column, message: error.message().to_owned() });
    }
    for (name, value) in table.get_ref() {
        let origin = Origin::File(path.to_owned(), position(text, name.span().start).0);
        let Some(key) = keys::find(name.get_ref()) else {
            problems.push(Problem::unknown_key(name.get_ref(), origin));
            continue;
        };
        let values = match value.get_ref() {
            DeValue::Array(items) if key.is_list() => items.iter().map(|item| scalar(item.get_ref())).collect(),
            DeValue::Array(_) | DeValue::Table(_) => None,
            one => scalar(one).map(|text| vec![text]),
        };
        match values {
            Some(values) => drop(set.insert(key.name, Raw { values, origin })),
            None => {
                let written = Raw { values: vec![text[value.span()].to_owned()], origin };
                let allowed = if key.is_list() { "a string, or a list of strings" } else { "one string or number" };
                problems.push(Problem::refused(key, &written, allowed.to_owned()));
            }
        }
    }
}

/// The text of a single value; none for a list or a table.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(integer) => {
            let parsed = i64::from_str_radix(integer.as_str(), integer.radix());
            Some(parsed.map_or_else(|_| integer.to_string(), |number| number.to_string()))
        }
        DeValue::Float(float) => Some(float.to_string()),
        DeValue::Boolean(boolean) => Some(boolean.to_string()),
        DeValue::Datetime(datetime) => Some(datetime.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// Line and column of a byte offset, both from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
    (line, column)
}
