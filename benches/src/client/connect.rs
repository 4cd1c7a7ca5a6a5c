//! Connections: opened many at a time, read without a buffer of their own.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};

use crate::client::wrong;
use crate::frame::Frame;
use crate::handshake;

/// Handshakes under way at once: enough to keep a server busy, too few to overflow an accept queue.
const WINDOW: usize = 256;
/// A server that does not answer a handshake within this time fails the run.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than a server of the bench ever sends at once to one connection.
const SCRATCH: usize = 64 * 1024;
const EVENTS: usize = 1024;

/// Whom to connect to, and from where.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// The server.
    pub server: SocketAddr,
    /// A source address of its own has ports of its own: one address has 28,000.
    pub source: Option<IpAddr>,
}

impl Dial {
    /// Opens `number` WebSocket connections.
    ///
    /// # Errors
    /// The first one that could not be opened.
    pub fn open(&self, number: usize) -> io::Result<Vec<Link>> {
        let request = handshake::request(self.server);
        let mut links = Vec::with_capacity(number);
        let mut waiting = VecDeque::with_capacity(WINDOW);
        for opened in 0..number {
            if waiting.len() == WINDOW {
                links.extend(waiting.pop_front().map(upgraded).transpose()?);
            }
            let mut stream = self
                .connect()
                .map_err(|error| io::Error::new(error.kind(), format!("connection {}: {error}", opened + 1)))?;
            stream.write_all(request.as_bytes())?;
            waiting.push_back(stream);
        }
        for stream in waiting {
            links.push(upgraded(stream)?);
        }
        Ok(links)
    }

    /// Begins to connect, and does not wait for it: [`Watch::await_connection`] tells.
    ///
    /// # Errors
    /// What connect(2) says at once.
    pub(crate) fn begin(&self) -> io::Result<TcpStream> {
        let socket = self.socket()?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.server.into()) {
            Err(error) if error.raw_os_error() != Some(nix::errno::Errno::EINPROGRESS as i32) => Err(error),
            Ok(()) | Err(_) => Ok(socket.into()),
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = self.socket()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect_timeout(&self.server.into(), PATIENCE)?;
        Ok(socket.into())
    }

    fn socket(&self) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        if let Some(source) = self.source {
            // The port is chosen by connect(2), which knows the whole pair of addresses. bind(2) would look for one that
            // is free for all: 50 ms a connection once some ten thousand are in TIME_WAIT (ip(7)).
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.set_tcp_nodelay(true)?;
        Ok(socket)
    }
}

fn upgraded(stream: TcpStream) -> io::Result<Link> {
    let mut handshake = Handshake::of(stream);
    loop {
        if let Some(end) = handshake.read()? {
            return handshake.into_link(end);
        }
    }
}

/// A connection whose upgrade is not answered yet.
pub(crate) struct Handshake {
    stream: TcpStream,
    head: Vec<u8>,
}

impl Handshake {
    pub(crate) fn of(stream: TcpStream) -> Handshake {
        Handshake { stream, head: Vec::with_capacity(512) }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)
    }

    /// One read; where the answer's head ends, once it is complete.
    pub(crate) fn read(&mut self) -> io::Result<Option<usize>> {
        let mut chunk = [0; 1024];
        match self.stream.read(&mut chunk)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            received => {
                self.head.extend_from_slice(&chunk[..received]);
                Ok(handshake::head_end(&self.head))
            }
        }
    }

    /// After the answer, which must grant the upgrade.
    pub(crate) fn into_link(self, end: usize) -> io::Result<Link> {
        let Handshake { stream, head } = self;
        if !handshake::granted(&head[..end]) {
            let answer = String::from_utf8_lossy(&head);
            return Err(wrong(format!("the handshake was answered: {}", answer.trim())));
        }
        stream.set_nonblocking(true)?;
        Ok(Link { stream, incomplete: head[end..].to_vec() })
    }
}

/// One connection after its handshake.
pub struct Link {
    stream: TcpStream,
    /// Bytes of a frame whose end has not arrived; owns no memory otherwise.
    incomplete: Vec<u8>,
}

/// How a connection stands after it was read empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Open.
    Open,
    /// The server has closed it in order (FIN).
    End,
}

impl Link {
    /// Reads until nothing is left, and shows each frame's opcode and payload.
    ///
    /// # Errors
    /// Those of the socket, a frame that no server should send, and what `each` says.
    #[inline]
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        mut each: impl FnMut(u8, &[u8]) -> io::Result<()>,
    ) -> io::Result<Received> {
        loop {
            let kept = self.incomplete.len();
            scratch[..kept].copy_from_slice(&self.incomplete);
            let received = match self.stream.read(&mut scratch[kept..]) {
                Ok(0) => return Ok(Received::End),
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Received::Open),
                Err(error) => return Err(error),
            };
            let filled = kept + received;
            let mut at = 0;
            while let Some(frame) = Frame::parse(&scratch[at..filled])? {
                each(frame.opcode, &scratch[at + frame.start..at + frame.end])?;
                at += frame.end;
            }
            self.incomplete.clear();
            self.incomplete.extend_from_slice(&scratch[at..filled]);
            // Less than asked for means that the socket is empty, and that more is a new event.
            if filled < scratch.len() {
                return Ok(Received::Open);
            }
        }
    }

    /// Its own address.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// One `send`; a run never has so much under way that it would not fit.
    ///
    /// # Errors
    /// Those of the socket.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.stream.write(bytes)? == bytes.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }
}

/// How epoll tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Once per arrival: the lightest, for as long as nobody closes. (A FIN that arrives together with the data before it
    /// is one event, and [`Link::receive`] stops at the data.)
    Edge,
    /// As long as there is something, the end included.
    Level,
}

/// All links of a client, and the epoll that tells which have something to read.
pub struct Watch {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    ready: usize,
    /// Where links are read into.
    pub scratch: Vec<u8>,
}

impl Watch {
    /// Watches `links`; each is known by its place in the slice.
    ///
    /// # Errors
    /// Those of epoll.
    pub fn new<'a>(links: impl IntoIterator<Item = &'a Link>, trigger: Trigger) -> io::Result<Watch> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let interest = match trigger {
            Trigger::Edge => EpollFlags::EPOLLIN | EpollFlags::EPOLLET,
            Trigger::Level => EpollFlags::EPOLLIN,
        };
        for (place, link) in links.into_iter().enumerate() {
            epoll.add(&link.stream, EpollEvent::new(interest, place as u64))?;
        }
        Ok(Watch { epoll, events: vec![EpollEvent::empty(); EVENTS], ready: 0, scratch: vec![0; SCRATCH] })
    }

    /// Watches a socket that is being connected; it is ready when it is, or cannot be.
    ///
    /// # Errors
    /// Those of epoll.
    pub(crate) fn await_connection(&mut self, stream: &TcpStream, place: usize) -> io::Result<()> {
        Ok(self.epoll.add(stream, EpollEvent::new(EpollFlags::EPOLLOUT, place as u64))?)
    }

    /// The same socket is ready when there is something to read.
    ///
    /// # Errors
    /// Those of epoll.
    pub(crate) fn await_answer(&mut self, stream: &TcpStream, place: usize) -> io::Result<()> {
        Ok(self.epoll.modify(stream, &mut EpollEvent::new(EpollFlags::EPOLLIN, place as u64))?)
    }

    /// Waits until a link is ready, `other` can be read, or it is `until`; true for `other`. epoll_wait(2) would be too
    /// coarse: it counts milliseconds.
    ///
    /// # Errors
    /// Those of ppoll(2).
    pub(crate) fn doze(&self, other: impl AsFd, until: Instant) -> io::Result<bool> {
        let patience = until.saturating_duration_since(Instant::now());
        let mut watched =
            [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN), PollFd::new(other.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut watched, Some(TimeSpec::from_duration(patience)), None) {
            Ok(_) => Ok(watched[1].any().unwrap_or(false)),
            Err(nix::Error::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits at most `patience`; the number of links that are ready.
    ///
    /// # Errors
    /// Those of epoll.
    #[inline]
    pub fn wait(&mut self, patience: Duration) -> io::Result<usize> {
        let patience = EpollTimeout::try_from(patience).unwrap_or(EpollTimeout::MAX);
        self.ready = match self.epoll.wait(&mut self.events, patience) {
            Ok(ready) => ready,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(self.ready)
    }

    /// Looks again and again, at most for `patience`; the number of links that are ready.
    ///
    /// # Errors
    /// Those of epoll.
    pub fn busy_poll(&mut self, patience: Duration) -> io::Result<usize> {
        let begun = Instant::now();
        while self.wait(Duration::ZERO)? == 0 && begun.elapsed() < patience {}
        Ok(self.ready)
    }

    /// The place of the `nth` link that is ready.
    #[inline]
    pub fn place(&self, nth: usize) -> usize {
        self.events[nth].data() as usize
    }
}
