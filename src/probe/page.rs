//! Which generation answers: asked of `/status`.

use std::io::{Read, Write};

use serde_json::Value;

use super::stream::{Stream, describe};

const REQUEST: &[u8] = b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// Many times what the page of 64 workers has.
const MAX_ANSWER: u64 = 1 << 20;

/// The page must be there, and name this supervisor.
pub(super) fn served_by(mut stream: Stream, pid: u32) -> Result<(), String> {
    let mut answer = Vec::new();
    stream
        .write_all(REQUEST)
        .and_then(|()| stream.take(MAX_ANSWER).read_to_end(&mut answer))
        .map_err(|error| describe(&error))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("was closed before /status had answered")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("is answered with {status:?} instead of 200 by /status"));
    }
    let page: Value = serde_json::from_str(body).map_err(|error| format!("gets no JSON from /status: {error}"))?;
    match page["supervisor_pid"].as_u64() {
        Some(found) if found == u64::from(pid) => Ok(()),
        Some(other) => Err(format!("is served by the supervisor with pid {other} instead of {pid}")),
        None => Err("is served by a version that does not tell its supervisor_pid in /status".to_owned()),
    }
}
