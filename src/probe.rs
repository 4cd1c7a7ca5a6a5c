//! Whether a service does its work: what a client would see, looked at before all clients depend on it.
//!
//! Blocking, with a deadline for everything together. Those that try a new generation run in a process of their own,
//! which ends with them.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use baton_ipc::{Endpoint, Slot};

mod page;
mod stream;
#[cfg(test)]
mod tests;
mod websocket;

use stream::{Socket, Stream};

/// How long a probe may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Fresh connections to the public address: with several accept queues behind it, one that is answered says little.
const CONNECTIONS: usize = 4;

/// Each socket leads to the worker of a slot, which must serve it as any other client.
pub(crate) fn workers(sockets: Vec<(Slot, OwnedFd)>, deadline: Instant) -> Result<(), String> {
    for (slot, socket) in sockets {
        let tried = Stream::new(Socket::Unix(UnixStream::from(socket)), deadline).and_then(websocket::round_trip);
        tried.map_err(|reason| format!("the new worker of slot {slot} {reason}"))?;
    }
    Ok(())
}

/// A page of the service at this address, in one piece: `/metrics`, say.
pub(crate) fn get(address: &Endpoint, path: &str, deadline: Instant) -> Result<String, String> {
    stream::dial(address, deadline).and_then(|stream| page::get(stream, path))
}

/// The first of these addresses must be served by the generation whose supervisor has this pid.
pub(crate) fn public(addresses: &[Endpoint], pid: u32, deadline: Instant) -> Result<(), String> {
    let address = addresses.first().ok_or("there is no public address to try")?;
    let connect = || stream::dial(address, deadline);
    for _ in 0..CONNECTIONS {
        let tried = connect().and_then(|stream| page::served_by(stream, pid));
        tried
            .and_then(|()| connect())
            .and_then(websocket::round_trip)
            .map_err(|reason| format!("a new connection to {address} {reason}"))?;
    }
    Ok(())
}
