//! Faults on purpose, for tests of what a death at one point leaves behind. A build without debug assertions has none.

/// This process has come to a point. If the environment says `FAULT_POINT=NAME:SIGNAL:PATH` and there is a file at the
/// path, whoever comes to the point of that name first removes the file and sends itself the signal.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::OnceLock;

    use nix::sys::signal::{Signal, raise};

    static WANTED: OnceLock<Option<(String, Signal, String)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("FAULT_POINT").ok()?;
        let (name, rest) = text.split_once(':')?;
        let (signal, path) = rest.split_once(':')?;
        Some((name.to_owned(), signal.parse().ok()?, path.to_owned()))
    });
    let Some((_, signal, path)) = wanted.as_ref().filter(|(wanted, ..)| wanted == name) else { return };
    if std::fs::remove_file(path).is_ok() {
        // It fails for no signal that there is.
        let _ = raise(*signal);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn point(_name: &str) {}
