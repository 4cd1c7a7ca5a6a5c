//! The message counter: answers each text message with the number of messages of its session.

use baton_worker::{App, Message, Reply, Session};
use serde::de::IgnoredAny;

/// Counts text messages. Text that begins with `{` announces JSON and must be valid; binary is refused.
#[derive(Clone, Debug, Default)]
pub struct Counter {
    ten: Ten,
}

/// Ten replies in a row, which differ in the last digit alone. Counts of a burst come in a row, and this runs for every message.
#[derive(Clone, Debug, Default)]
struct Ten {
    /// The count without its last digit.
    tens: u64,
    /// The reply up to there; empty before the first.
    begin: String,
}

impl Ten {
    /// The two parts of the reply.
    fn reply(&mut self, count: u64) -> [&str; 2] {
        const ENDS: [&str; 10] = ["0}", "1}", "2}", "3}", "4}", "5}", "6}", "7}", "8}", "9}"];
        let (tens, ones) = (count / 10, count % 10);
        if tens != self.tens || self.begin.is_empty() {
            self.tens = tens;
            self.begin.clear();
            self.begin.push_str(r#"{"count":"#);
            if tens > 0 {
                self.begin.push_str(itoa::Buffer::new().format(tens));
            }
        }
        [&self.begin, ENDS[ones as usize]]
    }
}

impl App for Counter {
    type State = ();

    fn message(&mut self, (): &mut (), message: Message<'_>, session: &mut Session<'_>) {
        let Message::Text(text) = message else {
            return session.close(1003, "only text messages are counted");
        };
        if text.starts_with('{')
            && let Err(error) = serde_json::from_str::<IgnoredAny>(text)
        {
            return session.invalid_json(&error);
        }
        session.count();
    }

    fn counted(&mut self, (): &mut (), count: u64, reply: &mut Reply<'_>) {
        reply.text_parts(self.ten.reply(count));
    }
}

#[cfg(test)]
mod tests {
    use super::Ten;

    #[test]
    fn replies_are_the_json_of_their_counts() {
        let mut ten = Ten::default();
        // In a row, and from one session to another.
        for begin in [0, 5, 1, 99_995, 95, u64::MAX - 25, 4_294_967_290, 0, 10] {
            for count in begin..=begin + 25 {
                assert_eq!(ten.reply(count).concat(), serde_json::json!({ "count": count }).to_string());
            }
        }
    }
}
