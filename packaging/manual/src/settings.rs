//! baton.toml(5), from the table of settings.

use baton::manual::Setting;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::command::sentence;
use crate::{MANUAL, SOURCE};

const DESCRIPTION: [&str; 3] = [
    "baton reads this file when it starts, and again at a reload. It is TOML: one line for each setting, without tables. A wrong \
     value is refused, and so is an unknown key, with the line and what is allowed; a service that runs goes on with what it \
     has. \"baton check-config\" tells whether a file is valid, \"baton run --print-config\" what comes of it.",
    "Every setting can be a flag of \"baton run\" as well, or an environment variable: drain-timeout is --drain-timeout and \
     BATON_DRAIN_TIMEOUT. Flags win over variables, and variables over this file. Secrets are no flags, since any user of \
     the machine can list those.",
    "The file is /etc/baton/baton.toml, unless --config or BATON_CONFIG names another one. It need not be there.",
];

const VALUES: [(&str, &str); 5] = [
    ("DURATION", "A number and a unit: \"500ms\", \"30s\", \"5m\", \"24h\"."),
    ("SIZE", "Bytes, or a number and a unit: \"64KiB\", \"1MiB\", \"1GiB\"."),
    ("N", "A number: 4."),
    (
        "list",
        "Strings in brackets: [\"0.0.0.0:8000\", \"unix:/run/baton/http.sock\"]. In a variable: with commas between them.",
    ),
    ("none", "\"none\": not set, where that is allowed."),
];

const EXAMPLE: &str = "\
listen = [\"127.0.0.1:8000\"]
workers = 8
trusted-proxies = [\"127.0.0.1\"]
session-ttl = \"7d\"
max-message-size = \"64KiB\"";

/// File name and text; the date is that of the manual.
pub(crate) fn page(date: &str) -> (String, Vec<u8>) {
    let mut roff = Roff::new();
    roff.control("TH", ["BATON.TOML", "5", date, SOURCE, MANUAL]);
    roff.control("SH", ["NAME"]);
    roff.text([roman("baton.toml - configuration of the baton WebSocket service")]);
    roff.control("SH", ["SYNOPSIS"]);
    roff.text([italic("/etc/baton/baton.toml")]);
    roff.control("SH", ["DESCRIPTION"]);
    for (n, paragraph) in DESCRIPTION.iter().enumerate() {
        if n > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(*paragraph)]);
    }
    roff.control("SH", ["VALUES"]);
    for (word, what) in VALUES {
        roff.control("TP", []);
        roff.text([italic(word)]);
        roff.text([roman(what)]);
    }
    let mut group = "";
    for setting in baton::manual::settings() {
        if setting.group != group {
            group = setting.group;
            roff.control("SH", [group.to_uppercase().as_str()]);
        }
        describe(&mut roff, &setting);
    }
    roff.control("SH", ["EXAMPLE"]);
    roff.control("nf", []);
    for line in EXAMPLE.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("baton"), roman("(1), "), bold("batonctl"), roman("(1), "), bold("baton"), roman("(7)")]);
    ("baton.toml.5".to_owned(), roff.to_roff().into_bytes())
}

fn describe(roff: &mut Roff, setting: &Setting) {
    roff.control("TP", []);
    let mut head: Vec<Inline> = vec![bold(setting.name), roman(" = "), italic(setting.placeholder)];
    if setting.is_list {
        head.push(roman(" (list)"));
    }
    roff.text(head);
    let default = match setting.default.as_deref() {
        // Where it needs saying, the help does.
        None | Some("none") => String::new(),
        Some(text) => format!(" Default: {text}."),
    };
    roff.text([roman(format!("{}{default}", sentence(setting.help)))]);
    // The first one has the setting's own name, which the page has told how to make.
    if let [_, others @ ..] = &setting.variables[..]
        && !others.is_empty()
    {
        roff.control("IP", []);
        roff.text([roman(format!("Also the environment variable {}.", others.join(" or ")))]);
    }
    if !setting.has_flag {
        roff.control("IP", []);
        roff.text([roman("No flag.")]);
    }
}
