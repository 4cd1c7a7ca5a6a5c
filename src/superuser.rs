//! `baton create-superuser`: who may log in at `/admin/`.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use baton_worker::Settings;
use baton_worker::superusers::{self, Change, Name, Password, Superuser};
use clap::Args;
use nix::unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid};

use crate::config::{Environment, PASSWORD_VARIABLE};
use crate::ctl::page::{self, Align};

/// The settings that say where superusers are kept.
pub(crate) const SETTINGS: [&str; 6] =
    ["config", "state-dir", "redis-url", "redis-ca-file", "redis-prefix", "redis-timeout"];

pub(crate) const HELP: &str = "The password is asked for twice on the terminal. Without one it is BATON_SUPERUSER_PASSWORD, or the first line\n\
                               of standard input. It is kept as an Argon2id hash, in the state directory, or in Redis if redis-url is set.\n\
                               /admin/ is there once SECRET_KEY is set.";

/// How often a person may try again before this gives up.
const TRIES: usize = 3;

/// The longest line that is read from standard input, in bytes.
const MAX_LINE: u64 = 4096;

/// What is to be done.
#[derive(Args, Clone, Debug, PartialEq)]
pub(crate) struct Task {
    /// The user's name: 1 to 64 characters of A-Z a-z 0-9 . _ @ + -
    #[arg(long, value_name = "NAME")]
    username: Option<Name>,
    /// Give a user that there is a new password; whoever is logged in with the old one is not any more
    #[arg(long, conflicts_with_all = ["delete", "list"])]
    change_password: bool,
    /// Remove a user, who is logged out at once
    #[arg(long, requires = "username", conflicts_with = "list")]
    delete: bool,
    /// Show who there is
    #[arg(long, conflicts_with = "username")]
    list: bool,
}

/// Does it, and says so.
pub(crate) fn carry_out(task: &Task, settings: &Settings, environment: &Environment) -> ExitCode {
    match act(task, settings, environment) {
        Ok(said) => match io::stdout().lock().write_all(said.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(reason) => {
            eprintln!("baton: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn act(task: &Task, settings: &Settings, environment: &Environment) -> Result<String, String> {
    let change = match task {
        Task { list: true, .. } => {
            become_owner(settings)?;
            let all = superusers::list(settings).map_err(|error| error.to_string())?;
            return Ok(table(&all));
        }
        Task { delete: true, username: Some(name), .. } => Change::Delete(name.clone()),
        Task { username, change_password, .. } => {
            let name = match username {
                Some(name) => name.clone(),
                None => ask_name()?,
            };
            let hash = password(&name, environment)?.hash();
            let changed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let superuser = Superuser { hash, changed };
            if *change_password { Change::Replace(name, superuser) } else { Change::Create(name, superuser) }
        }
    };
    let said = match &change {
        Change::Create(name, _) => format!("superuser {name} may log in at /admin/\n"),
        Change::Replace(name, _) => format!("superuser {name} has a new password\n"),
        Change::Delete(name) => format!("superuser {name} is gone\n"),
    };
    // After the questions: the terminal is not the owner's.
    become_owner(settings)?;
    superusers::change(settings, change).map_err(|error| error.to_string())?;
    let off =
        if settings.secret_key.is_none() { "/admin/ is off until SECRET_KEY is set for the service\n" } else { "" };
    Ok(said + off)
}

/// Root does this as the owner of the state directory: the service could not read a file of root's.
fn become_owner(settings: &Settings) -> Result<(), String> {
    if settings.redis.is_some() || !geteuid().is_root() {
        return Ok(());
    }
    let Ok(directory) = std::fs::metadata(&settings.state_dir) else { return Ok(()) };
    let (uid, gid) = (Uid::from_raw(directory.uid()), Gid::from_raw(directory.gid()));
    if uid.is_root() {
        return Ok(());
    }
    let became = setgroups(&[]).and_then(|()| setgid(gid)).and_then(|()| setuid(uid));
    became.map_err(|errno| format!("cannot act as user {uid}, whose {} is: {errno}", settings.state_dir.display()))
}

fn ask_name() -> Result<Name, String> {
    if !io::stdin().is_terminal() {
        return Err("whose password this is to be: --username NAME".to_owned());
    }
    let mut wrong = String::new();
    for _ in 0..TRIES {
        eprint!("Username: ");
        match line()?.parse() {
            Ok(name) => return Ok(name),
            Err(error) => wrong = format!("{error}"),
        }
        eprintln!("{wrong}");
    }
    Err(wrong)
}

/// From whoever can give it: a person, the environment, or standard input.
fn password(name: &Name, environment: &Environment) -> Result<Password, String> {
    if let Some(given) = environment.get(PASSWORD_VARIABLE) {
        return Password::new(given.to_owned(), name).map_err(|error| format!("{PASSWORD_VARIABLE}: {error}"));
    }
    if !io::stdin().is_terminal() {
        return Password::new(line()?, name).map_err(|error| error.to_string());
    }
    let mut wrong = String::new();
    for _ in 0..TRIES {
        let ask = |prompt: &str| rpassword::prompt_password(prompt).map_err(|error| format!("no password: {error}"));
        match Password::new(ask("Password: ")?, name) {
            Ok(password) if password.is(&ask("Password (again): ")?) => return Ok(password),
            Ok(_) => wrong = "the two passwords are not the same".to_owned(),
            Err(error) => wrong = error.to_string(),
        }
        eprintln!("{wrong}");
    }
    Err(wrong)
}

/// One line of standard input, without its end.
fn line() -> Result<String, String> {
    let mut line = String::new();
    let read =
        io::stdin().lock().take(MAX_LINE).read_line(&mut line).map_err(|error| format!("standard input: {error}"));
    match read? {
        0 => Err("standard input has ended".to_owned()),
        _ => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
    }
}

fn table(all: &[(Name, Superuser)]) -> String {
    if all.is_empty() {
        return "there is no superuser\n".to_owned();
    }
    let row = |(name, superuser): &(Name, Superuser)| {
        let changed = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(superuser.changed));
        vec![name.as_ref().into(), changed.into()]
    };
    let rows: Vec<_> = all.iter().map(row).collect();
    page::table(&[("USERNAME", Align::Left), ("PASSWORD SET", Align::Left)], &rows, false)
}
