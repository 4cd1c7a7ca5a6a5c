//! What an operator should know before the service relies on a Redis: whether it does what is needed, and whether it would
//! forget.

use std::collections::HashMap;
use std::time::Duration;

use redis::{InfoDict, Value, cmd, from_redis_value};
use tokio::runtime::Builder;
use tokio::time::timeout;

use super::connection::in_one_write;
use super::{Connection, Connector, Failure, Reason, Settings, Subscription};

/// No script has this digest.
const NO_DIGEST: &str = "0000000000000000000000000000000000000000";

/// Writes what is gone at once, and publishes where it was. One name for both, so that in a cluster one node has both.
const WRITE_AND_PUBLISH: &str = "redis.call('SET', KEYS[1], '', 'PX', 1) return redis.call(ARGV[1], KEYS[1], ARGV[2])";

/// Connects, writes, publishes and hears it, and tells what it has found in a sentence for the operator.
///
/// # Errors
/// A sentence as well, without the password.
pub fn check(settings: &Settings) -> Result<String, String> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot make a runtime: {error}"))?;
    runtime.block_on(probe(settings)).map_err(|failure| format!("{}: {failure}", settings.address))
}

/// What is published, and must be heard.
const NOTICE: &str = "heard";

async fn probe(settings: &Settings) -> Result<String, Failure> {
    let connector = Connector::new(settings)?;
    let mut connection = connector.connect().await?;
    let name = format!("{}:check", settings.prefix);
    let mut subscription = connector.subscribe(&name, NOTICE.len()).await?;
    write_and_publish(&mut connection, &name).await?;
    heard(&mut subscription, settings.timeout).await?;
    let mut node = connector.bounded(connector.single(None)).await?;
    let mut save = cmd("CONFIG");
    save.arg("GET").arg("save");
    let mut told = in_one_write(&mut node, vec![cmd("INFO"), save]).await.into_iter().map(Result::ok);
    let info = told.next().flatten().and_then(|value| from_redis_value(value).ok());
    let save = told.next().flatten().and_then(saves);
    Ok(sentence(&connector, info.as_ref(), save.as_deref()))
}

async fn write_and_publish(connection: &mut Connection, name: &str) -> Result<(), Failure> {
    let mut cached = cmd("EVALSHA");
    cached.arg(NO_DIGEST).arg(1).arg(name);
    let mut whole = cmd("EVAL");
    whole.arg(WRITE_AND_PUBLISH).arg(1).arg(name).arg(connection.publish_command()).arg(NOTICE);
    let answers = connection.execute(vec![cached, whole]).await.into_iter();
    // That the first one is not there is as it should be.
    let refused = answers.filter_map(Result::err).find(|failure| !failure.is_no_script());
    refused.map_or(Ok(()), Err)
}

async fn heard(subscription: &mut Subscription, patience: Duration) -> Result<(), Failure> {
    match timeout(patience, subscription.next()).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(Failure::new(Reason::Unreachable, "the subscription is lost at once")),
        Err(_) => Err(Failure::new(Reason::Timeout, "what is published is not heard")),
    }
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
    if forgets {
        text += "; warning: a restart of Redis loses what no host remembers: set appendonly yes";
    }
    text
}

/// The answer to `CONFIG GET save`.
fn saves(value: Value) -> Option<String> {
    from_redis_value::<HashMap<String, String>>(value).ok()?.remove("save")
}
