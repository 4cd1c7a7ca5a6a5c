//! What is known of the service, made from one sample after another: pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::exposition::Exposition;
use super::histogram::{Histogram, Quantile};
use super::sample::{Sample, Service};

/// What the last minute was is told of this time.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// A rate is taken over at least so long, if there is so much to look back at.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// Points that a chart keeps: more than a terminal is wide.
const POINTS: usize = 512;

/// The service as it was seen last, and before.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// Its last answer, kept also when it answers no more.
    pub(super) service: Option<Service>,
    /// When that was, since the monitor began.
    pub(super) answered: Duration,
    /// Why there is no answer now, if there is none.
    pub(super) outage: Option<String>,
    /// Messages and errors of each second.
    pub(super) rates: Rates,
    /// Errors and refusals by kind, those that happen now first.
    pub(super) errors: Vec<ErrorKind>,
    /// From a message to its reply; none: `/metrics` does not tell.
    pub(super) latency: Option<Latency>,
    /// Group commits.
    pub(super) commits: Option<Latency>,
    /// For the charts, one point an interval; none: it did not answer.
    pub(super) connections_chart: Series,
    pub(super) messages_chart: Series,
    pub(super) errors_chart: Series,
    /// What was counted, at the samples of the last minute.
    window: VecDeque<(Duration, Totals)>,
}

/// Points over time, the newest last.
pub(super) type Series = VecDeque<Option<f64>>;

/// Events a second; none: there is nothing to compare with yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) received: Option<f64>,
    pub(super) sent: Option<f64>,
    pub(super) errors: Option<f64>,
}

/// One kind of errors.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ErrorKind {
    pub(super) name: String,
    /// In the last minute.
    pub(super) recent: f64,
    /// Since the service began.
    pub(super) total: f64,
}

/// How long something took.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Latency {
    /// 50, 95 and 99 of 100 were not slower.
    pub(super) quantiles: [Option<Quantile>; 3],
    /// Of so many.
    pub(super) count: f64,
    /// The time that this is about; none: since the service began.
    pub(super) over: Option<Duration>,
}

impl Latency {
    /// Which quantiles.
    pub(super) const SHARES: [(&'static str, f64); 3] = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];

    fn of(newest: &Histogram, earlier: Option<(Duration, &Histogram)>) -> Latency {
        let came = earlier.map_or_else(|| newest.clone(), |(_, before)| newest.since(before));
        let quantiles = Latency::SHARES.map(|(_, share)| came.quantile(share));
        Latency { quantiles, count: came.count(), over: earlier.map(|(over, _)| over) }
    }
}

/// Counters at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
struct Totals {
    received: f64,
    /// All that only `/metrics` has.
    metrics: Option<Counted>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Counted {
    sent: f64,
    errors: f64,
    kinds: BTreeMap<String, f64>,
    latency: Histogram,
    commits: Histogram,
}

impl Totals {
    fn of(service: &Service) -> Totals {
        let metrics = service.metrics.as_ref().ok().map(Counted::of);
        let received = service
            .metrics
            .as_ref()
            .ok()
            .and_then(|scrape| scrape.family("websocket_messages_total", "type").get("received").copied());
        // Both generations count on the same scoreboard.
        let slots = service.serving().map_or(&[][..], |status| &status.slots);
        let by_slot = || slots.iter().map(|slot| slot.messages as f64).sum();
        Totals { received: received.unwrap_or_else(by_slot), metrics }
    }
}

impl Counted {
    fn of(scrape: &Exposition) -> Counted {
        let errors = scrape.family("websocket_errors_total", "type");
        let refused = scrape.family("websocket_refused_total", "reason");
        let sent = scrape.family("websocket_messages_total", "type");
        let mut kinds: BTreeMap<String, f64> = errors.iter().map(|(kind, n)| ((*kind).to_owned(), *n)).collect();
        kinds.extend(refused.iter().map(|(reason, n)| (format!("refused: {reason}"), *n)));
        Counted {
            sent: sent.iter().filter(|(kind, _)| **kind != "received").map(|(_, n)| n).sum(),
            errors: errors.values().sum(),
            kinds,
            latency: scrape.histogram("websocket_message_duration_seconds"),
            commits: scrape.histogram("backplane_commit_duration_seconds"),
        }
    }
}

impl Model {
    /// Takes one sample in.
    pub(super) fn observe(&mut self, sample: Sample) {
        match sample.found {
            Ok(service) => {
                self.learn(sample.at, &service);
                if sample.regular {
                    push(&mut self.connections_chart, Some(service.connections() as f64));
                    push(&mut self.messages_chart, self.rates.received);
                    push(&mut self.errors_chart, self.rates.errors);
                }
                (self.service, self.answered, self.outage) = (Some(service), sample.at, None);
            }
            Err(reason) => {
                self.outage = Some(reason);
                self.rates = Rates::default();
                if sample.regular && self.service.is_some() {
                    let charts = [&mut self.connections_chart, &mut self.messages_chart, &mut self.errors_chart];
                    charts.into_iter().for_each(|chart| push(chart, None));
                }
            }
        }
    }

    /// Whether it answers now.
    pub(super) fn is_up(&self) -> bool {
        self.live().is_some()
    }

    /// The service, if it answers now.
    pub(super) fn live(&self) -> Option<&Service> {
        self.service.as_ref().filter(|_| self.outage.is_none())
    }

    fn learn(&mut self, at: Duration, service: &Service) {
        let totals = Totals::of(service);
        // Fewer than before: a service that began anew. What was before is no measure for it.
        if self.window.back().is_some_and(|(_, before)| totals.received < before.received) {
            self.window.clear();
        }
        while self.window.len() > 1 && self.window[1].0 + WINDOW <= at {
            self.window.pop_front();
        }
        self.window.push_back((at, totals));
        self.rates = self.rates_now();
        // The supervisor looks at the same counters, and has done so for longer.
        let told = service.generations.iter().flat_map(|status| &status.slots).map(|slot| slot.messages_per_second);
        self.rates.received = self.rates.received.or_else(|| Some(told.sum()));
        self.tell_errors();
        let newest = self.window.back().and_then(|(_, totals)| totals.metrics.as_ref());
        let earlier = self
            .window
            .iter()
            .take(self.window.len() - 1)
            .find_map(|(then, totals)| Some((at.saturating_sub(*then), totals.metrics.as_ref()?)));
        let of = |which: fn(&Counted) -> &Histogram| {
            newest.map(|counted| Latency::of(which(counted), earlier.map(|(over, before)| (over, which(before)))))
        };
        let (latency, commits) = (of(|counted| &counted.latency), of(|counted| &counted.commits));
        (self.latency, self.commits) = (latency, commits);
    }

    fn rates_now(&self) -> Rates {
        let Some((at, newest)) = self.window.back() else { return Rates::default() };
        let before = self.window.iter().rev().skip(1).find(|(then, _)| *then + RATE_WINDOW <= *at);
        let before = before.or_else(|| self.window.front().filter(|(then, _)| then < at));
        let Some((then, before)) = before else { return Rates::default() };
        let rate = |newer: f64, older: f64| Some((newer - older).max(0.0) / (*at - *then).as_secs_f64());
        let counted = newest.metrics.as_ref().zip(before.metrics.as_ref());
        Rates {
            received: rate(newest.received, before.received),
            sent: counted.and_then(|(newer, older)| rate(newer.sent, older.sent)),
            errors: counted.and_then(|(newer, older)| rate(newer.errors, older.errors)),
        }
    }

    fn tell_errors(&mut self) {
        let Some(newest) = self.window.back().and_then(|(_, totals)| totals.metrics.as_ref()) else {
            self.errors.clear();
            return;
        };
        let oldest = self.window.iter().find_map(|(_, totals)| totals.metrics.as_ref());
        let before = |kind: &str| oldest.and_then(|counted| counted.kinds.get(kind)).copied().unwrap_or(0.0);
        let kinds = newest.kinds.iter().filter(|(_, total)| **total > 0.0);
        let kinds = kinds.map(|(name, total)| ErrorKind {
            name: name.clone(),
            recent: (total - before(name)).max(0.0),
            total: *total,
        });
        self.errors = kinds.collect();
        self.errors.sort_by(|a, b| b.recent.total_cmp(&a.recent).then(b.total.total_cmp(&a.total)));
    }
}

fn push(chart: &mut Series, point: Option<f64>) {
    chart.push_back(point);
    if chart.len() > POINTS {
        chart.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{sample, service, status};
    use super::*;

    fn seen(at: u64, metrics: &str) -> Sample {
        sample(at, Ok(service(vec![status("blue", "running", &[10, 20])], metrics)))
    }

    fn counters(received: u32, errors: u32, fast: u32, slow: u32) -> String {
        format!(
            "websocket_messages_total{{type=\"received\"}} {received}\nwebsocket_messages_total{{type=\"sent\"}} {received}\n\
             websocket_messages_total{{type=\"heartbeat\"}} 5\nwebsocket_errors_total{{type=\"store\"}} 3\n\
             websocket_errors_total{{type=\"protocol\"}} {errors}\nwebsocket_refused_total{{reason=\"origin\"}} 1\n\
             websocket_errors_total{{type=\"memory\"}} 0\n\
             websocket_message_duration_seconds_bucket{{le=\"0.001\"}} {fast}\n\
             websocket_message_duration_seconds_bucket{{le=\"+Inf\"}} {slow}\n"
        )
    }

    #[test]
    fn rates_are_differences_over_time() {
        let mut model = Model::default();
        model.observe(seen(10, &counters(100, 0, 0, 0)));
        assert_eq!(model.rates, Rates { received: Some(15.0), ..Rates::default() });
        model.observe(seen(12, &counters(300, 4, 0, 0)));
        assert_eq!(model.rates, Rates { received: Some(100.0), sent: Some(100.0), errors: Some(2.0) });
        assert_eq!(model.messages_chart, [Some(15.0), Some(100.0)]);
        assert_eq!(model.errors_chart, [None, Some(2.0)]);
        assert_eq!(model.connections_chart, [Some(30.0), Some(30.0)]);
    }

    #[test]
    fn closer_looks_are_no_points_and_take_no_shorter_rates() {
        let mut model = Model::default();
        model.observe(seen(10, &counters(100, 0, 0, 0)));
        let closer = Sample { at: Duration::from_millis(11_900), regular: false, ..seen(0, &counters(290, 0, 0, 0)) };
        model.observe(closer);
        model.observe(seen(12, &counters(300, 0, 0, 0)));
        assert_eq!(model.rates.received, Some(100.0));
        assert_eq!(model.messages_chart, [Some(15.0), Some(100.0)]);
    }

    #[test]
    fn a_service_that_begins_anew_has_no_negative_rates() {
        let mut model = Model::default();
        model.observe(seen(10, &counters(100, 9, 50, 100)));
        model.observe(sample(12, Err("gone".into())));
        assert_eq!((model.outage.as_deref(), model.is_up(), model.rates), (Some("gone"), false, Rates::default()));
        assert!(model.service.is_some());
        model.observe(seen(14, &counters(10, 0, 10, 10)));
        assert_eq!((model.is_up(), model.rates.received), (true, Some(15.0)));
        assert_eq!(model.latency.as_ref().map(|latency| (latency.count, latency.over)), Some((10.0, None)));
        assert_eq!(model.connections_chart, [Some(30.0), None, Some(30.0)]);
    }

    #[test]
    fn errors_of_the_last_minute_come_first() {
        let mut model = Model::default();
        model.observe(seen(0, &counters(0, 1, 0, 0)));
        model.observe(seen(59, &counters(0, 3, 0, 0)));
        let kind = |name: &str, recent, total| ErrorKind { name: name.into(), recent, total };
        let (store, origin) = (kind("store", 0.0, 3.0), kind("refused: origin", 0.0, 1.0));
        assert_eq!(model.errors, [kind("protocol", 2.0, 3.0), store.clone(), origin]);
        model.observe(seen(119, &counters(0, 3, 0, 0)));
        assert_eq!(model.errors[0], kind("protocol", 0.0, 3.0));
    }

    #[test]
    fn latency_is_of_the_last_minute() {
        let mut model = Model::default();
        model.observe(seen(0, &counters(0, 0, 1000, 2000)));
        assert_eq!(model.latency.as_ref().unwrap().over, None);
        model.observe(seen(30, &counters(0, 0, 1100, 2100)));
        let latency = model.latency.clone().unwrap();
        assert_eq!((latency.count, latency.over), (100.0, Some(Duration::from_secs(30))));
        assert_eq!(latency.quantiles[0], Some(Quantile::About(0.0005)));
    }

    #[test]
    fn without_metrics_there_is_still_what_the_supervisor_tells() {
        let mut model = Model::default();
        for at in [0, 2] {
            let mut service = service(vec![status("blue", "running", &[10])], "");
            service.metrics = Err("is not accepted".into());
            service.generations[0].slots[0].messages = at * 50;
            model.observe(sample(at, Ok(service)));
        }
        assert_eq!(model.rates, Rates { received: Some(50.0), sent: None, errors: None });
        assert_eq!((model.latency, model.errors), (None, vec![]));
    }
}
