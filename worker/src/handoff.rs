//! The handoff: live connections pass from one worker process to another, and their clients see nothing.
//!
//! Two workers are joined by a *lane*, a `SOCK_SEQPACKET` pair that a supervisor has made. Either end may give. A giver
//! takes its connections in groups, one group at a time:
//!
//! ```text
//!   giver                                     taker
//!   Chosen   waits for its turn
//!   Parked   is not read any more;
//!            what it has counted is answered
//!   Offered  ── State + descriptors ───────▶  Held      neither read nor written
//!            ◀──────────── Adopted ─────────
//!   (gone)   ── Go + what came meanwhile ──▶  serves
//! ```
//!
//! The invariants, and why they hold:
//!
//! * **One process reads and writes.** The giver does neither from `State` on; it begins again only after it has sent
//!   `Abort`, or when the taker is dead. The taker begins at `Go`, or when the giver is dead without an `Abort`. Packets
//!   arrive in their order and before the end of the lane, so a giver that has gone back to work and died later has
//!   said so before. A taker that stands still finds `State` and `Abort` together when it goes on.
//! * **Some process holds it.** The giver closes its descriptor after `Go` is in the lane, the taker has one since
//!   `State`.
//! * **Nothing is undone.** A connection is parked until all that it has counted is committed and answered; the highest
//!   count that it was shown travels with it.
//! * **Nothing is lost or doubled on the way out.** Unsent bytes travel in the state; what others want to say to a
//!   connection that is offered is kept and goes along with `Go`. The time of the last heartbeat travels, and so does
//!   the place in the log of publications of those who are in rooms: the taker makes good what is missing.
//!
//! A taker refuses connections that it has no room for, or does not understand: those stay where they were.

mod carried;
mod give;
mod lane;
mod packet;

pub(crate) use carried::{Arrival, Carried};
pub(crate) use give::give;
pub(crate) use lane::Lanes;
