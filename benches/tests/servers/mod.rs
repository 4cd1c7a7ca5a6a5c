//! Servers for the load client: the floor and the others, and one that does what a test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use baton_benches::child::Running;
use baton_benches::client::Dial;
use baton_benches::frame::{self, Frame};
use baton_benches::handshake;

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn started(program: &str, arguments: &[&str]) -> (Running, SocketAddr) {
    let mut command = Command::new(program);
    command.arg("0").args(arguments);
    let mut server = Running::start(command, None).unwrap();
    let line = server.line(PATIENCE).unwrap();
    let address = line.strip_prefix("listening ").unwrap().parse().unwrap();
    (server, address)
}

/// A server that does after each handshake what `script` says.
pub(crate) fn scripted(script: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Dial {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let script = Arc::new(script);
    thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            let script = script.clone();
            thread::spawn(move || {
                let mut head = Vec::new();
                while handshake::head_end(&head).is_none() {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                stream.write_all(handshake::response(&head).unwrap().as_bytes()).unwrap();
                script(&mut stream);
            });
        }
    });
    Dial { server, source: None }
}

pub(crate) fn read_frame(stream: &mut TcpStream) -> Frame {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
        if let Some(frame) = Frame::parse(&bytes).unwrap() {
            return frame;
        }
    }
}

pub(crate) fn bare(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame::push_bare(&mut frame, opcode, payload);
    frame
}
