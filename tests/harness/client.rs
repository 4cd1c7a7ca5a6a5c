//! WebSocket clients: tokio-tungstenite, and raw sockets for what a library would not do.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::SOON;

/// A client of a real library.
pub struct Client {
    /// The library's socket.
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The answer to the handshake.
    pub response: Response,
}

impl Client {
    /// Connects; an HTTP refusal is an `Err`.
    pub async fn try_connect(url: &str) -> Result<Client, Error> {
        let connected = timeout(SOON, connect_async(url)).await.expect("an answer to the handshake");
        connected.map(|(socket, response)| Client { socket, response })
    }

    /// Connects.
    pub async fn connect(url: &str) -> Client {
        Client::try_connect(url).await.expect("a WebSocket")
    }

    /// Connects several, each with a session of its own.
    pub async fn connect_several(n: usize, url: &str) -> Vec<Client> {
        join_all((0..n).map(|_| Client::connect(url))).await
    }

    /// The token of the session.
    pub fn session(&self) -> String {
        self.response.headers()["x-session-uuid"].to_str().expect("text").to_owned()
    }

    /// Sends a text message.
    pub async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("the connection is open");
    }

    /// Sends a ping, and waits for the pong: the connection is served.
    pub async fn ping(&mut self) {
        self.socket.send(Message::Ping(Default::default())).await.expect("the connection is open");
        loop {
            match self.next().await {
                Ok(Message::Pong(_)) => return,
                Ok(Message::Text(text)) => {
                    assert!(serde_json::from_str(&text).is_ok_and(|json| heartbeat(&json).is_some()), "no pong: {text}")
                }
                other => panic!("no pong: {other:?}"),
            }
        }
    }

    /// The next message, of whatever kind.
    pub async fn next(&mut self) -> Result<Message, Error> {
        let next = timeout(SOON, self.socket.next()).await.expect("a message, or the end");
        next.unwrap_or(Err(Error::ConnectionClosed))
    }

    /// The next message as JSON.
    pub async fn json(&mut self) -> Value {
        let message = self.next().await.expect("a message");
        serde_json::from_str(message.to_text().expect("text")).unwrap_or_else(|error| panic!("{error}: {message:?}"))
    }

    /// The next message but for heartbeats, which come when they are due.
    pub async fn answer(&mut self) -> Value {
        loop {
            let json = self.json().await;
            if heartbeat(&json).is_none() {
                return json;
            }
        }
    }

    /// The next message but for heartbeats; it must be a count.
    pub async fn count(&mut self) -> u64 {
        let json = self.answer().await;
        json["count"].as_u64().unwrap_or_else(|| panic!("no count: {json}"))
    }

    /// Closes, and waits for the server's answer.
    pub async fn leave(mut self) {
        self.socket.close(None).await.expect("the connection is open");
        while self.next().await.is_ok() {}
    }

    /// Reads on to the close, and answers it.
    pub async fn close(&mut self) -> Option<CloseFrame> {
        loop {
            match self.next().await {
                Ok(Message::Close(frame)) => {
                    while self.next().await.is_ok() {}
                    return frame;
                }
                Ok(_) => {}
                Err(error) => panic!("ended without a close: {error}"),
            }
        }
    }
}

/// The time of a heartbeat; none if it is another message.
pub fn heartbeat(json: &Value) -> Option<SystemTime> {
    let ts = json.get("ts")?.as_str().expect("text");
    assert_eq!(json.as_object().map(serde_json::Map::len), Some(1), "{json}");
    // RFC 3339 in UTC with milliseconds, and nothing else that would parse.
    assert!(ts.len() == 24 && ts.ends_with('Z') && ts.as_bytes()[19] == b'.', "{ts}");
    Some(humantime::parse_rfc3339(ts).unwrap_or_else(|error| panic!("{ts}: {error}")))
}

/// So many messages by these clients together, each with another number of them under way, from one to many: all
/// counts that they were given, sorted. To none may they go backward.
pub async fn count_together(clients: Vec<Client>, messages: usize) -> Vec<u64> {
    let all = counts_of_each(clients, messages).await;
    assert!(all.iter().all(|counts| counts.is_sorted_by(|a, b| a < b)), "a count went backward");
    let mut all = all.concat();
    all.sort_unstable();
    all
}

/// As [`count_together`]: what each of them was given, in its order.
pub async fn counts_of_each(clients: Vec<Client>, messages: usize) -> Vec<Vec<u64>> {
    let each = messages.div_ceil(clients.len());
    let tasks = clients.into_iter().enumerate().map(|(index, mut client)| {
        let messages = each.min(messages.saturating_sub(index * each));
        let window = 1 + index * 7;
        tokio::spawn(async move {
            let mut counts = Vec::with_capacity(messages);
            for sent in 0..messages {
                client.send("one more").await;
                if sent >= window {
                    counts.push(client.count().await);
                }
            }
            while counts.len() < messages {
                counts.push(client.count().await);
            }
            counts
        })
    });
    let mut all = Vec::new();
    for task in tasks.collect::<Vec<_>>() {
        all.push(task.await.expect("no panic"));
    }
    all
}

/// A client that writes bytes.
pub struct Raw {
    /// The socket, after the handshake.
    pub stream: TcpStream,
}

/// Why a raw client got no WebSocket.
#[derive(Debug)]
pub enum Refused {
    /// Nobody listens.
    Connect(io::Error),
    /// The connection ended before there was an answer.
    Lost(io::Error),
    /// The answer is not 101.
    Http(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Connect(error) => write!(f, "nobody listens: {error}"),
            Refused::Lost(error) => write!(f, "the connection ended before there was an answer: {error}"),
            Refused::Http(head) => write!(f, "refused: {head}"),
        }
    }
}

/// The handshake of a raw client.
pub fn handshake(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
}

/// A client's frame: masked, the first byte as given.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_masked(&mut bytes, first, payload, [0x11, 0x22, 0x33, 0x44]);
    bytes
}

/// Appends a client's frame.
pub fn push_masked(out: &mut Vec<u8>, first: u8, payload: &[u8], key: [u8; 4]) {
    out.push(first);
    match payload.len() {
        n @ 0..126 => out.push(0x80 | n as u8),
        n @ 126..65536 => {
            out.push(0x80 | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(0x80 | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    out.extend(key);
    let start = out.len();
    out.extend_from_slice(payload);
    // Four bytes at a time: big messages are masked in debug builds too.
    let (words, rest) = out[start..].as_chunks_mut::<4>();
    let word_key = u32::from_ne_bytes(key);
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ word_key).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key) {
        *byte ^= key;
    }
}

impl Raw {
    /// Connects and completes the handshake; `early` goes in the same write.
    pub async fn connect(address: SocketAddr, path: &str, early: &[u8]) -> Raw {
        Raw::try_connect(address, path, early).await.unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// As [`Raw::connect`]; says what went wrong.
    pub async fn try_connect(address: SocketAddr, path: &str, early: &[u8]) -> Result<Raw, Refused> {
        let stream = soon(TcpStream::connect(address)).await.map_err(Refused::Connect)?;
        let mut raw = Raw { stream };
        let head = soon(raw.shake_hands(path, early)).await.map_err(Refused::Lost)?;
        if head.starts_with("HTTP/1.1 101") { Ok(raw) } else { Err(Refused::Http(head)) }
    }

    /// The head of the answer to the handshake.
    async fn shake_hands(&mut self, path: &str, early: &[u8]) -> io::Result<String> {
        self.stream.set_nodelay(true)?;
        let mut bytes = handshake(path).into_bytes();
        bytes.extend(early);
        self.stream.write_all(&bytes).await?;
        self.head().await
    }

    /// The head of an HTTP answer.
    pub async fn head(&mut self) -> io::Result<String> {
        let (mut head, mut seen) = (Vec::new(), [0; 1024]);
        // What is behind the head is left in the socket.
        while !head.ends_with(b"\r\n\r\n") {
            let n = self.stream.peek(&mut seen).await?;
            let before = head.len();
            head.extend(&seen[..n]);
            let end = head.windows(4).position(|window| window == b"\r\n\r\n").map_or(head.len(), |at| at + 4);
            head.truncate(end);
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.stream.read_exact(&mut seen[..end - before]).await?;
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// Sends bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the connection is open");
    }

    /// The next frame: its first byte and payload. `None`: the end of the stream, also by a reset.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        soon(read_frame(&mut self.stream)).await
    }

    /// Reads on to the close frame: its code and reason.
    pub async fn close(&mut self) -> (u16, String) {
        loop {
            match self.frame().await {
                Some((0x88, payload)) => {
                    let code = u16::from_be_bytes([payload[0], payload[1]]);
                    return (code, String::from_utf8(payload[2..].to_vec()).expect("UTF-8"));
                }
                Some(_) => {}
                None => panic!("ended without a close frame"),
            }
        }
    }
}

/// The next frame of a server: its first byte and payload. `None`: the end of the stream, also by a reset.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let first = stream.read_u8().await.ok()?;
    let length = match stream.read_u8().await.ok()? {
        126 => stream.read_u16().await.ok()?.into(),
        127 => stream.read_u64().await.ok()?,
        short => short.into(),
    };
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((first, payload))
}

/// Awaits `future` within [`SOON`].
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.unwrap_or_else(|_| panic!("not within {SOON:?}"))
}

/// A moment in which nothing should happen; the only way to see that nothing does.
pub const QUIET: Duration = Duration::from_millis(300);
