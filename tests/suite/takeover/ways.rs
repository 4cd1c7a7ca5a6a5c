//! Ways to take over, and back.

use baton_ipc::control::Output;
use nix::sys::signal::{Signal, kill};

use super::{SECOND, Succession, assert_complete, builder, crowd, promote, wait_phase};
use crate::harness::service::batonctl;
use crate::harness::{Client, Oracle, eventually, http, seed};

#[tokio::test]
async fn a_canary_goes_first() {
    let generations = Succession::begin(builder());
    let oracle = Oracle::start(generations.serving.address, crowd(300), seed());
    oracle.answered(500).await;
    let next = generations.standby(|builder| builder);
    let receipt = promote(&next, &["--canary", "10", "--watch", "1s"]);
    assert_complete(&receipt);
    let step = |name: &str| receipt.steps.iter().find(|(step, _)| step.starts_with(name)).map(|(step, _)| step.clone());
    let canary = step("canary").unwrap_or_else(|| panic!("{receipt:?}"));
    let few: u64 = canary.split(' ').nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
    assert!((1..100).contains(&few), "{canary}");
    assert!(step("watch").is_some() && step("verify").is_some(), "{receipt:?}");
    oracle.answered(500).await;
    oracle.finish().assert_flawless();
}

#[tokio::test]
async fn the_old_generation_is_kept_and_takes_everything_back() {
    let mut generations = Succession::begin(builder());
    let oracle = Oracle::start(generations.serving.address, crowd(300), seed());
    oracle.answered(500).await;
    let mut next = generations.standby(|builder| builder);
    let receipt = promote(&next, &["--keep-old"]);
    assert!(receipt.kept);
    assert_complete(&receipt);
    oracle.answered(500).await;
    // Two are enough.
    let third = generations.builder.clone().with("--color", "blue").with("--takeover", "wait");
    let (status, said) = third.refused();
    assert!(!status.success() && said.contains("already"), "{said}");
    let Output::Takeover(receipt) = next.ask(&["rollback"]) else { panic!("no receipt") };
    assert!(receipt.handed > 100 && receipt.to.color == "blue", "{receipt:?}");
    // At any moment of its end: it is there and drains, is about to go, or is gone.
    let said = eventually("green is gone", || {
        let output = batonctl(next.dir(), &["status"]).output().expect("batonctl runs");
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8_lossy(&output.stdout).into_owned()).filter(|page| !page.contains("green  draining"))
    });
    assert!(said.starts_with("blue  running"), "{said}");
    assert!(next.wait(15 * SECOND).success());
    wait_phase(&generations.serving, "running");
    oracle.answered(500).await;
    // And once more.
    assert_complete(&generations.advance(|builder| builder));
    oracle.answered(500).await;
    oracle.finish().assert_flawless();
}

#[tokio::test]
async fn a_rollback_to_a_generation_that_stands_still_leaves_the_one_that_serves() {
    let generations = Succession::begin(builder());
    let oracle = Oracle::start(generations.serving.address, crowd(100), seed());
    oracle.answered(200).await;
    let mut next = generations.standby(|builder| builder);
    promote(&next, &["--keep-old"]);
    generations.serving.signal(Signal::SIGSTOP);
    let refused = next.ctl(&["rollback"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("serves on"), "{said}");
    oracle.answered(200).await;
    // It hears late what it was asked, and that it is kept all the same.
    generations.serving.signal(Signal::SIGCONT);
    wait_phase(&generations.serving, "standby");
    oracle.answered(200).await;
    let Output::Takeover(receipt) = next.ask(&["rollback"]) else { panic!("no receipt") };
    assert_complete(&receipt);
    assert!(next.wait(15 * SECOND).success());
    oracle.answered(200).await;
    oracle.finish().assert_flawless();
}

#[test]
fn a_standby_that_ends_takes_no_socket_file_with_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("web.sock");
    let mut generations = Succession::begin(builder().with("--listen", format!("unix:{}", path.display())));
    let next = generations.standby(|builder| builder);
    assert!(next.stop().success());
    std::os::unix::net::UnixStream::connect(&path).expect("the one that serves is there still");
    generations.advance(|builder| builder);
    std::os::unix::net::UnixStream::connect(&path).expect("and the next one");
    assert!(generations.serving.stop().success());
    assert!(!path.exists(), "the last one takes it along");
}

#[tokio::test]
async fn a_standby_serves_when_the_incumbent_is_gone() {
    let mut generations = Succession::begin(builder());
    let next = generations.standby(|builder| builder);
    generations.serving.kill_all();
    wait_phase(&next, "running");
    next.wait_ready();
    let mut client = Client::connect(&next.url()).await;
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
}

#[tokio::test]
async fn the_installed_binary_takes_over_in_place_of_the_running_one() {
    let mut generations = Succession::begin(builder());
    let oracle = Oracle::start(generations.serving.address, crowd(200), seed());
    oracle.answered(500).await;
    let address = generations.serving.address;
    let supervisor = || {
        let status = http::get(address, "/status").ok().filter(|answer| answer.status == 200)?;
        serde_json::from_str::<serde_json::Value>(&status.body).ok()?["supervisor_pid"].as_i64()
    };
    let first = i64::from(generations.serving.pid().as_raw());
    assert_eq!(supervisor(), Some(first));
    let Output::Text { message } = generations.serving.ask(&["upgrade"]) else { panic!("no text") };
    assert!(message.contains(&format!("in place of {first}")), "{message}");
    assert!(generations.serving.wait(15 * SECOND).success());
    let second = eventually("the new supervisor", || supervisor().filter(|pid| *pid != first));
    oracle.answered(500).await;
    // By signal, and the name of the control socket is its own by now.
    kill(nix::unistd::Pid::from_raw(second as i32), Signal::SIGUSR2).expect("it runs");
    let third = eventually("the next supervisor", || supervisor().filter(|pid| *pid != second));
    eventually("it answers by the usual name", || {
        let status = generations.serving.try_status()?;
        (i64::from(status.pid) == third && status.phase == "running").then_some(())
    });
    oracle.answered(500).await;
    oracle.finish().assert_flawless();
    // It is nobody's child any more: it has to be ended by hand.
    assert!(generations.serving.ctl(&["shutdown"]).status.success());
}
