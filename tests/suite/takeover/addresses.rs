//! What an address has is counted over both generations.

use super::{Succession, assert_complete, promote};
use crate::addresses::{Connections, limited};
use crate::harness::eventually;

#[test]
fn connections_are_counted_while_they_pass_to_the_next_generation_and_back() {
    const LIMIT: usize = 12;
    let mut generations = Succession::begin(limited(LIMIT).with("--workers", 2));
    let mut clients = Connections::fill(generations.serving.address, LIMIT);
    let receipt = generations.advance(|builder| builder.with("--workers", 3));
    assert_complete(&receipt);
    assert_eq!(receipt.handed, LIMIT as u64);
    clients.assert_full();
    clients.leave(3);
    clients.refill();
    // To one that is kept, and back.
    let next = generations.standby(|builder| builder);
    assert_complete(&promote(&next, &["--keep-old"]));
    clients.assert_full();
    next.ask(&["rollback"]);
    drop(next);
    eventually("all are back", || (generations.serving.connections().len() == LIMIT).then_some(()));
    clients.assert_full();
    clients.leave(LIMIT);
    clients.refill();
}
