//! `bench_check` on files like those that the bench writes: its exit code is what a build looks at.

use std::path::Path;
use std::process::{Command, Output};

const MACHINE: &str =
    r#"{"kernel":"6.1","processor":"p","cores":2,"memory_mib":1,"load":0.0,"descriptors":1,"profile":"release"}"#;

fn results(directory: &Path, name: &str, ratio: f64) -> std::path::PathBuf {
    let row = format!(
        r#"{{"row":"baton","value":6.0,"unit":"µs/message","ratio":{ratio},"limit":1.2,"aim":1.08,"verdict":"limit",
           "samples":[6.0],"note":""}}"#
    );
    let file = directory.join(name);
    std::fs::write(&file, format!(r#"{{"machine":{MACHINE},"rows":[{row}]}}"#)).unwrap();
    file
}

fn check(files: [&Path; 2]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bench_check")).args(files).output().unwrap()
}

#[test]
fn the_exit_code_tells_whether_something_got_worse() {
    let directory = tempfile::tempdir().unwrap();
    let committed = results(directory.path(), "committed", 1.0);
    let better = check([&committed, &results(directory.path(), "better", 0.8)]);
    assert_eq!(better.status.code(), Some(0), "{better:?}");
    let same = check([&committed, &results(directory.path(), "same", 1.09)]);
    assert_eq!(same.status.code(), Some(0), "{same:?}");
    let worse = check([&committed, &results(directory.path(), "worse", 1.11)]);
    assert_eq!(worse.status.code(), Some(1), "{worse:?}");
    let said = String::from_utf8(worse.stdout).unwrap();
    assert!(said.contains("+11.0 %  WORSE"), "{said}");
}

#[test]
fn a_file_that_is_none_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let committed = results(directory.path(), "committed", 1.0);
    let broken = directory.path().join("broken");
    std::fs::write(&broken, "{").unwrap();
    for other in [broken, directory.path().join("missing")] {
        let output = check([&committed, &other]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(other.to_str().unwrap()), "{said}");
    }
}
