//! Deaths on purpose, for tests of what a death at one point leaves behind. A build without debug assertions has none.

/// This process has come to a point. If the environment says `FAULT_POINT=NAME:PATH`, the first one that comes to the
/// point of that name makes a file at the path and dies there, as by SIGKILL.
#[cfg(debug_assertions)]
pub(crate) fn point(name: &str) {
    use std::sync::OnceLock;
    static WANTED: OnceLock<Option<(String, String)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("FAULT_POINT").ok()?;
        text.split_once(':').map(|(name, path)| (name.to_owned(), path.to_owned()))
    });
    let Some((_, path)) = wanted.as_ref().filter(|(wanted, _)| wanted == name) else { return };
    if std::fs::File::create_new(path).is_ok() {
        // It cannot fail, and does not return.
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(not(debug_assertions))]
pub(crate) fn point(_name: &str) {}
