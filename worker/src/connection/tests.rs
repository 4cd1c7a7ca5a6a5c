//! The engine against the RFC's examples and against tungstenite.

use proptest::prelude::*;
use std::io::Cursor;
use tungstenite::protocol::frame::{Frame, FrameHeader};
use tungstenite::protocol::{Role, WebSocketConfig};

use super::*;

const NOW: u64 = 1000;
const BOUNDS: Bounds = Bounds { message_size: 4096, fragments: 64 };

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong,
    Fragment,
    Close(Option<u16>),
}

impl From<Incoming<'_>> for Item {
    fn from(incoming: Incoming<'_>) -> Item {
        match incoming {
            Incoming::Text(text) => Item::Text(text.into()),
            Incoming::Binary(data) => Item::Binary(data.into()),
            Incoming::Ping(data) => Item::Ping(data.into()),
            Incoming::Pong => Item::Pong,
            Incoming::Fragment => Item::Fragment,
            Incoming::Close(code) => Item::Close(code),
        }
    }
}

/// Feeds `stream` cut into pieces of the given sizes, over and over; each piece also goes through a copy of the inbox
/// as it would travel to another process.
fn feed(stream: &[u8], cuts: &[usize]) -> (Vec<Item>, Result<Flow, Violation>) {
    let (mut items, mut inbox, mut rest) = (Vec::new(), Inbox::default(), stream.to_vec());
    for cut in cuts.iter().cycle() {
        let mut piece: Vec<u8> = rest.drain(..(*cut).min(rest.len())).collect();
        match inbox.feed(&mut piece, NOW, BOUNDS, |incoming| {
            let item = Item::from(incoming);
            let stop = matches!(item, Item::Close(_));
            items.push(item);
            if stop { Flow::Stop } else { Flow::Continue }
        }) {
            Ok(Flow::Continue) if !rest.is_empty() => {}
            end => return (items, end),
        }
        let travelled = serde_json::to_vec(&inbox).unwrap();
        let arrived: Inbox = serde_json::from_slice(&travelled).unwrap();
        assert_eq!(arrived, inbox);
        inbox = arrived;
    }
    unreachable!("cuts never end")
}

/// A client's frame.
fn frame(opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let header = FrameHeader { is_final: last, opcode: opcode.into(), mask: Some(mask), ..FrameHeader::default() };
    let mut bytes = Vec::new();
    Frame::from_payload(header, payload.to_vec().into()).format(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_examples_of_the_rfc() {
    // RFC 6455 section 5.7: a masked "Hello", a masked pong.
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    let both = [hello, pong].concat();
    for cuts in [vec![1], vec![2, 3], vec![100]] {
        assert_eq!(feed(&both, &cuts), (vec![Item::Text("Hello".into()), Item::Pong], Ok(Flow::Continue)));
    }
}

#[test]
fn a_connection_at_rest_owns_nothing() {
    let mut inbox = Inbox::default();
    let mut half = frame(TEXT, true, b"hello");
    let mut rest = half.split_off(7);
    inbox.feed(&mut half, NOW, BOUNDS, |_| Flow::Continue).unwrap();
    assert!(inbox.held() > 0);
    inbox.feed(&mut rest, NOW, BOUNDS, |_| Flow::Continue).unwrap();
    assert_eq!((inbox.held(), size_of::<Inbox>()), (0, 8));
}

#[test]
fn what_is_held_is_what_has_come_and_little_more_is_taken() {
    let bounds = Bounds { message_size: 1 << 20, fragments: 64 };
    let (mut inbox, mut sent) = (Inbox::default(), 0);
    let mut whole = frame(BINARY, true, &vec![b'x'; 700_000]);
    for piece in whole.chunks_mut(1460) {
        sent += piece.len();
        inbox.feed(piece, NOW, bounds, |_| Flow::Continue).unwrap();
        let Some(partial) = &inbox.0 else { break };
        assert!((sent..sent + 256).contains(&inbox.held()), "{} of {sent}", inbox.held());
        let capacity = partial.message.as_ref().unwrap().data.capacity();
        assert!(capacity <= sent + sent / 8 + 16, "{capacity} for {sent}");
    }
    assert_eq!(sent, 700_014);
}

#[test]
fn a_message_is_unfinished_since_its_first_byte() {
    let mut inbox = Inbox::default();
    let mut feed = |now_ms: u64, bytes: &[u8]| {
        inbox.feed(&mut bytes.to_vec(), now_ms, BOUNDS, |_| Flow::Continue).unwrap();
        inbox.since_ms()
    };
    let (begin, end) = (frame(TEXT, false, b"begins"), frame(CONTINUATION, true, b"ends"));
    // Neither more of it nor a ping in it makes it younger.
    assert_eq!(feed(10, &begin[..1]), Some(10));
    assert_eq!(feed(20, &begin[1..8]), Some(10));
    assert_eq!(feed(30, &begin[8..]), Some(10));
    assert_eq!(feed(40, &frame(PING, true, b"")), Some(10));
    assert_eq!(feed(50, &end), None);
    // What begins behind the end of another is as old as the bytes it came with.
    assert_eq!(feed(60, &begin), Some(60));
    assert_eq!(feed(70, &[&end[..], &begin[..3]].concat()), Some(70));
    assert_eq!(feed(80, &[&begin[3..], &end[..]].concat()), None);
    assert_eq!(feed(90, &frame(TEXT, true, b"whole")), None);
}

#[test]
fn violations_have_their_codes() {
    let mut unmasked = frame(TEXT, true, b"");
    unmasked.truncate(2);
    unmasked[1] &= 0x7f;
    let rsv = {
        let mut f = frame(TEXT, true, b"");
        f[0] |= 0x40;
        f
    };
    let long_form = [&[0x81, 0xfe, 0, 5][..], &[0; 9]].concat();
    let longest = [&[0x82, 0xff, 0x80][..], &[0; 11]].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", unmasked, 1002),
        ("reserved bit", rsv, 1002),
        ("reserved opcode", frame(3, true, b""), 1002),
        ("reserved control opcode", frame(11, true, b""), 1002),
        ("not the shortest form", long_form, 1002),
        ("highest bit of the length", longest, 1002),
        ("fragmented ping", frame(9, false, b""), 1002),
        ("long ping", frame(9, true, &[0; 126]), 1002),
        ("continuation of nothing", frame(0, true, b"x"), 1002),
        ("message inside a message", [frame(1, false, b"a"), frame(1, true, b"b")].concat(), 1002),
        ("close of one byte", frame(8, true, b"\x03"), 1002),
        ("close code 1005", frame(8, true, b"\x03\xed"), 1002),
        ("close code 1015", frame(8, true, b"\x03\xf7"), 1002),
        ("close code 2999", frame(8, true, b"\x0b\xb7"), 1002),
        ("close reason", frame(8, true, b"\x03\xe8\xff"), 1007),
        ("invalid text", frame(1, true, b"\xff"), 1007),
        ("text cut short", frame(1, true, b"\xc3"), 1007),
        ("text cut by a frame", [frame(1, false, b"\xc3"), frame(0, true, b"\x28")].concat(), 1007),
        ("text cut short at the end of fragments", [frame(1, false, b"\xc3"), frame(0, true, b"")].concat(), 1007),
        ("too big", frame(2, true, &[0; 4097]), 1009),
        ("too big over fragments", [frame(2, false, &[0; 4000]), frame(0, true, &[0; 97])].concat(), 1009),
        ("too many fragments", [frame(1, false, b""), frame(0, false, b"").repeat(64)].concat(), 1008),
    ];
    for (name, bytes, code) in cases {
        for cuts in [vec![1], vec![3, 1, 7], vec![100_000]] {
            let (_, end) = feed(&bytes, &cuts);
            assert_eq!(end.unwrap_err().code(), code, "{name}, cut {cuts:?}");
        }
    }
}

#[test]
fn each_frame_is_handed_on_once_whichever_it_is() {
    let frames = [
        frame(TEXT, false, b"a"),
        frame(PING, true, b""),
        frame(CONTINUATION, false, b""),
        frame(CONTINUATION, true, b"b"),
        frame(BINARY, false, b""),
        frame(CONTINUATION, true, b""),
        frame(TEXT, true, b"c"),
    ];
    let expected = vec![
        Item::Fragment,
        Item::Ping(Vec::new()),
        Item::Fragment,
        Item::Text("ab".into()),
        Item::Fragment,
        Item::Binary(Vec::new()),
        Item::Text("c".into()),
    ];
    assert_eq!(frames.len(), expected.len());
    for cuts in [vec![1], vec![3, 1, 7], vec![100_000]] {
        assert_eq!(feed(&frames.concat(), &cuts), (expected.clone(), Ok(Flow::Continue)), "cut {cuts:?}");
    }
}

#[test]
fn fragments_end_the_reading_where_they_are_too_many() {
    let mut stream = [frame(TEXT, false, b""), frame(CONTINUATION, false, b"").repeat(20)].concat();
    let (mut inbox, mut seen) = (Inbox::default(), 0);
    let flow = inbox.feed(&mut stream, NOW, BOUNDS, |_| {
        seen += 1;
        if seen == 5 { Flow::Stop } else { Flow::Continue }
    });
    assert_eq!((flow, seen), (Ok(Flow::Stop), 5));
}

#[test]
fn invalid_text_fails_at_the_first_wrong_byte_not_at_the_end_of_the_frame() {
    let mut bytes = frame(TEXT, true, &[b"ok", &b"\xed\xa0\x80"[..], &[b'x'; 50]].concat());
    bytes.truncate(6 + 4);
    assert_eq!(feed(&bytes, &[1]).1, Err(Violation::InvalidUtf8));
}

#[test]
fn too_big_is_known_from_the_header_alone() {
    let header = [0x82, 0xff, 0, 0, 0, 0, 1, 0x40, 0, 0, 1, 2, 3, 4];
    assert_eq!(feed(&header, &[1]).1, Err(Violation::TooBig(4096)));
}

/// What a client may send: whole messages, fragments with control frames between them, at the end maybe a close.
fn stream() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let payload = || prop::collection::vec(any::<u8>(), 0..300);
    let control = (9..=10u8, prop::collection::vec(any::<u8>(), 0..=125)).prop_map(|(op, data)| frame(op, true, &data));
    let text = prop::collection::vec("\\PC{0,40}", 1..5);
    let texts = (text, prop::option::of(control)).prop_map(|(parts, control)| {
        let last = parts.len() - 1;
        let frames = parts.iter().enumerate().map(|(i, part)| frame(u8::from(i == 0), i == last, part.as_bytes()));
        // A control frame may come between fragments.
        let mut frames: Vec<_> = frames.collect();
        frames.splice(1..1, control);
        frames
    });
    let binary = payload().prop_map(|data| vec![frame(2, true, &data)]);
    let damaged =
        (payload(), any::<u8>(), any::<bool>()).prop_map(|(data, opcode, last)| vec![frame(opcode & 15, last, &data)]);
    // tungstenite does not know 1014, which was registered later than the RFC.
    let code = (1000..5000u16).prop_filter("known to both", |code| *code != 1014);
    let close = (code, "\\PC{0,20}")
        .prop_map(|(code, reason)| vec![frame(8, true, &[&code.to_be_bytes()[..], reason.as_bytes()].concat())]);
    let one = prop_oneof![6 => texts, 4 => binary, 1 => damaged, 1 => close];
    prop::collection::vec(one, 1..8).prop_map(|frames| frames.concat())
}

/// What tungstenite makes of the same bytes; `Err`: it fails the connection.
fn oracle(stream: &[u8]) -> (Vec<Item>, Result<(), ()>) {
    struct Wire<'a>(Cursor<&'a [u8]>);
    impl std::io::Read for Wire<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::ErrorKind::WouldBlock.into()),
                n => Ok(n),
            }
        }
    }
    impl std::io::Write for Wire<'_> {
        fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
            Ok(buffer.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    use tungstenite::{Error, Message};
    let config = WebSocketConfig::default().max_message_size(Some(4096)).max_frame_size(Some(4096));
    let mut socket = tungstenite::WebSocket::from_raw_socket(Wire(Cursor::new(stream)), Role::Server, Some(config));
    let mut items = Vec::new();
    loop {
        items.push(match socket.read() {
            Ok(Message::Text(text)) => Item::Text(text.as_str().into()),
            Ok(Message::Binary(data)) => Item::Binary(data.to_vec()),
            Ok(Message::Ping(data)) => Item::Ping(data.to_vec()),
            Ok(Message::Pong(_)) => Item::Pong,
            Ok(Message::Close(frame)) => {
                items.push(Item::Close(frame.map(|frame| frame.code.into())));
                return (items, Ok(()));
            }
            Ok(Message::Frame(_)) => unreachable!("never read"),
            Err(Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => return (items, Ok(())),
            Err(_) => return (items, Err(())),
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_understands_what_tungstenite_does_however_the_stream_is_cut(
        frames in stream(), cuts in prop::collection::vec(1..200usize, 1..10)
    ) {
        let bytes = frames.concat();
        let (mut items, end) = feed(&bytes, &cuts);
        // tungstenite reports no fragments.
        items.retain(|item| *item != Item::Fragment);
        let (expected, expected_end) = oracle(&bytes);
        // tungstenite fails some closes later, and answers a close code that may not be sent as a protocol error of
        // its own: it reports the close where the engine refuses it.
        let refused = end.is_err() && matches!(expected.last(), Some(Item::Close(_)));
        if refused {
            prop_assert_eq!(&items[..], &expected[..expected.len() - 1]);
        } else {
            prop_assert_eq!(items, expected);
            prop_assert_eq!(end.is_err(), expected_end.is_err(), "{:?}", end);
        }
    }

    #[test]
    fn any_bytes_at_all_end_the_same_way_however_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(1..50usize, 1..10)
    ) {
        let (whole, whole_end) = feed(&bytes, &[bytes.len().max(1)]);
        let (cut, cut_end) = feed(&bytes, &cuts);
        prop_assert_eq!(whole, cut);
        // A violation deep in a frame may be seen before a cut stream's earlier one; the verdict is the same.
        prop_assert_eq!(whole_end.is_err(), cut_end.is_err());
    }

    #[test]
    fn headers_are_read_as_tungstenite_reads_them(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        let theirs = FrameHeader::parse(&mut Cursor::new(&bytes));
        match parse(&bytes) {
            Ok(Some((frame, length))) => {
                let mut cursor = Cursor::new(&bytes);
                let (header, payload) = FrameHeader::parse(&mut cursor).unwrap().unwrap();
                prop_assert_eq!((header.opcode, header.is_final), (frame.opcode.into(), frame.last));
                prop_assert_eq!((header.mask, payload), (Some(frame.mask), frame.left));
                prop_assert_eq!(cursor.position(), length as u64);
            }
            Ok(None) => prop_assert!(matches!(theirs, Ok(None))),
            // It is stricter: reserved bits, masks, lengths, control frames.
            Err(_) => {}
        }
    }

    #[test]
    fn unmasking_is_the_rfcs(payload in prop::collection::vec(any::<u8>(), 0..100), mask in any::<[u8; 4]>()) {
        let mut ours = payload.clone();
        unmask(&mut ours, mask);
        let rfc: Vec<u8> = payload.iter().enumerate().map(|(i, byte)| byte ^ mask[i % 4]).collect();
        prop_assert_eq!(ours, rfc);
    }
}
