//! The message counter: answers each text message with the number of messages of its session.

use baton_worker::{App, Message, Reply, Session};
use serde::de::IgnoredAny;

/// Counts text messages. Text that begins with `{` announces JSON and must be valid; binary is refused.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter;

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
        // The one line that runs for every message: what `format_args!` takes for it is a twentieth of a burst's cost.
        reply.text_parts([r#"{"count":"#, itoa::Buffer::new().format(count), "}"]);
    }
}
