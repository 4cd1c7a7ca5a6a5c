//! Tries, before the service relies on a Redis, what the service does with it: its scripts, a session, a publication.

use std::cell::RefCell;

use tokio::runtime::Builder;
use tokio::time::timeout;

use super::driver::{connect, execute};
use super::script::{Counted, Layout, REMEMBERED_BRIEFLY, Scripts, Tally, counted};
use super::sessions::RedisSessions;
use crate::backplane::Health;
use crate::backplane::embedded::ledger::{Item, Unit, UnitId};
use crate::lifetimes::Lifetimes;
use crate::redis::{Connection, Connector, Failure, Payload, Reason, Settings, Subscription, describe};
use crate::sessions::ResetError;
use crate::token::Token;
use crate::worker::BLOCKED_THREADS_WAIT;

/// What is tried is gone after a second or two.
const BRIEF: Lifetimes = Lifetimes { session: 1, new: 1 };

/// More than the publication that is waited for.
const MAX_TEXT_BYTES: usize = 256;

/// Connects, loads the scripts, counts in a session that soon expires, publishes what no host understands, and hears it.
/// Returns what it has found in a sentence for the operator.
///
/// # Errors
/// A sentence as well, without the password.
pub fn check_redis(settings: &Settings) -> Result<String, String> {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot make a runtime: {error}"))?;
    let checked = runtime.block_on(check(settings));
    runtime.shutdown_timeout(BLOCKED_THREADS_WAIT);
    checked.map_err(|failure| format!("{}: {failure}", settings.address))
}

async fn check(settings: &Settings) -> Result<String, Failure> {
    let connector = Connector::new(settings)?;
    let layout = Layout::new(settings, BRIEF, connector.is_cluster());
    let layout = Layout { remembered: REMEMBERED_BRIEFLY, ..layout };
    let health = RefCell::new(Health::new("redis", String::new()));
    let (mut connection, scripts, _) = connect(&connector, &layout, &health).await?;
    let name = format!("check-{:016x}", fastrand::u64(..));
    let token: Token = name.parse().map_err(|_| Failure::new(Reason::Other, "no token"))?;
    count(&mut connection, &layout, &scripts, &token).await.map_err(|failure| failure.while_at("counting"))?;
    let channel = layout.channel();
    let subscribed = connector.subscribe(&channel, MAX_TEXT_BYTES).await;
    let mut subscription = subscribed.map_err(|failure| failure.while_at("subscribing"))?;
    // Not JSON of ours: who hears it passes it over.
    let text = format!("{{\"check\":\"{name}\"}}");
    publish(&mut connection, &layout, &scripts, &text).await.map_err(|failure| failure.while_at("publishing"))?;
    heard(&mut subscription, &text, settings).await?;
    let mut found = describe(&connector).await?;
    if let Err(failure) = look_up(settings, &name, &token).await {
        found += &format!("; warning: sessions cannot be looked up at /admin/: {failure}");
    }
    Ok(found)
}

fn new_id() -> UnitId {
    UnitId { source: fastrand::u64(..), number: 1 }
}

async fn count(connection: &mut Connection, layout: &Layout, scripts: &Scripts, token: &Token) -> Result<(), Failure> {
    let session = token.key();
    let unit = Unit { id: new_id(), order: 0, group: layout.group(&session), items: vec![Item::new(session, 1)] };
    let answer = execute(connection, || vec![layout.commit(scripts, &unit)]).await.pop();
    let answer = answer.unwrap_or_else(|| Err(Failure::new(Reason::Other, "no answer")))?;
    let Some(Counted::Counts(tallies, _)) = counted(&answer, 1) else {
        return Err(Failure::new(Reason::Other, format!("an answer that is none: {answer:?}")));
    };
    match tallies.as_slice() {
        [Tally::Count(1)] => Ok(()),
        [Tally::NoMemory] => Err(Failure::new(Reason::OutOfMemory, "new sessions are refused")),
        other => Err(Failure::new(Reason::Other, format!("a new session has the count {other:?}"))),
    }
}

async fn publish(connection: &mut Connection, layout: &Layout, scripts: &Scripts, text: &str) -> Result<(), Failure> {
    let id = new_id();
    let texts = [text.to_owned()];
    // Nobody of this name has the lease: the last one only asks for it.
    let commands = || vec![layout.publications(scripts, id, &texts), layout.beat(scripts, "check-config", 1, text)];
    let answers = execute(connection, commands).await;
    answers.into_iter().find_map(Result::err).map_or(Ok(()), Err)
}

/// Waits for a text among what others publish.
async fn heard(subscription: &mut Subscription, text: &str, settings: &Settings) -> Result<(), Failure> {
    let hearing = async {
        while let Some(payload) = subscription.next().await {
            if matches!(&payload, Payload::Whole(bytes) if bytes.ends_with(text.as_bytes())) {
                return Ok(());
            }
        }
        Err(Failure::new(Reason::Unreachable, "the subscription is lost at once"))
    };
    let late = || Err(Failure::new(Reason::Timeout, "what is published is not heard"));
    timeout(settings.timeout, hearing).await.unwrap_or_else(|_| late())
}

/// What operators do with sessions at `/admin/`.
async fn look_up(settings: &Settings, name: &str, token: &Token) -> Result<(), String> {
    let sessions = RedisSessions::new(settings, BRIEF).map_err(|failure| failure.to_string())?;
    sessions.find(name, None, 1).await.map_err(|failure| failure.to_string())?;
    match sessions.reset(token, 1).await {
        Ok(_) | Err(ResetError::TooOften) => Ok(()),
        Err(ResetError::Look(error)) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::testing::{Server, free_address, settings};

    #[test]
    fn an_operator_is_told_what_it_is_and_what_is_dangerous() {
        let server = Server::start(&[]);
        let told = check_redis(&server.settings()).unwrap();
        let version = server.cli(&["INFO", "server"]);
        let version = version.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap().trim();
        let begins = format!(
            "{} serves: Redis {version}, standalone, master, maxmemory-policy noeviction, data kept nowhere; ",
            server.url()
        );
        assert!(told.starts_with(&begins) && told.contains("warning: a restart of Redis loses"), "{told}");
        server.cli(&["CONFIG", "SET", "appendonly", "yes"]);
        server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
        let told = check_redis(&server.settings()).unwrap();
        assert!(told.contains("data kept in an append-only file; warning: with that policy"), "{told}");
        assert_eq!(told.matches("warning").count(), 1, "{told}");

        server.cli(&["ACL", "SETUSER", "default", "-info", "-config"]);
        let told = check_redis(&server.settings()).unwrap();
        assert!(told.ends_with("serves; what it is, it does not tell this user (INFO)"), "{told}");
        server.cli(&["ACL", "SETUSER", "default", "-scan"]);
        let told = check_redis(&server.settings()).unwrap();
        assert!(told.contains("warning: sessions cannot be looked up"), "{told}");
        let refused = check_redis(&settings(&format!("redis://:hunter2@{}", free_address()))).unwrap_err();
        assert!(refused.starts_with("redis://:***@127.") && refused.contains("cannot be reached"), "{refused}");
    }

    #[test]
    fn what_the_service_needs_is_tried() {
        let server = Server::start(&[]);
        let needed = super::super::script::commands().into_iter().chain(["PUBLISH", "SUBSCRIBE", "EVALSHA", "SCRIPT"]);
        for command in needed.map(str::to_lowercase) {
            server.cli(&["ACL", "SETUSER", "default", &format!("-{command}")]);
            let refused = check_redis(&server.settings()).expect_err(&command);
            assert!(refused.starts_with(&format!("{}: Redis does not permit this user", server.url())), "{refused}");
            server.cli(&["ACL", "SETUSER", "default", &format!("+{command}")]);
        }
        for (limit, permit) in [("resetchannels", "allchannels"), ("resetkeys", "allkeys")] {
            server.cli(&["ACL", "SETUSER", "default", limit]);
            let refused = check_redis(&server.settings()).expect_err(limit);
            assert!(refused.contains("does not permit"), "{refused}");
            server.cli(&["ACL", "SETUSER", "default", permit]);
        }
        check_redis(&server.settings()).unwrap();
        let renamed = Server::start(&["--rename-command", "SCRIPT", "no-script"]);
        let refused = check_redis(&renamed.settings()).unwrap_err();
        assert!(refused.contains("unknown command 'SCRIPT'"), "{refused}");
        let node = Server::start(&["--cluster-enabled", "yes", "--cluster-port", &free_address().port().to_string()]);
        for url in [node.url(), format!("redis+unix://{}", node.socket().display())] {
            let refused = check_redis(&settings(&url)).unwrap_err();
            assert!(refused.contains("use redis+cluster://"), "{refused}");
        }
    }
}
