//! `baton load-test`: loads a WebSocket server, checks every answer, and tells how long they took.
//!
//! | module | does |
//! |---|---|
//! | `options`, `target`, `capacity` | what is asked for, of whom, and what this machine allows |
//! | `plan` | what crosses between this process and the client processes that it starts |
//! | `fleet` | those processes |
//! | `client` | one of them, from its start to its report |
//! | `connection`, `lane`, `dial` | its connections |
//! | `expectation` | whether an answer is right |
//! | `schedule` | when things are due |
//! | `tally`, `times` | what is counted and measured |
//! | `display`, `report` | what one sees of it |

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Environment;

mod capacity;
mod client;
mod connection;
mod dial;
mod display;
mod expectation;
mod fleet;
mod lane;
mod options;
mod plan;
mod report;
mod schedule;
mod tally;
mod target;
mod times;

pub(crate) use options::Options;

use display::{Display, Phase, Totals};
use fleet::{Fleet, News};
use options::Refusal;
use plan::{Event, Order, Plan, Progress, monotonic};
use report::{Circumstances, Limits, Report};
use tally::Tally;

/// The flag that makes a client process.
pub(crate) const CLIENT: &str = "client";

/// So long after all are connected the first message is due: every process has been told by then.
const LEAD: std::time::Duration = std::time::Duration::from_millis(50);

/// The exit code after Ctrl-C, as shells have it: 128 and the number of the signal.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;

/// The whole life of a client process.
pub(crate) fn client() -> ExitCode {
    client::client()
}

/// Does a run, and prints its report.
pub(crate) fn load_test(options: &Options, environment: &Environment) -> ExitCode {
    let refuse = |code: u8, reason: &str| {
        eprintln!("baton: {reason}");
        ExitCode::from(code)
    };
    let plans = match options.plans(environment) {
        Ok(plans) => plans,
        Err(Refusal::Usage(reason)) => return refuse(2, &reason),
        Err(Refusal::Failed(reason)) => return refuse(1, &reason),
    };
    // Before the run, so that an hour's work is not lost to a directory that is not there.
    let json = match options.json.as_deref().map(JsonReport::open).transpose() {
        Ok(json) => json,
        Err(reason) => return refuse(1, &reason),
    };
    let outcome = Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .and_then(|runtime| runtime.block_on(Run::start(plans, options)));
    let (report, signal) = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return refuse(1, &format!("the load test cannot run: {error}")),
    };
    let written = match json {
        Some(JsonReport::Stdout) => {
            // Who reads the one need not read the other.
            let _ = io::stderr().lock().write_all(report.text().as_bytes());
            report.write_json(&mut io::stdout().lock())
        }
        Some(JsonReport::File(mut file)) => {
            let _ = io::stdout().lock().write_all(report.text().as_bytes());
            file.set_len(0).and_then(|()| report.write_json(&mut file))
        }
        None => io::stdout().lock().write_all(report.text().as_bytes()),
    };
    match (written, signal) {
        (Err(error), _) => refuse(1, &format!("the report cannot be written: {error}")),
        (Ok(()), Some(code)) => ExitCode::from(code),
        (Ok(()), None) if report.passed => ExitCode::SUCCESS,
        (Ok(()), None) => ExitCode::FAILURE,
    }
}

/// Where the report for programs goes.
enum JsonReport {
    Stdout,
    File(File),
}

impl JsonReport {
    fn open(path: &Path) -> Result<JsonReport, String> {
        if path == "-" {
            return Ok(JsonReport::Stdout);
        }
        // What it holds stays until there is something better.
        let file = File::options().write(true).create(true).truncate(false).open(path);
        file.map(JsonReport::File).map_err(|error| format!("--json {}: it cannot be written: {error}", path.display()))
    }
}

/// How a process stands.
struct Standing {
    progress: Progress,
    stage: Stage,
}

/// What a process has said last. In order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Connecting,
    Connected,
    Sent,
    /// It has reported, or will never.
    Ended,
}

/// A run, seen from above its processes.
struct Run {
    fleet: Fleet,
    standings: Vec<Standing>,
    display: Display,
    tally: Tally,
    lost: Vec<String>,
}

impl Run {
    /// Its report, and the exit code of the signal that ended it early.
    async fn start(plans: Vec<Plan>, options: &Options) -> io::Result<(Report, Option<u8>)> {
        let begun = Instant::now();
        let (url, open_loop, processes) = (plans[0].url.clone(), plans[0].pace.is_some(), plans.len());
        let connections = plans.iter().map(|plan| u64::from(plan.connections)).sum();
        let messages = plans[0].messages.map(|messages| messages * connections);
        let totals = Totals { connections, messages, duration: plans[0].duration };
        // Before there are processes that a signal should end.
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let fleet = Fleet::start(plans).await?;
        let standing = || Standing { progress: Progress::default(), stage: Stage::Connecting };
        let standings = std::iter::repeat_with(standing).take(processes).collect();
        let mut run =
            Run { fleet, standings, display: Display::new(totals), tally: Tally::default(), lost: Vec::new() };
        let mut code = None;
        while run.stage() < Stage::Ended {
            let came = tokio::select! {
                Some(news) = run.fleet.news.recv() => {
                    run.hear(news).await;
                    continue;
                }
                _ = interrupt.recv() => INTERRUPTED,
                _ = terminate.recv() => TERMINATED,
            };
            if code.replace(came).is_some() {
                run.lost.push("ended at once: the results of processes that had not reported are missing".to_owned());
                break;
            }
            run.display.remark("ending early; once more to end at once");
            run.fleet.tell_all(&Order::Stop).await;
        }
        run.display.end();
        let interrupted = code.is_some();
        let circumstances =
            Circumstances { url, elapsed: begun.elapsed(), interrupted, open_loop, processes, lost: run.lost };
        let limits = Limits { min_success: options.min_success, max_p95: options.max_p95 };
        Ok((Report::new(run.tally, circumstances, &limits), code))
    }

    /// As far as all processes are.
    fn stage(&self) -> Stage {
        self.standings.iter().map(|standing| standing.stage).min().unwrap_or(Stage::Ended)
    }

    async fn hear(&mut self, news: News) {
        let before = self.stage();
        match news {
            News::Event(place, Event::Progress(progress)) => {
                self.standings[place].progress = progress;
                let mut sum = Progress::default();
                self.standings.iter().for_each(|standing| sum += standing.progress);
                self.display.progress(&sum);
            }
            News::Event(place, Event::Connected) => self.standings[place].stage = Stage::Connected,
            News::Event(place, Event::Sent) => self.standings[place].stage = Stage::Sent,
            News::Event(place, Event::Report(tally)) => {
                self.standings[place].stage = Stage::Ended;
                self.tally.add(*tally);
            }
            News::Event(place, Event::Failed { reason }) => self.lose(place, &reason),
            News::Ended(place) if self.standings[place].stage == Stage::Ended => {}
            News::Ended(place) => {
                let how = self.fleet.reap(place);
                self.lose(place, &how);
            }
            News::Silent(place) => {
                self.fleet.reap(place);
                self.lose(place, "stuck, and was killed");
            }
        }
        let after = self.stage();
        if before < Stage::Connected && after == Stage::Connected {
            self.display.enter(Phase::Sending);
            self.fleet.tell_all(&Order::Send { at: monotonic() + LEAD }).await;
        }
        if before < Stage::Sent && after == Stage::Sent {
            self.display.enter(Phase::Draining);
        }
    }

    /// A process without a report: what it did is missing, and that cannot be a success.
    fn lose(&mut self, place: usize, how: &str) {
        let pid = self.fleet.pid(place);
        self.standings[place].stage = Stage::Ended;
        self.lost
            .push(format!("client process {pid} has no report: {how}; its connections are missing in the figures"));
    }
}

impl Report {
    fn write_json(&self, to: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *to, self)?;
        writeln!(to)?;
        to.flush()
    }
}
