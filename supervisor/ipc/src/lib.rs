//! All that crosses between baton's processes, and nothing else: no configuration, no logging, no async.
//!
//! | module | what crosses | over |
//! |---|---|---|
//! | [`messages`] | supervisor ↔ worker | [`channel`], a `SOCK_SEQPACKET` pair per worker |
//! | [`control`] | `batonctl` ↔ supervisor | a Unix stream socket, one JSON object a line |
//! | [`scoreboard`] | counters and states, every process to every other | a memfd mapped by all |
//! | [`logring`] | the last log lines of each process | the same memfd |
//! | [`takeover`] | the supervisors of two generations | a [`channel`] through `COLOR.takeover` |
//! | [`receipt`] | what became of connections that were handed over | all of these |
//! | [`private`] | files, directories and sockets that other users must not touch | the file system |
//! | [`inheritance`] | what a worker is born with | `fork(2)` |
#![deny(unsafe_code)]

pub mod channel;
pub mod control;
pub mod fault;
pub mod inheritance;
pub mod logring;
mod mapping;
pub mod messages;
pub mod private;
pub mod receipt;
pub mod scoreboard;
pub mod takeover;

pub use channel::{Channel, ChannelError};
pub use inheritance::{Endpoint, Inheritance, Listener};
pub use scoreboard::{MAX_SLOTS, Scoreboard, Side, Slot};
