//! What has come of a run, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::tally::{Tally, rfc3339};
use super::times::{Times, show};
use crate::ctl::page;

/// The figures of a run. Times are in seconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) url: String,
    /// Whether all is as it should be.
    pub(super) passed: bool,
    /// What is not.
    pub(super) failures: Vec<String>,
    pub(super) interrupted: bool,
    /// Whether messages were sent when they were due (`--rate`), or when the last one was answered.
    pub(super) open_loop: bool,
    pub(super) processes: usize,
    test_duration: f64,
    sending_duration: f64,
    connections_created: u64,
    /// Those that were upgraded, and served until their work was done.
    connections_successful: u64,
    connections_dropped: u64,
    sessions_resumed: u64,
    messages_sent: u64,
    messages_received: u64,
    replies: u64,
    messages_abandoned: u64,
    notices: u64,
    errors: u64,
    wrong_answers: u64,
    errors_by_kind: BTreeMap<&'static str, u64>,
    examples: Vec<String>,
    /// In percent: the lower one of the connections' and the messages'.
    success_rate: f64,
    messages_per_second: f64,
    connections_per_second: f64,
    latency: Spread,
    /// How late messages were sent.
    send_delay: Spread,
    connect_time: Spread,
    heartbeats: Vec<Heartbeat>,
    closed_by_server: BTreeMap<u16, u64>,
    closes_answered: BTreeMap<u16, u64>,
    client_cpu_seconds: f64,
    client_cpu_per_message: f64,
    #[serde(skip)]
    drawing: String,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    average: f64,
    median: f64,
    p95: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Heartbeat {
    ts: String,
    connections: u64,
    /// From the first connection that heard it to the last.
    spread: f64,
}

/// What makes a run fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) min_success: f64,
    pub(super) max_p95: Option<Duration>,
}

/// How it was run.
#[derive(Debug)]
pub(super) struct Circumstances {
    pub(super) url: String,
    pub(super) elapsed: Duration,
    pub(super) interrupted: bool,
    pub(super) open_loop: bool,
    pub(super) processes: usize,
    /// Processes that are missing in the result.
    pub(super) lost: Vec<String>,
}

impl Report {
    pub(super) fn new(mut tally: Tally, run: Circumstances, limits: &Limits) -> Report {
        tally.find_missed_heartbeats();
        let share = |part: u64, whole: u64| if whole == 0 { 100.0 } else { 100.0 * part as f64 / whole as f64 };
        let successful = tally.opened.saturating_sub(tally.broken);
        let success_rate = share(successful, tally.created).min(share(tally.answered, tally.owed()));
        let rate = |number: u64, begin: Duration, end: Duration| {
            let seconds = end.saturating_sub(begin).as_secs_f64();
            if begin.is_zero() || seconds <= 0.0 { 0.0 } else { number as f64 / seconds }
        };
        let mut failures = run.lost;
        let wrong = tally.wrong();
        if wrong > 0 {
            failures.push(format!("the server has answered wrongly {wrong} times"));
        }
        if success_rate < limits.min_success {
            failures.push(format!(
                "the success rate is {success_rate:.3} %, and at least {} % was asked for",
                limits.min_success
            ));
        }
        let p95 = tally.latency.percentile(95.0);
        if let Some(most) = limits.max_p95.filter(|most| p95 > *most) {
            failures.push(format!(
                "the 95th percentile of the latency is {}, and at most {} was asked for",
                show(p95),
                show(most)
            ));
        }
        let heartbeat = |(at_ms, beat): (&u64, &super::tally::Beat)| Heartbeat {
            ts: rfc3339(*at_ms).to_string(),
            connections: beat.heard,
            spread: (beat.last - beat.first).as_secs_f64(),
        };
        let cpu = tally.cpu.as_secs_f64();
        Report {
            passed: failures.is_empty(),
            failures,
            url: run.url,
            interrupted: run.interrupted,
            open_loop: run.open_loop,
            processes: run.processes,
            test_duration: run.elapsed.as_secs_f64(),
            sending_duration: tally.last_answered.saturating_sub(tally.first_sent).as_secs_f64(),
            connections_created: tally.created,
            connections_successful: successful,
            connections_dropped: tally.dropped,
            sessions_resumed: tally.resumed,
            messages_sent: tally.sent,
            messages_received: tally.received,
            replies: tally.answered,
            messages_abandoned: tally.abandoned,
            notices: tally.notices,
            errors: tally.errors(),
            wrong_answers: wrong,
            errors_by_kind: tally.faults.iter().map(|(fault, number)| (fault.words(), *number)).collect(),
            success_rate,
            messages_per_second: rate(tally.answered, tally.first_sent, tally.last_answered),
            connections_per_second: rate(tally.opened, tally.first_connect, tally.last_opened),
            latency: Spread::of(&tally.latency),
            send_delay: Spread::of(&tally.lateness),
            connect_time: Spread::of(&tally.connect),
            heartbeats: tally.beats.iter().map(heartbeat).collect(),
            client_cpu_seconds: cpu,
            client_cpu_per_message: if tally.answered == 0 { 0.0 } else { cpu / tally.answered as f64 },
            drawing: tally.latency.drawing(),
            examples: tally.examples,
            closed_by_server: tally.closed_by_server,
            closes_answered: tally.closes_answered,
        }
    }

    /// As one reads it.
    pub(super) fn text(&self) -> String {
        let mut text = format!("Load test of {}\n\n", self.url);
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<26}{value}");
        };
        let time = |seconds: f64| show(Duration::from_secs_f64(seconds));
        line("Test Duration", time(self.test_duration));
        line("Connections Created", self.connections_created.to_string());
        line("Connections Successful", self.connections_successful.to_string());
        if self.connections_dropped + self.sessions_resumed > 0 {
            line(
                "Connections Dropped",
                format!("{} on purpose, {} resumed", self.connections_dropped, self.sessions_resumed),
            );
        }
        line("Total Messages Sent", self.messages_sent.to_string());
        line("Total Messages Received", format!("{} ({} replies)", self.messages_received, self.replies));
        if self.messages_abandoned > 0 {
            line(
                "Messages Abandoned",
                format!("{} on connections that were dropped on purpose", self.messages_abandoned),
            );
        }
        line("Total Errors", self.errors.to_string());
        line("Success Rate", format!("{:.3} %", self.success_rate));
        line("Messages per Second", format!("{:.0}", self.messages_per_second));
        line("Connections per Second", format!("{:.0}", self.connections_per_second));
        line(
            "Connect Time",
            format!(
                "median {}, p99 {}, max {}",
                time(self.connect_time.median),
                time(self.connect_time.p99),
                time(self.connect_time.max)
            ),
        );
        let loop_ = match self.open_loop {
            true => "from when a message should have been sent",
            false => "closed loop: each connection waits for its reply, so a slow server is sent less",
        };
        line("Latency", loop_.to_owned());
        let of_replies = |seconds: f64| if self.replies == 0 { "-".to_owned() } else { time(seconds) };
        let latency = &self.latency;
        for (name, value) in [
            ("Average Latency", latency.average),
            ("Median Latency", latency.median),
            ("95th Percentile", latency.p95),
            ("99th Percentile", latency.p99),
            ("99.9th Percentile", latency.p999),
            ("Maximum Latency", latency.max),
        ] {
            line(name, of_replies(value));
        }
        if self.open_loop {
            line("Send Delay", format!("p99 {}, max {}", time(self.send_delay.p99), time(self.send_delay.max)));
        }
        line("Heartbeats", self.heartbeat_words());
        line("Closes", self.close_words());
        let share =
            if self.sending_duration > 0.0 { 100.0 * self.client_cpu_seconds / self.sending_duration } else { 0.0 };
        let processes =
            if self.processes == 1 { "1 process".to_owned() } else { format!("{} processes", self.processes) };
        line(
            "Client CPU",
            format!("{} per message, {share:.0} % of a core, {processes}", of_replies(self.client_cpu_per_message)),
        );
        self.tail(text)
    }

    fn tail(&self, mut text: String) -> String {
        if !self.drawing.is_empty() {
            let _ = write!(text, "\nLatency of the replies\n{}", self.drawing);
        }
        if self.errors > 0 {
            let _ = writeln!(text, "\nErrors");
            for (kind, number) in &self.errors_by_kind {
                let _ = writeln!(text, "  {number:>8}  {kind}");
            }
            let _ = writeln!(text, "Examples");
            for example in &self.examples {
                let _ = writeln!(text, "  {}", page::printable(example));
            }
        }
        if self.interrupted {
            let _ = writeln!(text, "\nInterrupted: this is what there was until then.");
        }
        text.push('\n');
        for failure in &self.failures {
            let _ = writeln!(text, "FAILED: {failure}");
        }
        if self.passed {
            let _ = writeln!(text, "PASSED");
        }
        text
    }

    fn heartbeat_words(&self) -> String {
        let Some(widest) = self.heartbeats.iter().map(|beat| beat.spread).reduce(f64::max) else {
            return "none heard".to_owned();
        };
        let heard = self.heartbeats.iter().map(|beat| beat.connections);
        let (least, most) = (heard.clone().min().unwrap_or(0), heard.max().unwrap_or(0));
        let connections = if least == most { least.to_string() } else { format!("{least} to {most}") };
        let spread = show(Duration::from_secs_f64(widest));
        format!("{}, each heard by {connections} connections, within {spread}", self.heartbeats.len())
    }

    fn close_words(&self) -> String {
        let list = |closes: &BTreeMap<u16, u64>| {
            closes.iter().map(|(code, number)| format!("{code} × {number}")).collect::<Vec<_>>().join(", ")
        };
        let mut words = Vec::new();
        if !self.closes_answered.is_empty() {
            words.push(format!("answered {}", list(&self.closes_answered)));
        }
        if !self.closed_by_server.is_empty() {
            words.push(format!("by the server {}", list(&self.closed_by_server)));
        }
        if words.is_empty() { "none".to_owned() } else { words.join("; ") }
    }
}

impl Spread {
    fn of(times: &Times) -> Spread {
        let at = |percent| times.percentile(percent).as_secs_f64();
        Spread {
            average: times.mean().as_secs_f64(),
            median: at(50.0),
            p95: at(95.0),
            p99: at(99.0),
            p999: at(99.9),
            max: times.max().as_secs_f64(),
        }
    }
}
