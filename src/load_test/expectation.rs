//! What a server must answer. Pure: texts in, verdicts out.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a message must be answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Expect {
    /// The number of messages of the session, as the message counter of baton does
    #[default]
    Count,
    /// The same message
    Echo,
    /// Any one message
    Any,
}

/// What a message of the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The reply to the oldest message that has none, or, if so many were `skipped`, to a later one.
    Reply { skipped: u64 },
    /// The reply to the oldest message without one, and not what it should be.
    WrongReply(String),
    /// Nothing that a server may send now.
    Wrong(String),
    /// The heartbeat of this time, in milliseconds since 1970.
    Heartbeat(u64),
    /// The goodbye before a close: messages without a reply were not counted.
    Bye,
    /// Something else that one may ignore.
    Notice,
}

/// What one session, alone on its connection, may be answered with next.
#[derive(Clone, Debug)]
pub(super) struct Expectation {
    expect: Expect,
    /// The last count that was shown.
    last: u64,
    /// Messages of which nobody knows whether they were counted: their connection was lost.
    uncertain: u64,
}

impl Expectation {
    /// Of a session that is new.
    pub(super) fn new(expect: Expect) -> Expectation {
        Expectation { expect, last: 0, uncertain: 0 }
    }

    /// The connection is lost with so many messages that may or may not have been counted.
    pub(super) fn lost(&mut self, unanswered: u64) {
        self.uncertain += unanswered;
    }

    /// Judges a text, with so many messages unanswered, the oldest of which was `sent`.
    pub(super) fn judge(&mut self, text: &str, unanswered: u64, sent: Option<&str>) -> Verdict {
        match self.expect {
            Expect::Count => self.judge_count(text, unanswered),
            Expect::Echo => match (sent, heartbeat(text)) {
                (Some(sent), _) if sent == text => Verdict::Reply { skipped: 0 },
                (_, Some(at)) => Verdict::Heartbeat(at),
                (Some(sent), None) => Verdict::WrongReply(format!("expected {}, got {}", cut(sent), cut(text))),
                (None, None) => Verdict::Wrong(format!("{} answers no message", cut(text))),
            },
            Expect::Any if unanswered > 0 => Verdict::Reply { skipped: 0 },
            Expect::Any => Verdict::Notice,
        }
    }

    fn judge_count(&mut self, text: &str, unanswered: u64) -> Verdict {
        if let Some(count) = plain_count(text) {
            return self.count(count, unanswered);
        }
        if let Some(at) = heartbeat(text) {
            return Verdict::Heartbeat(at);
        }
        let Ok(Value::Object(object)) = serde_json::from_str(text) else {
            return Verdict::Wrong(format!("{} is no JSON object", cut(text)));
        };
        match (object.get("count"), object.get("error"), object.get("bye"), object.get("ts")) {
            (Some(count), None, None, None) => match count.as_u64() {
                Some(count) => self.count(count, unanswered),
                None => Verdict::WrongReply(format!("{} is no count", cut(text))),
            },
            (None, Some(_), None, None) if unanswered > 0 => Verdict::WrongReply(format!("answered {}", cut(text))),
            (None, None, Some(_), None) => self.bye(object.get("total").and_then(Value::as_u64), text),
            (None, None, None, Some(_)) => Verdict::Wrong(format!("{} is no heartbeat", cut(text))),
            _ => Verdict::Notice,
        }
    }

    fn count(&mut self, count: u64, unanswered: u64) -> Verdict {
        let (last, expected) = (self.last, self.last + 1);
        if unanswered == 0 {
            return Verdict::Wrong(format!("{{\"count\":{count}}} answers no message, after {last}"));
        }
        if count <= last {
            return Verdict::WrongReply(format!("the count went back: expected {expected}, got {count}"));
        }
        let ahead = count - expected;
        self.last = count;
        let counted = ahead.min(self.uncertain);
        self.uncertain -= counted;
        match ahead - counted {
            0 => Verdict::Reply { skipped: 0 },
            // In order, as they are, it is the reply to a later one, and those before have none.
            skipped if skipped < unanswered => Verdict::Reply { skipped },
            _ if self.uncertain + counted > 0 => {
                Verdict::WrongReply(format!("expected {expected} to {}, got {count}", expected + counted))
            }
            _ => Verdict::WrongReply(format!("expected {expected}, got {count}")),
        }
    }

    fn bye(&self, total: Option<u64>, text: &str) -> Verdict {
        match total {
            Some(total) if total >= self.last && total - self.last <= self.uncertain => Verdict::Bye,
            _ => Verdict::Wrong(format!("goodbye after the count {} with {}", self.last, cut(text))),
        }
    }
}

/// The count of a reply in the form that it nearly always has.
fn plain_count(text: &str) -> Option<u64> {
    text.strip_prefix(r#"{"count":"#)?.strip_suffix('}')?.parse().ok()
}

/// The time of a heartbeat, in milliseconds since 1970.
fn heartbeat(text: &str) -> Option<u64> {
    let time = text.strip_prefix(r#"{"ts":""#)?.strip_suffix(r#""}"#)?;
    let since = humantime::parse_rfc3339(time).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}

/// Enough of a text to know it by.
fn cut(text: &str) -> String {
    const MOST: usize = 100;
    match text.char_indices().nth(MOST) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}… ({} bytes)", &text[..end], text.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPLY: Verdict = Verdict::Reply { skipped: 0 };

    fn wrong_reply(text: &str) -> Verdict {
        Verdict::WrongReply(text.to_owned())
    }

    #[test]
    fn counts_go_up_by_one() {
        let mut counts = Expectation::new(Expect::Count);
        assert_eq!(counts.judge(r#"{"count":1}"#, 1, None), REPLY);
        assert_eq!(counts.judge(r#"{ "count": 2 }"#, 1, None), REPLY);
        assert_eq!(counts.judge(r#"{"count":2}"#, 1, None), wrong_reply("the count went back: expected 3, got 2"));
        assert_eq!(counts.judge(r#"{"count":9}"#, 1, None), wrong_reply("expected 3, got 9"));
        // One fault is told once: from there it goes on.
        assert_eq!(counts.judge(r#"{"count":10}"#, 1, None), REPLY);
        let doubled = counts.judge(r#"{"count":10}"#, 0, None);
        assert_eq!(doubled, Verdict::Wrong("{\"count\":10} answers no message, after 10".into()));
    }

    #[test]
    fn a_reply_to_a_later_message_leaves_those_before_without_one() {
        let mut counts = Expectation::new(Expect::Count);
        assert_eq!(counts.judge(r#"{"count":3}"#, 4, None), Verdict::Reply { skipped: 2 });
        assert_eq!(counts.judge(r#"{"count":5}"#, 1, None), wrong_reply("expected 4, got 5"));
    }

    #[test]
    fn what_was_under_way_when_a_connection_was_lost_may_have_been_counted_or_not() {
        let judge = |counts: &[u64]| {
            let mut session = Expectation::new(Expect::Count);
            session.last = 5;
            session.lost(2);
            counts.iter().map(|count| session.judge(&format!(r#"{{"count":{count}}}"#), 1, None)).collect::<Vec<_>>()
        };
        for counted in [[6, 7, 8], [7, 8, 9], [8, 9, 10], [6, 8, 9], [6, 8, 10]] {
            assert_eq!(judge(&counted), [REPLY, REPLY, REPLY], "{counted:?}");
        }
        assert_eq!(judge(&[9]), [wrong_reply("expected 6 to 8, got 9")]);
        assert_eq!(judge(&[5]), [wrong_reply("the count went back: expected 6, got 5")]);
        assert_eq!(judge(&[8, 10])[1], wrong_reply("expected 9, got 10"));
    }

    #[test]
    fn what_is_not_a_reply() {
        let mut counts = Expectation::new(Expect::Count);
        let at = Verdict::Heartbeat(1_767_268_800_000);
        assert_eq!(counts.judge(r#"{"ts":"2026-01-01T12:00:00.000Z"}"#, 1, None), at);
        assert_eq!(counts.judge(r#"{"notice":"lunch"}"#, 1, None), Verdict::Notice);
        assert_eq!(counts.judge(r#"{"bye":true,"total":0}"#, 1, None), Verdict::Bye);
        for (text, verdict) in [
            ("hello", Verdict::Wrong("\"hello\" is no JSON object".into())),
            (r#"{"ts":"soon"}"#, Verdict::Wrong(r#""{\"ts\":\"soon\"}" is no heartbeat"#.into())),
            (
                r#"{"bye":true,"total":1}"#,
                Verdict::Wrong(r#"goodbye after the count 0 with "{\"bye\":true,\"total\":1}""#.into()),
            ),
            (r#"{"error":"x"}"#, wrong_reply(r#"answered "{\"error\":\"x\"}""#)),
            (r#"{"count":-1}"#, wrong_reply(r#""{\"count\":-1}" is no count"#)),
        ] {
            assert_eq!(counts.judge(text, 1, None), verdict, "{text}");
        }
    }

    #[test]
    fn an_echo_is_the_same_text_in_the_same_order() {
        let mut echo = Expectation::new(Expect::Echo);
        assert_eq!(echo.judge("a", 2, Some("a")), REPLY);
        assert_eq!(echo.judge("b", 1, Some("a")), wrong_reply("expected \"a\", got \"b\""));
        assert_eq!(echo.judge("b", 0, None), Verdict::Wrong("\"b\" answers no message".into()));
        assert!(matches!(echo.judge(r#"{"ts":"2026-01-01T12:00:00.000Z"}"#, 1, Some("a")), Verdict::Heartbeat(_)));
    }

    #[test]
    fn anything_may_be_a_reply() {
        let mut any = Expectation::new(Expect::Any);
        assert_eq!(any.judge("x", 1, Some("a")), REPLY);
        assert_eq!(any.judge("x", 0, None), Verdict::Notice);
    }

    #[test]
    fn examples_are_short() {
        assert_eq!(cut("é\n"), "\"é\\n\"");
        assert_eq!(cut(&"é".repeat(1000)), format!("\"{}\"… (2000 bytes)", "é".repeat(100)));
    }
}
