//! The log of every process: one line an event, JSON and flat, or pretty for a terminal.
//!
//! `tracing` takes one subscriber for the life of a process and `fork(2)` passes it on, so the subscriber here is a thin
//! layer over a replaceable sink. The supervisor writes without a thread, since it forks; a worker hands its lines to a
//! thread of its own through a bounded queue, so that a stuck disk or journal never holds up its clients. Every line
//! also goes into the process's log ring, where `batonctl tail` finds it. A line that cannot be written is counted,
//! and nothing else happens.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::SystemTime;

use baton_ipc::{Scoreboard, Side, Slot};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

mod files;
mod filter;
mod line;
mod sink;

pub(crate) use filter::Filter;
pub(crate) use line::Format;
pub(crate) use sink::Rotation;

use line::Process;
use sink::Sink;

/// How to log.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// Where files go; none: standard error.
    pub(crate) directory: Option<PathBuf>,
    /// When another file begins.
    pub(crate) rotation: Rotation,
    /// The most files of one process that are kept, the current one included: two at least; none: all. Nothing is removed
    /// where files do not rotate.
    pub(crate) keep: Option<usize>,
    /// The most bytes that all files of one process take; none: any number. Like `keep` only where files rotate.
    pub(crate) max_size: Option<u64>,
    /// How a line looks.
    pub(crate) format: Format,
    /// Which events get one.
    pub(crate) filter: Filter,
}

/// All that a process needs to log. Replaced as a whole.
struct Logger {
    settings: Settings,
    process: Process,
    sink: Sink,
}

/// A process's own ring on the scoreboard.
struct Ring {
    board: Rc<Scoreboard>,
    slot: Option<Slot>,
    side: Side,
}

static LOGGER: Mutex<Option<Logger>> = Mutex::new(None);

thread_local! {
    // A ring has one writer: the thread that attached it. Lines of other threads go to the sink alone.
    static RING: RefCell<Option<Ring>> = const { RefCell::new(None) };
    // Set while a line is made and written: an event from within would wait for a lock that its own thread holds.
    static WRITING: Cell<bool> = const { Cell::new(false) };
    // Set while this thread holds the logger's lock: a panic meanwhile must not wait for it.
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// Starts the log of the supervisor, or starts it anew with other settings. On an error the old one stays.
pub(crate) fn start_supervisor(settings: &Settings, color: &str) -> io::Result<()> {
    start(settings, Process { color: color.to_owned(), worker: None, pid: std::process::id() })
}

/// Starts the log of a worker, in the worker: its writing thread would not survive a fork.
pub(crate) fn start_worker(
    settings: &Settings,
    color: &str,
    slot: Slot,
    side: Side,
    board: Rc<Scoreboard>,
) -> io::Result<()> {
    attach_ring(board, Some(slot), side);
    start(settings, Process { color: color.to_owned(), worker: Some(slot), pid: std::process::id() })
}

fn start(settings: &Settings, process: Process) -> io::Result<()> {
    static SUBSCRIBER: Once = Once::new();
    let sink = Sink::open(settings, &process)?;
    let old = logger().replace(Logger { settings: settings.clone(), process, sink });
    drop(old);
    SUBSCRIBER.call_once(|| {
        // It fails if an application has set its own subscriber: then that one is the log.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Lines));
    });
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

/// From now on lines also go into this ring: one of a slot's, or of the supervisor's own.
pub(crate) fn attach_ring(board: Rc<Scoreboard>, slot: Option<Slot>, side: Side) {
    RING.set(Some(Ring { board, slot, side }));
}

/// Opens log files anew, after something has rotated them. If that fails, the old ones stay.
pub(crate) fn reopen() {
    let outcome = match logger().as_mut() {
        Some(logger) => {
            Sink::open(&logger.settings, &logger.process).map(|sink| std::mem::replace(&mut logger.sink, sink))
        }
        None => return,
    };
    match outcome {
        Ok(old) => drop(old),
        Err(error) => tracing::error!(%error, "cannot open the log file anew; the old one stays open"),
    }
}

/// Lets the writing thread go when there was nothing to write for a while; the next line brings a new one. To be called
/// every second.
pub(crate) fn rest() {
    let quiet = logger().as_mut().is_some_and(|logger| logger.sink.is_quiet());
    if quiet {
        reopen();
    }
}

/// From now on a panic is a line of the log, without what the code quotes in backticks: that can be a client's text.
///
/// A worker ends with its first panic (its supervisor sees to that), so there the hook returns once the line is written, or
/// after a second.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload_as_str().unwrap_or("no message");
        let message = payload.split('`').next().unwrap_or_default();
        log_panic(message, &panic.location().map(ToString::to_string).unwrap_or_default());
    }));
}

fn log_panic(message: &str, location: &str) {
    if HELD.get() {
        // The log itself has panicked. Whatever it holds this thread would wait for forever, standard error's lock included.
        let line = format!("baton: the log has panicked: {message} ({location})\n");
        let _ = nix::unistd::write(io::stderr().as_fd(), line.as_bytes());
        return;
    }
    // `Debug` of a value may have panicked while its line was made.
    WRITING.set(false);
    tracing::error!(event = "panicked", location, "panicked: {message}");
    if logger().as_ref().is_some_and(|logger| logger.process.worker.is_some()) {
        shutdown();
    }
}

/// Writes out what still waits, for a second at most. Lines after this are lost.
pub(crate) fn shutdown() {
    let logger = logger().take();
    drop(logger);
}

/// Log lines that this process could not write, since it began.
pub(crate) fn dropped_lines() -> u64 {
    sink::counted() + logger().as_ref().map_or(0, |logger| logger.sink.overflowed())
}

fn logger() -> Held {
    let logger = LOGGER.lock().unwrap_or_else(PoisonError::into_inner);
    HELD.set(true);
    Held(logger)
}

/// The logger, locked, and this thread known to hold it.
struct Held(MutexGuard<'static, Option<Logger>>);

impl Deref for Held {
    type Target = Option<Logger>;

    fn deref(&self) -> &Option<Logger> {
        &self.0
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut Option<Logger> {
        &mut self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(false);
    }
}

/// The subscriber's layer: what is enabled, and a line for each event.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    // Asked once for each callsite, and again when the settings are replaced.
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match logger().as_ref().is_some_and(|logger| logger.settings.filter.enables(metadata)) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        logger().as_ref().map(|logger| logger.settings.filter.max_level())
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        match Writing::enter() {
            Some(_writing) => write(event),
            None => sink::count_dropped(1),
        }
    }
}

/// Held while a line is made and written. It is given back also when a value's `Debug` panics.
struct Writing;

impl Writing {
    fn enter() -> Option<Writing> {
        (!WRITING.replace(true)).then_some(Writing)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.set(false);
    }
}

fn write(event: &Event<'_>) {
    // Before the lock: this runs `Debug` of the caller's values.
    let fields = line::Fields::of(event);
    let mut logger = logger();
    let Some(Logger { settings, process, sink }) = logger.as_mut() else {
        return sink::count_dropped(1);
    };
    let line = line::render(settings.format, sink.color(), SystemTime::now(), event.metadata(), fields, process);
    sink.write_line(&line);
    RING.with_borrow(|ring| {
        if let Some(Ring { board, slot, side }) = ring {
            board.ring(*slot, *side).write(line.as_bytes());
        }
    });
}

#[cfg(test)]
mod tests;
