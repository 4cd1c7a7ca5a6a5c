//! Keeps which logins at `/admin/` were ended before they expire: the cookie of a login is good without being kept
//! anywhere, until somebody logs out.

use heed::RoTxn;

use super::{Aim, BackplaneError, Embedded, Need, Table};

/// What the keys in the table `meta` begin with; then come a kind and a number. The value: when it may be forgotten
/// (seconds since 1970, little-endian).
const PREFIX: &[u8] = b"logout";

/// The length of a key.
const KEY: usize = PREFIX.len() + 9;

/// One login.
const LOGIN: u8 = b'l';

/// All logins of a user that expire by the time that is the value.
const USER: u8 = b'u';

/// So many logins are kept. Beyond them logging out ends all logins of that user.
const KEPT: usize = 1024;

/// A login, as its cookie has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) number: u64,
    pub(crate) user: u64,
    /// Seconds since 1970.
    pub(crate) expires: u64,
}

fn key(kind: u8, number: u64) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[..PREFIX.len()].copy_from_slice(PREFIX);
    key[PREFIX.len()] = kind;
    key[PREFIX.len() + 1..].copy_from_slice(&number.to_be_bytes());
    key
}

impl Embedded {
    /// Ends a login, for all workers of the host. Returns whether it had not ended before.
    pub(crate) fn end_login(&mut self, login: Login, now: u64) -> Result<bool, BackplaneError> {
        if self.is_ended(login)? {
            return Ok(false);
        }
        self.write(Aim::Upkeep, Need::records(4), |txn, tables| {
            let (mut kept, mut over) = (0, Vec::new());
            for entry in tables.meta.prefix_iter(txn, PREFIX)? {
                let (key, value) = entry?;
                if seconds(Some(value)).is_none_or(|until| until <= now) {
                    over.push(key.to_owned());
                } else {
                    kept += usize::from(key.get(PREFIX.len()) == Some(&LOGIN));
                }
            }
            for key in &over {
                tables.meta.delete(txn, key)?;
            }
            let key = if kept < KEPT { key(LOGIN, login.number) } else { key(USER, login.user) };
            tables.meta.put(txn, &key, &login.expires.to_le_bytes())?;
            Ok(true)
        })
    }

    /// Reports whether a login was ended here.
    pub(crate) fn is_ended(&self, login: Login) -> Result<bool, BackplaneError> {
        let txn = self.env.read_txn()?;
        let all_until = until(self.meta, &txn, USER, login.user)?;
        Ok(all_until.is_some_and(|until| login.expires <= until)
            || until(self.meta, &txn, LOGIN, login.number)?.is_some())
    }
}

fn until(meta: Table, txn: &RoTxn<'_>, kind: u8, number: u64) -> Result<Option<u64>, heed::Error> {
    Ok(seconds(meta.get(txn, &key(kind, number))?))
}

fn seconds(value: Option<&[u8]>) -> Option<u64> {
    value?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Directory;
    use super::*;

    fn login(number: u64) -> Login {
        Login { number, user: 1, expires: 2000 + number }
    }

    fn kept(embedded: &Embedded) -> usize {
        let txn = embedded.env.read_txn().unwrap();
        embedded.meta.prefix_iter(&txn, PREFIX).unwrap().count()
    }

    #[test]
    fn one_login_ends_and_is_forgotten_when_it_would_have_expired() {
        let directory = Directory::new();
        let mut embedded = directory.open();
        assert!(embedded.end_login(login(1), 1000).unwrap());
        assert!(!embedded.end_login(login(1), 1000).unwrap(), "it has ended before");
        assert!(embedded.is_ended(login(1)).unwrap() && !embedded.is_ended(login(2)).unwrap());
        assert!(embedded.end_login(login(2), 2000).unwrap());
        assert_eq!(kept(&embedded), 2);
        assert!(embedded.end_login(login(3), 2002).unwrap());
        assert_eq!(kept(&embedded), 1, "two have expired");
    }

    #[test]
    fn with_too_many_all_logins_of_the_user_end() {
        let directory = Directory::new();
        let mut embedded = directory.open();
        for number in 0..KEPT as u64 {
            assert!(embedded.end_login(login(number), 1000).unwrap());
        }
        let one_more = Login { number: 9999, user: 1, expires: 5000 };
        assert!(embedded.end_login(one_more, 1000).unwrap());
        assert_eq!(kept(&embedded), KEPT + 1);
        assert!(embedded.is_ended(one_more).unwrap());
        assert!(embedded.is_ended(Login { number: 8888, ..one_more }).unwrap(), "another one of the user");
        assert!(!embedded.is_ended(Login { number: 8888, expires: 5001, ..one_more }).unwrap(), "a later one");
        assert!(!embedded.is_ended(Login { number: 8888, user: 2, ..one_more }).unwrap(), "another user's");
        assert!(embedded.end_login(Login { number: 7777, user: 2, expires: 9000 }, 4999).unwrap());
        assert_eq!(kept(&embedded), 2, "what has expired makes room");
    }
}
