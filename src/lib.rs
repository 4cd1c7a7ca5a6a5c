//! A prefork WebSocket service whose connections outlive the processes that serve them.
//!
//! Bring an application by implementing [`App`] and giving it to [`main`]: the binary then has all of baton's commands.
//!
//! | module | does |
//! |---|---|
//! | `cli` | the arguments of `baton` |
//! | `config` | file, environment and flags, validated |
//! | `logging` | the log of every process |
//! | [`Counter`] | the message counter, the application of the binary `baton` |
//! | `run` | `baton run`: the composition root |
//! | `descriptors` | how many a process may have |
//! | `monitor` | `baton monitor`: a live view of a running service |
//! | `probe` | whether a service does its work, as a client sees it |
//! | `promote` | `baton promote`: a new generation takes over |
//! | `unit` | the units of systemd that generations run as |
//! | `load_test` | `baton load-test`: loads a server and checks its answers |
//! | `superuser` | `baton create-superuser`: who may log in at `/admin/` |
//! | `ctl` | `batonctl` |
//! | `manual` | what manual pages are made from |
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

mod cli;
mod config;
mod counter;
mod ctl;
mod descriptors;
mod load_test;
mod logging;
#[doc(hidden)]
pub mod manual;
mod monitor;
mod probe;
mod promote;
mod run;
mod superuser;
mod unit;

pub use baton_worker::{App, Fingerprint, MAX_ROOM_BYTES, Message, PublishError, Reply, Session, Token};
pub use counter::Counter;
pub use ctl::main as batonctl;

use cli::{Completed, Invocation};
use config::{Environment, Loaded, Problems, Sources};

/// The exit code for a configuration that is refused (`EX_USAGE` of sysexits.h).
const BAD_CONFIGURATION: u8 = 64;

/// The entry point of a service: reads the command line and does what it says.
///
/// ```no_run
/// # struct Echo;
/// # impl baton::App for Echo {
/// #     type State = ();
/// #     fn message(&mut self, _: &mut (), _: baton::Message<'_>, _: &mut baton::Session<'_>) {}
/// # }
/// fn main() -> std::process::ExitCode {
///     baton::main(Echo)
/// }
/// ```
pub fn main<A: App>(app: A) -> ExitCode {
    let invocation = match cli::parse(std::env::args_os(), Environment::of_process()) {
        Ok(invocation) => invocation,
        // Wrong usage, or a wish for help or the version: clap has the text and the code.
        Err(error) => error.exit(),
    };
    match invocation {
        Invocation::Run(sources) => {
            // It takes a moment until the supervisor takes them.
            if let Err(error) = baton_supervisor::hold_requests() {
                eprintln!("baton: {error}");
            }
            match config::load(&sources) {
                Ok(loaded) => run::run(loaded, sources, app),
                Err(problems) => refuse(&problems),
            }
        }
        Invocation::PrintConfig(sources) => show(&sources, config::print),
        Invocation::CheckConfig(sources) => show(&sources, |loaded| {
            warn_of_exposure(loaded);
            valid(loaded)
        }),
        Invocation::Connect(sources) => match config::load(&sources) {
            Ok(loaded) => connect(&loaded),
            Err(problems) => refuse(&problems),
        },
        Invocation::Promote(wish, sources) => promote::promote(&wish, sources),
        Invocation::Monitor(options, environment) => monitor::monitor(&options, environment),
        Invocation::LoadTest(options, environment) => load_test::load_test(&options, &environment),
        Invocation::LoadTestClient => load_test::client(),
        Invocation::Superuser(task, sources) => match config::load(&sources) {
            Ok(loaded) => superuser::carry_out(&task, &loaded.config.worker, &sources.environment),
            Err(problems) => refuse(&problems),
        },
        Invocation::Completions(shell, completed) => print(&completions(shell, completed)),
    }
}

fn show(sources: &Sources, render: impl FnOnce(&Loaded) -> String) -> ExitCode {
    match config::load(sources) {
        Ok(loaded) => print(&render(&loaded)),
        Err(problems) => refuse(&problems),
    }
}

fn valid(loaded: &Loaded) -> String {
    let file = loaded.file.as_ref().map_or("no file".to_owned(), |path| path.display().to_string());
    format!("the configuration is valid ({file})\n")
}

/// A warning alone: the service can run, and a reload that the check comes before goes on.
fn warn_of_exposure(loaded: &Loaded) {
    if let Some(warning) = loaded.exposed_secrets() {
        eprintln!("baton: warning: {warning}");
    }
}

/// Tries what the configuration names, beyond what it says.
fn connect(loaded: &Loaded) -> ExitCode {
    warn_of_exposure(loaded);
    let found = match &loaded.config.worker.redis {
        Some(redis) => baton_worker::check_redis(redis),
        None => Ok(format!("the backplane is {}: there is nothing to connect to", loaded.config.supervisor.backplane)),
    };
    match found {
        Ok(found) => print(&format!("{}{found}\n", valid(loaded))),
        Err(reason) => {
            print(&valid(loaded));
            eprintln!("baton: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn refuse(problems: &Problems) -> ExitCode {
    eprintln!("baton: the configuration is refused:\n{problems}");
    ExitCode::from(BAD_CONFIGURATION)
}

fn completions(shell: clap_complete::Shell, completed: Completed) -> String {
    // An application's binary has a name of its own.
    let own = std::env::args_os().next();
    let own = own.as_deref().map(Path::new).and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or("baton");
    let (mut command, name) = match completed {
        Completed::This => (cli::command(), own),
        Completed::Batonctl => (ctl::command(), "batonctl"),
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
