//! The first page.

use hyper::StatusCode;
use maud::{Markup, html};
use serde_json::Value;

use super::{Notice, Operator, Response, framed, time, token};
use crate::heartbeat::{rfc3339, wall_ms};
use crate::http::admin::audit::Entry;

/// The first page: what happens now.
pub(in crate::http::admin) fn overview(
    operator: &Operator,
    notice: Option<&Notice>,
    now: &Value,
    acts: &[Entry],
    refusals: &[Entry],
) -> Response {
    let number = |value: &Value| value.as_u64().unwrap_or(0).to_string();
    let text = |value: &Value| value.as_str().unwrap_or("–").to_owned();
    let chart = |id: &str, title: &str, value: &str| {
        html! {
            div.tile data-chart=(id) {
                h2 { (title) }
                output aria-live="off" { (value) }
                svg viewBox="0 0 120 36" preserveAspectRatio="none" aria-hidden="true" { path.area {} path.line {} }
            }
        }
    };
    let main = html! {
        h1.hidden { "Overview" }
        p.facts {
            span.color data-color=(text(&now["color"])) { (text(&now["color"])) }
            " baton " (text(&now["version"]))
            " · backplane " (text(&now["backplane"]["kind"])) " "
            span data-field="backplane" data-ok=(now["backplane"]["ok"] == true) {
                @if now["backplane"]["ok"] == true { "up" } @else { "degraded" }
            }
            " · " span data-field="liveness" { "as of " (rfc3339(wall_ms())) }
        }
        section.tiles aria-label="Now" {
            (chart("connections", "Connections", &number(&now["connections"])))
            (chart("messages", "Messages / s", "–"))
            (chart("errors", "Errors / s", "–"))
            (chart("latency", "Reply p95", "–"))
        }
        noscript { p.hint { "Without scripts this page does not move: load it again to see more." } }
        section.card {
            h2 { "Workers" }
            div.scroll {
                table #workers {
                    thead { tr { th { "Slot" } th { "State" } th.number { "Pid" } th.number { "Connections" } th.number { "Messages" } th.number { "Restarts" } th { "Last cause" } } }
                    tbody {
                        @for worker in now["workers"].as_array().into_iter().flatten() {
                            tr data-state=(text(&worker["state"])) {
                                td { (number(&worker["slot"])) }
                                td.state { (text(&worker["state"])) }
                                td.number { (worker["pid"].as_u64().map_or("–".to_owned(), |pid| pid.to_string())) }
                                td.number { (number(&worker["connections"])) }
                                td.number { (number(&worker["messages"])) }
                                td.number { (number(&worker["restarts"])) }
                                td { (text(&worker["last_cause"])) }
                            }
                        }
                    }
                }
            }
        }
        div.columns {
        section.card {
            h2 { "Tell all clients" }
            form.stack method="post" action="/admin/broadcast" data-confirm="Send this to every connection?" {
                (token(operator))
                label.hidden for="message" { "Message" }
                textarea id="message" name="message" maxlength="16000" required placeholder="Lunch at noon" {}
                p.hint { "Text goes out as " code { "{\"notice\":\"…\"}" } ", JSON as it stands." }
                button.primary type="submit" { "Send" }
            }
        }
        section.card {
            h2 { "Last acts" }
            @if acts.is_empty() { p.hint { "None yet." } }
            (entries("acts", acts))
            @if !refusals.is_empty() {
                h2 { "Refused logins" }
                (entries("acts refusals", refusals))
            }
        }
        }
    };
    framed(StatusCode::OK, operator, "Overview", notice, &main)
}

fn entries(class: &str, entries: &[Entry]) -> Markup {
    html! {
        ol class=(class) {
            @for entry in entries {
                li {
                    (time(entry.at))
                    " " b { (entry.user.as_deref().unwrap_or("somebody")) }
                    " " span { (entry.action) }
                    @if let Some(attempts) = entry.attempts.filter(|attempts| *attempts > 1) { " " span { (attempts) " times" } }
                    @if let Some(session) = &entry.session { " " code { (session) } }
                    @if let Some(outcome) = &entry.outcome { " " span { (outcome) } }
                    " " span.soft { "from " (entry.from) }
                }
            }
        }
    }
}
