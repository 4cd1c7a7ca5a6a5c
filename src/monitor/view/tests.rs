//! Whole screens.

use baton_ipc::control::{Degraded, Generation, PeerStatus};
use baton_ipc::scoreboard::{Cause, State};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;

use super::super::lines;
use super::super::testing::{past_takeover, sample, service, status};
use super::super::ui::Action;
use super::super::watcher::Wanted;
use super::*;

const ALL: Wanted = Wanted { metrics: true, log: true };

/// Received messages, errors, and messages that took less than 100 µs and less than 1 ms.
fn metrics(received: u32, errors: u32) -> String {
    format!(
        "websocket_messages_total{{type=\"received\"}} {received}\n\
         websocket_errors_total{{type=\"invalid_json\"}} {errors}\n\
         websocket_refused_total{{reason=\"origin\"}} 4\n\
         websocket_message_duration_seconds_bucket{{le=\"0.0001\"}} {}\n\
         websocket_message_duration_seconds_bucket{{le=\"0.001\"}} {received}\n\
         websocket_message_duration_seconds_bucket{{le=\"+Inf\"}} {received}\n\
         backplane_commit_duration_seconds_bucket{{le=\"0.0001\"}} {received}\n\
         backplane_commit_duration_seconds_bucket{{le=\"+Inf\"}} {received}\n",
        received / 2
    )
}

/// Eight looks at a service of two workers, one of which is down.
fn seen() -> Model {
    let mut model = Model::default();
    for (n, (connections, received)) in
        [(0, 0), (10, 100), (20, 300), (40, 700), (80, 1500), (60, 2100), (70, 2800), (80, 3600)]
            .into_iter()
            .enumerate()
    {
        let mut status = status("green", "running", &[connections, connections / 2]);
        status.slots[1].state = State::Backoff;
        status.slots[1].pid = None;
        status.slots[1].restarts = 3;
        status.slots[1].last_cause = Some("killed by SIGKILL".into());
        status.slots[1].last_cause_kind = Some(Cause::Signal);
        status.slots[1].retry_in_seconds = Some(4.0);
        status.last_takeover = Some(past_takeover());
        model.observe(sample(n as u64 * 2, Ok(service(vec![status], &metrics(received, n as u32 * 2)))));
    }
    model
}

fn book() -> Book {
    let mut book = Book::default();
    let line = |second: u32, level: &str, logger: &str, rest: &str| {
        let head = format!("\"timestamp\":\"2026-03-04T12:00:{second:02}.000Z\",\"level\":\"{level}\"");
        let raw = format!("{{{head},\"logger\":\"{logger}\",\"color\":\"green\",{rest}}}");
        lines::Line::parse(&raw, now())
    };
    book.add(vec![
        line(1, "INFO", "baton_supervisor", "\"message\":\"running\",\"workers\":2"),
        line(2, "WARN", "baton_worker", "\"message\":\"slow\",\"worker\":0"),
        line(3, "ERROR", "baton_supervisor", "\"message\":\"a worker died\",\"worker\":1"),
    ]);
    book
}

fn now() -> SystemTime {
    humantime::parse_rfc3339("2026-03-04T12:00:05Z").unwrap()
}

struct Screen {
    ui: Ui,
    palette: Palette,
    elapsed: Duration,
}

impl Screen {
    fn of(wanted: Wanted) -> Screen {
        let ui = Ui::new(wanted, Duration::from_secs(2));
        Screen { ui, palette: Palette { colors: true, unicode: true }, elapsed: Duration::from_secs(14) }
    }

    fn backend(&self, model: &Model, width: u16, height: u16) -> TestBackend {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let (book, ui) = (book(), &self.ui);
        let scene =
            Scene { model, book: &book, missed: 0, ui, palette: self.palette, now: now(), elapsed: self.elapsed };
        terminal.draw(|frame| draw(frame, &scene)).unwrap();
        terminal.backend().clone()
    }

    /// The lines of the screen, without the spaces at their ends.
    fn text(&self, model: &Model, width: u16, height: u16) -> String {
        let backend = self.backend(model, width, height);
        let lines = backend.buffer().content().chunks(width.into()).map(|cells| {
            let line: String = cells.iter().map(|cell| cell.symbol()).collect();
            line.trim_end().to_owned() + "\n"
        });
        lines.collect()
    }
}

/// The service of [`seen`] while it hands over to blue.
fn handing_over() -> Model {
    let mut model = seen();
    let mut from = status("green", "handing-over", &[20, 10]);
    let generation = Generation { color: "blue".into(), pid: 6001, version: "0.2.0".into() };
    from.peer = Some(PeerStatus { generation, role: "takes over".into() });
    let to = status("blue", "standby", &[60, 30]);
    model.observe(sample(16, Ok(service(vec![from, to], &metrics(3600, 14)))));
    model
}

#[test]
fn a_usual_terminal_shows_everything() {
    assert_eq!(
        Screen::of(ALL).text(&seen(), 80, 24),
        "\
baton 12:00:05  green  running  0.1.0  pid 4242  up 2h1m  0.0.0.0:8000
 workers: 1 of 2 serve ─────────────────────────────────────────────────────────
 SLOT STATE        PID UPTIME  CONNS   MSG/S   MESSAGES RESTARTS LAST CAUSE
    0 SERVING     4243   2h0m     80    40.0      8,000        0 -
    1 BACKOFF        -      -     40    20.0      4,000        3 killed by SIGKI
  all                            120   400.0     12,000        3
 connections 120 ─────────  messages/s 400.0 ────────  errors/s 1.0 ────────────
                      █▂▅█                       █▂▅█                    ███████
                     ▄████                      ▄████                    ███████
                   ▃▆█████                    ▃▆█████                    ███████
 latency, 14 s ────  errors: last minute, all ────  backplane, takeover ────────
p50     100us       invalid_json       14       14 embedded up
p95     910us       refused: origin     0        4 blue → green 3m12s ago
p99     982us                                      200 handed over in 37ms
3,600 messages                                     2 drained, 0 dropped
commit p99 99us                                    longest pause 2.38ms
 log ───────────────────────────────────────────────────────────────────────────
12:00:01 INFO  green supervisor running workers=2
12:00:02 WARN  green worker 0 slow
12:00:03 ERROR green supervisor a worker died worker=1



every 2s  q quit  ? help  p pause  +/- interval  Tab pane  Enter zoom
"
    );
}

#[test]
fn a_takeover_shows_both_generations_and_how_far_it_is() {
    assert_eq!(
        Screen::of(ALL).text(&handing_over(), 80, 28),
        "\
baton 12:00:05  green  handing-over  0.1.0  pid 4242  up 2h1m  0.0.0.0:8000
 workers: 4 of 4 serve ─────────────────────────────────────────────────────────
 SLOT STATE        PID UPTIME  CONNS   MSG/S   MESSAGES RESTARTS LAST CAUSE
    0 SERVING     4243   2h0m     20    10.0      2,000        0 -
    1 SERVING     4244   2h0m     10     5.0      1,000        0 -
 blue standby     4242   2h1m     90
    0 SERVING     4243   2h0m     60    30.0      6,000        0 -
    1 SERVING     4244   2h0m     30    15.0      3,000        0 -
  all                            120     0.0      3,000        0
 connections 120 ─────────  messages/s 0.0 ──────────  errors/s 0.0 ────────────
                     █▂▅██                      █▂▅█                    ███████
                    ▄█████                     ▄████                    ███████
                  ▃▆██████                   ▃▆█████                    ███████
 latency, 16 s ────  errors: last minute, all ────  backplane, takeover ────────
p50     100us       invalid_json       14       14 embedded up
p95     910us       refused: origin     0        4 green → blue
p99     982us                                      █████████████████████░░░░░░░░
3,600 messages                                     90 of 120 connections
commit p99 99us
 log ───────────────────────────────────────────────────────────────────────────
12:00:01 INFO  green supervisor running workers=2
12:00:02 WARN  green worker 0 slow
12:00:03 ERROR green supervisor a worker died worker=1




every 2s  q quit  ? help  p pause  +/- interval  Tab pane  Enter zoom
"
    );
}

#[test]
fn a_service_that_is_gone_leaves_what_was_known_last() {
    let mut model = seen();
    model.observe(sample(16, Err("no supervisor answers in /run/baton\x1b[2J".into())));
    let screen = Screen { elapsed: Duration::from_secs(26), ..Screen::of(ALL) }.text(&model, 80, 24);
    let (head, body) = screen.split_once('\n').unwrap();
    assert_eq!(head, "baton 12:00:05  last seen 12s ago: no supervisor answers in /run/baton\u{fffd}[2J");
    let was = Screen::of(ALL).text(&seen(), 80, 24);
    let table = |text: &str| text.lines().take(4).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(table(body), table(was.split_once('\n').unwrap().1));
    assert!(body.contains(" connections - ─") && body.contains(" messages/s - ─"), "{body}");
}

#[test]
fn a_small_terminal_shows_one_pane_at_a_time() {
    let mut screen = Screen::of(ALL);
    assert_eq!(
        screen.text(&seen(), 44, 10),
        "\
baton 12:00:05  green  running  0.1.0  pid 4
 workers: 1 of 2 serve ─────────────────────
 SLOT STATE     CONNS   MSG/S RESTARTS
    0 SERVING      80    40.0        0
    1 BACKOFF      40    20.0        3
  all             120   400.0        3



every 2s  q quit  ? help  p pause  Tab pane
"
    );
    (0..4).for_each(|_| screen.ui.act(Action::NextPane, 0, 0));
    let takeover = screen.text(&seen(), 30, 5);
    assert_eq!(
        takeover,
        "\
baton 12:00:05  green  running
 backplane, takeover ─────────
embedded up
blue → green 3m12s ago
200 handed over in 37ms
"
    );
    // Nobody can read these, and nothing breaks.
    for (width, height) in [(1, 1), (3, 2), (80, 1), (1, 30), (20, 3), (79, 17), (500, 200)] {
        screen.text(&handing_over(), width, height);
    }
}

#[test]
fn the_log_alone() {
    let screen = Screen::of(Wanted { metrics: false, log: true });
    assert_eq!(
        screen.text(&seen(), 80, 7),
        "\
baton 12:00:05  green  running  0.1.0  pid 4242  up 2h1m  0.0.0.0:8000
 log ───────────────────────────────────────────────────────────────────────────
12:00:01 INFO  green supervisor running workers=2
12:00:02 WARN  green worker 0 slow
12:00:03 ERROR green supervisor a worker died worker=1


"
    );
}

#[test]
fn without_the_log_the_charts_grow() {
    let screen = Screen::of(Wanted { metrics: true, log: false }).text(&seen(), 100, 24);
    assert!(!screen.contains(" log "), "{screen}");
    assert_eq!(screen.lines().filter(|line| line.ends_with("███████")).count(), 10, "{screen}");
}

#[test]
fn help_in_ascii_without_colours() {
    let mut screen = Screen::of(ALL);
    screen.ui.act(Action::Help, 0, 0);
    screen.palette = Palette { colors: false, unicode: false };
    assert_eq!(
        screen.text(&seen(), 80, 20),
        "\
baton 12:00:05  green  running  0.1.0  pid 4242  up 2h1m  0.0.0.0:8000
 workers: 1 of 2 serve ---------------------------------------------------------
 SLOT STATE        PID UPTIME  CONNS   MSG/S   MESSAGES RESTARTS LAST CAUSE
    0 SERVING     4243   2h0m     80    40.0      8,000        0 -
  all                            120   400.0     12,000        3
 connections+ keys ------------------------------------------------+------------
            |q, Esc, Ctrl-C          quit                          |     #######
            |Tab, Shift-Tab, arrows  next pane, previous pane      |     #######
            |arrows, PgUp PgDn       scroll the pane               |     #######
 latency, 14|Home, End               its beginning, its end        |ver --------
p50     100u|Enter, z                the pane alone, or all of them|
p95     910u|p, Space                pause, go on                  |2s ago
p99     982u|+ -                     look more often, less often   |n 37ms
3,600 messag|Ctrl-L, Ctrl-Z          draw anew, suspend            |ped
commit p99 9|?, h                    this help                     |8ms
 log -------+------------------------------------------------------+------------
12:00:01 INFO  green supervisor running workers=2
12:00:02 WARN  green worker 0 slow
12:00:03 ERROR green supervisor a worker died worker=1
every 2s  q quit  ? help  p pause  +/- interval  Tab pane  Enter zoom
"
    );
    let cells = screen.backend(&seen(), 80, 20).buffer().content().to_vec();
    assert!(cells.iter().all(|cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset)));
}

#[test]
fn what_needs_attention_is_coloured() {
    let backend = Screen::of(ALL).backend(&seen(), 80, 24);
    let color = |word: &str| {
        let text: Vec<char> = word.chars().collect();
        let cells = backend.buffer().content();
        let at = cells
            .windows(text.len())
            .position(|cells| cells.iter().zip(&text).all(|(cell, c)| cell.symbol().starts_with(*c)));
        cells[at.unwrap_or_else(|| panic!("{word} is not shown"))].fg
    };
    let words = ["SERVING", "BACKOFF", "INFO", "WARN", "ERROR", "invalid_json", "2 drained"].map(color);
    let (red, yellow, green) = (Color::Red, Color::Yellow, Color::Green);
    assert_eq!(words, [green, red, green, yellow, red, red, yellow]);
}

#[test]
fn a_degraded_backplane_and_missing_metrics_say_why() {
    let mut status = status("blue", "running", &[1]);
    status.backplane_degraded =
        Some(Degraded { since_seconds: 12.0, reason: "redis is unreachable".into(), slots: vec![0] });
    let mut service = service(vec![status], "");
    service.metrics = Err("0.0.0.0:8000 is not accepted".into());
    let mut model = Model::default();
    model.observe(sample(14, Ok(service)));
    let screen = Screen::of(ALL).text(&model, 140, 24);
    for text in ["DEGRADED for 12s: redis is unreachable", "no /metrics:", "0.0.0.0:8000 is not accepted"] {
        assert!(screen.contains(text), "{screen}");
    }
}

#[test]
fn it_says_when_it_is_paused_and_when_nobody_answers() {
    let mut screen = Screen::of(ALL);
    screen.elapsed = Duration::from_secs(24);
    let text = screen.text(&seen(), 80, 24);
    assert!(text.starts_with("baton 12:00:05  no answer for 10s"), "{text}");
    screen.ui.act(Action::Pause, 0, 0);
    let text = screen.text(&seen(), 80, 24);
    assert!(text.starts_with("baton 12:00:05  PAUSED  green  running"), "{text}");
    let text = screen.text(&Model::default(), 80, 24);
    assert!(text.starts_with("baton 12:00:05  PAUSED  looking for the service\n"), "{text}");
}
