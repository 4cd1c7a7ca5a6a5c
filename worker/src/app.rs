//! What a service does with its messages: the [`App`] trait.

use std::fmt;
use std::io::Write as _;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::Batch;
use crate::frame::{self, Kind};
use crate::publication::{self, PublishError};
use crate::token::Token;

/// One message from a client, complete and valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
}

/// An application. Each worker process has one value of it, and calls it from one thread.
///
/// Nothing here waits: an app says what is to be sent, counted and published, and the worker does it when the turn of
/// its event loop ends, for all connections at once.
pub trait App: 'static {
    /// What the app keeps for one connection. It travels as bytes with its connection from process to process, and so
    /// must hold all that the app knows of it.
    type State: Default + Serialize + DeserializeOwned + 'static;

    /// A connection was made.
    fn opened(&mut self, _state: &mut Self::State, _session: &mut Session<'_>) {}

    /// A message arrived. Replies leave in the order of the messages.
    fn message(&mut self, state: &mut Self::State, message: Message<'_>, session: &mut Session<'_>);

    /// A message that was given to [`Session::count`] is the session's `count`-th, and that is durable.
    fn counted(&mut self, _state: &mut Self::State, _count: u64, _reply: &mut Reply<'_>) {}

    /// What every connection gets at wall-clock multiples of the heartbeat interval; `ts` is RFC 3339 in UTC.
    fn heartbeat(&self, ts: &str) -> Option<String> {
        Some(format!(r#"{{"ts":"{ts}"}}"#))
    }

    /// The last message before a close 1001; `total` is the session's count.
    fn bye(&self, total: u64) -> Option<String> {
        Some(format!(r#"{{"bye":true,"total":{total}}}"#))
    }
}

/// Where replies go: encoded at once, sent at the end of the turn.
#[derive(Debug)]
pub struct Reply<'a> {
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) sent: &'a mut u64,
}

impl Reply<'_> {
    /// Sends a text message.
    pub fn text(&mut self, text: &str) {
        self.append(Kind::Text, text.as_bytes());
    }

    /// Sends a text message written in place: `reply.text_fmt(format_args!("{n}"))`.
    pub fn text_fmt(&mut self, text: fmt::Arguments<'_>) {
        // Writing to memory fails only if a Display of the caller's does; then what it wrote is what is sent.
        frame::append_with(self.out, Kind::Text, |out| drop(out.write_fmt(text)));
        *self.sent += 1;
    }

    /// Sends a text message of these parts, one after another.
    pub fn text_parts<const N: usize>(&mut self, parts: [&str; N]) {
        frame::append_parts(self.out, Kind::Text, parts.map(str::as_bytes));
        *self.sent += 1;
    }

    /// Sends a binary message.
    pub fn binary(&mut self, data: &[u8]) {
        self.append(Kind::Binary, data);
    }

    fn append(&mut self, kind: Kind, payload: &[u8]) {
        frame::append(self.out, kind, payload);
        *self.sent += 1;
    }
}

/// A connection and its session, while the app looks at a message.
#[derive(Debug)]
pub struct Session<'a> {
    pub(crate) token: &'a Token,
    pub(crate) batch: &'a mut Batch,
    pub(crate) wishes: &'a mut Wishes,
}

/// What an app asked for beside replies.
#[derive(Debug)]
pub(crate) struct Wishes {
    /// Bytes of the longest text that may be published.
    max_publication: usize,
    pub(crate) close: Option<(u16, String)>,
    pub(crate) rooms: Vec<RoomChange>,
    pub(crate) invalid_json: u64,
    pub(crate) unsupported: u64,
    pub(crate) sent: u64,
}

impl Wishes {
    pub(crate) fn new(max_publication: usize) -> Wishes {
        Wishes { max_publication, close: None, rooms: Vec::new(), invalid_json: 0, unsupported: 0, sent: 0 }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RoomChange {
    Join(String),
    Leave(String),
}

impl Session<'_> {
    /// The session's token.
    pub fn token(&self) -> &Token {
        self.token
    }

    /// Counts this message: one more for the session, atomically over all connections, workers and hosts. The number
    /// comes by [`App::counted`] once it is durable.
    pub fn count(&mut self) {
        self.batch.count();
    }

    /// Where replies to this connection go.
    pub fn reply(&mut self) -> Reply<'_> {
        Reply { out: self.batch.bytes_for_reply(), sent: &mut self.wishes.sent }
    }

    /// Answers text that should be JSON and is not with `{"error":"invalid_json","detail":"…"}`, and counts it as an
    /// error.
    pub fn invalid_json(&mut self, error: &serde_json::Error) {
        let detail = serde_json::Value::String(error.to_string());
        self.reply().text_fmt(format_args!(r#"{{"error":"invalid_json","detail":{detail}}}"#));
        self.wishes.invalid_json += 1;
    }

    /// Closes with a code that an application may use (RFC 6455 section 7.4) and a reason of at most 123 bytes. What
    /// arrives after this is not read.
    pub fn close(&mut self, code: u16, reason: &str) {
        self.wishes.unsupported += u64::from(code == 1003);
        self.wishes.close.get_or_insert_with(|| (code, reason.to_owned()));
    }

    /// Receives what is published to the room from now on.
    pub fn join(&mut self, room: &str) {
        self.wishes.rooms.push(RoomChange::Join(room.to_owned()));
    }

    /// Receives no more of it.
    pub fn leave(&mut self, room: &str) {
        self.wishes.rooms.push(RoomChange::Leave(room.to_owned()));
    }

    /// Sends a text message to every connection in the room, on all workers, in the same order to each. Fails, and publishes
    /// nothing, if the text is longer than `max-output`, or the room's name than [`MAX_ROOM_BYTES`].
    ///
    /// [`MAX_ROOM_BYTES`]: crate::MAX_ROOM_BYTES
    pub fn publish(&mut self, room: &str, text: &str) -> Result<(), PublishError> {
        publication::check(room, text, self.wishes.max_publication)?;
        self.batch.publish(room, text);
        Ok(())
    }
}
