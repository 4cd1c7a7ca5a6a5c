//! Takeovers that an operator calls off while the canary is watched.

use std::process::Stdio;
use std::thread;

use baton_ipc::control::{ErrorCode, Output, Reply};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{SECOND, Succession, builder, crowd};
use crate::harness::service::{batonctl, promotion};
use crate::harness::{Oracle, Service, eventually, seed};

/// Waits until some clients are at the new generation and it watches them.
#[track_caller]
fn wait_watching(next: &Service) {
    next.wait_log("takeover: canary: ");
}

#[tokio::test]
async fn a_rollback_during_the_watch_gives_the_clients_back() {
    let generations = Succession::begin(builder());
    let oracle = Oracle::start(generations.serving.address, crowd(200), seed());
    oracle.answered(400).await;
    let mut next = generations.standby(|builder| builder);
    thread::scope(|scope| {
        let promote = scope.spawn(|| next.ctl(&["--json", "promote", "--canary", "30", "--watch", "10m"]));
        wait_watching(&next);
        // Of two generations the right one is found.
        let mut ctl = batonctl(next.dir(), &["--json", "rollback"]);
        let output = ctl.output().expect("batonctl runs");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let Ok(Reply::Done { output: Output::Text { message } }) = serde_json::from_str(&text) else {
            panic!("{text}")
        };
        assert!(message.contains("called off") && message.contains("connections went back"), "{message}");
        let answer = String::from_utf8(promote.join().expect("batonctl runs").stdout).expect("UTF-8");
        let last = serde_json::from_str(answer.lines().last().expect("an answer"));
        assert!(matches!(last, Ok(Reply::Error { code: ErrorCode::Failed, .. })), "{answer}");
    });
    assert!(next.wait(15 * SECOND).success());
    eventually("blue serves alone", || {
        Some(generations.serving.status()).filter(|status| status.phase == "running" && status.peer.is_none())
    });
    let counted = |outcome: &str| generations.serving.metric(&format!("takeovers_total{{outcome=\"{outcome}\"}}"));
    assert_eq!((counted("rolled_back"), counted("withdrawn")), (1.0, 0.0));
    oracle.answered(400).await;
    oracle.finish().assert_flawless();
}

#[tokio::test]
async fn ctrl_c_during_the_watch_gives_the_clients_back_and_says_so() {
    let generations = Succession::begin(builder());
    let oracle = Oracle::start(generations.serving.address, crowd(100), seed());
    oracle.answered(200).await;
    let canary = ["promote", "--canary", "30", "--watch", "10m"];
    let log = generations.serving.dir().join("log");
    for by_batonctl in [true, false] {
        let next = by_batonctl.then(|| generations.standby(|builder| builder));
        let mut command = match by_batonctl {
            true => batonctl(generations.serving.dir(), &canary),
            // Which starts the new generation itself.
            false => promotion(generations.serving.dir(), &[&canary[1..], &["--listen", "127.0.0.1:0"]].concat()),
        };
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        wait_watching(&generations.serving);
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).expect("it lives");
        let output = child.wait_with_output().expect("a child of ours");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(130), "{said}");
        assert!(said.contains("called off") && said.contains("serves as before"), "{said}");
        if let Some(mut next) = next {
            assert!(next.wait(15 * SECOND).success());
        }
        assert_eq!(generations.serving.status().phase, "running");
        // All generations log into the same file.
        std::fs::write(&log, "").expect("a file of ours");
    }
    oracle.answered(200).await;
    oracle.finish().assert_flawless();
}
