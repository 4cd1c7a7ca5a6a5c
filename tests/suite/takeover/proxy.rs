//! With nginx in between, clients notice as little.

use super::{Succession, assert_complete, builder, crowd};
use crate::harness::nginx::Nginx;
use crate::harness::{Oracle, seed};

/// Different numbers of workers.
const WORKERS: [u32; 6] = [3, 1, 4, 2, 5, 2];

#[tokio::test]
async fn through_nginx_nobody_notices_either() {
    let mut generations = Succession::begin(builder());
    let nginx = Nginx::start(generations.serving.address);
    // All of them take part. Slow readers have nginx's buffers before them, which hold all that these leave unread.
    let oracle = Oracle::start(nginx.address, crowd(300), seed());
    oracle.opened(250).await;
    for workers in WORKERS {
        oracle.answered(500).await;
        let receipt = generations.advance(|builder| builder.with("--workers", workers));
        assert_complete(&receipt);
        assert!(receipt.handed > 200, "{receipt:?}");
    }
    oracle.answered(500).await;
    let report = oracle.finish();
    eprint!("{report}");
    report.assert_flawless();
    assert_eq!(generations.serving.metric("backplane_increments_total"), report.messages as f64);
}
