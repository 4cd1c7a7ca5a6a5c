//! Redis Cluster: three masters that share the 16,384 slots.

use super::{Redis, Setup, free_address};
use crate::harness::eventually;

const NODES: usize = 3;
const SLOTS: usize = 16_384;

/// The cluster. Dropping it kills its nodes.
pub struct Cluster {
    /// The masters.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts it and waits until every node serves.
    #[track_caller]
    pub fn start() -> Cluster {
        // What they say of it is that they keep every write.
        let setup = Setup::new().durable().with("cluster-enabled", "yes").with("cluster-node-timeout", 1000);
        let node = || setup.clone().with("cluster-port", free_address().port()).spawn();
        let nodes: Vec<Redis> = (0..NODES).map(|_| node()).collect();
        nodes.iter().for_each(Redis::wait_ready);
        for (index, node) in nodes.iter().enumerate() {
            let (from, to) = (index * SLOTS / NODES, (index + 1) * SLOTS / NODES - 1);
            node.ask(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            node.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
            let (ip, port) = (nodes[0].address.ip().to_string(), nodes[0].address.port().to_string());
            if index > 0 {
                node.ask(&["CLUSTER", "MEET", &ip, &port, &bus_port(&nodes[0])]);
            }
        }
        let cluster = Cluster { nodes };
        let whole = |node: &Redis| {
            let info = node.ask(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        };
        eventually("the cluster is whole", || cluster.nodes.iter().all(whole).then_some(()));
        cluster
    }

    /// What a client is told.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.nodes.iter().map(|node| node.address.to_string()).collect();
        format!("redis+cluster://{}", addresses.join(","))
    }

    /// The node that has a key whose name is like this, and its whole name.
    #[track_caller]
    pub fn find(&self, pattern: &str) -> (usize, String) {
        let all: Vec<(usize, String)> =
            self.nodes.iter().map(|node| node.ask(&["KEYS", pattern])).enumerate().collect();
        let found = all.iter().find(|(_, keys)| !keys.is_empty());
        let (node, keys) = found.unwrap_or_else(|| panic!("no key is like {pattern}"));
        (*node, keys.lines().next().expect("one at least").to_owned())
    }

    /// Moves the slot of such a key to the next node, with all that is in it, while it is in use; says where it is now.
    #[track_caller]
    pub fn move_slot_of(&self, pattern: &str) -> usize {
        let (at, key) = self.find(pattern);
        let to = (at + 1) % NODES;
        let (source, target) = (&self.nodes[at], &self.nodes[to]);
        let slot = source.ask(&["CLUSTER", "KEYSLOT", &key]);
        let (source_id, target_id) = (source.ask(&["CLUSTER", "MYID"]), target.ask(&["CLUSTER", "MYID"]));
        target.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id]);
        source.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id]);
        let (ip, port) = (target.address.ip().to_string(), target.address.port().to_string());
        loop {
            let keys = source.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                break;
            }
            for key in keys.lines() {
                source.ask(&["MIGRATE", &ip, &port, key, "0", "5000"]);
            }
        }
        // The one that gets it first, so that there is always one who says that it has it.
        for node in [target, source, &self.nodes[(at + 2) % NODES]] {
            node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id]);
        }
        to
    }
}

/// The port by which nodes speak to one another.
fn bus_port(node: &Redis) -> String {
    node.ask(&["CONFIG", "GET", "cluster-port"]).lines().last().expect("a value").to_owned()
}
