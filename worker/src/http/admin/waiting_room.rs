//! Decides who may wait for a password to be checked: few at a time, so that no answer takes long; not all of them from
//! one network; and a few places are kept for browsers that have logged in before, whoever else is at the door.

use std::sync::{Arc, Mutex, PoisonError};

/// Attempts that may wait, or be under way.
const PLACES: usize = 8;

/// Of these, so many are for browsers that have logged in before.
const KEPT_FOR_KNOWN: usize = 2;

/// So many may one network have, or one browser.
const PLACES_EACH: usize = 2;

/// Who wants a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guest {
    /// A browser that has logged in before, by a number of its own.
    Known(u64),
    /// Anybody else, by a number of their network.
    Stranger(u64),
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// All are taken.
    Full,
    /// This guest has as many as one may have.
    Share,
}

/// The places of one worker.
#[derive(Debug, Default)]
pub(super) struct WaitingRoom {
    guests: Arc<Mutex<Vec<Guest>>>,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    guests: Arc<Mutex<Vec<Guest>>>,
    guest: Guest,
}

impl WaitingRoom {
    pub(super) fn enter(&self, guest: Guest) -> Result<Place, NoPlace> {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        admit(&guests, guest)?;
        guests.push(guest);
        Ok(Place { guests: Arc::clone(&self.guests), guest })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = guests.iter().position(|guest| *guest == self.guest) {
            guests.swap_remove(at);
        }
    }
}

fn admit(guests: &[Guest], guest: Guest) -> Result<(), NoPlace> {
    if guests.iter().filter(|other| **other == guest).count() >= PLACES_EACH {
        return Err(NoPlace::Share);
    }
    let strangers = guests.iter().filter(|other| matches!(other, Guest::Stranger(_))).count();
    let room = match guest {
        Guest::Known(_) => guests.len() < PLACES,
        Guest::Stranger(_) => guests.len() < PLACES && strangers < PLACES - KEPT_FOR_KNOWN,
    };
    if room { Ok(()) } else { Err(NoPlace::Full) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_network_has_two_places_and_strangers_leave_two() {
        let room = WaitingRoom::default();
        let enter = |guest| room.enter(guest);
        let mut places: Vec<Place> = [1, 1, 2, 2, 3, 3].map(|n| enter(Guest::Stranger(n)).unwrap()).into();
        assert_eq!(enter(Guest::Stranger(1)).unwrap_err(), NoPlace::Share);
        assert_eq!(enter(Guest::Stranger(4)).unwrap_err(), NoPlace::Full);
        // The number of a network may be that of a browser.
        places.push(enter(Guest::Known(1)).unwrap());
        places.push(enter(Guest::Known(1)).unwrap());
        assert_eq!(enter(Guest::Known(1)).unwrap_err(), NoPlace::Share);
        assert_eq!(enter(Guest::Known(2)).unwrap_err(), NoPlace::Full);
        drop(places.remove(0));
        assert_eq!(enter(Guest::Stranger(4)).unwrap().guest, Guest::Stranger(4));
        drop(places);
        assert!(room.guests.lock().unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_the_bounds_hold(steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0u64..5), 1..200)) {
            let room = WaitingRoom::default();
            let mut places: Vec<Place> = Vec::new();
            for (leaves, known, number) in steps {
                if leaves && !places.is_empty() {
                    places.swap_remove(number as usize % places.len());
                } else {
                    let guest = if known { Guest::Known(number) } else { Guest::Stranger(number) };
                    places.extend(room.enter(guest));
                }
                let guests = room.guests.lock().unwrap().clone();
                prop_assert_eq!(guests.len(), places.len());
                prop_assert!(guests.len() <= PLACES);
                let strangers = guests.iter().filter(|guest| matches!(guest, Guest::Stranger(_))).count();
                prop_assert!(strangers <= PLACES - KEPT_FOR_KNOWN);
                for guest in &guests {
                    prop_assert!(guests.iter().filter(|other| *other == guest).count() <= PLACES_EACH);
                }
            }
        }
    }
}
