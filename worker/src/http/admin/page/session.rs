//! Sessions: a list, and one of them.

use baton_ipc::control::ConnectionRow;
use hyper::StatusCode;
use maud::{Markup, html};

use super::{Notice, Operator, Response, framed, time, token};
use crate::sessions::Found;
use crate::token::Token;

/// A list, and where to look for more.
pub(in crate::http::admin) fn sessions(
    operator: &Operator,
    beginning: &str,
    rows: &[(&Found, Option<u64>)],
    next: Option<&str>,
    notice: Option<&Notice>,
) -> Response {
    let main = html! {
        h1 { "Sessions" }
        form.search method="get" action="/admin/sessions" role="search" {
            label.hidden for="q" { "The token, or its beginning" }
            input id="q" name="q" type="search" value=(beginning) placeholder="The token, or its beginning" autocomplete="off"
                autocapitalize="none" spellcheck="false" maxlength="64";
            button type="submit" { "Search" }
        }
        section.card {
            @if rows.is_empty() && next.is_none() {
                p.hint { @if beginning.is_empty() { "There are no sessions yet." } @else { "No session begins like this." } }
            } @else if rows.is_empty() {
                p.hint { "None so far: there are more to look through." }
            } @else {
                div.scroll {
                    table {
                        thead { tr { th { "Session" } th.number { "Count" } th.number { "Connections" } th.when { "Last used" } } }
                        tbody {
                            @for (found, connections) in rows {
                                tr {
                                    td { a.token href={ "/admin/sessions/" (found.session.spelling()) } { (found.session.spelling()) } }
                                    td.number { (found.count) }
                                    td.number { (number(*connections)) }
                                    td.when { (time(found.used)) }
                                }
                            }
                        }
                    }
                }
            }
            @if let Some(next) = next {
                p { a href={ "/admin/sessions?q=" (beginning) "&after=" (next) } rel="next" { "More" } }
            }
        }
    };
    framed(StatusCode::OK, operator, "Sessions", notice, &main)
}

/// One session. `found`: its record, if it has one. Without a number of connections nobody could say.
pub(in crate::http::admin) fn session(
    operator: &Operator,
    session: &Token,
    found: Option<&Found>,
    connections: Option<u64>,
    rows: &[ConnectionRow],
    notice: Option<&Notice>,
) -> Response {
    let session = session.spelling();
    // A deletion that was just asked for leaves nothing to be found.
    let is_there = found.is_some_and(|found| found.count > 0) || connections.is_none_or(|n| n > 0);
    let act = |name: &str, title: &str, what: &str, confirm: &str, class: &str| {
        html! {
            form method="post" action={ "/admin/sessions/" (session) "/" (name) } data-confirm=(confirm) {
                (token(operator))
                button id=(name) class=(class) type="submit" { (title) }
                p.hint { (what) }
            }
        }
    };
    let main = html! {
        h1.token { (session) }
        @if is_there {
            section.card {
                dl.numbers {
                    div { dt { "Count" } dd id="count" { (found.map_or(0, |found| found.count)) } }
                    div { dt { "Connections here" } dd id="connections" { (number(connections)) } }
                    @if let Some(found) = found { div { dt { "Last used" } dd.when { (time(found.used)) } } }
                }
                div.actions {
                    (act("disconnect", "Disconnect", "Closes its connections, on all hosts. The count stays.", "Disconnect its clients?", ""))
                    (act("reset", "Reset", "The count begins anew: the next message is the first. Clients stay connected.", "Reset its count?", "danger"))
                    (act("delete", "Delete", "Closes its connections, and forgets the session.", "Delete this session?", "danger"))
                }
            }
            @if !rows.is_empty() { (connections_table(rows, connections)) }
        } @else {
            section.card { p { "Nobody uses this session, and nothing is kept of it." } }
        }
    };
    let status = if is_there || notice.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    framed(status, operator, "Sessions", notice, &main)
}

fn connections_table(rows: &[ConnectionRow], connections: Option<u64>) -> Markup {
    html! {
        section.card {
            h2 { "Connections here" }
            div.scroll {
                table.fixed {
                    thead { tr { th { "Worker" } th { "From" } th.number { "Open for" } th.number { "Messages" } th.number { "Queued" } th { "Id" } } }
                    tbody {
                        @for row in rows {
                            tr {
                                td { (row.slot) }
                                td { @if row.client.is_empty() { "unix" } @else { (row.client) } }
                                td.number { (age(row.age_seconds)) }
                                td.number { (row.messages) }
                                td.number { (row.queued_bytes) " B" }
                                td.token { (row.connection_id) }
                            }
                        }
                    }
                }
            }
            @if let Some(all) = connections.filter(|all| *all > rows.len() as u64) {
                p.hint { "The oldest " (rows.len()) " of " (all) "." }
            }
        }
    }
}

fn number(number: Option<u64>) -> String {
    number.map_or("–".to_owned(), |number| number.to_string())
}

fn age(seconds: f64) -> String {
    match seconds as u64 {
        0..120 => format!("{seconds:.0} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86400),
    }
}
