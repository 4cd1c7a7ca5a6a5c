//! The commands an operator types, and what they ask of the supervisor.

use std::str::FromStr;

use baton_ipc::control::{Command, Order};
use baton_ipc::{MAX_SLOTS, Slot};
use clap::{Args, Subcommand};

use super::client::Error;
use super::takeover::Options;

/// One command.
#[derive(Clone, Debug, PartialEq, Subcommand)]
pub(super) enum Verb {
    /// Show all slots: state, pid, connections, messages, restarts
    Status,
    /// Show process ids
    Pid {
        /// Slot numbers, or all; without: the supervisor too
        #[arg(value_name = "SLOT")]
        slots: Vec<Slots>,
    },
    /// Start slots that are down
    Start(SlotArgs),
    /// Drain slots and leave them down
    Stop(SlotArgs),
    /// Replace the workers of slots, one after another; clients stay connected
    Restart(SlotArgs),
    /// Read the configuration anew and replace all workers, one after another; clients stay connected
    Reload,
    /// Hand all clients over to the generation that stands by, and end the old one; clients stay connected
    ///
    /// It must be running already, started with --takeover wait. `baton promote` starts one and does this.
    Promote(Options),
    /// Give everything back to the old generation that promote --keep-old has kept, or call off a takeover or an upgrade that
    /// is under way; clients stay connected
    Rollback,
    /// Start the binary that is installed now, which takes over from the one that runs; clients stay connected
    ///
    /// It is looked for at the path by which the service was started: symbolic links and renamed files are followed to what is
    /// there now. Ctrl-C, or `batonctl rollback`, calls it off.
    Upgrade,
    /// Hand connections from workers that have more to those that have fewer
    Rebalance,
    /// Run this many workers; clients stay connected
    Scale {
        /// How many
        #[arg(value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SLOTS)))]
        workers: u16,
    },
    /// Show the last log lines of the supervisor, of a slot, or of all
    ///
    /// They come out of memory, wherever the log goes: the last 64 KiB of each process, those of its predecessor included.
    /// Older lines are in the files of log-dir, or in the journal.
    Tail {
        /// Go on showing lines as they come, also of the generation that takes over
        #[arg(short, long)]
        follow: bool,
        /// How many lines to begin with
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        lines: usize,
        /// A slot, or all with the supervisor; without: the supervisor
        slot: Option<Slots>,
    },
    /// Send a signal to the workers of slots
    Signal {
        /// Its name: ABRT, CONT, KILL or STOP
        #[arg(value_name = "NAME")]
        signal: String,
        #[command(flatten)]
        slots: SlotArgs,
    },
    /// Open log files anew, after they were rotated; of all generations, if there are two
    ReopenLogs,
    /// Show connections
    Connections {
        /// Which first: oldest, slowest or biggest
        #[arg(short, long, default_value = "oldest", value_parser = order)]
        order: Order,
        /// How many rows
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Show what the workers share, and how it does: link, latency, lease, messages pending
    Backplane,
    /// Close all connections of a session
    Disconnect {
        /// Its session_uuid
        session: String,
    },
    /// Send a text message to every connection
    Broadcast {
        /// Any JSON value, in one argument: '{"notice":"…"}'
        #[arg(value_name = "JSON", allow_hyphen_values = true)]
        message: String,
    },
    /// Say bye to all clients, and end the service
    Shutdown,
    /// Show the versions of this command and of the supervisor
    Version,
    /// Leave the shell
    #[command(alias = "quit")]
    Exit,
}

/// Which slots; it must be said.
#[derive(Args, Clone, Debug, PartialEq)]
pub(super) struct SlotArgs {
    /// Slot numbers, or all
    #[arg(required = true, value_name = "SLOT")]
    slots: Vec<Slots>,
}

/// One of the slots named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slots {
    All,
    One(Slot),
}

impl FromStr for Slots {
    type Err = String;

    fn from_str(text: &str) -> Result<Slots, String> {
        match text {
            "all" => Ok(Slots::All),
            number => match number.parse() {
                Ok(slot) if slot < MAX_SLOTS => Ok(Slots::One(slot)),
                Ok(_) | Err(_) => Err(format!("a slot is a number from 0 to {}, or all", MAX_SLOTS - 1)),
            },
        }
    }
}

/// As the protocol has it: nothing named is all.
fn named(slots: &[Slots]) -> Vec<Slot> {
    let mut named = Vec::new();
    for slot in slots {
        match slot {
            Slots::All => return Vec::new(),
            Slots::One(slot) if named.contains(slot) => {}
            Slots::One(slot) => named.push(*slot),
        }
    }
    named
}

fn order(text: &str) -> Result<Order, String> {
    match text {
        "oldest" => Ok(Order::Oldest),
        "slowest" => Ok(Order::Slowest),
        "biggest" => Ok(Order::Biggest),
        _ => Err("oldest, slowest or biggest".to_owned()),
    }
}

impl Verb {
    /// What to ask; nothing for what this side does alone, or asks for piece by piece.
    pub(super) fn request(&self) -> Result<Option<Command>, Error> {
        Ok(Some(match self {
            Verb::Status => Command::Status,
            Verb::Pid { slots } => Command::Pid { slots: named(slots) },
            Verb::Start(args) => Command::Start { slots: named(&args.slots) },
            Verb::Stop(args) => Command::Stop { slots: named(&args.slots) },
            Verb::Restart(args) => Command::Restart { slots: named(&args.slots) },
            Verb::Reload => Command::Reload,
            Verb::Promote(options) => options.command(),
            Verb::Rollback => Command::Rollback,
            Verb::Upgrade => Command::Upgrade,
            Verb::Rebalance => Command::Rebalance,
            Verb::Scale { workers } => Command::Scale { workers: *workers },
            Verb::Signal { signal, slots } => {
                let name = signal.to_ascii_uppercase();
                let name = name.strip_prefix("SIG").unwrap_or(&name).to_owned();
                Command::Signal { signal: name, slots: named(&slots.slots) }
            }
            Verb::ReopenLogs => Command::ReopenLogs,
            Verb::Connections { order, limit } => Command::Connections { order: *order, limit: *limit },
            Verb::Backplane => Command::Backplane,
            Verb::Disconnect { session } => Command::Disconnect { session: session.clone() },
            Verb::Broadcast { message } => {
                let parsed = serde_json::from_str(message);
                Command::Broadcast {
                    message: parsed.map_err(|error| Error::Usage(format!("not valid JSON: {error}")))?,
                }
            }
            Verb::Shutdown => Command::Shutdown,
            Verb::Version => Command::Version,
            Verb::Tail { .. } | Verb::Exit => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::shell::Line;
    use super::*;

    fn request(line: &[&str]) -> Result<Command, String> {
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        line.verb.request().map_err(|error| error.to_string()).map(|command| command.expect("asks something"))
    }

    #[test]
    fn slots_are_numbers_or_all_and_must_be_said() {
        assert_eq!(request(&["stop", "1", "3", "1"]), Ok(Command::Stop { slots: vec![1, 3] }));
        assert_eq!(request(&["restart", "2", "all"]), Ok(Command::Restart { slots: vec![] }));
        assert_eq!(request(&["pid"]), Ok(Command::Pid { slots: vec![] }));
        for wrong in [
            &["start"][..],
            &["start", "64"],
            &["start", "-1"],
            &["start", "every"],
            &["scale", "0"],
            &["scale", "65"],
            &["scale"],
        ] {
            assert!(request(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn takeovers_have_options() {
        let all = Command::Promote { canary: None, watch_ms: 0, keep_old: false };
        assert_eq!(request(&["promote"]), Ok(all));
        let careful = Command::Promote { canary: Some(5.0), watch_ms: 90_000, keep_old: true };
        assert_eq!(request(&["promote", "--canary", "5%", "--watch", "1m30s", "--keep-old"]), Ok(careful));
        assert_eq!((request(&["rollback"]), request(&["upgrade"])), (Ok(Command::Rollback), Ok(Command::Upgrade)));
    }

    #[test]
    fn signals_are_named_as_anyone_does() {
        for name in ["KILL", "kill", "SIGKILL"] {
            assert_eq!(request(&["signal", name, "0"]), Ok(Command::Signal { signal: "KILL".into(), slots: vec![0] }));
        }
        assert!(request(&["signal", "KILL"]).is_err());
    }

    #[test]
    fn broadcast_takes_json_alone_and_says_where_it_is_wrong() {
        assert_eq!(request(&["broadcast", "-1"]), Ok(Command::Broadcast { message: (-1).into() }));
        assert_eq!(
            request(&["broadcast", "{\"a\":}"]),
            Err("not valid JSON: expected value at line 1 column 6".into())
        );
    }
}
