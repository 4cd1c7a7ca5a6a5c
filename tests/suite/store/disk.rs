//! No space, no permission, not ours.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::{count_to, on, refused};
use crate::harness::lmdb::grow_to;
use crate::harness::mount::Mount;
use crate::harness::service::Builder;
use crate::harness::{Client, Service, eventually, http, is_root};

pub(super) const MIB: u64 = 1024 * 1024;

/// A message that cannot be counted: the client is told when to come back.
pub(super) async fn turned_away(client: &mut Client) {
    client.send("x").await;
    let frame = client.close().await.expect("a close frame");
    assert_eq!(frame.code, CloseCode::Again, "1013: {frame:?}");
    let wait = frame.reason.strip_prefix("retry_ms=").and_then(|wait| wait.parse::<u64>().ok());
    assert!(wait.is_some_and(|wait| wait >= 100), "{frame:?}");
}

fn lines(service: &Service, message: &str) -> Vec<serde_json::Value> {
    service.log_lines().filter(|line| line["message"].as_str().is_some_and(|text| text.contains(message))).collect()
}

#[tokio::test]
async fn a_full_disk_takes_nothing_back_and_is_survived() {
    if !is_root() {
        return;
    }
    let disk = Mount::tmpfs("24m");
    let state = disk.path().join("state");
    let service = on(&state).start();
    let pids = service.worker_pids();
    count_to(&service, "abc", 3).await;
    let mut first = Client::connect(&service.session_url("abc")).await;
    // The first 16 MiB are reserved at the start, and used up here; then there is no more to be had.
    let filler = disk.fill();
    grow_to(&state, 16 * MIB - MIB / 2, 3600);

    turned_away(&mut first).await;
    eventually("/readyz tells it", || {
        let answer = http::get(service.address, "/readyz").expect("an answer");
        (answer.status == 503).then(|| assert_eq!(answer.json()["reasons"], json!(["store_failing"])))
    });
    let degraded = eventually("status tells it", || service.status().backplane_degraded);
    assert_eq!(degraded.reason, "the store refuses to count");
    assert!(!degraded.slots.is_empty() && degraded.since_seconds < 60.0, "{degraded:?}");
    let page = service.ctl(&["status"]);
    assert_eq!(page.status.code(), Some(0), "all slots serve");
    assert!(String::from_utf8_lossy(&page.stdout).contains("  DEGRADED for "), "{page:?}");
    let page = service.ctl(&["backplane"]);
    assert_eq!(page.status.code(), Some(3), "not all links are up");
    let told = String::from_utf8_lossy(&page.stdout);
    assert!(told.contains("  DEGRADED for ") && told.contains("DOWN"), "{told}");
    for n in 0..50 {
        let mut client = Client::connect(&service.session_url(&format!("other-{}", n % 5))).await;
        turned_away(&mut client).await;
    }
    assert_eq!(service.metric("websocket_errors_total{type=\"store\"}"), 51.0);
    let told = lines(&service, "the store refuses to count");
    for quiet in ["expired sessions were not swept", "no checkpoint was claimed"] {
        assert!(lines(&service, quiet).len() <= 2, "told once by each worker, not every second");
    }
    let per_worker = |worker| told.iter().filter(|line| line["worker"] == worker).count();
    assert!(per_worker(0) <= 1 && per_worker(1) <= 1 && !told.is_empty(), "{told:?}");
    assert!(told[0]["error"].as_str().is_some_and(|error| error.contains("no space left on its disk")), "{told:?}");
    assert_eq!(http::get(service.address, "/healthz").expect("an answer").status, 200);

    // Space again: it is noticed without a client's message, which nobody sends to a service that is not ready.
    fs::remove_file(filler).expect("a file");
    service.wait_ready();
    assert_eq!(service.count_one("abc").await, 4, "what was refused was not counted, what was counted is there");
    assert_eq!(service.count_one("other-0").await, 1);
    assert_eq!(lines(&service, "the store counts again").len(), told.len());
    eventually("status tells it", || service.status().backplane_degraded.is_none().then_some(()));
    assert_eq!(service.ctl(&["backplane"]).status.code(), Some(0));
    for once in ["the backplane is degraded", "the backplane is no longer degraded"] {
        assert_eq!(lines(&service, once).len(), 1, "{once}: once for all workers");
    }
    assert_eq!(service.worker_pids(), pids, "nobody has died");
    assert!(!service.log().contains("panicked"));
    assert_eq!(service.stop().code(), Some(0));
}

#[tokio::test]
async fn a_store_at_its_allowed_size_goes_on_when_sessions_expire() {
    let builder = Builder::new().with("--workers", 1).with("--store-max-size", "4MiB").with("--session-ttl", "3s");
    let state = builder.dir().join("state");
    let service = builder.start();
    let mut kept = Client::connect(&service.session_url("kept")).await;
    kept.send("x").await;
    assert_eq!(kept.count().await, 1);
    grow_to(&state, 3 * MIB + MIB / 2, 3);
    let mut client = Client::connect(&service.session_url("new")).await;
    turned_away(&mut client).await;
    let told = service.wait_log("the store refuses to count");
    assert!(told["error"].as_str().is_some_and(|error| error.contains("has reached its allowed 4194304 bytes")));
    // What has filled it expires, is swept, and its pages are used again.
    service.wait_ready();
    assert_eq!(service.count_one("new").await, 1);
    for expected in 2..=100 {
        kept.send("x").await;
        assert_eq!(kept.count().await, expected, "a session that is in use does not expire");
    }
    assert!(!service.log().contains("panicked"));
}

#[test]
fn a_start_on_a_full_disk_says_so() {
    if !is_root() {
        return;
    }
    let small = Mount::tmpfs("8m");
    let said = refused(&on(&small.path().join("state")), &["no space left for the store", "free at least", "MiB"]);
    assert!(said.contains(&small.path().join("state/data.mdb").display().to_string()), "{said}");
    let disk = Mount::tmpfs("24m");
    let filler = disk.fill();
    let builder = on(&disk.path().join("state"));
    let (status, log) = builder.refused();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("No space left on device") && !log.contains("panicked"), "{log}");
    // And what the attempt has left behind does not stand in the way.
    fs::remove_file(filler).expect("a file");
    assert_eq!(builder.start().stop().code(), Some(0));
}

#[test]
fn a_directory_that_cannot_be_written_to_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("file");
    fs::write(&path, "a letter").expect("a file");
    let (status, log) = on(&path).refused();
    assert_eq!(status.code(), Some(64), "{log}");
    assert!(log.contains("--state-dir") && log.contains("allowed is the path of a directory"), "{log}");
    refused(&on(&path.join("below")), &["not a directory", "--state-dir"]);
    if !is_root() {
        return;
    }
    fs::remove_file(path).expect("a file");
    let read_only = Mount::read_only(dir.path());
    refused(&on(read_only.path()), &["cannot make files in it (Read-only file system"]);
    refused(&on(&read_only.path().join("new")), &["cannot be created (Read-only file system"]);

    const SOMEBODY: u32 = 64321;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("a directory of ours");
    let roots = dir.path().join("roots");
    fs::create_dir(&roots).expect("a directory");
    refused(&on(&roots).user(SOMEBODY), &["it belongs to user 0, but this is user 64321", "chown -R 64321"]);
    refused(&on(&dir.path().join("new")).user(SOMEBODY), &["cannot be created (Permission denied"]);
    fs::set_permissions(&roots, Permissions::from_mode(0o500)).expect("a directory of ours");
    std::os::unix::fs::chown(&roots, Some(SOMEBODY), None).expect("root may");
    refused(&on(&roots).user(SOMEBODY), &["cannot make files in it (Permission denied"]);
    fs::set_permissions(&roots, Permissions::from_mode(0o700)).expect("a directory of ours");
    assert_eq!(on(&roots).user(SOMEBODY).start().stop().code(), Some(0), "now it is right");
}

#[test]
fn the_directory_of_somebody_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["letters.txt", "data.mdb"] {
        let theirs = dir.path().join(name).with_extension("d");
        fs::create_dir(&theirs).expect("a directory");
        fs::write(theirs.join(name), "not ours").expect("a file");
        refused(&on(&theirs), &[name, "no store of baton", "set --state-dir to an empty directory"]);
        let left: Vec<_> =
            fs::read_dir(&theirs).expect("a directory").map(|file| file.expect("a file").file_name()).collect();
        assert_eq!(left, [name]);
        assert_eq!(fs::read_to_string(theirs.join(name)).expect("a file"), "not ours");
    }
    let future = dir.path().join("future");
    fs::create_dir(&future).expect("a directory");
    fs::write(future.join("baton-store"), "baton store, format 999\n").expect("a file");
    refused(&on(&future), &["its store has format 999", "run the version that made it"]);
}
