//! What manual pages are made from: the grammar of both commands and the table of settings. For the crate that writes the
//! pages, so that these commands need not carry what writes them; no part of what an application builds on.

use crate::config::key::{Fallback, Key};
use crate::config::keys::KEYS;

/// The grammars of `baton` and `batonctl`.
pub fn commands() -> [clap::Command; 2] {
    [crate::cli::command(), crate::ctl::command()]
}

/// One setting, as its users know it.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the file, and its flag.
    pub name: &'static str,
    /// The heading it belongs under.
    pub group: &'static str,
    /// What stands for its value.
    pub placeholder: &'static str,
    /// What it does, without a full stop.
    pub help: &'static str,
    /// What it is when nobody sets it; `None`: nothing, or what `help` says.
    pub default: Option<String>,
    /// Environment variables that set it, the strongest first.
    pub variables: Vec<String>,
    /// Whether it takes several values.
    pub is_list: bool,
    /// Whether it may be a flag.
    pub has_flag: bool,
}

/// All settings, in the order of the help: those of one group stand together.
pub fn settings() -> impl Iterator<Item = Setting> {
    KEYS.iter().map(setting)
}

fn setting(key: &Key) -> Setting {
    let others = key.variables.iter().map(|variable| variable.name.to_owned());
    Setting {
        name: key.name,
        group: key.group.title(),
        placeholder: key.placeholder,
        help: key.help,
        default: match key.default {
            Fallback::Text(text) => Some(text.to_owned()),
            Fallback::List([]) | Fallback::Derived(_) => None,
            Fallback::List(texts) => Some(texts.join(", ")),
        },
        variables: std::iter::once(key.variable()).chain(others).collect(),
        is_list: key.is_list(),
        has_flag: key.flag,
    }
}
