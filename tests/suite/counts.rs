//! Counts: each is given once, and none that a client has seen is ever taken back, whatever dies.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use heed::types::Bytes;
use heed::{CommitOrAbort, EnvFlags, EnvOpenOptions};
use nix::sys::signal::{Signal, kill};

use crate::harness::client::{Raw, count_together};
use crate::harness::runners::{check_totals, sessions};
use crate::harness::service::Builder;
use crate::harness::{Client, Runners, Service, eventually, eventually_async, private_address, seed};

#[tokio::test]
async fn one_session_on_all_workers_gets_every_count_once() {
    const MESSAGES: usize = 10_000;
    let service = Service::start(&[]);
    let clients = service.connect_to_all_workers("shared").await;
    assert_eq!(count_together(clients, MESSAGES).await, (1..=MESSAGES as u64).collect::<Vec<_>>());
    assert_eq!(service.metric("backplane_increments_total"), MESSAGES as f64);
}

#[tokio::test]
async fn no_count_is_lost_or_doubled_while_workers_are_killed() {
    let mut random = fastrand::Rng::with_seed(seed());
    let service = Service::start(&[("--max-message-rate", "none")]);
    let mut runners = Runners::start(service.address, sessions());
    runners.everyone_gets(1).await;
    // Every slot dies a few times, in any order. The tenth death in a minute would make it FATAL.
    let mut slots: Vec<u16> = (0..4).flat_map(|slot| [slot; 6]).collect();
    random.shuffle(&mut slots);
    let mut killed = HashSet::new();
    for slot in slots {
        // Not one whose death the supervisor has yet to notice.
        let alive = async || service.worker_in(slot).filter(|pid| !killed.contains(pid));
        let pid = eventually_async("the slot serves", alive).await;
        runners.all_get(random.u64(1..2000)).await;
        kill(pid, Signal::SIGKILL).expect("a worker");
        killed.insert(pid);
    }
    runners.everyone_gets(1).await;
    runners.stop().await;
    {
        let book = runners.book();
        eprintln!("{} counts, {} lost connections, {} lost handshakes", book.total(), book.lost, book.unanswered);
        assert!(book.lost >= 24, "the kills were not felt");
    }
    check_totals(&service, &[&runners]).await;
    let deaths: u64 = service.status().slots.iter().map(|slot| slot.restarts).sum();
    assert_eq!(deaths, 24);
}

#[tokio::test]
async fn no_count_is_lost_or_doubled_when_everything_is_killed_at_once() {
    let mut random = fastrand::Rng::with_seed(seed());
    let builder = Builder::new().with("--max-message-rate", "none");
    let mut service = builder.clone().listen(private_address()).start();
    let mut runners = Runners::none();
    for _ in 0..5 {
        runners.go(service.address, sessions());
        runners.everyone_gets(1).await;
        runners.all_get(random.u64(1..5000)).await;
        // With the clients goes what they have sent and was not answered.
        runners.stop_and(|| service.kill_all()).await;
        let again = builder.clone().listen(service.address);
        let begun = Instant::now();
        service = again.start();
        eprintln!("serving again after {:?}", begun.elapsed());
    }
    check_totals(&service, &[&runners]).await;
}

/// How many sessions the store holds.
fn stored_sessions(service: &Service) -> usize {
    let path = service.dir().join("state");
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.max_dbs(4);
    // SAFETY: opened as the workers do, for reading, and with their lock file.
    let env = unsafe { options.flags(EnvFlags::READ_ONLY).open(&path) }.expect("a store");
    let txn = env.read_txn().expect("a transaction");
    let sessions = env.open_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
        let sessions = opener.open_database::<Bytes, Bytes>(txn, Some("sessions"))?.expect("workers make it");
        Ok(CommitOrAbort::<_, ()>::Commit(sessions))
    });
    let sessions = sessions.expect("a table").unwrap_commit();
    let txn = env.read_txn().expect("a transaction");
    sessions.len(&txn).expect("a length") as usize
}

#[tokio::test]
async fn a_session_ends_with_its_time_to_live_but_not_while_it_is_connected() {
    // Long enough that a busy machine does not make a pause of it.
    let service = Service::start(&[("--session-ttl", "5s")]);
    let send = async |client: &mut Client| {
        client.send("hello").await;
        client.count().await
    };
    let connect = async |session: &str| Client::connect(&service.session_url(session)).await;

    let mut idle = connect("idle").await;
    let mut connected = connect("connected").await;
    let mut first = connect("two").await;
    for n in 1..=3 {
        assert_eq!(send(&mut idle).await, n);
        assert_eq!(send(&mut connected).await, n);
        assert_eq!(send(&mut first).await, n);
    }
    let mut resumed = connect("connected").await;
    let mut second = connect("two").await;
    assert_eq!(send(&mut second).await, 4);
    connected.socket.close(None).await.expect("open so far");
    connected.close().await;
    idle.socket.close(None).await.expect("open so far");
    idle.close().await;
    // Time is what this is about: twice the time to live, and the second that it is rounded up to.
    tokio::time::sleep(Duration::from_secs(11)).await;

    assert_eq!(send(&mut connect("idle").await).await, 1, "nobody was there");
    assert_eq!(send(&mut resumed).await, 4, "it was connected all the time, though it had sent nothing");
    assert_eq!(send(&mut first).await, 5, "another connection had seen 4");
    assert_eq!(send(&mut second).await, 6);
    // Its time to live begins when the last connection ends.
    resumed.socket.close(None).await.expect("open so far");
    resumed.close().await;
    assert_eq!(send(&mut connect("connected").await).await, 5);
}

#[tokio::test]
async fn expired_sessions_leave_the_store() {
    let service = Service::start(&[("--session-ttl", "2s")]);
    let mut clients = Vec::new();
    for _ in 0..200 {
        let mut raw = Raw::connect(service.address, "/ws/chat/", b"").await;
        raw.send(&crate::harness::client::frame(0x81, b"hello")).await;
        assert_eq!(raw.frame().await, Some((0x81, br#"{"count":1}"#.to_vec())));
        clients.push(raw);
    }
    assert_eq!(stored_sessions(&service), 200);
    drop(clients);
    eventually("the sweep", || (stored_sessions(&service) == 0).then_some(()));
}
