//! `baton promote`: starts a new generation beside the one that serves, and has it take over.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use baton_ipc::control::{Command, Output, Status};

use crate::config::{self, Loaded, Problems, Sources};
use crate::ctl::client::{Client, Error};
use crate::ctl::interrupt::{Interrupts, Wait};
use crate::ctl::takeover::{self, Options, lossless};
use crate::unit::{self, Unit};

mod display;
mod launch;
mod standing;
mod verdict;

use display::Display;
use launch::Started;
use standing::{New, Plan, Wanted};
use verdict::Verdict;

/// The least time that a new generation gets to be ready: a large store is checked before anything else.
const LEAST_START: Duration = Duration::from_secs(30);

/// How often a generation that starts is looked at: its socket comes without an event to wait for.
const LOOK: Duration = Duration::from_millis(50);

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Wish {
    /// How to take over.
    pub(crate) options: Options,
    /// The supervisor's answers as they are, for programs.
    pub(crate) json: bool,
}

/// Why it came to nothing, in sentences for the operator.
enum Failure {
    Configuration(Problems),
    Usage(String),
    Failed(String),
    Interrupted(String),
}

impl Failure {
    fn tell(self) -> ExitCode {
        let (code, reason) = match self {
            Failure::Configuration(problems) => return crate::refuse(&problems),
            Failure::Failed(reason) => (1, reason),
            Failure::Usage(reason) => (2, reason),
            Failure::Interrupted(reason) => (130, reason),
        };
        eprintln!("baton: {reason}");
        ExitCode::from(code)
    }
}

/// Does all of it, and tells what happens as it happens.
pub(crate) fn promote(wish: &Wish, sources: Sources) -> ExitCode {
    match Promotion::begin(wish, &sources).and_then(|promotion| promotion.perform(sources)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => failure.tell(),
    }
}

/// How the start of a new generation has come out.
enum Start {
    /// It stands by, with this pid.
    Ready(u32),
    /// It serves: there was nobody to take over from any more.
    Serves(u32),
    Ended,
    Late,
    Interrupted,
}

struct Promotion<'a> {
    wish: &'a Wish,
    loaded: Loaded,
    /// Caught before the first thread is started, so that none of them takes it instead.
    interrupts: Interrupts,
    display: Display,
}

impl Promotion<'_> {
    fn begin<'a>(wish: &'a Wish, sources: &Sources) -> Result<Promotion<'a>, Failure> {
        let loaded = config::load(sources).map_err(Failure::Configuration)?;
        let interrupts = Interrupts::catch().map_err(|error| Failure::Failed(error.to_string()))?;
        let display = Display::new(wish.json, &sources.environment);
        Ok(Promotion { wish, loaded, interrupts, display })
    }

    fn directory(&self) -> &Path {
        &self.loaded.config.supervisor.runtime_dir
    }

    /// Whether no connection was lost.
    fn perform(mut self, sources: Sources) -> Result<bool, Failure> {
        let running = standing::ask(self.directory(), &self.interrupts).map_err(|error| match error {
            Error::Interrupted => Failure::Interrupted("interrupted, before anything was done".to_owned()),
            other => Failure::Failed(format!("cannot ask who serves: {other}")),
        })?;
        let plan = standing::plan(&running, self.directory()).map_err(Failure::Failed)?;
        let standby = running.iter().find(|status| status.color == plan.color);
        let stale = standby.and_then(|standby| standing::staleness(standby, &self.wanted(&plan, &sources)));
        if let Some(reason) = &stale {
            let color = plan.color;
            self.display.remark(&format!("{color} stands by already, but {reason}: it is ended and started anew"));
            self.end_standby(color)?;
        }
        let started = match plan.new {
            New::StandsBy(pid) if stale.is_none() => {
                self.display.remark(&format!("{} (pid {pid}) stands by already and is used", plan.color));
                None
            }
            New::StandsBy(_) | New::Missing => {
                let mut started = self.start(&plan, sources)?;
                let pid = self.wait_for_standby(&plan, &mut started)?;
                self.display.remark(&format!("{} (pid {pid}) is ready and stands by", plan.color));
                Some(started)
            }
        };
        self.warn_of_addresses(&plan, &running);
        self.take_over(&plan, started)
    }

    /// What a generation would be that is started here and now.
    fn wanted(&self, plan: &Plan, sources: &Sources) -> Wanted {
        if Unit::of(plan.old.pid, plan.old.color).is_some() {
            return Wanted::default();
        }
        let program = baton_supervisor::started_as().and_then(std::fs::metadata).ok();
        let loaded = config::load(&sources.clone().with("color", plan.color)).ok();
        Wanted {
            program: program.map(|file| (file.dev(), file.ino())),
            settings: loaded.map(|loaded| loaded.config.supervisor.digest),
        }
    }

    /// Ends a generation that stands by, and waits until it is gone.
    fn end_standby(&self, color: &str) -> Result<(), Failure> {
        let asked = Client::connect(&[self.directory().to_owned()], Some(color))
            .and_then(|mut client| client.ask_until(Some(&self.interrupts), Command::Shutdown, |_, _| Ok(())));
        match asked {
            Ok(_) | Err(Error::Unreachable(_) | Error::Lost(_)) => {}
            Err(Error::Interrupted) => return Err(Failure::Interrupted(format!("interrupted: {color} is ending"))),
            Err(error) => {
                return Err(Failure::Failed(format!("cannot end {color}: {error}; nothing else was changed")));
            }
        }
        let deadline = Instant::now() + LEAST_START;
        while !matches!(standing::status(self.directory(), color, &self.interrupts), Ok(None)) {
            if Instant::now() >= deadline {
                return Err(Failure::Failed(format!("{color} does not end; nothing else was changed")));
            }
            if !matches!(self.interrupts.pause(LOOK), Ok(Wait::Over)) {
                return Err(Failure::Interrupted(format!("interrupted: {color} is ending")));
            }
        }
        Ok(())
    }

    /// Says which clients lose their address by this takeover.
    fn warn_of_addresses(&mut self, plan: &Plan, running: &[Status]) {
        let old = running.iter().find(|status| status.color == plan.old.color);
        let new = standing::status(self.directory(), plan.color, &self.interrupts).ok().flatten();
        let (Some(old), Some(new)) = (old, new) else { return };
        for address in standing::missing_addresses(old, &new) {
            self.display.warn(&format!(
                "WARNING: {} does not listen on {address}, where {} does: new clients there are refused once {} is gone",
                plan.color, plan.old.color, plan.old.color
            ));
        }
    }

    fn start(&mut self, plan: &Plan, sources: Sources) -> Result<Started, Failure> {
        let settings = &self.loaded.config.supervisor;
        if settings.max_generations < 2 {
            let reason = "max-generations is 1, so none may start beside the one that serves: nothing was changed";
            return Err(Failure::Failed(reason.to_owned()));
        }
        if let Some(old) = Unit::of(plan.old.pid, plan.old.color) {
            if let Some(flag) = sources.flags.keys().find(|flag| **flag != "runtime-dir") {
                return Err(Failure::Usage(format!(
                    "--{flag} cannot be passed on: {} is started by systemd, which takes settings from the unit and \
                     the configuration file",
                    old.of_color(plan.color)
                )));
            }
            let new = old.of_color(plan.color);
            self.display.remark(&format!("starting {new} beside {}", plan.old));
            return Started::unit(new).map_err(Failure::Failed);
        }
        let sources = sources.with("color", plan.color).with("takeover", "wait").with("foreground-parent", "never");
        // What it would refuse itself is better refused here.
        config::load(&sources).map_err(Failure::Configuration)?;
        self.display.remark(&format!("starting {} beside {}", plan.color, plan.old));
        let started = Started::daemon(&sources, plan).map_err(Failure::Failed)?;
        if let Some(place) = started.log(&self.loaded.config.logging) {
            self.display.remark(&format!("{} logs to {place}", plan.color));
        }
        Ok(started)
    }

    /// The pid of the new generation's supervisor, once it is ready. One that does not get there is ended.
    fn wait_for_standby(&self, plan: &Plan, started: &mut Started) -> Result<u32, Failure> {
        let Plan { color, old, .. } = plan;
        let patience = (self.loaded.config.supervisor.start_timeout * 2).max(LEAST_START);
        let failure = match self.look_until_standby(color, started, Instant::now() + patience) {
            Start::Ready(pid) => return Ok(pid),
            Start::Serves(pid) => {
                return Err(Failure::Failed(format!(
                    "{color} (pid {pid}) serves already: {old} was gone before it could be relieved"
                )));
            }
            Start::Ended => {
                Failure::Failed(format!("{color} did not start: {old} goes on serving. {}", started.said()))
            }
            Start::Late => {
                let seconds = patience.as_secs();
                let said = started.said();
                Failure::Failed(format!(
                    "{color} was not ready after {seconds} s and is ended: {old} goes on serving. {said}"
                ))
            }
            Start::Interrupted => Failure::Interrupted(format!(
                "interrupted: {color} is ended before it has taken over; {old} goes on serving"
            )),
        };
        started.end();
        Err(failure)
    }

    fn look_until_standby(&self, color: &str, started: &mut Started, deadline: Instant) -> Start {
        loop {
            match standing::status(self.directory(), color, &self.interrupts) {
                Ok(Some(status)) if status.phase == "standby" => return Start::Ready(status.pid),
                Ok(Some(status)) if status.phase == "running" => return Start::Serves(status.pid),
                Err(Error::Interrupted) => return Start::Interrupted,
                // It starts; or it is stuck, and may come to itself until its time is over.
                Ok(Some(_) | None) | Err(_) => {}
            }
            if started.has_ended() {
                return Start::Ended;
            }
            if Instant::now() >= deadline {
                return Start::Late;
            }
            if !matches!(self.interrupts.pause(LOOK), Ok(Wait::Over)) {
                return Start::Interrupted;
            }
        }
    }

    fn take_over(&mut self, plan: &Plan, started: Option<Started>) -> Result<bool, Failure> {
        let directories = [self.directory().to_owned()];
        let (interrupts, display) = (&self.interrupts, &mut self.display);
        let outcome = Client::connect(&directories, Some(plan.color)).and_then(|mut client| {
            let command = self.wish.options.command();
            takeover::ask(&mut client, &directories, Some(interrupts), command, |line, reply| {
                display.reply(line, reply);
                Ok(())
            })
        });
        self.display.end_bar();
        let reason = match outcome {
            Ok(output) => {
                if let Output::Takeover(receipt) = &output {
                    self.display.receipt(receipt);
                    self.settle_units(receipt.to.pid, plan);
                    if let Ok(Some(new)) = standing::status(self.directory(), plan.color, &self.interrupts) {
                        let (color, pid, runs) = (plan.color, new.pid, standing::runs(&new));
                        self.display.remark(&format!("{color} (pid {pid}) serves: {runs}"));
                    }
                }
                return Ok(lossless(&output));
            }
            Err(Error::Interrupted) => {
                return Err(Failure::Interrupted(format!(
                    "interrupted: {} and {} finish the takeover by themselves; `batonctl status` shows both",
                    plan.old, plan.color
                )));
            }
            Err(Error::CalledOff(message)) => return Err(Failure::Interrupted(format!("interrupted: {message}"))),
            Err(error @ (Error::Refused { .. } | Error::Denied(_) | Error::Untrusted { .. })) => error.to_string(),
            Err(error) => format!("the answer of {} was lost: {error}", plan.color),
        };
        let verdict = verdict::find(self.directory(), plan, &self.interrupts);
        if let (Verdict::Old(..), Some(mut started)) = (&verdict, started) {
            started.leave(self.directory(), plan.color, &self.interrupts);
        }
        Err(Failure::Failed(format!("{reason}\n{verdict}")))
    }

    /// What serves now is what should serve after the machine's next start.
    fn settle_units(&mut self, pid: u32, plan: &Plan) {
        match unit::settle(pid, plan.color, plan.old.color) {
            Some(Ok(message)) => self.display.remark(&message),
            Some(Err(reason)) => eprintln!("baton: {reason}"),
            None => {}
        }
    }
}
