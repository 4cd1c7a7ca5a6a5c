//! Looking for sessions, resetting and deleting them, with and without Redis.

use std::collections::BTreeSet;
use std::sync::Arc;

use nix::sys::signal::Signal;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::harness::admin::{Visitor, with_admin};
use crate::harness::client::{count_together, counts_of_each};
use crate::harness::http::{Http, get};
use crate::harness::procfs::is_alive;
use crate::harness::service::Builder;
use crate::harness::{Client, Service, eventually};

fn service() -> Service {
    let service = with_admin(Builder::new().with("--workers", "2")).start();
    service.wait_all_serve();
    service
}

#[tokio::test]
async fn no_log_has_a_token() {
    // The beginning of its SHA-256.
    const HASH: &str = "6ca13d52ca70";
    let service = with_admin(Builder::new().with("--workers", "2").with("--log-level", "trace")).start();
    service.wait_all_serve();
    let mut visitor = Visitor::logged_in(service.address);
    let mut client = Client::connect(&service.session_url("abc123")).await;
    assert_eq!(client.response.headers()["x-session-hash"], HASH);
    client.send("one").await;
    assert_eq!(client.count().await, 1);
    let opened = service.wait_log("connection opened");
    assert_eq!(opened["session_hash"], HASH, "{opened}");
    // A client that takes its token for the id of its requests as well.
    let mut http = Http::connect(service.address);
    http.send(
        "GET /ws/chat/?session_uuid=abc123 HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nX-Request-ID: abc123\r\n\r\n",
    );
    let head = http.head();
    assert!(head.status == 101 && head.header("x-request-id") != Some("abc123"), "{head:?}");
    // What operators do, at the pages and by the control socket.
    act(&mut visitor, &service, "abc123", "reset");
    let by_an_operator = service.wait_log("an operator's act");
    assert!(number(&mut visitor, &service, "abc123", "count").is_some());
    let path = format!("/admin/sessions/{HASH}");
    service.wait_log_line("request", |line| line["path"] == *path);
    assert!(service.ctl(&["disconnect", "abc123"]).status.success());
    let closed = service.wait_log("connection closed");
    assert_eq!(closed["session_hash"], HASH, "{closed}");
    assert!(service.ctl(&["tail", "all", "-n", "1000"]).status.success());
    let log = service.log();
    assert!(!log.contains("abc123"), "{:?}", log.lines().find(|line| line.contains("abc123")));
    assert!(by_an_operator["session_uuid"].is_null(), "{by_an_operator}");
}

/// The tokens that a list shows.
fn tokens(page: &str) -> Vec<String> {
    let rows = page.split("href=\"/admin/sessions/").skip(1);
    rows.filter_map(|row| Some(row.split_once('"')?.0.to_owned())).collect()
}

/// Where a list goes on.
fn more(page: &str) -> Option<String> {
    let (before, _) = page.split_once("\" rel=\"next\"")?;
    Some(before.rsplit('"').next()?.replace("&amp;", "&"))
}

/// All tokens of a list, page by page.
pub(super) fn all(visitor: &mut Visitor, service: &Service, beginning: &str) -> Vec<String> {
    let (mut all, mut path) = (Vec::new(), format!("/admin/sessions?q={beginning}"));
    loop {
        let page = visitor.get(service.address, &path);
        assert_eq!(page.status, 200, "{page:?}");
        let found = tokens(&page.body);
        all.extend(found);
        match more(&page.body) {
            Some(next) => path = next,
            None => return all,
        }
    }
}

/// What a session's page says of it.
pub(super) fn number(visitor: &mut Visitor, service: &Service, session: &str, what: &str) -> Option<u64> {
    let page = visitor.get(service.address, &format!("/admin/sessions/{session}"));
    let (_, rest) = page.body.split_once(&format!("id=\"{what}\">"))?;
    rest.split('<').next()?.parse().ok()
}

/// Does something to a session, and says what the page after it says.
#[track_caller]
pub(super) fn act(visitor: &mut Visitor, service: &Service, session: &str, what: &str) -> String {
    visitor.get(service.address, "/admin/");
    let answer = visitor.post(service.address, &format!("/admin/sessions/{session}/{what}"), &[]);
    assert_eq!(answer.status, 303, "{answer:?}");
    let page = visitor.get(service.address, answer.header("location").expect("a page"));
    assert_eq!(page.status, 200, "{page:?}");
    let (_, notice) = page.body.split_once("role=\"status\"").expect("a notice");
    notice.split_once('>').and_then(|(_, text)| text.split('<').next()).unwrap_or_default().to_owned()
}

/// Sessions are found, by all that is known of them or by their beginning.
pub(super) async fn are_found(service: &Service) {
    let mut visitor = Visitor::logged_in(service.address);
    assert_eq!(all(&mut visitor, service, ""), [""; 0]);
    let uuids = ["0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d", "0a1b2c3d-ffff-4a6b-8c7d-9e0f1a2b3c4d"];
    let mut expected: BTreeSet<String> = uuids.iter().map(ToString::to_string).collect();
    expected.extend((0..130).map(|n| format!("page-{n}")));
    for session in &expected {
        assert_eq!(service.count_one(session).await, 1);
    }
    // Looked at, and not used.
    Client::connect(&service.session_url("silent")).await.leave().await;
    let found = all(&mut visitor, service, "");
    assert_eq!(found.len(), expected.len(), "each of them once");
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    let mut like = |beginning: &str| -> Vec<String> {
        let mut found = all(&mut visitor, service, beginning);
        found.sort();
        found
    };
    assert_eq!(like("0a1b2c3d"), uuids);
    assert_eq!(like("0a1b2c3d-4"), uuids[..1]);
    assert_eq!(
        like("page-12"),
        [
            "page-12", "page-120", "page-121", "page-122", "page-123", "page-124", "page-125", "page-126", "page-127",
            "page-128", "page-129"
        ]
    );
    assert_eq!(like("nobody"), [""; 0]);
    let page = visitor.get(service.address, "/admin/sessions?q=%3Cb%3E*");
    assert!(page.status == 200 && page.body.contains("&lt;b&gt;*") && tokens(&page.body).is_empty(), "{page:?}");
    assert_eq!(number(&mut visitor, service, "page-7", "count"), Some(1));
    assert_eq!(number(&mut visitor, service, "page-7", "connections"), Some(0));
    let nobody = visitor.get(service.address, "/admin/sessions/nobody");
    assert!(nobody.status == 404 && nobody.body.contains("Nobody uses this session"), "{nobody:?}");
    let clients = Client::connect_several(5, &service.session_url("page-7")).await;
    assert_eq!(number(&mut visitor, service, "page-7", "connections"), Some(5));
    drop(clients);
}

/// A count begins anew for everybody at once, whoever is connected and whatever he has seen.
pub(super) async fn are_reset(service: &Service) {
    let mut visitor = Visitor::logged_in(service.address);
    for round in 1..=3 {
        let mut clients = service.connect_to_all_workers("abc").await;
        let n = clients.len() as u64;
        for client in &mut clients {
            client.send("hello").await;
            assert!(client.count().await > 0);
        }
        let before = number(&mut visitor, service, "abc", "count").expect("a count");
        let said = act(&mut visitor, service, "abc", "reset");
        assert_eq!(said, format!("Its count begins anew, it was {before}."));
        assert_eq!(number(&mut visitor, service, "abc", "count"), Some(0));
        assert_eq!(number(&mut visitor, service, "abc", "connections"), Some(n), "nobody was disconnected");
        // All remember a higher count, and nobody is shown any but the new ones.
        assert_eq!(count_together(clients, 100).await, (1..=100).collect::<Vec<_>>(), "round {round}");
        assert_eq!(service.count_one("abc").await, 101);
    }
    assert_eq!(act(&mut visitor, service, "nobody", "reset"), "Its count was 0 already.");
}

/// A session is forgotten and its clients are gone.
pub(super) async fn are_deleted(service: &Service) {
    let mut visitor = Visitor::logged_in(service.address);
    let mut clients = service.connect_to_all_workers("doomed").await;
    for client in &mut clients {
        client.send("hello").await;
        client.count().await;
    }
    let n = clients.len();
    assert_eq!(act(&mut visitor, service, "doomed", "delete"), format!("Deleted, its count was {n}."));
    for client in &mut clients {
        let frame = client.close().await.expect("a close");
        assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Normal, "disconnected by the operator"));
    }
    eventually("nobody is connected", || {
        (number(&mut visitor, service, "doomed", "connections").unwrap_or(0) == 0).then_some(())
    });
    assert_eq!(all(&mut visitor, service, "doomed"), [""; 0]);
    assert_eq!(service.count_one("doomed").await, 1);
}

#[tokio::test]
async fn sessions_are_found() {
    are_found(&service()).await;
}

#[tokio::test]
async fn sessions_are_reset() {
    are_reset(&service()).await;
}

#[tokio::test]
async fn sessions_are_deleted() {
    are_deleted(&service()).await;
}

#[tokio::test]
async fn a_reset_outlives_processes_and_takeovers() {
    let builder = with_admin(Builder::new().with("--workers", "2"));
    let service = builder.clone().start();
    service.wait_all_serve();
    let mut visitor = Visitor::logged_in(service.address);
    let mut client = Client::connect(&service.session_url("abc")).await;
    for n in 1..=10 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
    act(&mut visitor, &service, "abc", "reset");
    // The connection goes to another process, with the highest count that it was shown.
    assert!(service.ctl(&["restart", "all"]).status.success());
    for n in 1..=3 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
    service.signal(Signal::SIGKILL);
    eventually("its workers are gone", || get(service.address, "/healthz").is_err().then_some(()));
    drop(service);
    let service = builder.start();
    assert_eq!(service.count_one("abc").await, 4);
    // The goodbye tells the same numbers.
    let mut client = Client::connect(&service.session_url("abc")).await;
    service.signal(Signal::SIGTERM);
    assert_eq!(client.json().await, serde_json::json!({"bye": true, "total": 4}));
}

#[tokio::test]
async fn a_takeover_changes_nothing_for_operators_and_those_they_have_reset() {
    let builder = with_admin(Builder::new().with("--workers", "2"));
    let service = builder.clone().with("--color", "blue").start();
    service.wait_all_serve();
    let mut visitor = Visitor::logged_in(service.address);
    let mut client = Client::connect(&service.session_url("abc")).await;
    for n in 1..=5 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
    act(&mut visitor, &service, "abc", "reset");
    let next = builder.with("--color", "green").with("--takeover", "now").start();
    eventually("green serves alone", || {
        (get(next.address, "/status").ok()?.json()["color"] == "green" && !is_alive(service.pid())).then_some(())
    });
    let page = visitor.get(next.address, "/admin/");
    assert!(page.status == 200 && page.body.contains("reset"), "the same cookie, and the last acts: {page:?}");
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    assert_eq!(act(&mut visitor, &next, "abc", "disconnect"), "Disconnected 1 connection.");
    assert!(client.close().await.is_some());
}

#[tokio::test]
async fn a_reset_while_messages_come_takes_place_once_for_all() {
    let service = Arc::new(service());
    let clients = service.connect_to_all_workers("busy").await;
    let resetting = tokio::task::spawn_blocking(move || {
        let mut visitor = Visitor::logged_in(service.address);
        eventually("some are counted", || number(&mut visitor, &service, "busy", "count").filter(|count| *count > 100));
        (act(&mut visitor, &service, "busy", "reset"), service)
    });
    let each = counts_of_each(clients, 20_000).await;
    let (said, _service) = resetting.await.expect("it is reset");
    let before: u64 = said.trim_end_matches('.').rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a count");
    assert!(before < 20_000, "too late: {before}");
    // To each client they go back once, at the reset.
    let backward = |counts: &&Vec<u64>| {
        counts.is_sorted_by(|a, b| a < b) || counts.windows(2).filter(|two| two[1] <= two[0]).count() == 1
    };
    assert_eq!(each.iter().filter(backward).count(), each.len());
    let mut counts = each.concat();
    counts.sort_unstable();
    // Up to the reset, and then anew: no number is missing, and none is there twice on one side of it.
    let mut expected: Vec<u64> = (1..=before).chain(1..=20_000 - before).collect();
    expected.sort_unstable();
    assert_eq!(counts, expected);
}
