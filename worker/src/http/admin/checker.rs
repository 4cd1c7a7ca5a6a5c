//! Checks passwords one after the other, on a thread of its own beside the worker's: each takes some 30 ms of a core, and
//! 19 MiB until it is done.

use std::io;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

use super::waiting_room::{Guest, NoPlace, Place, WaitingRoom};
use crate::superusers::PasswordHash;

/// Enough for the hash function, which keeps a few blocks of 1 KiB on its stack.
const STACK: usize = 512 * 1024;

/// The thread, as the worker sees it. It ends when this is dropped.
pub(super) struct Checker {
    room: WaitingRoom,
    orders: mpsc::Sender<Order>,
}

/// One password.
struct Order {
    hash: Option<PasswordHash>,
    password: String,
    verdict: oneshot::Sender<io::Result<bool>>,
    /// Not given back before it is done, also if the client does not wait.
    place: Place,
}

impl Checker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has none to give.
    pub(super) fn start() -> io::Result<Checker> {
        let (orders, received) = mpsc::channel::<Order>();
        thread::Builder::new().name("passwords".to_owned()).stack_size(STACK).spawn(move || {
            for Order { hash, password, verdict, place } in received {
                // A client that is gone is not worth a core.
                if !verdict.is_closed() {
                    let _ = verdict.send(PasswordHash::verify(hash.as_ref(), &password));
                }
                drop(place);
            }
        })?;
        Ok(Checker { room: WaitingRoom::default(), orders })
    }

    /// Takes a place, without which there is no [`check`](Checker::check).
    pub(super) fn enter(&self, guest: Guest) -> Result<Place, NoPlace> {
        self.room.enter(guest)
    }

    /// Reports whether this is the password; it takes as long for a user that does not exist.
    ///
    /// # Errors
    /// It could not be checked.
    pub(super) async fn check(&self, place: Place, hash: Option<PasswordHash>, password: String) -> io::Result<bool> {
        let (verdict, checked) = oneshot::channel();
        let over = || io::Error::other("the thread that checks passwords is gone");
        self.orders.send(Order { hash, password, verdict, place }).map_err(|_| over())?;
        checked.await.unwrap_or_else(|_| Err(over()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::superusers::{Name, Password};

    #[tokio::test]
    async fn passwords_are_checked_and_places_given_back() {
        let checker = Checker::start().unwrap();
        let name: Name = "ada".parse().unwrap();
        let hash = Password::new("correct horse battery".to_owned(), &name).unwrap().hash();
        for (given, right) in [("correct horse battery", true), ("wrong", false), ("correct horse battery", true)] {
            // Two places each: the third would not be there.
            let place = checker.enter(Guest::Stranger(1)).unwrap();
            assert_eq!(checker.check(place, Some(hash.clone()), given.to_owned()).await.unwrap(), right);
        }
        let place = checker.enter(Guest::Stranger(1)).unwrap();
        assert!(!checker.check(place, None, String::new()).await.unwrap());
    }
}
