//! Redis with Sentinel: a master, a replica, and three who watch over them.

use std::net::SocketAddr;

use super::{Redis, Setup};
use crate::harness::eventually;

/// What the sentinels call the master.
const NAME: &str = "runners";

/// The whole of it. Dropping it kills all.
pub struct Sentinel {
    /// The first is the master to begin with.
    pub servers: [Redis; 2],
    /// Those who watch.
    pub sentinels: Vec<Redis>,
}

impl Sentinel {
    /// Starts it and waits until all know of one another and the replica has what the master has.
    #[track_caller]
    pub fn start() -> Sentinel {
        let setup = Setup::new().with("repl-diskless-sync-delay", 0);
        let master = setup.clone().start();
        let (ip, port) = (master.address.ip(), master.address.port());
        let replica = setup.with("replicaof", format!("{ip} {port}")).start();
        eventually("the replica follows", || is(&replica, "master_link_status", "up").then_some(()));
        let sentinel = || {
            let mut setup = Setup::new()
                .with("sentinel monitor", format!("{NAME} {ip} {port} 2"))
                .with("sentinel down-after-milliseconds", format!("{NAME} 1000"))
                .with("sentinel failover-timeout", format!("{NAME} 5000"));
            setup.sentinel = true;
            let sentinel = setup.start();
            // They hear of one another and of replicas by asking, which they do every few seconds.
            sentinel.ask(&["SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PUBLISH-PERIOD", "200"]);
            sentinel
        };
        let sentinels = (0..3).map(|_| sentinel()).collect();
        let lab = Sentinel { servers: [master, replica], sentinels };
        eventually("the sentinels know one another", || {
            lab.sentinels.iter().all(|sentinel| lab.others(sentinel) == ["2", "1"]).then_some(())
        });
        lab
    }

    /// How many other sentinels and replicas a sentinel knows.
    fn others(&self, sentinel: &Redis) -> [String; 2] {
        let said = sentinel.ask(&["SENTINEL", "MASTER", NAME]);
        let field = |name: &str| said.lines().skip_while(|line| *line != name).nth(1).unwrap_or_default().to_owned();
        [field("num-other-sentinels"), field("num-slaves")]
    }

    /// What a client is told.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.sentinels.iter().map(|sentinel| sentinel.address.to_string()).collect();
        format!("redis+sentinel://{}/{NAME}", addresses.join(","))
    }

    /// The server that the first of the sentinels names.
    #[track_caller]
    pub fn named(&self) -> SocketAddr {
        let said = self.sentinels[0].ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        let (ip, port) = said.split_once('\n').expect("an address and a port");
        SocketAddr::new(ip.parse().expect("an address"), port.parse().expect("a port"))
    }

    /// Kills the master and waits until the replica has taken its place.
    #[track_caller]
    pub fn fail_over(&mut self) {
        self.servers[0].kill();
        self.wait_successor();
    }

    /// Waits until the replica is the master, and all sentinels say so.
    #[track_caller]
    pub fn wait_successor(&self) {
        let successor = &self.servers[1];
        let expected = format!("{}\n{}", successor.address.ip(), successor.address.port());
        eventually("a new master", || {
            let say = |sentinel: &Redis| sentinel.ask(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]) == expected;
            (self.sentinels.iter().all(say) && is(successor, "role", "master")).then_some(())
        });
    }

    /// The old master comes back, and is told by the sentinels that it is one no more.
    #[track_caller]
    pub fn bring_back(&mut self) {
        self.servers[0].restart();
        self.wait_demoted();
    }

    /// Waits until the old master follows the new one.
    #[track_caller]
    pub fn wait_demoted(&self) {
        eventually("the old master follows", || is(&self.servers[0], "role", "slave").then_some(()));
    }
}

fn is(server: &Redis, field: &str, value: &str) -> bool {
    server.try_info(field).is_ok_and(|found| found == value)
}
