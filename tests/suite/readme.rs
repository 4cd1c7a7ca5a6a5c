//! Every command that README shows is run, as by somebody who has found the project: in a fresh clone, and on machines that are
//! installed by it.

mod checkout;
mod shown;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::runtime::{self, Runtime};

use crate::harness::machine::{ADDRESS, Image};
use crate::harness::netns::in_network_of;
use crate::harness::package::architecture;
use crate::harness::redis::Setup;
use crate::harness::terminal::Terminal;
use crate::harness::{Client, Machine, executable, http, is_root, within};
use checkout::Checkout;
use shown::Shown;

/// Where a command is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In a clone.
    Clone,
    /// In a clone, of which a package is made for a machine.
    Package,
    /// The same, for a machine without dpkg.
    Install,
    /// On the machine for which something was built last.
    Machine,
    /// By `.ci/run`.
    Ci,
}

/// What somebody does about it.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Runs it; it ends well, and says this among other things.
    Says(&'static str),
    /// The same, where nothing runs.
    Anew(&'static str),
    /// Runs it on a terminal: what it shows is answered by what is typed.
    Types(&'static [(&'static str, &'static str)]),
    /// Sets a variable for what comes next, where nothing runs.
    Export(&'static str),
    /// Runs it until it serves here, and ends it.
    Serves(u16),
    /// Runs it against the example, with this in place of that.
    AgainstEcho(&'static [(&'static str, &'static str)]),
    /// Runs it on the machine; it ends well.
    Installs,
    /// It is done for the project as a whole.
    Elsewhere,
}

/// The example, as README starts it, and its port.
const ECHO: (&str, u16) =
    ("cargo run --example echo -- run --listen 127.0.0.1:9001 --runtime-dir run/echo --state-dir run/echo/state", 9001);

/// Where README says that Redis is.
const REDIS: &str = "10.0.0.5:6379";

const PASSWORD: &str = "correct horse battery staple\r";

/// Every command of README, and nothing else.
fn plan(command: &str) -> Option<(Place, Deed)> {
    use Deed::{AgainstEcho, Anew, Elsewhere, Export, Installs, Says, Serves, Types};
    use Place::{Ci, Clone, Install, Machine, Package};
    Some(match command {
        "make up" => (Clone, Says("baton is up, pid ")),
        "python3 -m websockets ws://localhost:8000/ws/chat/" => {
            (Clone, Types(&[("Connected to", "hello\r"), (r#"{"count":1}"#, "\x04")]))
        }
        "git pull" => (Clone, Says("NEWS")),
        "make promote" => (Clone, Says("HANDED OVER")),
        "scripts/promote.sh --canary 5 --watch 30s" => (Clone, Says("HANDED OVER")),
        "scripts/promote.sh --keep-old" => (Clone, Says("HANDED OVER")),
        "scripts/promote.sh status" => (Clone, Says("is kept for a rollback")),

        "make package" => (Package, Says("/target/debian/baton_")),
        "make build manual" => (Install, Says("")),
        "sudo dpkg -i target/debian/baton_0.1.0-1_amd64.deb"
        | "sudo editor /etc/baton/baton.toml"
        | "sudo make install"
        | "sudo systemd-sysusers /usr/local/lib/sysusers.d/baton.conf"
        | "sudo systemctl daemon-reload"
        | "sudo systemctl enable --now baton@blue"
        | "install -D -m 644 systemd/socket-activation.conf /etc/systemd/system/baton@.service.d/socket-activation.conf"
        | "systemctl daemon-reload"
        | "systemctl stop baton@blue"
        | "systemctl enable --now baton.socket"
        | "sudo cp nginx/baton.conf /etc/nginx/sites-available/baton"
        | "sudo cp nginx/snippets/* /etc/nginx/snippets/"
        | "sudo ln -s ../sites-available/baton /etc/nginx/sites-enabled/"
        | "sudo nginx -t && sudo systemctl reload nginx" => (Machine, Installs),

        "make load-test" => (Clone, Says("PASSED")),
        "scripts/load_test.sh --connections 2000 --messages 50 --rate 5000/s" => (Clone, Says("PASSED")),
        "target/release/baton load-test --url wss://example.org/socket --expect echo --rate 1000/s --duration 5m" => (
            Clone,
            AgainstEcho(&[("wss://example.org/socket", "ws://127.0.0.1:9001"), ("--duration 5m", "--duration 2s")]),
        ),

        "REDIS_URL=redis://10.0.0.5:6379 make up" => (Clone, Anew("baton is up, pid ")),
        "REDIS_URL=redis://10.0.0.5:6379 target/release/baton check-config --connect" => (Clone, Says("10.0.0.5:6379")),
        "scripts/ctl.sh backplane" => (Clone, Says("up  0 messages pending")),
        _ if command == ECHO.0 => (Clone, Serves(ECHO.1)),
        "scripts/ctl.sh status" => (Clone, Says("4 of 4")),
        "scripts/ctl.sh connections --order biggest -n 2" => (Clone, Says("biggest first")),
        "scripts/ctl.sh restart 1" => (Clone, Says("restart is done")),
        r#"scripts/ctl.sh broadcast '{"notice":"lunch"}'"# => (Clone, Says("on 4 workers")),

        "target/release/baton check-config --workers 2" => (Clone, Says("")),
        "target/release/baton check-config --connect" => (Clone, Says("")),
        "target/release/baton run --print-config" => (Clone, Says("workers = 4")),
        "make monitor" => (Clone, Types(&[("workers: 4 of 4 serve", "q")])),
        "scripts/monitor.sh --logs-only" => (Clone, Types(&[("listening", "q")])),
        "scripts/monitor.sh --metrics-only --interval 5" => (Clone, Types(&[("workers: 4 of 4 serve", "q")])),
        "export SECRET_KEY=$(openssl rand -base64 33)" => (Clone, Export("SECRET_KEY")),
        "make superuser" => {
            (Clone, Types(&[("Username: ", "ada\r"), ("Password: ", PASSWORD), ("Password (again): ", PASSWORD)]))
        }
        "make lint" | "make test" => (Ci, Elsewhere),
        _ => return None,
    })
}

/// The commands of a place, in README's order; with those on the machine for which something is built there.
fn commands_of(place: Place) -> Vec<(Shown, Deed)> {
    let mut built_for = None;
    let mut found = Vec::new();
    for shown in shown::commands() {
        let Some((at, deed)) = plan(&shown.text) else { continue };
        let at = match at {
            Place::Machine => built_for.expect("a machine is the last that something was built for"),
            Place::Package | Place::Install => *built_for.insert(at),
            Place::Clone | Place::Ci => at,
        };
        if at == place {
            found.push((shown, deed));
        }
    }
    found
}

#[test]
fn every_command_has_its_place() {
    let shown = shown::commands();
    let unknown: Vec<_> = shown.iter().filter(|shown| plan(&shown.text).is_none()).collect();
    assert!(unknown.is_empty(), "README shows what no test runs: {unknown:#?}");
    assert!(shown.len() > 40, "README's commands are found: {}", shown.len());
    // What is done for the project as a whole.
    let ci = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run")).expect("a file of ours");
    for (shown, _) in commands_of(Place::Ci) {
        assert!(ci.lines().any(|line| line == shown.text), "{}", shown.text);
    }
}

#[test]
fn commands_that_documents_name_are_there() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = BTreeSet::new();
    for (document, code) in shown::code() {
        for command in code.split(" && ") {
            let words: Vec<&str> = command.split_whitespace().skip_while(|word| *word == "sudo").collect();
            named.extend(match words[..] {
                ["make", ..] => Some(words.join(" ")),
                // A word in capitals stands for another.
                [program @ ("baton" | "batonctl"), name, ..] if is_name(name) => Some(format!("{program} {name}")),
                [script, ..] if script.starts_with("scripts/") => {
                    assert!(project.join(script).exists(), "{document} names {script}");
                    None
                }
                _ => None,
            });
        }
    }
    assert!(named.len() > 40, "{named:?}");
    for command in named {
        let words: Vec<&str> = command.split(' ').collect();
        let (program, asks) = match words[0] {
            "make" => ("make", "--dry-run"),
            "baton" => (env!("CARGO_BIN_EXE_baton"), "--help"),
            _ => (env!("CARGO_BIN_EXE_batonctl"), "--help"),
        };
        let output = Command::new(program).args(&words[1..]).arg(asks).current_dir(project).output().expect("it runs");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn is_name(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') && !word.starts_with('-')
}

/// Somebody who is connected while all of it happens.
struct Witness {
    client: Client,
    count: u64,
}

/// Who does it all in one clone.
struct Somebody {
    checkout: Checkout,
    runtime: Runtime,
    witness: Option<Witness>,
}

impl Somebody {
    fn new() -> Somebody {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Somebody { checkout: Checkout::new(), runtime, witness: None }
    }

    #[track_caller]
    fn act(&mut self, shown: &Shown, deed: Deed) {
        let command = shown.text.as_str();
        eprintln!("README.md:{}: {command}", shown.line);
        match deed {
            Deed::Says(word) => self.says(shown, word),
            Deed::Anew(word) => {
                self.down();
                self.says(shown, word);
            }
            Deed::Types(turns) => self.type_in(command, turns),
            Deed::Export(name) => {
                self.down();
                let value = self.checkout.run(&format!("{command}; printf %s \"${name}\""));
                self.checkout.export(name, value);
            }
            Deed::Serves(port) => self.serves(command, port, |_| {}),
            Deed::AgainstEcho(changes) => {
                let changed = changes.iter().fold(command.to_owned(), |text, (from, to)| text.replace(from, to));
                assert!(changes.iter().all(|(from, _)| command.contains(from)), "{command}");
                let (echo, port) = ECHO;
                self.serves(echo, port, |checkout| {
                    let said = checkout.run(&changed);
                    assert!(said.contains("PASSED"), "{changed}: {said}");
                });
            }
            Deed::Installs | Deed::Elsewhere => unreachable!("not in a clone: {command}"),
        }
        self.still_connected();
    }

    #[track_caller]
    fn says(&mut self, shown: &Shown, word: &str) {
        if shown.text == "git pull" {
            self.checkout.push("A second version");
        }
        let said = self.checkout.run(&shown.text);
        assert!(said.contains(word), "{}: no {word:?} in\n{said}", shown.text);
        // Numbers are others each time; what the columns are called is not.
        let plain = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        for head in shown.output.iter().filter(|line| line.starts_with("SLOT ")) {
            assert!(said.lines().any(|line| plain(line) == plain(head)), "{}: no {head:?} in\n{said}", shown.text);
        }
        if shown.text.ends_with("make up") {
            let client = self.runtime.block_on(Client::connect(&format!("ws://{ADDRESS}/ws/chat/")));
            self.witness = Some(Witness { client, count: 0 });
        }
    }

    /// Whoever is connected is served on, on the same connection.
    #[track_caller]
    fn still_connected(&mut self) {
        let Some(Witness { client, count }) = &mut self.witness else { return };
        let got = self.runtime.block_on(async {
            client.send("still there?").await;
            loop {
                // What everybody is told.
                let json = client.json().await;
                if json.get("notice").is_none() && json.get("ts").is_none() {
                    return json["count"].as_u64();
                }
            }
        });
        *count += 1;
        assert_eq!(got, Some(*count));
    }

    /// Ends what runs.
    #[track_caller]
    fn down(&mut self) {
        let said = self.checkout.run("make down");
        assert!(said.contains("baton is down"), "{said}");
        let mut witness = self.witness.take().expect("somebody was connected");
        let close = self.runtime.block_on(witness.client.close()).expect("a close with a code");
        assert_eq!(u16::from(close.code), 1001);
    }

    #[track_caller]
    fn type_in(&self, command: &str, turns: &[(&str, &str)]) {
        let mut terminal = Terminal::start(self.checkout.command(command));
        for (shown, typed) in turns {
            terminal.wait_shown(shown);
            terminal.type_in(typed);
        }
        assert!(terminal.wait().success(), "{command}");
    }

    /// Starts what serves, does something while it does, and ends it.
    #[track_caller]
    fn serves(&self, command: &str, port: u16, act: impl FnOnce(&Checkout)) {
        let mut serving = self.checkout.command(&format!("exec {command}"));
        let mut serving =
            serving.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        within(Duration::from_secs(60), command, || {
            assert!(serving.try_wait().expect("a child of ours").is_none(), "{command} has ended");
            http::get(address, "/readyz").ok().filter(|answer| answer.status == 200)
        });
        act(&self.checkout);
        kill(Pid::from_raw(serving.id() as i32), Signal::SIGTERM).expect("it runs");
        let status = within(Duration::from_secs(20), command, || serving.try_wait().expect("a child of ours"));
        assert!(status.success(), "{command}: {status}");
    }
}

#[test]
fn in_a_clone() {
    if !is_root() {
        return;
    }
    // A network in which the ports that README names are free, and its addresses are this machine's.
    in_network_of(&["10.0.0.5/32"], || {
        // Without a password, which the URL has not, it takes clients from other machines only like this.
        let redis = Setup::new().with("protected-mode", "no").at(REDIS.parse().expect("an address")).start();
        let mut somebody = Somebody::new();
        for (shown, deed) in commands_of(Place::Clone) {
            somebody.act(&shown, deed);
        }
        let listed = somebody.checkout.run("scripts/superuser.sh --list");
        assert!(listed.contains("ada"), "{listed}");
        let page = http::get(ADDRESS, "/admin/login").expect("an answer");
        assert_eq!(page.status, 200, "{page:?}");
        let status = somebody.checkout.run("make status");
        assert!(status.contains("4 of 4"), "{status}");
        let mut logs = Terminal::start(somebody.checkout.command("make logs"));
        logs.wait_for(r#""message":"ready""#);
        logs.type_in("\x03");
        logs.wait();
        somebody.down();
        drop(redis);
    });
}

/// A machine to install something on, with the clone, and somebody who changes a setting in the editor.
fn machine(checkout: &Checkout) -> (Machine, tempfile::TempDir) {
    let desk = tempfile::tempdir().expect("a temporary directory");
    let (key, certificate, editor) =
        (desk.path().join("key"), desk.path().join("certificate"), desk.path().join("editor"));
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj".split(' '))
        .args(["/CN=baton.example.org", "-addext", "subjectAltName=DNS:baton.example.org", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl is installed");
    assert!(made.status.success(), "{made:?}");
    executable::script(&editor, "#!/bin/sh\nsed -i 's/^#\\? *workers *=.*/workers = 2/' \"$1\"\n");
    let pem = |path: &Path| fs::read_to_string(path).expect("PEM");
    let image = Image::bare()
        .file("/etc/letsencrypt/live/baton.example.org/fullchain.pem", &pem(&certificate))
        .file("/etc/letsencrypt/live/baton.example.org/privkey.pem", &pem(&key))
        .program(&checkout.path(), "/srv/baton")
        .program(&editor, "/usr/bin/editor");
    (image.boot(), desk)
}

/// Does what README says to do on a machine, with what has been built.
fn install(place: Place) -> (Machine, tempfile::TempDir) {
    let checkout = Checkout::new();
    let mut somewhere = None;
    for (shown, deed) in commands_of(place) {
        let command = shown.text.replace("_amd64.", &format!("_{}.", architecture()));
        eprintln!("README.md:{}: {command}", shown.line);
        match deed {
            Deed::Says(word) => {
                let said = checkout.run(&command);
                assert!(said.contains(word), "{command}: no {word:?} in\n{said}");
            }
            Deed::Installs => {
                let (machine, _) = somewhere.get_or_insert_with(|| machine(&checkout));
                if command.contains("nginx/baton.conf") {
                    machine.ok("systemctl start nginx");
                }
                machine.ok(&format!("cd /srv/baton && {command}"));
            }
            _ => unreachable!("not on a machine: {command}"),
        }
    }
    somewhere.expect("something is installed")
}

#[test]
fn on_a_machine_with_the_package() {
    if !is_root() {
        return;
    }
    let (machine, _desk) = install(Place::Package);
    assert_eq!(http::get(ADDRESS, "/readyz").expect("it serves").status, 200);
    let workers = machine.status("blue").expect("baton@blue answers").slots.len();
    assert_eq!(workers, 2, "what was edited is in effect");
}

#[test]
fn on_a_machine_without_dpkg_with_sockets_of_systemd_behind_nginx() {
    if !is_root() {
        return;
    }
    let (machine, desk) = install(Place::Install);
    // The certificate is its own authority. This is the first client: it starts the service.
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--resolve", "baton.example.org:443:127.0.0.1", "--cacert"]);
    let answer = curl.arg(desk.path().join("certificate")).arg("https://baton.example.org/readyz").output();
    let answer = answer.expect("curl is installed");
    assert!(answer.status.success(), "{answer:?}");
    assert_eq!(machine.property("baton.socket", "ActiveState"), "active");
    let program = machine.ok("readlink /proc/$(systemctl show --value --property=MainPID baton@blue)/exe");
    assert_eq!(program.trim(), "/usr/local/bin/baton");
}
