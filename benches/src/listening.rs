//! What the reference servers have in common: `NAME PORT` on the command line, one line on stdout once they listen.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};

/// Listens on 127.0.0.1 and the port of the first argument (0: any), non-blocking, and says so on stdout.
///
/// # Errors
/// A missing or wrong port, or what the kernel says.
pub fn from_arguments() -> io::Result<TcpListener> {
    let port = std::env::args().nth(1).and_then(|port| port.parse::<u16>().ok());
    let port = port.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the first argument is a port"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    let mut stdout = io::stdout();
    writeln!(stdout, "listening {}", listener.local_addr()?)?;
    stdout.flush()?;
    Ok(listener)
}
