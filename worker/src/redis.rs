//! The wire to Redis: where it is, how it is reached, and what it says when it cannot serve.
//!
//! | module | knows |
//! |---|---|
//! | `address` | the forms of a URL |
//! | `settings` | what a worker is told about Redis |
//! | `connection` | connections for commands |
//! | `line` | a connection for what is rarely asked |
//! | `subscription` | a connection for publications |
//! | `sentinel` | who is the master |
//! | `follow` | who is the master from then on |
//! | `failure` | why Redis does not serve |
//! | `check` | what an operator should know of it |

mod address;
mod check;
mod connection;
mod failure;
mod follow;
mod line;
mod refusal;
mod sentinel;
mod settings;
mod subscription;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub(crate) use address::Node;
pub use address::{Address, AddressError};
pub(crate) use check::describe;
pub(crate) use connection::{Connection, Connector};
pub use failure::{Failure, Reason};
pub(crate) use line::Line;
pub use settings::{Settings, read_ca};
pub(crate) use subscription::{Payload, Subscription};
