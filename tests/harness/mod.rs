//! Starts the shipped commands as real processes in directories of their own, and always ends them.
//!
//! Nothing here sleeps for a time and hopes: every wait is for an event, with a deadline that only a real fault reaches.

pub mod admin;
pub mod browser;
pub mod client;
pub mod example;
pub mod executable;
pub mod http;
pub mod lines;
pub mod lmdb;
pub mod machine;
pub mod mount;
pub mod netns;
pub mod nginx;
pub mod oracle;
pub mod package;
pub mod procfs;
pub mod prometheus;
pub mod redis;
pub mod runners;
pub mod service;
pub mod terminal;
mod tls;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

pub use browser::Browser;
pub use client::Client;
pub use machine::Machine;
pub use oracle::Oracle;
pub use redis::Redis;
pub use runners::Runners;
pub use service::Service;

/// How long anything may take that should happen soon. Wide, since a test machine may be busy with other tests.
pub const SOON: Duration = Duration::from_secs(20);

/// A number for what is drawn at random, shown so that a failure can be repeated by setting it.
pub fn seed() -> u64 {
    let seed = std::env::var("BATON_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("BATON_TEST_SEED={seed}");
    seed
}

/// Whether this test may become other users and mount file systems; otherwise it says that it is left out.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("left out: this test needs root");
    }
    root
}

/// A loopback address that no other test uses, with a free port: a port there stays free between two starts, as none of
/// the clients on 127.0.0.1 can get it for its own end.
pub fn private_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255)), 0))
}

/// A loopback address whose port nobody has, and nobody else will ask for.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind(private_address()).expect("a loopback address");
    listener.local_addr().expect("a bound socket")
}

/// Lets this process have as many descriptors as it may.
pub fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
}

/// Looks until there is something, at most for [`SOON`]; panics with `what` otherwise.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(SOON, what, look)
}

/// As [`eventually`], with a deadline of its own.
#[track_caller]
pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        // Between two looks; what is looked for has no event to wait on (a file, a process, a page).
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// As [`eventually`], for looks that await.
pub async fn eventually_async<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
