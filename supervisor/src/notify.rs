//! Tells the service manager how we are (`sd_notify(3)`). Without `NOTIFY_SOCKET` nobody listens, and nothing is sent.

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// The line to the service manager.
#[derive(Debug)]
pub(crate) struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<(Duration, Instant)>,
    status: String,
}

impl Notifier {
    /// From the environment that the service manager has set.
    pub(crate) fn from_environment(now: Instant) -> Notifier {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|address| match connect(address.as_bytes()) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(?address, %error, "cannot reach the service manager at NOTIFY_SOCKET");
                None
            }
        });
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|usec| ours && *usec > 0).map(|usec| {
            // Half of it, as sd_watchdog_enabled(3) recommends.
            (Duration::from_micros(usec / 2), now)
        });
        Notifier { socket, watchdog, status: String::new() }
    }

    /// Serving.
    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    /// This process is the one to watch from now on: it has taken over from the one that the service manager started.
    pub(crate) fn main_pid(&self) {
        self.send(&format!("MAINPID={}\nREADY=1", std::process::id()));
    }

    /// Reading the configuration anew; [`Notifier::ready`] ends it.
    pub(crate) fn reloading(&self) {
        // systemd takes a reload for ours only if the time is later than its own request (sd_notify(3)).
        let usec = baton_ipc::scoreboard::monotonic_ms() * 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// On the way out.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A sentence for `systemctl status`; sent only if it is another one.
    pub(crate) fn status(&mut self, status: String) {
        if self.status != status {
            self.send(&format!("STATUS={status}"));
            self.status = status;
        }
    }

    /// Says that the loop turns, if it is time to.
    pub(crate) fn alive(&mut self, now: Instant) {
        if let Some((interval, due)) = self.watchdog.filter(|(_, due)| now >= *due) {
            self.send("WATCHDOG=1");
            self.watchdog = Some((interval, due.max(now) + interval));
        }
    }

    /// When [`Notifier::alive`] has to be called next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.watchdog.map(|(_, due)| due)
    }

    fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            tracing::debug!(%error, message, "the service manager did not take a notification");
        }
    }
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
        Notifier { socket: Some(connect(address).unwrap()), watchdog: None, status: String::new() }
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
        notifier.alive(now);
        notifier.alive(now + Duration::from_millis(999));
        assert_eq!(received(&manager), "STATUS=4/4 workers serving");
        assert_eq!(received(&manager), "WATCHDOG=1");
        assert!(manager.recv(&mut [0; 1]).is_err());
        assert_eq!(notifier.deadline(), Some(now + Duration::from_secs(1)));
    }
}
