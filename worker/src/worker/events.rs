//! What comes from the other hosts, and what goes there.

use std::rc::Rc;

use baton_ipc::control::Relayed;
use baton_ipc::messages::Question;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::tasks::{Tasks, broadcast};
use super::{Driver, Shared};
use crate::app::App;
use crate::backplane::{Announced, Event, Message};
use crate::batch::Publication;
use crate::metrics::Single;

/// Events that may wait while the worker does something else.
const WAITING: usize = 1024;

/// Lets the driver talk, and does what it tells.
pub(super) fn spawn<A: App>(shared: &Rc<Shared<A>>, driver: Driver, tasks: &mut Tasks) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let interval = shared.hub.borrow().settings.heartbeat_interval;
    tasks.add(spawn_local(driver.run(sender, interval)));
    tasks.add(spawn_local(take(shared.clone(), receiver)));
}

async fn take<A: App>(shared: Rc<Shared<A>>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Link(change) => {
                let mut hub = shared.hub.borrow_mut();
                hub.backplane.link(change.err().as_ref());
                hub.tell_health();
                drop(hub);
                shared.look_at_backplane();
                // What waits for Redis is brought there by the next turn.
                shared.settled.notify_one();
                shared.linked.notify_one();
            }
            Event::Settled(settlement) => {
                let mut hub = shared.hub.borrow_mut();
                hub.settled(settlement);
                shared.tell_if_emptied(&hub);
                // On a busy core the clients that were just answered, and Redis, go first: then the next commit has what
                // would otherwise take two.
                std::thread::yield_now();
                shared.settled.notify_one();
                shared.answered.notify_waiters();
            }
            Event::Missed(missed) => {
                tracing::warn!(missed, "published messages were missed");
                shared.hub.borrow().metrics.add(Single::Gaps, missed);
            }
            Event::Rejected(rejection) => shared.hub.borrow_mut().reject(rejection),
            Event::Heard(message) => hear(&shared, message),
        }
    }
}

/// What a generation has announced its own workers have done already.
fn hear<A: App>(shared: &Rc<Shared<A>>, message: Message) {
    let own = shared.hub.borrow().metrics.board().id();
    match message {
        Message::Room { room, text } => {
            let mut hub = shared.hub.borrow_mut();
            hub.deliver_to_room(&Publication { room, text });
            hub.finish_quietly();
        }
        Message::Broadcast { from, text } if from != own => {
            let shared = shared.clone();
            drop(spawn_local(async move { broadcast(&shared, &text).await }));
        }
        Message::Disconnect { from, session } if from != own => {
            shared.hub.borrow_mut().disconnect(&session);
        }
        Message::Beat(at) => drop(shared.beat.send_replace(at)),
        Message::Broadcast { .. } | Message::Disconnect { .. } | Message::Lease(_) => {}
    }
}

impl<A: App> Shared<A> {
    /// Passes on to the other hosts what is for them too. None: it is another worker's task.
    pub(super) fn relay(&self, question: Question) -> Option<Relayed> {
        let mut hub = self.hub.borrow_mut();
        let from = hub.metrics.board().id();
        let message = match question {
            Question::Broadcast { text, relay: true } => Message::Broadcast { from, text },
            Question::Disconnect { session, relay: true } => Message::Disconnect { from, session },
            // Who is alone can say so, whoever asks.
            Question::Broadcast { .. } | Question::Disconnect { .. } => {
                return hub.backplane.is_alone().then_some(Relayed::Alone);
            }
            Question::Connections { .. } | Question::Backplane | Question::Sessions { .. } => return None,
        };
        Some(match hub.backplane.announce(message) {
            Announced::Alone => Relayed::Alone,
            Announced::Sent => Relayed::Sent,
            Announced::Failed => Relayed::Failed,
        })
    }
}
