//! What an operator reads: the status page, and every other answer in words.

mod backplane;
mod takeover;

use baton_ipc::control::{
    ConnectionRow, Degraded, Order, Output, PeerStatus, Relayed, SlotStatus, Status, UpgradeStatus,
};
use baton_ipc::scoreboard::State;

pub(crate) use self::takeover::page as receipt;
pub(crate) use super::table::{Align, age, printable, table};
use super::table::{Cell, Paint};
use super::verbs::Verb;
use crate::config::VERSION;

/// The answer to a command as text, newline at the end included.
pub(super) fn render(output: &Output, verb: &Verb, colors: bool) -> String {
    match output {
        Output::Text { message } => format!("{}\n", printable(message)),
        Output::Status(status) => self::status(status, colors),
        Output::Pids { supervisor, workers } => pids(*supervisor, workers),
        Output::Tail { text, .. } => text.clone(),
        Output::Connections { total, rows } => {
            let order = if let Verb::Connections { order, .. } = verb { *order } else { Order::default() };
            connections(*total, rows, order, colors)
        }
        Output::Backplane { rows } => backplane::page(rows, colors),
        Output::Reached { connections, workers, relayed } => {
            let of_a_session = matches!(verb, Verb::Disconnect { .. });
            reached(*connections, *workers, *relayed, of_a_session)
        }
        Output::Takeover(receipt) => takeover::page(receipt, colors),
        Output::Version { version, control, protocol } => {
            format!("batonctl    {VERSION}\nsupervisor  {version} (control {control}, protocol {protocol})\n")
        }
    }
}

/// The page an operator wants at 3 a.m.
fn status(status: &Status, colors: bool) -> String {
    let serving = status.slots.iter().filter(|slot| slot.state == State::Serving).count();
    let generation = match status.color.as_str() {
        "green" => Paint::Green.on("green", colors),
        other => Paint::Bold.on(&printable(other), colors),
    };
    let phase = match status.phase.as_str() {
        "running" if serving == status.slots.len() => Paint::Green,
        // It waits for as long as it has to, and nothing is wrong about that.
        "standby" => Paint::Plain,
        _ => Paint::Yellow,
    };
    let listen: Vec<String> = status.listen.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "{generation}  {}  baton {}  pid {}  up {}\n{}listen     {}\nbackplane  {}{}\n\n",
        phase.on(&printable(&status.phase), colors),
        printable(&status.version),
        status.pid,
        age(status.uptime_seconds),
        status.peer.as_ref().map_or_else(String::new, peer)
            + &status.upgrade.as_ref().map_or_else(String::new, upgrade),
        listen.join(", "),
        printable(&status.backplane),
        status.backplane_degraded.as_ref().map_or_else(String::new, |it| format!("  {}", degraded(it, colors))),
    );
    let columns = [
        ("SLOT", Align::Right),
        ("STATE", Align::Left),
        ("PID", Align::Right),
        ("UPTIME", Align::Right),
        ("CONNECTIONS", Align::Right),
        ("MSG/S", Align::Right),
        ("MESSAGES", Align::Right),
        ("RESTARTS", Align::Right),
        ("LAST CAUSE", Align::Left),
    ];
    let mut rows: Vec<Vec<Cell>> = status.slots.iter().map(slot_row).collect();
    let sum = |of: fn(&SlotStatus) -> u64| status.slots.iter().map(of).sum::<u64>();
    let rate: f64 = status.slots.iter().map(|slot| slot.messages_per_second).sum();
    rows.push(vec![
        "all".into(),
        format!("{serving} of {}", status.slots.len()).into(),
        "".into(),
        "".into(),
        sum(|slot| slot.connections).into(),
        format!("{rate:.1}").into(),
        sum(|slot| slot.messages).into(),
        sum(|slot| slot.restarts).into(),
    ]);
    text.push_str(&table(&columns, &rows, colors));
    text
}

fn peer(peer: &PeerStatus) -> String {
    let PeerStatus { generation, role } = peer;
    format!("peer       {} (pid {}) {}\n", printable(&generation.color), generation.pid, printable(role))
}

fn upgrade(upgrade: &UpgradeStatus) -> String {
    let UpgradeStatus { program, pid, since_seconds, left_seconds } = upgrade;
    let (since, left) = (age(*since_seconds), age(*left_seconds));
    format!("upgrade    {} (pid {pid}) for {since}; is killed in {left} unless it gets on\n", printable(program))
}

fn degraded(degraded: &Degraded, colors: bool) -> String {
    let Degraded { since_seconds, reason, slots } = degraded;
    let numbers: Vec<String> = slots.iter().map(ToString::to_string).collect();
    let (s, numbers) = (plural(slots.len() as u64), numbers.join(", "));
    let text = format!("DEGRADED for {}: {} (slot{s} {numbers})", age(*since_seconds), printable(reason));
    Paint::Red.on(&text, colors)
}

fn slot_row(slot: &SlotStatus) -> Vec<Cell> {
    let (pid, uptime) = match slot.pid {
        Some(pid) => (pid.to_string(), age(slot.uptime_seconds)),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let restarts = if slot.restarts > 0 { Paint::Yellow } else { Paint::Plain };
    vec![
        slot.slot.into(),
        Cell(state_name(slot.state).to_owned(), state_paint(slot.state)),
        pid.into(),
        uptime.into(),
        slot.connections.into(),
        format!("{:.1}", slot.messages_per_second).into(),
        slot.messages.into(),
        Cell(slot.restarts.to_string(), restarts),
        story(slot).into(),
    ]
}

/// Why the last worker ended, and what happens meanwhile.
pub(crate) fn story(slot: &SlotStatus) -> String {
    let cause = slot.last_cause.clone();
    let retry = slot.retry_in_seconds.map(|seconds| format!("next try in {}", age(seconds)));
    let lent = slot.lent_to.map(|other| format!("slot {other} accepts in its place"));
    let parts: Vec<String> = [cause, retry, lent].into_iter().flatten().collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join("; ") }
}

pub(crate) fn state_name(state: State) -> &'static str {
    match state {
        State::Stopped => "STOPPED",
        State::Backoff => "BACKOFF",
        State::Starting => "STARTING",
        State::Serving => "SERVING",
        State::Draining => "DRAINING",
        State::Killed => "KILLED",
        State::Fatal => "FATAL",
    }
}

fn state_paint(state: State) -> Paint {
    match state {
        State::Serving => Paint::Green,
        State::Starting | State::Draining => Paint::Yellow,
        State::Backoff | State::Killed | State::Fatal => Paint::Red,
        State::Stopped => Paint::Dim,
    }
}

fn pids(supervisor: Option<u32>, workers: &[(u16, Option<u32>)]) -> String {
    // A single number is what a script wants.
    if let (None, [(_, pid)]) = (supervisor, workers) {
        return pid.map_or("-\n".to_owned(), |pid| format!("{pid}\n"));
    }
    let supervisor = supervisor.map(|pid| format!("supervisor {pid}\n"));
    let workers =
        workers.iter().map(|(slot, pid)| format!("{slot} {}\n", pid.map_or("-".to_owned(), |pid| pid.to_string())));
    supervisor.into_iter().chain(workers).collect()
}

fn connections(total: u64, rows: &[ConnectionRow], order: Order, colors: bool) -> String {
    let columns = [
        ("SLOT", Align::Right),
        ("AGE", Align::Right),
        ("MESSAGES", Align::Right),
        ("QUEUED", Align::Right),
        ("CLIENT", Align::Left),
        ("SESSION", Align::Left),
        ("CONNECTION", Align::Left),
    ];
    let cells = |row: &ConnectionRow| -> Vec<Cell> {
        let client = if row.client.is_empty() { "-" } else { row.client.as_str() };
        let queued = format!("{} B", row.queued_bytes);
        vec![
            row.slot.into(),
            age(row.age_seconds).into(),
            row.messages.into(),
            queued.into(),
            client.into(),
            row.session_uuid.as_str().into(),
            row.connection_id.as_str().into(),
        ]
    };
    let word = match order {
        Order::Oldest => "oldest",
        Order::Slowest => "slowest",
        Order::Biggest => "biggest",
    };
    let shown = format!("{} of {total} connection{}, {word} first\n", rows.len(), plural(total));
    if rows.is_empty() { shown } else { table(&columns, &rows.iter().map(cells).collect::<Vec<_>>(), colors) + &shown }
}

fn reached(connections: u64, workers: u16, relayed: Option<Relayed>, of_a_session: bool) -> String {
    let here = if of_a_session && connections == 0 {
        "no connection here has the session".to_owned()
    } else {
        let (s, w) = (plural(connections), plural(u64::from(workers)));
        format!("reached {connections} connection{s} on {workers} worker{w}")
    };
    let elsewhere = match relayed {
        Some(Relayed::Alone) => "",
        Some(Relayed::Sent) => "; passed on to the other hosts",
        Some(Relayed::Failed) => "; NOT passed on to the other hosts: `batonctl backplane` tells why",
        None => "; whether other hosts were told is not known",
    };
    format!("{here}{elsewhere}\n")
}

fn plural(n: u64) -> &'static str {
    if n == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use baton_ipc::Endpoint;
    use baton_ipc::control::Generation;
    use baton_ipc::scoreboard::Cause;

    use super::*;

    fn slot(slot: u16, state: State) -> SlotStatus {
        SlotStatus {
            slot,
            state,
            pid: Some(4243 + u32::from(slot)),
            uptime_seconds: 273_600.0,
            connections: 120,
            messages: 5678,
            messages_per_second: 3.44,
            restarts: 0,
            last_cause: None,
            last_cause_kind: None,
            retry_in_seconds: None,
            lent_to: None,
        }
    }

    fn night() -> Status {
        let fallen = SlotStatus {
            pid: None,
            connections: 0,
            messages_per_second: 0.0,
            restarts: 3,
            last_cause: Some("killed by SIGKILL".into()),
            last_cause_kind: Some(Cause::Signal),
            retry_in_seconds: Some(4.0),
            lent_to: Some(0),
            ..slot(1, State::Backoff)
        };
        Status {
            color: "blue".into(),
            version: "0.1.0".into(),
            pid: 4242,
            uptime_seconds: 273_605.0,
            phase: "running".into(),
            peer: None,
            program: None,
            settings: None,
            outdated: false,
            upgrade: None,
            last_takeover: None,
            listen: vec![Endpoint::Tcp(([0, 0, 0, 0], 8000).into()), Endpoint::Unix("/run/web.sock".into())],
            backplane: "embedded (/var/lib/baton)".into(),
            backplane_degraded: None,
            slots: vec![slot(0, State::Serving), fallen],
        }
    }

    #[test]
    fn the_status_page() {
        let page = render(&Output::Status(Box::new(night())), &Verb::Status, false);
        assert_eq!(
            page,
            "\
blue  running  baton 0.1.0  pid 4242  up 3d4h
listen     0.0.0.0:8000, unix:/run/web.sock
backplane  embedded (/var/lib/baton)

SLOT  STATE     PID  UPTIME  CONNECTIONS  MSG/S  MESSAGES  RESTARTS  LAST CAUSE
   0  SERVING  4243    3d4h          120    3.4      5678         0  -
   1  BACKOFF     -       -            0    0.0      5678         3  killed by SIGKILL; next try in 4.0s; slot 0 accepts in its place
 all  1 of 2                         120    3.4     11356         3
"
        );
    }

    #[test]
    fn the_other_generation_has_a_line() {
        let generation = Generation { color: "green".into(), pid: 123, version: "0.2.0".into() };
        let peer = Some(PeerStatus { generation, role: "stands by".into() });
        let status = Status { phase: "handing-over".into(), peer, ..night() };
        let page = render(&Output::Status(Box::new(status)), &Verb::Status, false);
        let head =
            "blue  handing-over  baton 0.1.0  pid 4242  up 3d4h\npeer       green (pid 123) stands by\nlisten     0";
        assert!(page.starts_with(head), "{page}");
    }

    #[test]
    fn an_upgrade_has_a_line() {
        let program = "/opt/baton".to_owned();
        let upgrade = UpgradeStatus { program, pid: 123, since_seconds: 2.0, left_seconds: 58.0 };
        let page =
            render(&Output::Status(Box::new(Status { upgrade: Some(upgrade), ..night() })), &Verb::Status, false);
        let line = "\nupgrade    /opt/baton (pid 123) for 2.0s; is killed in 58s unless it gets on\nlisten     0";
        assert!(page.contains(line), "{page}");
    }

    #[test]
    fn only_what_needs_attention_is_yellow() {
        let phase = |phase: &str| {
            let slots = vec![slot(0, State::Serving)];
            let status = Status { phase: phase.into(), slots, ..night() };
            let page = render(&Output::Status(Box::new(status)), &Verb::Status, true);
            page.lines().next().unwrap().to_owned()
        };
        assert!(phase("running").contains("\x1b[32mrunning"));
        assert!(phase("standby").contains("  standby  "));
        assert!(phase("handing-over").contains("\x1b[33mhanding-over"));
    }

    #[test]
    fn a_degraded_backplane_is_seen_at_once() {
        let degraded = Degraded { since_seconds: 12.3, reason: "unreachable".into(), slots: vec![0, 2] };
        let status = Status { backplane_degraded: Some(degraded), ..night() };
        let page = |colors| render(&Output::Status(Box::new(status.clone())), &Verb::Status, colors);
        let alarm = "DEGRADED for 12s: unreachable (slots 0, 2)";
        let line = format!("\nbackplane  embedded (/var/lib/baton)  {alarm}\n\n");
        assert!(page(false).contains(&line), "{}", page(false));
        assert!(page(true).contains(&format!("\x1b[31m{alarm}\x1b[0m")));
    }

    #[test]
    fn colors_change_nothing_but_colors() {
        let output = Output::Status(Box::new(night()));
        let painted = render(&output, &Verb::Status, true);
        assert!(painted.contains("\x1b[32mSERVING\x1b[0m") && painted.contains("\x1b[31mBACKOFF\x1b[0m"));
        let mut stripped = painted;
        while let Some(at) = stripped.find('\x1b') {
            let end = at + stripped[at..].find('m').unwrap();
            stripped.replace_range(at..=end, "");
        }
        assert_eq!(stripped, render(&output, &Verb::Status, false));
    }

    #[test]
    fn who_was_reached_here_and_elsewhere() {
        let all = |relayed| reached(12, 4, relayed, false);
        assert_eq!(all(Some(Relayed::Alone)), "reached 12 connections on 4 workers\n");
        assert_eq!(all(Some(Relayed::Sent)), "reached 12 connections on 4 workers; passed on to the other hosts\n");
        assert!(all(Some(Relayed::Failed)).contains("4 workers; NOT passed on to the other hosts: "));
        assert!(all(None).contains("is not known"));
        assert_eq!(
            reached(0, 4, Some(Relayed::Sent), true),
            "no connection here has the session; passed on to the other hosts\n"
        );
        assert_eq!(reached(1, 1, Some(Relayed::Alone), true), "reached 1 connection on 1 worker\n");
    }

    #[test]
    fn pids_for_people_and_for_scripts() {
        assert_eq!(pids(Some(1), &[(0, Some(2)), (1, None)]), "supervisor 1\n0 2\n1 -\n");
        assert_eq!(pids(None, &[(3, Some(7))]), "7\n");
    }

    #[test]
    fn connections_and_their_number() {
        let row = ConnectionRow {
            slot: 2,
            connection_id: "c1".into(),
            session_uuid: "s1".into(),
            client: String::new(),
            age_seconds: 61.0,
            messages: 9,
            queued_bytes: 1024,
        };
        assert_eq!(
            connections(7, &[row], Order::Slowest, false),
            "SLOT   AGE  MESSAGES  QUEUED  CLIENT  SESSION  CONNECTION\n   2  1m1s         9  1024 B  -       s1       c1\n1 of 7 connections, slowest first\n"
        );
        assert_eq!(connections(0, &[], Order::Oldest, false), "0 of 0 connections, oldest first\n");
    }
}
