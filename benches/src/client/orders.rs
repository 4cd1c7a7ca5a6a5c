//! What whoever started the client says on its stdin while a run goes on.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use nix::unistd::read;

/// One line of stdin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// What is due from now on has a figure of its own.
    Mark,
    /// What is due from now on has not.
    Unmark,
    /// Nothing more is begun; what is under way is waited for.
    Stop,
}

impl Order {
    /// The line that gives it.
    pub fn word(self) -> &'static str {
        match self {
            Order::Mark => "mark",
            Order::Unmark => "unmark",
            Order::Stop => "stop",
        }
    }

    fn of(line: &[u8]) -> io::Result<Order> {
        let known = [Order::Mark, Order::Unmark, Order::Stop].into_iter().find(|order| order.word().as_bytes() == line);
        known.ok_or_else(|| {
            io::Error::new(ErrorKind::InvalidInput, format!("no order: {:?}", String::from_utf8_lossy(line)))
        })
    }
}

/// Stdin, which is read only when something is there: the run goes on meanwhile. Nothing else may read it before, since
/// that could take more than its own line.
#[derive(Debug)]
pub struct Orders {
    stdin: io::Stdin,
    unread: Vec<u8>,
}

impl Orders {
    /// Says `ready`, and begins to listen.
    pub fn ready() -> Orders {
        println!("ready");
        Orders::listening()
    }

    /// Begins to listen.
    pub fn listening() -> Orders {
        Orders { stdin: io::stdin(), unread: Vec::new() }
    }

    /// What has come, after a poll that says that something has. The end of stdin is an order to stop.
    ///
    /// # Errors
    /// Those of stdin, and a line that is no order.
    pub fn hear(&mut self) -> io::Result<Vec<Order>> {
        let mut chunk = [0; 256];
        let received = read(&self.stdin, &mut chunk)?;
        if received == 0 {
            return Ok(vec![Order::Stop]);
        }
        self.unread.extend_from_slice(&chunk[..received]);
        let mut orders = Vec::new();
        while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
            orders.push(Order::of(&self.unread[..end])?);
            self.unread.drain(..=end);
        }
        Ok(orders)
    }
}

impl AsFd for Orders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stdin.as_fd()
    }
}
