//! What a server says to somebody whom it does not want: before it is asked anything, and then it closes. Whoever writes first
//! finds the connection broken, and does not get to read it.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::address::Node;
use super::{Failure, Reason};

/// A refusal is one line.
const LONGEST: u64 = 1024;

/// Knocks once more, only to listen. None: it has nothing to say.
pub(super) async fn listen(node: &Node, patience: Duration) -> Option<Failure> {
    let mut line = Vec::new();
    let listening = async {
        let stream = TcpStream::connect((node.host.as_str(), node.port)).await?;
        BufReader::new(stream.take(LONGEST)).read_until(b'\n', &mut line).await
    };
    timeout(patience, listening).await.ok()?.ok()?;
    let line = String::from_utf8_lossy(&line);
    let said = line.strip_prefix('-')?.trim_end();
    // `protected-mode`: it has no password, and takes no clients from other machines.
    let reason = if said.starts_with("DENIED") { Reason::NoAuth } else { Reason::Other };
    Some(Failure::new(reason, said))
}
