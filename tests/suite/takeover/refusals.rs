//! Takeovers that must not be, and leave everything as it was.

use std::fs;

use baton_ipc::channel::PROTOCOL_VERSION;
use nix::sys::signal::{Signal, kill};

use super::{Succession, builder, crowd, promote};
use crate::harness::oracle::{Character, Crowd};
use crate::harness::{Oracle, seed};

#[tokio::test]
async fn a_generation_with_too_few_descriptors_is_refused_in_preflight() {
    let generations = Succession::begin(builder().with("--workers", "2"));
    let idle = Crowd { cast: &[Character::Idler], ..crowd(200) };
    let oracle = Oracle::start(generations.serving.address, idle, seed());
    oracle.opened(200).await;
    // 64 are for what is no client, and half of so few others are for HTTP.
    let mut next = generations.standby(|builder| builder.descriptors(64 + 2 * 50));
    let output = next.ctl(&["promote"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("one may have 50"), "{said}");
    assert!(!next.wait(super::SECOND * 15).success());
    assert_eq!(generations.serving.status().phase, "running");
    oracle.finish().assert_flawless();
}

#[test]
fn a_successor_that_shares_something_else_is_refused_before_anything_is_touched() {
    let generations = Succession::begin(builder());
    let elsewhere = tempfile::tempdir().expect("a directory");
    let other = generations.builder.clone().state_dir(elsewhere.path()).with("--color", "green");
    let (status, said) = other.with("--takeover", "wait").refused();
    assert!(!status.success() && said.contains("counts would part"), "{said}");
    let status = generations.serving.status();
    assert!(status.phase == "running" && status.peer.is_none(), "{status:?}");
}

#[tokio::test]
async fn a_state_directory_that_was_replaced_under_the_service_is_refused_and_nobody_begins_at_1() {
    for whole in [true, false] {
        let dir = tempfile::tempdir().expect("a directory");
        let (state, elsewhere) = (dir.path().join("state"), dir.path().join("elsewhere"));
        let generations = Succession::begin(builder().state_dir(&state));
        assert_eq!(generations.serving.count_one("abc").await, 1);
        fs::rename(&state, &elsewhere).expect("a directory of ours");
        if !whole {
            // As if all that was in it was moved away.
            fs::create_dir(&state).expect("a directory");
        }
        let other = generations.builder.clone().with("--color", "green").with("--takeover", "wait");
        let (status, said) = other.refused();
        assert!(!status.success() && said.contains("counts would part: the store of embedded"), "{said}");
        assert!(said.contains("was replaced"), "{said}");
        let status = generations.serving.status();
        assert!(status.phase == "running" && status.peer.is_none(), "{status:?}");
        assert_eq!(generations.serving.count_one("abc").await, 2);
        fs::remove_dir_all(&state).expect("a directory of ours");
        fs::rename(&elsewhere, &state).expect("a directory of ours");
        // A reload in between forgets nothing.
        assert!(generations.serving.ctl(&["reload"]).status.success());
        let next = generations.standby(|builder| builder);
        promote(&next, &[]);
        assert_eq!(next.count_one("abc").await, 3);
    }
}

#[test]
fn another_version_of_the_protocol_is_refused_with_the_reason() {
    let generations = Succession::begin(builder());
    let other = generations.builder.clone().with("--color", "green").with("--takeover", "wait");
    for version in [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1] {
        let (status, said) = other.clone().env("FAULT_PROTOCOL_VERSION", version).refused();
        assert!(
            !status.success() && said.contains(&format!("speaks protocol version {PROTOCOL_VERSION}")),
            "{version}: {said}"
        );
        assert!(said.contains(&format!("this binary {version}")), "{said}");
    }
    assert!(generations.serving.status().peer.is_none());
}

#[test]
fn a_generation_may_allow_no_other() {
    let generations = Succession::begin(builder().with("--max-generations", "1"));
    let (status, said) = generations.builder.clone().with("--color", "green").with("--takeover", "wait").refused();
    assert!(!status.success() && said.contains("max-generations"), "{said}");
}

#[test]
fn a_second_promote_and_one_of_who_serves_are_refused() {
    let mut generations = Succession::begin(builder());
    let serving = generations.serving.ctl(&["promote"]);
    let said = String::from_utf8_lossy(&serving.stderr).into_owned();
    assert!(!serving.status.success() && said.contains("it serves already"), "{said}");
    let next = generations.standby(|builder| builder);
    let grow = generations.serving.ctl(&["scale", "9"]);
    let said = String::from_utf8_lossy(&grow.stderr).into_owned();
    assert!(!grow.status.success() && said.contains("there is another generation: green stands by"), "{said}");
    promote(&next, &[]);
    let again = next.ctl(&["promote"]);
    assert!(!again.status.success());
    let rollback = next.ctl(&["rollback"]);
    let said = String::from_utf8_lossy(&rollback.stderr).into_owned();
    assert!(!rollback.status.success() && said.contains("no old generation was kept"), "{said}");
    assert!(generations.serving.wait(super::SECOND * 15).success());
}

#[tokio::test]
async fn a_generation_that_never_gets_ready_gives_up_and_nobody_notices() {
    let generations = Succession::begin(builder());
    let oracle = Oracle::start(generations.serving.address, crowd(100), seed());
    let dir = tempfile::tempdir().expect("a directory");
    let trigger = dir.path().join("now");
    std::fs::write(&trigger, "").expect("a file");
    let next = generations.builder.clone().with("--color", "green").with("--takeover", "wait");
    let next = next.env("FAULT_POINT", format!("worker not ready:SIGSTOP:{}", trigger.display()));
    let (status, said) = next.with("--start-timeout", "1s").refused();
    assert!(!status.success() && said.contains("a worker did not come up"), "{said}");
    let status = generations.serving.status();
    assert!(status.phase == "running" && status.peer.is_none(), "{status:?}");
    oracle.answered(200).await;
    oracle.finish().assert_flawless();
}

#[tokio::test]
async fn a_generation_that_does_not_answer_is_found_out_in_preflight() {
    let generations = Succession::begin(builder());
    let oracle = Oracle::start(generations.serving.address, crowd(100), seed());
    let mut next = generations.standby(|builder| builder);
    let worker = next.worker_in(1).expect("it is ready");
    kill(worker, Signal::SIGSTOP).expect("it is there");
    let output = next.ctl(&["promote"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("serves as before"), "{said}");
    assert!(!next.wait(super::SECOND * 20).success());
    let status = generations.serving.status();
    assert!(status.phase == "running" && status.peer.is_none(), "{status:?}");
    oracle.answered(200).await;
    oracle.finish().assert_flawless();
}
