//! The test page in a real browser.

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::harness::service::Builder;
use crate::harness::{Browser, Service, eventually_async, private_address};

/// Most lines that the log keeps.
const LOG_LIMIT: usize = 500;

/// What must be at hand without scrolling, on any screen.
const CONTROLS: [&str; 10] = [
    "#connect",
    "#state",
    "#count",
    "#log",
    "#input",
    "#send",
    "#example-json",
    "#example-invalid",
    "#example-burst",
    "#example-binary",
];

/// Whether the log shows its end.
const AT_NEWEST: &str = "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight < 8)
                         (document.querySelector('#log'))";

/// The page of a service.
struct Page {
    browser: Browser,
    url: String,
}

impl Page {
    async fn open(service: &Service) -> Page {
        let mut page = Page { browser: Browser::start().await, url: format!("http://{}/test/", service.address) };
        page.browser.open(&page.url).await;
        page
    }

    /// Opens the page and connects it.
    async fn connect(service: &Service) -> Page {
        let mut page = Page::open(service).await;
        page.browser.click("#connect").await;
        page.wait_state("connected").await;
        page
    }

    async fn text(&mut self, selector: &str) -> String {
        let value = self.browser.evaluate(&format!("document.querySelector({selector:?}).textContent")).await;
        value.as_str().expect("text").to_owned()
    }

    async fn wait_text(&mut self, selector: &str, text: &str) {
        self.browser.wait_for(&format!("document.querySelector({selector:?}).textContent === {text:?}")).await;
    }

    async fn wait_state(&mut self, state: &str) {
        self.wait_text("#state", state).await;
    }

    /// Types a message and presses Enter.
    async fn say(&mut self, text: &str) {
        self.browser.click("#input").await;
        self.browser.type_in(text).await;
        self.browser.press_enter().await;
    }

    /// Says something, which must be answered with this count.
    async fn say_and_count(&mut self, text: &str, count: u64) {
        self.say(text).await;
        self.wait_text("#count", &count.to_string()).await;
    }

    /// The texts of the log's lines of a kind, oldest first.
    async fn log(&mut self, direction: &str, kind: &str) -> Vec<String> {
        let lines = self.browser.evaluate(&lines(direction, kind)).await;
        serde_json::from_value(lines).expect("texts")
    }

    /// Waits for a line that contains `text`, and returns it.
    async fn wait_line(&mut self, direction: &str, kind: &str, text: &str) -> String {
        let lines = lines(direction, kind);
        let line = self.browser.wait_for(&format!("{lines}.find((line) => line.includes({text:?}))")).await;
        line.as_str().expect("text").to_owned()
    }

    /// Nothing has gone wrong in the page since it was opened.
    async fn assert_well(&mut self) {
        assert_eq!(self.browser.complaints().await, [""; 0]);
    }

    /// Nothing is wider than the screen, and what is needed is on it.
    async fn assert_fits(&mut self, width: u32, height: u32) {
        let widest = self.browser.evaluate("document.scrollingElement.scrollWidth").await;
        assert!(widest.as_u64() <= Some(width.into()), "{widest} pixels on a screen of {width}");
        assert_eq!(self.browser.evaluate("innerWidth").await, width);
        for control in CONTROLS {
            let expression = format!(
                "(({{ left, top, right, bottom }}) => [left, top, right, bottom])
                 (document.querySelector({control:?}).getBoundingClientRect())"
            );
            let edges: [f64; 4] = serde_json::from_value(self.browser.evaluate(&expression).await).expect("numbers");
            let [left, top, right, bottom] = edges;
            let is_inside = left >= 0.0 && top >= 0.0 && right <= width.into() && bottom <= height.into();
            assert!(is_inside && right - left >= 8.0 && bottom - top >= 16.0, "{control} is at {edges:?}");
        }
    }
}

/// An expression: the log's lines of a kind, as texts.
fn lines(direction: &str, kind: &str) -> String {
    let selector = format!("#log .entry[data-direction={direction}][data-kind={kind}] .text");
    format!("Array.from(document.querySelectorAll({selector:?}), (line) => line.textContent)")
}

#[tokio::test]
async fn messages_are_counted_and_everything_is_shown_as_it_comes() {
    let service = Service::start(&[("--heartbeat-interval", "1s")]);
    let mut page = Page::open(&service).await;
    page.wait_state("disconnected").await;
    assert_eq!(page.browser.evaluate("document.querySelector('#send').disabled").await, true);

    page.browser.click("#connect").await;
    page.wait_state("connected").await;
    page.say_and_count("hello", 1).await;
    assert_eq!(page.browser.evaluate("document.querySelector('#input').value").await, "");
    // What came over the network or from the user is text and nothing else.
    page.say_and_count("<b id=made>grüße 🏃</b>", 2).await;
    page.wait_line("out", "message", "<b id=made>grüße 🏃</b>").await;
    assert_eq!(page.browser.evaluate("document.querySelector('#made')").await, Value::Null);
    page.say_and_count(r#"{"a":1}"#, 3).await;
    page.browser.click("#example-text").await;
    page.wait_text("#count", "4").await;
    page.browser.click("#example-json").await;
    page.wait_text("#count", "5").await;

    page.browser.click("#example-invalid").await;
    let error = page.wait_line("in", "error", "invalid_json").await;
    let error: Value = serde_json::from_str(&error).expect("JSON");
    assert!(error["detail"].is_string(), "{error}");
    assert_eq!(page.text("#count").await, "5");

    page.browser.click("#example-burst").await;
    page.wait_text("#count", "105").await;
    page.wait_text("#unanswered", "0").await;
    page.wait_line("in", "message", r#"{"count":105}"#).await;
    let replies: Vec<String> = (1..=105).map(|n| json!({ "count": n }).to_string()).collect();
    assert_eq!(page.log("in", "message").await, replies);
    assert!(page.text("#rtt").await.ends_with(" ms"));

    let heartbeat = page.wait_line("in", "heartbeat", "ts").await;
    let heartbeat: Value = serde_json::from_str(&heartbeat).expect("JSON");
    assert!(heartbeat["ts"].as_str().is_some_and(|ts| ts.ends_with("Z")), "{heartbeat}");
    assert!(page.text("#heartbeat").await.ends_with("Z"));

    // The links of the head lead somewhere; a page of JSON is not the business of this test.
    let links = page.browser.evaluate("Array.from(document.querySelectorAll('nav a'), (link) => link.pathname)").await;
    assert_eq!(links, json!(["/status", "/metrics"]));
    page.assert_well().await;
}

#[tokio::test]
async fn a_session_goes_on_until_there_is_a_new_one() {
    let service = Service::start(&[("--ws-base-url", "wss://chat.example:8443")]);
    let mut page = Page::connect(&service).await;
    let session = page.text("#session").await;
    page.say_and_count("one", 1).await;
    service.slot_of(&session);

    page.browser.click("#connect").await;
    page.wait_line("in", "close", "1000").await;
    page.wait_state("disconnected").await;
    page.browser.click("#connect").await;
    page.wait_state("connected").await;
    page.say_and_count("two", 2).await;

    // It outlives the page.
    let url = page.url.clone();
    page.browser.open(&url).await;
    assert_eq!((page.text("#session").await, page.text("#count").await), (session.clone(), "2".to_owned()));
    page.browser.click("#connect").await;
    page.wait_state("connected").await;
    page.say_and_count("three", 3).await;

    page.browser.click("#new-session").await;
    let new = page.text("#session").await;
    assert_ne!(new, session);
    page.wait_line("here", "open", "/ws/chat/").await;
    page.browser.wait_for(&format!("{}.length === 2", lines("here", "open"))).await;
    page.say_and_count("one again", 1).await;

    // And is found by its name.
    page.browser.open(&format!("{url}?session_uuid={session}")).await;
    assert_eq!(page.text("#session").await, session);
    page.browser.click("#address-configured").await;
    let address = "document.querySelector('#address').value";
    assert_eq!(page.browser.evaluate(address).await, "wss://chat.example:8443/ws/chat/");
    page.browser.click("#address-here").await;
    assert_eq!(page.browser.evaluate(address).await, service.url());
    page.browser.click("#connect").await;
    page.wait_state("connected").await;
    page.say_and_count("four", 4).await;
    page.assert_well().await;
}

/// A host name that a browser does not trust more than any other, which `localhost` and loopback addresses it does.
const HOST: &str = "baton.test";

/// The program in docs/API.md, as a script of its own rather than a module.
fn documented_client() -> String {
    let api = include_str!("../../docs/API.md");
    let (_, behind) = api.split_once("\n## Reconnecting\n").expect("its chapter");
    let program =
        behind.split_once("\n```js\n").and_then(|(_, program)| program.split_once("\n```\n")).expect("a program");
    program.0.replace("export function", "function")
}

#[tokio::test]
async fn the_page_and_the_documented_client_work_over_plain_http() {
    let service = Service::start(&[]);
    let rule = format!("--host-resolver-rules=MAP {HOST} {}", service.address.ip());
    let authority = format!("{HOST}:{}", service.address.port());
    let url = format!("http://{authority}/test/");
    let mut page = Page { browser: Browser::start_with(&[&rule]).await, url };
    page.browser.open(&page.url.clone()).await;
    let context = page.browser.evaluate("[isSecureContext, typeof crypto.randomUUID]").await;
    assert_eq!(context, json!([false, "undefined"]), "a page that has more than one over plain http");

    page.browser.click("#connect").await;
    page.wait_state("connected").await;
    page.say_and_count("hello", 1).await;

    // As at the first visit: there is no session in the storage.
    let base = format!("ws://{authority}");
    let program = documented_client();
    let run = format!(
        "(() => {{
           {program}
           globalThis.counts = [];
           const session = localStorage.getItem('my session');
           globalThis.client = connect({base:?}, {{ session, onCount: (count) => counts.push(count) }});
           return client.session;
         }})()"
    );
    let session = page.browser.evaluate(&run).await.as_str().expect("a session").to_owned();
    let uuid_v4 = "/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(client.session)";
    assert_eq!(page.browser.evaluate(uuid_v4).await, true, "{session}");
    page.browser.wait_for("client.send('one') && client.send('two')").await;
    page.browser.wait_for("counts.length === 2").await;
    assert_eq!(page.browser.evaluate("counts").await, json!([1, 2]));
    service.slot_of(&session);
    page.assert_well().await;
}

#[tokio::test]
async fn it_comes_back_by_itself() {
    let builder = Builder::new().with("--retry-spread", "1s");
    let service = builder.clone().listen(private_address()).start();
    let mut page = Page::connect(&service).await;
    let session = page.text("#session").await;
    page.say_and_count("one", 1).await;

    let worker = service.worker_in(service.slot_of(&session)).expect("it serves the page");
    kill(worker, Signal::SIGKILL).expect("a worker");
    page.wait_line("in", "close", "1006").await;
    page.browser.wait_for(&format!("{}.length === 2", lines("here", "open"))).await;
    page.say_and_count("two", 2).await;

    service.wait_all_serve();
    let slot = service.slot_of(&session).to_string();
    let stopped = service.ctl(&["stop", &slot]);
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(page.wait_line("in", "bye", "bye").await, r#"{"bye":true,"total":2}"#);
    page.wait_line("in", "close", "1001 retry_ms=").await;
    page.browser.wait_for(&format!("{}.length === 3", lines("here", "open"))).await;
    page.say_and_count("three", 3).await;
    page.assert_well().await;

    // All of it goes, and comes back.
    let address = service.address;
    assert!(service.stop().success());
    page.browser.wait_for(&format!("{}.length === 2", lines("in", "bye"))).await;
    page.wait_state("reconnecting").await;
    assert!(page.text("#countdown").await.starts_with("in "));
    // At once, and not when the time has come; the first such end was that of the killed worker.
    page.browser.click("#retry").await;
    let cut_off = format!("{}.filter((line) => line === '1006')", lines("in", "close"));
    page.browser.wait_for(&format!("{cut_off}.length >= 2")).await;
    let service = builder.listen(address).start();
    page.wait_state("connected").await;
    page.say_and_count("four", 4).await;
    service.slot_of(&session);
    for complaint in page.browser.complaints().await {
        assert!(complaint.contains("ERR_CONNECTION_REFUSED"), "{complaint}");
    }
}

#[tokio::test]
async fn it_stays_away_when_coming_back_makes_no_sense() {
    let service = Service::start(&[]);
    let mut page = Page::connect(&service).await;
    page.browser.click("#example-binary").await;
    page.wait_line("out", "message", "binary, 3 bytes").await;
    page.wait_line("in", "close", "1003 only text messages are counted").await;
    page.wait_state("disconnected").await;
    // Nothing is sent to nobody, and nothing that was typed is lost.
    page.say("to whom?").await;
    assert_eq!(page.log("out", "message").await, ["binary, 3 bytes"]);
    assert_eq!(page.browser.evaluate("document.querySelector('#input').value").await, "to whom?");

    page.browser.click("#connect").await;
    page.wait_state("connected").await;
    page.browser.click("#input").await;
    page.browser.press_enter().await;
    page.wait_text("#count", "1").await;
    // 200 lines each.
    for n in 1..=3 {
        page.browser.click("#example-burst").await;
        page.wait_text("#count", &(1 + n * 100).to_string()).await;
    }
    page.wait_line("in", "message", r#"{"count":301}"#).await;
    assert_eq!(page.browser.evaluate("document.querySelectorAll('#log > *').length").await, LOG_LIMIT);
    assert_eq!(page.browser.evaluate(AT_NEWEST).await, true, "the newest line is out of sight");

    // Whoever reads what was before is left there.
    // A wheel that turns while the page still lays out can be lost on its way; a hand turns it again.
    eventually_async("the log is scrolled back", async || {
        page.browser.settle().await;
        page.browser.wheel("#log", -600).await;
        page.browser.settle().await;
        let hidden = page.browser.evaluate("document.querySelector('#newest').hidden").await;
        (hidden == false).then_some(())
    })
    .await;
    page.say_and_count("news", 302).await;
    page.wait_line("in", "message", r#"{"count":302}"#).await;
    page.browser.settle().await;
    assert_eq!(page.browser.evaluate(AT_NEWEST).await, false, "the log has jumped");
    page.browser.click("#newest").await;
    page.browser.wait_for(AT_NEWEST).await;
    page.browser.click("#clear").await;
    assert_eq!(page.browser.evaluate("document.querySelectorAll('#log > *').length").await, 0);
    page.assert_well().await;
}

#[tokio::test]
async fn it_fits_a_phone_and_the_night() {
    let service = Service::start(&[]);
    let mut page = Page::open(&service).await;
    page.assert_fits(1280, 800).await;
    page.browser.be_phone(390, 844).await;
    page.browser.open(&page.url).await;
    page.assert_fits(390, 844).await;
    page.browser.click("#connect").await;
    page.wait_state("connected").await;
    page.say_and_count(&"a-word-without-an-end-".repeat(100), 1).await;
    page.browser.click("#example-invalid").await;
    page.wait_line("in", "error", "invalid_json").await;
    page.browser.click("#example-burst").await;
    page.wait_text("#count", "101").await;
    page.assert_fits(390, 844).await;
    // As the keyboard comes, and as the phone is turned.
    for (width, height) in [(360, 640), (844, 390), (390, 540), (390, 844)] {
        page.browser.be_phone(width, height).await;
        page.browser.wait_for(&format!("innerWidth === {width} && innerHeight === {height}")).await;
        page.browser.settle().await;
        assert_eq!(page.browser.evaluate(AT_NEWEST).await, true, "{width} × {height}: the newest line is out of sight");
    }
    // What is folded away at first.
    page.browser.click("summary").await;
    page.browser.wait_for("document.querySelector('#settings').open").await;
    page.assert_fits(390, 844).await;

    let brightness = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]
                      .map((color) => color.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0))";
    for (scheme, night) in [("light", false), ("dark", true)] {
        page.browser.prefer(scheme).await;
        let [ground, ink]: [u32; 2] = serde_json::from_value(page.browser.evaluate(brightness).await).expect("two");
        assert_eq!(ground < ink, night, "{scheme}: text of {ink} on {ground}");
        assert!(ground.abs_diff(ink) > 384, "{scheme}: text of {ink} on {ground}");
    }
    page.assert_fits(390, 844).await;
    page.assert_well().await;
}
