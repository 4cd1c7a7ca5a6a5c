//! A private Redis, and what it says of the commands that it was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::child::Running;

const PATIENCE: Duration = Duration::from_secs(10);

/// A Redis without persistence; dropped, it is killed.
pub struct Redis {
    /// Its process.
    pub process: Running,
    address: SocketAddr,
    info: BufReader<TcpStream>,
    _directory: TempDir,
}

impl Redis {
    /// Starts the one in `PATH`, on one core if one is given, and waits until it answers.
    ///
    /// # Errors
    /// There is none, or it does not answer in time.
    pub fn start(core: Option<usize>) -> io::Result<Redis> {
        let directory = tempfile::Builder::new().prefix("baton-bench-").tempdir()?;
        let address = private_address()?;
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", &address.ip().to_string()])
            .args(["--port", &address.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--loglevel", "warning", "--logfile", "/dev/stderr"])
            .arg("--dir")
            .arg(directory.path());
        let mut process = Running::start(command, core).map_err(|error| match error.kind() {
            ErrorKind::NotFound => io::Error::new(
                ErrorKind::NotFound,
                "there is no redis-server in PATH; Debian has it in the package redis-server",
            ),
            _ => error,
        })?;
        let started = Instant::now();
        let stream = loop {
            if let Ok(stream) = TcpStream::connect_timeout(&address, PATIENCE) {
                break stream;
            }
            if let Ok(status) = process.wait(Duration::from_millis(1)) {
                return Err(process.failure(ErrorKind::Other, &format!("{status} before it answered")));
            }
            if started.elapsed() > PATIENCE {
                return Err(process.failure(ErrorKind::TimedOut, "nobody can connect"));
            }
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Redis { process, address, info: BufReader::new(stream), _directory: directory })
    }

    /// Where it is, as baton is told.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// What it has done so far.
    ///
    /// # Errors
    /// It does not answer, or does not count what is asked for.
    pub fn counters(&mut self) -> io::Result<Counters> {
        self.info.get_mut().write_all(b"INFO clients stats commandstats\r\n")?;
        let mut head = String::new();
        self.info.read_line(&mut head)?;
        let length = head.trim_end().strip_prefix('$').and_then(|length| length.parse::<usize>().ok());
        let length = length.ok_or_else(|| strange(format!("INFO was answered {:?}", head.trim_end())))?;
        // The last two bytes end the line.
        let mut body = vec![0; length + 2];
        self.info.read_exact(&mut body)?;
        let counters = Counters::parse(&String::from_utf8_lossy(&body));
        counters.ok_or_else(|| strange("INFO does not count reads; a Redis before 6?"))
    }

    /// Waits until it has as many clients, this program not counted.
    ///
    /// # Errors
    /// They do not come in time.
    pub fn wait_for_clients(&mut self, number: u64) -> io::Result<()> {
        let started = Instant::now();
        loop {
            let clients = self.counters()?.clients.saturating_sub(1);
            if clients >= number {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    format!("{clients} of {number} clients came to Redis"),
                ));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// From now on every command is recorded, for [`Redis::origins`]; not while anything is measured.
    ///
    /// # Errors
    /// It does not answer.
    pub fn monitor(&self) -> io::Result<Monitor> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"MONITOR\r\n")?;
        let mut lines = BufReader::new(stream);
        let mut answer = String::new();
        lines.read_line(&mut answer)?;
        if answer == "+OK\r\n" { Ok(Monitor(lines)) } else { Err(strange(format!("MONITOR was answered {answer:?}"))) }
    }

    /// Ends the recording: which commands came from clients, which from scripts.
    ///
    /// # Errors
    /// It does not answer.
    pub fn origins(&mut self, mut monitor: Monitor) -> io::Result<Origins> {
        self.info.get_mut().write_all(b"ECHO end\r\n")?;
        self.info.read_line(&mut String::new())?;
        self.info.read_line(&mut String::new())?;
        let (mut origins, mut line) = (Origins::default(), String::new());
        loop {
            line.clear();
            if monitor.0.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            match origins.learn(&line) {
                Some(command) if command == END => return Ok(origins),
                Some(_) => {}
                None => return Err(strange(format!("MONITOR said {line:?}"))),
            }
        }
    }
}

/// The command of [`Redis::counters`].
const OURS: &str = "info";
/// The command behind which nothing is recorded.
const END: &str = "echo";

/// A connection on which Redis tells every command.
pub struct Monitor(BufReader<TcpStream>);

/// Which commands come from whom, by their names.
#[derive(Debug, Default)]
pub struct Origins {
    clients: BTreeSet<String>,
    scripts: BTreeSet<String>,
}

impl Origins {
    /// Takes one line of MONITOR, `+SECONDS [DATABASE ADDRESS] "COMMAND" …`, whose address is `lua` in a script; gives the name.
    fn learn(&mut self, line: &str) -> Option<String> {
        let (origin, arguments) = line.split_once(" [")?.1.split_once("] \"")?;
        let name = arguments.split_once('"')?.0.to_ascii_lowercase();
        let names = if origin.ends_with(" lua") { &mut self.scripts } else { &mut self.clients };
        names.insert(name.clone());
        Some(name)
    }

    /// The commands that only scripts use.
    ///
    /// # Errors
    /// There are none, or one comes from both, and its counter does not tell whose a call was.
    pub fn scripted(self) -> io::Result<BTreeSet<String>> {
        match self.scripts.intersection(&self.clients).next() {
            None if self.scripts.is_empty() => Err(strange("no script was seen")),
            None => Ok(self.scripts),
            Some(both) => {
                Err(strange(format!("{both} is used by scripts and without: its calls cannot be told apart")))
            }
        }
    }
}

/// What INFO counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Clients now.
    pub clients: u64,
    /// Clients that ever came.
    pub connections: u64,
    /// Reads of sockets, those of their ends included.
    reads: u64,
    /// Calls of each command, from wherever.
    calls: BTreeMap<String, u64>,
}

/// What clients sent between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Commands on the wire.
    pub commands: u64,
    /// Reads in which they came.
    pub reads: u64,
}

impl Counters {
    fn parse(info: &str) -> Option<Counters> {
        let mut calls = BTreeMap::new();
        let mut facts = BTreeMap::new();
        for (key, value) in info.lines().filter_map(|line| line.split_once(':')) {
            match key.strip_prefix("cmdstat_") {
                Some(command) => {
                    // Subcommands are counted one by one.
                    let name = command.split('|').next().unwrap_or(command);
                    *calls.entry(name.to_owned()).or_default() +=
                        value.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok()?;
                }
                None => {
                    facts.insert(key, value.trim_end());
                }
            }
        }
        let fact = |name| facts.get(name).and_then(|value| value.parse().ok());
        Some(Counters {
            clients: fact("connected_clients")?,
            connections: fact("total_connections_received")?,
            reads: fact("total_reads_processed")?,
            calls,
        })
    }

    /// What others than this program have sent since `before`. Only `calls` tells a script's commands from those of clients,
    /// and only by their names: `total_commands_processed` has all of them.
    pub fn since(&self, before: &Counters, scripted: &BTreeSet<String>) -> Traffic {
        let sent = |(name, _): &(&String, &u64)| name.as_str() != OURS && !scripted.contains(*name);
        let new = |(name, calls): (&String, &u64)| calls - before.calls.get(name).copied().unwrap_or(0).min(*calls);
        Traffic {
            commands: self.calls.iter().filter(sent).map(new).sum(),
            // A look counts its own read, but not yet itself among the commands.
            reads: self.reads.saturating_sub(before.reads + 1),
        }
    }
}

/// A port on an address of the loopback network that nobody else is likely to use.
fn private_address() -> io::Result<SocketAddr> {
    let [.., high, low] = std::process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, 82, high, low), 0))?.local_addr()
}

fn strange(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(calls: &str, reads: u64) -> Counters {
        let info = format!(
            "# Clients\r\nconnected_clients:9\r\n# Stats\r\ntotal_connections_received:12\r\n\
             total_reads_processed:{reads}\r\n# Commandstats\r\n{calls}"
        );
        Counters::parse(&info).unwrap()
    }

    #[test]
    fn what_scripts_call_is_not_on_the_wire() {
        let mut origins = Origins::default();
        for line in [
            "+1.0 [0 127.0.0.1:5] \"EVALSHA\" \"d1\" \"1\" \"a ] \\\"b\\\" lua]\"\r\n",
            "+1.0 [0 lua] \"INCRBY\" \"a\" \"1\"\r\n",
            "+1.0 [0 unix:/run/a.sock] \"SCRIPT\" \"LOAD\" \"x\"\r\n",
        ] {
            origins.learn(line).unwrap();
        }
        let scripted = origins.scripted().unwrap();
        let before = counters("cmdstat_evalsha:calls=5,usec=1\r\ncmdstat_incrby:calls=50,usec=1\r\n", 10);
        let after = counters(
            "cmdstat_evalsha:calls=8,usec=1\r\ncmdstat_incrby:calls=80,usec=1\r\ncmdstat_info:calls=1,usec=1\r\n\
             cmdstat_script|load:calls=2,usec=1\r\ncmdstat_script|exists:calls=1,usec=1\r\n",
            14,
        );
        assert_eq!(after.since(&before, &scripted), Traffic { commands: 6, reads: 3 });
    }

    #[test]
    fn what_comes_from_both_is_not_guessed() {
        let mut origins = Origins::default();
        assert!(Origins::default().scripted().is_err());
        assert_eq!(origins.learn("+1.0 [0 lua] \"GET\" \"a\"\r\n").as_deref(), Some("get"));
        origins.learn("+1.0 [0 127.0.0.1:5] \"get\" \"a\"\r\n").unwrap();
        assert_eq!(origins.learn("+OK\r\n"), None);
        assert!(origins.scripted().unwrap_err().to_string().starts_with("get is used by scripts and without"));
    }

    #[test]
    fn an_info_without_the_counters_is_refused() {
        assert_eq!(Counters::parse("connected_clients:1\r\ntotal_connections_received:1\r\n"), None);
        assert_eq!(counters("", 1).calls.len(), 0);
    }
}
