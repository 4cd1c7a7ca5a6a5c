//! The protocol of Redis (RESP2), as much of it as asking takes.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

/// Sends a command and reads its answer as text; elements of a list are lines.
pub(super) fn ask(stream: &UnixStream, command: &[&str]) -> Result<String, String> {
    let mut request = format!("*{}\r\n", command.len());
    for word in command {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    let mut writer = stream;
    writer.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
    // Nothing follows an answer that nobody asked for, so the buffer may go with it.
    read(&mut BufReader::new(stream))
}

fn read(stream: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    stream.read_line(&mut line).map_err(|error| error.to_string())?;
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).ok_or("the end instead of an answer")?;
    let length = || rest.parse::<i64>().map_err(|_| format!("not RESP: {line:?}"));
    match kind {
        "+" | ":" => Ok(rest.to_owned()),
        "-" => Err(rest.to_owned()),
        "$" => {
            // -1: there is none.
            let Ok(length) = usize::try_from(length()?) else { return Ok(String::new()) };
            let mut bytes = vec![0; length + 2];
            stream.read_exact(&mut bytes).map_err(|error| error.to_string())?;
            bytes.truncate(length);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => {
            let elements = (0..length()?).map(|_| read(stream)).collect::<Result<Vec<_>, _>>()?;
            Ok(elements.join("\n"))
        }
        _ => Err(format!("not RESP: {line:?}")),
    }
}
