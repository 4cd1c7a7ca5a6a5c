//! `batonctl` without a command: a shell on a terminal, a list of commands otherwise.

use std::cell::Cell;
use std::fs::DirBuilder;
use std::io::{self, BufRead};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::rc::Rc;

use clap::{CommandFactory, Parser};
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{CompletionType, Config, Editor, Helper, Highlighter, Hinter, Validator};
use serde::de::IgnoredAny;

use super::verbs::Verb;
use super::{Exit, Manner, Session};
use crate::config::Environment;
use crate::config::directories::user_state;

/// One line of the shell: a command without the name of the program.
#[derive(Debug, Parser)]
#[command(
    name = "batonctl",
    no_binary_name = true,
    override_usage = "COMMAND",
    disable_help_flag = true,
    help_template = "{subcommands}"
)]
pub(super) struct Line {
    #[command(flatten)]
    pub(super) manner: Manner,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

/// What a line asks for.
enum Asked {
    Nothing,
    Leave,
    Ran(Exit),
}

/// Reads commands from standard input until its end; the exit code is that of the first one that failed.
pub(super) fn batch(session: &mut Session) -> Exit {
    let mut first_failure = Exit::Ok;
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else {
            return Exit::Failed;
        };
        match run(session, &line) {
            Asked::Nothing => {}
            Asked::Leave => break,
            Asked::Ran(exit) if first_failure == Exit::Ok => first_failure = exit,
            Asked::Ran(_) => {}
        }
    }
    first_failure
}

/// Talks with an operator until `exit` or the end of input.
pub(super) fn interactive(session: &mut Session, environment: &Environment) -> Exit {
    let config = Config::builder().history_ignore_space(true).completion_type(CompletionType::List).build();
    let mut editor = match Editor::<Prompt, DefaultHistory>::with_config(config) {
        Ok(editor) => editor,
        Err(error) => {
            eprintln!("batonctl: no shell on this terminal: {error}");
            return Exit::Failed;
        }
    };
    session.interactive = true;
    editor.set_helper(Some(Prompt { slots: Rc::clone(&session.slots) }));
    let mut history = history_file(environment);
    if let Some(path) = &history {
        // The first time there is none.
        let _ = editor.load_history(path);
    }
    run(session, "status");
    println!("\nhelp lists the commands; Tab completes; exit leaves.");
    loop {
        let prompt = session.answered.as_ref().map_or("baton> ".to_owned(), |color| format!("baton {color}> "));
        match editor.readline(&prompt) {
            Ok(line) => {
                // It fails only where there is no history to keep.
                let _ = editor.add_history_entry(line.trim());
                // At once: a terminal may be closed in the middle of a command.
                if let Some(Err(error)) = history.as_ref().map(|path| editor.append_history(path)) {
                    eprintln!("batonctl: cannot keep the history: {error}");
                    history = None;
                }
                if matches!(run(session, &line), Asked::Leave) {
                    break;
                }
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => {
                eprintln!("batonctl: {error}");
                return Exit::Failed;
            }
        }
    }
    Exit::Ok
}

fn run(session: &mut Session, line: &str) -> Asked {
    let words = words(line);
    if words.is_empty() {
        return Asked::Nothing;
    }
    match Line::try_parse_from(words) {
        Ok(Line { verb: Verb::Exit, .. }) => Asked::Leave,
        Ok(Line { verb, manner }) => Asked::Ran(session.run_line(manner, &verb)),
        Err(error) => {
            let help = !error.use_stderr();
            let _ = error.print();
            Asked::Ran(if help { Exit::Ok } else { Exit::Usage })
        }
    }
}

/// Words at white space. What is broadcast is one word with its spaces, in quotes as for a shell or without; options may
/// be before it or behind it.
fn words(line: &str) -> Vec<&str> {
    let line = line.trim();
    if line.starts_with('#') {
        return Vec::new();
    }
    let Some((verb @ "broadcast", rest)) = line.split_once(char::is_whitespace) else {
        return line.split_whitespace().collect();
    };
    let mut words = vec![verb];
    let mut rest = rest.trim();
    // No JSON begins with two dashes.
    while rest.starts_with("--")
        && let Some((option, more)) = rest.split_once(char::is_whitespace)
    {
        words.push(option);
        rest = more.trim_start();
        if matches!(option, "--color" | "--runtime-dir")
            && let Some((value, more)) = rest.split_once(char::is_whitespace)
        {
            words.push(value);
            rest = more.trim_start();
        }
    }
    // Two dashes may be in the middle of a text: options begin where what is before them is complete.
    let whole = |text: &str| serde_json::from_str::<IgnoredAny>(text).is_ok();
    let ends = rest.match_indices(" --").map(|(at, _)| at);
    let end = ends.into_iter().find(|at| whole(unquoted(&rest[..*at]))).unwrap_or(rest.len());
    words.push(unquoted(&rest[..end]));
    words.extend(rest[end..].split_whitespace());
    words
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(text)
}

/// Made readable to its owner alone: it may name sessions.
fn history_file(environment: &Environment) -> Option<PathBuf> {
    let directory = user_state(environment)?;
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
    Some(directory.join("history"))
}

/// Completes commands and their slots.
#[derive(Helper, Hinter, Highlighter, Validator)]
struct Prompt {
    slots: Rc<Cell<u16>>,
}

impl Completer for Prompt {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, candidates) = complete(&line[..position], self.slots.get());
        Ok((
            start,
            candidates.into_iter().map(|word| Pair { display: word.clone(), replacement: word + " " }).collect(),
        ))
    }
}

/// Where the word begins that is being written, and what it may become.
fn complete(line: &str, slots: u16) -> (usize, Vec<String>) {
    let start = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
    let (before, word) = line.split_at(start);
    let verb = before.split_whitespace().next();
    let known: Vec<String> = match verb {
        None => {
            let verbs = Line::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect::<Vec<_>>();
            verbs.into_iter().chain(["help".to_owned()]).collect()
        }
        Some("help") => Line::command().get_subcommands().map(|verb| verb.get_name().to_owned()).collect(),
        Some("start" | "stop" | "restart" | "pid") => slot_words(slots),
        Some("signal") if before.split_whitespace().count() > 1 => slot_words(slots),
        Some("signal") => ["ABRT", "CONT", "KILL", "STOP"].map(str::to_owned).to_vec(),
        Some("tail") => slot_words(slots).into_iter().chain(["--follow".to_owned()]).collect(),
        Some("promote") => ["--canary", "--watch", "--keep-old"].map(str::to_owned).to_vec(),
        Some("connections") => ["--order", "oldest", "slowest", "biggest", "--limit"].map(str::to_owned).to_vec(),
        Some(_) => Vec::new(),
    };
    (start, known.into_iter().filter(|candidate| candidate.starts_with(word)).collect())
}

fn slot_words(slots: u16) -> Vec<String> {
    (0..slots).map(|slot| slot.to_string()).chain(["all".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_words() {
        assert_eq!(words("  stop 1   2 "), ["stop", "1", "2"]);
        assert_eq!(words("broadcast {\"a\": 1}"), ["broadcast", "{\"a\": 1}"]);
        assert_eq!(words("broadcast '{\"a\": 1}'"), ["broadcast", "{\"a\": 1}"]);
        for (line, expected) in [
            ("broadcast --json 5", &["broadcast", "--json", "5"][..]),
            ("broadcast --color blue {} --json", &["broadcast", "--color", "blue", "{}", "--json"]),
            ("broadcast '\"a -- b\"'  --color blue", &["broadcast", "\"a -- b\"", "--color", "blue"]),
            ("broadcast \"a --b", &["broadcast", "\"a --b"]),
            ("broadcast --json", &["broadcast", "--json"]),
        ] {
            assert_eq!(words(line), expected);
        }
        assert!(words("   ").is_empty() && words("# a remark").is_empty());
    }

    #[test]
    fn a_line_has_the_options_of_every_command() {
        let Line { manner, .. } = Line::try_parse_from(["status", "--json", "--color", "green"]).unwrap();
        assert_eq!(manner, Manner { color: Some("green".into()), runtime_dir: None, json: true });
    }

    #[test]
    fn commands_and_slots_are_completed() {
        assert_eq!(
            complete("re", 2),
            (0, ["restart", "reload", "rebalance", "reopen-logs"].map(str::to_owned).to_vec())
        );
        assert_eq!(complete("stop ", 2), (5, vec!["0".into(), "1".into(), "all".into()]));
        assert_eq!(complete("signal KILL a", 2), (12, vec!["all".into()]));
        assert_eq!(complete("help stat", 2), (5, vec!["status".into()]));
        assert_eq!(complete("disconnect a", 2), (11, vec![]));
    }

    #[test]
    fn help_is_there_and_wrong_lines_are_refused() {
        let help = Line::try_parse_from(["help"]).unwrap_err();
        assert!(!help.use_stderr() && help.to_string().contains("reopen-logs"), "{help}");
        assert!(Line::try_parse_from(["stauts"]).unwrap_err().to_string().contains("status"));
    }
}
