//! The command line of `baton`, and of every binary that an application makes with [`crate::main`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use clap_complete::Shell;

use crate::config::key::{Fallback, Key};
use crate::config::keys::KEYS;
use crate::config::{DECIDED, DEFAULT_FILE, Environment, Sources, VERSION};
use crate::ctl::takeover::Options;
use crate::load_test;
use crate::monitor;
use crate::promote::Wish;
use crate::superuser::{self, Task};

/// What was asked for.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// `run`
    Run(Sources),
    /// `run --print-config`
    PrintConfig(Sources),
    /// `check-config`
    CheckConfig(Sources),
    /// `check-config --connect`
    Connect(Sources),
    /// `promote`
    Promote(Wish, Sources),
    /// `monitor`
    Monitor(monitor::Options, Environment),
    /// `load-test`
    LoadTest(Box<load_test::Options>, Environment),
    /// One of the processes that a load test starts
    LoadTestClient,
    /// `create-superuser`
    Superuser(Task, Sources),
    /// `completions SHELL`
    Completions(Shell, Completed),
}

/// The command whose completions are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completed {
    /// This binary.
    This,
    /// `batonctl`.
    Batonctl,
}

const SOURCES: &str = "Flags win over environment variables (--drain-timeout: BATON_DRAIN_TIMEOUT), which win over the file\n\
                       (drain-timeout = \"8s\"). Secrets are no flags.\n\
                       Durations: 500ms, 30s, 24h. Sizes: 64KiB, 1GiB. none: not set.";

const PROMOTE: &str = "Start a new generation that takes over all clients from the one that serves.\n\n\
                       Blue serves: green is started beside it from this binary, gets ready, takes every connection, \
                       and blue ends. Clients stay connected. If anything goes wrong, everything goes back, and blue \
                       serves on. Settings given here are the new generation's.";

const MONITOR: &str = "Watch a running service: workers, connections, rates, latency, errors, takeovers, log.\n\n\
                       On a terminal it is a live screen (? shows its keys, q quits); elsewhere, and with TERM=dumb, it \
                       prints a line each interval, and the log as it comes. If the service goes away it says so and goes \
                       on looking; after a takeover it shows the generation that serves then.";
const LOAD_TEST: &str = "A run ends when every connection has sent its messages, or when its time is over, whichever comes first.\n\
                         --duration and the like: 500ms, 30s, 5m. Rates: 1000/s, 600/m. Progress goes to standard error, \
                         the report to standard output.\n\n\
                         Exit codes: 0 all as it should be; 1 wrong answers, fewer successes than --min-success, slower \
                         than --max-p95, or a client process was lost; 2 wrong usage; 130 Ctrl-C (143 SIGTERM): the \
                         report is what there was until then";

const PRINT_CONFIG: &str = "print-config";
const CONNECT: &str = "connect";
const JSON: &str = "json";

/// The command line's grammar.
pub(crate) fn command() -> Command {
    let run = Command::new("run")
        .about("Serve, in the foreground, until SIGTERM")
        .arg(
            Arg::new(PRINT_CONFIG)
                .long(PRINT_CONFIG)
                .help("Show the resulting configuration as TOML, and where each value came from; serve nothing")
                .action(ArgAction::SetTrue),
        )
        .args(config_args());
    let run = run.after_help(SOURCES);
    let check = Command::new("check-config")
        .about("Validate the configuration; serve nothing")
        .arg(
            Arg::new(CONNECT)
                .long(CONNECT)
                .help("Also connect to Redis, and tell what it is and whether it does what is needed")
                .action(ArgAction::SetTrue),
        )
        .args(config_args())
        .after_help(SOURCES);
    let promote = Options::augment_args(Command::new("promote"))
        .about("Start a new generation that takes over all clients from the one that serves; they stay connected")
        .long_about(PROMOTE)
        .arg(
            Arg::new(JSON)
                .long(JSON)
                .help("Print the supervisor's answers, one JSON object a line, the receipt last")
                .action(ArgAction::SetTrue),
        )
        .args(config_args().into_iter().filter(|arg| !DECIDED.contains(&arg.get_id().as_str())))
        .after_help(
            "Exit codes: 0 taken over; 1 failed, and then it says who serves, or connections were dropped;\n\
             2 wrong usage; 64 wrong configuration; 130 Ctrl-C: it says what goes on;\n\
             during --canary it calls the takeover off, and every client goes back",
        );
    let monitor = monitor::Options::augment_args(Command::new("monitor"))
        .about("Watch a running service: workers, connections, rates, latency, errors, takeovers, log")
        .long_about(MONITOR)
        .after_help("Exit codes: 0 you quit, 1 failed (--once: nobody answers), 2 wrong usage, 128+N signal N");
    let load_test = load_test::Options::augment_args(Command::new("load-test"))
        .about("Load a WebSocket server with many clients, check every answer, and report how long they took")
        .arg(
            Arg::new(load_test::CLIENT)
                .long(load_test::CLIENT)
                .help("Be one of the client processes, which takes its orders from standard input")
                .action(ArgAction::SetTrue)
                .exclusive(true)
                .hide(true),
        )
        .after_help(LOAD_TEST);
    let superuser = Task::augment_args(Command::new("create-superuser"))
        .about("Make a user who may log in at /admin/, or change, list and delete those that there are")
        .args(config_args().into_iter().filter(|arg| superuser::SETTINGS.contains(&arg.get_id().as_str())))
        .after_help(superuser::HELP);
    let completions = Command::new("completions")
        .about("Print a completion script")
        .arg(Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell)))
        .arg(Arg::new("of").value_name("COMMAND").value_parser(["baton", "batonctl"]).default_value("baton"));
    Command::new("baton")
        .version(VERSION)
        .about("A prefork WebSocket service whose connections outlive the processes that serve them")
        .after_help(
            "See what runs: batonctl status, baton monitor. Deploy: baton promote\n\
             Exit codes: 0 ended as asked, 1 failed, 2 wrong usage, 64 wrong configuration",
        )
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommands([run, promote, monitor, load_test, check, superuser, completions])
}

/// Reads the arguments, or tells what is wrong with them.
pub(crate) fn parse(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
    environment: Environment,
) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    Ok(match matches.subcommand() {
        Some(("run", matches)) if matches.get_flag(PRINT_CONFIG) => {
            Invocation::PrintConfig(sources(matches, environment))
        }
        Some(("run", matches)) => Invocation::Run(sources(matches, environment)),
        Some(("check-config", matches)) if matches.get_flag(CONNECT) => {
            Invocation::Connect(sources(matches, environment))
        }
        Some(("check-config", matches)) => Invocation::CheckConfig(sources(matches, environment)),
        Some(("promote", matches)) => {
            let options = Options::from_arg_matches(matches)?;
            Invocation::Promote(Wish { options, json: matches.get_flag(JSON) }, sources(matches, environment))
        }
        Some(("monitor", matches)) => Invocation::Monitor(monitor::Options::from_arg_matches(matches)?, environment),
        Some(("load-test", matches)) if matches.get_flag(load_test::CLIENT) => Invocation::LoadTestClient,
        Some(("load-test", matches)) => {
            let options = load_test::Options::from_arg_matches(matches)?;
            Invocation::LoadTest(Box::new(options), environment)
        }
        Some(("create-superuser", matches)) => {
            Invocation::Superuser(Task::from_arg_matches(matches)?, sources(matches, environment))
        }
        Some(("completions", matches)) => {
            let shell = matches.get_one("shell").copied().unwrap_or(Shell::Bash);
            let batonctl = matches.get_one::<String>("of").is_some_and(|of| of == "batonctl");
            Invocation::Completions(shell, if batonctl { Completed::Batonctl } else { Completed::This })
        }
        Some(_) | None => return Err(command().error(clap::error::ErrorKind::MissingSubcommand, "no command")),
    })
}

/// The file's flag and one flag for every setting. Values are validated later, with those of all other sources.
fn config_args() -> Vec<Arg> {
    let file = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help(format!("Settings as TOML, keys named like the flags [default: {}]", DEFAULT_FILE));
    std::iter::once(file).chain(KEYS.iter().filter(|key| key.flag).map(config_arg)).collect()
}

fn config_arg(key: &Key) -> Arg {
    let default = match key.default {
        Fallback::Text("none") | Fallback::List([]) | Fallback::Derived(_) => String::new(),
        Fallback::Text(text) => format!(" [default: {text}]"),
        Fallback::List(texts) => format!(" [default: {}]", texts.join(", ")),
    };
    Arg::new(key.name)
        .long(key.name)
        .value_name(key.placeholder)
        .help(format!("{}{default}", key.help))
        .help_heading(key.group.title())
        // A wrong value that begins with a dash is the setting's to refuse.
        .allow_hyphen_values(true)
        .action(if key.is_list() { ArgAction::Append } else { ArgAction::Set })
}

fn sources(matches: &ArgMatches, environment: Environment) -> Sources {
    let given = |key: &'static Key| {
        let values = matches.try_get_many::<String>(key.name).ok().flatten()?;
        Some((key.name, values.cloned().collect()))
    };
    let flags: BTreeMap<_, _> = KEYS.iter().filter_map(given).collect();
    Sources { flags, file: matches.get_one::<PathBuf>("config").cloned(), environment }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, clap::Error> {
        parse(line.split(' ').map(Into::into), Environment::default())
    }

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn flags_become_sources_unjudged() {
        let Ok(Invocation::Run(sources)) = parsed("baton run --listen a --listen b --workers -1 --config x.toml")
        else {
            panic!("not a run");
        };
        assert_eq!(sources.flags["listen"], ["a", "b"]);
        assert_eq!(sources.flags["workers"], ["-1"]);
        assert_eq!((sources.flags.len(), sources.file), (2, Some("x.toml".into())));
        assert!(matches!(parsed("baton run --print-config"), Ok(Invocation::PrintConfig(_))));
        assert!(matches!(parsed("baton check-config"), Ok(Invocation::CheckConfig(_))));
        assert!(matches!(parsed("baton check-config --connect"), Ok(Invocation::Connect(_))));
        let completions = parsed("baton completions zsh batonctl");
        assert!(matches!(completions, Ok(Invocation::Completions(Shell::Zsh, Completed::Batonctl))));
    }

    #[test]
    fn a_takeover_has_options_and_settings_for_the_new_generation() {
        let line =
            "baton promote --canary 5 --watch 20s --keep-old --json --workers -1 --listen a --listen b --config x";
        let Ok(Invocation::Promote(wish, sources)) = parsed(line) else { panic!("not a takeover") };
        let asked = baton_ipc::control::Command::Promote { canary: Some(5.0), watch_ms: 20_000, keep_old: true };
        assert_eq!((wish.options.command(), wish.json), (asked, true));
        assert_eq!(sources.arguments(), ["--config=x", "--listen=a", "--listen=b", "--workers=-1"]);
        let sources = sources.with("color", "green");
        let line = sources.arguments().into_iter().map(|argument| argument.into_string().unwrap());
        let line = format!("baton run {}", line.collect::<Vec<_>>().join(" "));
        let Ok(Invocation::Run(passed_on)) = parsed(&line) else { panic!("not a run") };
        assert_eq!((passed_on.flags, passed_on.file), (sources.flags, sources.file));
    }

    #[test]
    fn every_setting_has_a_flag_except_secrets() {
        for key in KEYS {
            let line = format!("baton run --{} x", key.name);
            assert_eq!(parsed(&line).is_ok(), key.flag, "{line}");
        }
    }

    #[test]
    fn wrong_usage_exits_2() {
        for line in [
            "baton",
            "baton serve",
            "baton run --wrokers 4",
            "baton run extra",
            "baton run --workers",
            "baton promote --canary 100",
            "baton promote --watch 10s",
            "baton promote --color green",
            "baton promote --takeover now",
            "baton monitor --metrics-only --logs-only",
            "baton monitor --interval 0",
            "baton monitor --color red",
        ] {
            assert_eq!(parsed(line).expect_err(line).exit_code(), 2, "{line}");
        }
    }
}
