//! One frame to many connections: heartbeats, broadcasts, rooms, pings. Encoded once, written in slices, so that
//! replies are not held up behind a hundred thousand writes.

use std::time::Instant;

use super::Hub;
use crate::app::App;
use crate::batch::Publication;
use crate::frame::{self, Kind};
use crate::metrics::{Errors, Messages, Single};
use crate::publication::{self, Rejection};
use crate::slab::{Hold, Phase};

/// Connections written to before others get their turn: half a millisecond.
const SLICE: usize = 64;

/// Who gets a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Audience {
    /// Those open since before this time (milliseconds since 1970) that have not had the heartbeat of it.
    Heartbeat(u64),
    /// Everyone.
    Broadcast,
    /// Everyone; who has been silent since the last ping is dropped.
    Ping,
}

impl<A: App> Hub<A> {
    /// Writes `frame` to the next slice of connections, beginning at key `from`. Returns how many got it, and where to
    /// go on, if anywhere.
    pub(crate) fn fan_out(&mut self, frame: &[u8], audience: Audience, from: usize) -> (u64, Option<usize>) {
        // Keys are below the capacity; a slab has no other bound to offer.
        let end = (from + SLICE).min(self.connections.capacity());
        let mut reached = 0;
        for key in from..end {
            let Some(connection) = self.connections.get_mut(key).filter(|c| c.phase == Phase::Open) else { continue };
            match audience {
                // It gets it where it is served next.
                Audience::Heartbeat(_) if connection.hold == Hold::Offered => continue,
                // That it is silent now is not its doing.
                Audience::Ping if connection.hold >= Hold::Parked => continue,
                Audience::Heartbeat(at) if connection.beat_ms >= at => continue,
                Audience::Heartbeat(at) => connection.beat_ms = at,
                Audience::Broadcast => {}
                Audience::Ping if !std::mem::take(&mut connection.heard) => {
                    self.metrics.error(Errors::PingTimeout, 1);
                    self.end(key, Phase::Done, crate::metrics::Closes::Lost);
                    self.drop_output(key);
                    continue;
                }
                Audience::Ping => {}
            }
            reached += u64::from(self.push(key, frame));
        }
        match audience {
            Audience::Heartbeat(_) => self.metrics.messages(Messages::Heartbeat, reached),
            Audience::Broadcast => self.metrics.messages(Messages::Broadcast, reached),
            Audience::Ping => {}
        }
        self.finish_quietly();
        (reached, (end < self.connections.capacity()).then_some(end))
    }

    /// Gives what workers have published to those in the rooms.
    pub(crate) fn deliver_published(&mut self) {
        loop {
            let (publications, missed) = match self.backplane.published() {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!(%error, "publications cannot be read");
                    return;
                }
            };
            if missed > 0 {
                tracing::warn!(missed, "fell behind: publications were gone before they could be delivered");
                self.metrics.add(Single::Gaps, missed);
            }
            if publications.is_empty() {
                return;
            }
            publications.iter().for_each(|publication| self.deliver_to_room(publication));
        }
    }

    /// Gives one publication to those in its room.
    pub(crate) fn deliver_to_room(&mut self, publication: &Publication) {
        let Publication { room, text } = publication;
        if let Err(error) = publication::check(room, text, self.settings.limits.max_output) {
            return self.reject(error.into());
        }
        let mut text = Vec::new();
        frame::append(&mut text, Kind::Text, publication.text.as_bytes());
        // Those that are offered find it in the log, if there is one.
        let logged = self.backplane.is_alone();
        let mut members = self.rooms.members(&publication.room);
        members.retain(|key| !logged || self.connections[*key].hold != Hold::Offered);
        let reached = members.into_iter().filter(|key| self.push(*key, &text)).count();
        self.metrics.messages(Messages::Room, reached as u64);
        self.settle();
    }

    /// Counts a publication that is not delivered, and logs one line a minute about all of them.
    pub(crate) fn reject(&mut self, Rejection { reason, bytes }: Rejection) {
        self.metrics.add(Single::Rejected, 1);
        if let Some(rejected) = self.rejections.count(Instant::now()) {
            let reason = reason.label();
            tracing::warn!(event = "publication_rejected", reason, bytes, rejected, "publications were not delivered");
        }
    }

    /// Sends a frame that the client did not ask for. One that has too much waiting is closed instead.
    pub(super) fn push(&mut self, key: usize, frame: &[u8]) -> bool {
        let Some(connection) = self.connections.get(key).filter(|c| c.phase == Phase::Open) else { return false };
        if connection.hold == Hold::Offered {
            self.keep_late(key, frame);
            return true;
        }
        let waiting = connection.output.as_ref().map_or(0, |output| output.waiting());
        if waiting > 0 && waiting + frame.len() > self.settings.limits.max_output {
            self.fail_slow(key);
            return false;
        }
        self.transmit(key, frame);
        true
    }

    /// Ends a round of writes that no turn belongs to.
    pub(crate) fn finish_quietly(&mut self) {
        self.finish(Instant::now());
        // What the removals of `settle` left to be written comes with the next commit.
    }
}
