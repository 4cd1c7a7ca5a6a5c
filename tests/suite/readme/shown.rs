//! What README shows in its blocks of commands.

use std::fs;
use std::path::Path;

/// A command as README shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// Its line.
    pub line: usize,
    /// What is typed, without the comment behind it.
    pub text: String,
    /// What it prints, where that is shown.
    pub output: Vec<String>,
}

/// All of them, in their order.
pub(super) fn commands() -> Vec<Shown> {
    parse(&fs::read_to_string(project().join("README.md")).expect("a file of ours"))
}

/// What stands as code in the lines of all documents, with the document.
pub(super) fn code() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let docs =
        fs::read_dir(project().join("docs")).expect("a directory of ours").map(|entry| entry.expect("an entry").path());
    for path in docs.chain(["README.md", "CONTRIBUTING.md"].map(|name| project().join(name))) {
        let document = path.file_name().expect("a file").to_string_lossy().into_owned();
        let mut block = false;
        for line in fs::read_to_string(&path).expect("text").lines() {
            block ^= line.starts_with("```");
            if !block && !line.starts_with("```") {
                let spans = line.split('`').skip(1).step_by(2);
                found.extend(spans.map(|span| (document.clone(), span.to_owned())));
            }
        }
    }
    found
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Those of blocks of `sh`, in which every line is one, and of `console`, in which lines after a `$` are.
fn parse(text: &str) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    let mut block = None;
    for (line, text) in (1..).zip(text.lines()) {
        match (block, text) {
            (None, opened) => block = opened.strip_prefix("```"),
            (Some(_), "```") => block = None,
            (Some("sh"), command) => shown.push(Shown { line, text: without_comment(command), output: vec![] }),
            (Some("console"), text) => match (text.strip_prefix("$ "), shown.last_mut()) {
                (Some(command), _) => shown.push(Shown { line, text: without_comment(command), output: vec![] }),
                (None, Some(last)) => last.output.push(text.to_owned()),
                (None, None) => panic!("line {line}: output of no command"),
            },
            (Some(_), _) => {}
        }
    }
    shown
}

fn without_comment(command: &str) -> String {
    command.split("  # ").next().unwrap_or_default().trim_end().to_owned()
}

#[test]
fn blocks_of_commands_are_read_and_no_others() {
    let text = "A `b`:\n\n```sh\nfirst --all     # what it does\nsecond # a\n```\n```\nno command\n```\n```rust\nuse it;\n```\n```console\n$ third\nout\n$ fourth 'a  b'\n```\n";
    let expected = [
        (4, "first --all", vec![]),
        (5, "second # a", vec![]),
        (14, "third", vec!["out"]),
        (16, "fourth 'a  b'", vec![]),
    ];
    let found = parse(text);
    let found: Vec<_> = found
        .iter()
        .map(|one| (one.line, one.text.as_str(), one.output.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(found, expected);
}
