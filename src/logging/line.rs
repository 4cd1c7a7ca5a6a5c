//! An event as a line: pure.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::{self, Write};
use std::time::SystemTime;

use baton_ipc::Slot;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// One flat JSON object.
    #[default]
    Json,
    /// For human eyes.
    Pretty,
}

/// Who logs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Process {
    pub(super) color: String,
    /// The slot; none: the supervisor.
    pub(super) worker: Option<Slot>,
    pub(super) pid: u32,
}

impl Process {
    /// The beginning of its log files' names: none is the beginning of another one, since old files are found by it.
    pub(super) fn file_prefix(&self) -> String {
        match self.worker {
            Some(slot) => format!("baton-{}-w{slot:02}", self.color),
            None => format!("baton-{}-supervisor", self.color),
        }
    }
}

/// What an event says, in the order in which it says it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) rest: Vec<(&'static str, Value)>,
}

impl Fields {
    pub(super) fn of(event: &Event<'_>) -> Fields {
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields
    }

    fn add(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(message)) => self.message = message,
            ("message", value) => self.message = value.to_string(),
            (name, value) => self.rest.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no NaN and no infinity: they become null.
        self.add(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            write!(text, ": {cause}").expect("a String takes all that is written");
            source = cause.source();
        }
        self.add(field, text.into());
    }
}

/// The line, newline included.
pub(super) fn render(
    format: Format,
    color: bool,
    now: SystemTime,
    metadata: &Metadata<'_>,
    fields: Fields,
    process: &Process,
) -> String {
    let timestamp = humantime::format_rfc3339_millis(now).to_string();
    match format {
        Format::Json => json(timestamp, metadata, fields, process),
        Format::Pretty => pretty(&timestamp, color, metadata, &fields, process),
    }
}

/// Keys that every line has; a field of the same name goes by another.
const OURS: [&str; 4] = ["timestamp", "level", "logger", "message"];

fn json(timestamp: String, metadata: &Metadata<'_>, fields: Fields, process: &Process) -> String {
    let head = [timestamp, metadata.level().to_string(), metadata.target().to_owned(), fields.message];
    let mut members: Vec<(Cow<'static, str>, Value)> =
        OURS.into_iter().zip(head).map(|(name, text)| (name.into(), text.into())).collect();
    for (name, value) in fields.rest {
        let name = if OURS.contains(&name) { format!("field.{name}").into() } else { name.into() };
        members.push((name, value));
    }
    // An event of the supervisor may be about a worker and name it; two keys of one name would be no JSON to rely on.
    let context = [
        ("color", Some(Value::from(process.color.as_str()))),
        ("worker", process.worker.map(Value::from)),
        ("pid", Some(Value::from(process.pid))),
    ];
    for (name, value) in context {
        if let Some(value) = value.filter(|_| !members.iter().any(|(taken, _)| taken == name)) {
            members.push((name.into(), value));
        }
    }
    object(&members)
}

/// Writes members in their order, which `serde_json::Map` would sort.
fn object(members: &[(Cow<'static, str>, Value)]) -> String {
    let mut line = String::with_capacity(256);
    for (i, (name, value)) in members.iter().enumerate() {
        let open = if i == 0 { '{' } else { ',' };
        write!(line, "{open}{}:{value}", Value::from(name.as_ref())).expect("a String takes all that is written");
    }
    line.push_str("}\n");
    line
}

fn pretty(timestamp: &str, color: bool, metadata: &Metadata<'_>, fields: &Fields, process: &Process) -> String {
    let (paint, reset) = match (color, *metadata.level()) {
        (false, _) => ("", ""),
        (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
        (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
        (true, Level::INFO) => ("\x1b[32m", "\x1b[0m"),
        (true, Level::DEBUG | Level::TRACE) => ("\x1b[2m", "\x1b[0m"),
    };
    // The time of day is enough for who watches; files for later are JSON.
    let time = timestamp.get(11..23).unwrap_or(timestamp);
    let who = match process.worker {
        Some(slot) => format!("{} worker {slot}", process.color),
        None => format!("{} supervisor", process.color),
    };
    let level = metadata.level().as_str();
    let mut line = format!("{time} {paint}{level:5}{reset} {who}: {}", printable(&fields.message));
    for (name, value) in &fields.rest {
        let value = match value {
            Value::String(text) if text.contains([' ', '"', '=']) || text.is_empty() => format!("{text:?}"),
            Value::String(text) => printable(text).into_owned(),
            other => other.to_string(),
        };
        write!(line, " {name}={value}").expect("a String takes all that is written");
    }
    line.push('\n');
    line
}

/// Without characters that would move the cursor or forge another line.
fn printable(text: &str) -> Cow<'_, str> {
    match text.contains(char::is_control) {
        true => text.escape_debug().to_string().into(),
        false => text.into(),
    }
}
