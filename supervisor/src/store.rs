//! Listeners that the service manager keeps for us (`FDSTORE=1` of `sd_notify(3)`), so that they stay open, and clients wait in
//! their queues, while a supervisor that crashed is replaced. [`crate::passed`] takes them back.
//!
//! A socket in a `SO_REUSEPORT` group gets its share of the clients as long as anybody holds it. So the service manager
//! keeps those of a generation only while that serves, or is the one to return to: from the start, or the switch of a
//! takeover, until the successor has all.

use std::os::fd::AsFd;

use baton_ipc::{Endpoint, Listener, Slot};

use crate::supervisor::Supervisor;

/// What all our names begin with.
const PREFIX: &str = "slot-";

/// The name of a slot's socket there; one socket each, so that one can be given up. Neither a colon nor anything that cannot be
/// printed may be in it.
pub(crate) fn name(slot: Slot, endpoint: &Endpoint) -> String {
    let allowed = |c: char| if c.is_ascii_graphic() && c != ':' { c } else { '_' };
    format!("{PREFIX}{slot}-{endpoint}").chars().map(allowed).collect()
}

/// The slot in a name of ours; none: it is somebody else's.
pub(crate) fn slot_in(name: &str) -> Option<Slot> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

impl Supervisor<'_> {
    /// Has the service manager keep all listeners. Those that it has already it knows.
    pub(crate) fn store_listeners(&self) {
        for slot in 0..self.listeners.slots() {
            self.listeners.of(slot).iter().for_each(|listener| self.store(listener));
        }
    }

    /// Has it keep one.
    pub(crate) fn store(&self, listener: &Listener) {
        self.notifier.store(&name(listener.slot, &listener.endpoint), listener.socket.as_fd());
    }

    /// Has it close them all: somebody else serves, or nobody shall.
    pub(crate) fn unstore_listeners(&self) {
        for slot in 0..self.listeners.slots() {
            self.listeners.of(slot).iter().for_each(|listener| self.notifier.unstore(&name(slot, &listener.endpoint)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_the_slot_and_breaks_no_list() {
        let tcp = |text: &str| Endpoint::Tcp(text.parse().unwrap());
        assert_eq!(name(12, &tcp("[::1]:8000")), "slot-12-[__1]_8000");
        assert_eq!(name(0, &Endpoint::Unix("/run/a b:c/é".into())), "slot-0-unix_/run/a_b_c/_");
        assert_eq!(slot_in(&name(12, &tcp("0.0.0.0:8000"))), Some(12));
        for other in ["baton.socket", "slot-", "slot-x-0", "slot-99999999-0", "unknown", ""] {
            assert_eq!(slot_in(other), None, "{other}");
        }
    }
}
