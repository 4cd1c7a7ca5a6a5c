//! Where lines go: standard error or a daily file, at once or through a thread.

use std::io::{self, IsTerminal, Stderr, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use baton_ipc::private;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling;

use super::Settings;
use super::files::{Files, Place};
use super::line::{Format, Process};

/// Lines that wait for the writing thread; more are dropped and counted.
const QUEUED_LINES: usize = 1024;

/// As `ps -L` shows it: at most 15 bytes.
const THREAD_NAME: &str = "baton-log";

// Of this process, except those that the queue in use has counted itself.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Counts lines that nobody will see.
pub(super) fn count_dropped(lines: u64) {
    DROPPED.fetch_add(lines, Ordering::Relaxed);
}

/// What [`count_dropped`] has counted.
pub(super) fn counted() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// When another file begins. Days and hours are those of UTC, and are part of a file's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// Every day.
    #[default]
    Daily,
    /// Every hour.
    Hourly,
    /// Never: somebody else moves files away, and says so.
    Never,
}

/// Takes whole lines and never fails.
pub(super) struct Sink {
    writer: Writer,
    quiet: u8,
    color: bool,
}

enum Writer {
    /// The supervisor's: it forks, so it has no thread.
    Direct(Lossy<Target>),
    /// A worker's, until its first line. A process of one thread makes cheaper system calls (nobody shares its table of
    /// descriptors), and most of the time there is nothing to log.
    Resting(Option<Lossy<Target>>),
    /// A worker's: a bounded queue to a thread. Dropping the guard waits until the queue is written, a second at most.
    Queued { queue: NonBlocking, _guard: WorkerGuard },
}

/// Calls of [`Sink::is_quiet`] without a line between them after which there is no use for a thread.
const QUIET: u8 = 5;

impl Sink {
    /// The sink that these settings ask for, of this process.
    pub(super) fn open(settings: &Settings, process: &Process) -> io::Result<Sink> {
        let target = match &settings.directory {
            None => Target::Stderr(io::stderr()),
            Some(directory) => {
                let refused =
                    |reason: &dyn std::fmt::Display| format!("cannot write logs in {}: {reason}", directory.display());
                std::fs::create_dir_all(directory).map_err(|error| io::Error::other(refused(&error)))?;
                private::ensure_directory(directory).map_err(|error| io::Error::other(refused(&error)))?;
                let (rotation, keep, max_size) = match settings.rotation {
                    Rotation::Daily => (rolling::Rotation::DAILY, settings.keep, settings.max_size),
                    Rotation::Hourly => (rolling::Rotation::HOURLY, settings.keep, settings.max_size),
                    Rotation::Never => (rolling::Rotation::NEVER, None, None),
                };
                let (directory, prefix) = (directory.clone(), process.file_prefix());
                Target::Files(Box::new(Files::open(Place { directory, prefix, rotation, keep, max_size })?))
            }
        };
        let color = settings.format == Format::Pretty
            && matches!(&target, Target::Stderr(stderr) if stderr.is_terminal())
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let writer = match process.worker {
            None => Writer::Direct(Lossy(target)),
            Some(_) => Writer::Resting(Some(Lossy(target))),
        };
        Ok(Sink { writer, quiet: 0, color })
    }

    /// Writes one line, newline included, or counts it as dropped.
    pub(super) fn write_line(&mut self, line: &str) {
        self.quiet = 0;
        if let Writer::Resting(target) = &mut self.writer
            && let Some(target) = target.take()
        {
            let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUED_LINES);
            let (queue, guard) = builder.thread_name(THREAD_NAME).finish(target);
            self.writer = Writer::Queued { queue, _guard: guard };
        }
        // Both writers swallow their errors and count them.
        let _ = match &mut self.writer {
            Writer::Direct(target) => target.write_all(line.as_bytes()),
            Writer::Queued { queue, .. } => queue.write_all(line.as_bytes()),
            Writer::Resting(_) => Ok(()),
        };
    }

    /// Whether a thread waits for lines that do not come. To be asked once in a while.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.quiet = self.quiet.saturating_add(1);
        matches!(self.writer, Writer::Queued { .. }) && self.quiet > QUIET
    }

    /// Whether a human with a colour terminal reads this.
    pub(super) fn color(&self) -> bool {
        self.color
    }

    /// Lines that found the queue full.
    pub(super) fn overflowed(&self) -> u64 {
        match &self.writer {
            Writer::Direct(_) | Writer::Resting(_) => 0,
            Writer::Queued { queue, .. } => queue.error_counter().dropped_lines() as u64,
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        count_dropped(self.overflowed());
    }
}

enum Target {
    Stderr(Stderr),
    Files(Box<Files>),
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::Stderr(stderr) => stderr.write(bytes),
            Target::Files(files) => files.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::Stderr(stderr) => stderr.flush(),
            Target::Files(files) => files.flush(),
        }
    }
}

/// Counts a line that cannot be written, and goes on: a full disk is no reason to stop serving.
struct Lossy<W>(W);

impl<W: Write> Write for Lossy<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.0.write_all(line).is_err() {
            count_dropped(1);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let before = counted();
        let mut sink = Lossy(Full);
        assert!(sink.write_all(b"a line\n").is_ok() && sink.flush().is_ok());
        assert!(counted() > before);
    }

    #[test]
    fn a_worker_writes_its_own_file_and_all_of_it_is_there_after_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { directory: Some(directory.path().join("logs")), ..Settings::default() };
        let process = Process { color: "blue".into(), worker: Some(3), pid: 1 };
        let mut sink = Sink::open(&settings, &process).unwrap();
        (0..100).for_each(|i| sink.write_line(&format!("line {i}\n")));
        assert_eq!(sink.overflowed(), 0);
        drop(sink);
        let files: Vec<_> =
            std::fs::read_dir(directory.path().join("logs")).unwrap().map(|f| f.unwrap().path()).collect();
        let name = files[0].file_name().unwrap().to_str().unwrap();
        assert!(files.len() == 1 && name.starts_with("baton-blue-w03.") && name.ends_with(".log"), "{files:?}");
        assert!(std::fs::read_to_string(&files[0]).unwrap().ends_with("line 98\nline 99\n"));
    }

    #[test]
    fn old_files_of_the_same_process_are_removed_and_the_current_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let names = || {
            let files = std::fs::read_dir(directory.path()).unwrap();
            let mut names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let old = ["baton-blue-w01.2026-01-01.log", "baton-blue-w01.2026-01-02.log", "baton-blue-w10.2026-01-01.log"];
        for name in old {
            std::fs::write(directory.path().join(name), "old\n").unwrap();
        }
        let settings = Settings { directory: Some(directory.path().to_owned()), keep: Some(2), ..Settings::default() };
        let process = Process { color: "blue".into(), worker: Some(1), pid: 1 };
        for line in ["first\n", "second\n"] {
            Sink::open(&settings, &process).unwrap().write_line(line);
        }
        let [current, other] = &names()[..] else { panic!("{:?}", names()) };
        assert_eq!(other, old[2]);
        assert_eq!(std::fs::read_to_string(directory.path().join(current)).unwrap(), "first\nsecond\n");

        let settings = Settings { rotation: Rotation::Never, ..settings };
        Sink::open(&settings, &process).unwrap().write_line("third\n");
        assert_eq!(names().len(), 3, "nothing is removed");
        assert_eq!(std::fs::read_to_string(directory.path().join("baton-blue-w01.log")).unwrap(), "third\n");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let settings = Settings { directory: Some("/dev/null/logs".into()), ..Settings::default() };
        let process = Process { color: "blue".into(), worker: None, pid: 1 };
        let error = Sink::open(&settings, &process).err().unwrap().to_string();
        assert!(error.starts_with("cannot write logs in /dev/null/logs: "), "{error}");
    }
}
