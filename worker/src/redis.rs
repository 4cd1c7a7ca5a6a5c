//! The wire to Redis: where it is, how it is reached, and what it says when it cannot serve.
//!
//! | module | knows |
//! |---|---|
//! | [`address`] | the forms of a URL |
//! | [`settings`] | what a worker is told about Redis |

mod address;
mod settings;

pub use address::{Address, AddressError};
pub use settings::{Settings, read_ca};
