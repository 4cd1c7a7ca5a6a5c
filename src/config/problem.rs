//! What can be wrong with a configuration, in sentences that tell where to look and what to write instead.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::key::Key;
use super::keys::KEYS;
use super::sources::Raw;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nobody set it.
    Default,
    /// A flag of this name.
    Flag(&'static str),
    /// An environment variable of this name.
    Variable(String),
    /// A line of the configuration file.
    File(PathBuf, usize),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::Flag(name) => write!(f, "flag --{name}"),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Problem {
    /// A value outside of what its key allows.
    #[error("{key} = {value} ({origin}): allowed is {allowed}")]
    Refused { key: &'static str, value: String, origin: Origin, allowed: String },
    /// A value that cannot be worked out by itself.
    #[error("{key} has no default here: {reason}; set it with --{key} or {variable}")]
    NoDefault { key: &'static str, variable: String, reason: String },
    /// A key of the file that nothing reads.
    #[error("unknown key {name} ({origin}){}", hint(.nearest))]
    UnknownKey { name: String, origin: Origin, nearest: Option<String> },
    /// A `BATON_…` variable that nothing reads.
    #[error("unknown environment variable {name}{}", hint(.nearest))]
    UnknownVariable { name: String, nearest: Option<String> },
    /// The file is there but cannot be read, or was named but is not there.
    #[error("cannot read the configuration file {} ({origin}): {reason}", path.display())]
    Unreadable { path: PathBuf, origin: Origin, reason: String },
    /// The file is not TOML.
    #[error("{}:{line}:{column}: not valid TOML: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, column: usize, message: String },
}

impl Problem {
    /// A value that its key refuses; a hidden one is not repeated.
    pub(super) fn refused(key: &Key, raw: &Raw, allowed: String) -> Problem {
        let value = match (key.hidden, raw.values.as_slice()) {
            (true, _) => "(hidden)".to_owned(),
            (false, [one]) if !key.is_list() => format!("{one:?}"),
            (false, values) => format!("{values:?}"),
        };
        Problem::Refused { key: key.name, value, origin: raw.origin.clone(), allowed }
    }

    pub(super) fn unknown_key(name: &str, origin: Origin) -> Problem {
        let nearest = nearest(name, KEYS.iter().map(|key| key.name.to_owned()));
        Problem::UnknownKey { name: name.to_owned(), origin, nearest }
    }

    pub(super) fn unknown_variable(name: &str) -> Problem {
        let nearest = nearest(name, KEYS.iter().map(Key::variable));
        Problem::UnknownVariable { name: name.to_owned(), nearest }
    }
}

/// All that is wrong with a configuration, one sentence a line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

fn hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean {name}?")).unwrap_or_default()
}

/// The known name closest to a mistyped one, unless none is close.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let scored = known.map(|candidate| (strsim::normalized_damerau_levenshtein(name, &candidate), candidate));
    scored.filter(|(score, _)| *score >= 0.5).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}
