//! Who is in which room, in this worker.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

/// The rooms that a connection is in. A pointer only, since most are in none.
#[allow(clippy::box_collection, reason = "a third of the size of a Vec in every connection that has none")]
pub(crate) type Joined = Option<Box<Vec<Rc<str>>>>;

/// Room → keys of connections.
#[derive(Debug, Default)]
pub(crate) struct Rooms(HashMap<Rc<str>, BTreeSet<usize>>);

impl Rooms {
    /// Adds a connection; `joined` is its own list.
    pub(crate) fn join(&mut self, room: &str, key: usize, joined: &mut Joined) {
        let room: Rc<str> = self.0.get_key_value(room).map_or_else(|| room.into(), |(room, _)| room.clone());
        if self.0.entry(room.clone()).or_default().insert(key) {
            joined.get_or_insert_default().push(room);
        }
    }

    /// Takes it out again.
    pub(crate) fn leave(&mut self, room: &str, key: usize, joined: &mut Joined) {
        if let Some(list) = joined {
            list.retain(|joined| &**joined != room);
            if list.is_empty() {
                *joined = None;
            }
        }
        self.remove(room, key);
    }

    /// Takes a connection that is gone out of all its rooms.
    pub(crate) fn leave_all(&mut self, key: usize, joined: Joined) {
        for room in joined.into_iter().flat_map(|list| *list) {
            self.remove(&room, key);
        }
    }

    /// The names of the rooms that a connection is in.
    pub(crate) fn names(joined: &Joined) -> Vec<String> {
        joined.iter().flat_map(|list| list.iter()).map(|room| room.to_string()).collect()
    }

    /// The keys of everyone in a room, in their order.
    pub(crate) fn members(&self, room: &str) -> Vec<usize> {
        self.0.get(room).into_iter().flatten().copied().collect()
    }

    fn remove(&mut self, room: &str, key: usize) {
        if let Some(members) = self.0.get_mut(room) {
            members.remove(&key);
            if members.is_empty() {
                self.0.remove(room);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_room_is_forgotten() {
        let (mut rooms, mut one, mut two) = (Rooms::default(), None, None);
        rooms.join("a", 1, &mut one);
        rooms.join("a", 1, &mut one);
        rooms.join("b", 1, &mut one);
        rooms.join("a", 2, &mut two);
        assert_eq!(rooms.members("a"), [1, 2]);
        assert_eq!(one.as_ref().unwrap().len(), 2);
        rooms.leave("a", 2, &mut two);
        assert!(two.is_none());
        rooms.leave_all(1, one);
        assert!(rooms.0.is_empty());
    }
}
