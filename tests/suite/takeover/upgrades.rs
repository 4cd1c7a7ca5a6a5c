//! Which program an upgrade starts, and upgrades that come to nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use baton_ipc::control::{Output, Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{SECOND, builder};
use crate::harness::procfs::is_alive;
use crate::harness::service::{Builder, baton, batonctl};
use crate::harness::{Client, Service, eventually, executable};

/// A service whose program is at a path of its own. After an upgrade it is nobody's child, and is ended by name.
struct Installed(Service);

impl Installed {
    fn start(program: &Path, change: impl FnOnce(Builder) -> Builder) -> Installed {
        let service = change(builder().with("--workers", 1).program(program.into())).start();
        service.wait_all_serve();
        Installed(service)
    }

    /// Upgrades, and returns the answer and the file that the successor runs.
    #[track_caller]
    fn upgrade(&mut self) -> (String, PathBuf) {
        let before = self.0.status().pid;
        let Output::Text { message } = self.0.ask(&["upgrade"]) else { panic!("no text") };
        let after = eventually("the successor answers by the usual name", || {
            self.0.try_status().filter(|status| status.pid != before && status.phase == "running")
        });
        assert!(message.contains(&format!("pid {}) serves in place of {before}", after.pid)), "{message}");
        (message, fs::read_link(format!("/proc/{}/exe", after.pid)).expect("a process"))
    }

    /// What is said of an upgrade that fails.
    #[track_caller]
    fn refused(&self) -> String {
        let output = self.0.ctl(&["upgrade"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    #[track_caller]
    fn wait_upgrading(&self) -> Status {
        eventually("an upgrade", || self.0.try_status().filter(|status| status.upgrade.is_some()))
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = self.0.ctl(&["shutdown"]);
    }
}

/// A program that starts and then does nothing.
fn install_sleeper(path: &Path) {
    executable::script(path, "#!/bin/sh\nexec sleep 600\n");
}

#[tokio::test]
async fn a_program_that_was_moved_away_is_not_what_an_upgrade_starts() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("baton");
    executable::copy(&baton(), &program);
    let mut service = Installed::start(&program, |builder| builder);
    let mut client = Client::connect(&service.0.url()).await;
    fs::rename(&program, dir.path().join("baton.old")).expect("a file of ours");
    executable::copy(&baton(), &program);
    let (message, file) = service.upgrade();
    assert_eq!(file, program);
    assert!(message.starts_with(&format!("{} (baton ", program.display())), "{message}");
    // And by the successor, which was not started by hand.
    fs::remove_file(&program).expect("a file of ours");
    executable::copy(&baton(), &program);
    assert_eq!(service.upgrade().1, program);
    client.send("still there").await;
    assert_eq!(client.count().await, 1);
}

#[test]
fn a_symbolic_link_is_followed_to_where_it_leads_now() {
    let dir = tempfile::tempdir().expect("a directory");
    let release = |name: &str| {
        let release = dir.path().join(name);
        fs::create_dir(&release).expect("a directory");
        executable::copy(&baton(), &release.join("baton"));
        release.join("baton")
    };
    let (current, fresh) = (dir.path().join("current"), dir.path().join("fresh"));
    let first = release("1");
    symlink("1", &current).expect("a link");
    let mut service = Installed::start(&current.join("baton"), |builder| builder);
    assert_eq!(fs::read_link(format!("/proc/{}/exe", service.0.pid())).expect("a process"), first);
    for name in ["2", "3"] {
        let next = release(name);
        symlink(name, &fresh).expect("a link");
        fs::rename(&fresh, &current).expect("a link of ours");
        assert_eq!(service.upgrade().1, next);
    }
}

#[test]
fn a_path_that_leads_nowhere_is_named_and_the_service_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("baton");
    executable::copy(&baton(), &program);
    let service = Installed::start(&program, |builder| builder);
    fs::remove_file(&program).expect("a file of ours");
    let said = service.refused();
    assert!(said.contains(&format!("cannot start {}", program.display())), "{said}");
    assert!(service.0.status().upgrade.is_none());
    service.0.wait_ready();
}

#[test]
fn a_successor_that_hangs_is_killed_at_its_deadline() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("baton");
    executable::copy(&baton(), &program);
    let service = Installed::start(&program, |builder| builder.with("--start-timeout", "1s"));
    install_sleeper(&program);
    let said = service.refused();
    assert!(said.contains("was not ready after 2 s") && said.contains("serves on"), "{said}");
    assert!(service.0.status().upgrade.is_none());
    assert_eq!(service.0.worker_pids().len(), 1, "no process is left behind");
    // By signal nobody waits for the answer, and the deadline is the same.
    service.0.signal(Signal::SIGUSR2);
    service.wait_upgrading();
    eventually("its end", || service.0.status().upgrade.is_none().then_some(()));
    service.0.wait_ready();
}

#[test]
fn an_upgrade_shows_in_status_and_can_be_called_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("baton");
    executable::copy(&baton(), &program);
    let service = Installed::start(&program, |builder| builder);
    install_sleeper(&program);
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| service.refused());
        let shown = service.wait_upgrading().upgrade.expect("it was looked for");
        assert_eq!(shown.program, program.display().to_string());
        assert!(shown.left_seconds > 0.0 && is_alive(Pid::from_raw(shown.pid as i32)));
        let said = service.refused();
        assert!(said.contains("an upgrade is under way") && said.contains(&shown.pid.to_string()), "{said}");
        let Output::Text { message } = service.0.ask(&["rollback"]) else { panic!("no text") };
        assert!(message.contains("called off"), "{message}");
        let said = upgrade.join().expect("batonctl runs");
        assert!(said.contains("called off") && said.contains("serves on"), "{said}");
        assert!(!is_alive(Pid::from_raw(shown.pid as i32)));
    });
    assert!(service.0.status().upgrade.is_none());
    let output = service.0.ctl(&["rollback"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // With the right program it does.
    fs::remove_file(&program).expect("a file of ours");
    executable::copy(&baton(), &program);
    let mut service = service;
    assert_eq!(service.upgrade().1, program);
    assert!(service.0.wait(15 * SECOND).success());
}

#[test]
fn ctrl_c_calls_an_upgrade_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("baton");
    executable::copy(&baton(), &program);
    let service = Installed::start(&program, |builder| builder);
    install_sleeper(&program);
    let mut upgrade = batonctl(service.0.dir(), &["upgrade"]);
    let upgrade = upgrade.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("batonctl runs");
    service.wait_upgrading();
    kill(Pid::from_raw(upgrade.id() as i32), Signal::SIGINT).expect("it waits");
    let output = upgrade.wait_with_output().expect("a child of ours");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("called off") && said.contains("serves on"), "{said}");
    assert!(service.0.status().upgrade.is_none());
}

#[tokio::test]
async fn a_successor_that_stands_still_in_the_middle_is_called_off_and_nobody_notices() {
    let dir = tempfile::tempdir().expect("a directory");
    let trigger = dir.path().join("now");
    let service = Installed::start(&baton(), |builder| {
        builder.env("FAULT_POINT", format!("takeover switched:SIGSTOP:{}", trigger.display()))
    });
    let mut client = Client::connect(&service.0.url()).await;
    fs::write(&trigger, "").expect("a file of ours");
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| service.refused());
        eventually("the switch", || service.0.try_status().filter(|status| status.phase == "handing-over"));
        let Output::Text { message } = service.0.ask(&["rollback"]) else { panic!("no text") };
        assert!(message.contains("called off"), "{message}");
        upgrade.join().expect("batonctl runs");
    });
    client.send("hello").await;
    assert_eq!(client.count().await, 1);
    assert_eq!(service.0.count_one("another").await, 1);
    let status = service.0.status();
    assert!(status.phase == "running" && status.peer.is_none() && status.upgrade.is_none(), "{status:?}");
}
