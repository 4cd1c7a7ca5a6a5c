//! Probes of servers that do what a script says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Bytes, Message, WebSocket};

use super::*;

/// For servers that answer: they do at once, on however busy a machine.
const LONG: Duration = Duration::from_secs(20);

/// What a worker may do with a client.
#[derive(Clone, Copy, PartialEq)]
enum Script {
    Serve,
    WrongPong,
    WrongClose,
    Leave,
    CutAtOnce,
    Silence,
    Busy,
}

/// A worker's end of a connection, until the client leaves.
fn serve<S: Read + Write>(mut stream: S, script: Script) {
    match script {
        Script::CutAtOnce => return,
        Script::Silence => {
            let _ = stream.read_to_end(&mut Vec::new());
            return;
        }
        Script::Busy => {
            read_head(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        Script::Serve | Script::WrongPong | Script::WrongClose | Script::Leave => {}
    }
    let Ok(mut socket) = tungstenite::accept(stream) else { return };
    let _ = socket.send(Message::text("{\"ts\":\"a heartbeat\"}"));
    if script == Script::Leave {
        let _ = socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "".into() }));
    }
    if script == Script::WrongPong {
        let _ = socket.send(Message::Pong(Bytes::from_static(b"not yours")));
    }
    until_the_end(socket, script);
}

fn until_the_end<S: Read + Write>(mut socket: WebSocket<S>, script: Script) {
    while let Ok(message) = socket.read() {
        if script == Script::WrongClose && message.is_ping() {
            // Answers the ping, and then hangs up before the client does.
            let _ = socket.flush();
            let _ = socket.close(Some(CloseFrame { code: CloseCode::Error, reason: "".into() }));
        }
    }
}

/// The lines of a request's head, one byte at a time: what follows is not ours to take.
fn read_head<S: Read>(stream: &mut S) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Ok(_) | Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap()
}

/// A probe of two workers: slot 0, and slot 3, which keeps to the script.
fn probe_workers(script: Script, patience: Duration) -> Result<(), String> {
    let worker = |script| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // As a supervisor has its sockets.
        ours.set_nonblocking(true).unwrap();
        (thread::spawn(move || serve(theirs, script)), OwnedFd::from(ours))
    };
    let ((first, to_first), (second, to_second)) = (worker(Script::Serve), worker(script));
    let outcome = workers(vec![(0, to_first), (3, to_second)], Instant::now() + patience);
    first.join().unwrap();
    second.join().unwrap();
    outcome
}

#[test]
fn workers_that_answer_pass_and_others_are_named() {
    assert_eq!(probe_workers(Script::Serve, LONG), Ok(()));
    for (script, reason) in [
        (Script::WrongPong, "has answered a ping with another one's pong"),
        (Script::WrongClose, "has answered a close 1000 with 1011"),
        (Script::Leave, "has closed with 1001"),
        (Script::Busy, "has answered the WebSocket handshake with 503"),
    ] {
        assert_eq!(probe_workers(script, LONG), Err(format!("the new worker of slot 3 {reason}")));
    }
    let cut = probe_workers(Script::CutAtOnce, LONG).unwrap_err();
    assert!(cut.starts_with("the new worker of slot 3 "), "{cut}");
}

#[test]
fn silence_ends_with_the_time() {
    let silent = probe_workers(Script::Silence, Duration::from_millis(300)).unwrap_err();
    assert_eq!(silent, "the new worker of slot 3 has not answered in time");
}

/// The first line of a request, and the connection as if nothing had been read: `peek` leaves it all in place.
fn wants_status(stream: &TcpStream) -> bool {
    let mut bytes = [0; 11];
    let mut n = 0;
    while n < bytes.len() {
        match stream.peek(&mut bytes) {
            Ok(0) | Err(_) => return false,
            Ok(more) => n = more,
        }
    }
    bytes == *b"GET /status"
}

/// A service at an address of its own, whose `/status` says this.
fn service(status: u16, page: &'static str) -> Endpoint {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let address = Endpoint::Tcp(listener.local_addr().unwrap());
    // It ends with the process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if wants_status(&stream) {
                read_head(&mut stream);
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", page.len());
                let _ = stream.write_all(format!("{head}{page}").as_bytes());
            } else {
                serve(stream, Script::Serve);
            }
        }
    });
    address
}

#[test]
fn the_public_address_is_served_by_the_right_generation() {
    let probe = |address: &Endpoint| public(std::slice::from_ref(address), 12, Instant::now() + LONG);
    let address = service(200, "{\"supervisor_pid\":12,\"color\":\"green\"}");
    assert_eq!(probe(&address), Ok(()));
    for (status, page, reason) in [
        (200, "{\"supervisor_pid\":13}", "is served by the supervisor with pid 13 instead of 12"),
        (200, "{}", "is served by a version that does not tell its supervisor_pid in /status"),
        (503, "{\"supervisor_pid\":12}", "is answered with \"503\" instead of 200 by /status"),
    ] {
        let address = service(status, page);
        assert_eq!(probe(&address), Err(format!("a new connection to {address} {reason}")));
    }
    assert!(public(&[], 12, Instant::now() + LONG).is_err());
}

#[test]
fn who_is_not_there_or_says_nothing_fails() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let probe = |address, patience| public(&[address], 12, Instant::now() + patience).unwrap_err();
    assert!(probe(Endpoint::Tcp(gone), LONG).contains(" is not accepted: "));
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let said = probe(Endpoint::Tcp(deaf.local_addr().unwrap()), Duration::from_millis(300));
    assert!(said.ends_with(" has not answered in time"), "{said}");
}

#[test]
fn a_unix_socket_is_dialled_by_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("web.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let answered = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"supervisor_pid\":1}").unwrap();
        line
    });
    let said = public(&[Endpoint::Unix(path)], 2, Instant::now() + LONG).unwrap_err();
    assert!(said.ends_with("is served by the supervisor with pid 1 instead of 2"), "{said}");
    assert_eq!(answered.join().unwrap(), "GET /status HTTP/1.1\r\n");
}
