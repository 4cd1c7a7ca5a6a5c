//! The scoreboard as OpenMetrics text. Any worker answers for the whole generation.

use std::time::Duration;

use baton_ipc::scoreboard::{COUNTERS, Cause, Fate, GAUGES, Outcome, SlotView, State};
use baton_ipc::{Scoreboard, Side, Slot};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::{
    BATCH, COMMIT, DURATION, FAMILIES, GAUGE_NAMES, Gauge, Histogram, PAUSE, SINGLE, SINGLES, SLOT_COUNTERS,
    SLOT_GAUGES,
};

/// What is not on the scoreboard.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) color: String,
    pub(crate) version: &'static str,
    pub(crate) heartbeat_interval: Duration,
}

/// What a scrape answers, and its `Content-Type`.
pub(crate) fn encode(board: &Scoreboard, about: About) -> (String, &'static str) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot::of(board, about)));
    let mut text = String::new();
    // Writing to a String cannot fail, and the collector returns no error of its own.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    (text, "application/openmetrics-text; version=1.0.0; charset=utf-8")
}

/// Of these the generation has what its worst worker has; the others add up.
const WORST: [Gauge; 3] = [Gauge::HeartbeatLag, Gauge::Startup, Gauge::Pending];

/// All slots added up, at one moment.
#[derive(Debug)]
struct Snapshot {
    about: About,
    counters: [u64; COUNTERS],
    gauges: [u64; GAUGES],
    states: [u64; State::ALL.len()],
    restarts: [u64; Cause::ALL.len()],
    slots: Vec<Alone>,
    takeovers: [u64; Outcome::ALL.len()],
    fates: [u64; Fate::ALL.len()],
    takeover_ms: u64,
}

/// What is told of one slot.
#[derive(Debug)]
struct Alone {
    slot: String,
    gauges: [u64; SLOT_GAUGES.len()],
    counters: [u64; SLOT_COUNTERS.len()],
}

impl Alone {
    fn of(slot: Slot, view: SlotView<'_>) -> Alone {
        Alone {
            slot: slot.to_string(),
            gauges: SLOT_GAUGES.map(|(gauge, ..)| view.gauge(gauge as usize)),
            counters: SLOT_COUNTERS.map(|(counter, ..)| view.counter(counter)),
        }
    }
}

impl Snapshot {
    fn of(board: &Scoreboard, about: About) -> Snapshot {
        let mut snapshot = Snapshot {
            about,
            counters: [0; COUNTERS],
            gauges: [0; GAUGES],
            states: [0; State::ALL.len()],
            restarts: [0; Cause::ALL.len()],
            slots: board.views().map(|(slot, view)| Alone::of(slot, view)).collect(),
            takeovers: [0; Outcome::ALL.len()],
            fates: [0; Fate::ALL.len()],
            takeover_ms: 0,
        };
        for takeovers in Side::ALL.map(|side| board.takeovers(side)) {
            Outcome::ALL.iter().for_each(|o| snapshot.takeovers[*o as usize] += takeovers.outcome(*o).get());
            Fate::ALL.iter().for_each(|fate| snapshot.fates[*fate as usize] += takeovers.fate(*fate).get());
            snapshot.takeover_ms += takeovers.duration_ms().get();
        }
        for (_, slot) in board.views() {
            for (index, sum) in snapshot.counters.iter_mut().enumerate() {
                *sum = sum.wrapping_add(slot.counter(index));
            }
            for (index, value) in snapshot.gauges.iter_mut().enumerate() {
                let worst = WORST.iter().any(|gauge| *gauge as usize == index);
                *value = if worst {
                    slot.rows().iter().fold(*value, |worst, row| worst.max(row.gauge(index).get()))
                } else {
                    value.wrapping_add(slot.gauge(index))
                };
            }
            snapshot.states[slot.current().state() as usize] += 1;
            for cause in Cause::ALL {
                snapshot.restarts[cause as usize] += slot.restarts(cause);
            }
        }
        snapshot
    }

    fn histogram(&self, encoder: &mut DescriptorEncoder<'_>, histogram: &Histogram) -> std::fmt::Result {
        let cells = &self.counters[histogram.first..][..histogram.bounds.len() + 2];
        let (buckets, sum) = cells.split_at(cells.len() - 1);
        let bounds = histogram.bounds.iter().map(|bound| *bound as f64 * histogram.factor).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(buckets.iter().copied()).collect();
        let count = buckets.iter().map(|(_, n)| n).sum();
        encoder
            .encode_descriptor(histogram.name, histogram.help, None, MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(sum[0] as f64 * histogram.factor, count, &buckets, None)
    }

    /// Counters of which each label value has a word of its own.
    fn counters<'a>(
        encoder: &mut DescriptorEncoder<'_>,
        (name, help, label): (&str, &str, &str),
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> std::fmt::Result {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        values
            .into_iter()
            .try_for_each(|(value, n)| ConstCounter::new(n).encode(metric.encode_family(&[(label, value)])?))
    }

    fn slots(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        for (index, (_, name, help, unit)) in SLOT_GAUGES.into_iter().enumerate() {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for Alone { slot, gauges, .. } in &self.slots {
                let gauge = ConstGauge::new(gauges[index] as f64 * unit);
                gauge.encode(metric.encode_family(&[("slot", slot.as_str())])?)?;
            }
        }
        for (index, (_, name, help, unit)) in SLOT_COUNTERS.into_iter().enumerate() {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for Alone { slot, counters, .. } in &self.slots {
                let counter = ConstCounter::new(counters[index] as f64 * unit);
                counter.encode(metric.encode_family(&[("slot", slot.as_str())])?)?;
            }
        }
        Ok(())
    }

    fn takeovers(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        let outcomes = Outcome::ALL.into_iter().map(|outcome| (outcome.label(), self.takeovers[outcome as usize]));
        let about = ("takeovers", "Takeovers between generations that ended, by how they did", "outcome");
        Self::counters(encoder, about, outcomes)?;
        let fates = Fate::ALL.into_iter().map(|fate| (fate.label(), self.fates[fate as usize]));
        let about = ("takeover_connections", "Connections in takeovers, by what became of them", "fate");
        Self::counters(encoder, about, fates)?;
        let took = ConstCounter::new(self.takeover_ms as f64 * 1e-3);
        let help = "Time that completed takeovers took";
        took.encode(encoder.encode_descriptor("takeover_seconds", help, None, MetricType::Counter)?)
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        for family in FAMILIES {
            let values = family.values.iter().copied().zip(self.counters[family.first..].iter().copied());
            Self::counters(&mut encoder, (family.name, family.help, family.label), values)?;
        }
        for (single, name, help, unit) in SINGLES {
            let value = self.counters[SINGLE.first + single as usize];
            let descriptor = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            if unit == 1.0 {
                ConstCounter::new(value).encode(descriptor)?;
            } else {
                ConstCounter::new(value as f64 * unit).encode(descriptor)?;
            }
        }
        for (gauge, name, help, unit) in GAUGE_NAMES {
            let gauge = ConstGauge::new(self.gauges[gauge as usize] as f64 * unit);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        self.histogram(&mut encoder, &DURATION)?;
        self.histogram(&mut encoder, &COMMIT)?;
        self.histogram(&mut encoder, &BATCH)?;
        self.histogram(&mut encoder, &PAUSE)?;
        let startup = ConstGauge::new(self.gauges[Gauge::Startup as usize] as f64 * 1e-6);
        let help = "From fork to ready, slowest worker";
        startup.encode(encoder.encode_descriptor("app_startup_time_seconds", help, None, MetricType::Gauge)?)?;
        let mut workers = encoder.encode_descriptor("workers", "Slots, by state", None, MetricType::Gauge)?;
        for state in State::ALL {
            let name = format!("{state:?}").to_lowercase();
            ConstGauge::new(self.states[state as usize]).encode(workers.encode_family(&[("state", name.as_str())])?)?;
        }
        let causes = Cause::ALL.into_iter().map(|cause| (cause.label(), self.restarts[cause as usize]));
        Self::counters(&mut encoder, ("worker_restarts", "Workers that ended, by cause", "cause"), causes)?;
        self.slots(&mut encoder)?;
        self.takeovers(&mut encoder)?;
        let interval = ConstGauge::new(self.about.heartbeat_interval.as_secs_f64());
        let help = "How often every connection is to get a heartbeat";
        interval.encode(encoder.encode_descriptor("heartbeat_interval_seconds", help, None, MetricType::Gauge)?)?;
        let info = [("color", self.about.color.as_str()), ("version", self.about.version)];
        let mut build = encoder.encode_descriptor("baton_build", "What runs", None, MetricType::Info)?;
        build.encode_info(&info)
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::{Errors, Messages, Metrics, Single};
    use super::*;

    #[test]
    fn the_required_names_are_there_and_rows_add_up() {
        let board = Rc::new(Scoreboard::create(2).unwrap());
        board.row(0, Side::A).set_state(State::Serving, 1);
        board.row(1, Side::A).ended(Cause::Hang);
        for slot in 0..2 {
            let metrics = Metrics::new(board.clone(), slot, Side::A);
            metrics.messages(Messages::Received, 20);
            metrics.error(Errors::InvalidJson, 1);
            metrics.gauge(Gauge::Connections, 3);
            metrics.gauge(Gauge::Startup, 1_000 + u64::from(slot));
            metrics.add(Single::Commits, 2);
            metrics.observe(&DURATION, Duration::from_micros(70), 5);
            metrics.observe(&DURATION, Duration::from_secs(60), 1);
        }
        assert_lines(
            &board,
            &[
                "websocket_connections_active 6.0",
                "websocket_messages_total{type=\"received\"} 40",
                "websocket_errors_total{type=\"invalid_json\"} 2",
                "websocket_message_duration_seconds_bucket{le=\"0.0001\"} 10",
                "websocket_message_duration_seconds_bucket{le=\"2.5\"} 10",
                "websocket_message_duration_seconds_bucket{le=\"+Inf\"} 12",
                "websocket_message_duration_seconds_count 12",
                "app_startup_time_seconds 0.001001",
                "workers{state=\"serving\"} 1",
                "worker_restarts_total{cause=\"hang\"} 1",
                "backplane_commits_total 4",
                "baton_build_info{color=\"blue\",version=\"1.2.3\"} 1",
                "# EOF",
            ],
        );
    }

    #[test]
    fn what_supervisors_count_of_takeovers_is_told_of_both() {
        let board = Scoreboard::create(1).unwrap();
        for (side, n) in [(Side::A, 1), (Side::B, 2)] {
            let takeovers = board.takeovers(side);
            takeovers.outcome(Outcome::Completed).add(n);
            takeovers.fate(Fate::HandedOver).add(100 * n);
            takeovers.duration_ms().add(500);
        }
        board.takeovers(Side::A).outcome(Outcome::RolledBack).add(1);
        assert_lines(
            &board,
            &[
                "takeovers_total{outcome=\"completed\"} 3",
                "takeovers_total{outcome=\"rolled_back\"} 1",
                "takeovers_total{outcome=\"lost\"} 0",
                "takeover_connections_total{fate=\"handed_over\"} 300",
                "takeover_connections_total{fate=\"dropped\"} 0",
                "takeover_seconds_total 1.0",
            ],
        );
    }

    #[test]
    fn a_slot_has_some_numbers_for_itself() {
        let board = Rc::new(Scoreboard::create(2).unwrap());
        for (side, n) in [(Side::A, 1), (Side::B, 10)] {
            let metrics = Metrics::new(board.clone(), 1, side);
            metrics.messages(Messages::Received, n);
            metrics.gauge(Gauge::OpenFds, n);
            metrics.cpu(Duration::from_millis(n));
        }
        assert_lines(
            &board,
            &[
                "worker_open_fds{slot=\"0\"} 0.0",
                "worker_open_fds{slot=\"1\"} 11.0",
                "worker_messages_received_total{slot=\"1\"} 11.0",
                "worker_cpu_seconds_total{slot=\"1\"} 0.011",
                "heartbeat_interval_seconds 1.5",
            ],
        );
    }

    #[test]
    fn the_sides_of_a_slot_add_up_and_its_state_is_that_of_the_current_one() {
        let board = Rc::new(Scoreboard::create(1).unwrap());
        for (side, state) in [(Side::A, State::Draining), (Side::B, State::Serving)] {
            let metrics = Metrics::new(board.clone(), 0, side);
            metrics.messages(Messages::Received, 20);
            metrics.gauge(Gauge::Connections, 3);
            metrics.gauge(Gauge::Startup, 1_000 + side as u64);
            metrics.observe(&DURATION, Duration::from_micros(70), 5);
            board.row(0, side).set_state(state, 1);
            board.row(0, side).ended(Cause::Requested);
        }
        let sums = [
            "websocket_connections_active 6.0",
            "websocket_messages_total{type=\"received\"} 40",
            "websocket_message_duration_seconds_count 10",
            "app_startup_time_seconds 0.001001",
            "worker_restarts_total{cause=\"requested\"} 2",
        ];
        assert_lines(&board, &sums);
        assert_lines(&board, &["workers{state=\"draining\"} 1", "workers{state=\"serving\"} 0"]);
        board.set_current(Some(0), Side::B);
        assert_lines(&board, &sums);
        assert_lines(&board, &["workers{state=\"draining\"} 0", "workers{state=\"serving\"} 1"]);
    }

    fn assert_lines(board: &Scoreboard, lines: &[&str]) {
        let about = About { color: "blue".into(), version: "1.2.3", heartbeat_interval: Duration::from_millis(1500) };
        let (text, _) = encode(board, about);
        for line in lines {
            assert!(text.lines().any(|have| have == *line), "{line} is missing in\n{text}");
        }
    }
}
