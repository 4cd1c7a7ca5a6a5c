//! Writes the log files of one process, and bounds the bytes that all of them take.
//!
//! Another file begins with each day or hour, as tracing-appender does it. It knows no bound of bytes: that is kept here, by looking at
//! the files each time that a part of the bound was written. A file that has become large is renamed, so that its beginning
//! can go before its end does; then the oldest go until there is room for what comes until the next look.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tracing_appender::rolling::{self, RollingFileAppender};

/// Parts of the bound after which files are looked at: that much may come until the next look.
const LOOKS: u64 = 32;

/// A file that is larger than this part of the bound is renamed: at most that much of the oldest lines goes at once.
const SEGMENTS: u64 = 8;

/// Names that are tried for a large file.
const ATTEMPTS: u32 = 100_000;

/// Where the files of one process are, and how many and how large they may be.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) directory: PathBuf,
    /// What the names begin with: `baton-blue-w03`.
    pub(super) prefix: String,
    pub(super) rotation: rolling::Rotation,
    /// The most files, the current one included; none: any number.
    pub(super) keep: Option<usize>,
    /// The most bytes in all of them; none: any number.
    pub(super) max_size: Option<u64>,
}

/// The files, open for writing.
pub(super) struct Files {
    place: Place,
    current: RollingFileAppender,
    /// Bytes since the last look.
    unseen: u64,
}

impl Files {
    pub(super) fn open(place: Place) -> io::Result<Files> {
        let mut files = Files { current: place.open()?, place, unseen: 0 };
        files.look(0)?;
        Ok(files)
    }

    /// Keeps the bound, with room for so many bytes and for what comes until the next look.
    fn look(&mut self, coming: u64) -> io::Result<()> {
        self.unseen = 0;
        let Some(max) = self.place.max_size else { return Ok(()) };
        let current = self.place.files()?.pop().filter(|file| file.bytes > max / SEGMENTS);
        let set_aside = current.map_or(Ok(()), |current| set_aside(&current.path));
        // Also if it was not: another process of the same place, which is about to end or about to be the only one, may have done
        // it, and what is written must be what is never removed.
        self.current = self.place.open()?;
        let mut found = self.place.files()?;
        let mut bytes: u64 = found.iter().map(|file| file.bytes).sum();
        // The last one is written.
        found.pop();
        let most = max.saturating_sub(coming.max(max / LOOKS));
        for file in found {
            if bytes <= most {
                break;
            }
            fs::remove_file(&file.path)?;
            bytes -= file.bytes;
        }
        set_aside
    }
}

impl Write for Files {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let coming = line.len() as u64;
        if self.place.max_size.is_some_and(|max| self.unseen + coming > max / LOOKS) {
            // A line is worth more than the bound, which is tried again after as much has been written.
            let _ = self.look(coming);
        }
        let written = self.current.write(line)?;
        self.unseen += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.current.flush()
    }
}

/// A file that there is.
#[derive(Debug)]
struct Found {
    modified: SystemTime,
    path: PathBuf,
    bytes: u64,
}

impl Place {
    fn open(&self) -> io::Result<RollingFileAppender> {
        let builder = RollingFileAppender::builder().rotation(self.rotation.clone());
        let builder = builder.filename_prefix(&self.prefix).filename_suffix("log");
        let builder = self.keep.into_iter().fold(builder, rolling::Builder::max_log_files);
        builder.build(&self.directory).map_err(|error| {
            let reason = std::error::Error::source(&error).map_or(error.to_string(), |source| source.to_string());
            io::Error::other(format!("cannot write logs in {}: {reason}", self.directory.display()))
        })
    }

    /// The files of this process, oldest first; the last one is that which is written.
    fn files(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(middle) = name.to_str().and_then(|name| name.strip_prefix(&self.prefix)?.strip_suffix(".log"))
            else {
                continue;
            };
            // Another process may remove it.
            let Ok(about) = entry.metadata() else { continue };
            if middle.starts_with('.') && about.is_file() {
                let is_set_aside = middle.matches('.').count() > 1;
                let modified = about.modified()?;
                found.push((is_set_aside, Found { modified, path: entry.path(), bytes: about.len() }));
            }
        }
        // Of those that were not set aside the latest by name is written: that is its time.
        let current = found.iter().filter(|(aside, _)| !aside).map(|(_, file)| file.path.clone()).max();
        let mut found: Vec<Found> = found.into_iter().map(|(_, file)| file).collect();
        found.sort_by(|a, b| {
            let order = |file: &Found| (Some(&file.path) == current.as_ref(), file.modified);
            order(a).cmp(&order(b)).then_with(|| a.path.cmp(&b.path))
        });
        Ok(found)
    }
}

/// Renames `NAME.TIME.log` to the first `NAME.TIME.N.log` that there is not.
fn set_aside(path: &Path) -> io::Result<()> {
    let beginning = path.with_extension("");
    for n in 1..ATTEMPTS {
        let mut to = beginning.clone().into_os_string();
        to.push(format!(".{n}.log"));
        match renameat2(AT_FDCWD, path, AT_FDCWD, to.as_os_str(), RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(nix::Error::EEXIST) => {}
            // Not every file system can refuse to replace (NFS).
            Err(nix::Error::EINVAL | nix::Error::ENOSYS) if !Path::new(&to).exists() => return fs::rename(path, to),
            Err(nix::Error::EINVAL | nix::Error::ENOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 64 * 1024;

    fn place(directory: &Path, max_size: Option<u64>) -> Place {
        let rotation = rolling::Rotation::DAILY;
        Place { directory: directory.to_owned(), prefix: "baton-blue-w01".into(), rotation, keep: None, max_size }
    }

    fn bytes(place: &Place) -> u64 {
        place.files().unwrap().iter().map(|file| file.bytes).sum()
    }

    /// All lines that there are, in their order.
    fn lines(place: &Place) -> Vec<usize> {
        let texts = place.files().unwrap().into_iter().map(|file| fs::read_to_string(file.path).unwrap());
        let text: String = texts.collect();
        text.lines().map(|line| line.trim_start_matches('.').parse().unwrap()).collect()
    }

    fn write(files: &mut Files, numbers: std::ops::Range<usize>) {
        numbers.for_each(|n| files.write_all(format!("{n:.>99}\n").as_bytes()).unwrap());
    }

    #[test]
    fn a_flood_of_one_day_takes_no_more_than_the_bound_and_the_newest_lines_stay() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path(), Some(MAX));
        let mut files = Files::open(place.clone()).unwrap();
        let strangers = ["baton-blue-w010.2026-01-01.log", "baton-blue-w01.2026-01-01.log.gz", "other"];
        for name in strangers {
            fs::write(directory.path().join(name), vec![b'x'; 100_000]).unwrap();
        }
        for step in 0..100 {
            write(&mut files, step * 100..(step + 1) * 100);
            assert!(bytes(&place) <= MAX, "{}", bytes(&place));
        }
        let kept = lines(&place);
        assert_eq!(kept.last(), Some(&9999));
        assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1), "lines are missing between others: {kept:?}");
        assert!(kept.len() as u64 * 100 >= MAX * 3 / 4, "{} lines", kept.len());
        assert!(strangers.iter().all(|name| directory.path().join(name).exists()));
    }

    #[test]
    fn of_several_days_the_oldest_goes_first_and_also_at_a_start() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path(), Some(MAX));
        for day in 1..=4 {
            let path = directory.path().join(format!("baton-blue-w01.2026-01-0{day}.log"));
            fs::write(&path, vec![b'x'; 30 * 1024]).unwrap();
            let written = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_767_000_000 + day * 86_400);
            fs::File::options().append(true).open(&path).unwrap().set_modified(written).unwrap();
        }
        drop(Files::open(place.clone()).unwrap());
        let names: Vec<_> =
            place.files().unwrap().iter().map(|file| file.path.file_name().unwrap().to_owned()).collect();
        let [third, fourth, current] = &names[..] else { panic!("{names:?}") };
        assert_eq!(
            (third.to_str(), fourth.to_str()),
            (Some("baton-blue-w01.2026-01-03.log"), Some("baton-blue-w01.2026-01-04.log"))
        );
        assert_ne!(current, fourth);
        // Without a bound nothing goes.
        drop(Files::open(Place { max_size: None, ..place.clone() }).unwrap());
        assert_eq!(place.files().unwrap().len(), 3);
    }

    #[test]
    fn two_processes_of_one_place_lose_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let place = place(directory.path(), Some(MAX));
        let mut both = [0, 1].map(|_| Files::open(place.clone()).unwrap());
        // As many as stay below the bound.
        for n in 0..400 {
            write(&mut both[n % 2], n..n + 1);
        }
        let mut kept = lines(&place);
        kept.sort_unstable();
        assert_eq!(kept, (0..400).collect::<Vec<_>>());
        assert!(place.files().unwrap().len() > 2, "none was set aside");
    }
}
