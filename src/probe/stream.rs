//! A connection that never waits beyond a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use baton_ipc::Endpoint;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// What it is underneath.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Reads and writes like a blocking socket, and fails with [`ErrorKind::TimedOut`] once its time is over.
pub(super) struct Stream {
    socket: Socket,
    deadline: Instant,
}

impl Stream {
    pub(super) fn new(socket: Socket, deadline: Instant) -> Result<Stream, String> {
        let blocking = match &socket {
            Socket::Tcp(socket) => socket.set_nonblocking(false),
            Socket::Unix(socket) => socket.set_nonblocking(false),
        };
        blocking.map_err(|error| format!("cannot be waited for: {error}"))?;
        Ok(Stream { socket, deadline })
    }
}

/// Connects as a client on this machine does.
pub(super) fn dial(address: &Endpoint, deadline: Instant) -> Result<Stream, String> {
    let socket = match address {
        Endpoint::Tcp(address) => {
            let left = left(deadline).map_err(|error| describe(&error))?;
            TcpStream::connect_timeout(&reachable(*address), left).map(Socket::Tcp)
        }
        Endpoint::Unix(path) => dial_unix(path).map(Socket::Unix),
    };
    socket.map_err(|error| format!("is not accepted: {error}")).and_then(|socket| Stream::new(socket, deadline))
}

/// What happened, to follow the name of who did it.
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut => "has not answered in time".to_owned(),
        _ => format!("was lost: {error}"),
    }
}

/// An address that means all of this machine's is dialled as the nearest of them.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, v6.port()).into(),
        other => other,
    }
}

/// Without waiting: a blocking `connect(2)` to a Unix socket whose backlog is full waits for as long as it is.
fn dial_unix(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(socket.into())
}

/// Never zero, which would mean to wait for ever.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// The kernel says of a timeout what it says of a socket that does not block, which others take for a wish to be asked
/// again.
fn over(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = Some(left(self.deadline)?);
        match &mut self.socket {
            Socket::Tcp(socket) => socket.set_read_timeout(left).and_then(|()| socket.read(buffer)),
            Socket::Unix(socket) => socket.set_read_timeout(left).and_then(|()| socket.read(buffer)),
        }
        .map_err(over)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = Some(left(self.deadline)?);
        match &mut self.socket {
            Socket::Tcp(socket) => socket.set_write_timeout(left).and_then(|()| socket.write(bytes)),
            Socket::Unix(socket) => socket.set_write_timeout(left).and_then(|()| socket.write(bytes)),
        }
        .map_err(over)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_machine_is_dialled_as_loopback() {
        for (given, dialled) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
        ] {
            assert_eq!(reachable(given.parse().unwrap()).to_string(), dialled);
        }
    }
}
