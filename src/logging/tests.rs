//! Whole lines, as a reader of the log gets them.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};
use tracing::subscriber::with_default;

use super::line::{Fields, Format, Process, render};
use super::*;

/// Renders every event with a fixed time.
struct Collect(Format, Process, Mutex<Vec<String>>);

impl<S: Subscriber> Layer<S> for &'static Collect {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let now = UNIX_EPOCH + Duration::from_millis(1_767_225_600_123);
        let line = render(self.0, false, now, event.metadata(), Fields::of(event), &self.1);
        self.2.lock().unwrap().push(line);
    }
}

fn lines(format: Format, worker: Option<Slot>, act: impl FnOnce()) -> Vec<String> {
    let process = Process { color: "green".into(), worker, pid: 42 };
    let collect: &'static Collect = Box::leak(Box::new(Collect(format, process, Mutex::new(Vec::new()))));
    with_default(tracing_subscriber::registry().with(collect), act);
    collect.2.lock().unwrap().clone()
}

#[test]
fn json_is_flat_and_in_order() {
    let lines = lines(Format::Json, Some(2), || {
        tracing::info!(target: "baton_worker::connection", session_hash = "abc", n = 3u64, ok = true, "opened {}", 1);
    });
    assert_eq!(
        lines,
        [concat!(
            r#"{"timestamp":"2026-01-01T00:00:00.123Z","level":"INFO","logger":"baton_worker::connection","#,
            r#""message":"opened 1","session_hash":"abc","n":3,"ok":true,"color":"green","worker":2,"pid":42}"#,
            "\n"
        )]
    );
}

#[test]
fn json_stays_one_valid_line_whatever_is_logged() {
    let hostile = "a \"quote\"\nnew\u{0}\u{1b}[31m\\ ünïcode \u{2028}";
    let error = io::Error::other("disk\nfull");
    let lines = lines(Format::Json, None, || {
        tracing::warn!(
            peer = hostile, debug = ?Some(hostile), %error, source = &error as &dyn std::error::Error,
            nan = f64::NAN, big = u64::MAX, small = i64::MIN, level = 7, "{hostile}"
        );
    });
    assert_eq!(lines[0].matches('\n').count(), 1);
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!((&line["message"], &line["peer"]), (&json!(hostile), &json!(hostile)));
    assert_eq!((&line["error"], &line["source"]), (&json!("disk\nfull"), &json!("disk\nfull")));
    assert_eq!((&line["nan"], &line["big"], &line["small"]), (&json!(null), &json!(u64::MAX), &json!(i64::MIN)));
    assert_eq!((&line["level"], &line["field.level"]), (&json!("WARN"), &json!(7)));
    assert!(line.get("worker").is_none());
}

#[test]
fn what_an_event_is_about_stands_before_who_tells_it() {
    let lines = lines(Format::Json, None, || tracing::info!(worker = 3, pid = 99, "replaced"));
    assert_eq!(lines[0].matches("\"pid\"").count(), 1);
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!((&line["worker"], &line["pid"]), (&json!(3), &json!(99)));
}

#[test]
fn pretty_is_short_and_cannot_be_forged() {
    let lines = lines(Format::Pretty, Some(0), || {
        tracing::error!(reason = "no space", code = 7, plain = "x", forged = "a\x1b[2J", "bad\nINFO all is well");
    });
    assert_eq!(
        lines,
        [
            "00:00:00.123 ERROR green worker 0: bad\\nINFO all is well reason=\"no space\" code=7 plain=x forged=a\\u{1b}[2J\n"
        ]
    );
}

#[test]
fn the_log_of_a_process_goes_to_its_file_and_its_ring_and_can_be_reopened() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings { directory: Some(directory.path().to_owned()), ..Settings::default() };
    let board = Rc::new(Scoreboard::create(2).unwrap());
    start_worker(&settings, "blue", 1, Side::B, Rc::clone(&board)).unwrap();
    tracing::info!(n = 1, "first");
    tracing::debug!("not at this level");
    let file = std::fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
    let rotated = directory.path().join("rotated");
    std::fs::rename(&file, &rotated).unwrap();
    reopen();
    tracing::info!(n = 2, "second");

    // Another thread's lines go to the sink, and not into the ring.
    std::thread::spawn(|| tracing::info!("third")).join().unwrap();
    let debug = Settings { filter: "debug".parse().unwrap(), ..settings };
    start_supervisor(&debug, "blue").unwrap();
    tracing::debug!("fourth");
    shutdown();
    tracing::info!("after the end");

    let read = |path| std::fs::read_to_string(path).unwrap();
    let messages = |text: String| -> Vec<String> {
        let message = |line: &str| serde_json::from_str::<Value>(line).unwrap()["message"].as_str().unwrap().to_owned();
        text.lines().map(message).collect()
    };
    assert_eq!(messages(read(rotated)), ["first"]);
    assert_eq!(messages(read(file)), ["second", "third"]);
    assert_eq!(messages(board.ring(Some(1), Side::B).read(None).text), ["first", "second", "fourth"]);
    assert_eq!(board.ring(Some(1), Side::A).read(None).text, "");
    assert!(dropped_lines() >= 1);
}

#[test]
fn a_panic_of_the_log_itself_does_not_wait_for_the_log() {
    let held = logger();
    log_panic("a full disk", "here");
    drop(held);
    assert!(!HELD.get());
}
