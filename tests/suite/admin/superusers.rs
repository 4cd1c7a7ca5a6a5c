//! `baton create-superuser`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::harness::admin::{ADA, create_superuser};
use crate::harness::service::{baton, forget_settings};
use crate::harness::terminal::Terminal;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn refused(output: &Output, why: &str) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains(why) && output.stdout.is_empty(), "{output:?}");
}

fn names(state_dir: &Path) -> Vec<String> {
    let output = create_superuser(state_dir, &["--list"], "");
    assert!(output.status.success(), "{output:?}");
    let lines = text(&output.stdout);
    lines.lines().skip(1).map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn superusers_are_made_listed_changed_and_deleted() {
    let dir = TempDir::new().expect("a temporary directory");
    let state = dir.path().join("state");
    let act = |args: &[&str], input: &str| create_superuser(&state, args, input);
    assert_eq!(text(&act(&["--list"], "").stdout), "there is no superuser\n");
    let made = act(&["--username", "ada"], "correct horse battery\n");
    let said = text(&made.stdout);
    assert!(said.starts_with("superuser ada may log in at /admin/\n") && said.contains("SECRET_KEY"), "{made:?}");
    let file = state.join("superusers.json");
    let first = fs::read_to_string(&file).expect("a file");
    assert!(first.contains("$argon2id$v=19$m=19456,t=2,p=1$") && !first.contains("horse"), "{first}");
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);

    refused(&act(&["--username", "ada"], "another horse battery\n"), "there is a superuser ada already");
    refused(&act(&["--username", "bob", "--change-password"], "another horse battery\n"), "there is no superuser bob");
    refused(&act(&["--username", "bob", "--delete"], ""), "there is no superuser bob");
    assert_eq!(fs::read_to_string(&file).expect("a file"), first);

    assert!(act(&["--username", "bob@example.org"], "another horse battery\n").status.success());
    assert_eq!(names(&state), ["ada", "bob@example.org"]);
    assert!(act(&["--username", "ada", "--change-password"], "another horse battery\n").status.success());
    assert_ne!(fs::read_to_string(&file).expect("a file"), first);
    assert!(act(&["--username", "bob@example.org", "--delete"], "").status.success());
    assert_eq!(names(&state), ["ada"]);
}

#[test]
fn weak_passwords_and_strange_names_are_refused() {
    let dir = TempDir::new().expect("a temporary directory");
    let state = dir.path().join("state");
    let long = "x1!yZ".repeat(300);
    for (password, why) in [
        ("", "too short"),
        ("short", "too short"),
        ("aaaaaaaaaaaaaaaa", "too simple"),
        ("9182736455463728", "too simple"),
        ("alexandra-1990", "is the username"),
        (long.as_str(), "longer than 1024 bytes"),
    ] {
        refused(&create_superuser(&state, &["--username", "Alexandra"], &format!("{password}\n")), why);
    }
    refused(&create_superuser(&state, &["--username", "ada"], ""), "standard input has ended");
    refused(&create_superuser(&state, &[], "a password\n"), "--username NAME");
    for name in ["", "a b", "ä", "a/b", &"x".repeat(65)] {
        let output = create_superuser(&state, &["--username", name], "correct horse battery\n");
        assert_eq!(output.status.code(), Some(2), "{name}: {output:?}");
    }
    for wrong in
        [&["--delete"][..], &["--list", "--username", "a"], &["--delete", "--username", "a", "--change-password"]]
    {
        assert_eq!(create_superuser(&state, wrong, "").status.code(), Some(2), "{wrong:?}");
    }
    assert!(!state.exists());
}

#[test]
fn a_password_comes_from_the_environment_too() {
    let dir = TempDir::new().expect("a temporary directory");
    let state = dir.path().join("state");
    let mut command = Command::new(baton());
    forget_settings(&mut command);
    command.args(["create-superuser", "--username", "ada", "--state-dir"]).arg(&state);
    let output = command.env("BATON_SUPERUSER_PASSWORD", "weak").output().expect("baton runs");
    refused(&output, "BATON_SUPERUSER_PASSWORD: the password is too short");
    let output = command.env("BATON_SUPERUSER_PASSWORD", ADA.1).output().expect("baton runs");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(&state), ["ada"]);
}

#[test]
fn a_person_types_the_password_twice_and_nobody_sees_it() {
    let dir = TempDir::new().expect("a temporary directory");
    let state = dir.path().join("state");
    let start = || {
        let mut command = Command::new(baton());
        forget_settings(&mut command);
        command.args(["create-superuser", "--state-dir"]).arg(&state);
        Terminal::start(command)
    };
    let mut terminal = start();
    terminal.wait_for("Username: ");
    terminal.type_in("not a name\n");
    terminal.wait_for("a username has 1 to 64 characters");
    terminal.wait_for("Username: ");
    terminal.type_in("ada\n");
    terminal.wait_for("Password: ");
    terminal.type_in("short\n");
    terminal.wait_for("too short");
    terminal.wait_for("Password: ");
    terminal.type_in("correct horse battery\n");
    terminal.wait_for("Password (again): ");
    terminal.type_in("correct horse batteries\n");
    terminal.wait_for("not the same");
    terminal.wait_for("Password: ");
    terminal.type_in("correct horse battery\n");
    terminal.wait_for("Password (again): ");
    terminal.type_in("correct horse battery\n");
    let screen = terminal.wait_for("superuser ada may log in");
    assert!(!screen.contains("horse"), "{screen}");
    assert!(terminal.wait().success());
    assert_eq!(names(&state), ["ada"]);

    let mut terminal = start();
    terminal.wait_for("Username: ");
    terminal.type_in("bob\n");
    terminal.wait_for("Password: ");
    terminal.type_in("\x03");
    // By the signal, or because there is no password: nothing was made.
    assert!(!terminal.wait().success());
    assert_eq!(names(&state), ["ada"]);
}

#[test]
fn two_at_once_are_both_made() {
    let dir = TempDir::new().expect("a temporary directory");
    let state = dir.path().join("state");
    std::thread::scope(|scope| {
        for name in ["ada", "bob", "eve", "kim"] {
            let state = &state;
            scope.spawn(move || {
                let output = create_superuser(state, &["--username", name], "correct horse battery\n");
                assert!(output.status.success(), "{output:?}");
            });
        }
    });
    assert_eq!(names(&state), ["ada", "bob", "eve", "kim"]);
}

#[test]
fn a_file_that_is_none_of_ours_is_told_of_and_left_alone() {
    let dir = TempDir::new().expect("a temporary directory");
    let state = dir.path().join("state");
    assert!(create_superuser(&state, &["--username", "ada"], "correct horse battery\n").status.success());
    for strange in ["", "{", r#"{"version":2,"superusers":{}}"#, r#"{"version":1,"superusers":{"a b":{}}}"#] {
        fs::write(state.join("superusers.json"), strange).expect("a file");
        refused(&create_superuser(&state, &["--list"], ""), "superusers.json");
        refused(&create_superuser(&state, &["--username", "bob"], "correct horse battery\n"), "superusers.json");
        assert_eq!(fs::read_to_string(state.join("superusers.json")).expect("a file"), strange);
    }
}
