//! Only those connections that whoever started the client wants: it may know which worker serves which.

use std::collections::HashSet;
use std::io::{self, BufRead};

use crate::client::{Link, report};

/// Tells the address of each of `links`, in one line of JSON, and keeps those whose addresses come back on stdin the same
/// way.
///
/// # Errors
/// Those of the streams and the sockets, and an answer that is none.
pub fn chosen(links: Vec<Link>) -> io::Result<Vec<Link>> {
    let addresses = links.iter().map(|link| Ok(link.address()?.to_string())).collect::<io::Result<Vec<String>>>()?;
    report(&addresses)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    let wanted: HashSet<String> = serde_json::from_str(&answer)?;
    Ok(links.into_iter().zip(addresses).filter(|(_, address)| wanted.contains(address)).map(|(link, _)| link).collect())
}
