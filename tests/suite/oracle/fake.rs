//! A server of one connection that does one thing wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::SockRef;

use super::flaw::{Flaw, WRONG};
use crate::harness::SOON;

/// The fake's heartbeats.
pub(super) const INTERVAL: Duration = Duration::from_millis(200);

/// Where it listens. Its thread ends with the client.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Fake {
    pub(super) fn start(flaw: Flaw) -> Fake {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let heard = Arc::<Mutex<Vec<u8>>>::default();
        let seen = Arc::clone(&heard);
        thread::spawn(move || {
            let (stream, _) = listener.accept().expect("the oracle comes");
            let input = Vec::new();
            Server { stream, flaw, heard: seen, input, pongs: 0, counted: 0, kept: None, beats: 0, last_ms: 0 }.serve();
        });
        Fake { address, heard }
    }

    /// The first so many bytes that the client has sent behind its request, once they are there.
    pub(super) fn heard(&self, length: usize) -> Option<Vec<u8>> {
        self.heard.lock().expect("no panic").get(..length).map(<[u8]>::to_vec)
    }
}

struct Server {
    stream: TcpStream,
    flaw: Flaw,
    /// All that the client has sent behind its request.
    heard: Arc<Mutex<Vec<u8>>>,
    /// Those of a frame whose rest has not come.
    input: Vec<u8>,
    pongs: u64,
    counted: u64,
    /// A pong that is kept until there is another to go before it.
    kept: Option<Vec<u8>>,
    beats: u64,
    last_ms: u64,
}

/// The connection is over; nobody wants to know why.
struct Over;

impl Server {
    fn serve(mut self) {
        let _: Result<(), Over> = self.shake_hands().and_then(|()| {
            // So that heartbeats come in time.
            self.stream.set_read_timeout(Some(Duration::from_millis(5))).map_err(|_| Over)?;
            self.last_ms = wall_ms() - wall_ms() % INTERVAL.as_millis() as u64;
            loop {
                self.beat()?;
                self.read()?;
                while let Some((first, payload)) = self.next_frame() {
                    self.answer(first, &payload)?;
                }
            }
        });
    }

    fn shake_hands(&mut self) -> Result<(), Over> {
        self.stream.set_read_timeout(Some(SOON)).map_err(|_| Over)?;
        // The first line is cut off from the last one by any newcomer.
        let enough: &[u8] = if self.flaw == Flaw::EarlyAnswer { b" HTTP/1.1" } else { b"\r\n\r\n" };
        while !self.input.windows(enough.len()).any(|bytes| bytes == enough) {
            self.read()?;
        }
        let head = String::from_utf8_lossy(&std::mem::take(&mut self.input)).into_owned();
        self.heard.lock().expect("no panic").clear();
        let named = head.split_once("session_uuid=").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
        let (status, session) = match self.flaw {
            Flaw::Refusal => ("503 Service Unavailable", named),
            Flaw::OtherSession => ("101 Switching Protocols", "another"),
            _ => ("101 Switching Protocols", named),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-Session-UUID: {session}\r\n\r\n"
        );
        self.write(answer.as_bytes())
    }

    fn read(&mut self) -> Result<(), Over> {
        let mut room = [0; 4096];
        match self.stream.read(&mut room) {
            Ok(0) => Err(Over),
            Ok(bytes) => {
                self.input.extend(&room[..bytes]);
                self.heard.lock().expect("no panic").extend(&room[..bytes]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(_) => Err(Over),
        }
    }

    /// The client's next frame, unmasked: its first byte and payload.
    fn next_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, second) = (*self.input.first()?, *self.input.get(1)? & 0x7f);
        let (length, start) = match second {
            126 => (usize::from(u16::from_be_bytes(*self.input.get(2..)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*self.input.get(2..)?.first_chunk()?) as usize, 10),
            short => (usize::from(short), 2),
        };
        let key: [u8; 4] = *self.input.get(start..)?.first_chunk()?;
        let masked = self.input.get(start + 4..start + 4 + length)?;
        let payload = masked.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        self.input.drain(..start + 4 + length);
        Some((first, payload))
    }

    fn answer(&mut self, first: u8, payload: &[u8]) -> Result<(), Over> {
        match first {
            0x88 => self.answer_close(payload),
            0x89 => self.answer_ping(payload),
            // Text, or its last fragment. None that comes in fragments begins as JSON does.
            0x81 | 0x80 => self.answer_message(payload),
            _ => Ok(()),
        }
    }

    fn answer_message(&mut self, payload: &[u8]) -> Result<(), Over> {
        if payload.starts_with(b"{") && serde_json::from_slice::<serde_json::Value>(payload).is_err() {
            let error: &[u8] = match self.flaw {
                Flaw::CountForBadJson => br#"{"count":1}"#,
                _ => br#"{"error":"invalid_json","detail":"it is none"}"#,
            };
            return self.write(&frame(0x81, error));
        }
        self.counted += 1;
        let count = format!(r#"{{"count":{}}}"#, self.counted);
        let count = frame(0x81, count.as_bytes());
        if self.counted < WRONG {
            return self.write(&count);
        }
        if self.counted > WRONG {
            return if self.flaw == Flaw::Silence { Ok(()) } else { self.write(&count) };
        }
        match self.flaw {
            Flaw::WrongCount => self.write(&frame(0x81, br#"{"count":6}"#)),
            Flaw::DoubledCount => self.write(&count.repeat(2)),
            Flaw::LostReply | Flaw::Silence => Ok(()),
            Flaw::UnaskedText => self.write(&[count, frame(0x81, br#"{"bye":true,"total":5}"#)].concat()),
            Flaw::Fragment => self.write(&[&[0x01], &count[1..]].concat()),
            Flaw::ReservedBit => self.write(&[&[0xc1], &count[1..]].concat()),
            Flaw::Mask => self.write(&[&[0x81, 0x80 | count[1], 0, 0, 0, 0], &count[2..]].concat()),
            Flaw::LongForm => self.write(&[&[0x81, 126, 0, count[1]], &count[2..]].concat()),
            Flaw::Reset => {
                let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                Err(Over)
            }
            Flaw::Eof => self.end(),
            Flaw::HalfFrame => {
                self.write(&count[..4])?;
                self.end()
            }
            Flaw::Close1001 => {
                self.write(&frame(0x88, &[&1001_u16.to_be_bytes(), &b"retry_ms=100"[..]].concat()))?;
                self.end()
            }
            _ => self.write(&count),
        }
    }

    fn answer_ping(&mut self, payload: &[u8]) -> Result<(), Over> {
        self.pongs += 1;
        let pong = frame(0x8a, payload);
        match self.flaw {
            Flaw::OtherPong if self.pongs == WRONG => self.write(&frame(0x8a, b"another")),
            Flaw::SwappedPongs if self.pongs == WRONG => {
                self.kept = Some(pong);
                Ok(())
            }
            _ => {
                let kept = self.kept.take().unwrap_or_default();
                self.write(&[pong, kept].concat())
            }
        }
    }

    fn answer_close(&mut self, payload: &[u8]) -> Result<(), Over> {
        match self.flaw {
            Flaw::OtherCloseCode => self.write(&frame(0x88, &1001_u16.to_be_bytes()))?,
            _ => self.write(&frame(0x88, payload))?,
        }
        match self.flaw {
            Flaw::TextBehindClose => self.write(&frame(0x81, br#"{"count":99}"#))?,
            // Until the client has lost its patience.
            Flaw::NoEnd => loop {
                self.read()?;
            },
            _ => {}
        }
        Err(Over)
    }

    /// The end of the stream, without a reset: what the client sends is still read.
    fn end(&mut self) -> Result<(), Over> {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        loop {
            self.read()?;
        }
    }

    fn beat(&mut self) -> Result<(), Over> {
        let (now_ms, interval_ms) = (wall_ms(), INTERVAL.as_millis() as u64);
        let due_ms = self.last_ms + interval_ms;
        if now_ms < due_ms {
            return Ok(());
        }
        self.last_ms = due_ms;
        self.beats += 1;
        if self.beats < WRONG {
            return self.write(&heartbeat(due_ms));
        }
        match self.flaw {
            Flaw::HeartbeatsCease => Ok(()),
            _ if self.beats > WRONG => self.write(&heartbeat(due_ms)),
            Flaw::HeartbeatTwice => self.write(&heartbeat(due_ms).repeat(2)),
            Flaw::HeartbeatLeftOut => Ok(()),
            Flaw::HeartbeatOffBeat => self.write(&heartbeat(due_ms + 1)),
            Flaw::HeartbeatEarly => self.write(&heartbeat(due_ms + 1_000_000 * interval_ms)),
            Flaw::HeartbeatBackward => self.write(&heartbeat(due_ms - 2 * interval_ms)),
            _ => self.write(&heartbeat(due_ms)),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Over> {
        self.stream.write_all(bytes).map_err(|_| Over)
    }
}

fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is set").as_millis() as u64
}

fn heartbeat(at_ms: u64) -> Vec<u8> {
    let ts = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(at_ms));
    frame(0x81, format!(r#"{{"ts":"{ts}"}}"#).as_bytes())
}

/// A server's frame with a short payload.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).ok().filter(|length| *length < 126).expect("a short payload");
    [&[first, length], payload].concat()
}
