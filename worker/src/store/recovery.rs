//! What is done when `data.mdb` is not taken, and the note that lets the next start finish it.
//!
//! Between moving the untrusted file away and putting the checkpoint in its place there is no data. A start that finds
//! that must not take the store for new, and one that finds the checkpoint already in place must still say what was
//! lost. So the intention is written down first (the file `recovery`), and removed last.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use super::files::{read_text, remove_if_there, sync_directory, write_durably};
use super::names::{DATA, RECOVERY};

/// How many files that were not taken are kept.
const KEPT: usize = 2;

/// A recovery, decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recovery {
    pub(super) source: Source,
    /// The name under which `data.mdb` is kept; none if there is nothing to keep.
    pub(super) aside: Option<String>,
    /// Why `data.mdb` is not taken.
    pub(super) reason: String,
}

/// What the store starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Checkpoint,
    Nothing,
}

impl Recovery {
    /// Writes the note.
    pub(super) fn note(&self, directory: &Path) -> io::Result<()> {
        let source = match self.source {
            Source::Checkpoint => "checkpoint",
            Source::Nothing => "nothing",
        };
        let aside = self.aside.as_deref().unwrap_or_default();
        write_durably(directory, RECOVERY, &format!("{source}\n{aside}\n{}\n", self.reason))
    }

    /// Reads the note of a start that was cut off.
    pub(super) fn noted(directory: &Path) -> io::Result<Option<Recovery>> {
        Ok(read_text(&directory.join(RECOVERY))?.as_deref().and_then(parse))
    }

    /// Is `data.mdb` still the file that was not taken?
    pub(super) fn must_move(&self, directory: &Path) -> bool {
        self.aside.as_ref().is_some_and(|aside| !directory.join(aside).exists() && directory.join(DATA).exists())
    }
}

fn parse(text: &str) -> Option<Recovery> {
    let mut lines = text.lines();
    let source = match lines.next()? {
        "checkpoint" => Source::Checkpoint,
        "nothing" => Source::Nothing,
        _ => return None,
    };
    let aside = match lines.next()? {
        "" => None,
        name => Some(moved_aside_at(name).map(|_| name.to_owned())?),
    };
    Some(Recovery { source, aside, reason: lines.next()?.to_owned() })
}

/// A name for `data.mdb` that nothing has yet: `data.mdb.damaged-1767225600`.
pub(super) fn name_aside(directory: &Path, why: &str, unix_seconds: u64) -> String {
    (unix_seconds..)
        .map(|seconds| format!("{DATA}.{why}-{seconds}"))
        .find(|name| !directory.join(name).exists())
        .unwrap_or_else(|| format!("{DATA}.{why}-{unix_seconds}"))
}

/// When a file of this name was moved aside, in Unix seconds; none if it is no such file.
fn moved_aside_at(name: &str) -> Option<u64> {
    let rest = name.strip_prefix(DATA)?;
    rest.strip_prefix(".unclean-").or_else(|| rest.strip_prefix(".damaged-"))?.parse().ok()
}

/// Removes all but the newest files that were moved aside.
pub(super) fn prune(directory: &Path) -> io::Result<()> {
    let mut aside: Vec<(u64, OsString)> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if let Some(at) = name.to_str().and_then(moved_aside_at) {
            aside.push((at, name));
        }
    }
    aside.sort();
    let surplus = aside.len().saturating_sub(KEPT);
    for (_, name) in &aside[..surplus] {
        remove_if_there(&directory.join(name))?;
    }
    match surplus {
        0 => Ok(()),
        _ => sync_directory(directory),
    }
}
