//! Connections that do nothing.

use std::io;

use crate::client::{Dial, ready};

/// Opens `connections`, holds them until told to close, then closes them without ceremony.
///
/// # Errors
/// A connection that could not be opened.
pub fn run(dial: Dial, connections: usize) -> io::Result<()> {
    let links = dial.open(connections)?;
    ready()?;
    drop(links);
    println!("closed");
    Ok(())
}
