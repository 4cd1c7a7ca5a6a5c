//! The socket under an HTTP connection, as hyper sees it.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// A socket of which a part may have been read before. It tells whether its client leaves output untaken: hyper gives
/// back what it has read and not handled, but not what it has not written.
pub(super) struct Wire<'a, S> {
    socket: TokioIo<S>,
    /// What was read before, as far as hyper has not taken it yet.
    unread: Bytes,
    /// The last write could not be done.
    stuck: &'a Cell<bool>,
}

impl<'a, S> Wire<'a, S> {
    pub(super) fn new(socket: S, unread: Vec<u8>, stuck: &'a Cell<bool>) -> Wire<'a, S> {
        Wire { socket: TokioIo::new(socket), unread: unread.into(), stuck }
    }

    /// The socket, and what hyper has not taken.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.socket.into_inner(), self.unread)
    }
}

impl<S: AsyncRead + Unpin> Read for Wire<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, buffer);
        }
        let n = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Write for Wire<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, data);
        self.stuck.set(written.is_pending());
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, data);
        self.stuck.set(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
