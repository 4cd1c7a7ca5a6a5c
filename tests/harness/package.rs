//! What is installed, as a package or by `make install`: made once of the programs under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::example;
use super::service::baton;

/// A script of the project.
pub fn script(name: &str) -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name));
    command.stdin(Stdio::null());
    command
}

/// The directory with all programs that are installed or needed for it.
#[track_caller]
pub fn programs() -> PathBuf {
    example::program_of("baton-manual");
    baton().parent().expect("a directory").to_owned()
}

/// Debian packages of the programs under test, one for each of the versions, in a directory of their own.
#[track_caller]
pub fn packages(versions: &[&str]) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for version in versions {
        let mut package = script("package.sh");
        package.arg("--programs").arg(programs()).args(["--version", version, "--output"]).arg(directory.path());
        let output = package.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = directory.path().join(format!("baton_{version}_{}.deb", architecture()));
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), path.to_string_lossy(), "it says where");
        assert!(path.exists(), "{}", path.display());
    }
    directory
}

/// What Debian calls this machine's processor.
pub fn architecture() -> &'static str {
    static ARCHITECTURE: OnceLock<String> = OnceLock::new();
    ARCHITECTURE.get_or_init(|| {
        let output = Command::new("dpkg").arg("--print-architecture").output().expect("dpkg");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    })
}

/// Manual pages and completions, as they are installed.
#[track_caller]
pub fn manual(directory: &Path) {
    let output = script("manual.sh").arg(programs()).arg(directory).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The files below a directory, sorted, each as a path from it.
pub fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(path);
            } else {
                found.push(path.strip_prefix(directory).expect("it is below").display().to_string());
            }
        }
    }
    found.sort();
    found
}
