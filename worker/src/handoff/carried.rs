//! A connection as bytes.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use baton_ipc::scoreboard::AddressKey;
use serde::{Deserialize, Serialize};

use crate::connection::Inbox;
use crate::metrics::Closes;
use crate::slab::Phase;
use crate::token::Token;

/// All that a process knows of a connection, beside its socket. Times are those of the machine: both processes are on it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Carried {
    pub(crate) phase: Phase,
    pub(crate) ended_by: Closes,
    pub(crate) resumed: bool,
    pub(crate) known: bool,
    pub(crate) mute: bool,
    pub(crate) rate: (u32, u32),
    pub(crate) id: u64,
    pub(crate) opened_ms: u64,
    pub(crate) received: u64,
    pub(crate) shown: u64,
    pub(crate) beat_ms: u64,
    pub(crate) token: Token,
    pub(crate) request_id: Token,
    pub(crate) forwarded: Option<Box<IpAddr>>,
    /// What counts it for its client's address.
    pub(crate) address: Option<AddressKey>,
    pub(crate) inbox: Inbox,
    /// What the client has not taken yet, and since when.
    pub(crate) unsent: Option<(Vec<u8>, u64)>,
    /// What was read behind the request's head, and not looked at.
    pub(crate) early: Vec<u8>,
    /// When it must be gone, if it is on its way out (milliseconds of `CLOCK_MONOTONIC`).
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) rooms: Vec<String>,
    /// Publications up to this number were delivered to it; none: it is in no room, or there is no log to look in.
    pub(crate) published: Option<u64>,
    /// What the app keeps, as JSON: another version of it may have other fields.
    pub(crate) state: Vec<u8>,
    /// Since when it has not been read (microseconds of `CLOCK_MONOTONIC`).
    pub(crate) parked_us: u64,
}

/// A WebSocket that is held until its giver says go.
#[derive(Debug)]
pub(crate) struct Arrival<S> {
    pub(crate) socket: OwnedFd,
    pub(crate) carried: Carried,
    pub(crate) state: S,
}

impl Carried {
    pub(crate) fn encode(&self) -> Vec<u8> {
        // It fails only for a map or a sequence of unknown length, and there is none.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// What was encoded, and the app's part of it. `Err`: why it cannot be understood.
    pub(crate) fn decode<S: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<(Carried, S), String> {
        let carried: Carried = postcard::from_bytes(bytes).map_err(|error| format!("its state: {error}"))?;
        let state = serde_json::from_slice(&carried.state).map_err(|error| format!("the app's state: {error}"))?;
        Ok((carried, state))
    }
}
