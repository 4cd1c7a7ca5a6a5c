//! Has sockets of clients bounded in what the kernel holds for them, and gives them back from tokio.

use std::io;
use std::os::fd::OwnedFd;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::settings::Limits;

/// The socket under an HTTP connection, given back by tokio when that is a WebSocket or leaves.
pub(crate) trait IntoSocket: AsyncRead + AsyncWrite + Unpin {
    /// Bounds what the kernel holds for a client, and for how long.
    fn tune(&self, limits: &Limits) -> io::Result<()>;

    /// Takes it out of tokio's epoll.
    fn into_socket(self) -> io::Result<OwnedFd>;
}

impl IntoSocket for TcpStream {
    fn tune(&self, limits: &Limits) -> io::Result<()> {
        let socket = SockRef::from(self);
        socket.set_tcp_nodelay(true)?;
        // Left to itself the kernel holds megabytes for a client that does not read (tcp_wmem, tcp(7)).
        socket.set_send_buffer_size(limits.max_output)?;
        socket.set_tcp_user_timeout(Some(limits.user_timeout))
    }

    fn into_socket(self) -> io::Result<OwnedFd> {
        self.into_std().map(OwnedFd::from)
    }
}

impl IntoSocket for UnixStream {
    /// Its buffer does not grow, and its other end cannot be silently gone.
    fn tune(&self, _: &Limits) -> io::Result<()> {
        Ok(())
    }

    fn into_socket(self) -> io::Result<OwnedFd> {
        self.into_std().map(OwnedFd::from)
    }
}
