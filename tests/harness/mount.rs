//! File systems of a test's own; they need root.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file system in a directory of its own. Dropping it unmounts, also while it is in use.
pub struct Mount {
    dir: TempDir,
}

impl Mount {
    /// An empty file system in memory of this size, as mount(8) writes it: `24m`.
    #[track_caller]
    pub fn tmpfs(size: &str) -> Mount {
        let options = format!("size={size},mode=0755");
        Mount::with(&["-t", "tmpfs", "-o", &options, "baton-test"])
    }

    /// Another view of a directory, in which nothing can be changed.
    #[track_caller]
    pub fn read_only(directory: &Path) -> Mount {
        let mount = Mount::with(&["--bind", &directory.display().to_string()]);
        run(Command::new("mount").args(["-o", "remount,ro,bind"]).arg(mount.path()));
        mount
    }

    #[track_caller]
    fn with(args: &[&str]) -> Mount {
        let dir = tempfile::Builder::new().prefix("baton-mount-").tempdir().expect("a temporary directory");
        run(Command::new("mount").args(args).arg(dir.path()));
        Mount { dir }
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Takes all space that is left; it is free again when the returned file is removed.
    #[track_caller]
    pub fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = fs::File::create(&path).expect("an inode is left");
        let chunk = [1; 4096];
        let end = loop {
            if let Err(error) = file.write_all(&chunk) {
                break error;
            }
        };
        assert_eq!(end.kind(), io::ErrorKind::StorageFull);
        path
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().expect("mount(8) is installed");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: processes that are about to be killed may be in it.
        let unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.path().display());
        }
    }
}
