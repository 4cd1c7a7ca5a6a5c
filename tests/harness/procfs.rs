//! What the kernel says of a process (`proc_pid_stat(5)`, `proc_pid_status(5)`).

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use nix::unistd::{Pid, SysconfVar, getpgid, sysconf};

/// Resident memory in bytes; 0 for a process that is gone.
pub fn rss(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0) * 1024
}

/// Time on a processor, in user mode and in the kernel.
pub fn cpu_time(pid: Pid) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it is in parentheses, and may itself contain some. Fields 14 and 15.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as u64;
    Duration::from_millis(ticks * 1000 / per_second)
}

/// Whether the process is there, and is not just waiting to be reaped. A process whose first thread is over may have
/// others, which hold its files.
pub fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let over = stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']));
    !over || fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1)
}

/// Its living children.
pub fn children(pid: Pid) -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

/// Whether a signal has stopped the process.
pub fn is_stopped(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// Whether any process of a process group is there, and is not just waiting to be reaped.
pub fn is_group_alive(group: Pid) -> bool {
    let names =
        fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut pids = names.filter_map(|name| name.parse().ok()).map(Pid::from_raw);
    pids.any(|pid| getpgid(Some(pid)) == Ok(group) && is_alive(pid))
}

/// Bytes that the kernel holds of what the `server` has written to the `client`: not sent, or sent and not acknowledged
/// (`proc_net_tcp(5)`, IPv4). None: there is no such connection any more.
pub fn unsent(server: SocketAddr, client: SocketAddr) -> Option<u64> {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(address) => format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port()),
        SocketAddr::V6(_) => panic!("{address} is not IPv4"),
    };
    let (server, client) = (hex(server), hex(client));
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_it = fields.next() == Some(&server) && fields.next() == Some(&client);
        let (to_send, _) = fields.nth(1).filter(|_| is_it)?.split_once(':')?;
        u64::from_str_radix(to_send, 16).ok()
    })
}
