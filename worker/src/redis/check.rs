//! Describes a Redis to an operator: what it is, and whether it would forget.

use std::collections::HashMap;

use redis::{InfoDict, Value, cmd, from_redis_value};

use super::address::Place;
use super::connection::in_one_write;
use super::{Connector, Failure};

/// What it says of itself, in a sentence, with warnings.
pub(crate) async fn describe(connector: &Connector) -> Result<String, Failure> {
    let mut node = connector.bounded(connector.single(None)).await?;
    let mut save = cmd("CONFIG");
    save.arg("GET").arg("save");
    let mut told = in_one_write(&mut node, vec![cmd("INFO"), save]).await.into_iter().map(Result::ok);
    let info = told.next().flatten().and_then(|value| from_redis_value(value).ok());
    let save = told.next().flatten().and_then(saves);
    Ok(sentence(connector, info.as_ref(), save.as_deref()))
}

fn sentence(connector: &Connector, info: Option<&InfoDict>, save: Option<&str>) -> String {
    let address = &connector.settings().address;
    let Some(info) = info else {
        return format!("{address} serves; what it is, it does not tell this user (INFO)");
    };
    let fact = |name: &str| info.get::<String>(name).unwrap_or_else(|| "unknown".to_owned());
    let policy = fact("maxmemory_policy");
    let appends = info.get::<u8>("aof_enabled") == Some(1);
    let (kept, forgets) = match (appends, save) {
        (true, Some("") | None) => ("in an append-only file", false),
        (true, Some(_)) => ("in an append-only file and snapshots", false),
        (false, Some("")) => ("nowhere", true),
        (false, Some(_)) => ("in snapshots", false),
        (false, None) => ("perhaps in snapshots", false),
    };
    let kind = if connector.is_cluster() { "node of a cluster".to_owned() } else { fact("redis_mode") };
    let mut text = format!(
        "{address} serves: Redis {}, {kind}, {}, maxmemory-policy {policy}, data kept {kept}",
        fact("redis_version"),
        fact("role"),
    );
    if policy != "noeviction" {
        text += "; warning: with that policy full memory drops sessions, and their counts begin anew: set noeviction";
    }
    let is_watched = matches!(address.place, Place::Sentinel { .. });
    // It is there only where the setting is.
    if is_watched && info.get::<u64>("min_slaves_good_slaves").is_none() {
        text += "; warning: after a failover the master of before takes counts for a while, which are lost: \
                 set min-replicas-to-write 1 and min-replicas-max-lag 10 on all servers";
    }
    if forgets {
        text += "; warning: a restart of Redis loses what no host remembers: set appendonly yes";
    }
    text
}

/// The answer to `CONFIG GET save`.
fn saves(value: Value) -> Option<String> {
    from_redis_value::<HashMap<String, String>>(value).ok()?.remove("save")
}
