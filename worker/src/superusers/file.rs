//! Superusers in a file of the state directory, for the service's user alone. Every change replaces it whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Change, Name, Superuser, SuperuserError};
use crate::store;

/// Its name.
use crate::store::SUPERUSERS as FILE;

/// The version of its format.
const VERSION: u32 = 1;

/// More bytes are none of ours.
const MOST: u64 = 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    superusers: BTreeMap<Name, Superuser>,
}

/// All of them; nobody, if there is no file.
pub(super) fn read(directory: &Path) -> Result<BTreeMap<Name, Superuser>, SuperuserError> {
    let path = directory.join(FILE);
    let mut text = String::new();
    match File::open(&path).and_then(|file| file.take(MOST).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(SuperuserError::File { what: "read", path, source }),
    }
    match serde_json::from_str::<Content>(&text) {
        Ok(Content { version: VERSION, superusers }) => Ok(superusers),
        Ok(Content { version, .. }) => {
            Err(SuperuserError::Malformed { path, reason: format!("it is of version {version}, not {VERSION}") })
        }
        Err(error) => Err(SuperuserError::Malformed { path, reason: error.to_string() }),
    }
}

/// Changes one of them. Two changes at once are made one after the other.
pub(super) fn change(directory: &Path, change: Change) -> Result<(), SuperuserError> {
    let _lock = store::lock(directory)?;
    let mut superusers = read(directory)?;
    match change {
        Change::Create(name, _) if superusers.contains_key(&name) => return Err(SuperuserError::Exists(name)),
        Change::Replace(name, _) | Change::Delete(name) if !superusers.contains_key(&name) => {
            return Err(SuperuserError::Missing(name));
        }
        Change::Create(name, superuser) | Change::Replace(name, superuser) => drop(superusers.insert(name, superuser)),
        Change::Delete(name) => drop(superusers.remove(&name)),
    }
    let content = serde_json::to_string_pretty(&Content { version: VERSION, superusers }).unwrap_or_default();
    let written = store::write_durably(directory, FILE, &(content + "\n"));
    written.map_err(|source| SuperuserError::File { what: "write", path: directory.join(FILE), source })
}
