//! Somebody who may write to Redis publishes what no host would: no client is closed over it, and nothing else is missed.

use serde_json::json;

use super::heartbeat::{hear, listeners};
use super::host;
use crate::harness::{Redis, eventually};

const WORKERS: usize = 2;

/// Publishes a text behind the next number of the series. `ARGV`: what comes before, between and after 8 MiB.
const PUBLISH: &str = "local number = redis.call('INCR', KEYS[1])
                       return redis.call('PUBLISH', KEYS[2], number .. ' ' .. ARGV[1] .. string.rep('x', ARGV[2]) .. ARGV[3])";

#[tokio::test]
async fn what_no_host_publishes_reaches_nobody_and_closes_nobody() {
    let redis = Redis::start();
    let service = host().with("--workers", WORKERS).with("--heartbeat-interval", "1s").with_redis(&redis).start();
    let hosts = [service];
    let [service] = &hosts;
    let mut all = listeners(&hosts, 20).await;
    hear(&mut all, 1).await;
    let (number, channel) = ("baton:{bus}:number", "baton:{bus}:channel");
    let publish = |before: &str, repeated: usize, after: &str| {
        redis.ask(&["EVAL", PUBLISH, "2", number, channel, before, &repeated.to_string(), after]);
    };
    let rejected = |n: usize| {
        let all = (n * WORKERS) as f64;
        eventually("rejected by every worker", || (service.metric("backplane_rejected_total") == all).then_some(()));
    };

    // The text is too long for a client, and longer than what a worker reads at all.
    publish(r#"{"broadcast":{"from":1,"text":""#, 8 << 20, r#""}}"#);
    rejected(1);
    publish(r#"{"broadcast":{"from":1,"text":""#, 300 << 10, r#""}}"#);
    rejected(2);
    publish(r#"{"room":{"text":"x","room":""#, 1 << 20, r#""}}"#);
    publish(r#"{"lease":""#, 1 << 20, r#""}"#);
    publish(r#"{"disconnect":{"from":1,"session":"../"#, 1, r#""}}"#);
    publish(r#"{"beat":18446744073709551615}"#, 0, "");
    publish("{", 3, "");
    redis.ask(&["PUBLISH", channel, "9999999999999999999999 {}"]);
    redis.ask(&["PUBLISH", channel, "no number"]);
    rejected(9);
    let line = service.wait_log("publications were not delivered");
    assert_eq!((&line["event"], &line["reason"]), (&"publication_rejected".into(), &"too_large".into()), "{line}");
    assert!(line["bytes"].as_u64() > Some(8 << 20), "{line}");

    // A number that is far ahead is no gap of so many messages.
    redis.ask(&["PUBLISH", channel, "9223372036854775807 {}"]);
    let notice = json!({ "notice": "still there" });
    assert!(service.ctl(&["broadcast", &notice.to_string()]).status.success());
    for listener in &mut all {
        listener.listen_for(&notice).await;
        assert_eq!(listener.notices, std::slice::from_ref(&notice));
    }
    hear(&mut all, 2).await;
    assert_eq!(service.connections().len(), all.len());
    assert_eq!(service.metric("backplane_gaps_total"), 0.0);
    assert_eq!(service.metric("backplane_resubscriptions_total"), 0.0);
}

#[tokio::test]
async fn a_count_that_somebody_has_put_up_is_no_count() {
    let redis = Redis::start();
    let service = host().with_redis(&redis).start();
    assert_eq!(service.count_one("odd").await, 1);
    let keys = redis.ask(&["EVAL", "return redis.call('KEYS', '*:s:odd')[1]", "0"]);
    // 2^53, and the last that an INCRBY leads to.
    for count in ["9007199254740992", "9223372036854775806"] {
        redis.ask(&["SET", keys.trim(), count]);
        super::assert_put_off(&service, "odd").await;
    }
    assert_eq!(service.count_one("other").await, 1);
    service.wait_all_serve();
}
