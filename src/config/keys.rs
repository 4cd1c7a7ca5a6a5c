//! The table of settings: the one place where a setting is added.

use std::time::Duration;

use baton_ipc::MAX_SLOTS;
use baton_supervisor::{ForegroundParent, Takeover};
use baton_worker::SecretKey;
use baton_worker::redis::Address;

use super::key::{Applied, Group, Key, Variable, systemd_directory, variable};
use super::values::{self, MAX_SOCKET_PATH, directory, duration, number, optional, size, word};
use super::{Config, directories};
use crate::logging::{Format, Rotation};

/// The setting of this name.
pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

fn debug(value: &str) -> bool {
    ["true", "1", "yes", "on"].contains(&value.to_ascii_lowercase().as_str())
}

const MS_100: Duration = Duration::from_millis(100);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

use Group::{Limits, Logs, Processes, Service, Sessions};

/// Every setting, in the order of the help.
pub(crate) const KEYS: &[Key] = &[
    Key::list("listen", Service, "ADDRESS", |c, v| {
        c.supervisor.listen = v.iter().map(|text| values::endpoint(text)).collect::<Result<_, _>>()?;
        let listen = &c.supervisor.listen;
        let twice = listen.iter().enumerate().any(|(i, endpoint)| listen[..i].contains(endpoint));
        if listen.is_empty() || twice { Err("at least one address, and none of them twice".to_owned()) } else { Ok(()) }
    })
    .default("0.0.0.0:8000")
    .help("Where to serve: HOST:PORT or unix:PATH; may be repeated"),
    Key::one("workers", Service, "N", |c, v| {
        c.supervisor.workers = number(v, 1..=MAX_SLOTS.into())? as u16;
        Ok(())
    })
    .default("4")
    .help("Worker processes"),
    Key::one("color", Service, "COLOR", |c, v| {
        c.supervisor.color = word(v, &[("blue", "blue"), ("green", "green")])?.to_owned();
        c.worker.color.clone_from(&c.supervisor.color);
        Ok(())
    })
    .default("blue")
    .help("Name of this generation: blue or green"),
    Key::one("takeover", Service, "WHEN", |c, v| {
        let allowed = [("never", Takeover::Never), ("wait", Takeover::Wait), ("now", Takeover::Now)];
        c.supervisor.takeover = word(v, &allowed)?;
        Ok(())
    })
    .default("never")
    .help("Take over from a generation that runs already: never; wait, for promote; now, once ready"),
    Key::one("foreground-parent", Service, "WHEN", |c, v| {
        use ForegroundParent::{Always, Auto, Never};
        c.supervisor.foreground_parent = word(v, &[("auto", Auto), ("always", Always), ("never", Never)])?;
        Ok(())
    })
    .default("auto")
    .help("Keep one process in front of all generations: auto (in a container, below tini, runit, …), always or never"),
    Key::one("max-generations", Service, "N", |c, v| {
        c.supervisor.max_generations = number(v, 1..=2)? as u16;
        Ok(())
    })
    .default("2")
    .help("Generations that may run side by side during a takeover; 1: none but this one"),
    Key::one("ws-base-url", Service, "URL", |c, v| {
        c.worker.ws_base_url = values::ws_base_url(v)?;
        Ok(())
    })
    .default("ws://localhost:8000")
    .also(&[variable("WS_BASE_URL")])
    .help("What clients dial, as the test page shows it"),
    Key::list("allowed-origins", Service, "ORIGIN", |c, v| {
        c.worker.allowed_origins = v.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(())
    })
    .help("Web origins that may connect, such as https://example.org or https://*.example.org; may be repeated; without it: any"),
    Key::list("trusted-proxies", Service, "PROXY", |c, v| {
        c.worker.trusted_proxies = v.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(())
    })
    .help("Proxies whose X-Forwarded-For is believed: addresses, networks, unix; may be repeated; without it: none"),
    Key::one("heartbeat-interval", Service, "DURATION", |c, v| {
        c.worker.heartbeat_interval = duration(v, MS_100..=DAY)?;
        Ok(())
    })
    .default("30s")
    .help("How often every client gets a heartbeat"),
    Key::one("secret-key", Service, "KEY", |c, v| {
        c.worker.secret_key = optional(v, |text| {
            let refused = |weakness| {
                let least = SecretKey::LEAST;
                format!("at least {least} characters that nobody can guess, such as of `openssl rand -base64 32`; {weakness}")
            };
            SecretKey::new(text).map_err(refused)
        })?;
        Ok(())
    })
    .also(&[variable("SECRET_KEY")])
    .secret()
    .help("Signs the cookies of /admin/; without it /admin/ is off"),
    Key::one("state-dir", Sessions, "DIR", |c, v| {
        c.worker.state_dir = directory(v)?;
        Ok(())
    })
    .derived(directories::state)
    .also(&[systemd_directory("STATE_DIRECTORY")])
    .help("Where the embedded store lives [default: /var/lib/baton, else $XDG_STATE_HOME/baton]"),
    // Before the other settings of Redis: they are set into what this one makes.
    Key::one("redis-url", Sessions, "URL", |c, v| {
        let address = optional(v, |text| text.parse::<Address>().map_err(|error| error.to_string()))?;
        c.worker.redis = address.map(values::redis);
        Ok(())
    })
    .also(&[variable("REDIS_URL")])
    .hidden()
    .help("Redis as the backplane: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"),
    Key::one("redis-ca-file", Sessions, "FILE", |c, v| {
        let file = optional(v, values::ca_file)?;
        if let Some(redis) = &mut c.worker.redis {
            redis.ca_file = file;
        }
        Ok(())
    })
    .help("Who must have signed the certificate of Redis, as PEM; none: anybody whom this machine trusts"),
    Key::one("redis-prefix", Sessions, "PREFIX", |c, v| {
        let prefix = values::redis_prefix(v)?;
        if let Some(redis) = &mut c.worker.redis {
            redis.prefix = prefix;
        }
        Ok(())
    })
    .default("baton")
    .help("What every key and channel in Redis begins with: one per service"),
    Key::one("redis-timeout", Sessions, "DURATION", |c, v| {
        // Clients wait for it, once when Redis falls silent.
        let timeout = duration(v, Duration::from_millis(50)..=Duration::from_secs(10))?;
        if let Some(redis) = &mut c.worker.redis {
            redis.timeout = timeout;
        }
        Ok(())
    })
    .default("500ms")
    .help("How long an answer of Redis may take before the service goes on without it"),
    Key::one("session-ttl", Sessions, "DURATION", |c, v| {
        // The store counts whole seconds.
        c.worker.session_ttl = duration(v, Duration::from_secs(1)..=DAY * 365)?;
        Ok(())
    })
    .default("24h")
    .help("How long a session is kept after its last use"),
    Key::one("new-session-ttl", Sessions, "DURATION", |c, v| {
        c.worker.new_session_ttl = duration(v, Duration::from_secs(1)..=DAY * 365)?;
        Ok(())
    })
    .default("1h")
    .help("The same for a session of one message; at most session-ttl counts"),
    Key::one("store-max-size", Sessions, "SIZE", |c, v| {
        // Less would have no room for a single transaction.
        c.worker.store_max_size = size(v, 4 * MIB..=16 * TIB)?;
        Ok(())
    })
    .default("1GiB")
    .help("The most the embedded store may grow to"),
    Key::one("checkpoint-interval", Sessions, "DURATION", |c, v| {
        c.worker.checkpoint_interval = duration(v, MS_100..=MINUTE)?;
        Ok(())
    })
    .default("30s")
    .help("How often the embedded store is copied to disk: what a power loss may take back"),
    Key::one("max-connections", Limits, "N", |c, v| {
        let most = optional(v, |text| number(text, 1..=10_000_000))?;
        c.worker.limits.max_connections = most.map(|most| most as usize);
        Ok(())
    })
    .help("WebSockets of one worker (not of the service); none: as many as it may have descriptors"),
    Key::one("max-connections-per-address", Limits, "N", |c, v| {
        c.worker.per_address.connections = optional(v, |text| number(text, 1..=10_000_000))?.map(|n| n as u32);
        Ok(())
    })
    .default("1000")
    .help("Connections from one address (IPv6: /64) to all workers together; more are refused; none: no limit"),
    Key::one("max-new-sessions-per-address", Limits, "N", |c, v| {
        c.worker.per_address.new_sessions = optional(v, |text| number(text, 1..=100_000))?.map(|n| n as u32);
        Ok(())
    })
    .default("1200")
    .help("New sessions a minute from one address (IPv6: /64), at once or spread; more are refused; none: no limit"),
    Key::list("exempt-addresses", Limits, "NETWORK", |c, v| {
        let listed = if v == ["none"] { &[][..] } else { v };
        c.worker.per_address.exempt = listed.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        Ok(())
    })
    .defaults(&["127.0.0.0/8", "::1"])
    .help("Addresses and networks to which the limits per address do not apply; may be repeated; none: no exemptions"),
    Key::one("max-message-size", Limits, "SIZE", |c, v| {
        c.worker.limits.max_message_size = size(v, 128..=GIB)? as usize;
        Ok(())
    })
    .default("1MiB")
    .help("A larger message closes 1009"),
    Key::one("max-fragments", Limits, "N", |c, v| {
        c.worker.limits.max_fragments = number(v, 1..=1_000_000)? as u32;
        Ok(())
    })
    .default("1024")
    .help("A message in more frames closes 1008"),
    Key::one("max-message-rate", Limits, "N", |c, v| {
        c.worker.limits.max_message_rate = optional(v, |text| number(text, 0..=10_000_000))?.unwrap_or(0) as u32;
        Ok(())
    })
    .default("10000")
    .help("More frames a second from one client close 1008; 0 or none: no limit"),
    Key::one("max-output", Limits, "SIZE", |c, v| {
        c.worker.limits.max_output = size(v, 64 * KIB..=GIB)? as usize;
        Ok(())
    })
    .default("256KiB")
    .help("A client that leaves more output untaken is closed 1008; also the largest message to a room or to all"),
    Key::one("max-buffer-memory", Limits, "SIZE", |c, v| {
        c.worker.limits.max_buffer_memory = size(v, MIB..=TIB)? as usize;
        Ok(())
    })
    .default("64MiB")
    .help("Unfinished messages and untaken output of all clients together"),
    Key::one("handshake-timeout", Limits, "DURATION", |c, v| {
        c.worker.limits.handshake_timeout = duration(v, MS_100..=10 * MINUTE)?;
        Ok(())
    })
    .default("10s")
    .help("How long a request's head may take"),
    Key::one("keep-alive-timeout", Limits, "DURATION", |c, v| {
        c.worker.limits.keep_alive_timeout = duration(v, MS_100..=60 * MINUTE)?;
        Ok(())
    })
    .default("75s")
    .help("How long an HTTP connection may wait for its next request"),
    Key::one("max-header-size", Limits, "SIZE", |c, v| {
        c.worker.limits.max_header_size = size(v, KIB..=MIB)? as usize;
        Ok(())
    })
    .default("16KiB")
    .help("A larger head of a request is 431"),
    Key::one("max-handshakes", Limits, "N", |c, v| {
        c.worker.limits.max_handshakes = number(v, 1..=1_000_000)? as usize;
        Ok(())
    })
    .default("4096")
    .help("HTTP connections at once; over it the oldest is dropped, once it is a second old"),
    Key::one("write-timeout", Limits, "DURATION", |c, v| {
        c.worker.limits.write_timeout = duration(v, MS_100..=60 * MINUTE)?;
        Ok(())
    })
    .default("30s")
    .help("How long a client may leave output untaken, WebSocket or not"),
    Key::one("message-timeout", Limits, "DURATION", |c, v| {
        c.worker.limits.message_timeout = duration(v, MS_100..=60 * MINUTE)?;
        Ok(())
    })
    .default("60s")
    .help("How long a message may take from its first byte to its last; beyond it 1008"),
    Key::one("close-timeout", Limits, "DURATION", |c, v| {
        c.worker.limits.close_timeout = duration(v, MS_100..=10 * MINUTE)?;
        Ok(())
    })
    .default("5s")
    .help("How long a client may take to answer a close"),
    Key::one("user-timeout", Limits, "DURATION", |c, v| {
        c.worker.limits.user_timeout = duration(v, Duration::from_secs(1)..=DAY)?;
        Ok(())
    })
    .default("60s")
    .help("How long sent data may stay unacknowledged (TCP_USER_TIMEOUT)"),
    Key::one("ping-interval", Limits, "DURATION", |c, v| {
        c.worker.limits.ping_interval = optional(v, |text| duration(text, MS_100..=DAY))?;
        Ok(())
    })
    .help("How often to ping; a client silent from one to the next is closed; none: never"),
    Key::one("drain-timeout", Processes, "DURATION", |c, v| {
        // The whole exit stays under 10 s.
        c.supervisor.drain_timeout = duration(v, MS_100..=Duration::from_secs(9))?;
        c.worker.drain_timeout = c.supervisor.drain_timeout;
        Ok(())
    })
    .default("8s")
    .help("How long clients have to leave at a shutdown"),
    Key::one("retry-spread", Processes, "DURATION", |c, v| {
        c.worker.retry_spread = duration(v, Duration::ZERO..=10 * MINUTE)?;
        Ok(())
    })
    .default("5s")
    .help("Over how long reconnects are spread after a shutdown"),
    Key::one("start-timeout", Processes, "DURATION", |c, v| {
        c.supervisor.start_timeout = duration(v, MS_100..=10 * MINUTE)?;
        Ok(())
    })
    .default("30s")
    .help("A worker that is not ready by then is killed"),
    Key::one("hang-timeout", Processes, "DURATION", |c, v| {
        // Event loops report once a second.
        c.supervisor.hang_timeout = duration(v, Duration::from_secs(2)..=10 * MINUTE)?;
        Ok(())
    })
    .default("5s")
    .help("A worker whose event loop is silent for longer is killed"),
    Key::one("runtime-dir", Processes, "DIR", |c, v| {
        c.supervisor.runtime_dir = directory(v)?;
        Ok(())
    })
    .derived(directories::runtime)
    .also(&[systemd_directory("RUNTIME_DIRECTORY")])
    .help("Where the control socket is made [default: /run/baton, else $XDG_RUNTIME_DIR/baton]"),
    Key::one("control-group", Processes, "GROUP", |c, v| {
        c.supervisor.control_group = optional(v, |text| match nix::unistd::Group::from_name(text) {
            Ok(Some(_)) => Ok(text.to_owned()),
            Ok(None) | Err(_) => Err("the name of a group of this machine".to_owned()),
        })?;
        Ok(())
    })
    .help("A group that may use batonctl, beside root and the service's own user"),
    Key::one("log-dir", Logs, "DIR", |c, v| {
        c.logging.directory = optional(v, directory)?;
        Ok(())
    })
    .help("Files there instead of standard error"),
    Key::one("log-rotation", Logs, "WHEN", |c, v| {
        let allowed = [("daily", Rotation::Daily), ("hourly", Rotation::Hourly), ("never", Rotation::Never)];
        c.logging.rotation = word(v, &allowed)?;
        Ok(())
    })
    .default("daily")
    .help("When other log files begin: daily or hourly, by UTC; never, for logrotate"),
    Key::one("log-keep", Logs, "N", |c, v| {
        // One alone would be the one that is written.
        c.logging.keep = optional(v, |text| number(text, 2..=100_000))?.map(|keep| keep as usize);
        Ok(())
    })
    .default("30")
    .help("The most log files kept of each process, if they rotate; none: all"),
    Key::one("log-max-size", Logs, "SIZE", |c, v| {
        c.logging.max_size = optional(v, |text| size(text, MIB..=TIB))?;
        Ok(())
    })
    .default("1GiB")
    .help(
        "The most bytes that all log files of one process take, if they rotate: the oldest lines go; none: any number",
    ),
    Key::one("log-format", Logs, "FORMAT", |c, v| {
        c.logging.format = word(v, &[("json", Format::Json), ("pretty", Format::Pretty)])?;
        c.worker.debug = c.logging.format == Format::Pretty;
        Ok(())
    })
    .default("json")
    .also(&[Variable { name: "DEBUG", read: |value| debug(value).then(|| "pretty".to_owned()) }])
    .help("json or pretty; with pretty, browsers that ask for / are sent to /test/"),
    Key::one("log-level", Logs, "LEVEL", |c, v| {
        c.logging.filter = v.parse()?;
        Ok(())
    })
    .default("info")
    .also(&[Variable { name: "DEBUG", read: |value| debug(value).then(|| "debug".to_owned()) }])
    .help("error, warn, info, debug or trace; parts may differ: info,baton_worker=debug"),
];

/// What must hold between settings; the first key named is the one to blame.
pub(super) struct Check {
    pub(super) keys: &'static [&'static str],
    pub(super) test: fn(&Config) -> Applied,
}

pub(super) const CHECKS: &[Check] = &[
    Check {
        keys: &["redis-ca-file", "redis-url"],
        test: |c| match &c.worker.redis {
            Some(redis) if redis.ca_file.is_some() && !redis.address.is_tls() => {
                Err("none, unless redis-url begins with rediss: without it nothing is encrypted or checked".to_owned())
            }
            Some(_) | None => Ok(()),
        },
    },
    Check {
        keys: &["max-buffer-memory", "max-message-size"],
        test: |c| match c.worker.limits.max_buffer_memory >= c.worker.limits.max_message_size {
            true => Ok(()),
            false => Err(format!(
                "at least one message of max-message-size, which is {}",
                values::format_size(c.worker.limits.max_message_size as u64)
            )),
        },
    },
    Check {
        keys: &["runtime-dir"],
        test: |c| {
            // Also those that a takeover or an upgrade will need.
            let longest = baton_supervisor::longest_socket_path(&c.supervisor.runtime_dir);
            match longest.as_os_str().len() <= MAX_SOCKET_PATH {
                true => Ok(()),
                false => Err(format!(
                    "a path of at most {} bytes, so that {} in it has at most {MAX_SOCKET_PATH} (unix(7))",
                    (MAX_SOCKET_PATH + c.supervisor.runtime_dir.as_os_str().len())
                        .saturating_sub(longest.as_os_str().len()),
                    longest.file_name().unwrap_or_default().display(),
                )),
            }
        },
    },
];
