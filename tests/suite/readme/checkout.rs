//! A clone of the project in which somebody tries what README shows.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::harness::example::example;
use crate::harness::executable;
use crate::harness::package::programs;
use crate::harness::service::die_with_us;

/// What is not cloned.
const LEFT_OUT: [&str; 3] = [".git", "run", "target"];

/// Where Debian's own programs are.
const DEBIANS_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest that a command may take.
const PATIENCE: &str = "300";

/// In place of a build for release that takes minutes: what it would make is there, and is what the other tests test. All else
/// that cargo is asked for it does.
const CARGO: &str = r#"#!/bin/sh
case $* in
  "build --release --locked" | "build --release --locked --package baton-manual") ;;
  "run --example echo -- "*) shift 4; exec "$ECHO_EXAMPLE" "$@" ;;
  *) exec "$REAL_CARGO" "$@" ;;
esac
"#;

/// The clone, with the programs where a build would have put them. Dropping it ends whatever of it still runs.
pub(super) struct Checkout {
    dir: TempDir,
    /// What the shell has exported.
    variables: Vec<(String, String)>,
}

impl Checkout {
    /// Cloned, with all of the programs built.
    #[track_caller]
    pub(super) fn new() -> Checkout {
        let dir = tempfile::Builder::new().prefix("baton-readme-").tempdir().expect("a temporary directory");
        // A container shows it to another user.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a directory of ours");
        let checkout = Checkout { dir, variables: Vec::new() };
        let origin = checkout.origin();
        fs::create_dir(&origin).expect("a directory of ours");
        for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("the project") {
            let path = entry.expect("an entry").path();
            if !LEFT_OUT.iter().any(|left_out| path.ends_with(left_out)) {
                ok(Command::new("cp").arg("-r").arg(path).arg(&origin));
            }
        }
        checkout.git(&["init", "--quiet", "--initial-branch=main"]);
        checkout.push("The first version");
        ok(Command::new("git").args(["clone", "--quiet"]).arg(&origin).arg(checkout.path()));
        let release = checkout.path().join("target/release");
        fs::create_dir_all(&release).expect("a directory of ours");
        for program in ["baton", "batonctl", "baton-manual"] {
            let built = programs().join(program);
            // As small as for release.
            ok(Command::new("objcopy").arg("--strip-debug").arg(built).arg(release.join(program)));
        }
        let shim = checkout.tools().join("cargo");
        fs::create_dir(checkout.tools()).expect("a directory of ours");
        executable::script(&shim, CARGO);
        checkout
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("baton")
    }

    fn origin(&self) -> PathBuf {
        self.dir.path().join("origin")
    }

    /// Programs that go before others of their name.
    fn tools(&self) -> PathBuf {
        self.dir.path().join("tools")
    }

    /// Somebody else has changed something.
    #[track_caller]
    pub(super) fn push(&self, what: &str) {
        fs::write(self.origin().join("NEWS"), what).expect("a file of ours");
        self.git(&["add", "--all"]);
        self.git(&[
            "-c",
            "user.name=Somebody",
            "-c",
            "user.email=somebody@example.org",
            "commit",
            "--quiet",
            "-m",
            what,
        ]);
    }

    fn git(&self, arguments: &[&str]) {
        ok(Command::new("git").args(arguments).current_dir(self.origin()).env("GIT_CONFIG_GLOBAL", "/dev/null"));
    }

    /// Sets a variable for all commands from now on.
    pub(super) fn export(&mut self, name: &str, value: String) {
        self.variables.push((name.to_owned(), value));
    }

    /// A command for a shell in it, of somebody who has set nothing else.
    pub(super) fn command(&self, text: &str) -> Command {
        let variable = |name: &str| std::env::var(name).ok();
        let mut command = Command::new("timeout");
        command.args(["--foreground", PATIENCE, "bash", "-c", text]).current_dir(self.path()).env_clear();
        // Debian's own programs before others of their names, or a module that was installed may be another Python's.
        let path = variable("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{DEBIANS_PATH}:{path}", self.tools().display()));
        for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "XDG_CACHE_HOME", "CARGO_DEB_CACHE"] {
            command.envs(variable(name).map(|value| (name, value)));
        }
        command.env("REAL_CARGO", env!("CARGO")).env("ECHO_EXAMPLE", example("echo")).env("LANG", "C.UTF-8");
        // Not the machine's own settings.
        command.env("BATON_CONFIG", "/dev/null").envs(self.variables.iter().cloned());
        die_with_us(&mut command);
        command
    }

    /// Runs one to its end, which must be a good one: what it said, on both streams.
    #[track_caller]
    pub(super) fn run(&self, text: &str) -> String {
        // Not into a pipe: what it starts in the background may keep that open.
        let said = tempfile::NamedTempFile::new().expect("a temporary file");
        let stream = || said.reopen().expect("a file of ours");
        let mut command = self.command(&format!("exec >>{0} 2>&1; {text}", said.path().display()));
        let status = command.stdin(Stdio::null()).stdout(stream()).stderr(stream()).status().expect("it runs");
        let said = fs::read_to_string(said.path()).expect("text");
        assert!(status.success(), "{text}: {status}\n{said}");
        said
    }
}

#[track_caller]
fn ok(command: &mut Command) -> Output {
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

/// The processes that run a program below a directory.
fn running(directory: &Path) -> impl Iterator<Item = Pid> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    pids.filter(move |pid| {
        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.starts_with(directory))
    })
}

impl Drop for Checkout {
    fn drop(&mut self) {
        for pid in running(self.dir.path()) {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }
}
