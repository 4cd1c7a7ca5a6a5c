//! One generation takes over from another under systemd, and no client notices.

use std::time::Duration;

use super::knocking::{Knocking, everybody_is_served};
use super::{CONFIGURATION, SETTINGS, clients, count, kept, serving};
use crate::harness::machine::ADDRESS;
use crate::harness::oracle::Crowd;
use crate::harness::{Client, Machine, Oracle, eventually, is_root, seed};

const BEATING: &str = "workers = 2\nheartbeat-interval = \"1s\"\n";

/// So many of all characters.
fn crowd() -> Crowd {
    Crowd { gap: Duration::from_millis(250), ..Crowd::of(200, Duration::from_secs(1)) }
}

#[track_caller]
fn enabled(machine: &Machine, color: &str) -> bool {
    machine.run(&format!("systemctl is-enabled --quiet baton@{color}")).status.success()
}

#[tokio::test]
async fn the_other_color_is_promoted_and_comes_up_after_the_next_boot() {
    if !is_root() {
        return;
    }
    let machine = serving(BEATING);
    let oracle = Oracle::start(ADDRESS, crowd(), seed());
    oracle.answered(500).await;
    let session = {
        let mut one = clients(1).await.remove(0);
        count(std::slice::from_mut(&mut one), 2).await;
        one.session()
    };
    let said = machine.ok("baton promote");
    assert!(
        said.contains("baton@green.service is enabled for the next boot, in place of baton@blue.service"),
        "{said}"
    );
    machine.await_property("baton@blue", "ActiveState", |state| state == "inactive");
    assert_eq!(machine.property("baton@blue", "Result"), "success");
    oracle.answered(500).await;
    assert!(enabled(&machine, "green") && !enabled(&machine, "blue"));
    // Each socket is kept by the unit of those who serve, and by nobody else.
    kept(&machine, "green", 2);
    kept(&machine, "blue", 0);
    // And back, with more workers.
    std::fs::write(machine.path(CONFIGURATION), BEATING.replace('2', "3")).expect("a file of the machine");
    machine.ok("baton promote");
    machine.await_property("baton@green", "ActiveState", |state| state == "inactive");
    oracle.answered(500).await;
    machine.ok("baton promote --keep-old");
    oracle.answered(500).await;
    // It may have to serve again.
    kept(&machine, "blue", 3);
    machine.ok("batonctl --color blue shutdown");
    machine.await_property("baton@blue", "ActiveState", |state| state == "inactive");
    kept(&machine, "green", 3);
    everybody_is_served();
    let report = oracle.finish();
    eprint!("{report}");
    report.assert_flawless();
    machine.reboot();
    eventually("green serves after the boot", || machine.served_by().filter(|status| status["color"] == "green"));
    assert_eq!(machine.property("baton@blue", "ActiveState"), "inactive");
    let mut back = [Client::connect(&format!("{}?session_uuid={session}", super::URL)).await];
    count(&mut back, 3).await;
}

#[tokio::test]
async fn a_promotion_that_fails_leaves_everything_as_it_was() {
    if !is_root() {
        return;
    }
    let machine = serving(SETTINGS);
    let mut clients = clients(10).await;
    // Its workers could not share the store.
    std::fs::write(machine.path(CONFIGURATION), format!("{SETTINGS}max-connections = 1\n")).expect("a file");
    let failed = machine.run("baton promote");
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success() && said.contains("blue") && said.contains("serves, as before"), "{said}");
    machine.await_property("baton@green", "ActiveState", |state| state == "inactive" || state == "failed");
    kept(&machine, "blue", 2);
    kept(&machine, "green", 0);
    assert!(enabled(&machine, "blue") && !enabled(&machine, "green"));
    count(&mut clients, 2).await;
    everybody_is_served();
}

#[tokio::test]
async fn a_promoted_generation_that_is_killed_gets_its_sockets_back() {
    if !is_root() {
        return;
    }
    let machine = serving(SETTINGS);
    machine.ok("baton promote");
    let knocking = Knocking::begin();
    machine.ok("systemctl kill --kill-whom=main --signal=KILL baton@green");
    knocking.served_by_another();
    assert_eq!(knocking.end(), [] as [String; 0]);
    everybody_is_served();
    assert_eq!(machine.property("baton@blue", "ActiveState"), "inactive");
}

#[tokio::test]
async fn an_upgrade_is_followed_by_systemd() {
    if !is_root() {
        return;
    }
    let machine = serving(BEATING);
    let oracle = Oracle::start(ADDRESS, crowd(), seed());
    oracle.answered(500).await;
    let first = machine.main_pid("blue");
    machine.ok("batonctl upgrade");
    let second = machine.await_property("baton@blue", "MainPID", |pid| pid != first.to_string());
    oracle.answered(500).await;
    // By signal, to whom systemd takes for the main process.
    machine.ok("systemctl kill --kill-whom=main --signal=USR2 baton@blue");
    let third = machine.await_property("baton@blue", "MainPID", |pid| pid != second);
    oracle.answered(500).await;
    let report = oracle.finish();
    eprint!("{report}");
    report.assert_flawless();
    assert_eq!(machine.property("baton@blue", "ActiveState"), "active");
    let refused = "reception only permitted";
    let said = machine.ok("journalctl --no-pager --output=cat");
    assert!(!said.contains(refused), "everybody speaks when it is heard: {said}");
    // It is watched like the one that systemd has started.
    let knocking = Knocking::begin();
    machine.ok("systemctl kill --kill-whom=main --signal=KILL baton@blue");
    knocking.served_by_another();
    assert_eq!(knocking.end(), [] as [String; 0]);
    machine.await_property("baton@blue", "MainPID", |pid| pid != "0" && pid != third);
    machine.await_property("baton@blue", "ActiveState", |state| state == "active");
    assert_eq!(machine.property("baton@blue", "NRestarts"), "1");
    everybody_is_served();
}

#[tokio::test]
async fn a_stale_standby_is_started_anew_and_a_rollback_enables_who_serves() {
    if !is_root() {
        return;
    }
    let machine = serving(SETTINGS);
    let mut clients = clients(10).await;
    machine.ok("systemctl start baton@green");
    let stale = machine.main_pid("green");
    std::fs::write(machine.path(CONFIGURATION), SETTINGS.replace('2', "3")).expect("a file of the machine");
    let said = machine.ok("baton promote --keep-old");
    assert!(said.contains("green stands by already, but has other settings"), "{said}");
    assert_ne!(machine.main_pid("green"), stale);
    assert!(said.contains(", /usr/bin/baton"), "it says which file serves: {said}");
    assert!(enabled(&machine, "green") && !enabled(&machine, "blue"));
    let said = machine.ok("batonctl rollback");
    assert!(
        said.contains("baton@blue.service is enabled for the next boot, in place of baton@green.service"),
        "{said}"
    );
    machine.ok("batonctl status");
    assert!(enabled(&machine, "blue") && !enabled(&machine, "green"));
    machine.await_property("baton@green", "ActiveState", |state| state == "inactive");
    count(&mut clients, 2).await;
    everybody_is_served();
}
