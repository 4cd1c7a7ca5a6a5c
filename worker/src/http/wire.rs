//! The socket under an HTTP connection, as hyper sees it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::progress::{Event, Progress};

/// Bytes that one read may take. hyper does not say how many it got, so they are counted on the way.
const READ_MAX: usize = 4096;

/// A socket of which a part may have been read before. It reports what comes and goes: hyper gives back what it has read
/// and not handled, but not what it has not written, and says nothing of either.
pub(super) struct Wire<'a, S> {
    socket: TokioIo<S>,
    /// What was read before, as far as hyper has not taken it yet.
    unread: Bytes,
    progress: &'a Progress,
}

impl<'a, S> Wire<'a, S> {
    pub(super) fn new(socket: S, unread: Vec<u8>, progress: &'a Progress) -> Wire<'a, S> {
        Wire { socket: TokioIo::new(socket), unread: unread.into(), progress }
    }

    /// The socket, and what hyper has not taken.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.socket.into_inner(), self.unread)
    }

    /// Whether hyper answers by itself, which it does to a head that it refuses. It would say less than clients are
    /// promised, so it is not sent; what is said instead is the business of whoever gets hyper's error.
    fn is_hypers_own(&self, data: &[u8]) -> bool {
        !self.progress.is_answering() && data.starts_with(b"HTTP/1.")
    }

    fn record(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(_)) => self.progress.on(Event::Written),
            Poll::Pending => self.progress.on(Event::Blocked),
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl<S: AsyncRead + Unpin> Read for Wire<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            let mut bytes = [0; READ_MAX];
            let room = buffer.remaining().min(READ_MAX);
            let mut read = ReadBuf::new(&mut bytes[..room]);
            ready!(Pin::new(self.socket.inner_mut()).poll_read(context, &mut read))?;
            buffer.put_slice(read.filled());
            if !read.filled().is_empty() {
                self.progress.on(Event::Read);
            }
            return Poll::Ready(Ok(()));
        }
        let n = self.unread.len().min(buffer.remaining());
        buffer.put_slice(&self.unread.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Write for Wire<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_hypers_own(data) {
            return Poll::Ready(Ok(data.len()));
        }
        let written = Pin::new(&mut self.socket).poll_write(context, data);
        self.record(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if data.first().is_some_and(|first| self.is_hypers_own(first)) {
            return Poll::Ready(Ok(data.iter().map(|part| part.len()).sum()));
        }
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, data);
        self.record(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(context))?;
        self.progress.on(Event::Flushed);
        Poll::Ready(Ok(()))
    }

    /// Leaves the socket as it is: an answer to a head that was refused may still be to come.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(context)
    }
}
