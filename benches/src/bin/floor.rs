//! The floor: what a message costs when nothing is done but what must be done.
//!
//! One thread, one epoll; per ready socket one `recv`, the frames in it parsed and counted in memory, one `send` for each
//! reply, or with `--burst` one for all replies to what was received. No timers, no bounds, no fragments, no pings, no
//! durability: not a server, but what a server is measured against. `floor PORT [--burst]`

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use baton_benches::frame::{self, Frame};
use baton_benches::{handshake, listening};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use slab::Slab;

const LISTENER: u64 = u64::MAX;
/// More than a client ever has in flight, so that a short read tells that the socket is empty.
const SCRATCH: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    upgraded: bool,
    /// Messages so far; a connection is a session here.
    count: u64,
    /// The beginning of what has not arrived in full.
    incomplete: Vec<u8>,
}

/// Memory that all connections share.
struct Scratch {
    input: Vec<u8>,
    output: Vec<u8>,
}

fn main() -> io::Result<()> {
    let burst = std::env::args().any(|argument| argument == "--burst");
    let listener = listening::from_arguments()?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut connections: Slab<Connection> = Slab::new();
    let mut scratch = Scratch { input: vec![0; SCRATCH], output: Vec::with_capacity(SCRATCH) };
    let mut events = [EpollEvent::empty(); 1024];
    loop {
        let ready = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(nix::Error::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..ready] {
            match event.data() {
                LISTENER => accept(&listener, &epoll, &mut connections)?,
                token => {
                    let token = token as usize;
                    if !matches!(connections[token].turn(&mut scratch, burst), Ok(true)) {
                        connections.remove(token);
                    }
                }
            }
        }
    }
}

fn accept(listener: &TcpListener, epoll: &Epoll, connections: &mut Slab<Connection>) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let entry = connections.vacant_entry();
        // Edge-triggered is the cheaper one: a socket that was read empty is not asked again.
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&stream, EpollEvent::new(interest, entry.key() as u64))?;
        entry.insert(Connection { stream, upgraded: false, count: 0, incomplete: Vec::new() });
    }
}

impl Connection {
    /// Reads and answers until the socket is empty; false at its end.
    fn turn(&mut self, scratch: &mut Scratch, burst: bool) -> io::Result<bool> {
        loop {
            let kept = self.incomplete.len();
            scratch.input[..kept].copy_from_slice(&self.incomplete);
            self.incomplete.clear();
            let received = match self.stream.read(&mut scratch.input[kept..]) {
                Ok(0) => return Ok(false),
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.incomplete.extend_from_slice(&scratch.input[..kept]);
                    return Ok(true);
                }
                Err(error) => return Err(error),
            };
            let filled = kept + received;
            if !self.answer(&mut scratch.input[..filled], &mut scratch.output, burst)? {
                return Ok(false);
            }
            if filled < SCRATCH {
                return Ok(true);
            }
        }
    }

    fn answer(&mut self, input: &mut [u8], output: &mut Vec<u8>, burst: bool) -> io::Result<bool> {
        output.clear();
        let mut at = 0;
        if !self.upgraded {
            let Some(end) = handshake::head_end(input) else {
                self.incomplete.extend_from_slice(input);
                return Ok(true);
            };
            let Some(response) = handshake::response(&input[..end]) else { return Ok(false) };
            self.send(response.as_bytes())?;
            self.upgraded = true;
            at = end;
        }
        while let Some(frame) = Frame::parse(&input[at..])? {
            frame.unmask(&mut input[at..]);
            match frame.opcode {
                frame::TEXT => {
                    self.count += 1;
                    frame::push_count(output, self.count);
                }
                frame::CLOSE => return Ok(false),
                _ => {}
            }
            at += frame.end;
            if !burst {
                self.send(output)?;
                output.clear();
            }
        }
        self.incomplete.extend_from_slice(&input[at..]);
        self.send(output)?;
        Ok(true)
    }

    /// One `send`. A client of the bench reads every reply before it writes more, so the socket's buffer is never full;
    /// one that is counts as broken.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !bytes.is_empty() && self.stream.write(bytes)? != bytes.len() {
            return Err(ErrorKind::WriteZero.into());
        }
        Ok(())
    }
}
