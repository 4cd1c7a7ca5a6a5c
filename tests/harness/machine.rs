//! A machine of a test's own, on which systemd is the first process: a container that `scripts/boot.sh` boots.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use baton_ipc::control::{Output as Answer, Reply, Status};
use nix::sched::{CloneFlags, setns};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::procfs::children;
use super::service::{baton, die_with_us};
use super::{eventually, http, within};

/// Where baton listens there, as shipped: the network is the machine's own.
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8000);

/// How long a boot may take on a busy machine. It takes about a second.
const BOOT: Duration = Duration::from_secs(60);

/// A booted machine. Dropping it ends it.
pub struct Machine {
    child: Child,
    name: String,
    dir: TempDir,
}

/// What is on the machine when it boots.
pub struct Image {
    dir: TempDir,
    binds: Vec<String>,
}

impl Image {
    /// A minimal Debian.
    pub fn bare() -> Image {
        let dir = tempfile::Builder::new().prefix("baton-machine-").tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("root")).expect("a directory of ours");
        Image { dir, binds: Vec::new() }
    }

    /// With baton as it is installed: commands, units, its user, and these settings.
    pub fn with_baton(settings: &str) -> Image {
        let project = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut image = Image::bare().file("/etc/baton/baton.toml", settings);
        for (at, to) in [("", "/usr/lib/systemd/system"), ("sysusers.d", "/usr/lib/sysusers.d")] {
            for entry in fs::read_dir(project.join("systemd").join(at)).expect("the units") {
                let path = entry.expect("an entry").path();
                if path.is_file() {
                    let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
                    image = image.file(&format!("{to}/{name}"), &fs::read_to_string(&path).expect("text"));
                }
            }
        }
        image
            .program(&baton(), "/usr/bin/baton")
            .program(Path::new(env!("CARGO_BIN_EXE_batonctl")), "/usr/bin/batonctl")
    }

    /// A file.
    pub fn file(self, path: &str, text: &str) -> Image {
        let path = self.dir.path().join("root").join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a directory")).expect("directories of ours");
        fs::write(path, text).expect("a file of ours");
        self
    }

    /// A program or directory of this machine, as it is, read-only.
    pub fn program(mut self, from: &Path, to: &str) -> Image {
        self.binds.push(format!("--bind-ro={}:{to}", from.display()));
        self
    }

    /// Boots, and waits until all of the boot is done. From then on the calling thread, and those that it starts, are in the
    /// machine's network.
    #[track_caller]
    pub fn boot(self) -> Machine {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("baton-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let log = File::create(self.dir.path().join("console")).expect("a file of ours");
        fs::set_permissions(self.dir.path(), fs::Permissions::from_mode(0o755)).expect("a directory of ours");
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/boot.sh"));
        command.arg(&name).arg(self.dir.path().join("root")).args(&self.binds);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        die_with_us(&mut command);
        let child = command.spawn().expect("scripts/boot.sh runs");
        let machine = Machine { child, name, dir: self.dir };
        machine.await_boot(None);
        if machine.path("/usr/lib/sysusers.d/baton.conf").exists() {
            // As the package does.
            machine.ok("systemd-sysusers");
        }
        machine
    }
}

impl Machine {
    /// Waits until it has booted; `before`: as another first process than this one.
    #[track_caller]
    fn await_boot(&self, before: Option<Pid>) {
        within(BOOT, "a boot", || {
            let init = self.try_init().filter(|init| Some(*init) != before)?;
            fs::metadata(format!("/proc/{init}/root/run/systemd/private")).ok()
        });
        let state = self.run("systemctl is-system-running --wait");
        let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
        assert_eq!(state, "running", "{}", String::from_utf8_lossy(&self.run("systemctl --failed").stdout));
        self.enter_network();
    }

    fn enter_network(&self) {
        let network = File::open(format!("/proc/{}/ns/net", self.init())).expect("it runs");
        setns(network, CloneFlags::CLONE_NEWNET).expect("root may");
    }

    /// The machine's first process, as this one sees it.
    #[track_caller]
    pub fn init(&self) -> Pid {
        self.try_init().expect("the machine is on")
    }

    fn try_init(&self) -> Option<Pid> {
        let boot = children(Pid::from_raw(self.child.id() as i32)).into_iter().next()?;
        let nspawn = children(boot).into_iter().next()?;
        let is_init = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "systemd\n");
        children(nspawn).into_iter().find(is_init)
    }

    /// A file of the machine, as this one sees it.
    #[track_caller]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init()))
    }

    /// Runs a command of a shell there.
    #[track_caller]
    pub fn run(&self, command: &str) -> Output {
        let mut inside = Command::new("nsenter");
        inside.arg(format!("--target={}", self.init()));
        inside.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--"]);
        inside.args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/root", "LANG=C.UTF-8", "SYSTEMD_PAGER="]);
        inside.args(["sh", "-c", command]).stdin(Stdio::null()).output().expect("nsenter runs")
    }

    /// Runs one that has to succeed: what it said.
    #[track_caller]
    pub fn ok(&self, command: &str) -> String {
        let output = self.run(command);
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command}: {}\n{stdout}{stderr}", output.status);
        stdout.into_owned()
    }

    /// A property of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.ok(&format!("systemctl show --value --property={name} {unit}")).trim().to_owned()
    }

    /// Waits until a property of a unit is as wanted.
    #[track_caller]
    pub fn await_property(&self, unit: &str, name: &str, wanted: impl Fn(&str) -> bool) -> String {
        let what = format!("{name} of {unit}");
        eventually(&what, || Some(self.property(unit, name)).filter(|value| wanted(value)))
    }

    /// The supervisor of a color, as systemd has it, and as the machine numbers it.
    #[track_caller]
    pub fn main_pid(&self, color: &str) -> u32 {
        self.property(&format!("baton@{color}"), "MainPID").parse().expect("a pid")
    }

    /// `batonctl status` of a color, if it answers.
    #[track_caller]
    pub fn status(&self, color: &str) -> Option<Status> {
        let said = self.run(&format!("batonctl --color {color} --json status")).stdout;
        match serde_json::from_slice(&said).ok()? {
            Reply::Done { output: Answer::Status(status) } => Some(*status),
            Reply::Done { .. } | Reply::Step { .. } | Reply::Progress { .. } | Reply::Error { .. } => None,
        }
    }

    /// What `/status` says, whoever answers.
    pub fn served_by(&self) -> Option<Value> {
        let answer = http::get(ADDRESS, "/status").ok().filter(|answer| answer.status == 200)?;
        serde_json::from_str(&answer.body).ok()
    }

    /// The journal of a unit, each entry with all its fields.
    #[track_caller]
    pub fn journal(&self, unit: &str) -> Vec<Value> {
        let text = self.ok(&format!("journalctl --no-pager --output=json --unit={unit}"));
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Reboots it; what is on its disks stays.
    #[track_caller]
    pub fn reboot(&self) {
        let before = self.init();
        self.ok("systemctl --no-block reboot");
        self.await_boot(Some(before));
    }

    /// The cgroup of the container, in whichever hierarchy of version 2 this machine has.
    fn cgroup(&self) -> Option<PathBuf> {
        let mounts = fs::read_to_string("/proc/mounts").ok()?;
        let mount =
            mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words[2] == "cgroup2")?;
        Some(Path::new(mount[1]).join(&self.name))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = fs::read_to_string(self.dir.path().join("console")).unwrap_or_default();
            eprintln!("--- the console:\n{console}");
            if self.try_init().is_some() {
                let journal = self.run("journalctl --no-pager --output=short-precise --lines=120");
                eprintln!("--- the journal's end:\n{}", String::from_utf8_lossy(&journal.stdout));
            }
        }
        // Everything in it goes with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let Some(cgroup) = self.cgroup() else { return };
        // Until the kernel has buried the last process its cgroup is in use.
        for _ in 0..200 {
            remove_cgroup(&cgroup);
            if !cgroup.exists() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        eprintln!("{} stays", cgroup.display());
    }
}

/// From the leaves up: a cgroup has no files that could be removed.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}
