//! A chat: what one says in a room, everyone in it reads, on all workers, in the same order.
//!
//! `cargo run --example chat_room -- run`, then in two shells `websocat ws://localhost:8000/ws/chat/`:
//! `/nick ada`, `/join tea`, and talk.

use std::process::ExitCode;

use baton::{App, Message, Session};
use serde::{Deserialize, Serialize};

struct ChatRoom;

/// Travels with the connection, so it must say all there is to know of a guest.
#[derive(Serialize, Deserialize)]
struct Guest {
    nick: String,
    room: String,
}

impl Default for Guest {
    fn default() -> Guest {
        Guest { nick: "guest".into(), room: "lobby".into() }
    }
}

impl App for ChatRoom {
    type State = Guest;

    fn opened(&mut self, guest: &mut Guest, session: &mut Session<'_>) {
        session.join(&guest.room);
        session.reply().text(r#"{"welcome":"/nick NAME, /join ROOM, or just talk","room":"lobby"}"#);
    }

    fn message(&mut self, guest: &mut Guest, message: Message<'_>, session: &mut Session<'_>) {
        let Message::Text(text) = message else { return session.close(1003, "this chat is text only") };
        match text.split_once(' ') {
            Some(("/nick", nick)) => {
                guest.nick = nick.trim().chars().take(32).collect();
                session.reply().text(&serde_json::json!({ "nick": guest.nick }).to_string());
            }
            Some(("/join", room)) => {
                session.leave(&guest.room);
                guest.room = room.trim().chars().take(64).collect();
                session.join(&guest.room);
                session.reply().text(&serde_json::json!({ "room": guest.room }).to_string());
            }
            _ => {
                let said = serde_json::json!({ "room": guest.room, "from": guest.nick, "text": text });
                if let Err(error) = session.publish(&guest.room, &said.to_string()) {
                    let refusal = serde_json::json!({ "error": "not_published", "detail": error.to_string() });
                    session.reply().text(&refusal.to_string());
                }
            }
        }
    }
}

fn main() -> ExitCode {
    baton::main(ChatRoom)
}
