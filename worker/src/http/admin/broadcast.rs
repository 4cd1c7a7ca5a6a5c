//! A notice to all clients, on all hosts.

use baton_ipc::messages::{Answer, Question};
use serde::de::IgnoredAny;
use serde_json::json;

use super::audit::{self, Action};
use super::form::Form;
use super::notice::Notice;
use super::visit::{Operator, Visit};
use super::{Response, page};
use crate::app::App;

/// The longest message, in bytes.
const MOST: usize = 16 * 1024;

/// Sends it. Text is sent as `{"notice":"…"}`, what begins like JSON as it stands.
pub(super) async fn send<A: App>(visit: &Visit<'_, A>, operator: &Operator, form: &Form) -> Response {
    let text = match message(form.get("message")) {
        Ok(text) => text,
        Err(reason) => return page::refused(operator, &format!("{reason}. Nothing was sent.")),
    };
    let bytes = text.len();
    let notice = match visit.shared.ask_all(Question::Broadcast { text, relay: false }).await {
        Ok(Answer::Reached { connections, relayed }) => Notice::Sent(connections, relayed.into()),
        Ok(other) => return page::failed(operator, &format!("another answer than to a broadcast: {other:?}")),
        Err(reason) => {
            audit::note_outcome(visit, Some(&operator.name), Action::Broadcast, None, Some("failed"));
            return page::failed(operator, &reason);
        }
    };
    // What it says is nobody's affair who reads logs.
    let outcome = format!("{bytes} bytes, {notice}");
    audit::note_outcome(visit, Some(&operator.name), Action::Broadcast, None, Some(&outcome));
    page::see_other(&format!("/admin/?{}", notice.query()))
}

fn message(given: &str) -> Result<String, String> {
    // Browsers send line ends as CR LF.
    let given = given.replace("\r\n", "\n");
    let given = given.trim();
    if given.is_empty() {
        return Err("There is no message".to_owned());
    }
    let text = match given.starts_with(['{', '[', '"']) {
        true => match serde_json::from_str::<IgnoredAny>(given) {
            Ok(_) => given.to_owned(),
            Err(error) => return Err(format!("The message begins like JSON and is none: {error}")),
        },
        false => json!({ "notice": given }).to_string(),
    };
    if text.len() > MOST { Err(format!("The message is longer than {MOST} bytes")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_a_notice_and_json_stays_what_it_is() {
        assert_eq!(message(" lunch\r\nat \"noon\" ").as_deref(), Ok(r#"{"notice":"lunch\nat \"noon\""}"#));
        for json in [r#"{"a":1}"#, r#"["a"]"#, r#""a""#] {
            assert_eq!(message(json).as_deref(), Ok(json));
        }
        for wrong in ["", " \r\n", "{a}", "[1", &"x".repeat(MOST)] {
            assert!(message(wrong).is_err(), "{wrong}");
        }
    }
}
