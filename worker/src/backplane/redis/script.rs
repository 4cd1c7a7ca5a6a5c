//! What Redis is told to do: scripts, each of which it carries out whole, and once per unit however often it is told.
//!
//! Everything lives below a prefix: `baton:{3f}:s:TOKEN` is a session's count, its tag one of 256, so that a Cluster
//! spreads them and still takes those of one tag together. `baton:{3f}:u:SOURCE` remembers the last unit of a source and
//! its answer. `baton:{bus}:…` is all about publications and the heartbeat.

use redis::{Cmd, Value, cmd};

use crate::backplane::embedded::ledger::{Unit, UnitId};
use crate::count::MOST;
use crate::lifetimes::Lifetimes;
use crate::redis::Settings;
use crate::token::{Key, Token};

/// Sessions are spread over so many tags.
pub(super) const GROUPS: u16 = 256;

/// How long Redis remembers a unit, in seconds. A host that was away for longer than this may add its last one twice.
const REMEMBERED: u64 = 7 * 24 * 3600;

/// How long it remembers what nobody sends again, in seconds: what was published, and whether it takes changes.
pub(super) const REMEMBERED_BRIEFLY: u64 = 60;

/// How long the lease is held without being renewed, in milliseconds.
const LEASE_MS: u64 = 3000;

/// `KEYS`: the source's, then the sessions'. `ARGV`: the unit's number, how long to remember it, how long sessions live, two
/// lists, and how long a session of one message lives. The lists: for each session the messages to add, as text, and the
/// least that its count is after this (0: nothing is known of it; -1: the same, but its messages were answered already).
/// The answer: the counts; -1: not a count's key; -2: at its maxmemory Redis has no room for a session that it does not
/// have. Behind them -3, if it is at its maxmemory. Lists are MessagePack, one behind the other: single arguments cost more,
/// and this is the hot path.
///
/// Redis undoes nothing by itself: any other error, at whichever command, is caught, takes back what was added, and is
/// returned. To take back needs no command that did not work just before. A unit without sessions tries each command.
///
/// Redis refuses a command that may take memory only as the first write of a script. So the first write shows whether it
/// is at its maxmemory, and one that takes none (`EXPIRE`) lets the others pass: those of sessions that it has.
const COMMIT: &str = r"
local protect, call, pcall = pcall, redis.call, redis.pcall
local keys, args = KEYS, ARGV
local done = call('GET', keys[1])
if done then
  local space = string.find(done, ' ', 1, true)
  local number, mine = tonumber(string.sub(done, 1, space - 1)), tonumber(args[1])
  if number == mine then return string.sub(done, space + 1) end
  if number > mine then return 'stale' end
end
local function odd(answer)
  local text = answer.err or ''
  return string.find(text, 'WRONGTYPE', 1, true) or string.find(text, 'not an integer', 1, true)
    or string.find(text, 'overflow', 1, true)
end
local full = false
local function first_refused(answer)
  if full or not string.find(answer.err or '', 'OOM ', 1, true) then return false end
  full = true
  call('EXPIRE', keys[1], args[2])
  return true
end
local function unknown(key, least)
  return full and least == 0 and not pcall('GET', key)
end
local function life(count)
  if count <= 1 then return args[5] end
  return args[3]
end
local counts, looks, marked, adds, leasts = {}, {}, false, cmsgpack.unpack(args[4])
local function count_all()
  for i = 2, #keys do
    local key, by, least = keys[i], adds[i - 1], leasts[i - 1]
    local count
    if by == '0' then
      local value = pcall('GET', key) or '0'
      count = type(value) == 'string' and #value < 17 and string.match(value, '^%d+$') and tonumber(value) or -1
      looks[#looks + 1] = i
    elseif unknown(key, least) then
      count = -2
    else
      count = pcall('INCRBY', key, by)
      if type(count) == 'table' and first_refused(count) then
        if unknown(key, least) then count = -2 else count = pcall('INCRBY', key, by) end
      end
      if type(count) == 'table' then
        if not odd(count) then error(count) end
        count = -1
      elseif count < 0 and least <= 0 then
        count = -1
      else
        counts[i - 1] = count
        local before = count - by
        if count < least then count = call('INCRBY', key, string.format('%.0f', least - count)) end
        if least <= 0 or before <= 1 or count > before + by then call('EXPIRE', key, life(count)) end
      end
    end
    counts[i - 1] = count
  end
  for j = 1, #looks do
    local i = looks[j]
    local key, count, least = keys[i], counts[i - 1], leasts[i - 1]
    if count >= 0 and count < least then
      local set = pcall('SET', key, string.format('%.0f', least), 'EX', life(least))
      if set.err then
        if not first_refused(set) then error(set) end
        call('SET', key, string.format('%.0f', least), 'EX', life(least))
      end
      counts[i - 1] = least
    end
  end
  local function remember()
    if full then counts[#keys] = -3 end
    local answer = cmsgpack.pack(counts)
    return pcall('SET', keys[1], args[1] .. ' ' .. answer, 'EX', args[2]), answer
  end
  local set, answer = remember()
  if first_refused(set) then set, answer = remember() end
  if set.err then error(set) end
  marked = true
  for j = 1, #looks do
    local count = counts[looks[j] - 1]
    if count > 0 then call('EXPIRE', keys[looks[j]], life(count)) end
  end
  if #keys == 1 then
    call('EXPIRE', keys[1], args[2])
    local refused = pcall('INCRBY', keys[1], 1)
    if type(refused) ~= 'table' or not odd(refused) then error(refused) end
  end
  return answer
end
local fine, answer = protect(count_all)
if fine then return answer end
for j = 1, #keys - 1 do
  if adds[j] ~= '0' and counts[j] and counts[j] >= 0 and pcall('INCRBY', keys[j + 1], '-' .. adds[j]) == 0 then
    if type(pcall('EXPIRE', keys[j + 1], 0)) == 'table' then pcall('SET', keys[j + 1], 0, 'PX', 1) end
  end
end
if marked then pcall('SET', keys[1], done or '0 ', 'EX', args[2]) end
return redis.error_reply(type(answer) == 'table' and answer.err or answer)
";

/// `KEYS`: the source's, the number of the last publication. `ARGV`: the unit's number, how long to remember it, the
/// command that publishes, the channel, then the texts. Each goes out behind its number. `EXPIRE` comes first, here and
/// below, so that it works at the maxmemory of Redis too: it takes no more memory than it gives back in a minute. What
/// may be refused is tried before anything goes out, and publishing itself before the numbers are taken.
const PUBLISH: &str = r"
local protect, call = pcall, redis.call
local done = call('GET', KEYS[1])
if done and tonumber(done) >= tonumber(ARGV[1]) then return 0 end
call('EXPIRE', KEYS[1], ARGV[2])
call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
local fine, refused = protect(function()
  local number = call('INCRBY', KEYS[2], 0) - 4
  for i = 5, #ARGV do
    call(ARGV[3], ARGV[4], string.format('%.0f', number + i) .. ' ' .. ARGV[i])
  end
  call('INCRBY', KEYS[2], #ARGV - 4)
end)
if fine then return 1 end
call('SET', KEYS[1], done or 0, 'EX', ARGV[2])
return redis.error_reply(type(refused) == 'table' and refused.err or refused)
";

/// `KEYS`: the lease, the number of the last publication. `ARGV`: who wants it, for how many milliseconds, the command that
/// publishes, the channel, the text that says who has it; it goes out behind the number of the last publication, and
/// shows who has missed that. The answer: 1 if it is theirs. It is refused to those who may not publish, also while
/// another has it (as far as Redis can tell: from 7.0), and is not kept by them.
const LEASE: &str = r"
local call, pcall = redis.call, redis.pcall
if redis.acl_check_cmd and not redis.acl_check_cmd(ARGV[3], ARGV[4], '') then
  return redis.error_reply('NOPERM the user may not publish on the channel ' .. ARGV[4])
end
local holder = call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
local number = call('GET', KEYS[2]) or '0'
call('EXPIRE', KEYS[1], 60)
call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local told = pcall(ARGV[3], ARGV[4], number .. ' ' .. ARGV[5])
if type(told) == 'table' then
  call('EXPIRE', KEYS[1], 0)
  return told
end
return 1
";

/// `KEYS`: the lease, the time of the last heartbeat, the number of the last publication. `ARGV`: who believes to have it,
/// the time of this heartbeat, the command that publishes, the channel, the text.
const BEAT: &str = r"
local call, pcall = redis.call, redis.pcall
if call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
local before = call('GET', KEYS[2]) or '0'
if tonumber(before) >= tonumber(ARGV[2]) then return 1 end
call('EXPIRE', KEYS[2], 60)
local number = call('INCRBY', KEYS[3], 0) + 1
call('SET', KEYS[2], ARGV[2], 'EX', 60)
local told = pcall(ARGV[3], ARGV[4], string.format('%.0f', number) .. ' ' .. ARGV[5])
if type(told) == 'table' then
  call('SET', KEYS[2], before, 'EX', 60)
  return told
end
call('INCRBY', KEYS[3], 1)
return 1
";

/// All of them, in the order of [`Scripts::from_digests`].
const ALL: [&str; 4] = [COMMIT, PUBLISH, LEASE, BEAT];

/// The commands that the scripts call, as far as they are named there: all but the one that publishes.
#[cfg(test)]
pub(super) fn commands() -> Vec<&'static str> {
    let calls = ALL.iter().flat_map(|script| script.split("call('").skip(1));
    let mut names: Vec<&str> = calls.filter_map(|rest| rest.split('\'').next()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The commands that make Redis know the scripts.
pub(super) fn load() -> Vec<Cmd> {
    let load = |script: &str| {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(script);
        load
    };
    ALL.into_iter().map(load).collect()
}

/// The scripts by the digests under which Redis knows them.
#[derive(Clone, Debug)]
pub(super) struct Scripts {
    commit: String,
    publish: String,
    lease: String,
    beat: String,
}

impl Scripts {
    /// From the answers to [`load`].
    pub(super) fn from_digests(answers: Vec<Value>) -> Option<Scripts> {
        let digests: Option<Vec<String>> = answers.iter().map(text).collect();
        let [commit, publish, lease, beat] = digests?.try_into().ok()?;
        Some(Scripts { commit, publish, lease, beat })
    }
}

/// Where things are in Redis, and how it publishes.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) prefix: String,
    pub(super) lifetimes: Lifetimes,
    /// How long Redis remembers a unit with sessions, in seconds.
    pub(super) remembered: u64,
    /// Keys of one command must have one tag.
    pub(super) cluster: bool,
}

impl Layout {
    pub(super) fn new(settings: &Settings, lifetimes: Lifetimes, cluster: bool) -> Layout {
        // A second longer than the host's own record of it, whose seconds are whole ones: it must not outlive the session.
        Layout { prefix: settings.prefix.clone(), lifetimes: lifetimes.plus(1), remembered: REMEMBERED, cluster }
    }

    /// The channel of all publications.
    pub(super) fn channel(&self) -> String {
        format!("{}:{{bus}}:channel", self.prefix)
    }

    /// Which sessions may be counted by one command.
    pub(super) fn group(&self, session: &Key) -> u16 {
        if self.cluster { tag(session) } else { 0 }
    }

    fn publish(&self) -> &'static str {
        // In a Cluster one node, that of the tag, has the channel: so there is one order.
        if self.cluster { "SPUBLISH" } else { "PUBLISH" }
    }

    /// The key of a session's count.
    pub(super) fn session(&self, session: &Key) -> String {
        let mut key = Vec::new();
        self.write_session(&mut key, session);
        String::from_utf8_lossy(&key).into_owned()
    }

    /// The pattern of the keys of sessions whose tokens begin with this, for `SCAN`.
    pub(super) fn sessions_like(&self, beginning: &str) -> String {
        // Neither a prefix nor a token holds what means something in a pattern.
        format!("{}:{{??}}:s:{beginning}*", self.prefix)
    }

    /// The token in a session's key.
    pub(super) fn token(&self, key: &str) -> Option<Token> {
        let rest = key.strip_prefix(&self.prefix)?.strip_prefix(":{")?;
        rest.get(2..)?.strip_prefix("}:s:")?.parse().ok()
    }

    fn write_session(&self, key: &mut Vec<u8>, session: &Key) {
        self.write_tag(key, tag(session));
        key.extend_from_slice(b":s:");
        session.spell(key);
    }

    fn write_source(&self, key: &mut Vec<u8>, group: u16, source: u64) {
        self.write_tag(key, group);
        key.extend_from_slice(b":u:");
        write_hex::<16>(key, source);
    }

    fn write_tag(&self, key: &mut Vec<u8>, tag: u16) {
        key.extend_from_slice(self.prefix.as_bytes());
        key.extend_from_slice(b":{");
        write_hex::<2>(key, tag.into());
        key.push(b'}');
    }

    fn bus(&self, name: &str) -> String {
        format!("{}:{{bus}}:{name}", self.prefix)
    }

    /// Counts a unit. One without sessions changes nothing that matters, and shows whether Redis takes changes.
    pub(super) fn commit(&self, scripts: &Scripts, unit: &Unit) -> Cmd {
        let sessions = unit.items.len();
        let mut command = Cmd::with_capacity(8 + sessions, 128 + 80 * sessions);
        command.arg("EVALSHA").arg(&scripts.commit).arg(1 + sessions);
        let mut key = Vec::with_capacity(128);
        self.write_source(&mut key, unit.group, unit.id.source);
        command.arg(&key);
        for item in &unit.items {
            key.clear();
            self.write_session(&mut key, &item.session);
            command.arg(&key);
        }
        let remembered = if sessions == 0 { REMEMBERED_BRIEFLY } else { self.remembered };
        command.arg(unit.id.number).arg(remembered);
        command.arg(self.lifetimes.session).arg(lists(unit)).arg(self.lifetimes.new);
        command
    }

    /// Publishes texts.
    pub(super) fn publications(&self, scripts: &Scripts, id: UnitId, texts: &[String]) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&scripts.publish).arg(2).arg(self.bus(&format!("u:{:016x}", id.source))).arg(self.bus("number"));
        command.arg(id.number).arg(REMEMBERED_BRIEFLY).arg(self.publish()).arg(self.channel());
        command.arg(texts);
        command
    }

    /// Takes or renews the lease.
    pub(super) fn lease(&self, scripts: &Scripts, me: &str, text: &str) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&scripts.lease).arg(2).arg(self.bus("lease")).arg(self.bus("number"));
        command.arg(me).arg(LEASE_MS).arg(self.publish()).arg(self.channel()).arg(text);
        command
    }

    /// Publishes a heartbeat, if the lease is held.
    pub(super) fn beat(&self, scripts: &Scripts, me: &str, at: u64, text: &str) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(&scripts.beat).arg(3).arg(self.bus("lease")).arg(self.bus("beat")).arg(self.bus("number"));
        command.arg(me).arg(at).arg(self.publish()).arg(self.channel()).arg(text);
        command
    }
}

/// So many digits. Without the formatting machinery: keys are made for every session of every commit.
fn write_hex<const DIGITS: usize>(to: &mut Vec<u8>, value: u64) {
    to.extend(std::array::from_fn::<u8, DIGITS, _>(|place| {
        let digit = value >> (4 * (DIGITS - 1 - place)) & 0xf;
        b"0123456789abcdef"[digit as usize]
    }));
}

/// The messages to add to each session of a unit, and the least that each count is after that.
fn lists(unit: &Unit) -> Vec<u8> {
    let length = unit.items.len() as u32;
    let mut lists = Vec::with_capacity(16 + 16 * unit.items.len());
    // Writing to memory does not fail.
    let _ = rmp::encode::write_array_len(&mut lists, length);
    let mut digits = itoa::Buffer::new();
    for item in &unit.items {
        // As text, which is what a command's argument is.
        let _ = rmp::encode::write_str(&mut lists, digits.format(item.by));
    }
    let _ = rmp::encode::write_array_len(&mut lists, length);
    for item in &unit.items {
        let _ = match item.floor {
            0 if item.is_answered() => rmp::encode::write_sint(&mut lists, -1),
            0 => rmp::encode::write_sint(&mut lists, 0),
            floor => rmp::encode::write_uint(&mut lists, floor + item.by),
        };
    }
    lists
}

/// What Redis answers for one session of a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Tally {
    /// Its count.
    Count(u64),
    /// Its key holds something else.
    Odd,
    /// There is no memory for a session that Redis does not have.
    NoMemory,
}

/// What Redis answers to a unit.
#[derive(Debug, PartialEq)]
pub(super) enum Counted {
    /// Of each of its sessions, and whether Redis is at its maxmemory.
    Counts(Vec<Tally>, bool),
    /// A later unit of the source came first: this one was merged long ago.
    Stale,
}

/// Reads the answer to [`Layout::commit`] of so many sessions; none: it is not one.
pub(super) fn counted(value: &Value, sessions: usize) -> Option<Counted> {
    let Value::BulkString(bytes) = value else { return None };
    if bytes == b"stale" {
        return Some(Counted::Stale);
    }
    let mut rest = bytes.as_slice();
    let length = rmp::decode::read_array_len(&mut rest).ok()? as usize;
    // Counts beyond 2^53 are none, and may come as a float: whoever put them there, no sum with them must overflow.
    let tally = |_| match rest.first() {
        Some(0xca) => rmp::decode::read_f32(&mut rest).ok().map(|_| Tally::Odd),
        Some(0xcb) => rmp::decode::read_f64(&mut rest).ok().map(|_| Tally::Odd),
        Some(_) | None => Some(match rmp::decode::read_int::<i64, _>(&mut rest).ok()? {
            -2 => Tally::NoMemory,
            count => u64::try_from(count).ok().filter(|count| *count < MOST).map_or(Tally::Odd, Tally::Count),
        }),
    };
    let tallies = (0..sessions.min(length)).map(tally).collect::<Option<Vec<_>>>()?;
    let is_full = match length.checked_sub(sessions)? {
        0 => false,
        1 if rmp::decode::read_int::<i64, _>(&mut rest).is_ok_and(|flag| flag == -3) => true,
        _ => return None,
    };
    Some(Counted::Counts(tallies, is_full))
}

/// Whether the lease is ours: the answer to [`Layout::lease`] and [`Layout::beat`].
pub(super) fn held(value: &Value) -> bool {
    matches!(value, Value::Int(1))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

/// Which of the tags is a session's; never another.
fn tag(session: &Key) -> u16 {
    let digest = session.digest();
    ((digest ^ (digest >> 16)) % u32::from(GROUPS)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Token;

    fn layout(cluster: bool) -> Layout {
        Layout { prefix: "p".into(), lifetimes: Lifetimes { session: 60, new: 6 }, remembered: REMEMBERED, cluster }
    }

    #[test]
    fn a_key_is_readable_and_never_changes() {
        let name = |token: &str| layout(false).session(&token.parse::<Token>().unwrap().key());
        assert_eq!(name("abc123"), "p:{d3}:s:abc123");
        let uuid = "67e55044-10b1-426f-9247-bb680e5fe0c8";
        assert!(name(uuid).ends_with(&format!(":s:{uuid}")), "{}", name(uuid));
    }

    #[test]
    fn a_source_has_a_key_for_each_tag() {
        let mut key = Vec::new();
        layout(true).write_source(&mut key, 0x0a, 0x1234_5678_9abc_def0);
        assert_eq!(String::from_utf8(key).unwrap(), "p:{0a}:u:123456789abcdef0");
    }

    #[test]
    fn tags_are_spread() {
        let layout = layout(true);
        let mut seen = [0; GROUPS as usize];
        for n in 0..25_600 {
            seen[usize::from(layout.group(&format!("session-{n}").parse::<Token>().unwrap().key()))] += 1;
        }
        assert!(seen.iter().all(|n| (50..200).contains(n)), "{seen:?}");
    }

    #[test]
    fn answers_are_counts() {
        let value = |bytes: &[u8]| Value::BulkString(bytes.to_vec());
        let packed = b"\x93\x03\xff\xcf\x00\x1f\xff\xff\xff\xff\xff\xff";
        let counts = vec![Tally::Count(3), Tally::Odd, Tally::Count(9_007_199_254_740_991)];
        assert_eq!(counted(&value(packed), 3), Some(Counted::Counts(counts, false)));
        assert_eq!((counted(&value(packed), 2), counted(&value(packed), 4)), (None, None));
        assert_eq!(counted(&value(b"\x90"), 0), Some(Counted::Counts(vec![], false)));
        assert_eq!(counted(&value(b"\x91\xfd"), 0), Some(Counted::Counts(vec![], true)));
        let refused = vec![Tally::Count(3), Tally::NoMemory];
        assert_eq!(counted(&value(b"\x93\x03\xfe\xfd"), 2), Some(Counted::Counts(refused, true)));
        assert_eq!((counted(&value(b"\x93\x03\xfe\xfd"), 1), counted(&value(b"\x92\x03\xfe"), 1)), (None, None));
        assert_eq!(counted(&value(b"stale"), 3), Some(Counted::Stale));
        assert_eq!(
            (counted(&value(b"x"), 3), counted(&value(b"\x93\x03"), 3), counted(&Value::Nil, 0)),
            (None, None, None)
        );
        // 2^53, and the largest that INCRBY leads to.
        for too_many in [b"\x91\xcf\x00\x20\x00\x00\x00\x00\x00\x00", b"\x91\xcf\x7f\xff\xff\xff\xff\xff\xff\xff"] {
            assert_eq!(counted(&value(too_many), 1), Some(Counted::Counts(vec![Tally::Odd], false)));
        }
    }
}
