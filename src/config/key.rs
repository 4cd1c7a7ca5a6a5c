//! What a setting is: its names, its default, and how its value is taken.

use super::{Config, Environment};

/// What is allowed, when a value is not.
pub(super) type Applied = Result<(), String>;

/// One setting.
#[derive(Debug)]
pub(crate) struct Key {
    /// Its key in the file and its flag; `BATON_` and this in capitals is its environment variable.
    pub(crate) name: &'static str,
    /// What it is about.
    pub(crate) group: Group,
    /// What stands for its value in the help.
    pub(crate) placeholder: &'static str,
    /// One line for the help.
    pub(crate) help: &'static str,
    /// What it is when nobody sets it.
    pub(crate) default: Fallback,
    /// Environment variables that say it under other names, weaker than its own.
    pub(crate) variables: &'static [Variable],
    /// Never printed.
    pub(crate) hidden: bool,
    /// Whether there is a flag: not for a secret, since any user of the machine can list the flags of a process.
    pub(crate) flag: bool,
    set: Set,
}

/// The value of a setting that nobody set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fallback {
    /// This text.
    Text(&'static str),
    /// A list of these, or of nothing.
    List(&'static [&'static str]),
    /// Depends on the machine and the user.
    Derived(fn(&Environment) -> Result<String, String>),
}

/// An environment variable that is not ours alone, and how to read it; `None`: it says nothing about this setting.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    pub(crate) read: fn(&str) -> Option<String>,
}

#[derive(Debug)]
enum Set {
    One(fn(&mut Config, &str) -> Applied),
    List(fn(&mut Config, &[String]) -> Applied),
}

/// What settings are about: headings of the help and of `--print-config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Service,
    Sessions,
    Limits,
    Processes,
    Logs,
}

impl Group {
    pub(crate) const ALL: [Group; 5] = [Group::Service, Group::Sessions, Group::Limits, Group::Processes, Group::Logs];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Group::Service => "Service",
            Group::Sessions => "Sessions and store",
            Group::Limits => "Limits of each worker or address",
            Group::Processes => "Processes and control",
            Group::Logs => "Logs",
        }
    }
}

impl Key {
    /// Its own environment variable.
    pub(crate) fn variable(&self) -> String {
        format!("BATON_{}", self.name.to_uppercase().replace('-', "_"))
    }

    /// Whether it takes several values: a repeatable flag, commas in a variable, a list in the file.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.set, Set::List(_))
    }

    /// Validates what was written and puts it where it belongs.
    pub(super) fn apply(&self, config: &mut Config, values: &[String]) -> Applied {
        match (&self.set, values) {
            (Set::One(set), [value]) => set(config, value),
            (Set::One(_), _) => Err("one value".to_owned()),
            (Set::List(set), values) => set(config, values),
        }
    }

    pub(super) const fn one(
        name: &'static str,
        group: Group,
        placeholder: &'static str,
        set: fn(&mut Config, &str) -> Applied,
    ) -> Key {
        let (help, default, variables) = ("", Fallback::Text("none"), &[]);
        Key { name, group, placeholder, help, default, variables, hidden: false, flag: true, set: Set::One(set) }
    }

    pub(super) const fn list(
        name: &'static str,
        group: Group,
        placeholder: &'static str,
        set: fn(&mut Config, &[String]) -> Applied,
    ) -> Key {
        let (help, default, variables) = ("", Fallback::List(&[]), &[]);
        Key { name, group, placeholder, help, default, variables, hidden: false, flag: true, set: Set::List(set) }
    }

    pub(super) const fn help(self, help: &'static str) -> Key {
        Key { help, ..self }
    }

    pub(super) const fn default(self, text: &'static str) -> Key {
        Key { default: Fallback::Text(text), ..self }
    }

    pub(super) const fn defaults(self, texts: &'static [&'static str]) -> Key {
        Key { default: Fallback::List(texts), ..self }
    }

    pub(super) const fn derived(self, derive: fn(&Environment) -> Result<String, String>) -> Key {
        Key { default: Fallback::Derived(derive), ..self }
    }

    pub(super) const fn also(self, variables: &'static [Variable]) -> Key {
        Key { variables, ..self }
    }

    pub(super) const fn hidden(self) -> Key {
        Key { hidden: true, ..self }
    }

    pub(super) const fn secret(self) -> Key {
        Key { hidden: true, flag: false, ..self }
    }
}

/// A variable that means the same.
pub(super) const fn variable(name: &'static str) -> Variable {
    Variable { name, read: |value| Some(value.to_owned()) }
}

/// systemd puts every directory of the unit into one variable, separated by colons; the first is ours.
pub(super) const fn systemd_directory(name: &'static str) -> Variable {
    Variable { name, read: |value| value.split(':').next().map(str::to_owned) }
}
