//! Changes to files that are either done or not done, whatever stops the machine in between.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use baton_ipc::private;
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;

/// Disk space is taken in pieces of this many bytes (16 MiB).
pub const CHUNK: u64 = 16 * 1024 * 1024;

/// Makes sure that the bytes from `have` to `want` of the file have blocks on the disk, and returns up to where they
/// now do: `want` rounded up to a whole [`CHUNK`] if there is so much left, or `have` if that is enough.
///
/// With `WRITE_MAP`, LMDB writes through a shared mapping of a sparse file. A hole that is written to while the disk is
/// full cannot be reported by an error: the process gets SIGBUS. So whatever a transaction may touch must be allocated
/// before it begins: call this with the end of the used pages plus room for the largest transaction, and give up the
/// transaction on an error. It is cheap where nothing is missing, and processes that share a file may all call it.
///
/// The length of the file is never changed (`FALLOC_FL_KEEP_SIZE`): LMDB takes a file of length 0 for a new one, and
/// sets the length itself. Blocks beyond the end stay with the file when it grows over them (ext4, XFS, tmpfs).
///
/// On a copy-on-write file system (btrfs, ZFS, bcachefs) a rewritten page needs new blocks, so there it holds for the
/// first write only.
///
/// # Errors
/// `ENOSPC` or `EDQUOT`: the disk or the quota is full. `EOPNOTSUPP`: the file system cannot do it. `EFBIG`.
pub fn preallocate(file: &File, have: u64, want: u64) -> io::Result<u64> {
    if want <= have {
        return Ok(have);
    }
    let end = want.checked_next_multiple_of(CHUNK).ok_or(Errno::EFBIG)?;
    match allocate(file, have, end - have) {
        Ok(()) => Ok(end),
        // The last bit of the disk is worth having too.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) => {
            allocate(file, have, want - have).map(|()| want)
        }
        Err(error) => Err(error),
    }
}

/// Gives these bytes of the file blocks on the disk, without changing its length.
pub(super) fn allocate(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return Err(Errno::EFBIG.into());
    };
    loop {
        match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, offset, length) {
            Ok(()) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Makes what was created, renamed or removed in the directory survive a power loss.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Gives the file `name` this content, all of it or none.
pub(crate) fn write_durably(directory: &Path, name: &str, content: &str) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let mut file = private::create(&temporary)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    rename_durably(directory, temporary.file_name().unwrap_or_default(), OsStr::new(name))
}

/// Renames within the directory.
pub(super) fn rename_durably(directory: &Path, from: &OsStr, to: &OsStr) -> io::Result<()> {
    fs::rename(directory.join(from), directory.join(to))?;
    sync_directory(directory)
}

/// Removes the file if it is there; true if it was.
pub(super) fn remove_durably(directory: &Path, name: &str) -> io::Result<bool> {
    let was_there = remove_if_there(&directory.join(name))?;
    if was_there {
        sync_directory(directory)?;
    }
    Ok(was_there)
}

/// Removes the file if it is there; true if it was.
pub(super) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The content of a small text file, or none if it is missing. What is not UTF-8 is replaced.
pub(super) fn read_text(path: &Path) -> io::Result<Option<String>> {
    let mut content = Vec::new();
    match File::open(path).and_then(|file| file.take(64 * 1024).read_to_end(&mut content)) {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&content).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Copies the content into a new file at `path`, down to the disk.
///
/// Not by `copy_file_range(2)`: XFS and btrfs answer it by sharing the blocks of both files, and then the first write
/// to each page needs a new block, which a full disk refuses with SIGBUS.
pub(super) fn copy_durably(from: &mut File, path: &Path) -> io::Result<()> {
    let mut to = private::create(path)?;
    let mut buffer = vec![0; 1024 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return to.sync_all(),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
