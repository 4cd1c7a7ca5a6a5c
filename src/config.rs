//! The only reader of configuration: flags over environment over file over defaults, made into validated settings.
//!
//! Every setting is one row of [`keys::KEYS`]; from it come the flag, the environment variable, the key of the file, the
//! help text and `--print-config`. Everything that is wrong is found in one pass and reported at once, before anything is
//! bound.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use baton_supervisor::{ForegroundParent, Takeover};

use crate::logging;

pub(crate) mod directories;
pub(crate) mod key;
pub(crate) mod keys;
mod print;
mod problem;
mod sources;
mod values;

pub(crate) use print::print;
pub(crate) use problem::{Problem, Problems};
pub(crate) use sources::{DEFAULT_FILE, Environment, PASSWORD_VARIABLE, Sources};
pub(crate) use values::{duration, seconds};

use key::Key;
use keys::{CHECKS, KEYS};
use problem::Origin;
use sources::Raw;

/// Settings that a takeover decides: generations of one service differ in them.
pub(crate) const DECIDED: [&str; 3] = ["color", "takeover", "foreground-parent"];

/// The version that `status`, `/status` and `--version` name.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A validated configuration, cut into what each part of the program is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// For the supervisor.
    pub(crate) supervisor: baton_supervisor::Settings,
    /// For each worker.
    pub(crate) worker: baton_worker::Settings,
    /// For the log of every process.
    pub(crate) logging: logging::Settings,
}

/// A configuration together with the texts it came from, for `--print-config`.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The validated values.
    pub(crate) config: Config,
    /// The file that was read, if any.
    pub(crate) file: Option<PathBuf>,
    /// What was written, by key; of a secret its origin alone.
    raw: BTreeMap<&'static str, Raw>,
}

/// Reads all sources and validates. All problems come back together.
pub(crate) fn load(sources: &Sources) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let gathered = sources.gather(&mut problems);
    let mut config = Config::blank();
    let mut raw = BTreeMap::new();
    let mut digest = DefaultHasher::new();
    for key in KEYS {
        match gathered.value_of(key, &sources.environment) {
            Ok(mut found) => match key.apply(&mut config, &found.values) {
                Ok(()) => {
                    if !DECIDED.contains(&key.name) {
                        (key.name, &found.values).hash(&mut digest);
                    }
                    if key.hidden {
                        found.values.clear();
                    }
                    raw.insert(key.name, found);
                }
                Err(allowed) => problems.push(Problem::refused(key, &found, allowed)),
            },
            Err(problem) => problems.push(problem),
        }
    }
    for check in CHECKS {
        // A check over several keys says nothing when one of them is refused already.
        if !check.keys.iter().all(|key| raw.contains_key(key)) {
            continue;
        }
        if let (Err(allowed), Some(key)) = ((check.test)(&config), keys::find(check.keys[0])) {
            problems.push(Problem::refused(key, &raw[key.name], allowed));
        }
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    config.supervisor.digest = format!("{:016x}", digest.finish());
    config.supervisor.backplane = match &config.worker.redis {
        Some(redis) => format!("redis ({}, prefix {})", redis.address.data(), redis.prefix),
        None => format!("embedded ({})", config.worker.state_dir.display()),
    };
    Ok(Loaded { config, file: gathered.file, raw })
}

impl Loaded {
    /// Names the secrets in the configuration file, if every user of the machine may read it.
    pub(crate) fn exposed_secrets(&self) -> Option<String> {
        let path = self.file.as_ref()?;
        let redis = self.config.worker.redis.as_ref();
        let is_secret = |key: &&Key| match key.name {
            "redis-url" => redis.is_some_and(|redis| redis.address.has_password()),
            // A secret is what has no flag.
            _ => !key.flag,
        };
        let in_file = |key: &&Key| self.raw.get(key.name).is_some_and(|raw| matches!(raw.origin, Origin::File(..)));
        let secrets: Vec<&str> = KEYS.iter().filter(is_secret).filter(in_file).map(|key| key.name).collect();
        let mode = std::fs::metadata(path).ok()?.mode() & 0o7777;
        let exposed = !secrets.is_empty() && mode & 0o004 != 0;
        let path = path.display();
        exposed.then(|| {
            let secrets = secrets.join(" and ");
            format!(
                "every user of this machine may read {path} (mode {mode:04o}), which holds {secrets}: `chmod o-r` it"
            )
        })
    }
}

/// Where control sockets may be: the one directory that is given, else that which is configured, else all that are usual.
pub(crate) fn runtime_directories(given: Option<PathBuf>, environment: &Environment) -> Vec<PathBuf> {
    if let Some(directory) = given {
        return vec![directory];
    }
    let sources = Sources { environment: environment.clone(), ..Sources::default() };
    // What else is wrong with the configuration is no affair of who looks for a running supervisor.
    let gathered = sources.gather(&mut Vec::new());
    match gathered.set_value("runtime-dir") {
        Some(directory) => vec![PathBuf::from(directory)],
        None => {
            let user = directories::user_runtime(&sources.environment);
            std::iter::once(PathBuf::from(directories::SYSTEM_RUNTIME)).chain(user).collect()
        }
    }
}

impl Config {
    /// What the keys are set into: every field of it is some key's to fill.
    fn blank() -> Config {
        Config {
            supervisor: baton_supervisor::Settings {
                color: String::new(),
                version: VERSION,
                listen: Vec::new(),
                workers: 0,
                runtime_dir: PathBuf::new(),
                drain_timeout: Duration::ZERO,
                start_timeout: Duration::ZERO,
                hang_timeout: Duration::ZERO,
                takeover: Takeover::Never,
                foreground_parent: ForegroundParent::Auto,
                max_generations: 0,
                control_group: None,
                digest: String::new(),
                backplane: String::new(),
                store: None,
            },
            worker: baton_worker::Settings {
                color: String::new(),
                version: VERSION,
                heartbeat_interval: Duration::ZERO,
                drain_timeout: Duration::ZERO,
                session_ttl: Duration::ZERO,
                new_session_ttl: Duration::ZERO,
                state_dir: PathBuf::new(),
                store_max_size: 0,
                checkpoint_interval: Duration::ZERO,
                redis: None,
                ws_base_url: String::new(),
                secret_key: None,
                allowed_origins: Vec::new(),
                debug: false,
                trusted_proxies: Vec::new(),
                per_address: baton_worker::PerAddress::default(),
                retry_spread: Duration::ZERO,
                limits: baton_worker::Limits::default(),
            },
            logging: logging::Settings::default(),
        }
    }
}

#[cfg(test)]
mod tests;
