//! What the pages of operators ask of all workers, by way of the supervisor.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

use baton_ipc::messages::{Answer, FromWorker, Question};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Shared;
use crate::app::App;

/// The supervisor waits two seconds for a worker that does not answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Questions that wait for their answers.
#[derive(Debug, Default)]
pub(super) struct Inquiries {
    last: Cell<u64>,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Result<Answer, String>>>>,
}

impl Inquiries {
    /// An answer has come. Whoever does not wait any more does not need it.
    pub(super) fn hear(&self, id: u64, answer: Result<Answer, String>) {
        if let Some(asker) = self.waiting.borrow_mut().remove(&id) {
            let _ = asker.send(answer);
        }
    }
}

impl<A: App> Shared<A> {
    /// Asks all workers of this generation, and, where that is meant, the other hosts.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(crate) async fn ask_all(&self, question: Question) -> Result<Answer, String> {
        let id = self.inquiries.last.get() + 1;
        self.inquiries.last.set(id);
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.inquiries.waiting.borrow_mut();
            // Of clients that have left.
            waiting.retain(|_, asker| !asker.is_closed());
            waiting.insert(id, sender);
        }
        self.tell_supervisor(&FromWorker::Ask { id, question }).map_err(|error| error.to_string())?;
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err("the supervisor does not answer".to_owned()),
        }
    }
}
