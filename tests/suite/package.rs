//! The Debian package on a machine of its own, and `make install`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::harness::machine::{ADDRESS, Image};
use crate::harness::oracle::Crowd;
use crate::harness::package::{architecture, files, manual, packages, programs, script};
use crate::harness::{Client, Machine, Oracle, http, is_root, seed};

const URL: &str = "ws://127.0.0.1:8000/ws/chat/";
const CONFIGURATION: &str = "/etc/baton/baton.toml";

/// What changes on a machine whatever is installed, and the lists of dpkg, users and groups.
const ELSEWHERE: &str = "/debs /dev /proc /run /sys /tmp /var/cache /var/log/journal /var/log/wtmp";

/// All files and directories of the machine that a package could leave behind.
fn everything(machine: &Machine) -> BTreeSet<String> {
    let prune = ELSEWHERE.split(' ').map(|path| format!("-path {path}")).collect::<Vec<_>>().join(" -o ");
    machine.ok(&format!("find / -xdev \\( {prune} \\) -prune -o -print")).lines().map(str::to_owned).collect()
}

/// `dpkg --install`, or whatever else it is asked for: what it said, on both streams.
#[track_caller]
fn dpkg(machine: &Machine, arguments: &str) -> String {
    machine.ok(&format!("DEBIAN_FRONTEND=noninteractive dpkg {arguments} 2>&1"))
}

fn deb(version: &str) -> String {
    format!("--install /debs/baton_{version}_{}.deb", architecture())
}

/// The pid and program of a color that serves.
#[track_caller]
fn serves(machine: &Machine, color: &str) -> u32 {
    let status = machine.served_by().expect("somebody serves");
    assert_eq!(status["color"], color, "{status}");
    assert!(machine.run(&format!("systemctl is-enabled --quiet baton@{color}")).status.success(), "{color} is enabled");
    machine.main_pid(color)
}

/// Whether it runs the program that is installed now.
fn is_current(machine: &Machine, pid: u32) -> bool {
    machine.ok(&format!("readlink /proc/{pid}/exe")).trim() == "/usr/bin/baton"
}

#[tokio::test]
async fn an_upgrade_disconnects_nobody_and_a_purge_leaves_nothing() {
    if !is_root() {
        return;
    }
    let debs = packages(&["0.1.0-1", "0.1.1-1"]);
    let machine = Image::bare().program(debs.path(), "/debs").boot();
    let before = everything(&machine);

    let said = dpkg(&machine, &deb("0.1.0-1"));
    assert!(said.contains("systemctl enable --now baton@blue"), "the next step is told: {said}");
    assert_eq!(
        machine.ok(&format!("stat -c '%a %U:%G' {CONFIGURATION} /etc/default/baton")),
        "644 root:root\n640 root:baton\n"
    );
    machine.ok("baton check-config");
    assert!(http::get(ADDRESS, "/healthz").is_err(), "nothing is started that nobody has looked at");
    machine.ok("systemctl enable --now baton@blue");
    let ready = http::get(ADDRESS, "/readyz").expect("it serves once the start is over");
    assert_eq!(ready.status, 200, "{ready:?}");

    let crowd = Crowd { gap: Duration::from_millis(250), ..Crowd::of(100, Duration::from_secs(30)) };
    let oracle = Oracle::start(ADDRESS, crowd, seed());
    oracle.answered(200).await;
    machine.ok("baton promote");
    oracle.answered(200).await;
    let green = serves(&machine, "green");

    // A newer package takes over by itself.
    let said = dpkg(&machine, &deb("0.1.1-1"));
    assert!(said.contains("HANDED OVER"), "{said}");
    assert!(said.contains("blue (pid ") && said.contains(", /usr/bin/baton\n"), "it says what serves: {said}");
    oracle.answered(200).await;
    let blue = serves(&machine, "blue");
    assert!(is_current(&machine, blue), "the installed program serves");
    machine.await_property("baton@green", "ActiveState", |state| state == "inactive");
    assert!(!Path::new(&machine.path(&format!("/proc/{green}"))).exists(), "the old one has ended");
    // Nothing to do: the program is the same.
    let said = machine.ok("DEBIAN_FRONTEND=noninteractive dpkg-reconfigure baton 2>&1");
    assert!(!said.contains("HANDED OVER"), "{said}");
    assert_eq!(serves(&machine, "blue"), blue);

    // With settings that it refuses it is installed, says so, and who serves serves on.
    let settings = fs::read_to_string(machine.path(CONFIGURATION)).expect("settings");
    fs::write(machine.path(CONFIGURATION), format!("{settings}wrokers = 3\n")).expect("a file of the machine");
    let said = dpkg(&machine, &deb("0.1.0-1"));
    assert!(said.contains("did you mean workers?") && said.contains("has NOT taken over"), "{said}");
    assert!(said.contains("Once the cause is gone:  baton promote"), "what to do is told: {said}");
    assert_eq!(serves(&machine, "blue"), blue);
    assert!(!is_current(&machine, blue));
    oracle.answered(200).await;
    fs::write(machine.path(CONFIGURATION), format!("{settings}workers = 3\n")).expect("a file of the machine");
    machine.ok("baton promote");
    oracle.answered(200).await;
    let green = serves(&machine, "green");

    // An administrator who has forbidden restarts decides about this one too.
    fs::write(machine.path("/usr/sbin/policy-rc.d"), "#!/bin/sh\nexit 101\n").expect("a file of the machine");
    fs::set_permissions(machine.path("/usr/sbin/policy-rc.d"), fs::Permissions::from_mode(0o755)).expect("a mode");
    let said = dpkg(&machine, &format!("--force-confold {}", deb("0.1.1-1")));
    assert!(said.contains("policy-rc.d") && said.contains("baton promote"), "{said}");
    assert_eq!(serves(&machine, "green"), green);
    fs::remove_file(machine.path("/usr/sbin/policy-rc.d")).expect("a file of the machine");
    oracle.answered(200).await;
    let report = oracle.finish();
    eprint!("{report}");
    report.assert_flawless();

    removed_and_purged(&machine, &before).await;
}

/// Who is connected hears goodbye; what an operator made survives the removal, and not the purge.
async fn removed_and_purged(machine: &Machine, before: &BTreeSet<String>) {
    let session = format!("{URL}?session_uuid=kept");
    let mut client = Client::connect(&session).await;
    client.send("one").await;
    assert_eq!(client.count().await, 1);
    machine.ok("systemd-run --quiet --unit=removal dpkg --remove baton");
    let close = client.close().await.expect("a close with a code");
    assert_eq!(u16::from(close.code), 1001);
    machine.await_property("removal", "ActiveState", |state| state == "inactive");
    for gone in ["/usr/bin/baton", "/usr/bin/batonctl", "/usr/lib/systemd/system/baton@.service"] {
        assert!(!machine.path(gone).exists(), "{gone}");
    }
    assert!(machine.path(CONFIGURATION).exists() && machine.path("/var/lib/baton/data.mdb").exists());

    dpkg(machine, &format!("--force-confold {}", deb("0.1.1-1")));
    // Which color is enabled is the operator's too.
    machine.ok("systemctl is-enabled baton@green");
    machine.ok("systemctl start baton@green");
    let mut back = Client::connect(&session).await;
    back.send("two").await;
    assert_eq!(back.count().await, 2);

    dpkg(machine, "--purge baton");
    let after = everything(machine);
    let left: Vec<_> = after.difference(before).collect();
    // dpkg and sysusers keep the former version of their lists.
    let lists =
        |path: &&&String| path.starts_with("/var/lib/dpkg/") || path.starts_with("/etc/") && path.ends_with('-');
    assert_eq!(left.iter().filter(|path| !lists(path)).collect::<Vec<_>>(), Vec::<&&String>::new());
    let lost: Vec<_> = before.difference(&after).collect();
    assert!(lost.iter().all(|path| path.starts_with("/var/lib/dpkg/")), "{lost:?}");
    assert!(!machine.path("/run/baton").exists());
    // A number must not come to mean somebody else.
    machine.ok("getent passwd baton");
    assert_eq!(machine.ok("systemctl list-units --failed --no-legend"), "");
}

/// `scripts/install.sh` below a directory, as `make install DESTDIR=…` calls it.
fn install(action: &str, directory: &Path, manual: &Path, settings: &[(&str, &str)]) -> Output {
    let mut command = script("install.sh");
    command.arg(action).env("DESTDIR", directory).env("PROGRAMS", programs()).env("MANUAL", manual);
    command.envs(settings.iter().copied()).output().expect("it runs")
}

#[track_caller]
fn ok(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    stdout.into_owned()
}

#[test]
fn make_install_installs_everything_and_uninstall_takes_it_back() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (pages, root) = (directory.path().join("manual"), directory.path().join("root"));
    manual(&pages);
    ok(&install("install", &root, &pages, &[]));
    let installed = files(&root);
    let wanted = [
        "etc/baton/baton.toml",
        "etc/default/baton",
        "usr/local/bin/baton",
        "usr/local/bin/batonctl",
        "usr/local/lib/systemd/system/baton.socket",
        "usr/local/lib/systemd/system/baton.target",
        "usr/local/lib/systemd/system/baton@.service",
        "usr/local/lib/sysusers.d/baton.conf",
        "usr/local/lib/tmpfiles.d/baton.conf",
        "usr/local/share/baton/manifest",
        "usr/local/share/bash-completion/completions/baton",
        "usr/local/share/bash-completion/completions/batonctl",
        "usr/local/share/doc/baton/README.md",
        "usr/local/share/doc/baton/docs/DESIGN.md",
        "usr/local/share/fish/vendor_completions.d/baton.fish",
        "usr/local/share/fish/vendor_completions.d/batonctl.fish",
        "usr/local/share/man/man1/baton-promote.1.gz",
        "usr/local/share/man/man1/baton.1.gz",
        "usr/local/share/man/man1/batonctl.1.gz",
        "usr/local/share/man/man5/baton.toml.5.gz",
        "usr/local/share/man/man7/baton.7.gz",
        "usr/local/share/zsh/site-functions/_baton",
        "usr/local/share/zsh/site-functions/_batonctl",
    ];
    for file in wanted {
        assert!(installed.iter().any(|path| path == file), "no {file} among {installed:#?}");
    }
    // All that these directories hold.
    let shipped = [
        ("docs", "usr/local/share/doc/baton/docs"),
        ("monitoring", "usr/local/share/baton/monitoring"),
        ("nginx", "usr/local/share/doc/baton/examples/nginx"),
        ("logrotate", "etc/logrotate.d"),
    ];
    for (from, to) in shipped {
        for file in files(&Path::new(env!("CARGO_MANIFEST_DIR")).join(from)) {
            let path = format!("{to}/{file}");
            assert!(installed.contains(&path), "no {path} among {installed:#?}");
        }
    }
    let mode = |path: &str| fs::metadata(root.join(path)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(
        (mode("usr/local/bin/baton"), mode("etc/baton/baton.toml"), mode("etc/default/baton")),
        (0o755, 0o644, 0o640)
    );
    let unit = fs::read_to_string(root.join("usr/local/lib/systemd/system/baton@.service")).expect("a unit");
    assert!(unit.contains("ExecStart=/usr/local/bin/baton run") && !unit.contains("/usr/bin/baton"), "{unit}");

    // Again, over settings of an operator: they are kept, and it is said.
    fs::write(root.join("etc/baton/baton.toml"), "workers = 2\n").expect("a file");
    let said = ok(&install("install", &root, &pages, &[]));
    assert!(said.contains("kept ") && said.contains("/etc/baton/baton.toml"), "{said}");
    assert_eq!(fs::read_to_string(root.join("etc/baton/baton.toml")).expect("settings"), "workers = 2\n");
    assert_eq!(files(&root), installed);

    ok(&install("uninstall", &root, &pages, &[]));
    let left = files(&root);
    assert!(left.iter().all(|path| path.starts_with("etc/")), "{left:?}");
    assert!(!root.join("usr/local/share/baton").exists(), "no empty directories");
    let again = install("uninstall", &root, &pages, &[]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("nothing was installed"));
}

#[test]
fn other_directories_are_in_the_units_and_wrong_ones_are_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (pages, root) = (directory.path().join("manual"), directory.path().join("root"));
    let missing = install("install", &root, &pages, &[]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("run make build manual first"), "{missing:?}");
    manual(&pages);
    let elsewhere = [("PREFIX", "/opt/baton"), ("SYSCONFDIR", "/opt/baton/etc")];
    ok(&install("install", &root, &pages, &elsewhere));
    let unit = fs::read_to_string(root.join("opt/baton/lib/systemd/system/baton@.service")).expect("a unit");
    for line in [
        "ExecStart=/opt/baton/bin/baton run --color %i",
        "Environment=BATON_CONFIG=/opt/baton/etc/baton/baton.toml",
        "EnvironmentFile=-/opt/baton/etc/default/baton",
    ] {
        assert!(unit.contains(line), "{line} in {unit}");
    }
    assert!(files(&root).iter().all(|path| path.starts_with("opt/baton/")), "{:?}", files(&root));
    for prefix in ["usr", "/usr/my baton", "/usr#"] {
        let refused = install("install", &root, &pages, &[("PREFIX", prefix)]);
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && said.contains("must be an absolute path"), "{prefix}: {said}");
    }
}

#[tokio::test]
async fn what_make_install_installed_runs_under_systemd() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (pages, root) = (directory.path().join("manual"), directory.path().join("root"));
    manual(&pages);
    ok(&install("install", &root, &pages, &[]));
    let settings = fs::read_to_string(root.join("etc/baton/baton.toml")).expect("settings");
    let machine = Image::bare().file(CONFIGURATION, &settings).program(&root.join("usr/local"), "/usr/local").boot();
    machine.ok("systemd-sysusers /usr/local/lib/sysusers.d/baton.conf");
    machine.ok("systemctl enable --now baton@blue");
    let mut client = Client::connect(URL).await;
    client.send("one").await;
    assert_eq!(client.count().await, 1);
    machine.ok("PATH=/usr/local/bin:$PATH baton promote");
    client.send("two").await;
    assert_eq!(client.count().await, 2);
    serves(&machine, "green");
}

/// What a shell says, if it is installed.
fn shell(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).env("HOME", "/nonexistent").stdin(Stdio::null()).output();
    match output {
        Ok(output) => {
            let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success() && stderr.is_empty(), "{program}: {}: {stdout}{stderr}", output.status);
            Some(stdout.into_owned())
        }
        Err(error) => {
            eprintln!("left out: {program}: {error}");
            None
        }
    }
}

#[test]
fn completions_load_in_their_shells() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    manual(directory.path());
    let path = |file: &str| directory.path().join(file).display().to_string();
    // Completes `baton pro`, and `batonctl reb`.
    let bash = |command: &str, word: &str| {
        let ask = format!(
            "source {}; COMP_WORDS=({command} {word}); COMP_CWORD=1; COMPREPLY=(); _{command} {command} {word} {command}; echo \"${{COMPREPLY[*]}}\"",
            path(&format!("bash/{command}"))
        );
        shell("bash", &["--norc", "-c", &ask]).expect("bash is everywhere").trim().to_owned()
    };
    assert_eq!((bash("baton", "pro").as_str(), bash("batonctl", "reb").as_str()), ("promote", "rebalance"));
    for (command, word, whole) in [("baton", "pro", "promote"), ("batonctl", "reb", "rebalance")] {
        let file = path(&format!("fish/{command}.fish"));
        let ask = format!("source {file}; complete --do-complete '{command} {word}'");
        if let Some(said) = shell("fish", &["--no-config", "-c", &ask]) {
            assert!(said.starts_with(whole), "{said}");
        }
        let ask = format!(
            "fpath=({} $fpath); autoload -Uz compinit; compinit -D -u; autoload +X _{command} && print $_comps[{command}]",
            path("zsh")
        );
        if let Some(said) = shell("zsh", &["-f", "-c", &ask]) {
            assert_eq!(said.trim(), format!("_{command}"));
        }
    }
}
