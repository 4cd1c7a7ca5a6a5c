//! What `baton load-test` is asked for on its command line, validated.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tungstenite::http::{HeaderName, HeaderValue};

use super::capacity::{Capacity, MOST_PROCESSES, Machine};
use super::expectation::Expect;
use super::plan::Plan;
use super::schedule::{Schedule, rate};
use super::target::Target;
use crate::config::{Environment, seconds};

const MESSAGES: u64 = 10;
const DURATION: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const URL: &str = "ws://localhost:8000";

/// Larger ones a server would refuse, or a pipe between two processes.
const MOST_PAYLOAD: u64 = 16 << 20;

/// The options.
#[derive(Args, Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// Where to connect; without a path: /ws/chat/ [default: WS_BASE_URL, else ws://localhost:8000]
    #[arg(long, value_name = "URL", value_parser = Target::parse)]
    url: Option<Target>,
    /// How many connections
    #[arg(long, short = 'c', value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    connections: u32,
    /// Messages of each connection [default: 10; with --duration: no limit]
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    messages: Option<u64>,
    /// Send for at most so long, in seconds if no unit is given [default: 60s]
    #[arg(long, short = 'd', value_name = "DURATION", value_parser = time)]
    duration: Option<Duration>,
    /// Stay connected for so long after the last message, and listen for heartbeats
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = time)]
    hold: Duration,
    /// Begin so many connections a second, over all; without it: as fast as they are answered
    #[arg(long, value_name = "RATE", value_parser = rate)]
    ramp: Option<f64>,
    /// Send so many messages a second, over all, answered or not; latency counts from when a message should have been
    /// sent. Without it each connection sends when it has been answered (a closed loop)
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<f64>,
    /// Size of a message in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u64).range(0..=MOST_PAYLOAD))]
    payload: u64,
    /// What a message must be answered with
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Expect::Count)]
    expect: Expect,
    /// Each connection names a session of its own (?session_uuid=…)
    #[arg(long)]
    session: bool,
    /// Drop each connection after every N replies, by turns with a close and without, and resume its session; resume
    /// also those that the server ends. Implies --session
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "5", require_equals = true, value_parser = clap::value_parser!(u64).range(1..))]
    reconnect: Option<u64>,
    /// How long a handshake, a reply, a close may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = time_above_zero)]
    timeout: Duration,
    /// One more header of the handshake, such as 'User-Agent: tester'; may be repeated
    #[arg(long, value_name = "HEADER", value_parser = header)]
    header: Vec<(String, String)>,
    /// Who must have signed the certificate of a wss:// server, as PEM; without it: whom this machine trusts
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Client processes, or auto: as many as descriptors demand and cores can use
    #[arg(long, value_name = "N", default_value = "auto", value_parser = processes)]
    processes: Processes,
    /// Connect from this address; may be repeated. Without it: as the kernel likes, and on loopback from several if one
    /// has too few ports
    #[arg(long, value_name = "ADDRESS")]
    source: Vec<IpAddr>,
    /// Write the report as JSON too; - for standard output, and then nothing else goes there
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Fail if fewer than this share of the connections or of the messages succeed
    #[arg(long, value_name = "PERCENT", default_value = "100", value_parser = percent)]
    pub(super) min_success: f64,
    /// Fail if more than 5 % of the replies take longer
    #[arg(long, value_name = "DURATION", value_parser = time_above_zero)]
    pub(super) max_p95: Option<Duration>,
}

/// How many client processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Processes {
    Auto,
    Exactly(u32),
}

/// Why a run cannot be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It was asked for wrongly.
    Usage(String),
    /// It cannot be done now.
    Failed(String),
}

impl Options {
    /// What each client process is to do.
    pub(super) fn plans(&self, environment: &Environment) -> Result<Vec<Plan>, Refusal> {
        let target = self.target(environment)?;
        let ca_file = self.ca_file.as_ref().map(|path| {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            super::dial::trust(Some(&path)).map_err(Refusal::Usage)?;
            path.into_os_string().into_string().map_err(|_| Refusal::Usage("--ca-file: a path in UTF-8".to_owned()))
        });
        let ca_file = ca_file.transpose()?;
        let address = target.resolve().map_err(Refusal::Failed)?;
        if let Some(other) = self.source.iter().find(|source| source.is_ipv4() != address.is_ipv4()) {
            return Err(Refusal::Usage(format!("--source {other} cannot connect to {}: another family", address.ip())));
        }
        let processes = match self.processes {
            Processes::Auto => None,
            Processes::Exactly(processes) => Some(processes),
        };
        let capacity = Machine::here().plan(self.connections, processes, address.ip(), &self.source);
        let Capacity { processes, sources } = capacity.map_err(Refusal::Usage)?;
        let run = fastrand::u64(..);
        let session = (self.session || self.reconnect.is_some()).then(|| format!("load-{run:016x}"));
        let mut first = 0;
        let plan = |place: u32| {
            let connections = share(self.connections, place, processes);
            let plan = Plan {
                url: target.url().to_owned(),
                address,
                sources: sources.clone(),
                first,
                connections,
                ramp: self.ramp.map(|rate| Schedule::new(rate, place, processes)),
                pace: self.rate.map(|rate| Schedule::new(rate, place, processes)),
                messages: self.messages.or(self.duration.is_none().then_some(MESSAGES)),
                duration: self.duration.unwrap_or(DURATION),
                hold: self.hold,
                timeout: self.timeout,
                payload: self.payload as usize,
                session: session.clone(),
                reconnect: self.reconnect,
                expect: self.expect,
                headers: self.header.clone(),
                ca_file: ca_file.clone(),
            };
            first += connections;
            plan
        };
        Ok((0..processes).map(plan).collect())
    }

    fn target(&self, environment: &Environment) -> Result<Target, Refusal> {
        if let Some(target) = &self.url {
            return Ok(target.clone());
        }
        let variable =
            ["BATON_WS_BASE_URL", "WS_BASE_URL"].into_iter().find_map(|name| Some((name, environment.get(name)?)));
        let (name, text) = variable.unwrap_or(("the default", URL));
        Target::parse(text).map_err(|allowed| Refusal::Usage(format!("{name} is {text:?}: it must be {allowed}")))
    }
}

/// What the process at this place gets of so many: as much as any other, or one more.
fn share(all: u32, place: u32, processes: u32) -> u32 {
    all / processes + u32::from(place < all % processes)
}

/// A duration as everywhere, or plain seconds.
fn time(text: &str) -> Result<Duration, String> {
    seconds(text, Duration::ZERO..=DAY)
}

fn time_above_zero(text: &str) -> Result<Duration, String> {
    time(text)
        .and_then(|time| if time.is_zero() { Err("a duration above 0, such as 500ms".to_owned()) } else { Ok(time) })
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|share| (0.0..=100.0).contains(share))
        .ok_or_else(|| "a number from 0 to 100, such as 99.9".to_owned())
}

fn processes(text: &str) -> Result<Processes, String> {
    match text {
        "auto" => Ok(Processes::Auto),
        text => {
            let number = text.parse().ok().filter(|number| (1..=MOST_PROCESSES).contains(number));
            number.map(Processes::Exactly).ok_or_else(|| format!("auto, or a number from 1 to {MOST_PROCESSES}"))
        }
    }
}

fn header(text: &str) -> Result<(String, String), String> {
    const ALLOWED: &str = "a header such as 'Origin: https://example.org'";
    let (name, value) = text.split_once(':').ok_or(ALLOWED)?;
    let (name, value) = (name.trim(), value.trim());
    HeaderName::from_bytes(name.as_bytes()).map_err(|_| ALLOWED)?;
    HeaderValue::from_str(value).map_err(|_| ALLOWED)?;
    let own =
        ["connection", "host", "upgrade", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"];
    if own.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("another header than {name}, which belongs to the handshake"));
    }
    Ok((name.to_owned(), value.to_owned()))
}
