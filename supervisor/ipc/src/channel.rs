//! A `SOCK_SEQPACKET` pair that carries one message a packet, and file descriptors beside it (`unix(7)`, `SCM_RIGHTS`).
#![allow(unsafe_code)] // recvmsg(2) hands out raw descriptors; they become OwnedFd here and nowhere else.

use std::fs::File;
use std::io::{self, IoSlice, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::mapping::{SIZE_SEALS, ensure_sealed};

/// The version of what crosses here. A packet of another version is refused, never guessed at.
pub const PROTOCOL_VERSION: u16 = 4;

/// The version that this process speaks: a build with debug assertions can be told to pretend that it is another one.
pub fn version() -> u16 {
    #[cfg(debug_assertions)]
    {
        use std::sync::OnceLock;
        static VERSION: OnceLock<u16> = OnceLock::new();
        let told = || std::env::var("FAULT_PROTOCOL_VERSION").ok()?.parse().ok();
        *VERSION.get_or_init(|| told().unwrap_or(PROTOCOL_VERSION))
    }
    #[cfg(not(debug_assertions))]
    PROTOCOL_VERSION
}

/// The largest packet, in bytes; well under the default send buffer of a Unix socket (212,992 bytes).
pub const MAX_PACKET: usize = 128 * 1024;

/// The most descriptors in one packet: `SCM_MAX_FD` of the kernel.
pub const MAX_FDS: usize = 253;

/// The most that may travel in a memfd, in bytes: against a sender that has lost its mind.
const MAX_ASIDE: usize = 256 * 1024 * 1024;

/// Neither the size nor the bytes of what is written aside change after it was sent.
const ASIDE_SEALS: SealFlag = SIZE_SEALS.union(SealFlag::F_SEAL_WRITE);

/// Before the body: the version, and one byte that says where the body is.
const HEADER: usize = 3;
const INLINE: u8 = 0;
const ASIDE: u8 = 1;

/// What can go wrong between two processes.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other process is gone or has closed its end.
    #[error("the other end of the channel is closed")]
    Closed,
    /// The packet queue of the receiver is full: it does not read. `EAGAIN` of `sendmsg(2)`.
    #[error("the other end does not read: its queue is full")]
    Full,
    /// The packet speaks another version.
    #[error("the other end speaks protocol version {theirs}, this end {}", version())]
    Version {
        /// The version the packet carried.
        theirs: u16,
    },
    /// The packet is too large to send, in bytes.
    #[error("a message of {0} bytes is over the limit of {MAX_PACKET}")]
    TooLarge(usize),
    /// The kernel could not deliver everything (`MSG_TRUNC`, or `MSG_CTRUNC`: the receiver ran out of descriptors).
    #[error("a packet arrived truncated: {0}")]
    Truncated(&'static str),
    /// The packet is not a message.
    #[error("a packet cannot be understood: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Any other failure of a system call.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The bytes of a packet, and the descriptors that came beside it.
pub type Packet = (Vec<u8>, Vec<OwnedFd>);

/// One end of the pair: non-blocking, close-on-exec.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Makes both ends.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Channel(a), Channel(b)))
    }

    /// Another descriptor of the same end.
    pub fn try_clone(&self) -> io::Result<Channel> {
        self.0.try_clone().map(Channel)
    }

    /// Sends one message with `fds` beside it. Never blocks: a receiver that does not read is [`ChannelError::Full`].
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let body = serde_json::to_vec(message)?;
        if HEADER + body.len() > MAX_PACKET {
            return Err(ChannelError::TooLarge(body.len()));
        }
        self.send_packet(&body, fds)
    }

    /// Sends bytes that mean something to the other end, whatever their number: those over [`MAX_PACKET`] travel in a
    /// memfd, which is one descriptor more.
    pub fn send_packet(&self, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let mut packet = version().to_le_bytes().to_vec();
        let mut raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let beside = (HEADER + body.len() > MAX_PACKET).then(|| written_aside(body)).transpose()?;
        match &beside {
            Some(file) => {
                packet.push(ASIDE);
                raw.push(file.as_raw_fd());
            }
            None => {
                packet.push(INLINE);
                packet.extend_from_slice(body);
            }
        }
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            return match sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(&packet)], control, flags, None) {
                Ok(_) => Ok(()),
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => Err(ChannelError::Full),
                Err(Errno::EPIPE | Errno::ECONNRESET | Errno::ECONNREFUSED) => Err(ChannelError::Closed),
                Err(errno) => Err(ChannelError::Io(errno.into())),
            };
        }
    }

    /// Takes the next message, or `None` when none waits. Descriptors arrive close-on-exec and are never leaked, also
    /// when the message is refused.
    pub fn recv<M: DeserializeOwned>(&self) -> Result<Option<(M, Vec<OwnedFd>)>, ChannelError> {
        let Some((body, fds)) = self.recv_packet()? else { return Ok(None) };
        Ok(Some((serde_json::from_slice(&body)?, fds)))
    }

    /// Takes the bytes of the next [`Channel::send_packet`], or `None` when none wait.
    pub fn recv_packet(&self) -> Result<Option<Packet>, ChannelError> {
        let mut packet = vec![0; MAX_PACKET];
        let Some((length, flags, mut fds)) = receive(self.0.as_fd(), &mut packet)? else { return Ok(None) };
        if length == 0 {
            return Err(ChannelError::Closed);
        }
        if flags & libc::MSG_TRUNC != 0 {
            return Err(ChannelError::Truncated("larger than the largest packet"));
        }
        if flags & libc::MSG_CTRUNC != 0 {
            return Err(ChannelError::Truncated("descriptors are missing: the limit on open files was reached"));
        }
        packet.truncate(length);
        let Some((theirs, rest)) = packet.split_first_chunk::<2>() else {
            return Err(ChannelError::Truncated("no version"));
        };
        match u16::from_le_bytes(*theirs) {
            theirs if theirs == version() => {}
            theirs => return Err(ChannelError::Version { theirs }),
        }
        match rest.first() {
            Some(&INLINE) => Ok(Some((packet.split_off(HEADER), fds))),
            Some(&ASIDE) => {
                let file = fds.pop().ok_or(ChannelError::Truncated("no descriptor of what was written aside"))?;
                Ok(Some((read_aside(file)?, fds)))
            }
            Some(_) | None => Err(ChannelError::Truncated("no body")),
        }
    }
}

/// A memfd with these bytes, which nobody can change any more.
fn written_aside(body: &[u8]) -> io::Result<OwnedFd> {
    if body.len() > MAX_ASIDE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than a packet can ever hold"));
    }
    let file = memfd_create("baton-packet", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(file);
    file.write_all(body)?;
    nix::fcntl::fcntl(&file, FcntlArg::F_ADD_SEALS(ASIDE_SEALS))?;
    Ok(file.into())
}

fn read_aside(file: OwnedFd) -> Result<Vec<u8>, ChannelError> {
    ensure_sealed(file.as_fd(), ASIDE_SEALS)?;
    let mut file = File::from(file);
    let length = file.metadata()?.len();
    if length > MAX_ASIDE as u64 {
        return Err(ChannelError::Truncated("more was written aside than a packet can hold"));
    }
    // It was written by way of this open file, so the position is at its end.
    file.rewind()?;
    let mut body = Vec::with_capacity(length as usize);
    file.read_to_end(&mut body)?;
    Ok(body)
}

/// `recvmsg(2)` by hand: nix refuses to look at the control data of a message with `MSG_CTRUNC`, and the descriptors
/// that did arrive in it would be open and known to nobody.
fn receive(socket: BorrowedFd<'_>, packet: &mut [u8]) -> Result<Option<(usize, i32, Vec<OwnedFd>)>, ChannelError> {
    const FD: usize = size_of::<RawFd>();
    // SAFETY: CMSG_SPACE only computes.
    const SPACE: usize = unsafe { libc::CMSG_SPACE((MAX_FDS * FD) as u32) } as usize;
    let mut control = [0u64; SPACE.div_ceil(8)];
    let mut iov = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
    // SAFETY: all zeroes is a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = SPACE;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    let length = loop {
        // SAFETY: header points to live buffers of the lengths it names.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags) };
        match Errno::result(length) {
            Ok(length) => break length as usize,
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => return Ok(None),
            Err(Errno::ECONNRESET) => return Err(ChannelError::Closed),
            Err(errno) => return Err(ChannelError::Io(errno.into())),
        }
    };
    let mut fds = Vec::new();
    // SAFETY: the kernel filled in the control buffer; the CMSG macros walk it within msg_controllen.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !message.is_null() {
        // SAFETY: message is a header inside the control buffer, followed by the data that cmsg_len tells; every
        // descriptor in it was just made for this process and is known to nobody else.
        unsafe {
            if (*message).cmsg_level == libc::SOL_SOCKET && (*message).cmsg_type == libc::SCM_RIGHTS {
                let count = ((*message).cmsg_len - libc::CMSG_LEN(0) as usize) / FD;
                let data = libc::CMSG_DATA(message).cast::<RawFd>();
                fds.extend((0..count).map(|i| OwnedFd::from_raw_fd(data.add(i).read_unaligned())));
            }
            message = libc::CMSG_NXTHDR(&raw const header, message);
        }
    }
    Ok(Some((length, header.msg_flags, fds)))
}

impl From<OwnedFd> for Channel {
    /// One end of a pair that has come from another process.
    fn from(end: OwnedFd) -> Channel {
        Channel(end)
    }
}

impl From<Channel> for OwnedFd {
    /// To be passed on.
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_and_its_descriptors_arrive_together() {
        let (a, b) = Channel::pair().unwrap();
        let (pipe, _write) = nix::unistd::pipe().unwrap();
        a.send(&"take this", &[pipe.as_fd()]).unwrap();
        let (text, fds) = b.recv::<String>().unwrap().unwrap();
        assert_eq!((text.as_str(), fds.len()), ("take this", 1));
        assert!(b.recv::<String>().unwrap().is_none());
    }

    #[test]
    fn a_closed_end_is_told_apart_from_an_empty_one() {
        let (a, b) = Channel::pair().unwrap();
        drop(a);
        assert!(matches!(b.recv::<String>(), Err(ChannelError::Closed)));
        assert!(matches!(b.send(&1, &[]), Err(ChannelError::Closed)));
    }

    #[test]
    fn another_version_and_garbage_are_refused() {
        let (a, b) = Channel::pair().unwrap();
        let raw = |bytes: &[u8]| nix::unistd::write(&a, bytes).unwrap();
        raw(b"\x63\x00\"hello\"");
        assert!(matches!(b.recv::<String>(), Err(ChannelError::Version { theirs: 0x63 })));
        let version = PROTOCOL_VERSION.to_le_bytes();
        raw(&[&version[..], b"\x00nonsense"].concat());
        assert!(matches!(b.recv::<String>(), Err(ChannelError::Malformed(_))));
        for short in [&version[..1], &version[..], &[&version[..], b"\x01"].concat()] {
            raw(short);
            assert!(matches!(b.recv::<String>(), Err(ChannelError::Truncated(_))));
        }
        raw(&version[..1]);
        assert!(matches!(b.recv::<String>(), Err(ChannelError::Truncated(_))));
    }

    #[test]
    fn descriptors_that_do_not_fit_are_told_and_none_leaks() {
        // In a child of its own: the limit on open files is the process's.
        let (a, b) = Channel::pair().unwrap();
        let (pipe, _write) = nix::unistd::pipe().unwrap();
        a.send(&0, &[pipe.as_fd(); 8]).unwrap();
        // SAFETY: the child calls only system calls and what is built on them, then _exit.
        match unsafe { nix::unistd::fork() }.unwrap() {
            nix::unistd::ForkResult::Child => {
                nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 64, 64).unwrap();
                let fill = || std::iter::from_fn(|| nix::unistd::dup(&a).ok()).collect::<Vec<_>>();
                let mut room = fill();
                room.truncate(room.len() - 3);
                let truncated = matches!(b.recv::<i32>(), Err(ChannelError::Truncated(_)));
                let code = i32::from(!truncated) + 2 * i32::from(fill().len() != 3);
                // SAFETY: ends the child without running the test harness's exit handlers.
                unsafe { libc::_exit(code) }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }

    #[test]
    fn a_body_of_any_size_arrives_with_its_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let (pipe, _write) = nix::unistd::pipe().unwrap();
        for size in [0, MAX_PACKET - HEADER, MAX_PACKET - HEADER + 1, 5 * MAX_PACKET] {
            let body: Vec<u8> = (0..size).map(|i| i as u8).collect();
            a.send_packet(&body, &[pipe.as_fd()]).unwrap();
            let (arrived, fds) = b.recv_packet().unwrap().unwrap();
            assert!(arrived == body && fds.len() == 1, "{size}");
        }
    }

    #[test]
    fn a_body_that_could_still_change_is_refused() {
        let (a, b) = Channel::pair().unwrap();
        let send = |seals: SealFlag| {
            let file = memfd_create("test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
            nix::unistd::write(&file, b"text").unwrap();
            nix::fcntl::fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
            let packet = [&version().to_le_bytes()[..], &[ASIDE]].concat();
            let fds = [file.as_raw_fd()];
            let rights = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(a.as_raw_fd(), &[IoSlice::new(&packet)], &rights, MsgFlags::empty(), None).unwrap();
        };
        for missing in ASIDE_SEALS.iter() {
            send(ASIDE_SEALS.difference(missing));
            match b.recv_packet() {
                Err(ChannelError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {}
                outcome => panic!("{missing:?}: {outcome:?}"),
            }
        }
        send(ASIDE_SEALS);
        assert_eq!(b.recv_packet().unwrap().unwrap().0, b"text");
    }

    #[test]
    fn what_is_too_large_is_refused_and_a_full_queue_is_no_block() {
        let (a, _b) = Channel::pair().unwrap();
        assert!(matches!(a.send(&"x".repeat(MAX_PACKET), &[]), Err(ChannelError::TooLarge(_))));
        let outcome = (0..100_000).find_map(|i| a.send(&i, &[]).err());
        assert!(matches!(outcome, Some(ChannelError::Full)));
    }
}
