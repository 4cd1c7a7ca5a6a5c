//! Logging in, and all that is refused.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::admin::{ADA, SECRET_KEY, Visitor, create_superuser, sign_cookie, with_admin};
use crate::harness::http::{Http, get, request};
use crate::harness::service::Builder;
use crate::harness::{Service, eventually};

fn service() -> Service {
    let service = with_admin(Builder::new().with("--workers", "2")).start();
    service.wait_all_serve();
    service
}

#[test]
fn without_a_key_there_are_no_pages() {
    let service = Service::start(&[]);
    for path in ["/admin", "/admin/", "/admin/login", "/admin/live", "/admin/nothing"] {
        get(service.address, path).expect("an answer").assert_error(404, "admin_off");
    }
    get(service.address, "/administer").expect("an answer").assert_error(404, "not_found");
}

#[test]
fn whoever_has_the_password_gets_in_and_out() {
    let service = service();
    let address = service.address;
    let mut visitor = Visitor::default();
    let answer = visitor.get(address, "/admin/");
    assert_eq!((answer.status, answer.header("location")), (303, Some("/admin/login")));
    assert_eq!(get(address, "/admin").expect("an answer").header("location"), Some("/admin/"));
    let form = visitor.get(address, "/admin/login");
    let policy = form.header("content-security-policy").expect("a policy");
    for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'self'"] {
        assert!(policy.contains(part), "{policy}");
    }
    let cookie = form.header("set-cookie").expect("a cookie");
    for part in ["Path=/admin/", "HttpOnly", "SameSite=Strict", "Max-Age="] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "{cookie}");
    let before = visitor.cookie.clone();
    let answer = visitor.log_in(address, ADA.0, ADA.1);
    assert_eq!((answer.status, answer.header("location")), (303, Some("/admin/")), "{answer:?}");
    assert!(visitor.cookie.is_some() && visitor.cookie != before, "another cookie than that of the form");
    let page = visitor.get(address, "/admin/");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("ada") && page.body.contains("Workers"), "{}", page.body);
    assert_eq!(visitor.get(address, "/admin/login").header("location"), Some("/admin/"));
    assert_eq!(visitor.get(address, "/admin/live").json()["color"], "blue");
    visitor.get(address, "/admin/");
    let answer = visitor.post(address, "/admin/logout", &[]);
    assert_eq!((answer.status, answer.header("location"), visitor.cookie.as_ref()), (303, Some("/admin/login"), None));
    assert_eq!(visitor.get(address, "/admin/").status, 303);
}

#[test]
fn behind_tls_the_cookie_does_not_travel_without() {
    let secure = |service: &Service| {
        let mut visitor = Visitor { fields: "X-Forwarded-Proto: https\r\n".to_owned(), ..Visitor::default() };
        let form = visitor.get(service.address, "/admin/login");
        form.header("set-cookie").expect("a cookie").contains("; Secure")
    };
    let behind = with_admin(Builder::new().with("--trusted-proxies", "127.0.0.1")).start();
    assert!(secure(&behind));
    // Whom nobody trusts is not believed.
    assert!(!secure(&service()));
}

#[test]
fn wrong_names_and_passwords_look_the_same() {
    let service = service();
    let tries = [(ADA.0, "wrong password"), ("nobody", ADA.1), ("no name at all", ""), ("", ""), (ADA.0, "")];
    let long = "x".repeat(10_000);
    let mut bodies = Vec::new();
    for (name, password) in tries.into_iter().chain([(ADA.0, long.as_str())]) {
        let mut visitor = Visitor::default();
        let answer = visitor.log_in(service.address, name, password);
        assert_eq!(answer.status, 403, "{name}: {answer:?}");
        bodies.push(answer.body.replace(&visitor.token, ""));
    }
    assert!(bodies.iter().all(|body| *body == bodies[0]), "{bodies:#?}");
    // What was added up is reported at a worker's end.
    assert!(service.ctl(&["restart", "all"]).status.success());
    let audit = || -> Vec<_> { service.log_lines().filter(|line| line["logger"] == "audit").collect() };
    let sum = |lines: &[Value]| lines.iter().filter_map(|line| line["attempts"].as_u64()).sum::<u64>();
    let lines = eventually("six attempts", || Some(audit()).filter(|lines| sum(lines) == 6));
    assert!(lines.iter().all(|line| line["action"] == "login_refused" && line["client"] == "127.0.0.1"));
    // What was typed for a name may have been a password.
    assert!(!service.log().contains("nobody") && !service.log().contains("no name at all"));
    let of_ada: Vec<_> = lines.into_iter().filter(|line| line["user"] == ADA.0).collect();
    assert_eq!(sum(&of_ada), 3);
}

#[test]
fn cookies_that_are_not_ours_or_too_old_are_none() {
    let service = service();
    let visitor = Visitor::logged_in(service.address);
    let says = visitor.says();
    let status = |cookie: String| {
        let mut visitor = Visitor { cookie: Some(cookie), ..Visitor::default() };
        let (page, live) = (visitor.get(service.address, "/admin/"), visitor.get(service.address, "/admin/live"));
        if live.status != 200 {
            live.assert_error(403, "not_logged_in");
        }
        (page.status, live.status)
    };
    assert_eq!(status(sign_cookie(SECRET_KEY, &says)), (200, 200), "the test signs as the service does");
    assert_eq!(status(sign_cookie("another key of that length...", &says)), (303, 403));
    let own = visitor.cookie.clone().expect("a cookie");
    let (text, signature) = own.split_once('.').expect("a signature");
    let forged =
        sign_cookie("another key of that length...", &json!({"u": {"n": "eve", "p": ""}, "n": "x", "e": 1e12 as u64}));
    let (forged_text, _) = forged.split_once('.').expect("a signature");
    for cookie in
        ["".to_owned(), text.to_owned(), format!("{forged_text}.{signature}"), format!("{own}x"), "x".repeat(9000)]
    {
        assert_eq!(status(cookie.clone()), (303, 403), "{cookie}");
    }
    let with = |name: &str, value: serde_json::Value| {
        let mut says = says.clone();
        says[name] = value;
        sign_cookie(SECRET_KEY, &says)
    };
    assert_eq!(status(with("e", json!(1_700_000_000))), (303, 403), "expired");
    // Whoever knows the key alone does not get in.
    assert_eq!(status(with("u", json!({"n": ADA.0, "p": "AAAA"}))), (303, 403));
    assert_eq!(status(with("u", json!({"n": "eve", "p": says["u"]["p"]}))), (303, 403));
}

#[test]
fn forms_that_are_not_ours_are_refused() {
    let service = service();
    let address = service.address;
    let mut visitor = Visitor::logged_in(address);
    let other = Visitor::logged_in(address);
    let token = visitor.token.clone();
    for wrong in [String::new(), "AAAA".to_owned(), other.token.clone()] {
        visitor.token = wrong;
        assert_eq!(visitor.post(address, "/admin/logout", &[]).status, 403);
    }
    visitor.token = token;
    assert_eq!(visitor.get(address, "/admin/").status, 200, "still logged in");
    // A login form that nobody has shown logs nobody in.
    let mut stranger = Visitor::default();
    let answer = stranger.post(address, "/admin/login", &[("username", ADA.0), ("password", ADA.1)]);
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(stranger.says()["u"].is_null());
    // Nobody at all.
    assert_eq!(Visitor::default().post(address, "/admin/logout", &[]).status, 403);
}

#[test]
fn methods_types_and_sizes_are_checked() {
    let service = service();
    let address = service.address;
    let mut visitor = Visitor::logged_in(address);
    for (method, path, allow) in [
        ("POST", "/admin/", "GET, HEAD"),
        ("PUT", "/admin/login", "GET, HEAD, POST"),
        ("GET", "/admin/logout", "POST"),
        ("DELETE", "/admin/admin.css", "GET, HEAD"),
    ] {
        let answer = visitor.send(address, method, path, "", "");
        answer.assert_error(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{path}");
    }
    assert_eq!(visitor.get(address, "/admin/nothing").status, 404);
    let post =
        |visitor: &mut Visitor, fields: &str, body: &str| visitor.send(address, "POST", "/admin/logout", fields, body);
    post(&mut visitor, "", "token=x").assert_error(415, "unsupported_media_type");
    post(&mut visitor, "Content-Type: application/json\r\n", "{}").assert_error(415, "unsupported_media_type");
    const FORM: &str = "Content-Type: application/x-www-form-urlencoded; charset=UTF-8\r\n";
    post(&mut visitor, FORM, &format!("token={}", "x".repeat(65_536))).assert_error(413, "too_large");
    // Of a body that does not say how long it is only so much is read.
    let cookie = visitor.cookie.clone().expect("a cookie");
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    let chunked = format!(
        "POST /admin/logout HTTP/1.1\r\nHost: test\r\nConnection: close\r\nCookie: baton_admin={cookie}\r\n{FORM}\
         Transfer-Encoding: chunked\r\n\r\n{}",
        chunk.repeat(3)
    );
    request(address, &chunked).expect("an answer").assert_error(413, "too_large");
    assert_eq!(post(&mut visitor, FORM, "%ff=%zz&&=&token").status, 403);
    assert_eq!(visitor.get(address, "/admin/").status, 200);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let service = with_admin(Builder::new().with("--workers", "1").with("--handshake-timeout", "300ms")).start();
    let mut http = Http::connect(service.address);
    http.send(
        "POST /admin/login HTTP/1.1\r\nHost: test\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: 100\r\n\r\nusername=a",
    );
    http.answer().assert_error(408, "timeout");
    assert_eq!(http.rest(), b"");
}

#[test]
fn another_password_or_no_user_logs_out_at_once() {
    let service = service();
    let (address, state) = (service.address, service.dir().join("state"));
    let mut visitor = Visitor::logged_in(address);
    let act = |args: &[&str], input: &str| assert!(create_superuser(&state, args, input).status.success(), "{args:?}");
    act(&["--username", ADA.0, "--change-password"], "another horse battery\n");
    assert_eq!(visitor.get(address, "/admin/").status, 303);
    assert_eq!(Visitor::default().log_in(address, ADA.0, ADA.1).status, 403);
    let mut visitor = Visitor::default();
    assert_eq!(visitor.log_in(address, ADA.0, "another horse battery").status, 303);
    assert_eq!(visitor.get(address, "/admin/").status, 200);
    act(&["--username", ADA.0, "--delete"], "");
    assert_eq!(visitor.get(address, "/admin/").status, 303);
}

#[test]
fn who_is_logged_in_stays_so_whatever_happens_to_processes() {
    let builder = with_admin(Builder::new().with("--workers", "2"));
    let service = builder.clone().start();
    service.wait_all_serve();
    let mut visitor = Visitor::logged_in(service.address);
    assert!(service.ctl(&["restart", "all"]).status.success());
    assert_eq!(visitor.get(service.address, "/admin/").status, 200);
    service.signal(Signal::SIGKILL);
    eventually("its workers are gone", || get(service.address, "/healthz").is_err().then_some(()));
    drop(service);
    let service = builder.start();
    let page = visitor.get(service.address, "/admin/");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("login"), "the last acts are there: {}", page.body);
}

/// What a copy of a login's cookie is answered: `/admin/` and `/admin/live`, by whichever workers are asked.
fn copied(service: &Service, cookie: Option<&String>) -> Vec<(u16, u16)> {
    let mut visitor = Visitor { cookie: cookie.cloned(), ..Visitor::default() };
    let mut answers: Vec<(u16, u16)> = Vec::new();
    for _ in 0..8 {
        visitor.cookie = cookie.cloned();
        let page = visitor.get(service.address, "/admin/").status;
        visitor.cookie = cookie.cloned();
        answers.push((page, visitor.get(service.address, "/admin/live").status));
    }
    answers.dedup();
    answers
}

#[test]
fn logging_out_ends_the_login_for_all_workers_and_whoever_comes_after_them() {
    let builder = with_admin(Builder::new().with("--workers", "2"));
    let service = builder.clone().start();
    service.wait_all_serve();
    let (mut leaving, staying) = (Visitor::logged_in(service.address), Visitor::logged_in(service.address));
    let copy = leaving.cookie.clone();
    assert_eq!(copied(&service, copy.as_ref()), [(200, 200)]);
    assert_eq!(leaving.post(service.address, "/admin/logout", &[]).status, 303);
    assert_eq!(copied(&service, copy.as_ref()), [(303, 403)]);
    assert_eq!(copied(&service, staying.cookie.as_ref()), [(200, 200)], "another login of the same user");
    // Once more, by somebody with a copy of the page: nothing is to be ended, and nothing is noted.
    leaving.cookie.clone_from(&copy);
    assert_eq!(leaving.post(service.address, "/admin/logout", &[]).status, 303);
    let logouts = || service.log_lines().filter(|line| line["action"] == "logout").count();
    assert_eq!(eventually("a line of the log", || Some(logouts()).filter(|n| *n > 0)), 1);
    assert!(service.ctl(&["restart", "all"]).status.success());
    assert_eq!(copied(&service, copy.as_ref()), [(303, 403)]);
    service.signal(Signal::SIGKILL);
    eventually("its workers are gone", || get(service.address, "/healthz").is_err().then_some(()));
    drop(service);
    let service = builder.start();
    service.wait_all_serve();
    assert_eq!(copied(&service, copy.as_ref()), [(303, 403)]);
    assert_eq!(copied(&service, staying.cookie.as_ref()), [(200, 200)]);
}
