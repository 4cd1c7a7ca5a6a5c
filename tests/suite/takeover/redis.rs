//! With Redis as the backplane clients notice as little, be it there or not.

use super::{Succession, assert_complete, builder};
use crate::harness::oracle::{Character, Crowd, EVERYBODY};
use crate::harness::redis::Setup;
use crate::harness::{Oracle, Redis, Service, eventually, http, seed};

use Character::{Big, Burster, Dribbler, Fragmenter, Idler, Malformer, Pinger, SlowReader, Talker};

/// All but newcomers. Who comes with a session while Redis is away is closed, as another host may know more of it.
const THOSE_WHO_STAY: &[Character] =
    &[Talker, Talker, Talker, Burster, Fragmenter, Dribbler, Pinger, Malformer, SlowReader, Idler, Big];

fn crowd(cast: &'static [Character]) -> Crowd {
    Crowd { cast, ..super::crowd(300) }
}

/// A generation on which a busy machine is no reason to go on without Redis.
fn begin(redis: &Redis) -> Succession {
    Succession::begin(builder().with_redis(redis).with("--redis-timeout", "5s"))
}

/// Waits until every worker has Redis, and Redis has all that was counted; or until they have noticed that it is away.
#[track_caller]
fn wait_redis(service: &Service, is_there: bool) {
    eventually(if is_there { "redis is there" } else { "redis is away" }, || {
        let now = http::get(service.address, "/status").ok()?.json()["backplane"].take();
        let whole = !is_there || now["pending"] == 0;
        (now["ok"] == is_there && whole).then_some(())
    });
}

#[tokio::test]
async fn six_takeovers_with_redis_and_nobody_notices() {
    let redis = Redis::start();
    let mut generations = begin(&redis);
    let oracle = Oracle::start(generations.serving.address, crowd(EVERYBODY), seed());
    generations.advance_often(&oracle).await;
    let report = oracle.finish();
    eprint!("{report}");
    report.assert_flawless();
    assert_eq!(generations.serving.metric("backplane_increments_total"), report.messages as f64);
}

#[tokio::test]
async fn redis_is_killed_between_two_takeovers_and_comes_back_after_the_next() {
    let mut redis = Setup::new().durable().start();
    let mut generations = begin(&redis);
    let oracle = Oracle::start(generations.serving.address, crowd(THOSE_WHO_STAY), seed());
    oracle.opened(300).await;
    for away_in_the_next in [false, true] {
        oracle.answered(500).await;
        assert_complete(&generations.advance(|builder| builder));
        redis.kill();
        wait_redis(&generations.serving, false);
        oracle.answered(500).await;
        if away_in_the_next {
            assert_complete(&generations.advance(|builder| builder.with("--workers", 3)));
            oracle.answered(500).await;
        }
        redis.restart();
        wait_redis(&generations.serving, true);
    }
    oracle.answered(500).await;
    assert_complete(&generations.advance(|builder| builder));
    oracle.answered(500).await;
    let report = oracle.finish();
    eprint!("{report}");
    report.assert_flawless();
    assert_eq!(generations.serving.metric("backplane_increments_total"), report.messages as f64);
}
