//! One of them: connects, sends, takes down what comes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::{Book, open};
use crate::harness::SOON;
use crate::harness::client::{Raw, Refused, frame, read_frame, soon};

/// Messages that each client has in flight.
const WINDOW: usize = 8;

pub(super) struct Runner {
    pub(super) address: SocketAddr,
    pub(super) session: String,
    /// Its place in the book.
    pub(super) index: usize,
    /// The last count that it was given.
    pub(super) last: u64,
    pub(super) book: Arc<Mutex<Book>>,
    pub(super) through_outages: bool,
}

/// How a connection ended.
enum End {
    Lost,
    Bye,
    /// Come back after this time.
    Refused(Duration),
    /// All is sent and answered.
    Done,
    Wrong(String),
}

impl Runner {
    pub(super) async fn run(mut self) {
        let path = format!("/ws/chat/?session_uuid={}", self.session);
        while !self.is_over() {
            let end = match Raw::try_connect(self.address, &path, b"").await {
                Ok(raw) => self.send_without_pause(raw).await,
                Err(Refused::Lost(_)) => {
                    self.note(|book| book.unanswered += 1);
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(refused) => End::Wrong(refused.to_string()),
            };
            match end {
                End::Lost => self.note(|book| book.lost += 1),
                End::Bye => self.note(|book| book.byes += 1),
                End::Refused(hint) => {
                    self.note(|book| book.refused += 1);
                    tokio::time::sleep(hint).await;
                }
                End::Done => return,
                End::Wrong(what) => {
                    let what = format!("client {} of session {}: {what}", self.index, self.session);
                    return self.note(|book| book.failure = Some(what));
                }
            }
        }
    }

    async fn send_without_pause(&mut self, raw: Raw) -> End {
        let mut stream = BufReader::new(raw.stream);
        let message = frame(0x81, b"on and on");
        let (mut owed, mut under_way, mut counts) = (WINDOW, 0, 0_u64);
        let mut heard = Instant::now();
        loop {
            self.note(|book| *book.sent.entry(self.session.clone()).or_default() += owed as u64);
            under_way += owed as u64;
            if stream.write_all(&message.repeat(owed)).await.is_err() {
                // What was answered before the end is still to be read.
                owed = 0;
            }
            let Ok(next) = timeout(SOON, read_frame(&mut stream)).await else {
                return End::Wrong(format!("no answer within {SOON:?}, after {counts} counts on this connection"));
            };
            if counts > 0 {
                self.note(|book| book.longest_pause = book.longest_pause.max(heard.elapsed()));
            }
            heard = Instant::now();
            let text = match next {
                Some((0x81, text)) => text,
                Some((0x88, close)) => {
                    let _ = stream.write_all(&frame(0x88, &close[..close.len().min(2)])).await;
                    return self.closed(&close, counts, under_way);
                }
                Some((first, _)) => return End::Wrong(format!("a frame that begins with {first:#x}")),
                None => return End::Lost,
            };
            match self.take(&text) {
                Ok(true) if under_way == 0 => return End::Wrong("more counts than messages".to_owned()),
                Ok(true) => (counts, under_way) = (counts + 1, under_way - 1),
                Ok(false) => {}
                Err(wrong) => return End::Wrong(wrong),
            }
            owed = owed.min(1);
            if self.is_over() {
                owed = 0;
                if under_way == 0 {
                    let _ = stream.write_all(&frame(0x88, &1000_u16.to_be_bytes())).await;
                    while soon(read_frame(&mut stream)).await.is_some() {}
                    return End::Done;
                }
            }
        }
    }

    /// The end by a close, after so many counts on this connection, and with so many messages unanswered.
    fn closed(&self, close: &[u8], counts: u64, under_way: u64) -> End {
        let code = close.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
        let reason = String::from_utf8_lossy(close.get(2..).unwrap_or_default());
        let hint = reason.strip_prefix("retry_ms=").and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
        let end = match (code, hint) {
            (1001, Some(_)) => End::Bye,
            // Who is served already is not sent away.
            (1013, Some(hint)) if self.through_outages && counts == 0 => End::Refused(hint),
            _ => return End::Wrong(format!("closed with {code} {reason:?} after {counts} counts on this connection")),
        };
        // Both say that what they have not answered was not counted.
        self.note(|book| *book.sent.entry(self.session.clone()).or_default() -= under_way);
        end
    }

    /// Takes a message down; whether it was a count.
    fn take(&mut self, text: &[u8]) -> Result<bool, String> {
        let json: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if json["bye"] == true {
            let total = json["total"].as_u64().unwrap_or(0);
            return if total >= self.last { Ok(false) } else { Err(format!("bye with {total} after {}", self.last)) };
        }
        let count = json["count"].as_u64().ok_or_else(|| format!("neither count nor bye: {json}"))?;
        if count <= self.last {
            return Err(format!("{count} after {}", self.last));
        }
        self.last = count;
        let mut book = open(&self.book);
        book.answers[self.index] += 1;
        *book.answered.entry(self.session.clone()).or_default() += 1;
        let is_new = book.counts.entry(self.session.clone()).or_default().insert(count);
        book.repeated += u64::from(!is_new);
        if is_new || self.through_outages { Ok(true) } else { Err(format!("{count} was given twice")) }
    }

    fn is_over(&self) -> bool {
        open(&self.book).over
    }

    fn note(&self, note: impl FnOnce(&mut Book)) {
        note(&mut open(&self.book));
    }
}
