//! With nginx in between, clients notice as little.

use super::{Succession, builder, crowd};
use crate::harness::nginx::Site;
use crate::harness::{Oracle, seed};

#[tokio::test]
async fn through_nginx_nobody_notices_either() {
    let mut generations = Succession::begin(builder());
    let nginx = Site::of(generations.serving.address).without_limits().start();
    // All of them take part. Slow readers have nginx's buffers before them, which hold all that these leave unread.
    let oracle = Oracle::start(nginx.address, crowd(300), seed());
    generations.advance_often(&oracle).await;
    let report = oracle.finish();
    eprint!("{report}");
    report.assert_flawless();
    assert_eq!(generations.serving.metric("backplane_increments_total"), report.messages as f64);
}
