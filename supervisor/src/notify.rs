//! Tells the service manager how we are (`sd_notify(3)`). Without `NOTIFY_SOCKET` nobody listens, and nothing is sent.

use std::cell::Cell;
use std::env;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// How long a service manager that is busy may hold us up for what must not be lost; once, until it takes something again.
const PATIENCE_MS: u16 = 500;

/// The line to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<(Duration, Instant)>,
    status: String,
    // Another process is the main one, and we would not be believed.
    hushed: bool,
    // It was waited for in vain.
    deaf: Cell<bool>,
}

/// What a message that the service manager has no room for is worth.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weight {
    /// Another one like it follows, or nothing hangs on it.
    Light,
    /// It is waited for.
    Heavy,
}

impl Notifier {
    /// From the environment that the service manager has set for a process with this pid.
    pub(crate) fn from_environment(now: Instant, known_pid: u32) -> Notifier {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|address| match connect(address.as_bytes()) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(?address, %error, "cannot reach the service manager at NOTIFY_SOCKET");
                None
            }
        });
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(known_pid));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(|usec| {
            // Half of it, as sd_watchdog_enabled(3) recommends.
            (Duration::from_micros(usec / 2), now)
        });
        Notifier { socket, watchdog, status: String::new(), hushed: false, deaf: Cell::new(false) }
    }

    /// Says nothing until [`Notifier::main_pid`]: only the main process is heard (`NotifyAccess=main`).
    pub(crate) fn hush(&mut self) {
        self.hushed = true;
    }

    /// Whether a service manager listens.
    pub(crate) fn is_heard(&self) -> bool {
        self.socket.is_some() && !self.hushed
    }

    /// Serving.
    pub(crate) fn ready(&self) {
        self.send("READY=1", None, Weight::Heavy);
    }

    /// This process is the one to watch from now on: it has taken over from the one that the service manager started.
    pub(crate) fn main_pid(&mut self) {
        self.hushed = false;
        self.send(&format!("MAINPID={}\nREADY=1", std::process::id()), None, Weight::Heavy);
    }

    /// Another process is the one to watch, and to hear, from now on.
    pub(crate) fn successor(&mut self, pid: u32) {
        self.send(&format!("MAINPID={pid}"), None, Weight::Heavy);
        self.hush();
    }

    /// To be kept under this name, and passed to the next process that is started for the service. It is not polled: a
    /// listener has no other end that could close it, and whoever gets it looks whether it listens.
    pub(crate) fn store(&self, name: &str, socket: BorrowedFd<'_>) {
        self.send(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), Some(socket), Weight::Heavy);
    }

    /// Not to be kept any longer.
    pub(crate) fn unstore(&self, name: &str) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), None, Weight::Heavy);
    }

    /// Reading the configuration anew; [`Notifier::ready`] ends it.
    pub(crate) fn reloading(&self) {
        // systemd takes a reload for ours only if the time is later than its own request (sd_notify(3)).
        let usec = baton_ipc::scoreboard::monotonic_ms() * 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"), None, Weight::Heavy);
    }

    /// On the way out.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1", None, Weight::Light);
    }

    /// A sentence for `systemctl status`; sent only if it is another one.
    pub(crate) fn status(&mut self, status: String) {
        if self.status != status && !self.hushed {
            self.send(&format!("STATUS={status}"), None, Weight::Light);
            self.status = status;
        }
    }

    /// Says that the loop turns, if it is time to; not if it turns for nothing.
    pub(crate) fn alive(&mut self, now: Instant, is_well: bool) {
        if let Some((interval, due)) = self.watchdog.filter(|(_, due)| now >= *due) {
            if is_well {
                self.send("WATCHDOG=1", None, Weight::Light);
            }
            self.watchdog = Some((interval, due.max(now) + interval));
        }
    }

    /// When [`Notifier::alive`] has to be called next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.watchdog.map(|(_, due)| due)
    }

    fn send(&self, message: &str, socket: Option<BorrowedFd<'_>>, weight: Weight) {
        let Some(manager) = self.socket.as_ref().filter(|_| !self.hushed) else { return };
        let mut outcome = send(manager, message, socket);
        if outcome == Err(Errno::EAGAIN) && weight == Weight::Heavy && !self.deaf.get() {
            let mut room = [PollFd::new(manager.as_fd(), PollFlags::POLLOUT)];
            // Whatever comes of it is seen at the next try.
            let _ = poll(&mut room, PollTimeout::from(PATIENCE_MS));
            outcome = send(manager, message, socket);
            self.deaf.set(outcome.is_err());
        }
        match outcome {
            Ok(()) => self.deaf.set(false),
            Err(error) if weight == Weight::Light => {
                tracing::debug!(%error, message, "the service manager did not take a notification");
            }
            Err(error) => tracing::warn!(%error, message, "the service manager did not take a notification"),
        }
    }
}

/// Never blocks.
fn send(manager: &UnixDatagram, message: &str, socket: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let raw: Vec<_> = socket.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let beside = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let bytes = [IoSlice::new(message.as_bytes())];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(manager.as_raw_fd(), &bytes, beside, flags, None).map(drop)
}

/// `@name` is an abstract address (`unix(7)`).
fn connect(address: &[u8]) -> io::Result<UnixDatagram> {
    let address = match address.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    fn notifier(address: &[u8]) -> Notifier {
        Notifier {
            socket: Some(connect(address).unwrap()),
            watchdog: None,
            status: String::new(),
            hushed: false,
            deaf: Cell::new(false),
        }
    }

    #[test]
    fn paths_and_abstract_names_are_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        notifier(path.as_os_str().as_bytes()).ready();
        assert_eq!(received(&manager), "READY=1");
        let name = format!("baton-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        notifier(format!("@{name}").as_bytes()).reloading();
        assert!(received(&manager).starts_with("RELOADING=1\nMONOTONIC_USEC="));
    }

    #[test]
    fn a_status_is_sent_once_and_the_watchdog_at_its_interval() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let now = Instant::now();
        let mut notifier = notifier(path.as_os_str().as_bytes());
        notifier.watchdog = Some((Duration::from_secs(1), now));
        notifier.status("4/4 workers serving".into());
        notifier.status("4/4 workers serving".into());
        notifier.alive(now, true);
        notifier.alive(now + Duration::from_millis(999), true);
        assert_eq!(received(&manager), "STATUS=4/4 workers serving");
        assert_eq!(received(&manager), "WATCHDOG=1");
        assert!(manager.recv(&mut [0; 1]).is_err());
        assert_eq!(notifier.deadline(), Some(now + Duration::from_secs(1)));
        notifier.alive(now + Duration::from_secs(1), false);
        assert!(manager.recv(&mut [0; 1]).is_err(), "a loop that turns for nothing is not alive");
        assert_eq!(notifier.deadline(), Some(now + Duration::from_secs(2)), "and is asked again all the same");
    }

    #[test]
    fn who_is_not_the_main_process_is_silent_until_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let mut notifier = notifier(path.as_os_str().as_bytes());
        notifier.hush();
        notifier.ready();
        notifier.status("standing by".into());
        assert!(!notifier.is_heard() && manager.recv(&mut [0; 1]).is_err());
        notifier.main_pid();
        assert_eq!(received(&manager), format!("MAINPID={}\nREADY=1", std::process::id()));
        notifier.status("standing by".into());
        assert_eq!(received(&manager), "STATUS=standing by", "it was not sent before");
        notifier.successor(7);
        assert_eq!(received(&manager), "MAINPID=7");
        notifier.stopping();
        assert!(manager.recv(&mut [0; 1]).is_err());
    }

    #[test]
    fn a_busy_service_manager_is_waited_for_with_what_must_not_be_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let mut notifier = notifier(path.as_os_str().as_bytes());
        // Until nothing fits any more.
        let socket = notifier.socket.as_ref().unwrap();
        let mut waiting = 0;
        while send(socket, "WATCHDOG=1", None).is_ok() {
            waiting += 1;
        }
        notifier.status("lost".into());
        let reader = std::thread::spawn(move || {
            (0..waiting).for_each(|_| drop(received(&manager)));
            received(&manager)
        });
        notifier.store("slot-0-x", std::io::stdin().as_fd());
        assert_eq!(reader.join().unwrap(), "FDSTORE=1\nFDNAME=slot-0-x\nFDPOLL=0");
    }
}
