//! How often logging in may be tried, and what attempts cost.

use std::sync::Barrier;
use std::thread;

use serde_json::Value;

use crate::harness::admin::{ADA, Visitor, with_admin};
use crate::harness::http::Answer;
use crate::harness::procfs::rss;
use crate::harness::service::Builder;
use crate::harness::{Service, eventually};

const MIB: u64 = 1024 * 1024;

/// What refuses a wrong password.
const WRONG: u16 = 403;

fn service(workers: &str) -> Service {
    let builder = Builder::new().with("--workers", workers).with("--trusted-proxies", "127.0.0.1");
    let service = with_admin(builder).start();
    service.wait_all_serve();
    service
}

/// Somebody with this address.
fn from(address: impl std::fmt::Display) -> Visitor {
    Visitor { fields: format!("X-Forwarded-For: {address}\r\n"), ..Visitor::default() }
}

fn guess(service: &Service, address: impl std::fmt::Display) -> u16 {
    from(address).log_in(service.address, ADA.0, "wrong password").status
}

/// Visitors that send the form with a wrong password, all at once.
fn at_once(service: &Service, visitors: Vec<Visitor>) -> Vec<Answer> {
    let barrier = Barrier::new(visitors.len());
    thread::scope(|scope| {
        let attempt = |mut visitor: Visitor| {
            let barrier = &barrier;
            scope.spawn(move || {
                visitor.get(service.address, "/admin/login");
                barrier.wait();
                visitor.post(service.address, "/admin/login", &[("username", ADA.0), ("password", "wrong password")])
            })
        };
        let attempts: Vec<_> = visitors.into_iter().map(attempt).collect();
        attempts.into_iter().map(|attempt| attempt.join().expect("an answer")).collect()
    })
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

/// The lines of the log about refused attempts, once they stand for so many.
fn wait_for_refusals(service: &Service, attempts: u64) -> Vec<Value> {
    let lines = || -> Vec<Value> {
        let is_refusal = |line: &Value| line["logger"] == "audit" && line["attempts"].is_u64();
        service.log_lines().filter(is_refusal).collect()
    };
    let sum = |lines: &[Value]| lines.iter().filter_map(|line| line["attempts"].as_u64()).sum::<u64>();
    eventually("all attempts are reported", || Some(lines()).filter(|lines| sum(lines) == attempts))
}

#[test]
fn attempts_leave_no_memory_behind() {
    let service = service("1");
    let pid = service.worker_pids()[0];
    assert_eq!(guess(&service, "192.0.2.1"), WRONG);
    let before = rss(pid);
    for n in 2..=15 {
        assert_eq!(guess(&service, format!("192.0.2.{n}")), WRONG);
    }
    let after = rss(pid);
    // One of them needs 19 MiB while it lasts.
    assert!(after < before + 15 * MIB, "{before} {after}");
    assert!(after < 60 * MIB, "{after}");
}

#[test]
fn one_address_has_ten_attempts_at_all_workers() {
    let service = service("2");
    let statuses: Vec<u16> = (0..12).map(|_| guess(&service, "192.0.2.1")).collect();
    assert_eq!(statuses, [[WRONG; 10].as_slice(), &[429; 2]].concat());
    // Also the right password, and whatever worker is asked.
    for _ in 0..4 {
        let answer = from("192.0.2.1").log_in(service.address, ADA.0, ADA.1);
        assert_eq!(answer.status, 429);
        let seconds: u64 = answer.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
        assert!((1..=60).contains(&seconds), "{seconds}");
    }
    assert_eq!(from("192.0.2.2").log_in(service.address, ADA.0, ADA.1).status, 303);
}

#[test]
fn ipv6_networks_are_counted_at_three_sizes() {
    let service = service("2");
    // Names are another matter: each attempt has its own.
    let mut n = 0;
    let mut attempt = |address: String| {
        n += 1;
        from(address).log_in(service.address, &format!("user{n}"), "wrong password").status
    };
    for host in 0..10 {
        assert_eq!(attempt(format!("2001:db8::{host:x}")), WRONG);
    }
    assert_eq!(attempt("2001:db8::ffff".to_owned()), 429, "ten for 64 bits");
    for network in 1..=10 {
        assert_eq!(attempt(format!("2001:db8:0:{network:x}::1")), WRONG);
    }
    assert_eq!(attempt("2001:db8:0:ff::1".to_owned()), 429, "twenty for 56 bits");
    for network in 1..=20 {
        assert_eq!(attempt(format!("2001:db8:0:{network:x}00::1")), WRONG);
    }
    assert_eq!(attempt("2001:db8:0:ff00::1".to_owned()), 429, "forty for 48 bits");
    assert_eq!(attempt("2001:db8:1::1".to_owned()), WRONG, "another one");
}

#[test]
fn strangers_cannot_lock_out_a_browser_that_has_logged_in_before() {
    let service = service("2");
    let address = service.address;
    let mut ada = from("192.0.2.1");
    assert_eq!(ada.log_in(address, ADA.0, ADA.1).status, 303);
    let cookie = ada.known.clone().expect("a cookie that lasts");
    ada.get(address, "/admin/");
    assert_eq!(ada.post(address, "/admin/logout", &[]).status, 303);
    let statuses: Vec<u16> = (0..24).map(|n| guess(&service, format!("198.51.100.{n}"))).collect();
    assert!(statuses.starts_with(&[WRONG; 20]) && statuses.contains(&429), "{statuses:?}");
    // A browser that nobody knows has to wait, also with a cookie that is another user's or forged.
    assert_eq!(from("192.0.2.7").log_in(address, ADA.0, ADA.1).status, 429);
    let mut forger = from("192.0.2.7");
    forger.known = Some(format!("{cookie}A"));
    assert_eq!(forger.log_in(address, ADA.0, ADA.1).status, 429);
    // She gets in, from wherever she is; and stays known.
    ada.fields = from("203.0.113.9").fields;
    let answer = ada.log_in(address, ADA.0, ADA.1);
    assert_eq!(answer.status, 303, "{answer:?}");
    let set = answer.headers("set-cookie").find(|set| set.starts_with("baton_known_")).expect("a cookie");
    for part in ["Path=/admin/", "HttpOnly", "SameSite=Strict", "Max-Age=15552000"] {
        assert!(set.contains(part), "{set}");
    }
    // Whoever stole it has ten attempts, like anybody.
    let mut thief = from("198.51.100.99");
    thief.known.clone_from(&ada.known);
    let statuses: Vec<u16> = (0..12).map(|_| thief.log_in(address, ADA.0, "wrong password").status).collect();
    assert!(statuses.starts_with(&[WRONG; 10]) && statuses.contains(&429), "{statuses:?}");
}

#[test]
fn whoever_finds_no_place_has_spent_nothing() {
    let service = service("1");
    let crowd = at_once(&service, (0..60).map(|n| from(format!("192.0.2.{n}"))).collect());
    let (checked, full) = (count(&crowd, WRONG), count(&crowd, 503));
    assert!(checked > 0 && full > 0 && checked < 20, "{checked} {full}");
    assert_eq!(checked + full, 60, "{crowd:?}");
    assert!(crowd.iter().all(|answer| answer.status == WRONG || answer.header("retry-after").is_some()));
    // Twenty for the name, of which only those that were checked are gone; one more may have come back meanwhile.
    let rest = (0..30).take_while(|n| guess(&service, format!("198.51.100.{n}")) == WRONG).count();
    assert!((20..=23).contains(&(checked + rest)), "{checked} {rest}");
    // A line for each would be 60 and more.
    assert!(service.ctl(&["restart", "all"]).status.success());
    let lines = wait_for_refusals(&service, (60 + rest + 1) as u64);
    let busy: Vec<_> = lines.iter().filter(|line| line["action"] == "login_busy").collect();
    assert_eq!(busy.iter().filter_map(|line| line["attempts"].as_u64()).sum::<u64>(), full as u64);
    // One of each of 16 networks, and one for all others.
    assert!((1..=17).contains(&busy.len()), "{busy:?}");
}

#[test]
fn one_network_cannot_take_all_places() {
    let service = service("1");
    let crowd = at_once(&service, (0..20).map(|n| from(format!("2001:db8:0:{n:x}::1"))).collect());
    let (checked, refused) = (count(&crowd, WRONG), count(&crowd, 429));
    assert!(checked > 0 && refused > 0 && checked + refused == 20, "{checked} {refused}");
    // Those that were refused have taken nothing from the name.
    let rest = (0..30).take_while(|n| guess(&service, format!("198.51.100.{n}")) == WRONG).count();
    assert!((20..=23).contains(&(checked + rest)), "{checked} {rest}");
}

#[test]
fn refused_attempts_are_added_up_and_push_out_no_acts() {
    let service = service("1");
    let address = service.address;
    let mut ada = Visitor::logged_in(address);
    for n in 0..3 {
        for _ in 0..12 {
            from(format!("192.0.2.{n}")).log_in(address, "nobody", "wrong password");
        }
    }
    assert!(service.ctl(&["restart", "all"]).status.success());
    let lines = wait_for_refusals(&service, 36);
    assert!(lines.len() <= 12, "a first and a sum for each address, wrong or too many: {lines:?}");
    assert!(lines.iter().all(|line| line["client"].is_string() && line["user"].is_null()), "{lines:?}");
    let wrong = lines.iter().filter(|line| line["action"] == "login_refused");
    let wrong: u64 = wrong.filter_map(|line| line["attempts"].as_u64()).sum();
    // 20 for the name; more may have come back meanwhile.
    assert!((20..=23).contains(&wrong), "{lines:?}");
    let page = ada.get(address, "/admin/");
    let (acts, refusals) = page.body.split_once("Refused logins").expect("a list of its own");
    let acts = acts.split_once("Last acts").expect("a list").1;
    assert!(acts.contains("ada") && acts.contains("login") && !acts.contains("login_refused"), "{acts}");
    assert!(refusals.contains("login_refused") && refusals.contains("login_limited"), "{refusals}");
}
