//! The pages in a real browser.

use serde_json::Value;

use crate::harness::admin::{ADA, with_admin};
use crate::harness::service::Builder;
use crate::harness::{Browser, Client, Service};

/// Logs in.
async fn enter(service: &Service) -> Browser {
    let mut browser = Browser::start().await;
    browser.open(&format!("http://{}/admin/", service.address)).await;
    browser.wait_for("location.pathname === '/admin/login'").await;
    browser.screenshot("admin-login").await;
    browser.click("#username").await;
    browser.type_in(ADA.0).await;
    browser.click("#password").await;
    browser.type_in(ADA.1).await;
    browser.press_enter().await;
    browser.wait_for("location.pathname === '/admin/' && document.readyState === 'complete'").await;
    browser
}

/// The number in a tile.
fn tile(name: &str) -> String {
    format!("document.querySelector('[data-chart={name}] output').textContent")
}

async fn assert_fits(browser: &mut Browser, width: u32) {
    let widest = browser.evaluate("document.scrollingElement.scrollWidth").await;
    assert!(widest.as_u64() <= Some(width.into()), "{widest} pixels on a screen of {width}");
}

#[tokio::test]
async fn charts_move_and_nothing_is_refused_by_the_policy() {
    let service = with_admin(Builder::new().with("--workers", "2")).start();
    let mut browser = enter(&service).await;
    browser.wait_for(&format!("{} === '0'", tile("connections"))).await;
    let mut clients = Client::connect_several(3, &service.url()).await;
    browser.wait_for(&format!("{} === '3'", tile("connections"))).await;
    for client in &mut clients {
        for _ in 0..20 {
            client.send("hello").await;
            client.count().await;
        }
        client.send("{not json").await;
    }
    // The peak stays in the chart, whenever it is looked at.
    let path = "(document.querySelector('[data-chart=messages] .line').getAttribute('d') ?? '')";
    browser
        .wait_for(&format!(
            "{path}.split('L').length >= 2 && new Set({path}.split('L').map((p) => p.split(',')[1])).size >= 2"
        ))
        .await;
    browser.wait_for("[...document.querySelectorAll('#workers tbody td:nth-child(5)')].reduce((sum, cell) => sum + Number(cell.textContent), 0) === 63").await;
    assert_eq!(browser.evaluate("document.querySelectorAll('#workers tbody tr').length").await, 2);
    browser.screenshot("admin-overview").await;
    assert_fits(&mut browser, 1280).await;
    browser.prefer("dark").await;
    browser.be_phone(375, 667).await;
    browser.settle().await;
    browser.screenshot("admin-overview-phone").await;
    assert_fits(&mut browser, 375).await;
    assert_eq!(browser.complaints().await, [""; 0]);
    assert_eq!(browser.evaluate("document.cookie").await, Value::from(""), "scripts do not see the cookie");
}

#[tokio::test]
async fn a_session_is_found_and_its_client_disconnected() {
    let service = with_admin(Builder::new().with("--workers", "2")).start();
    let mut clients = Vec::new();
    for session in ["alice-phone", "alice-desk", "<bob>", "carol.2026"] {
        if let Ok(mut client) = Client::try_connect(&service.session_url(session)).await {
            for _ in 0..clients.len() + 1 {
                client.send("hello").await;
                client.count().await;
            }
            clients.push(client);
        }
    }
    let mut browser = enter(&service).await;
    browser.click("nav a[href='/admin/sessions']").await;
    browser.wait_for("document.readyState === 'complete' && document.querySelectorAll('tbody tr').length === 3").await;
    browser.screenshot("admin-sessions").await;
    browser.click("#q").await;
    browser.type_in("alice").await;
    browser.press_enter().await;
    browser.wait_for("document.readyState === 'complete' && document.querySelectorAll('tbody tr').length === 2").await;
    browser.click("a[href='/admin/sessions/alice-phone']").await;
    browser
        .wait_for("document.readyState === 'complete' && document.querySelector('#count')?.textContent === '1'")
        .await;
    browser.be_phone(375, 667).await;
    browser.settle().await;
    browser.screenshot("admin-session-phone").await;
    assert_fits(&mut browser, 375).await;
    // What a button asks.
    browser.evaluate("window.confirm = () => false").await;
    browser.click("#disconnect").await;
    browser.evaluate("window.confirm = () => true").await;
    browser.click("#reset").await;
    browser.wait_for("document.readyState === 'complete' && document.querySelector('[role=status]')?.textContent.startsWith('Its count begins anew')").await;
    clients[0].send("hello").await;
    assert_eq!(clients[0].count().await, 1, "still connected");
    browser.evaluate("window.confirm = () => true").await;
    browser.click("#disconnect").await;
    browser.wait_for("document.readyState === 'complete' && document.querySelector('[role=status]')?.textContent === 'Disconnected 1 connection.'").await;
    let frame = clients[0].close().await.expect("a close");
    assert_eq!(frame.reason.as_str(), "disconnected by the operator");
    browser.resize(1280, 800).await;
    browser.click("nav a[href='/admin/']").await;
    browser.wait_for("document.readyState === 'complete' && document.querySelector('#message')").await;
    browser.evaluate("window.confirm = () => true").await;
    browser.click("#message").await;
    browser.type_in("Lunch at noon").await;
    browser.click("main form[action='/admin/broadcast'] button").await;
    browser.wait_for("document.readyState === 'complete' && document.querySelector('[role=status]')?.textContent === 'Sent to 2 connections.'").await;
    assert_eq!(clients[1].json().await, serde_json::json!({"notice": "Lunch at noon"}));
    browser.screenshot("admin-overview-acts").await;
    browser.be_phone(375, 667).await;
    browser.settle().await;
    assert_fits(&mut browser, 375).await;
    browser.screenshot("admin-overview-acts-phone").await;
    browser.click(".logout button").await;
    browser.wait_for("location.pathname === '/admin/login'").await;
    assert_fits(&mut browser, 375).await;
    assert_eq!(browser.complaints().await, [""; 0]);
}
