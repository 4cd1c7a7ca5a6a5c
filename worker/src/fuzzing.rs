//! What the fuzz targets reach of the inside. Only built by `cargo fuzz`.

use crate::connection::{Bounds, Flow, Inbox};

/// Feeds `stream` to the engine, cut after every `cut` bytes. Returns what it handed on, and how it ended.
pub fn feed(stream: &[u8], cut: usize) -> (Vec<String>, Option<u16>) {
    let bounds = Bounds { message_size: 4096, fragments: 64 };
    let (mut inbox, mut items) = (Inbox::default(), Vec::new());
    for piece in stream.chunks(cut.max(1)) {
        let fed = inbox.feed(&mut piece.to_vec(), 0, bounds, |incoming| {
            items.push(format!("{incoming:?}"));
            Flow::Continue
        });
        if let Err(violation) = fed {
            return (items, Some(violation.code()));
        }
        assert!(inbox.held() < 64 * 1024, "an unfinished message holds {} bytes", inbox.held());
    }
    (items, None)
}
