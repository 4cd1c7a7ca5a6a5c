//! `{"ts":…}` at wall-clock multiples of the interval, the same on every worker, once on each connection.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;

use crate::harness::client::heartbeat;
use crate::harness::{Client, Service, eventually};

const BEATS: usize = 4;

#[tokio::test]
async fn every_connection_on_every_worker_gets_the_same_beats_once() {
    let interval = Duration::from_secs(1);
    let service = Service::start(&[("--heartbeat-interval", "1s")]);
    let begun = SystemTime::now();
    let mut clients = Client::connect_several(16, &service.url()).await;
    let rows = eventually("16 connections", || Some(service.connections()).filter(|rows| rows.len() == clients.len()));
    let slots: BTreeSet<_> = rows.iter().map(|row| row.slot).collect();
    assert!(slots.len() > 1, "16 connections, all on one worker");
    // A client that sends gets its heartbeats between its replies.
    let mut busy = clients.pop().expect("a client");
    let quiet = join_all(clients.iter_mut().map(async |client| {
        let mut beats = Vec::new();
        for _ in 0..BEATS {
            beats.push(heartbeat(&client.json().await).expect("nothing but heartbeats"));
        }
        beats
    }));
    let busy = async {
        let (mut beats, mut n) = (Vec::new(), 0);
        while beats.len() < BEATS {
            busy.send("meanwhile").await;
            let mut answered = false;
            while !answered {
                let json = busy.json().await;
                match heartbeat(&json) {
                    Some(beat) => beats.push(beat),
                    None => {
                        n += 1;
                        assert_eq!(json["count"], n);
                        answered = true;
                    }
                }
            }
        }
        beats
    };
    let (mut all, busy) = tokio::join!(quiet, busy);
    all.push(busy);
    for beats in &all {
        assert!(beats[0] >= begun, "a heartbeat from before the connection: {beats:?}");
        for beat in beats {
            let since = beat.duration_since(UNIX_EPOCH).expect("after 1970");
            assert_eq!(since.as_millis() % interval.as_millis(), 0, "not a multiple: {beats:?}");
        }
        // Each once: none twice, none left out.
        assert!(beats.windows(2).all(|pair| pair[0] + interval == pair[1]), "{beats:?}");
    }
    // The same on all: each saw four in a row, and there is one that all of them saw.
    let (first, last) = (all.iter().map(|beats| beats[0]).max(), all.iter().map(|beats| beats[BEATS - 1]).min());
    assert!(first <= last, "{all:?}");
}
