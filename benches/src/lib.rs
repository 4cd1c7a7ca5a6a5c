//! What `make bench` runs.
//!
//! The question is what a message, an idle connection, a start, a shutdown and a takeover cost in baton, beside servers that do the
//! same work: `floor`, a bare epoll loop below which nobody gets; fastwebsockets and tokio-tungstenite as published.
//! `README.md` in this directory tells the method and what the figures do not say.
//!
//! * [`frame`], [`handshake`], [`listening`]: as much of RFC 6455 as the floor and the client need.
//! * [`client`]: the load client, one thread and one epoll, run by `bench_client` in a process of its own.
//! * [`child`], [`procfs`], [`cores`], [`machine`]: start, place, bound and measure processes.
//! * [`targets`]: how each server is started; [`redis`]: a Redis beside it, and what it was sent.
//! * [`generations`]: a baton that is taken over by the next, again and again; [`control`]: how it is told to.
//! * [`rows`]: the measurements; [`table`]: what is printed; [`baseline`]: a run beside the committed one.

#![deny(unsafe_code)]

pub mod baseline;
pub mod child;
pub mod client;
pub mod control;
pub mod cores;
pub mod frame;
pub mod generations;
pub mod handshake;
pub mod listening;
pub mod machine;
pub mod procfs;
pub mod redis;
pub mod rows;
pub mod table;
pub mod targets;
