//! Sessions in Redis, as an operator looks for them. Over a connection of its own: nobody who counts waits for it.

use redis::{FromRedisValue, Value, cmd, from_redis_value};

use super::script::Layout;
use crate::count::{self, RESET};
use crate::heartbeat::wall_ms;
use crate::lifetimes::Lifetimes;
use crate::redis::{Failure, Line, Reason, Settings};
use crate::sessions::{Found, Page, ResetError};
use crate::token::Token;

/// Keys that Redis looks at for one answer.
const AT_ONCE: usize = 1000;

/// Answers that are waited for until a page is shown as far as it has come.
const ROUNDS: usize = 20;

/// `KEYS`: the session's. `ARGV`: the count that is known elsewhere, how far apart resets are, how long sessions live, what
/// is too much. The answer: the count before and after; nothing, if there is none.
const RESET_SESSION: &str = r"
local value = redis.call('GET', KEYS[1]) or '0'
local before = #value < 17 and string.match(value, '^%d+$') and tonumber(value)
if not before then return redis.error_reply('WRONGTYPE the key holds something else') end
before = math.max(before, tonumber(ARGV[1]))
if before == 0 then return false end
local after = (math.floor(before / tonumber(ARGV[2])) + 1) * tonumber(ARGV[2])
if after >= tonumber(ARGV[4]) then return {before, 0} end
-- Behind a write that needs no memory Redis lets all others pass, even at its maxmemory.
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('SET', KEYS[1], string.format('%.0f', after), 'EX', ARGV[3])
return {string.format('%.0f', before), string.format('%.0f', after)}
";

pub(crate) struct RedisSessions {
    line: Line,
    layout: Layout,
}

impl RedisSessions {
    pub(crate) fn new(settings: &Settings, lifetimes: Lifetimes) -> Result<RedisSessions, Failure> {
        let line = Line::new(settings)?;
        let layout = Layout::new(settings, lifetimes, line.is_cluster());
        Ok(RedisSessions { line, layout })
    }

    /// As far as a bounded number of questions gets. Where to go on: the node, and the cursor of `SCAN` there.
    pub(crate) async fn find(&self, beginning: &str, after: Option<&str>, most: usize) -> Result<Page, Failure> {
        let nodes = self.line.masters().await?;
        let at = after.and_then(|after| after.split_once('.'));
        let (mut node, mut cursor) = match at.and_then(|(node, cursor)| Some((node.parse().ok()?, cursor))) {
            Some((node, cursor)) => (node, cursor.to_owned()),
            None => (0, "0".to_owned()),
        };
        let mut tokens: Vec<Token> = Vec::new();
        for _ in 0..ROUNDS {
            let Some(at) = nodes.get(node) else { break };
            let mut scan = cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(self.layout.sessions_like(beginning)).arg("COUNT").arg(AT_ONCE);
            let (next, keys): (String, Vec<String>) = understood(self.line.execute_at(at, scan).await?)?;
            tokens.extend(keys.iter().filter_map(|key| self.layout.token(key)));
            cursor = next;
            if cursor == "0" {
                node += 1;
            }
            if tokens.len() >= most {
                break;
            }
        }
        // Redis may name one twice.
        tokens.sort_by_key(Token::spelling);
        tokens.dedup();
        let next = (node < nodes.len()).then(|| format!("{node}.{cursor}"));
        let found = self.look(&tokens).await?;
        Ok(Page { found: found.into_iter().flatten().filter(|found| found.count > 0).collect(), next })
    }

    pub(crate) async fn get(&self, token: &Token) -> Result<Option<Found>, Failure> {
        Ok(self.look(std::slice::from_ref(token)).await?.pop().flatten())
    }

    async fn look(&self, tokens: &[Token]) -> Result<Vec<Option<Found>>, Failure> {
        let ask = |token: &Token| {
            let key = self.layout.session(&token.key());
            let (mut get, mut lives) = (cmd("GET"), cmd("PTTL"));
            get.arg(&key);
            lives.arg(&key);
            [get, lives]
        };
        let mut answers = self.line.execute(tokens.iter().flat_map(ask).collect()).await?.into_iter();
        let mut all = Vec::with_capacity(tokens.len());
        for token in tokens {
            let (count, lives) = (answers.next(), answers.next());
            // What is no count is no session of ours.
            let count =
                count.and_then(Result::ok).and_then(|value| from_redis_value::<Option<u64>>(value).ok()).flatten();
            let lives: i64 = lives.and_then(Result::ok).and_then(|value| from_redis_value(value).ok()).unwrap_or(-1);
            all.push(count.map(|count| {
                let idle = self.layout.lifetimes.of(count).saturating_sub(u64::try_from(lives).unwrap_or(0) / 1000);
                let used = (wall_ms() / 1000).saturating_sub(idle);
                Found { session: token.clone(), count: count::shown(count), used }
            }));
        }
        Ok(all)
    }

    /// The count that was shown before, and the one that is kept now. None: neither Redis nor whoever knows `known` has one.
    pub(crate) async fn reset(&self, token: &Token, known: u64) -> Result<Option<(u64, u64)>, ResetError> {
        let mut reset = cmd("EVAL");
        reset.arg(RESET_SESSION).arg(1).arg(self.layout.session(&token.key()));
        reset.arg(known).arg(RESET).arg(self.layout.lifetimes.session).arg(count::MOST);
        let answer = self.line.execute(vec![reset]).await?.pop();
        let answer = answer.unwrap_or_else(|| Err(Failure::new(Reason::Other, "no answer")))?;
        match understood::<Option<(u64, u64)>>(answer)? {
            None => Ok(None),
            Some((_, 0)) => Err(ResetError::TooOften),
            Some((before, after)) => Ok(Some((count::shown(before), after))),
        }
    }
}

fn understood<T: FromRedisValue>(value: Value) -> Result<T, Failure> {
    from_redis_value(value).map_err(|error| Failure::new(Reason::Other, format!("an answer that is none: {error}")))
}
