//! systemd holds the listening sockets, and starts the service for the first client.

use std::net::SocketAddr;

use super::knocking::{Knocking, everybody_is_served};
use super::{SETTINGS, clients, count, farewell};
use crate::harness::machine::{ADDRESS, Image};
use crate::harness::{http, is_root};

const DROP_IN: &str = "/etc/systemd/system/baton@.service.d/socket-activation.conf";

/// A machine on which the first client starts the service.
fn image() -> Image {
    Image::with_baton(SETTINGS).file(DROP_IN, include_str!("../../../systemd/socket-activation.conf"))
}

#[tokio::test]
async fn the_first_client_starts_the_service_and_it_can_be_promoted() {
    if !is_root() {
        return;
    }
    let machine = image().boot();
    machine.ok("systemctl enable --quiet --now baton.socket");
    assert_eq!(machine.property("baton@blue", "ActiveState"), "inactive");
    let mut those = clients(10).await;
    machine.await_property("baton@blue", "ActiveState", |state| state == "active");
    everybody_is_served();
    let status = machine.status("blue").expect("it answers");
    assert!(status.slots.iter().all(|slot| slot.pid.is_some()) && status.slots.len() == 2, "{status:?}");
    machine.ok("batonctl scale 3");
    machine.ok("baton promote");
    machine.await_property("baton@blue", "ActiveState", |state| state == "inactive");
    count(&mut those, 2).await;
    everybody_is_served();
    let knocking = Knocking::begin();
    let goodbye = tokio::spawn(farewell(those, 2));
    machine.ok("systemctl kill --kill-whom=main --signal=KILL baton@green");
    goodbye.await.expect("everybody is told");
    knocking.served_by_another();
    assert_eq!(knocking.end(), [] as [String; 0]);
    assert_eq!(machine.property("baton@blue", "ActiveState"), "inactive", "green comes back, and not the first one");
    machine.ok("systemctl stop baton@green");
    // Whom the unit names.
    assert_eq!(http::get(ADDRESS, "/healthz").expect("an answer").status, 200);
    machine.await_property("baton@blue", "ActiveState", |state| state == "active");
}

#[test]
fn a_port_below_1024_is_shared_by_all_slots_and_by_those_that_come_later() {
    if !is_root() {
        return;
    }
    let socket = "[Socket]\nListenStream=\nListenStream=0.0.0.0:80\n";
    let settings = format!("{SETTINGS}listen = \"0.0.0.0:80\"\n");
    let machine = Image::with_baton(&settings)
        .file(DROP_IN, include_str!("../../../systemd/socket-activation.conf"))
        .file("/etc/systemd/system/baton.socket.d/test.conf", socket)
        .boot();
    machine.ok("systemctl enable --quiet --now baton.socket");
    machine.ok("systemctl start baton@blue");
    machine.ok("batonctl scale 4");
    let status = machine.status("blue").expect("it answers");
    assert!(status.slots.iter().all(|slot| slot.pid.is_some()) && status.slots.len() == 4, "{status:?}");
    let ready = http::get(SocketAddr::new(ADDRESS.ip(), 80), "/readyz").expect("an answer");
    assert_eq!(ready.status, 200, "{ready:?}");
}

#[test]
fn a_socket_that_is_not_the_configured_one_is_refused_by_name() {
    if !is_root() {
        return;
    }
    let socket = "[Socket]\nListenStream=\nListenStream=0.0.0.0:9000\n";
    let machine = image().file("/etc/systemd/system/baton.socket.d/test.conf", socket).boot();
    assert!(!machine.run("systemctl start baton@blue").status.success());
    let said = machine.ok("journalctl --no-pager --output=cat --unit=baton@blue");
    for word in ["descriptor baton", "0.0.0.0:9000", "0.0.0.0:8000", "make them the same"] {
        assert!(said.contains(word), "{said}");
    }
}
