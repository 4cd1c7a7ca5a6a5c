//! Several that use one store, and a store that is taken away.

use std::fs;

use futures_util::future::join_all;

use super::{count_to, on};
use crate::harness::{Client, Service, eventually};

/// Counts of one session, from clients of several services at once.
async fn counts(services: &[&Service], session: &str, clients: usize, messages: usize) -> Vec<u64> {
    let one = async |service: &Service| {
        let mut client = Client::connect(&service.session_url(session)).await;
        let mut counts = Vec::new();
        for _ in 0..messages {
            client.send("x").await;
            counts.push(client.count().await);
        }
        assert!(counts.is_sorted(), "{counts:?}");
        counts
    };
    let mut all = join_all((0..clients).map(|n| one(services[n % services.len()]))).await.concat();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn two_generations_share_sessions() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let blue = on(dir.path()).start();
    count_to(&blue, "abc", 10).await;
    let green = on(dir.path()).with("--color", "green").start();
    green.wait_log("the store is in use, and is shared with those who use it");
    let together = counts(&[&blue, &green], "abc", 8, 100).await;
    assert_eq!(together, (11..=810).collect::<Vec<u64>>(), "each exactly once");

    // Who leaves does not take the store along, nor call it clean.
    assert_eq!(blue.stop().code(), Some(0));
    assert!(!dir.path().join("clean").exists());
    assert_eq!(green.count_one("abc").await, 811);
    let blue = on(dir.path()).start();
    blue.wait_log("the store is in use");
    assert_eq!(counts(&[&green, &blue], "abc", 4, 50).await, (812..=1011).collect::<Vec<u64>>());
    assert_eq!(green.stop().code(), Some(0));
    assert_eq!(blue.stop().code(), Some(0));
    assert!(dir.path().join("clean").exists(), "the last one says so");
}

#[tokio::test]
async fn generations_with_different_allowed_sizes_do_no_harm() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let large = on(dir.path()).with("--store-max-size", "1GiB").start();
    count_to(&large, "abc", 1).await;
    let small = on(dir.path()).with("--color", "green").with("--store-max-size", "64MiB").start();
    let larger = on(dir.path()).with("--color", "green").with("--store-max-size", "2GiB");
    assert_eq!(counts(&[&large, &small], "abc", 4, 50).await, (2..=201).collect::<Vec<u64>>());
    let pids = large.worker_pids();
    assert_eq!(small.stop().code(), Some(0));
    let larger = larger.start();
    assert_eq!(counts(&[&large, &larger], "abc", 4, 50).await, (202..=401).collect::<Vec<u64>>());
    assert_eq!(large.worker_pids(), pids);
}

#[tokio::test]
async fn a_store_that_is_taken_away_ends_nobody_and_is_not_made_anew() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for whole in [false, true] {
        let state = dir.path().join(format!("state-{whole}"));
        let service = on(&state).with("--checkpoint-interval", "1s").start();
        let pids = service.worker_pids();
        let mut client = Client::connect(&service.session_url("abc")).await;
        client.send("x").await;
        assert_eq!(client.count().await, 1);
        if whole {
            // At once, so that no checkpoint gets in between.
            fs::rename(&state, dir.path().join("elsewhere")).expect("a directory of ours");
        } else {
            for file in fs::read_dir(&state).expect("a directory") {
                // A checkpoint that is being written may have got its name meanwhile.
                let _ = fs::remove_file(file.expect("a file").path());
            }
        }
        for expected in 2..=10 {
            assert_eq!(service.count_one("abc").await, expected, "the workers have it still");
        }
        if whole {
            service.wait_log("the checkpoint failed");
        }
        assert_eq!(service.worker_pids(), pids);

        // A fresh worker must not begin at nothing beside those that go on.
        assert!(service.ctl(&["signal", "KILL", "0"]).status.success());
        let cause = eventually("the slot tells why", || {
            let slot = service.status().slots.swap_remove(0);
            slot.last_cause.filter(|cause| cause != "killed by SIGKILL")
        });
        assert!(cause.contains("data.mdb") || cause.contains("users.lock"), "{cause}");
        for expected in 11..=30 {
            assert_eq!(service.count_one("abc").await, expected);
        }
        assert!(!service.log().contains("panicked"));
        let status = service.stop();
        assert!(status.code().is_some(), "an end in order: {status}");
    }
}
