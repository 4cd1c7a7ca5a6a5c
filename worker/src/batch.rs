//! What one turn of the event loop gathers: replies, increments and publications of all connections that were ready.
//! The increments are committed together; only then do the replies leave (group commit).

use std::ops::Range;
use std::time::Instant;

use crate::token::Token;

/// One connection's share of the increments of a turn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Increment {
    /// Whose.
    pub(crate) token: Token,
    /// By how many messages; by none, the count is only looked up, and the session kept from expiring.
    pub(crate) by: u32,
    /// The highest count that this connection knows of its session: the count never falls below it. None: the client has
    /// named the session, and it was not looked up yet.
    pub(crate) floor: Option<u64>,
    /// The session began with this connection: nobody else can have counted in it before.
    pub(crate) began: bool,
    /// Filled in by the commit.
    pub(crate) outcome: Outcome,
}

impl Increment {
    /// Whether a session of this count is one that these messages begin.
    pub(crate) fn begins(&self, count: u64) -> bool {
        self.began && self.floor == Some(0) && count == u64::from(self.by)
    }
}

/// What became of an [`Increment`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing: the backplane failed.
    #[default]
    Failed,
    /// The count after the last message.
    Count(u64),
    /// Nothing: what the session's count is cannot be known now.
    Unknown,
}

/// A text for everyone in a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    /// The room.
    pub(crate) room: String,
    /// The message.
    pub(crate) text: String,
}

/// All that a turn gathers. Its memory is used again in the next turn.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// What is to be committed.
    pub(crate) increments: Vec<Increment>,
    /// What is to be published.
    pub(crate) publications: Vec<Publication>,
    /// When the first that is in it was read.
    pub(crate) begun: Option<Instant>,
    /// When its commit began.
    pub(crate) committing: Option<Instant>,
    parts: Vec<Part>,
    ops: Vec<Op>,
    bytes: Vec<u8>,
    /// The part in which each of the publications was gathered.
    authors: Vec<usize>,
    /// Bytes in publications.
    published: usize,
    /// Where the part that is being gathered begins.
    begin: Range<usize>,
    /// How far its bytes have their place among its replies.
    sealed: usize,
    /// Whether that part wants to know its session's count, even if it counts nothing.
    looks_up: bool,
}

/// What one connection gets at the end of the turn, in order.
#[derive(Clone, Debug)]
struct Part {
    key: usize,
    id: u64,
    increment: Option<usize>,
    ops: Range<usize>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    /// So many replies to counted messages.
    Counted(u32),
    /// The bytes up to here, as they are.
    Bytes(usize),
    /// The goodbye, with the session's count.
    Bye,
}

/// One connection's part, on its way out.
#[derive(Debug)]
pub(crate) struct Ready<'a> {
    pub(crate) key: usize,
    pub(crate) id: u64,
    pub(crate) increment: Option<&'a Increment>,
    ops: &'a [Op],
    bytes: &'a [u8],
    at: usize,
}

/// A piece of a [`Ready`].
#[derive(Debug, PartialEq)]
pub(crate) enum Piece<'a> {
    /// Replies to the messages of these counts.
    Counted(std::ops::RangeInclusive<u64>),
    /// Frames, encoded.
    Bytes(&'a [u8]),
    /// The goodbye, with the session's count; none: it is not known.
    Bye(Option<u64>),
}

impl Batch {
    /// Begins the part of a connection.
    pub(crate) fn begin(&mut self) {
        self.begin = self.ops.len()..self.bytes.len();
        self.sealed = self.bytes.len();
        self.looks_up = false;
    }

    /// The connection whose part was begun wants to know its session's count.
    pub(crate) fn look_up(&mut self) {
        self.looks_up = true;
    }

    /// Says goodbye to the connection whose part was begun, after what is in it so far.
    pub(crate) fn bye(&mut self) {
        self.seal_bytes();
        self.ops.push(Op::Bye);
        self.looks_up = true;
    }

    /// Keeps a session from expiring.
    pub(crate) fn touch(&mut self, token: Token) {
        self.increments.push(Increment { token, by: 0, floor: None, began: false, outcome: Outcome::Failed });
    }

    /// Counts one message of the connection whose part was begun.
    #[inline]
    pub(crate) fn count(&mut self) {
        self.seal_bytes();
        match self.ops[self.begin.start..].last_mut() {
            Some(Op::Counted(n)) => *n += 1,
            Some(Op::Bytes(_) | Op::Bye) | None => self.ops.push(Op::Counted(1)),
        }
    }

    /// Where the connection's encoded frames go.
    pub(crate) fn bytes_for_reply(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub(crate) fn publish(&mut self, room: &str, text: &str) {
        self.published += room.len() + text.len();
        self.publications.push(Publication { room: room.to_owned(), text: text.to_owned() });
        self.authors.push(self.parts.len());
    }

    /// Drops what connections wanted to publish whose messages could not be counted: they will send it again.
    pub(crate) fn withdraw_uncounted(&mut self) {
        let uncounted = |part: &Part| {
            let increment = part.increment.and_then(|index| self.increments.get(index));
            increment.is_some_and(|increment| increment.by > 0 && increment.outcome == Outcome::Failed)
        };
        let mut authors = self.authors.iter();
        self.publications.retain(|_| !authors.next().and_then(|author| self.parts.get(*author)).is_some_and(uncounted));
        self.authors.clear();
    }

    /// The bytes that its publications take in the store.
    pub(crate) fn published_bytes(&self) -> usize {
        self.publications.iter().map(|p| p.text.len() + p.room.len() + 64).sum()
    }

    /// Ends the part. `false`: it holds nothing, and leaves no trace.
    pub(crate) fn end(&mut self, key: usize, id: u64, token: &Token, floor: Option<u64>, began: bool) -> bool {
        self.seal_bytes();
        let ops = self.begin.start..self.ops.len();
        if ops.is_empty() && !self.looks_up {
            return false;
        }
        let by = self.ops[ops.clone()].iter().map(|op| if let Op::Counted(n) = op { *n } else { 0 }).sum();
        let increment = (by > 0 || self.looks_up).then(|| {
            self.increments.push(Increment { token: token.clone(), by, floor, began, outcome: Outcome::Failed });
            self.increments.len() - 1
        });
        self.parts.push(Part { key, id, increment, ops, bytes: self.begin.end });
        true
    }

    #[inline]
    fn seal_bytes(&mut self) {
        if self.bytes.len() > self.sealed {
            self.sealed = self.bytes.len();
            self.ops.push(Op::Bytes(self.sealed));
        }
    }

    /// Whether a commit has anything to do.
    pub(crate) fn has_store_work(&self) -> bool {
        !(self.increments.is_empty() && self.publications.is_empty())
    }

    /// Messages in it that were counted, and those that could not be.
    pub(crate) fn counted(&self) -> (u64, u64) {
        let outcomes = self.increments.iter().map(|increment| (u64::from(increment.by), increment.outcome));
        outcomes.fold((0, 0), |(counted, failed), (by, outcome)| match outcome {
            Outcome::Count(_) => (counted + by, failed),
            Outcome::Failed => (counted, failed + by),
            Outcome::Unknown => (counted, failed),
        })
    }

    /// Messages in it that are to be counted.
    pub(crate) fn messages(&self) -> u64 {
        self.increments.iter().map(|increment| u64::from(increment.by)).sum()
    }

    /// Whether it needs lasting room. One that is empty asks whether there is some.
    pub(crate) fn grows(&self) -> bool {
        self.messages() > 0 || !self.publications.is_empty() || self.increments.is_empty()
    }

    /// Bytes of replies and publications in it.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() + self.published
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty() && !self.has_store_work()
    }

    /// How many parts there are.
    pub(crate) fn parts(&self) -> usize {
        self.parts.len()
    }

    /// The part at `index`.
    pub(crate) fn part(&self, index: usize) -> Ready<'_> {
        let part = &self.parts[index];
        Ready {
            key: part.key,
            id: part.id,
            increment: part.increment.map(|index| &self.increments[index]),
            ops: &self.ops[part.ops.clone()],
            bytes: &self.bytes,
            at: part.bytes,
        }
    }

    /// Empties it, and gives back memory that only a rare turn needs.
    pub(crate) fn clear(&mut self) {
        const KEEP: usize = 64 * 1024;
        self.begun = None;
        self.committing = None;
        self.increments.clear();
        self.publications.clear();
        self.authors.clear();
        self.published = 0;
        self.parts.clear();
        self.ops.clear();
        self.bytes.clear();
        if self.bytes.capacity() > KEEP {
            *self = Batch::default();
        }
        self.begin = 0..0;
        self.sealed = 0;
    }
}

impl<'a> Ready<'a> {
    /// What became of its increment, if it has one.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.increment.map(|increment| increment.outcome)
    }

    /// Whether it is the goodbye.
    pub(crate) fn is_bye(&self) -> bool {
        self.ops.last() == Some(&Op::Bye)
    }

    /// Whether it has messages that are counted.
    pub(crate) fn counts(&self) -> bool {
        self.increment.is_some_and(|increment| increment.by > 0)
    }

    /// The pieces in the order in which they must leave.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece<'a>> {
        let (last, by) = match self.increment {
            Some(Increment { outcome: Outcome::Count(last), by, .. }) => (Some(*last), u64::from(*by)),
            Some(Increment { outcome: Outcome::Failed | Outcome::Unknown, .. }) | None => (None, 0),
        };
        let mut count = last.unwrap_or(0).saturating_sub(by);
        let (mut at, bytes) = (self.at, self.bytes);
        self.ops.iter().map(move |op| match *op {
            Op::Counted(n) => {
                let first = count + 1;
                count += u64::from(n);
                Piece::Counted(first..=count)
            }
            Op::Bytes(end) => Piece::Bytes(&bytes[std::mem::replace(&mut at, end)..end]),
            Op::Bye => Piece::Bye(last),
        })
    }

    /// The frames that come before the first counted reply: all that may leave when the commit failed.
    pub(crate) fn bytes_before_counted(&self) -> &'a [u8] {
        match self.ops.first() {
            Some(Op::Bytes(end)) => &self.bytes[self.at..*end],
            Some(Op::Counted(_) | Op::Bye) | None => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_keep_the_order_of_their_messages() {
        let token: Token = "abc".parse().unwrap();
        let mut batch = Batch::default();
        batch.begin();
        batch.count();
        batch.count();
        batch.bytes_for_reply().extend(b"error");
        batch.count();
        batch.bytes_for_reply().extend(b"pong");
        batch.bytes_for_reply().extend(b"close");
        assert!(batch.end(1, 11, &token, Some(5), false));
        batch.begin();
        assert!(!batch.end(2, 22, &token, Some(0), true), "an empty part");
        batch.begin();
        batch.bytes_for_reply().extend(b"only");
        batch.end(3, 33, &token, Some(0), true);
        let increment = Increment { token, by: 3, floor: Some(5), began: false, outcome: Outcome::Failed };
        assert_eq!(batch.increments, [increment]);
        batch.increments[0].outcome = Outcome::Count(10);
        assert_eq!(batch.parts(), 2);
        let first = batch.part(0);
        assert_eq!(
            first.pieces().collect::<Vec<_>>(),
            [Piece::Counted(8..=9), Piece::Bytes(b"error"), Piece::Counted(10..=10), Piece::Bytes(b"pongclose")]
        );
        assert_eq!(first.bytes_before_counted(), b"");
        let second = batch.part(1);
        assert_eq!((second.key, second.id, second.bytes_before_counted()), (3, 33, &b"only"[..]));
        assert_eq!(second.pieces().collect::<Vec<_>>(), [Piece::Bytes(b"only")]);
        batch.clear();
        assert_eq!((batch.parts(), batch.has_store_work()), (0, false));
    }

    #[test]
    fn a_goodbye_tells_the_count_if_it_is_known() {
        let token: Token = "abc".parse().unwrap();
        let mut batch = Batch::default();
        batch.begin();
        batch.bye();
        batch.end(1, 11, &token, None, false);
        batch.begin();
        batch.look_up();
        assert!(batch.end(2, 22, &token, None, false), "a look-up is a part, with nothing to say");
        assert_eq!(batch.part(0).pieces().collect::<Vec<_>>(), [Piece::Bye(None)]);
        batch.increments[0].outcome = Outcome::Count(7);
        assert_eq!(batch.part(0).pieces().collect::<Vec<_>>(), [Piece::Bye(Some(7))]);
        assert_eq!((batch.part(1).pieces().count(), batch.part(1).counts()), (0, false));
    }
}
