//! A worker is killed at each step of counting without Redis and of bringing it what was counted.

use std::fs;

use crate::harness::redis::Setup;
use crate::harness::runners::check_totals;
use crate::harness::{Runners, eventually, eventually_async};

use super::{host, wait_degraded, wait_whole};

/// The first worker that comes to this point dies there, as by SIGKILL.
async fn dies_at(point: &str) {
    let mut redis = Setup::new().durable().start();
    let builder = host().with_redis(&redis);
    let trigger = builder.dir().join("die");
    let service = builder.env("FAULT_POINT", format!("{point}:SIGKILL:{}", trigger.display())).start();
    fs::write(&trigger, "").expect("a directory of ours");
    let mut runners = Runners::none().through_outages();
    runners.go(service.address, (0..12).map(|n| format!("own-{n}")).chain((0..6).map(|_| "shared".to_owned())));
    runners.everyone_gets(10).await;
    redis.kill();
    wait_degraded(&service, "unreachable").await;
    let total = runners.book().total();
    eventually_async("those who are connected go on", async || (runners.book().total() > total + 500).then_some(()))
        .await;
    redis.restart();
    eventually(&format!("a death at {point:?}"), || (!trigger.exists()).then_some(()));
    eventually("the worker is replaced", || {
        let status = service.status();
        (status.slots.iter().map(|slot| slot.restarts).sum::<u64>() == 1).then_some(())
    });
    service.wait_all_serve();
    wait_whole(&service).await;
    runners.everyone_gets(10).await;
    runners.finish().await;
    {
        let book = runners.book();
        eprintln!("{} counts, {} lost, {} put off, {} repeated", book.total(), book.lost, book.refused, book.repeated);
        assert!(book.lost > 0, "the death was not felt");
    }
    check_totals(&service, &[&runners]).await;
    check_totals(&host().with_redis(&redis).start(), &[&runners]).await;
}

#[tokio::test]
async fn a_worker_dies_when_it_has_counted_without_redis() {
    dies_at("counted here").await;
}

#[tokio::test]
async fn a_worker_dies_when_it_has_kept_what_was_under_way() {
    dies_at("unit kept").await;
}

#[tokio::test]
async fn a_worker_dies_when_a_merge_is_planned_and_not_sent() {
    dies_at("merge planned").await;
}

#[tokio::test]
async fn a_worker_dies_when_a_merge_is_done_and_nothing_is_known_of_it() {
    dies_at("merge answered").await;
}

#[tokio::test]
async fn a_worker_dies_when_a_merge_is_settled_and_not_noted() {
    dies_at("merge settled").await;
}

#[tokio::test]
async fn a_worker_dies_when_a_merge_is_noted() {
    dies_at("merge noted").await;
}
