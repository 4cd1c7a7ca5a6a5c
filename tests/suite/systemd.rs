//! The units, on machines of their own that systemd has booted.

mod crash;
mod knocking;
mod socket;
mod takeover;

use std::time::{Duration, Instant};

use crate::harness::client::{Raw, heartbeat};
use crate::harness::machine::{ADDRESS, Image};
use crate::harness::{Client, Machine, http, is_root};

/// No heartbeat disturbs.
const SETTINGS: &str = "workers = 2\nheartbeat-interval = \"1h\"\n";

const CONFIGURATION: &str = "/etc/baton/baton.toml";

const URL: &str = "ws://127.0.0.1:8000/ws/chat/";

/// A machine on which blue serves, now and after the next boot.
#[track_caller]
fn serving(settings: &str) -> Machine {
    let machine = Image::with_baton(settings).boot();
    machine.ok("systemctl enable --quiet --now baton@blue");
    machine
}

/// Clients that have each counted one message.
async fn clients(n: usize) -> Vec<Client> {
    let mut clients = Client::connect_several(n, URL).await;
    count(&mut clients, 1).await;
    clients
}

/// Another message of each, whose count must be this.
async fn count(clients: &mut [Client], expected: u64) {
    for client in clients {
        client.send("hello").await;
        let mut answer = client.json().await;
        while heartbeat(&answer).is_some() {
            answer = client.json().await;
        }
        assert_eq!(answer["count"], expected, "{answer}");
    }
}

/// Waits until systemd keeps so many sockets for a color: it takes notifications in its own time.
#[track_caller]
fn kept(machine: &Machine, color: &str, sockets: u32) {
    let wanted = sockets.to_string();
    machine.await_property(&format!("baton@{color}"), "NFileDescriptorStore", |kept| kept == wanted);
}

/// Each is told goodbye, with its total, and to come back.
async fn farewell(clients: Vec<Client>, total: u64) {
    for mut client in clients {
        let bye = client.answer().await;
        assert_eq!((&bye["bye"], &bye["total"]), (&true.into(), &total.into()), "{bye}");
        let close = client.close().await.expect("a close with a code");
        assert_eq!(u16::from(close.code), 1001);
        assert!(close.reason.starts_with("retry_ms="), "{close:?}");
    }
}

#[tokio::test]
async fn a_start_is_over_when_all_serve_and_a_stop_within_ten_seconds_when_all_are_told() {
    if !is_root() {
        return;
    }
    let machine = serving(SETTINGS);
    let ready = http::get(ADDRESS, "/readyz").expect("it listens as soon as the start is over");
    assert_eq!(ready.status, 200, "{ready:?}");
    let serving = |text: &str| text == "2/2 workers serving";
    machine.await_property("baton@blue", "StatusText", serving);
    assert_eq!(machine.property("baton@blue", "User"), "baton");
    let clients = clients(20).await;
    // And one that does not answer the close.
    let deaf = Raw::connect(ADDRESS, "/ws/chat/", b"").await;
    let begun = Instant::now();
    // Whichever color it is.
    machine.ok("systemctl --no-block stop baton.target");
    farewell(clients, 1).await;
    machine.await_property("baton@blue", "ActiveState", |state| state == "inactive");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(machine.property("baton@blue", "Result"), "success");
    drop(deaf);
    machine.ok("systemctl start baton.target");
    machine.await_property("baton@blue", "ActiveState", |state| state == "active");
}

#[test]
fn a_start_fails_with_the_reason_when_the_configuration_is_wrong() {
    if !is_root() {
        return;
    }
    let machine = Image::with_baton("wrokers = 2\n").boot();
    let begun = Instant::now();
    let failed = machine.run("systemctl start baton@blue");
    assert!(!failed.status.success());
    assert_eq!(machine.property("baton@blue", "ExecMainStatus"), "64");
    assert_eq!(machine.property("baton@blue", "SubState"), "failed", "no restart: it would not get better by itself");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    let said = machine.ok("journalctl --no-pager --output=cat --unit=baton@blue");
    assert!(said.contains("wrokers") && said.contains("workers"), "{said}");
}

#[tokio::test]
async fn a_wrong_configuration_fails_the_reload_and_the_service_goes_on() {
    if !is_root() {
        return;
    }
    let machine = serving(SETTINGS);
    let mut clients = clients(10).await;
    let (supervisor, workers) = (machine.main_pid("blue"), pids(&machine));
    for wrong in ["workers = 0\n", "listen = \"0.0.0.0:9000\"\n"] {
        std::fs::write(machine.path(CONFIGURATION), wrong).expect("a file of the machine");
        let failed = machine.run("systemctl reload baton@blue");
        assert!(!failed.status.success(), "{wrong}");
        assert_eq!(machine.property("baton@blue", "ActiveState"), "active");
    }
    let said = machine.ok("journalctl --no-pager --output=cat --unit=baton@blue");
    for reason in ["workers", "listen cannot change while the service runs"] {
        assert!(said.contains(reason), "{said}");
    }
    count(&mut clients, 2).await;
    assert_eq!(pids(&machine), workers, "nobody was replaced");
    std::fs::write(machine.path(CONFIGURATION), SETTINGS.replace('2', "3")).expect("a file of the machine");
    machine.ok("systemctl reload baton@blue");
    let reloaded = pids(&machine);
    assert_eq!(reloaded.len(), 3, "when it returns all is done");
    assert!(workers.iter().all(|pid| !reloaded.contains(pid)));
    assert_eq!(machine.main_pid("blue"), supervisor);
    count(&mut clients, 3).await;
}

/// Of blue's workers.
#[track_caller]
fn pids(machine: &Machine) -> Vec<Option<u32>> {
    machine.status("blue").expect("it answers").slots.iter().map(|slot| slot.pid).collect()
}

#[tokio::test]
async fn the_journal_has_every_field_of_the_log() {
    if !is_root() {
        return;
    }
    let machine = serving(SETTINGS);
    drop(clients(1).await);
    let entries = machine.journal("baton@blue");
    let lines: Vec<serde_json::Value> = entries
        .iter()
        .filter(|entry| entry["SYSLOG_IDENTIFIER"] == "baton-blue")
        .map(|entry| serde_json::from_str(entry["MESSAGE"].as_str().expect("text")).expect("JSON"))
        .collect();
    let listening = lines.iter().find(|line| line["message"] == "listening").expect("a line of the supervisor");
    assert_eq!((&listening["address"], &listening["color"]), (&"0.0.0.0:8000".into(), &"blue".into()));
    for field in ["timestamp", "level", "logger", "pid"] {
        assert!(lines.iter().all(|line| !line[field].is_null()), "{field}: {lines:?}");
    }
    assert!(lines.iter().any(|line| !line["worker"].is_null()), "workers log there too: {lines:?}");
}

#[tokio::test]
async fn a_restart_refuses_nobody_also_with_another_address() {
    if !is_root() {
        return;
    }
    let machine = serving(SETTINGS);
    let clients = clients(10).await;
    let knocking = knocking::Knocking::begin();
    let goodbye = tokio::spawn(farewell(clients, 1));
    machine.ok("systemctl --no-block restart baton@blue");
    goodbye.await.expect("everybody is told");
    knocking.served_by_another();
    assert_eq!(knocking.end(), [] as [String; 0]);
    // What was kept for an address that nobody wants any more is closed: it would be a trap.
    std::fs::write(machine.path(CONFIGURATION), format!("{SETTINGS}listen = \"0.0.0.0:9000\"\n")).expect("a file");
    machine.ok("systemctl restart baton@blue");
    let refused = std::net::TcpStream::connect(ADDRESS).expect_err("nobody listens there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let ready = http::get(([127, 0, 0, 1], 9000).into(), "/readyz").expect("it listens here");
    assert_eq!(ready.status, 200);
    kept(&machine, "blue", 2);
}
