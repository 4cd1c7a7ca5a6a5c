//! The WebSockets of one worker: plain values in a slab, registered with one inner epoll.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use baton_ipc::scoreboard::AddressKey;
use mio::unix::SourceFd;
use mio::{Interest, Registry};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use serde::{Deserialize, Serialize};

use crate::connection::Inbox;
use crate::growth;
use crate::metrics::Closes;
use crate::rooms::Joined;
use crate::token::Token;

/// How far a connection has come: later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// Messages go both ways.
    Open,
    /// Our close is out; waiting for theirs. Messages are not read any more.
    Closing,
    /// It broke the protocol, and our close is out: what it still sends is thrown away until it ends, since closing
    /// with bytes unread would reset the connection before the client has seen why (RFC 6455 section 7.1.1).
    Failed,
    /// Nothing more is expected: it goes as soon as its output is out.
    Done,
}

/// How far a connection is on its way to another process (see [`crate::handoff`]): later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Hold {
    /// It stays.
    None,
    /// It goes when its turn comes.
    Chosen,
    /// It is not read any more.
    Parked,
    /// The other process has its state: nothing is written here any more.
    Offered,
}

/// One WebSocket. At rest it owns no memory beyond this.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    pub(crate) socket: OwnedFd,
    pub(crate) phase: Phase,
    pub(crate) hold: Hold,
    /// Who ended it, once somebody has.
    pub(crate) ended_by: Closes,
    /// The client named its session, so that there may be a record of it.
    pub(crate) resumed: bool,
    /// Something arrived since the last ping.
    pub(crate) heard: bool,
    /// It holds memory, or did when that was looked at last: it is in the list of those.
    pub(crate) listed: bool,
    /// The second in which frames were last counted against the rate, and how many.
    pub(crate) rate: (u32, u32),
    /// Never used twice, unlike the key.
    pub(crate) id: u64,
    /// `CLOCK_MONOTONIC`, milliseconds.
    pub(crate) opened_ms: u64,
    /// Messages received.
    pub(crate) received: u64,
    /// The highest count of its session that it was shown, or that was looked up for it.
    pub(crate) shown: u64,
    /// Parts of batches that are gathered or under way: what they say comes before its end.
    pub(crate) unanswered: u32,
    /// The session's count when it connected is known: it is in `shown`.
    pub(crate) known: bool,
    /// Its client was told to go, or half of a frame was thrown away: nothing may follow that.
    pub(crate) mute: bool,
    /// The time of its last heartbeat, or of its opening: milliseconds since 1970.
    pub(crate) beat_ms: u64,
    pub(crate) token: Token,
    pub(crate) request_id: Token,
    /// The client's address, where a trusted proxy has told it; otherwise the kernel knows.
    pub(crate) forwarded: Option<Box<IpAddr>>,
    /// What counts it for its client's address; none: it is not counted.
    pub(crate) address: Option<AddressKey>,
    pub(crate) inbox: Inbox,
    pub(crate) output: Option<Box<Output>>,
    pub(crate) rooms: Joined,
    pub(crate) state: S,
}

/// What the client has not taken yet.
#[derive(Debug)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    sent: usize,
    /// When the client last took some, in milliseconds of `CLOCK_MONOTONIC`.
    pub(crate) since_ms: u64,
}

impl Output {
    pub(crate) fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// What a process that is gone has left to be sent.
    pub(crate) fn of(bytes: Vec<u8>, since_ms: u64) -> Output {
        Output { bytes, sent: 0, since_ms }
    }

    /// What waits.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// What is sent makes room first, or a client that is always a little behind would have us keep all it ever got.
    fn append(&mut self, bytes: &[u8]) {
        self.make_room();
        growth::append(&mut self.bytes, bytes);
    }

    /// Lets go of what is sent, once it is more than what waits.
    fn make_room(&mut self) {
        if self.sent > self.bytes.len() / 2 {
            growth::drop_front(&mut self.bytes, std::mem::take(&mut self.sent));
        }
    }

    /// Bytes that it holds.
    fn held(&self) -> usize {
        size_of::<Output>() + self.bytes.len()
    }
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(usize),
    Nothing,
    End,
}

impl<S> Connection<S> {
    /// Reads once.
    pub(crate) fn receive(&self, scratch: &mut [u8]) -> io::Result<Received> {
        loop {
            return match recv(self.socket.as_raw_fd(), scratch, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => Ok(Received::End),
                Ok(n) => Ok(Received::Bytes(n)),
                Err(Errno::EAGAIN) => Ok(Received::Nothing),
                Err(Errno::EINTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// Sends `bytes` after what waits already; what the socket does not take waits.
    pub(crate) fn transmit(&mut self, key: usize, bytes: &[u8], registry: &Registry, now_ms: u64) -> io::Result<()> {
        if let Some(output) = &mut self.output {
            output.append(bytes);
            return Ok(());
        }
        let sent = self.send(bytes)?;
        if sent == bytes.len() {
            return Ok(());
        }
        self.output = Some(Box::new(Output { bytes: bytes[sent..].to_vec(), sent: 0, since_ms: now_ms }));
        self.watch(key, Interest::READABLE | Interest::WRITABLE, registry)
    }

    /// Sends what waits. `true`: nothing waits any more.
    pub(crate) fn flush(&mut self, key: usize, registry: &Registry, now_ms: u64) -> io::Result<bool> {
        while let Some(mut output) = self.output.take() {
            let sent = self.send(&output.bytes[output.sent..])?;
            output.sent += sent;
            if output.waiting() > 0 {
                if sent > 0 {
                    output.since_ms = now_ms;
                    output.make_room();
                }
                self.output = Some(output);
                return Ok(false);
            }
            self.watch(key, Interest::READABLE, registry)?;
        }
        Ok(true)
    }

    /// Has the epoll tell of it from now on; it does so at once if something waits already (`epoll(7)`).
    pub(crate) fn register(&self, key: usize, registry: &Registry) -> io::Result<()> {
        let interest = match self.output {
            Some(_) => Interest::READABLE | Interest::WRITABLE,
            None => Interest::READABLE,
        };
        registry.register(&mut SourceFd(&self.socket.as_raw_fd()), mio::Token(key), interest)
    }

    /// Has the epoll forget it. Before the descriptor closes, since other processes may hold the same socket, and this
    /// epoll would go on telling of it.
    pub(crate) fn deregister(&self, registry: &Registry) {
        let _ = registry.deregister(&mut SourceFd(&self.socket.as_raw_fd()));
    }

    fn watch(&self, key: usize, interest: Interest, registry: &Registry) -> io::Result<()> {
        registry.reregister(&mut SourceFd(&self.socket.as_raw_fd()), mio::Token(key), interest)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            return match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(n) => Ok(n),
                Err(Errno::EAGAIN) => Ok(0),
                Err(Errno::EINTR) => continue,
                Err(errno) => Err(errno.into()),
            };
        }
    }

    /// Bytes that it holds beyond itself.
    pub(crate) fn held(&self) -> usize {
        self.inbox.held() + self.output.as_ref().map_or(0, |output| output.held())
    }

    /// Counts one frame against the rate; `false`: over it. Seconds are those of the worker's clock, so that a client
    /// may send twice the rate across the border of two.
    #[inline]
    pub(crate) fn within_rate(&mut self, now_ms: u64, max: u32) -> bool {
        let second = (now_ms / 1000) as u32;
        if self.rate.0 != second {
            self.rate = (second, 0);
        }
        self.rate.1 += 1;
        max == 0 || self.rate.1 <= max
    }

    /// What an increment of its session must not fall below, if that is known.
    pub(crate) fn floor(&self) -> Option<u64> {
        self.known.then_some(self.shown)
    }

    /// Whether its session's count is being looked up: what it sends is not read before that is known.
    pub(crate) fn is_looked_up(&self) -> bool {
        !self.known && self.unanswered > 0
    }

    /// The client's address; none: it came over a Unix socket, or is gone.
    pub(crate) fn client_address(&self) -> Option<IpAddr> {
        let peer = || socket2::SockRef::from(&self.socket).peer_addr().ok()?.as_socket();
        self.forwarded.as_deref().copied().or_else(|| Some(peer()?.ip().to_canonical()))
    }

    /// Its id as logs and listings show it.
    pub(crate) fn name(&self) -> String {
        format!("{:016x}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_keeps_what_waits_and_little_more() {
        let mut output = Output { bytes: vec![0; 1000], sent: 0, since_ms: 0 };
        for _ in 0..1000 {
            // Always a little behind.
            output.sent += 100;
            output.append(&[1; 100]);
            assert_eq!(output.waiting(), 1000);
        }
        assert!(output.bytes.capacity() <= 2300, "{} bytes", output.bytes.capacity());
        output.sent = output.bytes.len() - 1;
        output.append(b"xy");
        assert_eq!((&output.bytes[output.sent..], output.sent), (&b"\x01xy"[..], 0));
    }

    #[test]
    fn a_connection_at_rest_is_small() {
        assert!(size_of::<Connection<()>>() <= 152, "{} bytes", size_of::<Connection<()>>());
        assert_eq!(size_of::<Option<Connection<()>>>(), size_of::<Connection<()>>());
    }
}
