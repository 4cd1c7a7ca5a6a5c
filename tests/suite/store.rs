//! The embedded store under what happens to disks and files: the shipped service, whole.

use std::path::Path;

use crate::harness::service::Builder;
use crate::harness::{Client, Service};

mod damage;
mod disk;
mod full;
mod sharing;

/// A service whose store is in this directory.
fn on(state_dir: &Path) -> Builder {
    // The file is as long as it may grow, full of holes.
    Builder::new().with("--workers", 2).with("--store-max-size", "64MiB").state_dir(state_dir)
}

/// So many messages of this session, on a connection of its own: each gets its number.
async fn count_to(service: &Service, session: &str, n: u64) {
    let mut client = Client::connect(&service.session_url(session)).await;
    for expected in 1..=n {
        client.send("x").await;
        assert_eq!(client.count().await, expected);
    }
}

/// A refusal to start: exit code 1 and one line that says `what`; nothing panicked.
#[track_caller]
fn refused(builder: &Builder, what: &[&str]) -> String {
    let (status, log) = builder.refused();
    assert_eq!(status.code(), Some(1), "{log}");
    let told: Vec<&str> = log.lines().filter(|line| line.starts_with("baton: ")).collect();
    assert!(told.len() == 1 && what.iter().all(|what| told[0].contains(what)), "{what:?} in {log}");
    assert!(!log.contains("panicked") && !log.contains("listening"), "{log}");
    told[0].to_owned()
}
