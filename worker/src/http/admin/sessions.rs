//! Looking for sessions, and changing them.

use baton_ipc::messages::{Answer, Question};

use super::Response;
use super::audit::{self, Action};
use super::notice::Notice;
use super::page;
use super::visit::{Operator, Visit};
use crate::app::App;
use crate::sessions::ResetError;
use crate::token::Token;

/// Sessions on one page.
const ON_A_PAGE: usize = 50;

/// Connections that are shown of one session.
const ROWS: usize = 100;

/// What can be done to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Disconnect,
    Reset,
    Delete,
}

/// What a path is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Session(Token),
    Change(Token, Change),
}

/// Where the pages of sessions are.
const SESSIONS: &str = "/admin/sessions/";

/// Reads a path. None: there is nothing.
pub(super) fn place(path: &str) -> Option<Place> {
    let rest = path.strip_prefix(SESSIONS)?;
    let (token, change) = match rest.split_once('/') {
        None => (rest, None),
        Some((token, "disconnect")) => (token, Some(Change::Disconnect)),
        Some((token, "reset")) => (token, Some(Change::Reset)),
        Some((token, "delete")) => (token, Some(Change::Delete)),
        Some(_) => return None,
    };
    let token: Token = token.parse().ok()?;
    Some(match change {
        None => Place::Session(token),
        Some(change) => Place::Change(token, change),
    })
}

/// A path as a log may have it: with the fingerprint in place of a token.
pub(in crate::http) fn without_token(path: &str) -> String {
    let Some(rest) = path.strip_prefix(SESSIONS) else { return path.to_owned() };
    let (token, behind) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match token.parse::<Token>() {
        Ok(token) => format!("{SESSIONS}{}{behind}", token.fingerprint()),
        // It may be one all the same, percent-encoded or with too many characters.
        Err(_) => format!("{SESSIONS}*{}", if behind.is_empty() { "" } else { "/*" }),
    }
}

/// Those whose tokens begin with what is asked for.
pub(super) async fn list<A: App>(visit: &Visit<'_, A>, operator: &Operator) -> Response {
    let (beginning, after) = (visit.asks("q").unwrap_or_default(), visit.asks("after"));
    let beginning = beginning.trim();
    if !beginning.is_empty() && beginning.parse::<Token>().is_err() {
        let notice = Notice::Text("Tokens are 1 to 64 characters of A-Z a-z 0-9 . _ -".to_owned());
        return page::sessions(operator, beginning, &[], None, Some(&notice));
    }
    let found = visit.admin.sessions.find(visit.shared, beginning, after.as_deref(), ON_A_PAGE).await;
    let page = match found {
        Ok(page) => page,
        Err(error) => return page::failed(operator, &error.to_string()),
    };
    let tokens = page.found.iter().map(|found| found.session.spelling()).collect();
    let (connections, notice) = match visit.shared.ask_all(Question::Sessions { sessions: tokens, limit: 0 }).await {
        Ok(Answer::Sessions { connections, .. }) => (connections, None),
        Ok(_) => (Vec::new(), None),
        Err(reason) => (Vec::new(), Some(Notice::Text(format!("Who is connected is not known now: {reason}.")))),
    };
    let rows: Vec<_> = page.found.iter().enumerate().map(|(i, found)| (found, connections.get(i).copied())).collect();
    page::sessions(operator, beginning, &rows, page.next.as_deref(), notice.as_ref())
}

/// One of them.
pub(super) async fn look<A: App>(visit: &Visit<'_, A>, operator: &Operator, session: &Token) -> Response {
    let found = match visit.admin.sessions.get(visit.shared, session).await {
        Ok(found) => found,
        Err(error) => return page::failed(operator, &error.to_string()),
    };
    let question = Question::Sessions { sessions: vec![session.spelling()], limit: ROWS };
    let (connections, rows) = match visit.shared.ask_all(question).await {
        Ok(Answer::Sessions { connections, rows }) => (connections.first().copied(), rows),
        Ok(_) | Err(_) => (None, Vec::new()),
    };
    let notice = Notice::of_query(visit.query);
    page::session(operator, session, found.as_ref(), connections, &rows, notice.as_ref())
}

/// Changes one.
pub(super) async fn act<A: App>(
    visit: &Visit<'_, A>,
    operator: &Operator,
    session: &Token,
    change: Change,
) -> Response {
    let action = match change {
        Change::Disconnect => Action::Disconnect,
        Change::Reset => Action::Reset,
        Change::Delete => Action::Delete,
    };
    let outcome = match change {
        Change::Disconnect => disconnect(visit, session).await,
        Change::Reset => reset(visit, session).await,
        // What its clients have sent is counted before they are gone; then nobody is left to count on.
        Change::Delete => match disconnect(visit, session).await {
            Ok(_) => reset(visit, session).await.map(Notice::deleted),
            Err(reason) => Err(reason),
        },
    };
    let name = session.spelling();
    match outcome {
        Ok(notice) => {
            audit::note_outcome(visit, Some(&operator.name), action, Some(&name), Some(&notice.to_string()));
            page::see_other(&format!("/admin/sessions/{name}?{}", notice.query()))
        }
        Err(reason) => {
            audit::note_outcome(visit, Some(&operator.name), action, Some(&name), Some("failed"));
            page::failed(operator, &reason)
        }
    }
}

async fn disconnect<A: App>(visit: &Visit<'_, A>, session: &Token) -> Result<Notice, String> {
    let question = Question::Disconnect { session: session.spelling(), relay: false };
    match visit.shared.ask_all(question).await? {
        Answer::Reached { connections, relayed } => Ok(Notice::Disconnected(connections, relayed.into())),
        other => Err(format!("another answer than to a disconnect: {other:?}")),
    }
}

async fn reset<A: App>(visit: &Visit<'_, A>, session: &Token) -> Result<Notice, String> {
    let before = visit.admin.sessions.reset(visit.shared, session).await;
    before.map(|before| Notice::Reset(before.unwrap_or(0))).map_err(|error: ResetError| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_logged_without_its_token() {
        for (path, logged) in [
            ("/admin/sessions/abc123", "/admin/sessions/6ca13d52ca70"),
            ("/admin/sessions/abc123/reset", "/admin/sessions/6ca13d52ca70/reset"),
            ("/admin/sessions/%61bc123", "/admin/sessions/*"),
            ("/admin/sessions/a b/c", "/admin/sessions/*/*"),
            ("/admin/sessions", "/admin/sessions"),
            ("/ws/chat/", "/ws/chat/"),
        ] {
            assert_eq!(without_token(path), logged);
        }
    }

    #[test]
    fn paths_name_sessions_and_what_is_done_to_them() {
        let token = |text: &str| text.parse::<Token>().unwrap();
        assert_eq!(place("/admin/sessions/a.b-c"), Some(Place::Session(token("a.b-c"))));
        assert_eq!(place("/admin/sessions/abc/reset"), Some(Place::Change(token("abc"), Change::Reset)));
        for nothing in
            ["/admin/sessions/", "/admin/sessions/a%20b", "/admin/sessions/a/b", "/admin/sessions/a/reset/", "/x"]
        {
            assert_eq!(place(nothing), None, "{nothing}");
        }
    }
}
