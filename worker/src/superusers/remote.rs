//! Superusers in a hash of Redis, by name.

use std::collections::BTreeMap;

use redis::{Cmd, FromRedisValue, Value, cmd, from_redis_value};

use super::{Change, Name, Superuser, SuperuserError};
use crate::redis::{Failure, Line, Reason};

/// `KEYS`: the hash. `ARGV`: the name, what is kept. The answer: 1 if there was one.
const REPLACE: &str = r"
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
";

pub(super) async fn find(line: &Line, key: &str, name: &Name) -> Result<Option<Superuser>, SuperuserError> {
    let kept: Option<String> = ask(line, get(key, name)).await?;
    Ok(kept.map(|kept| understand(&kept)).transpose()?)
}

/// Looks up a user, unless this login was ended.
pub(super) async fn find_login(
    line: &Line,
    key: &str,
    name: &Name,
    logout: &str,
) -> Result<Option<Superuser>, SuperuserError> {
    // GET and not EXISTS, which the service's user needs not be allowed otherwise.
    let mut ended = cmd("GET");
    ended.arg(logout);
    let [kept, ended] = ask_all(line, [get(key, name), ended]).await?;
    let (kept, ended): (Option<String>, Option<String>) = (read(kept)?, read(ended)?);
    let kept = kept.filter(|_| ended.is_none());
    Ok(kept.map(|kept| understand(&kept)).transpose()?)
}

/// Ends a login on all hosts. It is forgotten after so many seconds.
pub(super) async fn end_login(line: &Line, logout: &str, seconds: u64) -> Result<(), SuperuserError> {
    let mut set = cmd("SET");
    set.arg(logout).arg(1).arg("EX").arg(seconds.max(1));
    let _: () = ask(line, set).await?;
    Ok(())
}

fn get(key: &str, name: &Name) -> Cmd {
    let mut get = cmd("HGET");
    get.arg(key).arg(name.as_ref());
    get
}

pub(super) async fn list(line: &Line, key: &str) -> Result<Vec<(Name, Superuser)>, SuperuserError> {
    let mut all = cmd("HGETALL");
    all.arg(key);
    let kept: BTreeMap<String, String> = ask(line, all).await?;
    let known = kept.iter().filter_map(|(name, kept)| Some((name.parse().ok()?, kept)));
    known.map(|(name, kept)| Ok((name, understand(kept)?))).collect()
}

pub(super) async fn change(line: &Line, key: &str, change: Change) -> Result<(), SuperuserError> {
    let text = |superuser: &Superuser| serde_json::to_string(superuser).unwrap_or_default();
    match change {
        Change::Create(name, superuser) => {
            let mut set = cmd("HSETNX");
            set.arg(key).arg(name.as_ref()).arg(text(&superuser));
            let made: u8 = ask(line, set).await?;
            if made == 1 { Ok(()) } else { Err(SuperuserError::Exists(name)) }
        }
        Change::Replace(name, superuser) => {
            let mut replace = cmd("EVAL");
            replace.arg(REPLACE).arg(1).arg(key).arg(name.as_ref()).arg(text(&superuser));
            let replaced: u8 = ask(line, replace).await?;
            if replaced == 1 { Ok(()) } else { Err(SuperuserError::Missing(name)) }
        }
        Change::Delete(name) => {
            let mut delete = cmd("HDEL");
            delete.arg(key).arg(name.as_ref());
            let deleted: u8 = ask(line, delete).await?;
            if deleted == 1 { Ok(()) } else { Err(SuperuserError::Missing(name)) }
        }
    }
}

async fn ask<T: FromRedisValue>(line: &Line, command: Cmd) -> Result<T, Failure> {
    let [answer] = ask_all(line, [command]).await?;
    read(answer)
}

async fn ask_all<const N: usize>(line: &Line, commands: [Cmd; N]) -> Result<[Value; N], Failure> {
    let answers = line.execute(commands.into()).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
    answers.try_into().map_err(|answers: Vec<Value>| odd(&format!("{} instead of {N}", answers.len())))
}

fn read<T: FromRedisValue>(answer: Value) -> Result<T, Failure> {
    from_redis_value(answer).map_err(|error| odd(&error))
}

fn odd(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(Reason::Other, format!("malformed reply: {error}"))
}

fn understand(kept: &str) -> Result<Superuser, Failure> {
    let odd =
        |error| Failure::new(Reason::Other, format!("a superuser that this version does not understand: {error}"));
    serde_json::from_str(kept).map_err(odd)
}
