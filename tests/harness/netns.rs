//! Networks of a test's own; they need root.

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

/// Runs a test in a network of its own, in which this machine has these addresses beside those of loopback. It is gone
/// with the thread and the processes that the test starts.
pub fn in_network_of(addresses: &[&str], test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let test = scope.spawn(|| {
            // Of this thread alone, and of what it starts.
            unshare(CloneFlags::CLONE_NEWNET).expect("root may");
            ip(&["link", "set", "lo", "up"]);
            for address in addresses {
                ip(&["address", "add", address, "dev", "lo"]);
            }
            test();
        });
        if let Err(panic) = test.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip(8) is installed");
    assert!(output.status.success(), "ip {args:?}: {output:?}");
}
