//! The pages of section 1, from the grammars of the commands.

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::{MANUAL, SOURCE};

/// Files that the commands know of, and what they are.
const FILES: [(&str, &str); 5] = [
    ("/etc/baton/baton.toml", "Settings; see baton.toml(5)."),
    ("/etc/default/baton", "Secrets and other environment variables of the service."),
    ("/run/baton/COLOR.sock", "The control socket of a generation."),
    ("/var/lib/baton", "The embedded store."),
    ("/var/log/baton", "Log files, if log-dir says so."),
];

/// How the help begins to tell them.
const EXIT_CODES: &str = "Exit codes: ";

/// A synopsis of more options than these tells nobody anything.
const MOST_OPTIONS: usize = 16;

/// File names and texts of all of them; the date is that of the manual.
pub(crate) fn pages(date: &str) -> Vec<(String, Vec<u8>)> {
    let [mut baton, mut batonctl] = baton::manual::commands();
    baton.build();
    batonctl.build();
    let mut pages = vec![page(&baton, Commands::Pages, date), page(&batonctl, Commands::Here, date)];
    pages.extend(visible(&baton).map(|command| page(command, Commands::Pages, date)));
    pages
}

/// Where the commands of a command are described.
#[derive(Clone, Copy)]
enum Commands {
    /// On a page for each.
    Pages,
    /// On the same page: they are small.
    Here,
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|command| !command.is_hide_set())
}

fn page(command: &Command, commands: Commands, date: &str) -> (String, Vec<u8>) {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_owned();
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.clone()).title(name.to_uppercase()).manual(MANUAL).source(SOURCE).date(date);
    let mut text = Vec::new();
    let render = |text: &mut Vec<u8>| -> std::io::Result<()> {
        man.render_title(text)?;
        man.render_name_section(text)?;
        if command.get_arguments().count() > MOST_OPTIONS {
            let bin = command.get_bin_name().unwrap_or(&name);
            section("SYNOPSIS", vec![bold(bin), roman(" ["), italic("OPTION"), roman("...]")]).to_writer(text)?;
        } else {
            man.render_synopsis_section(text)?;
        }
        man.render_description_section(text)?;
        if command.get_arguments().any(|argument| !argument.is_hide_set()) {
            man.render_options_section(text)?;
        }
        match commands {
            Commands::Pages if visible(command).next().is_some() => man.render_subcommands_section(text)?,
            Commands::Pages => {}
            Commands::Here => section_of_commands(command).to_writer(text)?,
        }
        notes(&after, &name).to_writer(text)
    };
    render(&mut text).expect("a Vec takes all that is written");
    (format!("{name}.1"), text)
}

/// One paragraph for each command, with its arguments.
fn section_of_commands(command: &Command) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    for command in visible(command).filter(|command| command.get_name() != "help") {
        roff.control("TP", []);
        let mut usage = vec![bold(command.get_name())];
        for argument in command.get_positionals() {
            usage.extend([roman(" "), italic(argument.to_string())]);
        }
        roff.text(usage);
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
        for (n, paragraph) in about.split("\n\n").enumerate() {
            if n > 0 {
                roff.control("IP", []);
            }
            roff.text([roman(sentence(paragraph))]);
        }
        let options = command.get_arguments().filter(|argument| !argument.is_hide_set() && argument.get_id() != "help");
        for argument in options {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            if help.is_empty() {
                continue;
            }
            roff.control("RS", []);
            roff.control("TP", []);
            roff.text(names(argument));
            let default = match argument.get_default_values() {
                [value] if argument.get_action().takes_values() => format!(" Default: {}.", value.to_string_lossy()),
                _ => String::new(),
            };
            roff.text([roman(sentence(&help) + &default)]);
            roff.control("RE", []);
        }
    }
    roff
}

/// `-n, --lines N`, or `SLOT` of what has no flag.
fn names(argument: &clap::Arg) -> Vec<Inline> {
    let value = || argument.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    if argument.is_positional() {
        return vec![italic(value().unwrap_or_default())];
    }
    let mut line = Vec::new();
    if let Some(short) = argument.get_short() {
        line.extend([bold(format!("-{short}")), roman(", ")]);
    }
    line.push(bold(format!("--{}", argument.get_long().unwrap_or_default())));
    if argument.get_action().takes_values() {
        line.extend([roman(" "), italic(value().unwrap_or_default())]);
    }
    line
}

fn section(title: &str, text: Vec<Inline>) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    roff.text(text);
    roff
}

/// What ends the page: what the help says last, files, and other pages.
fn notes(after: &str, name: &str) -> Roff {
    let mut roff = Roff::new();
    let (codes, remarks): (Vec<_>, Vec<_>) =
        paragraphs(after).into_iter().partition(|paragraph| paragraph.starts_with(EXIT_CODES));
    for (n, paragraph) in remarks.iter().enumerate() {
        roff.control(if n == 0 { "SH" } else { "PP" }, (n == 0).then_some("NOTES"));
        roff.text([roman(sentence(paragraph))]);
    }
    for paragraph in &codes {
        roff.control("SH", ["EXIT STATUS"]);
        roff.text([roman(sentence(paragraph.trim_start_matches(EXIT_CODES)))]);
    }
    roff.control("SH", ["FILES"]);
    for (path, what) in FILES {
        roff.control("TP", []);
        roff.text([italic(path)]);
        roff.text([roman(what)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    let pages = [("baton", "1"), ("batonctl", "1"), ("baton.toml", "5"), ("baton", "7")];
    let others: Vec<_> = pages.iter().filter(|(page, section)| !(*page == name && *section == "1")).collect();
    let mut line = Vec::new();
    for (n, (page, section)) in others.iter().enumerate() {
        let separator = if n + 1 == others.len() { "" } else { ", " };
        line.extend([bold(*page), roman(format!("({section}){separator}"))]);
    }
    roff.text(line);
    roff
}

/// The help's own line breaks are not the page's: a line that goes on with a sentence belongs to the one before.
fn paragraphs(text: &str) -> Vec<String> {
    let mut paragraphs: Vec<String> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match paragraphs.last_mut() {
            Some(last) if !line.starts_with(char::is_uppercase) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            Some(_) | None => paragraphs.push(line.trim().to_owned()),
        }
    }
    paragraphs
}

/// With the full stop that help lines do without.
pub(crate) fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', ':', '?']) { text.to_owned() } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_goes_on_with_a_sentence_is_no_paragraph() {
        let help = "Without a command: a shell.\nExit codes: 0 done, 1 failed,\n2 wrong usage\n\nMore";
        assert_eq!(
            paragraphs(help),
            ["Without a command: a shell.", "Exit codes: 0 done, 1 failed, 2 wrong usage", "More"]
        );
    }

    #[test]
    fn a_sentence_ends_with_one_full_stop() {
        assert_eq!(sentence("Print help\n"), "Print help.");
        assert_eq!(sentence("It goes on."), "It goes on.");
        assert_eq!(sentence(""), "");
    }
}
