//! The Autobahn test suite against the echo example: the conformance test that WebSocket implementations are held to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::harness::example::example;
use crate::harness::service::Builder;

/// Framing, pings, reserved bits, opcodes, fragmentation, UTF-8, close handling, autofragmentation. Left out are 9, which
/// sends messages beyond the size limit, and 12 and 13, compression, which is not offered.
const CASES: &str = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,10.*";

/// How many those are.
const NUMBER: usize = 247;

/// What the suite says of one case.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verdict {
    behavior: String,
    behavior_close: String,
}

impl Verdict {
    /// `NON-STRICT` is what the RFC allows and a good implementation does not do, so it is not good enough.
    fn is_good(&self) -> bool {
        [&self.behavior, &self.behavior_close].into_iter().all(|said| said == "OK" || said == "INFORMATIONAL")
    }
}

#[test]
fn nothing_fails_and_nothing_is_less_than_strict() {
    let service = Builder::new().program(example("echo")).start();
    let reports = tempfile::tempdir().expect("a temporary directory");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/autobahn.sh");
    let output = Command::new(script)
        .args([&service.url(), reports.path().to_str().expect("UTF-8"), CASES])
        .stdin(Stdio::null())
        .output()
        .expect("scripts/autobahn.sh runs");
    let said = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "the suite did not run: {}\n{}", output.status, said());

    let index = fs::read_to_string(reports.path().join("index.json")).expect("a report");
    let by_agent: BTreeMap<String, BTreeMap<String, Verdict>> = serde_json::from_str(&index).expect("JSON");
    let verdicts = by_agent.get("server").expect("a report of the server");
    let bad: Vec<_> = verdicts.iter().filter(|(_, verdict)| !verdict.is_good()).collect();
    assert!(bad.is_empty(), "{} of {} cases: {bad:#?}", bad.len(), verdicts.len());
    assert_eq!(verdicts.len(), NUMBER, "cases run");
}
