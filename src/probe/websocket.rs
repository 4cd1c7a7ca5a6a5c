//! A short life as a client: handshake, one ping, goodbye.

use tungstenite::client::IntoClientRequest;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::protocol::{CloseFrame, WebSocket};
use tungstenite::{Bytes, Error, HandshakeError, Message};

use super::stream::{Stream, describe};

/// The host is of no account: nobody looks at it.
const URL: &str = "ws://localhost/ws/chat/";

/// Nothing is counted and no session is made by it: a ping is not the application's affair.
pub(super) fn round_trip(stream: Stream) -> Result<(), String> {
    let request = URL.into_client_request().map_err(|error| reason(&error))?;
    let (mut socket, _) = tungstenite::client(request, stream).map_err(|error| match error {
        HandshakeError::Failure(error) => reason(&error),
        // Only of a stream that does not block, which this one does.
        HandshakeError::Interrupted(_) => "has not finished the handshake".to_owned(),
    })?;
    ping(&mut socket)?;
    leave(&mut socket)
}

fn ping(socket: &mut WebSocket<Stream>) -> Result<(), String> {
    let payload = Bytes::copy_from_slice(&fastrand::u64(..).to_be_bytes());
    socket.send(Message::Ping(payload.clone())).map_err(|error| reason(&error))?;
    loop {
        match socket.read().map_err(|error| reason(&error))? {
            Message::Pong(answer) if answer == payload => return Ok(()),
            Message::Pong(_) => return Err("has answered a ping with another one's pong".to_owned()),
            Message::Close(frame) => return Err(format!("has closed with {}", code(frame.as_ref()))),
            // A heartbeat, a greeting of the application, a ping of its own.
            Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Frame(_) => {}
        }
    }
}

fn leave(socket: &mut WebSocket<Stream>) -> Result<(), String> {
    let goodbye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    socket.close(Some(goodbye)).map_err(|error| reason(&error))?;
    loop {
        match socket.read().map_err(|error| reason(&error))? {
            Message::Close(Some(frame)) if frame.code == CloseCode::Normal => return Ok(()),
            Message::Close(frame) => return Err(format!("has answered a close 1000 with {}", code(frame.as_ref()))),
            Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

fn code(frame: Option<&CloseFrame>) -> String {
    frame.map_or_else(|| "no code".to_owned(), |frame| u16::from(frame.code).to_string())
}

/// What happened, to follow the name of who did it.
fn reason(error: &Error) -> String {
    match error {
        Error::Io(error) => describe(error),
        Error::Http(response) => format!("has answered the WebSocket handshake with {}", response.status().as_u16()),
        Error::ConnectionClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake | ProtocolError::HandshakeIncomplete) => {
            "has cut the connection".to_owned()
        }
        other => format!("does not speak WebSocket: {other}"),
    }
}
