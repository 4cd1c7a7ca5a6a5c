//! Sessions as an operator looks for them.

use std::ops::Bound;

use super::record::Record;
use super::{Aim, BackplaneError, Embedded, Need, unix_seconds};
use crate::count;
use crate::sessions::{Found, Page, ResetError};
use crate::token::{Key, MAX_TOKEN, Token};

/// Records that are looked at for one page: about a millisecond.
const LOOKED_AT: usize = 4096;

impl Embedded {
    /// A session, if it has a record.
    pub(crate) fn session(&self, token: &Token) -> Result<Option<Found>, BackplaneError> {
        Ok(self.record(&token.key())?.map(|record| found(token.clone(), record)))
    }

    /// The count of a session as it is kept; 0 if there is no record.
    pub(crate) fn kept_count(&self, session: &Key) -> Result<u64, BackplaneError> {
        Ok(self.record(session)?.map_or(0, |record| record.count))
    }

    fn record(&self, session: &Key) -> Result<Option<Record>, BackplaneError> {
        let txn = self.env.read_txn()?;
        Ok(Record::get(self.sessions, &txn, session.as_ref(), self.expiry(unix_seconds()))?)
    }

    /// The next sessions whose tokens begin with this, in the order of their keys: those behind `after`.
    pub(crate) fn sessions(&self, beginning: &str, after: Option<&Token>, most: usize) -> Result<Page, BackplaneError> {
        let expiry = self.expiry(unix_seconds());
        let after = after.map(Token::key);
        let txn = self.env.read_txn()?;
        let (mut page, mut looked_at) = (Page::default(), 0);
        for (first, last) in ranges(beginning) {
            let begin = match &after {
                Some(after) if after.as_ref() > last.as_slice() => continue,
                Some(after) if after.as_ref() >= first.as_slice() => Bound::Excluded(after.as_ref()),
                Some(_) | None => Bound::Included(first.as_slice()),
            };
            for entry in self.sessions.range(&txn, &(begin, Bound::Included(last.as_slice())))? {
                let (key, value) = entry?;
                let Some(token) = Key::from_bytes(key).and_then(|key| key.spelling().parse::<Token>().ok()) else {
                    continue;
                };
                looked_at += 1;
                let is_full = page.found.len() == most || looked_at > LOOKED_AT;
                if is_full {
                    return Ok(page);
                }
                page.next = Some(token.spelling());
                let record = Record::decode(value).filter(|record| !record.has_expired(expiry));
                // One that was reset and not used since is as one that never was.
                page.found.extend(record.map(|record| found(token, record)).filter(|found| found.count > 0));
            }
        }
        page.next = None;
        Ok(page)
    }

    /// Has a session's count begin anew; the count that it had. None: there is no such session.
    pub(crate) fn reset(&mut self, token: &Token) -> Result<Option<u64>, ResetError> {
        let now = unix_seconds();
        let (expiry, key) = (self.expiry(now), token.key());
        let outcome = self.write(Aim::Upkeep, Need::records(1), |txn, tables| {
            let Some(record) = Record::get(tables.sessions, txn, key.as_ref(), expiry)? else {
                return Ok(Ok(None));
            };
            let Some(next) = count::reset(record.count) else { return Ok(Err(ResetError::TooOften)) };
            // All of it is beyond doubt here, as what waits for Redis is told apart.
            let reset = Record { count: next, touched: now, confirmed: next };
            reset.put(tables.sessions, txn, key.as_ref())?;
            Ok(Ok(Some(count::shown(record.count))))
        });
        outcome?
    }
}

fn found(token: Token, record: Record) -> Found {
    Found { session: token, count: count::shown(record.count), used: record.touched }
}

/// The first and the last key of those tokens of a kind that begin with this. A UUID is kept in its bytes.
fn ranges(beginning: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let text = |fill: u8| {
        let mut key = vec![b't'];
        key.extend_from_slice(beginning.as_bytes());
        if fill > 0 {
            key.resize(1 + MAX_TOKEN.max(beginning.len()), fill);
        }
        key
    };
    let uuid = |fill: &str| match format!("{beginning}{}", fill.get(beginning.len()..)?).parse::<Token>() {
        Ok(token @ Token::Uuid(_)) => Some(token.key().as_ref().to_vec()),
        Ok(Token::Text(_)) | Err(_) => None,
    };
    let uuids = uuid("00000000-0000-0000-0000-000000000000").zip(uuid("ffffffff-ffff-ffff-ffff-ffffffffffff"));
    std::iter::once((text(0), text(0xff))).chain(uuids).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(token: &str, beginning: &str) -> bool {
        let key = token.parse::<Token>().unwrap().key();
        ranges(beginning).iter().any(|(first, last)| (first.as_slice()..=last.as_slice()).contains(&key.as_ref()))
    }

    #[test]
    fn a_beginning_is_a_range_of_keys() {
        const UUID: &str = "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d";
        for end in 0..=UUID.len() {
            assert!(fits(UUID, &UUID[..end]), "{}", &UUID[..end]);
        }
        for other in ["0a1b2c3e", "0a1b2c3d4", "0A", "g", "0a1b2c3d-4e5f-4a6b-8c7d-9e0f1a2b3c4d0"] {
            assert!(!fits(UUID, other), "{other}");
        }
        assert!(fits("client-1", "") && fits("client-1", "cli") && fits("client-1", "client-1"));
        assert!(!fits("client-1", "client-10") && !fits("client-1", "d") && !fits("0a", "0a1"));
    }
}
