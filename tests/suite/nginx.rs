//! The nginx site that is shipped, in a real nginx before a real service.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::harness::client::handshake;
use crate::harness::http::{self, Http};
use crate::harness::netns::in_network_of;
use crate::harness::nginx::{Nginx, Site, connect_from};
use crate::harness::service::Builder;
use crate::harness::{Client, Service, eventually, is_root};

/// The address from which nginx connects to a service on loopback.
const NGINX: &str = "127.0.0.1";

/// One of a client.
const CLIENT: &str = "127.0.0.77";

fn behind_nginx() -> Builder {
    Builder::new().with("--workers", 2).with("--trusted-proxies", NGINX)
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// `GET path` from this address, with further fields.
#[track_caller]
fn get_from(from: &str, to: SocketAddr, path: &str, fields: &str) -> http::Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n{fields}\r\n");
    Http::over(connect_from(ip(from), to)).ask(request)
}

#[tokio::test]
async fn messages_are_counted_over_tls_and_heartbeats_come() {
    let service = behind_nginx().with("--heartbeat-interval", "1s").start();
    let nginx = Nginx::start(service.address);
    let mut client = nginx.connect("/ws/chat/?session_uuid=abc123", &[]).await;
    assert_eq!(client.session(), "abc123");
    client.send("one").await;
    let (mut counts, mut beats) = (0, 0);
    while counts == 0 || beats < 2 {
        let json = client.json().await;
        counts += u64::from(json["count"] == 1);
        beats += u64::from(json["ts"].is_string());
    }
    client.leave().await;
    // Another way to the same session, without TLS.
    assert_eq!(service.count_one("abc123").await, 2);
    let large = "x".repeat(300_000);
    let mut client = nginx.connect("/ws/chat/?session_uuid=abc123", &[]).await;
    client.send(&large).await;
    while client.json().await["count"] != 3 {}
}

/// nginx cuts a silent connection after 60 s, unless it is told otherwise.
#[tokio::test]
async fn a_connection_on_which_nothing_is_said_stays() {
    let service = behind_nginx().start();
    let nginx = Nginx::start(service.address);
    let mut client = nginx.connect("/ws/chat/", &[]).await;
    client.send("one").await;
    assert_eq!(client.count().await, 1);
    let nothing = timeout(Duration::from_secs(65), futures_util::StreamExt::next(&mut client.socket)).await;
    assert!(nothing.is_err(), "{nothing:?}");
    client.send("two").await;
    assert_eq!(client.count().await, 2);
}

#[tokio::test]
async fn baton_knows_the_client_and_the_request_also_after_a_takeover() {
    let builder = behind_nginx().with("--log-level", "debug");
    let blue = builder.clone().with("--color", "blue").start();
    let nginx = Nginx::start(blue.address);
    let mut http = Http::over(connect_from(ip(CLIENT), nginx.address));
    // What it claims about itself is not passed on, but for the id.
    let claims = "X-Request-ID: trace-1\r\nX-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\n\
                  Forwarded: for=203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n";
    http.send(handshake("/ws/chat/?session_uuid=abc123").strip_suffix("\r\n").expect("a head").to_owned() + claims);
    let answer = http.head();
    assert_eq!((answer.status, answer.header("x-request-id")), (101, Some("trace-1")), "{answer:?}");
    let opened = blue.wait_log("connection opened");
    assert_eq!((&opened["client"], &opened["request_id"]), (&CLIENT.into(), &"trace-1".into()), "{opened}");
    let request = blue.wait_log_line("request", |line| line["message"] == "request" && line["request_id"] == "trace-1");
    assert_eq!((&request["client"], &request["tls"]), (&CLIENT.into(), &false.into()), "{request}");
    let clients =
        |service: &Service| -> Vec<String> { service.connections().into_iter().map(|row| row.client).collect() };
    assert_eq!(clients(&blue), [CLIENT]);

    // Over TLS, and with an id that baton would not take.
    let tls = nginx.connect("/ws/chat/?session_uuid=over-tls", &[("x-request-id", "no id, this")]).await;
    let id = tls.response.headers()["x-request-id"].to_str().expect("text").to_owned();
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let request = blue.wait_log_line("request", |line| line["message"] == "request" && line["request_id"] == *id);
    assert_eq!(request["tls"], true, "{request}");
    tls.leave().await;

    // Who goes round nginx is believed nothing.
    let direct = connect_from(ip("127.0.0.78"), blue.address);
    let peer = direct.local_addr().expect("a socket").to_string();
    let mut direct = Http::over(direct);
    direct.send(handshake("/ws/chat/").strip_suffix("\r\n").expect("a head").to_owned() + claims);
    assert_eq!(direct.head().status, 101);
    eventually("both are listed", || (clients(&blue).len() == 2).then_some(()));
    assert_eq!(clients(&blue), [CLIENT, &peer]);

    let green = builder.with("--color", "green").with("--takeover", "now").spawn();
    green.wait_log("running");
    eventually("both were handed over", || (clients(&green) == [CLIENT, &peer]).then_some(()));

    // The log of nginx tells of a WebSocket when it ends, and has the same ids.
    drop(http);
    let line = eventually("nginx logs the request", || {
        nginx.requests().into_iter().find(|line| line["request_id"] == "trace-1")
    });
    assert_eq!((&line["client"], &line["session_hash"]), (&CLIENT.into(), &"6ca13d52ca70".into()), "{line}");
    assert_eq!((&line["status"], &line["path"]), (&"101".into(), &"/ws/chat/".into()), "{line}");
}

#[tokio::test]
async fn the_log_of_nginx_has_no_token() {
    let service = behind_nginx().start();
    let nginx = Nginx::start(service.address);
    for path in ["/admin/sessions/abc123", "/admin/sessions/abc123/reset", "/admin//sessions/abc123?x=abc123"] {
        nginx.get(path).assert_error(404, "admin_off");
    }
    let client = nginx.connect("/ws/chat/?session_uuid=abc123", &[("x-request-id", "abc123")]).await;
    client.leave().await;
    let lines = eventually("nginx logs the requests", || Some(nginx.requests()).filter(|lines| lines.len() == 4));
    let of = |name: &str| -> Vec<&str> { lines.iter().filter_map(|line| line[name].as_str()).collect() };
    let page = "/admin/sessions/*";
    assert_eq!(of("path"), [page, &format!("{page}/reset"), page, "/ws/chat/"]);
    assert_eq!(of("session_hash"), ["", "", "", "6ca13d52ca70"]);
    assert!(!lines.iter().any(|line| line.to_string().contains("abc123")), "{lines:?}");
}

#[test]
fn a_unix_socket_is_a_proxy_like_others() {
    let builder = Builder::new().with("--workers", 1).with("--trusted-proxies", "unix");
    let socket = builder.dir().join("http.sock");
    let service = builder.with("--listen", format!("unix:{}", socket.display())).start();
    let nginx = Site::of(format!("unix:{}", socket.display())).start();
    let mut http = Http::over(connect_from(ip(CLIENT), nginx.address));
    http.send(handshake("/ws/chat/"));
    assert_eq!(http.head().status, 101);
    assert_eq!(service.wait_log("connection opened")["client"], CLIENT);
    assert_eq!(service.connections()[0].client, CLIENT);
}

/// Sends so many requests at once on one connection, of at most 1,000 (`keepalive_requests`): how many got which status.
fn pipeline(from: &str, to: SocketAddr, request: &str, times: usize) -> Vec<http::Answer> {
    let stream = connect_from(ip(from), to);
    let mut writer = stream.try_clone().expect("a descriptor");
    let requests = request.repeat(times);
    let writing = std::thread::spawn(move || writer.write_all(requests.as_bytes()));
    let mut http = Http::over(stream);
    let answers = (0..times).map(|_| http.answer()).collect();
    writing.join().expect("no panic").expect("nginx reads");
    answers
}

fn refused(answers: &[http::Answer]) -> usize {
    answers.iter().filter(|answer| answer.status == 429).count()
}

/// A handshake that baton refuses, so that its connection goes on.
fn half_a_handshake(to: SocketAddr) -> String {
    format!("GET /ws/chat/ HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
}

#[test]
fn handshakes_are_limited_to_100_a_second_for_each_address() {
    let service = behind_nginx().start();
    let nginx = Nginx::start(service.address);
    let begun = Instant::now();
    let answers = pipeline(CLIENT, nginx.address, &half_a_handshake(nginx.address), 900);
    let seconds = begun.elapsed().as_secs_f64();
    let passed = answers.len() - refused(&answers);
    // A burst of 100, the first one, and 100 a second.
    assert!(passed >= 101 && passed as f64 <= 102.0 + 100.0 * seconds, "{passed} of 900 in {seconds} s");
    assert!(refused(&answers) > 0, "900 in {seconds} s");
    for answer in answers {
        if answer.status == 429 {
            answer.assert_error(429, "too_many_requests");
            assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
        } else {
            assert!(matches!(answer.status, 400 | 426), "{answer:?}");
        }
    }
    // Other requests have a limit of their own, and others who connect too.
    assert_eq!(get_from(CLIENT, nginx.address, "/healthz", "").status, 200);
    let mut other = Http::over(connect_from(ip("127.0.0.78"), nginx.address));
    other.send(handshake("/ws/chat/"));
    assert_eq!(other.head().status, 101);
}

#[test]
fn an_address_has_so_many_websockets() {
    let service = behind_nginx().start();
    let shipped = "limit_conn baton_websockets 1000;";
    let nginx = Site::of(service.address).with(shipped, "limit_conn baton_websockets 5;").start();
    let dial = |from: &str| {
        let mut http = Http::over(connect_from(ip(from), nginx.address));
        http.send(handshake("/ws/chat/"));
        http
    };
    let mut open: Vec<Http> = (0..5).map(|_| dial(CLIENT)).collect();
    assert!(open.iter_mut().all(|http| http.head().status == 101));
    let refused = dial(CLIENT).answer();
    refused.assert_error(429, "too_many_requests");
    assert_eq!(refused.header("retry-after"), Some("1"), "{refused:?}");
    // Others, and what is no WebSocket, are not counted.
    assert_eq!(dial("127.0.0.78").head().status, 101);
    assert!((0..10).all(|_| get_from(CLIENT, nginx.address, "/healthz", "").status == 200));
    open.pop();
    eventually("room", || (dial(CLIENT).head().status == 101).then_some(()));
}

#[test]
fn other_requests_are_limited_to_1000_a_second_for_each_address() {
    let mut service = behind_nginx().start();
    let nginx = Nginx::start(service.address);
    assert_eq!(get_from(CLIENT, nginx.address, "/healthz", "").status, 200);
    // Without baton nginx answers at once, much faster than the limit, whatever else this machine does.
    service.kill_all();
    let (to, begun) = (nginx.address, Instant::now());
    let request = format!("GET /test/ HTTP/1.1\r\nHost: {to}\r\n\r\n");
    let answers: Vec<http::Answer> = (0..12).flat_map(|_| pipeline(CLIENT, to, &request, 999)).collect();
    let seconds = begun.elapsed().as_secs_f64();
    let passed = answers.len() - refused(&answers);
    assert!(passed >= 1000 && passed as f64 <= 1002.0 + 1000.0 * seconds, "{passed} in {seconds} s");
    assert!(refused(&answers) > 0, "{} in {seconds} s", answers.len());
    for answer in answers {
        let error = if answer.status == 429 { "too_many_requests" } else { "unavailable" };
        answer.assert_error(if answer.status == 429 { 429 } else { 502 }, error);
        assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
    }
    // Neither handshakes nor others who ask are refused for that.
    assert_eq!(pipeline(CLIENT, to, &half_a_handshake(to), 1)[0].status, 502);
    assert_eq!(get_from("127.0.0.78", to, "/test/", "").status, 502);
}

/// What a client may write to seem to be another one.
const DISGUISES: [&str; 5] = [
    "",
    "X-Real-IP: 127.0.0.1\r\n",
    "X-Forwarded-For: 127.0.0.1\r\n",
    "X-Forwarded-For: 10.0.0.1, 127.0.0.1\r\n",
    "Forwarded: for=127.0.0.1\r\nClient-IP: 127.0.0.1\r\nTrue-Client-IP: 127.0.0.1\r\n",
];

/// Ways to write the paths that are for operators. Not all of them lead anywhere, but none may lead there.
const PRIVATE: [&str; 12] = [
    "/metrics",
    "/status",
    "/admin/",
    "/admin",
    "/admin/login",
    "/metrics?x=1",
    "//metrics",
    "/./metrics",
    "/x/../status",
    "/%6detrics",
    "/test/%2e%2e/status",
    "/admin/../metrics",
];

#[test]
fn what_is_for_operators_is_for_nobody_from_outside() {
    if !is_root() {
        return;
    }
    let inside = [NGINX, "127.0.0.99", "10.1.2.3", "172.31.0.1", "192.168.7.7"];
    let outside = ["203.0.113.7", "172.32.0.1", "11.0.0.1", "192.169.0.1"];
    in_network_of(&[&inside[2..], &outside].concat(), || {
        let service = behind_nginx().start();
        let nginx = Nginx::start(service.address);
        for from in outside {
            for (path, fields) in PRIVATE.iter().flat_map(|path| DISGUISES.map(|fields| (path, fields))) {
                let answer = get_from(from, nginx.address, path, fields);
                assert_eq!(answer.status, 403, "{from} {path} {fields}: {answer:?}");
                answer.assert_error(403, "forbidden");
            }
            for path in ["/healthz", "/readyz", "/test/"] {
                assert_eq!(get_from(from, nginx.address, path, "").status, 200, "{from} {path}");
            }
        }
        for from in inside {
            for path in ["/metrics", "/status"] {
                assert_eq!(get_from(from, nginx.address, path, "").status, 200, "{from} {path}");
            }
            assert_ne!(get_from(from, nginx.address, "/admin/", "").status, 403, "{from}");
        }
    });
}

#[test]
fn behind_a_load_balancer_the_client_is_who_that_one_says() {
    let service = behind_nginx().start();
    let balancer = "127.0.0.50";
    let nginx = Site::of(service.address)
        .with("set_real_ip_from  10.0.0.0/8;", format!("set_real_ip_from {balancer};"))
        .start();
    let forwarded = "X-Forwarded-For: 127.0.0.1, 203.0.113.9\r\n";
    get_from(balancer, nginx.address, "/metrics", forwarded).assert_error(403, "forbidden");
    // From anybody else it is a word like any other.
    assert_eq!(get_from("127.0.0.51", nginx.address, "/metrics", forwarded).status, 200);
    let mut http = Http::over(connect_from(ip(balancer), nginx.address));
    http.send(handshake("/ws/chat/").strip_suffix("\r\n").expect("a head").to_owned() + forwarded + "\r\n");
    assert_eq!(http.head().status, 101);
    assert_eq!(service.wait_log("connection opened")["client"], "203.0.113.9");
}

/// Fields that every answer has, once.
const ALWAYS: [&str; 5] =
    ["content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy", "x-request-id"];

#[track_caller]
fn assert_headers(answer: &http::Answer) {
    let count = |name: &str| answer.head.lines().filter(|line| line.to_ascii_lowercase().starts_with(name)).count();
    for name in ALWAYS {
        assert_eq!(count(&format!("{name}:")), 1, "{name}: {answer:?}");
    }
    assert!(count("cache-control:") == 1 && count("strict-transport-security:") <= 1, "{answer:?}");
    assert!(answer.header("server").is_none_or(|server| server == "nginx"), "{answer:?}");
}

#[tokio::test]
async fn every_answer_has_the_security_headers_once() {
    let mut service = behind_nginx().start();
    let nginx = Nginx::start(service.address);
    for (path, status) in [("/test/", 200), ("/test/page.js", 200), ("/healthz", 200), ("/metrics", 200), ("/x", 404)] {
        for answer in [nginx.get(path), http::get(nginx.address, path).expect("an answer")] {
            assert_eq!(answer.status, status, "{path}: {answer:?}");
            assert_headers(&answer);
        }
        let (tls, plain) = (nginx.get(path), http::get(nginx.address, path).expect("an answer"));
        assert_eq!(tls.header("strict-transport-security"), Some("max-age=31536000"));
        assert_eq!(plain.header("strict-transport-security"), None, "without TLS it must not be sent");
    }
    // The page's own policy is the one that counts.
    assert_eq!(
        nginx.get("/test/").header("content-security-policy"),
        http::get(service.address, "/test/").expect("an answer").header("content-security-policy"),
    );
    let client: Client = nginx.connect("/ws/chat/", &[]).await;
    for name in ["x-request-id", "x-session-uuid", "strict-transport-security"] {
        assert_eq!(client.response.headers().get_all(name).iter().count(), 1, "{name}");
    }
    // To the site's name, whatever name the client has for it.
    let redirect = http::get(nginx.redirect, "/test/?session_uuid=abc").expect("an answer");
    assert_eq!(redirect.status, 308);
    assert_eq!(redirect.header("location"), Some("https://baton.example.org/test/?session_uuid=abc"));
    service.kill_all();
    let away = nginx.get("/test/");
    away.assert_error(502, "unavailable");
    assert_headers(&away);
}
