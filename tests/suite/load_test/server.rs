//! A server of many connections that does one thing wrong.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::free_address;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// Nobody listens.
    Refusal,
    /// No answer to the handshake.
    Deaf,
    /// 500 in place of the upgrade.
    Status500,
    /// The fifth reply says 7.
    WrongCount,
    /// The fifth reply says 4 again.
    CountBack,
    /// The fifth reply does not come, and those after it do.
    LostReply,
    /// The fifth reply comes twice.
    DoubledReply,
    /// No reply from the fifth message on.
    Silence,
    /// Text that is not JSON, as fifth reply.
    Garbage,
    /// A frame with reserved bits, as fifth reply.
    GarbageFrame,
    /// A reset instead of the fifth reply.
    Reset,
    /// The end of the stream instead of the fifth reply.
    Eof,
    /// A close, 1011, instead of the fifth reply.
    Close1011,
    /// A heartbeat twice.
    HeartbeatTwice,
    /// A heartbeat that half of the connections do not get.
    HeartbeatMissed,
    /// Everything rests for a while at the fifth message; all else is right.
    Stall,
    /// No answer to the close.
    NoClose,
    /// Each message comes back as it is.
    Echo,
    /// Each message comes back as it is, but for the fifth.
    WrongEcho,
}

/// For how long [`Flaw::Stall`] rests.
pub(super) const STALL: Duration = Duration::from_millis(600);

/// The message at which it goes wrong.
const WRONG: u64 = 5;

/// Starts one, which ends with this process; its URL.
pub(super) fn start(flaw: Flaw) -> String {
    let url = |address: SocketAddr| format!("ws://{address}/");
    if flaw == Flaw::Refusal {
        return url(free_address());
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = TcpListener::from_std(listener).expect("a listener");
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                number += 1;
                tokio::spawn(serve(stream, flaw, number));
            }
        });
    });
    url(address)
}

/// One connection, to its end; nobody wants to know why it ends.
async fn serve(mut stream: TcpStream, flaw: Flaw, number: u64) -> Option<()> {
    match flaw {
        Flaw::Deaf => {
            let mut bytes = [0; 1024];
            while stream.read(&mut bytes).await.ok()? > 0 {}
            return None;
        }
        Flaw::Status500 => {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.ok()?);
            }
            let answer = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.ok()?;
            return None;
        }
        _ => {}
    }
    let mut socket = accept_async(stream).await.ok()?;
    let beat = Message::text(r#"{"ts":"2026-01-01T12:00:00.000Z"}"#);
    match flaw {
        Flaw::HeartbeatTwice => {
            socket.feed(beat.clone()).await.ok()?;
            socket.send(beat).await.ok()?;
        }
        Flaw::HeartbeatMissed if number.is_multiple_of(2) => {
            // When all have been connected for long enough to be owed it.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            socket.send(beat).await.ok()?;
        }
        _ => {}
    }
    let mut count = 0;
    while let Some(Ok(message)) = socket.next().await {
        let text = match message {
            Message::Text(text) => text,
            Message::Close(_) if flaw == Flaw::NoClose => std::future::pending().await,
            _ => continue,
        };
        count += 1;
        let reply = |count: u64| Message::text(format!(r#"{{"count":{count}}}"#));
        let right = match flaw {
            Flaw::Echo | Flaw::WrongEcho => Message::Text(text),
            _ => reply(count),
        };
        if count < WRONG {
            socket.send(right).await.ok()?;
            continue;
        }
        if count > WRONG {
            if flaw != Flaw::Silence {
                socket.send(right).await.ok()?;
            }
            continue;
        }
        match flaw {
            Flaw::WrongCount => socket.send(reply(7)).await.ok()?,
            Flaw::CountBack => socket.send(reply(4)).await.ok()?,
            Flaw::LostReply | Flaw::Silence => {}
            Flaw::DoubledReply => {
                socket.feed(right.clone()).await.ok()?;
                socket.send(right).await.ok()?;
            }
            Flaw::Garbage | Flaw::WrongEcho => socket.send(Message::text("garbage")).await.ok()?,
            Flaw::GarbageFrame => socket.get_mut().write_all(&[0xf1, 0x01, b'x']).await.ok()?,
            Flaw::Reset => {
                let _ = SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO));
                return None;
            }
            Flaw::Eof => return None,
            Flaw::Close1011 => {
                let frame =
                    tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 1011.into(), reason: "tired".into() };
                socket.close(Some(frame)).await.ok()?;
            }
            Flaw::Stall => {
                // The whole thread, so that no connection is served.
                thread::sleep(STALL);
                socket.send(right).await.ok()?;
            }
            _ => socket.send(right).await.ok()?,
        }
    }
    None
}
