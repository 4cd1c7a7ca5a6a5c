//! How many processes and source addresses a run needs. A process has descriptors for so many connections; a source
//! address has ports for so many to one server.

use std::net::{IpAddr, Ipv4Addr};

use nix::sys::resource::{Resource, getrlimit};

/// Descriptors of a client process that are no connections.
const RESERVE: u64 = 32;

/// Connections that one process is given before another one is started, if there is a core for it.
const ENOUGH: u64 = 10_000;

/// More would be a mistake.
pub(super) const MOST_PROCESSES: u32 = 256;

/// `net.ipv4.ip_local_port_range`: from which ports connect(2) chooses.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// What this machine allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// Descriptors that a process may have.
    pub(super) descriptors: u64,
    /// Ports of a source address.
    pub(super) ports: u64,
    pub(super) cores: u64,
}

/// How to do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) processes: u32,
    /// Where to connect from; empty: as the kernel likes.
    pub(super) sources: Vec<IpAddr>,
}

impl Machine {
    /// As it is.
    pub(super) fn here() -> Machine {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        let ports = std::fs::read_to_string(PORT_RANGE).ok().and_then(|text| {
            let mut numbers = text.split_whitespace().map(str::parse::<u64>);
            let (low, high) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            Some((high + 1).saturating_sub(low))
        });
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        // The default of the kernel, where it does not tell.
        Machine { descriptors: soft.max(hard), ports: ports.unwrap_or(28_232), cores }
    }

    /// Decides, or tells what stands in the way.
    pub(super) fn plan(
        &self,
        connections: u32,
        processes: Option<u32>,
        server: IpAddr,
        sources: &[IpAddr],
    ) -> Result<Capacity, String> {
        let wanted = u64::from(connections);
        let each = self.descriptors.saturating_sub(RESERVE);
        if each == 0 {
            let (limit, reserve) = (self.descriptors, RESERVE);
            return Err(format!(
                "a process may have {limit} descriptors, and needs more than {reserve}: raise `ulimit -n`"
            ));
        }
        let needed = wanted.div_ceil(each);
        let processes = match processes.map(u64::from) {
            Some(given) if given < needed => {
                let limit = self.descriptors;
                return Err(format!(
                    "a process may have {limit} descriptors, so {given} of them have room for {} connections: it takes \
                     --processes {needed}, or a higher `ulimit -Hn`",
                    given * each
                ));
            }
            Some(given) => given.min(wanted),
            None => needed.max(wanted.div_ceil(ENOUGH).min(self.cores)),
        };
        if processes > u64::from(MOST_PROCESSES) {
            let limit = self.descriptors;
            return Err(format!(
                "a process may have {limit} descriptors, so it would take {processes} processes, more than \
                 {MOST_PROCESSES}: raise `ulimit -Hn`"
            ));
        }
        let sources = self.sources(wanted, server, sources)?;
        Ok(Capacity { processes: processes as u32, sources })
    }

    fn sources(&self, wanted: u64, server: IpAddr, given: &[IpAddr]) -> Result<Vec<IpAddr>, String> {
        // Some ports are others', and some are still in TIME_WAIT.
        let each = (self.ports * 9 / 10).max(1);
        let needed = wanted.div_ceil(each);
        match server {
            _ if given.len() as u64 >= needed && !given.is_empty() => Ok(given.to_vec()),
            _ if given.is_empty() && needed <= 1 => Ok(Vec::new()),
            // All of 127.0.0.0/8 is this machine's.
            IpAddr::V4(server) if server.is_loopback() && given.is_empty() => Ok((0..needed as u32)
                .map(|n| (u32::from(Ipv4Addr::LOCALHOST) + 1 + n).into())
                .map(Ipv4Addr::into)
                .collect()),
            _ => Err(format!(
                "a source address has ports for {each} connections to one server ({PORT_RANGE}): {wanted} need \
                 {needed} addresses of this machine, each with --source, or a wider range"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const AWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const MACHINE: Machine = Machine { descriptors: 20_032, ports: 28_232, cores: 2 };

    #[test]
    fn as_many_processes_as_descriptors_demand_and_cores_can_use() {
        let processes = |connections, given| MACHINE.plan(connections, given, HOME, &[]).map(|plan| plan.processes);
        assert_eq!(
            [1, 10_000, 20_000, 20_001, 40_001, 150_000].map(|n| processes(n, None)),
            [1, 1, 2, 2, 3, 8].map(Ok)
        );
        assert_eq!(processes(10, Some(4)), Ok(4));
        assert_eq!(processes(3, Some(4)), Ok(3));
        let refused = processes(40_001, Some(2)).unwrap_err();
        assert!(refused.contains("room for 40000 connections") && refused.contains("--processes 3"), "{refused}");
        assert!(processes(20_000 * 257, None).unwrap_err().contains("257 processes"));
        let poor = Machine { descriptors: 20, ..MACHINE };
        assert!(poor.plan(1, None, HOME, &[]).unwrap_err().contains("ulimit -n"));
    }

    #[test]
    fn a_source_address_for_every_25_000_connections() {
        let sources = |connections, server, given: &[&str]| {
            let given: Vec<IpAddr> = given.iter().map(|text| text.parse().unwrap()).collect();
            let plan = MACHINE.plan(connections, None, server, &given)?;
            Ok(plan.sources.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(sources(25_000, HOME, &[]), Ok(String::new()));
        assert_eq!(sources(60_000, HOME, &[]), Ok("127.0.0.2 127.0.0.3 127.0.0.4".to_owned()));
        assert_eq!(sources(60_000, HOME, &["127.0.0.9"; 3]), Ok("127.0.0.9 127.0.0.9 127.0.0.9".to_owned()));
        assert_eq!(sources(5, AWAY, &["10.0.0.7"]), Ok("10.0.0.7".to_owned()));
        let refused: Result<String, String> = sources(60_000, AWAY, &[]);
        assert!(refused.unwrap_err().contains("60000 need 3 addresses"));
    }
}
