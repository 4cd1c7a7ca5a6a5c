//! Disconnecting clients, and telling them something.

use serde_json::json;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::sessions::{act, number};
use crate::harness::admin::{Visitor, with_admin};
use crate::harness::service::Builder;
use crate::harness::{Client, Service, eventually};

fn service() -> Service {
    let service = with_admin(Builder::new().with("--workers", "2")).start();
    service.wait_all_serve();
    service
}

#[tokio::test]
async fn all_connections_of_a_session_are_closed_and_no_other() {
    let service = service();
    let mut visitor = Visitor::logged_in(service.address);
    let mut theirs = service.connect_to_all_workers("abc").await;
    let mut other = Client::connect(&service.session_url("abcd")).await;
    let n = theirs.len();
    let page = visitor.get(service.address, "/admin/sessions/abc");
    assert!(page.body.contains("127.0.0.1:"), "who is connected: {}", page.body);
    assert_eq!(act(&mut visitor, &service, "abc", "disconnect"), format!("Disconnected {n} connections."));
    for client in &mut theirs {
        let frame = client.close().await.expect("a close");
        assert_eq!((frame.code, frame.reason.as_str()), (CloseCode::Normal, "disconnected by the operator"));
    }
    other.send("hello").await;
    assert_eq!(other.count().await, 1);
    eventually("nobody is there", || {
        (number(&mut visitor, &service, "abc", "connections").unwrap_or(0) == 0).then_some(())
    });
    assert_eq!(act(&mut visitor, &service, "abc", "disconnect"), "Disconnected 0 connections.");
}

#[tokio::test]
async fn everybody_hears_a_notice_and_the_log_does_not_tell_it() {
    let service = service();
    let address = service.address;
    let mut visitor = Visitor::logged_in(address);
    let mut clients = service.connect_to_all_workers("abc").await;
    let send = |visitor: &mut Visitor, text: &str| {
        visitor.get(address, "/admin/");
        visitor.post(address, "/admin/broadcast", &[("message", text)])
    };
    for (given, heard) in [
        ("Lunch <b>at</b> \"noon\" & later", json!({"notice": "Lunch <b>at</b> \"noon\" & later"})),
        ("{\"sale\": [1, 2]}", json!({"sale": [1, 2]})),
    ] {
        let answer = send(&mut visitor, given);
        let to = format!("/admin/?done=sent&n={}&hosts=alone", clients.len());
        assert_eq!((answer.status, answer.header("location")), (303, Some(to.as_str())), "{answer:?}");
        let page = visitor.get(address, &to);
        assert!(page.body.contains(&format!("Sent to {} connections.", clients.len())), "{}", page.body);
        for client in &mut clients {
            assert_eq!(client.json().await, heard);
        }
    }
    for wrong in ["", "   ", "{not json", &"x".repeat(20_000)] {
        let answer = send(&mut visitor, wrong);
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.body.contains("Nothing was sent."), "{answer:?}");
    }
    let audit = || service.log_lines().filter(|line| line["action"] == "broadcast").collect::<Vec<_>>();
    let lines = eventually("two lines", || Some(audit()).filter(|lines| lines.len() == 2));
    for line in lines {
        assert_eq!(
            (&line["logger"], &line["user"], &line["client"]),
            (&json!("audit"), &json!("ada"), &json!("127.0.0.1"))
        );
        assert!(line["outcome"].as_str().is_some_and(|outcome| outcome.contains(" bytes, sent to ")), "{line}");
    }
    assert!(!service.log().contains("Lunch") && !service.log().contains("sale"));
}

#[tokio::test]
async fn nothing_is_done_for_a_form_that_is_not_ours() {
    let service = service();
    let address = service.address;
    let mut visitor = Visitor::logged_in(address);
    let mut client = Client::connect(&service.session_url("abc")).await;
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    const PATHS: [&str; 4] = [
        "/admin/broadcast",
        "/admin/sessions/abc/disconnect",
        "/admin/sessions/abc/reset",
        "/admin/sessions/abc/delete",
    ];
    for path in PATHS {
        let token = std::mem::take(&mut visitor.token);
        assert_eq!(visitor.post(address, path, &[("message", "x")]).status, 403, "{path}: no token");
        visitor.token = token;
        let nobody = &mut Visitor { token: visitor.token.clone(), ..Visitor::default() };
        assert_eq!(nobody.post(address, path, &[("message", "x")]).status, 403, "{path}: no cookie");
        visitor.send(address, "GET", path, "", "").assert_error(405, "method_not_allowed");
        visitor
            .send(address, "POST", path, "Content-Type: text/plain\r\n", "x")
            .assert_error(415, "unsupported_media_type");
    }
    client.send("hello").await;
    assert_eq!(client.count().await, 2, "still there, and not reset");
    visitor.get(address, "/admin/");
    assert_eq!(visitor.post(address, "/admin/sessions/a%20b/reset", &[]).status, 404);
    assert_eq!(visitor.post(address, "/admin/sessions/abc/rename", &[]).status, 404);
}
