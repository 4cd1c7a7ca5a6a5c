//! Programs that a test makes.
//!
//! Another process writes them: a file that this one has open for writing is open as well in a process that another test
//! starts in that moment, until it has begun its own program, and meanwhile nobody can execute it (`ETXTBSY`).

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A copy of a program, that any user may run.
pub fn copy(program: &Path, to: &Path) {
    let copied = Command::new("install").args(["-m", "755"]).args([program, to]).status().expect("coreutils");
    assert!(copied.success(), "{} cannot be copied to {}", program.display(), to.display());
}

/// A script that any user may run.
pub fn script(path: &Path, text: &str) {
    let mut command = Command::new("install");
    command.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped());
    let mut install = command.spawn().expect("coreutils");
    install.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("room in a pipe");
    assert!(install.wait().expect("a child of ours").success(), "{} cannot be written", path.display());
}
