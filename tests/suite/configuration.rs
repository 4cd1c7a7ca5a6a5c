//! Where settings come from, and how wrong ones are refused: before anything is bound or made.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::harness::service::{Builder, baton, die_with_us, forget_settings};
use crate::harness::{Client, Service};

/// The exit code of a refused configuration.
const BAD_CONFIGURATION: i32 = 64;

/// A place to start in, where nothing is made by who is refused.
struct Place {
    dir: TempDir,
    /// Taken, so that who would bind it before looking at the rest would fail in another way.
    taken: TcpListener,
}

impl Place {
    fn new() -> Place {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
        Place { dir: tempfile::tempdir().expect("a temporary directory"), taken }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path("baton.toml");
        fs::write(&path, content).expect("a file");
        path
    }

    /// `baton COMMAND`, with directories of this place and the taken address in the environment.
    fn command(&self, command: &str) -> Command {
        let mut baton = Command::new(baton());
        forget_settings(&mut baton);
        baton
            .arg(command)
            .env("BATON_LISTEN", self.taken.local_addr().expect("an address").to_string())
            .env("BATON_RUNTIME_DIR", self.path("run"))
            .env("BATON_STATE_DIR", self.path("state"))
            .stdin(Stdio::null());
        baton
    }

    /// What is said when the command is refused as a wrong configuration, which it must be.
    #[track_caller]
    fn refused(&self, command: &mut Command) -> String {
        let output = command.output().expect("baton runs");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(BAD_CONFIGURATION), "{command:?}\n{said}");
        assert_eq!(text(&output.stdout), "", "{command:?}");
        assert!(said.starts_with("baton: the configuration is refused:\n"), "{said}");
        let made: Vec<_> =
            fs::read_dir(&self.dir).expect("a directory").map(|entry| entry.expect("one").file_name()).collect();
        assert!(made.iter().all(|name| name == "baton.toml"), "{command:?} made {made:?}");
        said
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// Each key with a value that it does not take, and a part of the sentence that says what it takes.
const WRONG: &[(&str, &str, &str)] = &[
    ("allowed-origins", "https://a.example/path", "origins as browsers send them"),
    ("checkpoint-interval", "2m", "from 100ms to 1m"),
    ("close-timeout", "5", "a duration with its unit"),
    ("color", "red", "blue or green"),
    ("control-group", "no-such-group-here", "the name of a group of this machine; or none"),
    ("drain-timeout", "10s", "from 100ms to 9s"),
    ("foreground-parent", "yes", "auto or always or never"),
    ("handshake-timeout", "0s", "from 100ms to 10m"),
    ("hang-timeout", "-1s", "a duration with its unit"),
    ("heartbeat-interval", "half a minute", "a duration with its unit"),
    ("keep-alive-timeout", "2h", "from 100ms to 1h"),
    ("listen", "8000", "HOST:PORT, such as 0.0.0.0:8000"),
    ("log-dir", "/dev/null", "the path of a directory"),
    ("log-format", "xml", "json or pretty"),
    ("log-keep", "1", "a whole number from 2 to 100000; or none"),
    ("log-level", "loud", "error, warn, info, debug"),
    ("log-max-size", "1KiB", "from 1MiB to 1TiB; or none"),
    ("log-rotation", "weekly", "daily or hourly or never"),
    ("max-buffer-memory", "1", "a size in B, KiB"),
    ("max-connections-per-address", "0", "a whole number from 1 to 10000000; or none"),
    ("max-new-sessions-per-address", "100001", "a whole number from 1 to 100000; or none"),
    ("exempt-addresses", "unix", "an address, or a network such as 10.0.0.0/8"),
    ("max-connections", "0", "a whole number from 1 to 10000000; or none"),
    ("max-fragments", "0", "a whole number from 1 to 1000000"),
    ("max-generations", "3", "a whole number from 1 to 2"),
    ("max-handshakes", "1e3", "a whole number from 1 to 1000000"),
    ("max-header-size", "1000", "from 1KiB to 1MiB"),
    ("max-message-rate", "-1", "a whole number from 0 to 10000000; or none"),
    ("max-message-size", "1MB", "a size in B, KiB"),
    ("message-timeout", "99ms", "from 100ms to 1h"),
    ("max-output", "63KiB", "from 64KiB to 1GiB"),
    ("ping-interval", "never", "a duration with its unit, such as 500ms, 30s or 24h, from 100ms to 1d; or none"),
    ("redis-ca-file", "/dev/null", "a readable file of PEM certificates; /dev/null holds no PEM certificate; or none"),
    ("redis-prefix", "{baton}", "1 to 64 characters of A-Za-z0-9._:-"),
    ("redis-timeout", "11s", "from 50ms to 10s"),
    ("retry-spread", "11m", "from 0s to 10m"),
    ("runtime-dir", "/dev/null", "the path of a directory"),
    ("session-ttl", "24", "a duration with its unit"),
    ("new-session-ttl", "24", "a duration with its unit"),
    ("start-timeout", "1y", "a duration with its unit"),
    ("state-dir", "/dev/null", "the path of a directory"),
    ("store-max-size", "1MiB", "from 4MiB to 16TiB"),
    ("takeover", "soon", "never or wait or now"),
    ("trusted-proxies", "10.0.0.7/8", "the network is 10.0.0.0/8"),
    ("user-timeout", "500ms", "from 1s to 1d"),
    ("workers", "0", "a whole number from 1 to 64"),
    ("write-timeout", "1h1ms", "from 100ms to 1h"),
    ("ws-base-url", "http://example.org", "ws://HOST[:PORT] or wss://HOST[:PORT]"),
];

fn variable(key: &str) -> String {
    format!("BATON_{}", key.to_uppercase().replace('-', "_"))
}

#[test]
fn each_wrong_value_is_refused_from_each_source() {
    let place = Place::new();
    for (key, value, allowed) in WRONG {
        let list = ["allowed-origins", "exempt-addresses", "listen", "trusted-proxies"].contains(key);
        let shown = if list { format!("[{value:?}]") } else { format!("{value:?}") };
        let said = |origin: &str| format!("{key} = {shown} ({origin}): allowed is ");
        let file = place.file(format!("# a line before\n{key} = {value:?}\n"));
        let from_file = format!("{}:2", file.display());
        let environment = variable(key);
        // A variable of ours is stronger than the file.
        let mut commands = [place.command("run"), place.command("run"), place.command("run")];
        commands[0].arg(format!("--{key}={value}"));
        commands[1].env(&environment, value);
        commands[2].arg("--config").arg(&file).env_remove(&environment);
        let origins = [format!("flag --{key}"), format!("environment variable {environment}"), from_file];
        for (command, origin) in commands.iter_mut().zip(origins) {
            let stderr = place.refused(command);
            let line = stderr.lines().nth(1).unwrap_or_default();
            assert!(line.starts_with(&said(&origin)) && line.contains(allowed), "{line}");
            assert_eq!(stderr.lines().count(), 2, "one thing is wrong: {stderr}");
        }
    }
}

#[test]
fn the_table_above_has_every_key() {
    let output = Place::new().command("run").arg("--print-config").output().expect("baton runs");
    let printed = text(&output.stdout);
    let keys: BTreeSet<&str> = printed
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key)
        .filter(|key| !key.starts_with('#'))
        .collect();
    assert_eq!(keys, WRONG.iter().map(|(key, ..)| *key).collect());
}

#[test]
fn values_may_contradict_each_other() {
    let place = Place::new();
    let said = place.refused(place.command("run").args(["--max-message-size=8MiB", "--max-buffer-memory=4MiB"]));
    assert!(
        said.contains("max-buffer-memory = \"4MiB\"") && said.contains("max-message-size, which is 8MiB"),
        "{said}"
    );
    let said = place.refused(place.command("run").args(["--listen=0.0.0.0:1", "--listen=0.0.0.0:1"]));
    assert!(said.contains("none of them twice"), "{said}");
    let long = place.path(&"x".repeat(100));
    let said = place.refused(place.command("run").arg("--runtime-dir").arg(&long));
    assert!(said.contains("at most 87 bytes, so that green.next.takeover in it has at most 107"), "{said}");
}

#[test]
fn everything_wrong_is_told_at_once() {
    let place = Place::new();
    let file = place.file("workers = 0\ncolour = 'blue'\n");
    let mut command = place.command("run");
    command.arg("--config").arg(file).args(["--drain-timeout", "1h"]).env("BATON_MAX_OUTPUT", "much");
    let said = place.refused(&mut command);
    for part in ["workers = \"0\"", "unknown key colour", "drain-timeout = \"1h\"", "max-output = \"much\""] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(said.lines().count(), 5, "{said}");
}

#[test]
fn what_nothing_reads_is_refused_with_the_nearest_name() {
    let place = Place::new();
    for (written, nearest) in [
        ("worker = 4", "; did you mean workers?"),
        ("drain_timeout = '8s'", "; did you mean drain-timeout?"),
        ("max-conections = 1", "; did you mean max-connections?"),
        ("Color = 'blue'", "; did you mean color?"),
        ("[http]", ""),
        ("zzz = 1", ""),
    ] {
        let file = place.file(format!("\n\n{written}\n"));
        let name = written.split([' ', ']']).next().expect("a name").trim_start_matches('[');
        let said = place.refused(place.command("run").arg("--config").arg(&file));
        assert_eq!(
            said.lines().nth(1),
            Some(&*format!("unknown key {name} ({}:3){nearest}", file.display())),
            "{said}"
        );
    }
    fs::remove_file(place.path("baton.toml")).expect("it was there");
    for (name, nearest) in [
        ("BATON_WORKER", "; did you mean BATON_WORKERS?"),
        ("BATON_LOGLEVEL", "; did you mean BATON_LOG_LEVEL?"),
        ("BATON_QQQQQQQQQQQQ", ""),
    ] {
        let said = place.refused(place.command("run").env(name, "4"));
        assert_eq!(said.lines().nth(1), Some(&*format!("unknown environment variable {name}{nearest}")), "{said}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_refused_with_its_place() {
    let place = Place::new();
    let missing = place.path("missing.toml");
    let said = place.refused(place.command("run").arg("--config").arg(&missing));
    assert!(said.contains(&format!("{} (flag --config): No such file", missing.display())), "{said}");
    let said = place.refused(place.command("run").env("BATON_CONFIG", &missing));
    assert!(
        said.contains(&format!("{} (environment variable BATON_CONFIG): No such file", missing.display())),
        "{said}"
    );
    let said = place.refused(place.command("run").arg("--config").arg(place.dir.path()));
    assert!(said.contains("cannot read the configuration file") && said.contains("directory"), "{said}");
    let file = place.file([0xff, 0xfe]);
    let said = place.refused(place.command("run").arg("--config").arg(&file));
    assert!(said.contains(&file.display().to_string()) && said.contains("UTF-8"), "{said}");
    for (content, at) in
        [("workers = 4\ncolor = blue\n", "2:9"), ("workers = 4\nworkers = 5\n", "2:1"), ("workers", "1:8")]
    {
        let file = place.file(content);
        let said = place.refused(place.command("run").arg("--config").arg(&file));
        assert!(said.contains(&format!("{}:{at}: not valid TOML: ", file.display())), "{content:?}: {said}");
    }
    let file = place.file("workers = [4]\n");
    let said = place.refused(place.command("run").arg("--config").arg(file));
    assert!(said.contains("allowed is one string or number"), "{said}");
}

#[test]
fn wrong_usage_exits_2_and_asking_for_help_0() {
    let run = |args: &[&str]| {
        let mut command = Command::new(baton());
        forget_settings(&mut command);
        command.args(args).stdin(Stdio::null()).output().expect("baton runs")
    };
    let wrong: [&[&str]; 8] = [
        &[],
        &["serve"],
        &["run", "--no-such-flag"],
        &["run", "extra"],
        &["run", "--workers"],
        &["run", "--workers", "1", "--workers", "2"],
        // Any user of the machine could read it off the list of processes.
        &["run", "--secret-key", "x"],
        &["completions", "cobol"],
    ];
    for args in wrong {
        let output = run(args);
        assert_eq!(code(&output), Some(2), "{args:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
    for args in [&["--help"][..], &["run", "--help"], &["--version"], &["completions", "bash"]] {
        let output = run(args);
        assert_eq!(code(&output), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
    let help = text(&run(&["run", "--help"]).stdout);
    for (key, ..) in WRONG {
        assert!(help.contains(&format!("--{key} ")), "{key} is not in the help");
    }
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let place = Place::new();
    let file = place.file("workers = 2\nlog-level = 'warn'\nmax-output = '1MiB'\n");
    let mut command = place.command("run");
    command.arg("--print-config").arg("--config").arg(&file).args(["--workers", "5"]);
    command.env("BATON_WORKERS", "3").env("BATON_LOG_LEVEL", "error").env("WS_BASE_URL", "wss://a.example");
    let output = command.output().expect("baton runs");
    assert_eq!(code(&output), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    for line in [
        "workers = 5  # flag --workers".to_owned(),
        "log-level = \"error\"  # environment variable BATON_LOG_LEVEL".to_owned(),
        format!("max-output = \"1MiB\"  # {}:3", file.display()),
        "ws-base-url = \"wss://a.example\"  # environment variable WS_BASE_URL".to_owned(),
        "heartbeat-interval = \"30s\"  # default".to_owned(),
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in\n{printed}");
    }
    // It shows and does nothing.
    assert!(!place.path("state").exists() && !place.path("run").exists());
}

#[test]
fn what_is_printed_is_a_file_that_says_the_same() {
    let place = Place::new();
    let mut command = place.command("run");
    let args = ["--workers", "7", "--allowed-origins", "https://a.example", "--allowed-origins", "https://b.example"];
    command.arg("--print-config").args(args).args(["--ping-interval", "5s", "--log-level", "info,baton_worker=debug"]);
    let output = command.output().expect("baton runs");
    let printed = text(&output.stdout);
    let file = place.file(&printed);
    let mut again = place.command("run");
    again.arg("--print-config").arg("--config").arg(&file);
    for key in ["LISTEN", "RUNTIME_DIR", "STATE_DIR"] {
        again.env_remove(format!("BATON_{key}"));
    }
    let output = again.output().expect("baton runs");
    assert_eq!(code(&output), Some(0), "{}", text(&output.stderr));
    // Only where the values came from has changed.
    let values = |printed: &str| -> Vec<String> {
        printed.lines().map(|line| line.split("  # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(values(&text(&output.stdout)), values(&printed));
}

#[test]
fn a_configuration_is_checked_without_starting_anything() {
    let place = Place::new();
    let file = place.file("workers = 2\n");
    let output = place.command("check-config").arg("--config").arg(&file).output().expect("baton runs");
    assert_eq!((code(&output), text(&output.stderr)), (Some(0), String::new()));
    assert_eq!(text(&output.stdout), format!("the configuration is valid ({})\n", file.display()));
    place.file("workers = 65\n");
    let said = place.refused(place.command("check-config").arg("--config").arg(&file));
    assert!(said.contains("a whole number from 1 to 64"), "{said}");
    let output = place.command("check-config").arg("--print-config").output().expect("baton runs");
    assert_eq!(code(&output), Some(2));
}

#[test]
fn the_redis_of_a_configuration_is_tried_if_asked() {
    let place = Place::new();
    let connect = |url: &str, prefix: &str| {
        let mut command = place.command("check-config");
        command.arg("--connect").env("REDIS_URL", url).env("BATON_REDIS_PREFIX", prefix);
        let output = command.output().expect("baton runs");
        let told = text(&output.stdout) + &text(&output.stderr);
        assert!(told.starts_with("the configuration is valid (") && told.lines().count() == 2, "{told}");
        (code(&output), told)
    };
    let (status, told) = connect("none", "a");
    assert_eq!(status, Some(0));
    assert!(told.contains("the backplane is embedded (") && told.contains("nothing to connect to"), "{told}");

    let socket = place.path("redis.sock");
    let url = format!("unix://{}?pass=hunter2", socket.display());
    let (status, told) = connect(&url, "a");
    assert_eq!(status, Some(1));
    let shown = format!("redis+unix://{}?db=0&pass=***", socket.display());
    assert!(told.contains(&format!("\nbaton: {shown}: Redis cannot be reached: ")), "{told}");

    let mut command = Command::new("redis-server");
    command.args(["--port", "0", "--requirepass", "hunter2", "--unixsocket"]).arg(&socket).current_dir(&place.dir);
    die_with_us(command.stdin(Stdio::null()).stdout(Stdio::piped()));
    let mut redis = command.spawn().expect("redis-server is installed");
    let mut lines = BufReader::new(redis.stdout.take().expect("a pipe")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("ready to accept connections at"))));
    let (status, told) = connect(&url, "a");
    assert_eq!(status, Some(0), "{told}");
    assert!(told.contains(&format!("\n{shown} serves: Redis ")), "{told}");
    let (status, told) = connect(&url.replace("hunter2", "hunter3"), "a");
    assert_eq!(status, Some(1));
    assert!(told.contains("Redis does not accept the user and password") && !told.contains("hunter"), "{told}");
    redis.kill().and_then(|()| redis.wait()).expect("it ran");
}

#[test]
fn secrets_are_never_shown() {
    const SECRET: &str = "hunter2-and-then-some-more";
    let place = Place::new();
    for wrong in [format!("redis://:{SECRET}@127.0.0.1:port"), format!("redis://{SECRET}@h"), SECRET.to_owned()] {
        let said = place.refused(place.command("run").env("SECRET_KEY", SECRET).env("REDIS_URL", wrong));
        assert!(said.contains("redis-url = (hidden) (environment variable REDIS_URL): allowed is a URL"), "{said}");
        assert!(!said.contains(SECRET), "{said}");
    }
    // Nobody listens there; it is not asked whether anybody does.
    let url = format!("redis://:{SECRET}@127.0.0.1:1/0");
    let file = place.file(format!("redis-url = '{url}'\n"));
    for command in [place.command("run").env("REDIS_URL", &url), place.command("run").arg("--config").arg(&file)] {
        let output = command.arg("--print-config").output().expect("baton runs");
        let printed = text(&output.stdout);
        assert!(printed.contains("# redis-url is set and not shown"), "{printed}");
        assert!(!printed.contains(SECRET) && !text(&output.stderr).contains(SECRET), "{printed}");
    }
    let file = place.file(format!("secret-key = '{SECRET}'\n"));
    for command in [place.command("run").env("SECRET_KEY", SECRET), place.command("run").arg("--config").arg(&file)] {
        let output = command.arg("--print-config").output().expect("baton runs");
        let printed = text(&output.stdout);
        assert!(printed.contains("# secret-key is set and not shown"), "{printed}");
        assert!(!printed.contains(SECRET) && !text(&output.stderr).contains(SECRET), "{printed}");
    }
    let builder = Builder::new().env("SECRET_KEY", SECRET).env("REDIS_URL", &url).with("--log-level", "trace");
    let service = builder.start();
    let status = crate::harness::http::get(service.address, "/status").expect("an answer").body;
    assert!(!status.contains(SECRET) && !service.log().contains(SECRET));
    assert_eq!(service.status().backplane, "redis (redis://127.0.0.1:1/0, prefix baton)");
}

#[test]
fn an_address_in_use_is_told_and_exits_1() {
    let place = Place::new();
    let output = place.command("run").output().expect("baton runs");
    let said = text(&output.stderr);
    assert_eq!(code(&output), Some(1), "{said}");
    let address = place.taken.local_addr().expect("an address");
    assert!(said.contains(&format!("baton: cannot listen on {address}: address already in use")), "{said}");
}

#[test]
fn a_second_baton_of_the_same_color_is_refused_and_one_of_the_other_is_not() {
    let builder = Builder::new();
    let blue = builder.clone().start();
    let (status, said) = builder.refused();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("blue already runs with pid {}: stop it first", blue.pid())), "{said}");
    // The first one has not noticed.
    assert_eq!(blue.status().slots.len(), 4);
    assert_eq!(blue.worker_pids().len(), 4);

    let green = builder.with("--color", "green").start();
    assert_ne!(green.address, blue.address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        // One store: a session goes on from one generation to the other.
        for (n, service) in [(1, &blue), (2, &green), (3, &blue)] {
            assert_eq!(next_count(service).await, n);
        }
    });
}

async fn next_count(service: &Service) -> u64 {
    let mut client = Client::connect(&service.session_url("both")).await;
    client.send("hello").await;
    let count = client.count().await;
    client.leave().await;
    count
}

#[test]
fn the_environment_of_systemd_names_directories() {
    let place = Place::new();
    let mut command = place.command("run");
    command.arg("--print-config").env_remove("BATON_STATE_DIR").env_remove("BATON_RUNTIME_DIR");
    let (state, runtime) = (place.path("s"), place.path("r"));
    let both = format!("{}:{}", state.display(), Path::new("/elsewhere").display());
    let output = command.env("STATE_DIRECTORY", both).env("RUNTIME_DIRECTORY", &runtime).output().expect("baton runs");
    let printed = text(&output.stdout);
    for (key, path, variable) in
        [("state-dir", &state, "STATE_DIRECTORY"), ("runtime-dir", &runtime, "RUNTIME_DIRECTORY")]
    {
        let line = format!("{key} = {:?}  # environment variable {variable}", path.display().to_string());
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in\n{printed}");
    }
}
