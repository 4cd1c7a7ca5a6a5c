//! How takeovers end is counted, once each, by whoever sees it, and the numbers go on in the next generation.

use std::fs;

use nix::sys::signal::{Signal, kill};

use super::builder;
use crate::harness::procfs::{is_alive, is_stopped};
use crate::harness::service::Builder;
use crate::harness::{Client, SOON, Service, eventually};

const OUTCOMES: [&str; 7] = ["completed", "failed", "rolled_back", "reverted", "refused", "withdrawn", "lost"];

/// What has been counted so far, in the order of [`OUTCOMES`].
fn counted(service: &Service) -> [f64; OUTCOMES.len()] {
    OUTCOMES.map(|outcome| service.metric(&format!("takeovers_total{{outcome=\"{outcome}\"}}")))
}

/// Waits until one more has ended like this, and nothing else was counted.
#[track_caller]
fn wait_for_one_more(service: &Service, outcome: &str, before: &mut [f64; OUTCOMES.len()]) {
    let index = OUTCOMES.iter().position(|it| *it == outcome).expect("an outcome");
    let now = eventually(outcome, || Some(counted(service)).filter(|now| now != before));
    before[index] += 1.0;
    assert_eq!(now, *before, "{OUTCOMES:?}");
}

fn green(builder: &Builder) -> Builder {
    builder.clone().with("--color", "green").with("--takeover", "wait")
}

/// Another generation, ready and not accepting.
#[track_caller]
fn standby(builder: Builder) -> Service {
    let next = builder.spawn();
    eventually("standby", || next.try_status().filter(|status| status.phase == "standby"));
    next
}

#[tokio::test]
async fn each_way_to_end_is_counted_once_and_the_counts_go_on() {
    let configuration = tempfile::NamedTempFile::new().expect("a file");
    let directory = tempfile::tempdir().expect("a directory");
    let trigger = directory.path().join("now");
    let builder = builder().env("BATON_CONFIG", configuration.path().display());
    let mut blue = builder.clone().with("--color", "blue").start();
    blue.wait_all_serve();
    let mut clients = Client::connect_several(6, &blue.url()).await;
    let fault = |point: &str| format!("{point}:SIGSTOP:{}", trigger.display());
    let mut count = counted(&blue);
    assert_eq!(count, [0.0; OUTCOMES.len()]);

    let (status, _) = green(&builder).state_dir(directory.path()).refused();
    assert!(!status.success());
    wait_for_one_more(&blue, "refused", &mut count);

    assert!(standby(green(&builder)).stop().success());
    wait_for_one_more(&blue, "withdrawn", &mut count);

    standby(green(&builder)).kill_all();
    wait_for_one_more(&blue, "lost", &mut count);

    fs::write(&trigger, "").expect("a file of ours");
    let stuck = green(&builder).env("FAULT_POINT", fault("worker not ready")).with("--start-timeout", "1s");
    assert!(!stuck.refused().0.success());
    wait_for_one_more(&blue, "failed", &mut count);

    let next = standby(green(&builder));
    kill(next.worker_in(1).expect("it is ready"), Signal::SIGSTOP).expect("it is there");
    assert!(!next.ctl(&["promote"]).status.success());
    wait_for_one_more(&blue, "failed", &mut count);
    drop(next);

    fs::write(configuration.path(), "no-such-setting = true").expect("a file of ours");
    assert_eq!(blue.ctl(&["upgrade"]).status.code(), Some(1));
    wait_for_one_more(&blue, "failed", &mut count);
    fs::write(configuration.path(), "").expect("a file of ours");

    fs::write(&trigger, "").expect("a file of ours");
    let mut next = standby(green(&builder).env("FAULT_POINT", fault("takeover switched")));
    std::thread::scope(|scope| {
        let promote = scope.spawn(|| next.ctl(&["promote"]));
        eventually("it stands still", || is_stopped(next.pid()).then_some(()));
        let worker = next.worker_pids()[0];
        kill(worker, Signal::SIGKILL).expect("it is there");
        // So that there is nobody at the other end of the lane that it should get.
        eventually("it is gone", || (!is_alive(worker)).then_some(()));
        next.signal(Signal::SIGCONT);
        assert!(!promote.join().expect("batonctl runs").status.success());
    });
    wait_for_one_more(&blue, "rolled_back", &mut count);
    assert!(!next.wait(SOON).success());

    let next = standby(green(&builder));
    assert!(next.ctl(&["promote", "--keep-old"]).status.success());
    wait_for_one_more(&next, "completed", &mut count);
    assert!(next.ctl(&["rollback"]).status.success());
    wait_for_one_more(&blue, "reverted", &mut count);
    drop(next);

    let next = standby(green(&builder));
    assert!(next.ctl(&["promote"]).status.success());
    assert!(blue.wait(SOON).success());
    wait_for_one_more(&next, "completed", &mut count);
    let fate = |fate: &str| next.metric(&format!("takeover_connections_total{{fate=\"{fate}\"}}"));
    assert_eq!(["handed_over", "drained", "dropped"].map(fate), [18.0, 0.0, 0.0]);
    let took = next.metric("takeover_seconds_total");
    assert!(took > 0.0 && took < 60.0, "{took}");
    super::talk(&mut clients).await;
}
