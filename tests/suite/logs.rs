//! Log files that others rotate: the configuration for logrotate that is shipped, the real logrotate, and no line lost.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::service::Builder;
use crate::harness::{Service, eventually, http};

/// The file that is shipped, for this directory.
fn shipped(directory: &Path, reopen: &str) -> String {
    let text = include_str!("../../logrotate/baton");
    let change = |text: String, shipped: &str, changed: &str| {
        assert!(text.contains(shipped), "the shipped file has no {shipped:?}");
        text.replace(shipped, changed)
    };
    let text = change(text.to_owned(), "/var/log/baton/", &format!("{}/", directory.display()));
    let text = change(text, "su baton baton\n", "\n");
    change(text, "batonctl reopen-logs", reopen)
}

/// Rotates now, whatever the time is: what there is to say about it.
#[track_caller]
fn rotate(place: &Path, configuration: &str) -> String {
    let file = place.join("logrotate.conf");
    fs::write(&file, configuration).expect("a file of ours");
    let mut command = Command::new("logrotate");
    command.arg("--force").arg("--state").arg(place.join("logrotate.state")).arg(&file);
    let output = command.output().expect("logrotate is installed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).expect("a directory").map(|file| file.expect("a file").path()).collect()
}

/// All lines of all files, rotated ones and compressed ones too.
fn lines(directory: &Path) -> Vec<serde_json::Value> {
    let text = |path: PathBuf| match path.extension().is_some_and(|suffix| suffix == "gz") {
        true => {
            let output = Command::new("gzip").arg("-dc").arg(&path).output().expect("gzip is installed");
            String::from_utf8(output.stdout).expect("UTF-8")
        }
        false => fs::read_to_string(&path).expect("a file of ours"),
    };
    let texts: Vec<String> = files(directory).into_iter().map(text).collect();
    let lines = texts.iter().flat_map(|text| text.lines());
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn with_files() -> (Builder, PathBuf) {
    let builder = Builder::new().with("--workers", 2).with("--log-rotation", "never");
    let logs = builder.dir().join("logs");
    fs::create_dir(&logs).expect("a directory of ours");
    let builder = builder.with("--log-dir", logs.display());
    (builder, logs)
}

/// How an operator on the shell says that files have been moved.
fn reopen_logs(service: &Service) -> String {
    let run = service.dir().join("run");
    format!("{} --runtime-dir {} reopen-logs", env!("CARGO_BIN_EXE_batonctl"), run.display())
}

/// Requests between two rotations, and rotations. All together are fewer than a worker's queue holds, so that none of their
/// lines may be dropped however slow the disk is.
const REQUESTS: usize = 100;
const ROTATIONS: usize = 6;

#[test]
fn logrotate_loses_no_line_of_a_busy_service() {
    let (builder, logs) = with_files();
    let service = builder.with("--log-level", "info,baton_worker::http=debug").start();
    let by_command = shipped(&logs, &reopen_logs(&service));
    let by_signal = shipped(&logs, &format!("kill -USR1 {}", service.pid()));
    let request = |n: usize| {
        let head = format!("GET /healthz HTTP/1.1\r\nHost: test\r\nX-Request-ID: n-{n}\r\nConnection: close\r\n\r\n");
        assert_eq!(http::request(service.address, &head).expect("an answer").status, 200);
    };
    for rotation in 0..ROTATIONS {
        std::thread::scope(|scope| {
            scope.spawn(|| (0..REQUESTS).for_each(|n| request(rotation * REQUESTS + n)));
            let said = rotate(service.dir(), if rotation % 2 == 0 { &by_command } else { &by_signal });
            assert_eq!(said, "");
        });
        // A rotation finds what has come since the one before: each file is a new one by then.
        eventually("three new files", || {
            let current =
                files(&logs).into_iter().filter(|path| path.extension().is_some_and(|suffix| suffix == "log"));
            (current.count() == 3).then_some(())
        });
        (0..4).for_each(|n| request(ROTATIONS * REQUESTS + rotation * 4 + n));
    }
    let total = ROTATIONS * (REQUESTS + 4);
    let counts = || {
        let mut counts = HashMap::<String, usize>::new();
        for line in lines(&logs).iter().filter(|line| line["message"] == "request") {
            if let Some(id) = line["request_id"].as_str().filter(|id| id.starts_with("n-")) {
                *counts.entry(id.to_owned()).or_default() += 1;
            }
        }
        counts
    };
    eventually("a line about each request", || (counts().len() == total).then_some(()));
    assert!(counts().values().all(|count| *count == 1), "a line is there twice");
    assert!(
        files(&logs).iter().any(|path| path.extension().is_some_and(|suffix| suffix == "gz")),
        "{:?}",
        files(&logs)
    );
    assert_eq!(service.metric("log_lines_dropped_total"), 0.0);
}

#[test]
fn logrotate_is_content_when_nothing_runs() {
    let (builder, logs) = with_files();
    let service = builder.start();
    let configuration = shipped(&logs, &reopen_logs(&service));
    let place = tempfile::tempdir().expect("a temporary directory");
    let log = logs.join("baton-blue-supervisor.log");
    assert!(log.exists(), "{:?}", files(&logs));
    let mut service = service;
    service.kill_all();
    let said = rotate(place.path(), &configuration);
    assert!(said.contains("no supervisor answers") && !said.contains("error:"), "{said}");
    assert!(!log.exists() && logs.join("baton-blue-supervisor.log.1").exists(), "{:?}", files(&logs));
}

#[test]
fn both_generations_open_their_files_anew() {
    let (builder, logs) = with_files();
    let blue = builder.clone().with("--color", "blue").start();
    let green = builder.with("--color", "green").with("--takeover", "wait").spawn();
    eventually("green stands by", || green.try_status().filter(|status| status.phase == "standby"));
    let configuration = shipped(&logs, &reopen_logs(&blue));
    assert_eq!(rotate(blue.dir(), &configuration), "");
    for color in ["blue", "green"] {
        for process in ["supervisor", "w00", "w01"] {
            let file = logs.join(format!("baton-{color}-{process}.log"));
            eventually("a new file of each", || file.exists().then_some(()));
        }
    }
}
