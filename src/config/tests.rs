//! Precedence, and every refusal.

use baton_ipc::Endpoint;
use baton_worker::Network;

use super::key::Fallback;
use super::*;

/// Sources without anything of the machine that runs the test.
fn sources(
    flags: &[(&'static str, &str)],
    variables: &[(&str, &str)],
    file: Option<&str>,
) -> (Sources, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("baton.toml");
    std::fs::write(&path, file.unwrap_or_default()).unwrap();
    let mut by_key = BTreeMap::<_, Vec<String>>::new();
    for (key, value) in flags {
        by_key.entry(*key).or_default().push((*value).to_owned());
    }
    let base = directory.path().display().to_string();
    let fixed = [("BATON_RUNTIME_DIR", base.as_str()), ("BATON_STATE_DIR", base.as_str())];
    let environment = fixed.iter().chain(variables).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    (Sources { flags: by_key, file: Some(path), environment }, directory)
}

fn loaded(flags: &[(&'static str, &str)], variables: &[(&str, &str)], file: &str) -> Config {
    let (sources, _directory) = sources(flags, variables, Some(file));
    load(&sources).unwrap_or_else(|problems| panic!("{problems}")).config
}

/// The sentences of a refusal, the temporary directory taken out of them.
fn refusals(flags: &[(&'static str, &str)], variables: &[(&str, &str)], file: &str) -> Vec<String> {
    let (sources, directory) = sources(flags, variables, Some(file));
    let problems = load(&sources).expect_err("refused");
    let base = format!("{}/", directory.path().display());
    problems.to_string().lines().map(|line| line.replace(&base, "")).collect()
}

#[test]
fn flags_over_environment_over_file_over_defaults() {
    let file = "workers = 2\n";
    assert_eq!(loaded(&[], &[], "").supervisor.workers, 4);
    assert_eq!(loaded(&[], &[], file).supervisor.workers, 2);
    assert_eq!(loaded(&[], &[("BATON_WORKERS", "3")], file).supervisor.workers, 3);
    assert_eq!(loaded(&[("workers", "5")], &[("BATON_WORKERS", "3")], file).supervisor.workers, 5);
    assert_eq!(loaded(&[], &[("BATON_WORKERS", "")], file).supervisor.workers, 2, "an empty variable is not set");
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let Config { supervisor, worker, .. } = loaded(&[], &[], "");
    assert_eq!(supervisor.listen, [Endpoint::Tcp(([0, 0, 0, 0], 8000).into())]);
    assert_eq!((supervisor.color.as_str(), worker.color.as_str()), ("blue", "blue"));
    let seconds = Duration::from_secs;
    assert_eq!(
        (supervisor.drain_timeout, supervisor.start_timeout, supervisor.hang_timeout),
        (seconds(8), seconds(30), seconds(5))
    );
    assert_eq!((worker.heartbeat_interval, worker.session_ttl), (seconds(30), seconds(24 * 3600)));
    assert_eq!((worker.store_max_size, worker.checkpoint_interval), (1 << 30, seconds(30)));
    assert_eq!((worker.retry_spread, worker.ws_base_url.as_str()), (seconds(5), "ws://localhost:8000"));
    assert_eq!(worker.limits, baton_worker::Limits::default());
    assert_eq!((supervisor.control_group, worker.allowed_origins.len()), (None, 0));
    assert!(supervisor.backplane.starts_with("embedded (/"));
}

#[test]
fn lists_come_in_each_source() {
    let both = [Endpoint::Tcp(([127, 0, 0, 1], 1).into()), Endpoint::Unix("/run/x".into())];
    assert_eq!(loaded(&[("listen", "127.0.0.1:1"), ("listen", "unix:/run/x")], &[], "").supervisor.listen, both);
    assert_eq!(loaded(&[], &[("BATON_LISTEN", "127.0.0.1:1, unix:/run/x")], "").supervisor.listen, both);
    assert_eq!(loaded(&[], &[], r#"listen = ["127.0.0.1:1", "unix:/run/x"]"#).supervisor.listen, both);
    assert_eq!(loaded(&[], &[], r#"listen = "127.0.0.1:1""#).supervisor.listen, both[..1]);
}

#[test]
fn variables_of_others_are_weaker_than_our_own() {
    let config = loaded(&[], &[("DEBUG", "True"), ("WS_BASE_URL", "wss://a.example")], "");
    assert_eq!((config.logging.format, config.logging.filter), (logging::Format::Pretty, "debug".parse().unwrap()));
    assert_eq!((config.worker.ws_base_url.as_str(), config.worker.debug), ("wss://a.example", true));
    let config = loaded(&[("log-format", "json")], &[("DEBUG", "1"), ("BATON_LOG_LEVEL", "warn")], "");
    assert_eq!((config.logging.format, config.logging.filter), (logging::Format::Json, "warn".parse().unwrap()));
    assert!(!config.worker.debug);
    let quiet = logging::Settings { keep: Some(30), max_size: Some(1 << 30), ..logging::Settings::default() };
    assert_eq!(loaded(&[], &[("DEBUG", "False")], "").logging, quiet);

    let (mut sources, directory) =
        sources(&[], &[("STATE_DIRECTORY", "/a/one:/a/two"), ("RUNTIME_DIRECTORY", "/b")], None);
    let base = directory.path().to_owned();
    assert_eq!(load(&sources).unwrap().config.worker.state_dir, base);
    let kept = sources.environment.without(&["BATON_STATE_DIR", "BATON_RUNTIME_DIR"]);
    sources.environment = kept;
    let config = load(&sources).unwrap().config;
    assert_eq!(
        (config.worker.state_dir.to_str(), config.supervisor.runtime_dir.to_str()),
        (Some("/a/one"), Some("/b"))
    );
}

#[test]
fn proxies_are_trusted_by_address_network_or_socket() {
    assert_eq!(loaded(&[], &[], "").worker.trusted_proxies, []);
    let both = loaded(&[("trusted-proxies", "127.0.0.1"), ("trusted-proxies", "unix")], &[], "").worker.trusted_proxies;
    assert_eq!(both, ["127.0.0.1/32", "unix"].map(|text| text.parse().unwrap()));
    assert_eq!(loaded(&[], &[("BATON_TRUSTED_PROXIES", "127.0.0.1,unix")], "").worker.trusted_proxies, both);
    assert_eq!(loaded(&[], &[], r#"trusted-proxies = ["127.0.0.1", "unix"]"#).worker.trusted_proxies, both);
    let told = refusals(&[], &[], r#"trusted-proxies = ["10.0.0.7/8"]"#);
    assert!(told[0].contains("the network is 10.0.0.0/8"), "{told:?}");
}

#[test]
fn limits_per_address_have_exemptions() {
    let per_address = |flags: &[(&'static str, &str)], file: &str| loaded(flags, &[], file).worker.per_address;
    let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Network>>();
    let defaults = per_address(&[], "");
    assert_eq!((defaults.connections, defaults.new_sessions), (Some(1000), Some(1200)));
    assert_eq!(defaults.exempt, networks(&["127.0.0.0/8", "::1"]));
    let given = per_address(&[("exempt-addresses", "10.0.0.7"), ("exempt-addresses", "fd00::/8")], "");
    assert_eq!(given.exempt, networks(&["10.0.0.7/32", "fd00::/8"]));
    assert_eq!(per_address(&[("exempt-addresses", "none")], "").exempt, []);
    assert_eq!(per_address(&[], "exempt-addresses = []").exempt, []);
    let unlimited = "max-connections-per-address = \"none\"\nmax-new-sessions-per-address = \"none\"";
    assert_eq!((per_address(&[], unlimited).connections, per_address(&[], unlimited).new_sessions), (None, None));
    for (file, allowed) in [
        ("exempt-addresses = [\"10.0.0.7/8\"]", "the network is 10.0.0.0/8"),
        ("exempt-addresses = [\"unix\"]", "an address, or a network"),
        ("exempt-addresses = [\"none\", \"::1\"]", "an address, or a network"),
        ("max-connections-per-address = 0", "a whole number from 1"),
        ("max-new-sessions-per-address = 100001", "to 100000"),
    ] {
        let refused = refusals(&[], &[], file);
        assert!(refused[0].contains(allowed), "{file}: {refused:?}");
    }
}

#[test]
fn logs_rotate_and_are_kept_as_told() {
    let logging = |rotation, keep| {
        let config = loaded(&[("log-rotation", rotation), ("log-keep", keep)], &[], "");
        (config.logging.rotation, config.logging.keep)
    };
    assert_eq!(logging("hourly", "2"), (logging::Rotation::Hourly, Some(2)));
    assert_eq!(logging("never", "none"), (logging::Rotation::Never, None));
    // The only one would be the one that is written.
    assert!(refusals(&[("log-keep", "1")], &[], "")[0].contains("from 2 to"));
}

#[test]
fn a_refusal_names_key_value_origin_and_what_is_allowed() {
    let allowed = "allowed is a whole number from 1 to 64";
    assert_eq!(refusals(&[("workers", "0")], &[], ""), [format!("workers = \"0\" (flag --workers): {allowed}")]);
    assert_eq!(
        refusals(&[], &[("BATON_WORKERS", "many")], ""),
        [format!("workers = \"many\" (environment variable BATON_WORKERS): {allowed}")]
    );
    assert_eq!(refusals(&[], &[], "\n\nworkers = 65\n"), [format!("workers = \"65\" (baton.toml:3): {allowed}")]);
}

#[test]
fn everything_wrong_is_told_at_once() {
    let told = refusals(
        &[("color", "red")],
        &[("BATON_DRAIN_TIMEOUT", "10s"), ("BATON_WORKRES", "4"), ("BATON_X", "")],
        "heartbeat-interval = 30\nheartbeat_interval = \"1s\"\n[server]\nport = 1\n",
    );
    let begins = [
        "unknown key heartbeat_interval (baton.toml:2); did you mean heartbeat-interval?",
        "unknown key server (baton.toml:3)",
        "unknown environment variable BATON_WORKRES; did you mean BATON_WORKERS?",
        "unknown environment variable BATON_X",
        "color = \"red\" (flag --color): allowed is blue or green",
        "heartbeat-interval = \"30\" (baton.toml:1): allowed is a duration with its unit",
        "drain-timeout = \"10s\" (environment variable BATON_DRAIN_TIMEOUT): allowed is a duration",
    ];
    assert_eq!(told.len(), begins.len(), "{told:#?}");
    for begin in begins {
        assert!(told.iter().any(|line| line.starts_with(begin)), "{begin}\nnot in {told:#?}");
    }
}

#[test]
fn every_key_refuses_nonsense_from_every_source() {
    let free_text = ["log-dir", "state-dir", "runtime-dir"];
    for key in KEYS.iter().filter(|key| !free_text.contains(&key.name)) {
        let nonsense = "¿no?";
        let variable = key.variable();
        for told in [
            refusals(&[(key.name, nonsense)], &[], ""),
            refusals(&[], &[(variable.as_str(), nonsense)], ""),
            refusals(&[], &[], &format!("{} = \"{nonsense}\"", key.name)),
            refusals(&[], &[], &format!("{} = {{ a = 1 }}", key.name)),
            refusals(&[], &[], &format!("{} = [[]]", key.name)),
        ] {
            assert_eq!(told.len(), 1, "{told:?}");
            let begin = format!("{} = ", key.name);
            assert!(told[0].starts_with(&begin) && told[0].contains("): allowed is "), "{told:?}");
        }
    }
}

#[test]
fn directories_that_are_files_are_refused() {
    for key in ["state-dir", "runtime-dir", "log-dir"] {
        assert!(refusals(&[(key, "/dev/null")], &[], "")[0].contains("allowed is the path of a directory"));
    }
}

#[test]
fn bounds_between_settings() {
    let told = refusals(&[("max-message-size", "8MiB"), ("max-buffer-memory", "4MiB")], &[], "");
    assert_eq!(
        told,
        [
            "max-buffer-memory = \"4MiB\" (flag --max-buffer-memory): allowed is at least one message of max-message-size, which is 8MiB"
        ]
    );
    let long = format!("/tmp/{}", "x".repeat(100));
    assert!(
        refusals(&[("runtime-dir", &long)], &[], "")[0]
            .contains("at most 87 bytes, so that green.next.takeover in it has at most 107")
    );
    // A refused value is not compared with others.
    assert_eq!(refusals(&[("max-message-size", "8"), ("max-buffer-memory", "4MiB")], &[], "").len(), 1);
    assert!(refusals(&[("listen", "0.0.0.0:1"), ("listen", "0.0.0.0:1")], &[], "")[0].contains("none of them twice"));
}

#[test]
fn redis_is_told_where_it_is_and_whom_to_trust() {
    assert_eq!(loaded(&[("redis-url", "none")], &[], "").worker.redis, None);
    let config = loaded(&[], &[("REDIS_URL", "redis://:hunter2@h/2")], "");
    let redis = config.worker.redis.clone().unwrap();
    assert_eq!(redis.address, "redis://:hunter2@h:6379/2".parse().unwrap());
    assert_eq!((redis.prefix.as_str(), redis.timeout, redis.ca_file), ("baton", Duration::from_millis(500), None));
    assert_eq!(config.supervisor.backplane, "redis (redis://h:6379/2, prefix baton)");
    assert!(!format!("{config:?}").contains("hunter2"));

    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let write = |text: &str| std::fs::write(&ca, text).unwrap();
    let flags = [("redis-url", "rediss://h"), ("redis-ca-file", ca.to_str().unwrap()), ("redis-timeout", "50ms")];
    write(CERTIFICATE);
    let redis = loaded(&flags, &[("BATON_REDIS_PREFIX", "a:b")], "redis-prefix = 'c'").worker.redis.unwrap();
    assert_eq!((redis.prefix.as_str(), redis.timeout), ("a:b", Duration::from_millis(50)));
    assert_eq!(redis.ca_file.as_ref(), Some(&ca));
    // Without Redis it says nothing, and with a Redis that it could not protect it is a mistake.
    assert_eq!(loaded(&flags[1..], &[], "").worker.redis, None);
    let told = refusals(&flags[1..], &[("REDIS_URL", "redis://h")], "");
    assert!(told[0].contains("allowed is none, unless redis-url begins with rediss"), "{told:?}");
    write("no certificate");
    let told = refusals(&flags, &[], "");
    assert!(told[0].contains("a readable file of PEM certificates; ") && told[0].contains("holds no PEM"), "{told:?}");
    write(&CERTIFICATE.replace("MII", "AAA"));
    assert_eq!(refusals(&flags, &[], "").len(), 1);
}

/// Of somebody who has thrown the key away.
const CERTIFICATE: &str = include_str!("tests/ca.pem");

#[test]
fn a_wrong_redis_is_refused_without_its_password() {
    for (url, allowed) in [
        (
            "redis://:hunter2@h:0",
            "ports are from 1 to 65535; without one and its colon it is 6379, of a sentinel 26379; or none",
        ),
        ("redis://:hunter2@", "a URL with the name or address of a host"),
        ("redis://:hunter2@h/x", "the number of a database"),
        ("redis://:hunter2@h?db=1", "a URL without ?"),
        ("redis+sentinel://:hunter2@h", "redis+sentinel://HOST,HOST,…/MASTER"),
        ("redis+cluster://:hunter2@h/1", "a cluster has database 0 only"),
        ("hunter2", "a URL that begins with redis://"),
    ] {
        let told = refusals(&[], &[("REDIS_URL", url)], "");
        assert_eq!(told.len(), 1, "{told:?}");
        let begins = "redis-url = (hidden) (environment variable REDIS_URL): allowed is ";
        assert!(told[0].starts_with(begins) && told[0].contains(allowed), "{told:?}");
        assert!(!told[0].contains("hunter2"), "{told:?}");
    }
    // Each other value is judged by itself, with Redis and without.
    for url in ["none", "redis://h", "wrong"] {
        let flags =
            [("redis-url", url), ("redis-prefix", "{a}"), ("redis-timeout", "11s"), ("redis-ca-file", "/dev/null")];
        assert_eq!(refusals(&flags, &[], "").len(), if url == "wrong" { 4 } else { 3 });
    }
}

#[test]
fn a_file_that_is_no_toml_is_refused_with_its_place() {
    let told = refusals(&[], &[], "workers = 4\ncolor = blue\n");
    assert!(told[0].starts_with("baton.toml:2:9: not valid TOML: "), "{told:?}");
    let told = refusals(&[], &[], "workers = 4\nworkers = 5\n");
    assert!(told[0].starts_with("baton.toml:2:1: not valid TOML: "), "{told:?}");
    let (mut sources, _directory) = sources(&[], &[], None);
    sources.file = Some("/nowhere/baton.toml".into());
    let told = load(&sources).unwrap_err().to_string();
    assert!(
        told.starts_with("cannot read the configuration file /nowhere/baton.toml (flag --config): No such file"),
        "{told}"
    );
}

#[test]
fn the_printed_configuration_is_toml_that_gives_the_same_result() {
    let variables = [
        ("BATON_LOG_LEVEL", "debug"),
        ("SECRET_KEY", "hunter2-and-then-some-more"),
        ("BATON_ALLOWED_ORIGINS", "https://a.example"),
    ];
    let (sources, directory) = sources(&[("workers", "07")], &variables, Some("color = 'green'\nping-interval = '5s'"));
    let first = load(&sources).unwrap();
    let printed = print(&first);
    assert!(!printed.contains("hunter2") && !format!("{first:?}").contains("hunter2"), "{printed}");
    assert!(printed.contains("workers = 7  # flag --workers\n"), "{printed}");
    assert!(printed.contains("log-level = \"debug\"  # environment variable BATON_LOG_LEVEL\n"));
    assert!(printed.contains("# secret-key is set and not shown  # environment variable SECRET_KEY\n"));
    assert!(printed.contains("session-ttl = \"24h\"  # default\n"));
    for key in KEYS {
        assert_eq!(printed.matches(&format!("\n{} = ", key.name)).count(), usize::from(!key.hidden), "{}", key.name);
    }
    let path = directory.path().join("printed.toml");
    std::fs::write(&path, &printed).unwrap();
    let mut again = load(&Sources { file: Some(path), ..Sources::default() }).unwrap().config;
    assert_eq!(again.worker.secret_key.take(), None);
    again.worker.secret_key.clone_from(&first.config.worker.secret_key);
    // The secret counts in it.
    assert_ne!(again.supervisor.digest, first.config.supervisor.digest);
    again.supervisor.digest.clone_from(&first.config.supervisor.digest);
    assert_eq!(again, first.config);
}

#[test]
fn the_table_is_in_order() {
    for (i, key) in KEYS.iter().enumerate() {
        assert!(KEYS[..i].iter().all(|other| other.name != key.name), "{} twice", key.name);
        assert!(!key.help.is_empty() && key.name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{}", key.name);
        if let Fallback::Text(text) = key.default {
            assert_eq!(key.apply(&mut Config::blank(), &[text.to_owned()]), Ok(()), "{}", key.name);
        }
    }
}

#[test]
fn directories_of_the_user_where_those_of_the_system_are_not_ours() {
    let of = |variables: &[(&str, &str)]| -> Environment {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let state = |variables| directories::user_state(&of(variables)).map(|path| path.display().to_string());
    assert_eq!(state(&[("HOME", "/home/a")]).as_deref(), Some("/home/a/.local/state/baton"));
    assert_eq!(state(&[("HOME", "/home/a"), ("XDG_STATE_HOME", "/s")]).as_deref(), Some("/s/baton"));
    assert_eq!(state(&[]), None);
    let runtime = directories::user_runtime(&of(&[("XDG_RUNTIME_DIR", "/run/user/1")]));
    assert_eq!(runtime, Some("/run/user/1/baton".into()));
}
