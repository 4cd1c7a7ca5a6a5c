//! The pages as man(1) shows them: without a warning, and complete.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Writes all pages to a directory of the test's own.
fn pages() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut manual = Command::new(env!("CARGO_BIN_EXE_baton-manual"));
    let status = manual.arg(directory.path()).arg("2026-01-31").status().expect("it runs");
    assert!(status.success(), "{status}");
    let by_hand = Path::new(env!("CARGO_MANIFEST_DIR")).join("../man");
    for entry in fs::read_dir(by_hand).expect("the pages that are written by hand") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, directory.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    directory
}

fn man(page: &Path) -> Output {
    let mut man = Command::new("man");
    man.args(["--warnings", "--encoding=UTF-8", "--local-file"]).arg(page);
    man.env("LC_ALL", "C.UTF-8").env("MANROFFSEQ", "").env("MANWIDTH", "100").env("PAGER", "cat").stdin(Stdio::null());
    man.output().expect("man is installed")
}

fn text(directory: &tempfile::TempDir, page: &str) -> String {
    let output = man(&directory.path().join(page));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_page_renders_without_a_warning() {
    let directory = pages();
    let mut names = Vec::new();
    for entry in fs::read_dir(directory.path()).expect("pages") {
        let entry = entry.expect("an entry");
        let output = man(&entry.path());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", entry.path().display());
        let shown = String::from_utf8_lossy(&output.stdout);
        for part in ["NAME", "SEE ALSO", "2026-01-31"] {
            let by_hand = part == "2026-01-31" && entry.file_name() == "baton.7";
            assert!(by_hand || shown.contains(part), "{}: no {part}", entry.path().display());
        }
        names.push(entry.file_name().into_string().expect("UTF-8"));
    }
    for name in
        ["baton.1", "baton-run.1", "baton-promote.1", "baton-check-config.1", "batonctl.1", "baton.toml.5", "baton.7"]
    {
        assert!(names.iter().any(|page| page == name), "no {name} among {names:?}");
    }
}

#[test]
fn every_command_and_every_setting_is_described() {
    let directory = pages();
    let [baton, batonctl] = baton::manual::commands();
    let overview = text(&directory, "baton.1");
    for command in baton.get_subcommands().filter(|command| !command.is_hide_set()) {
        let page = format!("baton-{}", command.get_name());
        assert!(overview.contains(&format!("{page}(1)")), "{page} in {overview}");
        let page = text(&directory, &format!("{page}.1"));
        for option in command.get_arguments().filter(|option| !option.is_hide_set()) {
            if let Some(long) = option.get_long() {
                assert!(page.contains(&format!("--{long}")), "--{long} in {page}");
            }
        }
    }
    let controls = text(&directory, "batonctl.1");
    for command in batonctl.get_subcommands() {
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let words = about.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
        assert!(controls.contains(&format!("{} ", command.get_name())) && controls.contains(&words), "{words}");
    }
    let file = text(&directory, "baton.toml.5");
    for setting in baton::manual::settings() {
        assert!(file.contains(&format!("{} = {}", setting.name, setting.placeholder)), "{} in {file}", setting.name);
    }
}

#[test]
fn wrong_usage_and_a_directory_that_cannot_be_made_are_told() {
    let manual = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_baton-manual")).args(arguments).output().expect("it runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
    };
    assert_eq!(manual(&[]), (Some(2), "usage: baton-manual DIRECTORY DATE\n".to_owned()));
    let (code, said) = manual(&["/dev/null/pages", "2026-01-31"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.starts_with("baton-manual: /dev/null/pages: "), "{said}");
}
