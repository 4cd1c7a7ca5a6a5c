//! What the two ends of a lane say to each other.

use serde::{Deserialize, Serialize};

/// One packet. A group is numbered by its giver.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Packet {
    /// Connections, each with its descriptor beside the packet, in the same order.
    State { group: u64, items: Vec<Item> },
    /// They are held here, except those of these places, for the reasons given.
    Adopted { group: u64, refused: Vec<(u16, String)> },
    /// The group that is under way cannot be taken at all.
    Refused { reason: String },
    /// Those that are held are the taker's now; what came for some of them meanwhile is to be sent on.
    Go { group: u64, late: Vec<(u16, Vec<u8>)> },
    /// They stay with the giver.
    Abort { group: u64 },
    /// Nothing more comes, for now.
    End,
}

/// One connection.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Item {
    /// A WebSocket: an encoded [`super::Carried`].
    WebSocket(Vec<u8>),
    /// A connection that speaks HTTP, and what has been read of a request.
    Http { unread: Vec<u8> },
}

impl Packet {
    pub(super) fn encode(&self) -> Vec<u8> {
        // It fails only for a map or a sequence of unknown length, and there is none.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Packet, postcard::Error> {
        postcard::from_bytes(bytes)
    }
}
