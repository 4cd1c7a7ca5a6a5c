//! One socket of the crowd, and what epoll tells about it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::{Domain, Socket, Type};

/// Buffers that are soon full. The server's grows with the size of the segments that the client takes: with these
/// two, both ends together hold some 50 KB; with large segments the loopback interface would make it 3 MB.
const SMALL_BUFFER: usize = 4096;
const SMALL_SEGMENT: u32 = 536;

/// A non-blocking socket.
pub(super) struct Wire {
    stream: TcpStream,
    key: u64,
    interest: EpollFlags,
}

/// How far a write or a read got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    Bytes(usize),
    /// The socket takes or has nothing more; epoll tells when that changes.
    Blocked,
}

impl Wire {
    /// Begins to connect; it can be written to once that is done.
    pub(super) fn connect(address: SocketAddr, small: bool, epoll: &Epoll, key: u64) -> io::Result<Wire> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
        socket.set_tcp_nodelay(true)?;
        if small {
            socket.set_recv_buffer_size(SMALL_BUFFER)?;
            socket.set_tcp_mss(SMALL_SEGMENT)?;
        }
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
        epoll.add(&socket, EpollEvent::new(interest, key))?;
        Ok(Wire { stream: socket.into(), key, interest })
    }

    /// Whether the attempt to connect has failed.
    pub(super) fn check_connected(&self) -> io::Result<()> {
        self.stream.take_error()?.map_or(Ok(()), Err)
    }

    /// Has epoll tell of these things alone, and of an end by an error.
    pub(super) fn watch(&mut self, readable: bool, writable: bool, epoll: &Epoll) -> io::Result<()> {
        let mut interest = EpollFlags::empty();
        interest.set(EpollFlags::EPOLLIN, readable);
        interest.set(EpollFlags::EPOLLOUT, writable);
        if interest != self.interest {
            epoll.modify(&self.stream, &mut EpollEvent::new(interest, self.key))?;
            self.interest = interest;
        }
        Ok(())
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<Moved> {
        moved(self.stream.write(bytes))
    }

    /// 0 bytes are the end of the stream.
    pub(super) fn read(&mut self, room: &mut [u8]) -> io::Result<Moved> {
        moved(self.stream.read(room))
    }
}

fn moved(result: io::Result<usize>) -> io::Result<Moved> {
    match result {
        Ok(bytes) => Ok(Moved::Bytes(bytes)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Moved::Blocked),
        // Tried again with the next event, which level-triggered epoll does not leave out.
        Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Moved::Blocked),
        Err(error) => Err(error),
    }
}
