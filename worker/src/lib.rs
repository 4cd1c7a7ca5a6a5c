//! What runs inside one worker process: WebSockets, HTTP and sessions.
//!
//! | module | knows |
//! |---|---|
//! | `worker` | the runtime, its tasks, the line to the supervisor |
//! | `accept` | listeners, descriptors, how many HTTP connections there may be |
//! | `addresses` | what the clients of one address may have |
//! | `http` | the routes, and connections until they are over or WebSockets |
//! | `socket` | the sockets of clients: their options, and how tokio gives them back |
//! | `header_list` | header fields whose values are lists |
//! | `origin` | which web pages may connect |
//! | `proxies` | who a client is when proxies stand before us |
//! | `handoff` | how connections pass from one worker process to another |
//! | `hub` | all WebSockets and the turn of the event loop |
//! | `connection` | the WebSocket protocol, sans I/O |
//! | `growth` | how buffers of clients grow |
//! | `count` | what a count is, and what a reset makes of it |
//! | `lifetimes` | how long a session is kept
//! | `batch` | what a turn gathers, to be committed together |
//! | `backplane` | what workers share: counts and publications |
//! | [`redis`] | where Redis is, and the connections to it |
//! | `sessions` | sessions, as operators look for them |
//! | [`store`] | the files of the embedded backplane, before anybody opens them |
//! | `metrics`, `usage` | the numbers on the scoreboard, and what the process takes |
//! | [`superusers`] | who may log in at `/admin/` |
//! | [`app`] | what a service does with its messages |
#![deny(unsafe_code)]

mod accept;
mod addresses;
pub mod app;
mod backplane;
mod batch;
mod connection;
mod count;
mod frame;
mod growth;
mod handoff;
mod header_list;
mod heartbeat;
mod http;
mod hub;
mod lifetimes;
mod listing;
mod memory;
mod metrics;
mod origin;
mod proxies;
mod publication;
mod readable;
pub mod redis;
mod rooms;
mod sessions;
mod settings;
mod slab;
mod socket;
pub mod store;
pub mod superusers;
pub mod token;
mod usage;
mod worker;

#[cfg(fuzzing)]
pub mod fuzzing;

pub use app::{App, Message, Reply, Session};
pub use backplane::check_redis;
pub use origin::{Origin, Tuple};
pub use proxies::{Network, Proxy};
pub use publication::{MAX_ROOM_BYTES, PublishError};
pub use readable::Readable;
pub use settings::{Limits, PerAddress, SecretKey, Settings};
pub use token::{Fingerprint, Token};
pub use worker::{Hooks, run};
