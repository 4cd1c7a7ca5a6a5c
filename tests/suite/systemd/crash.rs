//! A supervisor that is killed, or stands still.

use super::knocking::{Knocking, everybody_is_served};
use super::{SETTINGS, clients, count, farewell, kept, serving};
use crate::harness::machine::Image;
use crate::harness::{Client, is_root};

#[tokio::test]
async fn a_killed_supervisor_is_replaced_and_nobody_is_refused() {
    if !is_root() {
        return;
    }
    let machine = serving(SETTINGS);
    let clients = clients(10).await;
    let session = clients[0].session();
    let knocking = Knocking::begin();
    let goodbye = tokio::spawn(farewell(clients, 1));
    machine.ok("systemctl kill --kill-whom=main --signal=KILL baton@blue");
    goodbye.await.expect("everybody is told");
    knocking.served_by_another();
    assert_eq!(knocking.end(), [] as [String; 0]);
    machine.await_property("baton@blue", "ActiveState", |state| state == "active");
    assert_eq!(machine.property("baton@blue", "NRestarts"), "1");
    // One socket of each slot, the same ones as before.
    kept(&machine, "blue", 2);
    everybody_is_served();
    let mut back = [Client::connect(&format!("{}?session_uuid={session}", super::URL)).await];
    count(&mut back, 2).await;
}

#[tokio::test]
async fn sockets_of_more_slots_than_there_are_workers_are_served_after_a_crash() {
    if !is_root() {
        return;
    }
    let machine = serving(SETTINGS);
    machine.ok("batonctl scale 4");
    kept(&machine, "blue", 4);
    machine.ok("batonctl scale 3");
    everybody_is_served();
    let before = machine.main_pid("blue");
    let knocking = Knocking::begin();
    machine.ok("systemctl kill --kill-whom=main --signal=KILL baton@blue");
    knocking.served_by_another();
    assert_eq!(knocking.end(), [] as [String; 0]);
    machine.await_property("baton@blue", "MainPID", |pid| pid != "0" && pid != before.to_string());
    // Two workers now, as configured, and four queues.
    everybody_is_served();
}

#[tokio::test]
async fn a_supervisor_that_stands_still_is_replaced_by_the_watchdog() {
    if !is_root() {
        return;
    }
    let machine = Image::with_baton(SETTINGS)
        .file("/etc/systemd/system/baton@.service.d/test.conf", "[Service]\nWatchdogSec=2s\n")
        .boot();
    machine.ok("systemctl start baton@blue");
    let mut clients = clients(10).await;
    let knocking = Knocking::begin();
    machine.ok("systemctl kill --kill-whom=main --signal=STOP baton@blue");
    // Workers do not need it to serve.
    count(&mut clients, 2).await;
    farewell(clients, 2).await;
    knocking.served_by_another();
    assert_eq!(knocking.end(), [] as [String; 0]);
    machine.await_property("baton@blue", "ActiveState", |state| state == "active");
    assert_eq!(machine.property("baton@blue", "NRestarts"), "1");
    let said = machine.ok("journalctl --no-pager --output=cat --unit=baton@blue");
    assert!(said.contains("Watchdog timeout"), "{said}");
}
