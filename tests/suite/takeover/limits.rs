//! Descriptors run out in the middle of a takeover: new clients have taken the room that preflight had found.

use std::process::{Child, Command, Stdio};

use baton_ipc::control::{Output, Reply, TakeoverReceipt};
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use serde_json::json;

use super::{SECOND, Succession};
use crate::harness::procfs::is_stopped;
use crate::harness::service::{Builder, die_with_us};
use crate::harness::{Client, Service, eventually};

/// What a process keeps for other things than clients.
const RESERVE: u64 = 64;

/// What it keeps for HTTP.
const HTTP_RESERVE: u64 = 64;

/// Clients that a worker of the new generation may have.
const ROOM: usize = 120;

/// Clients of the old one.
const OLD: usize = 100;

/// Clients that come while it stands still.
const NEW: usize = 60;

/// `batonctl promote`, which goes on while the test does something else.
fn promoting(service: &Service, flags: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_batonctl"));
    command.arg("--runtime-dir").arg(service.dir().join("run")).args(["--color", "green", "--json", "promote"]);
    command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped());
    die_with_us(&mut command);
    command.spawn().expect("batonctl runs")
}

/// What it says in the end, if it ends well.
#[track_caller]
fn receipt(promoting: Child) -> TakeoverReceipt {
    let output = promoting.wait_with_output().expect("a child of ours");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // Those that are told to come back are not lost.
    assert_eq!(output.status.code(), Some(0), "{said}");
    match serde_json::from_str(said.lines().last().unwrap_or_default()) {
        Ok(Reply::Done { output: Output::Takeover(receipt) }) => *receipt,
        other => panic!("no receipt: {other:?}\n{said}"),
    }
}

/// A takeover in which some found no room.
struct Crowded {
    generations: Succession,
    next: Service,
    old: Vec<Client>,
    new: Vec<Client>,
    receipt: TakeoverReceipt,
}

async fn crowded(flags: &[&str]) -> Crowded {
    let dir = tempfile::tempdir().expect("a directory");
    let trigger = dir.path().join("now");
    let generations = Succession::begin(Builder::new().with("--workers", 3));
    let mut old = Client::connect_several(OLD, &generations.serving.url()).await;
    everyone_counts(&mut old, 1).await;
    let fault = format!("takeover switched:SIGSTOP:{}", trigger.display());
    let next = generations.standby(|builder| {
        builder.with("--workers", 1).descriptors(RESERVE + HTTP_RESERVE + ROOM as u64).env("FAULT_POINT", fault)
    });
    std::fs::write(&trigger, "").expect("a file");
    let promoting = promoting(&next, flags);
    eventually("it stands still", || is_stopped(next.pid()).then_some(()));
    let mut new = Client::connect_several(NEW, &next.url()).await;
    everyone_counts(&mut new, 1).await;
    kill(next.pid(), Signal::SIGCONT).expect("it is there");
    let receipt = receipt(promoting);
    // The second reason is that of a group that cannot even be looked at.
    let known = |reason: &str| reason == "no room for more connections" || reason.contains("descriptors are missing");
    assert!(receipt.drained.iter().all(|(reason, _)| known(reason)), "{receipt:?}");
    let stayed: u64 = receipt.drained.iter().map(|(_, count)| count).sum();
    assert!(receipt.handed + stayed == OLD as u64 && receipt.dropped == 0, "{receipt:?}");
    // As many as there is room for, but for a little that is left for newcomers.
    assert!((ROOM - NEW - 5..=ROOM - NEW).contains(&(receipt.handed as usize)), "{receipt:?}");
    Crowded { generations, next, old, new, receipt }
}

/// Each says something, which is its nth message.
pub(super) async fn everyone_counts(clients: &mut [Client], nth: u64) {
    join_all(clients.iter_mut().map(async |client| {
        client.send("one more").await;
        assert_eq!(client.count().await, nth);
    }))
    .await;
}

/// Those whom a service has, and the others.
fn split(clients: Vec<Client>, service: &Service) -> (Vec<Client>, Vec<Client>) {
    let rows = service.connections();
    clients.into_iter().partition(|client| rows.iter().any(|row| row.session_uuid == client.session()))
}

/// Each is told to come back, and how many messages were counted.
async fn all_are_told_to_come_back(clients: &mut [Client], total: u64) {
    for client in clients {
        assert_eq!(client.json().await, json!({ "bye": true, "total": total }));
        let close = client.close().await.expect("a code");
        assert_eq!(u16::from(close.code), 1001);
        let hint = close.reason.strip_prefix("retry_ms=").and_then(|hint| hint.parse::<u64>().ok());
        assert!(hint.is_some(), "{close:?}");
    }
}

#[tokio::test]
async fn who_finds_no_room_is_told_to_come_back_when_the_old_generation_goes() {
    let Crowded { mut generations, next, old, mut new, receipt } = crowded(&[]).await;
    let status = generations.serving.wait(15 * SECOND);
    assert!(status.success(), "the old generation ended with {status}");
    let (mut handed, mut stayed) = split(old, &next);
    assert_eq!(handed.len() as u64, receipt.handed);
    all_are_told_to_come_back(&mut stayed, 1).await;
    everyone_counts(&mut handed, 2).await;
    everyone_counts(&mut new, 2).await;
}

#[tokio::test]
async fn who_finds_no_room_is_served_as_long_as_the_old_generation_is_kept() {
    let Crowded { generations, next, mut old, mut new, receipt } = crowded(&["--keep-old"]).await;
    everyone_counts(&mut old, 2).await;
    everyone_counts(&mut new, 2).await;
    let (mut handed, mut stayed) = split(old, &next);
    assert_eq!(handed.len() as u64, receipt.handed);
    assert!(generations.serving.stop().success());
    all_are_told_to_come_back(&mut stayed, 2).await;
    everyone_counts(&mut handed, 3).await;
    everyone_counts(&mut new, 3).await;
}
