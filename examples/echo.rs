//! Sends every message back as it came, text and binary. `cargo run --example echo -- run --listen 127.0.0.1:9001`

use std::process::ExitCode;

use baton::{App, Message, Session};

struct Echo;

impl App for Echo {
    type State = ();

    fn message(&mut self, (): &mut (), message: Message<'_>, session: &mut Session<'_>) {
        match message {
            Message::Text(text) => session.reply().text(text),
            Message::Binary(data) => session.reply().binary(data),
        }
    }

    // Nothing but echoes: a client that checks every message would stumble over these.
    fn heartbeat(&self, _ts: &str) -> Option<String> {
        None
    }

    fn bye(&self, _total: u64) -> Option<String> {
        None
    }
}

fn main() -> ExitCode {
    baton::main(Echo)
}
