//! Other programs of this workspace: the examples, which are like `baton`, of another [`baton::App`], and what makes the manual.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::SystemTime;

use super::service::baton;

/// The program of an example. `cargo test` has built it, but `cargo test --test suite` has not: then it is built here.
#[track_caller]
pub fn example(name: &str) -> PathBuf {
    let directory = baton().parent().expect("a directory").join("examples");
    fresh(directory.join(name), &["--example", name])
}

/// The program of another package of this workspace, of the same name, built likewise.
#[track_caller]
pub fn program_of(package: &str) -> PathBuf {
    fresh(baton().with_file_name(package), &["--package", package])
}

#[track_caller]
fn fresh(program: PathBuf, target: &[&str]) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    // Poisoned by a build that failed: the next one shows the same.
    let _alone = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !is_fresh(&program) {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--locked"]).args(target);
        if !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        let status = cargo.status().expect("cargo runs");
        assert!(status.success(), "{} cannot be built", program.display());
    }
    program
}

/// Whether a program is there and no source that it is made of is younger. Cargo lists them beside it, as a rule of make.
fn is_fresh(program: &Path) -> bool {
    let modified = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let Some(built) = modified(program) else { return false };
    let rule = fs::read_to_string(program.with_extension("d")).unwrap_or_default();
    let Some((_, sources)) = rule.split_once(": ") else { return false };
    let younger = |source: &str| modified(Path::new(source)).unwrap_or(SystemTime::now()) > built;
    !sources.split_whitespace().any(younger)
}
