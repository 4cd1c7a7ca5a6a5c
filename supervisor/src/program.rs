//! Finds the path by which this process was started, so that whatever is installed there later can be started again.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use baton_ipc::control::ProgramStatus;

use crate::sys;

/// The program of this process, as the kernel has it, with all symbolic links resolved (`proc_pid_exe(5)`).
const RUNNING: &str = "/proc/self/exe";

/// A program that was replaced is `/path (deleted)` there.
const DELETED: &str = " (deleted)";

/// Paths that lead to a descriptor or a process, and to something else in the next process.
const FLEETING: [&str; 2] = ["/proc", "/dev/fd"];

/// Returns the absolute path of the program as it was given to `execve(2)`, symbolic links left as they are: a deployment
/// that turns a link, or moves another file to this path, is followed. To be called at the start, before the working
/// directory or the path may change. If that path does not lead to the running program, it is where the kernel says that
/// the program is.
///
/// # Errors
/// Neither the kernel nor `/proc` says.
pub fn started_as() -> io::Result<PathBuf> {
    let typed = sys::executed_path().map(std::path::absolute).transpose()?.filter(|path| is_lasting(path));
    match (typed, fs::metadata(RUNNING)) {
        (Some(path), Ok(running)) if is_same(&path, &running) => Ok(path),
        // Without /proc nothing says otherwise.
        (Some(path), Err(_)) => Ok(path),
        (None, Err(error)) => Err(error),
        (Some(_) | None, Ok(_)) => Ok(without_mark(&fs::read_link(RUNNING)?)),
    }
}

/// What `status` says of the program of this process, which was started by this path.
pub(crate) fn status(started_as: &Path) -> io::Result<ProgramStatus> {
    let running = fs::metadata(RUNNING)?;
    Ok(ProgramStatus {
        file: without_mark(&fs::read_link(RUNNING)?).display().to_string(),
        identity: (running.dev(), running.ino()),
        replaced: !is_same(started_as, &running),
    })
}

/// Returns the file that a process runs, as the kernel has it.
pub(crate) fn of_process(pid: u32) -> io::Result<PathBuf> {
    Ok(without_mark(&fs::read_link(format!("/proc/{pid}/exe"))?))
}

fn is_lasting(path: &Path) -> bool {
    !FLEETING.iter().any(|directory| path.starts_with(directory))
}

fn is_same(path: &Path, running: &Metadata) -> bool {
    fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (running.dev(), running.ino()))
}

/// The path, without what the kernel adds for a file that is gone.
fn without_mark(path: &Path) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(DELETED.as_bytes()) {
        Some(bytes) => PathBuf::from(OsStr::from_bytes(bytes)),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_was_started_by_a_path_that_leads_to_it() {
        let path = started_as().unwrap();
        assert!(path.is_absolute() && is_same(&path, &fs::metadata(RUNNING).unwrap()), "{path:?}");
    }

    #[test]
    fn the_mark_of_a_file_that_is_gone_is_no_part_of_its_path() {
        assert_eq!(without_mark(Path::new("/usr/bin/baton (deleted)")), Path::new("/usr/bin/baton"));
        assert_eq!(without_mark(Path::new("/a (deleted)/baton")), Path::new("/a (deleted)/baton"));
        let no_unicode = OsStr::from_bytes(b"/\xff (deleted)");
        assert_eq!(without_mark(Path::new(no_unicode)).as_os_str().as_bytes(), b"/\xff");
    }

    #[test]
    fn a_path_of_a_descriptor_leads_elsewhere_in_the_next_process() {
        assert!(!is_lasting(Path::new("/proc/self/fd/3")) && !is_lasting(Path::new("/dev/fd/3")));
        assert!(is_lasting(Path::new("/devices/baton")));
    }
}
