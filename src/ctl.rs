//! `batonctl`: steers a running supervisor over its control socket.

use std::cell::Cell;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use baton_ipc::control::{Command, ErrorCode, Link, Output, Relayed, Reply, Status};
use baton_ipc::scoreboard::State;
use clap::{Args, CommandFactory, FromArgMatches, Parser};

use crate::config::{Environment, VERSION, runtime_directories};
use crate::unit;

pub(crate) mod client;
pub(crate) mod interrupt;
pub(crate) mod page;
mod shell;
mod table;
mod tail;
pub(crate) mod takeover;
mod verbs;

use client::{Client, Error};
use interrupt::Interrupts;
use takeover::Tenths;
use verbs::Verb;

/// What the exit code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    NotAll = 3,
    Unreachable = 4,
    Denied = 5,
    Interrupted = 130,
}

/// Steer a running baton
#[derive(Debug, Parser)]
#[command(
    name = "batonctl",
    version = VERSION,
    after_help = "Without a command: a shell, or commands line by line when standard input is not a terminal.\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not all: (status) slots are serving,\n\
                  (backplane) links are up, (broadcast, disconnect) hosts were told, (promote, rollback) connections\n\
                  came through; 4 no supervisor can be reached, 5 permission denied, 130 Ctrl-C during a takeover or an upgrade"
)]
struct Arguments {
    #[command(flatten)]
    manner: Manner,
    #[command(subcommand)]
    verb: Option<Verb>,
}

/// Options that every command has, before it or behind it.
#[derive(Args, Clone, Debug, Default, PartialEq)]
struct Manner {
    /// The generation to talk to, when two are running: blue or green
    #[arg(long, global = true, value_parser = client::COLORS)]
    color: Option<String>,
    /// Where the control sockets are [default: as configured for baton]
    #[arg(long, global = true, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Print the supervisor's answers, one JSON object a line
    #[arg(long, global = true)]
    json: bool,
}

/// The entry point of `batonctl`.
pub fn main() -> ExitCode {
    let arguments = Arguments::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit());
    let environment = Environment::of_process();
    let Manner { color, runtime_dir, json } = arguments.manner;
    let directories = runtime_directories(runtime_dir, &environment);
    let no_color = environment.get("NO_COLOR").is_some();
    let mut session = Session {
        directories,
        color,
        json,
        colors: io::stdout().is_terminal() && !no_color,
        interactive: false,
        slots: Rc::default(),
        answered: None,
    };
    let exit = match arguments.verb {
        Some(verb) => session.run(&verb),
        None if io::stdin().is_terminal() => shell::interactive(&mut session, &environment),
        None => shell::batch(&mut session),
    };
    ExitCode::from(exit as u8)
}

/// The grammar of `batonctl`, for completion scripts.
pub(crate) fn command() -> clap::Command {
    // Not for a line of the shell: there it would win over what the shell was started with.
    Arguments::command().mut_arg("color", |color| color.env("BATON_COLOR").hide_env(true))
}

/// Everything a command needs besides itself. Each command makes a connection of its own, so that a shell outlives
/// the supervisors that it talks to.
struct Session {
    directories: Vec<PathBuf>,
    color: Option<String>,
    json: bool,
    colors: bool,
    /// An operator types commands: Ctrl-C ends one of them, not all.
    interactive: bool,
    /// As many slots as were last heard of, for completion.
    slots: Rc<Cell<u16>>,
    /// The color that answered last, for the prompt. Not kept to: after a deploy it may be another.
    answered: Option<String>,
}

impl Session {
    /// Runs one line of a shell, whose options hold for it alone.
    fn run_line(&mut self, manner: Manner, verb: &Verb) -> Exit {
        let before = (self.color.clone(), self.directories.clone(), self.json);
        let Manner { color, runtime_dir, json } = manner;
        self.color = color.or_else(|| self.color.take());
        self.directories =
            runtime_dir.map_or_else(|| std::mem::take(&mut self.directories), |directory| vec![directory]);
        self.json |= json;
        let exit = self.run(verb);
        (self.color, self.directories, self.json) = before;
        exit
    }

    /// Runs one command and tells on standard error why it failed, if it did.
    fn run(&mut self, verb: &Verb) -> Exit {
        let outcome = match verb {
            Verb::Tail { follow, lines, slot } => tail::tail(self, *follow, *lines, *slot).map(|()| Exit::Ok),
            verb => self.ask(verb),
        };
        outcome.unwrap_or_else(|error| {
            let exit = exit_of(&error);
            // `batonctl connections | head` is no failure worth a word.
            if !matches!(&error, Error::Output(error) if error.kind() == ErrorKind::BrokenPipe) {
                eprintln!("batonctl: {}", table::printable(&error.to_string()));
            }
            exit
        })
    }

    /// Who is meant by a command: mostly, only one generation runs.
    fn connect(&mut self, verb: &Verb) -> Result<Vec<Client>, Error> {
        self.answered = None;
        let mut clients = Client::connect_all(&self.directories, self.color.as_deref())?;
        if clients.len() > 1 {
            clients = match verb {
                Verb::Status | Verb::ReopenLogs => return Ok(clients),
                Verb::Promote(_) => choose(clients, |status| status.phase == "standby")?,
                Verb::Rollback => choose_to_go_back(clients)?,
                _ => clients,
            };
        }
        match &clients[..] {
            [client] => self.answered = Some(client.color.clone()),
            several => return Err(Error::Several(several.iter().map(|client| client.color.clone()).collect())),
        }
        Ok(clients)
    }

    fn ask(&mut self, verb: &Verb) -> Result<Exit, Error> {
        let Some(command) = verb.request()? else {
            return Ok(Exit::Ok);
        };
        let (mut exit, mut answers) = (Exit::Ok, 0);
        let clients = self.connect(verb)?;
        let mut left = clients.len();
        for mut client in clients {
            left -= 1;
            if answers > 0 && !self.json {
                print("\n").map_err(Error::Output)?;
            }
            match self.converse(&mut client, verb, command.clone()) {
                Ok(one) => {
                    answers += 1;
                    exit = if exit == Exit::Ok { one } else { exit };
                }
                // One of two that has just ended, as after a takeover: the other one is the service.
                Err(Error::Lost(_)) if answers + left > 0 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(exit)
    }

    fn converse(&mut self, client: &mut Client, verb: &Verb, command: Command) -> Result<Exit, Error> {
        let json = self.json;
        // Who leaves in the middle of a takeover must know that it goes on.
        let interrupts = match verb {
            Verb::Promote(_) | Verb::Rollback | Verb::Upgrade => Interrupts::catch().ok(),
            _ => None,
        };
        let mut tenths = Tenths::default();
        let directories = &self.directories;
        let output =
            takeover::ask(client, directories, interrupts.as_ref(), command, |line, reply| match (json, reply) {
                (true, _) => print(line),
                (false, Reply::Step { message }) => print(&format!("{}\n", table::printable(message))),
                (false, Reply::Progress { done, total }) => match tenths.line(*done, *total) {
                    Some(line) => print(&format!("{line}\n")),
                    None => Ok(()),
                },
                (false, Reply::Done { .. } | Reply::Error { .. }) => Ok(()),
            })?;
        if !json {
            print(&page::render(&output, verb, self.colors)).map_err(Error::Output)?;
        }
        Ok(match (&output, verb) {
            (Output::Status(status), _) => {
                self.slots.set(status.slots.len() as u16);
                if is_whole(status) { Exit::Ok } else { Exit::NotAll }
            }
            (Output::Backplane { rows }, _) => {
                let up = !rows.is_empty() && rows.iter().all(|row| row.state == Link::Up);
                if up { Exit::Ok } else { Exit::NotAll }
            }
            (Output::Reached { relayed, .. }, _) => match relayed {
                Some(Relayed::Alone | Relayed::Sent) => Exit::Ok,
                Some(Relayed::Failed) | None => Exit::NotAll,
            },
            (Output::Takeover(receipt), _) => {
                match unit::settle(receipt.to.pid, &receipt.to.color, &receipt.from.color) {
                    Some(Ok(message)) if !json => print(&format!("{message}\n")).map_err(Error::Output)?,
                    Some(Ok(_)) | None => {}
                    Some(Err(reason)) => eprintln!("batonctl: {}", table::printable(&reason)),
                }
                if takeover::lossless(&output) { Exit::Ok } else { Exit::NotAll }
            }
            (_, Verb::Scale { workers }) => {
                self.slots.set(*workers);
                Exit::Ok
            }
            (_, _) => Exit::Ok,
        })
    }
}

/// Whether all slots serve that should: those of a generation that leaves, while another one is there, should not.
fn is_whole(status: &Status) -> bool {
    let serving = !status.slots.is_empty() && status.slots.iter().all(|slot| slot.state == State::Serving);
    serving || (status.phase == "draining" && status.peer.is_some())
}

/// Of several, those whose status fits.
fn choose(clients: Vec<Client>, fits: impl Fn(&Status) -> bool) -> Result<Vec<Client>, Error> {
    let colors = clients.iter().map(|client| client.color.clone()).collect();
    let mut chosen = Vec::new();
    for mut client in clients {
        if fits(&client.status(None)?) {
            chosen.push(client);
        }
    }
    if chosen.len() == 1 { Ok(chosen) } else { Err(Error::Several(colors)) }
}

/// The one that can go back: it keeps an old generation, or else it may just be taking over.
fn choose_to_go_back(clients: Vec<Client>) -> Result<Vec<Client>, Error> {
    let mut keeper = None;
    let mut others = Vec::new();
    for mut client in clients {
        match keeps_another(&client.status(None)?) {
            true => keeper = Some(client),
            false => others.push(client),
        }
    }
    match keeper {
        Some(keeper) => Ok(vec![keeper]),
        None => choose(others, |status| status.phase == "standby"),
    }
}

/// Whether it took over from another one that is still there.
pub(crate) fn keeps_another(status: &Status) -> bool {
    status.peer.as_ref().is_some_and(|peer| peer.role == "is kept for a rollback")
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Unreachable(_) | Error::Silent | Error::Lost(_) => Exit::Unreachable,
        Error::Denied(_) | Error::Untrusted { .. } => Exit::Denied,
        Error::Several(_) | Error::Usage(_) => Exit::Usage,
        Error::Interrupted | Error::CalledOff(_) => Exit::Interrupted,
        Error::Foreign(_) | Error::Output(_) => Exit::Failed,
        Error::Refused { code, .. } => match code {
            ErrorCode::BadRequest => Exit::Usage,
            ErrorCode::PermissionDenied => Exit::Denied,
            ErrorCode::Version | ErrorCode::NotFound | ErrorCode::Busy | ErrorCode::Failed => Exit::Failed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn options_of_every_command_go_before_it_or_behind_it() {
        let all = Manner { color: Some("green".into()), runtime_dir: Some("d".into()), json: true };
        for (line, expected) in [
            ("--json --color green --runtime-dir d status", all.clone()),
            ("status --json --color green --runtime-dir d", all.clone()),
            ("--color blue connections --color green --json -n 5 --runtime-dir d", all.clone()),
            ("--color green broadcast -1 --json --runtime-dir=d", all),
            ("restart all --json", Manner { json: true, ..Manner::default() }),
        ] {
            let line = std::iter::once("batonctl").chain(line.split(' '));
            // Without the environment.
            let parsed = Arguments::try_parse_from(line.clone()).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(parsed.manner, expected, "{:?}", line.collect::<Vec<_>>());
        }
    }
}
