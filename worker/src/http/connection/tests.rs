//! Connections with real sockets, served by a worker without a process.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::task::{LocalSet, spawn_local, yield_now};

use super::Moved;
use crate::accept::admit_moved;
use crate::worker::testing::{Echo, Worker};

const UPGRADE: &str = "GET /ws/chat/ HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Runs the body as a worker runs its tasks.
fn in_worker(body: impl AsyncFnOnce(&Worker)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let worker = Worker::new();
    LocalSet::new().block_on(&runtime, body(&worker));
}

/// A request whose answer bears this name.
fn get(path: &str, name: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\nX-Request-Id: {name}\r\n\r\n")
}

/// A text message as a client sends it: masked, with a mask of zeros.
fn frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&[0x81, 0x80 | 126], &length[..], &[0; 4], text.as_bytes()].concat()
}

impl Worker {
    /// Both ends of a new connection that is served here: the client's, and a second descriptor of the worker's.
    fn connect(&self) -> (UnixStream, OwnedFd) {
        let (ours, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let second = ours.try_clone().unwrap();
        admit_moved(&self.shared, ours.into(), Vec::new()).unwrap();
        (UnixStream::from_std(theirs.into()).unwrap(), second.into())
    }

    /// The one connection that there is, once it has left.
    async fn take(&self) -> Moved<Echo> {
        self.shared.take_http_connections().recv().await.unwrap()
    }

    /// The client of a new connection of which this was read elsewhere.
    async fn connect_with(&self, unread: &[u8]) -> UnixStream {
        let (client, _) = self.connect();
        self.admit(Moved { unread: unread.to_vec(), ..self.take().await });
        client
    }

    fn admit(&self, moved: Moved<Echo>) {
        admit_moved(&self.shared, moved.socket, moved.unread).unwrap();
    }
}

/// Turns of the runtime after which whatever can happen without a client has happened.
async fn settle() {
    for _ in 0..1000 {
        yield_now().await;
    }
}

/// Waits until the worker has read all that its client has sent.
async fn is_read(socket: &OwnedFd) {
    while recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).is_ok() {
        yield_now().await;
    }
}

/// The next answer: its head and its body.
async fn answer(client: &mut (impl AsyncReadExt + Unpin)) -> (String, Vec<u8>) {
    let head = head(client).await;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    client.read_exact(&mut body).await.unwrap();
    (head, body)
}

async fn head(client: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn assert_answers(head: &str, name: &str) {
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.contains(&format!("x-request-id: {name}\r\n")), "{head}");
}

#[test]
fn two_requests_go_on_from_every_byte() {
    in_worker(async |worker| {
        let requests = [get("/healthz", "one"), get("/healthz", "two")].concat().into_bytes();
        for split in 0..=requests.len() {
            let (mut client, socket) = worker.connect();
            client.write_all(&requests[..split]).await.unwrap();
            is_read(&socket).await;
            let moved = worker.take().await;
            let unhandled = split % (requests.len() / 2);
            assert_eq!(moved.unread, requests[split - unhandled..split], "{split}");
            assert_eq!(worker.shared.handshakes.len(), 1, "it counts until it is gone");
            worker.admit(moved);
            client.write_all(&requests[split..]).await.unwrap();
            for name in ["one", "two"] {
                let (head, body) = answer(&mut client).await;
                assert_answers(&head, name);
                assert!(!body.is_empty());
            }
            drop((worker.take().await, socket));
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(worker.shared.handshakes.len(), 0);
        }
    });
}

#[test]
fn an_idle_connection_leaves_as_often_as_it_is_asked_to() {
    in_worker(async |worker| {
        let (mut client, _) = worker.connect();
        for name in ["one", "two", "three"] {
            client.write_all(get("/healthz", name).as_bytes()).await.unwrap();
            assert_answers(&answer(&mut client).await.0, name);
            let moved = worker.take().await;
            assert_eq!(moved.unread, b"");
            worker.admit(moved);
        }
    });
}

#[test]
fn requests_that_were_read_elsewhere_are_answered_in_order() {
    in_worker(async |worker| {
        let names: Vec<String> = (0..500).map(|n| format!("request-{n}")).collect();
        let unread: String = names.iter().map(|name| get("/healthz", name)).collect();
        let mut client = worker.connect_with(unread.as_bytes()).await;
        for name in &names {
            assert_answers(&answer(&mut client).await.0, name);
        }
    });
}

#[test]
fn a_websocket_takes_along_what_came_behind_its_request() {
    in_worker(async |worker| {
        let text = "x".repeat(20_000);
        let input = [UPGRADE.as_bytes(), &frame(&text)].concat();
        // What is behind the split comes from the socket, what is before it was read elsewhere.
        for (n, split) in [0, 100, UPGRADE.len(), UPGRADE.len() + 5, input.len()].into_iter().enumerate() {
            let mut client = worker.connect_with(&input[..split]).await;
            client.write_all(&input[split..]).await.unwrap();
            let head = head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 101"), "{head}");
            while worker.shared.hub.borrow().opened() <= n as u64 {
                yield_now().await;
            }
            assert_eq!(worker.shared.handshakes.len(), 0);
            worker.shared.hub.borrow_mut().turn().unwrap();
            let mut echo = vec![0; 4 + text.len()];
            client.read_exact(&mut echo).await.unwrap();
            assert_eq!((echo[0], &echo[4..]), (0x81, text.as_bytes()));
        }
    });
}

#[test]
fn who_does_not_take_an_answer_leaves_once_it_has() {
    in_worker(async |worker| {
        let (mut client, socket) = worker.connect();
        SockRef::from(&socket).set_send_buffer_size(4096).unwrap();
        let names: Vec<String> = (0..100).map(|n| format!("request-{n}")).collect();
        let requests: String = names.iter().map(|name| get("/test/page.js", name)).collect();
        client.write_all(requests.as_bytes()).await.unwrap();
        settle().await;
        let mut departures = worker.shared.take_http_connections();
        settle().await;
        assert_eq!(departures.try_recv().err(), Some(TryRecvError::Empty));
        let reader = spawn_local(async move {
            for name in &names {
                assert_answers(&answer(&mut client).await.0, name);
            }
        });
        let moved = departures.recv().await.unwrap();
        drop(departures);
        worker.admit(moved);
        reader.await.unwrap();
    });
}

#[test]
fn in_a_body_it_ends_after_the_answer() {
    in_worker(async |worker| {
        let request = "POST /status HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n";
        for sent in ["", "abc", "abcdefghij"] {
            let (mut client, socket) = worker.connect();
            client.write_all([request, sent].concat().as_bytes()).await.unwrap();
            is_read(&socket).await;
            let mut departures = worker.shared.take_http_connections();
            let (head, _) = answer(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 405"), "{head}");
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(departures.try_recv().err(), Some(TryRecvError::Empty));
        }
    });
}

#[test]
fn browsers_of_developers_are_sent_to_the_test_page() {
    in_worker(async |worker| {
        let (mut client, _) = worker.connect();
        let browser = "GET / HTTP/1.1\r\nHost: test\r\nAccept: text/html,*/*;q=0.8\r\n\r\n";
        client.write_all(browser.as_bytes()).await.unwrap();
        assert!(answer(&mut client).await.0.starts_with("HTTP/1.1 200"));
        worker.shared.hub.borrow_mut().settings.debug = true;
        client.write_all(browser.as_bytes()).await.unwrap();
        let (head, _) = answer(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 307") && head.contains("location: /test/\r\n"), "{head}");
        client.write_all(get("/", "probe").as_bytes()).await.unwrap();
        assert_answers(&answer(&mut client).await.0, "probe");
    });
}

#[test]
fn without_anybody_who_takes_them_connections_stay() {
    in_worker(async |worker| {
        let (mut client, _) = worker.connect();
        drop(worker.shared.take_http_connections());
        settle().await;
        client.write_all(get("/healthz", "one").as_bytes()).await.unwrap();
        assert_answers(&answer(&mut client).await.0, "one");
    });
}

#[test]
fn a_tcp_connection_goes_on_too() {
    in_worker(async |worker| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let request = get("/healthz", "one");
        let (read, unread) = request.split_at(20);
        admit_moved(&worker.shared, socket.into_std().unwrap().into(), read.as_bytes().to_vec()).unwrap();
        let moved = worker.take().await;
        assert_eq!(moved.unread, read.as_bytes());
        worker.admit(moved);
        client.write_all(unread.as_bytes()).await.unwrap();
        assert_answers(&answer(&mut client).await.0, "one");
    });
}
