//! What came of an act, told on the page that is shown after it. It travels in that page's address, as numbers: nobody can
//! make a page say anything else.

use std::fmt;

use baton_ipc::control::Relayed;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// A message went to so many connections here.
    Sent(u64, Elsewhere),
    /// So many connections here were closed.
    Disconnected(u64, Elsewhere),
    /// The count was this.
    Reset(u64),
    /// The count was this, and nobody is connected any more.
    Deleted(u64),
    /// Anything else; it stays on this page.
    Text(String),
}

/// Whether other hosts were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// There are none.
    Alone,
    Told,
    NotTold,
}

impl From<Option<Relayed>> for Elsewhere {
    fn from(relayed: Option<Relayed>) -> Elsewhere {
        match relayed {
            Some(Relayed::Alone) => Elsewhere::Alone,
            Some(Relayed::Sent) => Elsewhere::Told,
            // Nobody could say.
            Some(Relayed::Failed) | None => Elsewhere::NotTold,
        }
    }
}

const PLACES: [(Elsewhere, &str); 3] =
    [(Elsewhere::Alone, "alone"), (Elsewhere::Told, "told"), (Elsewhere::NotTold, "not-told")];

impl Notice {
    /// After a reset that was to be a deletion.
    pub(super) fn deleted(self) -> Notice {
        match self {
            Notice::Reset(before) => Notice::Deleted(before),
            other => other,
        }
    }

    /// As the query of the page that tells it.
    pub(super) fn query(&self) -> String {
        let place = |elsewhere: &Elsewhere| PLACES.iter().find(|(it, _)| it == elsewhere).map_or("", |(_, name)| name);
        match self {
            Notice::Sent(n, elsewhere) => format!("done=sent&n={n}&hosts={}", place(elsewhere)),
            Notice::Disconnected(n, elsewhere) => format!("done=disconnected&n={n}&hosts={}", place(elsewhere)),
            Notice::Reset(before) => format!("done=reset&n={before}"),
            Notice::Deleted(before) => format!("done=deleted&n={before}"),
            Notice::Text(_) => String::new(),
        }
    }

    /// From such a query.
    pub(super) fn of_query(query: Option<&str>) -> Option<Notice> {
        let value = |name: &str| {
            let mut pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(given, _)| *given == name).map(|(_, value)| value)
        };
        let n = || value("n")?.parse().ok();
        let elsewhere = || PLACES.iter().find(|(_, name)| value("hosts") == Some(name)).map(|(it, _)| *it);
        match value("done")? {
            "sent" => Some(Notice::Sent(n()?, elsewhere()?)),
            "disconnected" => Some(Notice::Disconnected(n()?, elsewhere()?)),
            "reset" => Some(Notice::Reset(n()?)),
            "deleted" => Some(Notice::Deleted(n()?)),
            _ => None,
        }
    }

    /// Whether all of it was done.
    pub(super) fn is_good(&self) -> bool {
        match self {
            Notice::Sent(_, elsewhere) | Notice::Disconnected(_, elsewhere) => *elsewhere != Elsewhere::NotTold,
            Notice::Reset(_) | Notice::Deleted(_) => true,
            Notice::Text(_) => false,
        }
    }
}

/// A sentence for the operator, and for the audit log.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = |n: &u64| if *n == 1 { "1 connection".to_owned() } else { format!("{n} connections") };
        let hosts = |elsewhere: &Elsewhere| match elsewhere {
            Elsewhere::Alone => "",
            Elsewhere::Told => " here; other hosts were told",
            Elsewhere::NotTold => " here; other hosts could not be told",
        };
        match self {
            Notice::Sent(n, elsewhere) => write!(f, "sent to {}{}", connections(n), hosts(elsewhere)),
            Notice::Disconnected(n, elsewhere) => write!(f, "disconnected {}{}", connections(n), hosts(elsewhere)),
            Notice::Reset(0) => f.write_str("its count was 0 already"),
            Notice::Reset(before) => write!(f, "its count begins anew, it was {before}"),
            Notice::Deleted(before) => write!(f, "deleted, its count was {before}"),
            Notice::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_travels_in_a_query_and_nothing_else_does() {
        for notice in [
            Notice::Sent(3, Elsewhere::Alone),
            Notice::Sent(0, Elsewhere::NotTold),
            Notice::Disconnected(1, Elsewhere::Told),
            Notice::Reset(17),
            Notice::Deleted(0),
        ] {
            assert_eq!(Notice::of_query(Some(&notice.query())), Some(notice));
        }
        for query in ["", "done=sent", "done=sent&n=x&hosts=told", "done=sent&n=1", "done=<b>&n=1", "n=1", "done"] {
            assert_eq!(Notice::of_query(Some(query)), None, "{query}");
        }
        assert_eq!(Notice::of_query(None), None);
    }
}
