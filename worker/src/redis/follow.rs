//! Follows the sentinels while their master is in use. They name a new one long before the old one is told, and takes
//! no more writes.

use std::time::Duration;

use futures_util::future::select_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio::time::timeout;

use super::Failure;
use super::address::{Node, Place};
use super::connection::Connector;
use super::sentinel;
use super::subscription::Subscription;

/// How often they are asked without having said anything.
const PULSE: Duration = Duration::from_secs(1);

/// A connection to a sentinel, which stays.
struct Line {
    connection: MultiplexedConnection,
    /// What it publishes when the master is another one.
    switches: Subscription,
}

impl Connector {
    /// Puts into `named` whom most of the sentinels call the master, whenever that has changed; until nobody reads it. Of
    /// a Redis without sentinels nothing is said.
    pub(crate) async fn follow(&self, named: watch::Sender<Option<Node>>) {
        let Place::Sentinel { sentinels, master, .. } = &self.settings().address.place else { return };
        let mut lines: Vec<Option<Line>> = sentinels.iter().map(|_| None).collect();
        loop {
            let following = async {
                self.ask_all(sentinels, master, &mut lines, &named).await;
                timeout(PULSE, switch(&mut lines)).await.ok();
            };
            tokio::select! {
                () = following => {}
                () = named.closed() => return,
            }
        }
    }

    /// Asks all of them at once. Those that do not answer hold nobody up: more than half decide.
    async fn ask_all(
        &self,
        sentinels: &[Node],
        master: &str,
        lines: &mut [Option<Line>],
        named: &watch::Sender<Option<Node>>,
    ) {
        let asked = sentinels.iter().zip(lines).map(|(sentinel, line)| self.ask(sentinel, master, line));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut votes: Vec<Node> = Vec::with_capacity(sentinels.len());
        while let Some(answer) = asked.next().await {
            let Some(node) = answer else { continue };
            votes.push(node);
            if let Some(node) = majority(&votes, sentinels.len()) {
                named.send_if_modified(|before| {
                    let is_new = before.as_ref() != Some(node);
                    if is_new {
                        *before = Some(node.clone());
                    }
                    is_new
                });
            }
        }
    }

    /// Asks one over its line, which is made if there is none, and dropped if it fails.
    async fn ask(&self, sentinel: &Node, master: &str, line: &mut Option<Line>) -> Option<Node> {
        let asking = async {
            let mut open = match line.take() {
                Some(open) => open,
                None => self.open_line(sentinel).await?,
            };
            let node = sentinel::master_of(&mut open.connection, sentinel, master).await?;
            *line = Some(open);
            Ok::<Node, Failure>(node)
        };
        match timeout(self.limit(), asking).await {
            Ok(Ok(node)) => Some(node),
            Ok(Err(failure)) => {
                tracing::debug!(%sentinel, %failure, "a sentinel does not answer");
                None
            }
            Err(_) => None,
        }
    }

    async fn open_line(&self, sentinel: &Node) -> Result<Line, Failure> {
        let (connection, switches) = self.listen_to_sentinel(sentinel, "+switch-master").await?;
        Ok(Line { connection, switches })
    }
}

/// The node that more than half of so many sentinels have named.
fn majority(votes: &[Node], sentinels: usize) -> Option<&Node> {
    votes.iter().find(|node| votes.iter().filter(|other| other == node).count() > sentinels / 2)
}

/// Waits until any of them says that a master was replaced, or is gone.
async fn switch(lines: &mut [Option<Line>]) {
    let waits: Vec<_> = lines.iter_mut().flatten().map(|line| Box::pin(line.switches.next())).collect();
    if waits.is_empty() {
        return std::future::pending().await;
    }
    select_all(waits).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_half_of_all_sentinels_decide() {
        let node = |port| Node { host: "a".into(), port };
        assert_eq!(majority(&[node(1)], 3), None);
        assert_eq!(majority(&[node(1), node(2)], 3), None);
        assert_eq!(majority(&[node(1), node(2), node(1)], 3), Some(&node(1)));
        assert_eq!(majority(&[node(1), node(1)], 4), None, "of two and two nobody knows");
        assert_eq!(majority(&[node(1)], 1), Some(&node(1)));
        assert_eq!(majority(&[], 0), None);
    }
}
