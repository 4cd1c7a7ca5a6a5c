//! The load client: `bench_client MODE 127.0.0.1:PORT …`. Its report is one JSON object on stdout.

#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use baton_benches::client::load::{Load, Until};
use baton_benches::client::paced::Paced;
use baton_benches::client::{self, Dial, Link, Orders, arrivals, choose, heartbeat, idle, shutdown};
use baton_benches::machine;
use clap::{Args, Parser, Subcommand};

/// A load client for one WebSocket server that counts
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// Messages as fast as they are answered; checks every reply
    Load {
        #[command(flatten)]
        dial: DialArgs,
        /// Messages in flight on each connection; sent as one burst, the next when all are answered
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
        depth: u32,
        /// How long to send
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        /// How many messages to send, instead of how long
        #[arg(long, conflicts_with = "seconds")]
        messages: Option<u64>,
        /// How long to send before the run proper
        #[arg(long, default_value_t = 0.25)]
        warm_up: f64,
        /// So many messages a second over all connections, until told to stop, instead of as many as are answered
        #[arg(long, conflicts_with_all = ["depth", "seconds", "messages", "warm_up", "busy_poll"], value_parser = rate)]
        rate: Option<f64>,
        /// Never sleep, so that the server does not pay for waking the client
        #[arg(long)]
        busy_poll: bool,
        /// The text of each message, at most 125 bytes
        #[arg(long, default_value = "hello", value_parser = payload)]
        payload: String,
        /// Tell the addresses of all connections, and keep only those that come back on stdin, as JSON lists
        #[arg(long)]
        choose: bool,
    },
    /// New connections, each with one message; counts those that fail
    Connect {
        /// The server
        server: SocketAddr,
        /// How many a second, until told to stop
        #[arg(long, value_parser = rate)]
        rate: f64,
        /// The address to connect from
        #[arg(long)]
        source: Option<IpAddr>,
    },
    /// All connections at once, each with one message; counts those that fail
    Storm {
        #[command(flatten)]
        dial: DialArgs,
    },
    /// Connections that do nothing, until a line comes on stdin
    Idle {
        #[command(flatten)]
        dial: DialArgs,
    },
    /// Idle connections that record when each heartbeat arrives
    Heartbeat {
        #[command(flatten)]
        dial: DialArgs,
        /// How many heartbeats to record
        #[arg(long, default_value_t = 1)]
        beats: usize,
        /// How long to wait for them
        #[arg(long, default_value_t = 10.0)]
        patience: f64,
        /// Say `all` each time that all connections have one
        #[arg(long)]
        tell: bool,
    },
    /// Well-behaved connections that wait for the server to close them
    Shutdown {
        #[command(flatten)]
        dial: DialArgs,
        /// How long to wait for it
        #[arg(long, default_value_t = 15.0)]
        patience: f64,
    },
}

#[derive(Args)]
struct DialArgs {
    /// The server
    server: SocketAddr,
    /// How many connections
    #[arg(long, short = 'n', default_value_t = 100)]
    connections: usize,
    /// The address to connect from
    #[arg(long)]
    source: Option<IpAddr>,
}

impl DialArgs {
    fn dial(&self) -> Dial {
        Dial { server: self.server, source: self.source }
    }

    fn open(&self, choose: bool) -> io::Result<Vec<Link>> {
        let links = self.dial().open(self.connections)?;
        if choose { choose::chosen(links) } else { Ok(links) }
    }
}

fn payload(text: &str) -> Result<String, &'static str> {
    if text.len() < 126 { Ok(text.to_owned()) } else { Err("at most 125 bytes") }
}

fn rate(text: &str) -> Result<f64, &'static str> {
    let rate = text.parse().ok().filter(|rate: &f64| *rate > 0.0 && *rate <= 1e6);
    rate.ok_or("a number above 0, at most a million")
}

fn main() -> ExitCode {
    match run(Cli::parse().mode) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(mode: Mode) -> io::Result<()> {
    machine::raise_descriptor_limit()?;
    match mode {
        Mode::Load { dial, rate: Some(rate), payload, choose, .. } => {
            let links = dial.open(choose)?;
            let mut orders = Orders::ready();
            client::report(&Paced::new(links, rate, payload.as_bytes())?.run(&mut orders)?)
        }
        Mode::Connect { server, rate, source } => {
            client::report(&arrivals::run(Dial { server, source }, rate, &mut Orders::ready())?)
        }
        Mode::Storm { dial } => {
            client::ready()?;
            let number = dial.connections as u64;
            client::report(&arrivals::run_at_once(dial.dial(), number, &mut Orders::listening())?)
        }
        Mode::Load { dial, rate: None, depth, seconds, messages, warm_up, busy_poll, payload, choose } => {
            let mut load = Load::new(dial.open(choose)?, depth, payload.as_bytes())?;
            if busy_poll {
                load = load.busy_polling();
            }
            load.run(Until::Elapsed(Duration::from_secs_f64(warm_up)))?;
            client::ready()?;
            client::report(&load.run(match messages {
                Some(messages) => Until::Messages(messages),
                None => Until::Elapsed(Duration::from_secs_f64(seconds)),
            })?)
        }
        Mode::Idle { dial } => idle::run(dial.dial(), dial.connections),
        Mode::Heartbeat { dial, beats, patience, tell } => {
            let patience = Duration::from_secs_f64(patience);
            let all_have_it = || {
                if tell {
                    println!("all");
                }
            };
            client::report(&heartbeat::run(dial.dial(), dial.connections, beats, patience, all_have_it)?)
        }
        Mode::Shutdown { dial, patience } => {
            let patience = Duration::from_secs_f64(patience);
            client::report(&shutdown::run(dial.dial(), dial.connections, patience)?)
        }
    }
}
