//! Faults on purpose, for tests of what a death at one point leaves behind. A build without debug assertions has none.

/// This process has come to a point. If the environment says `FAULT_POINT=NAME:SIGNAL:PATH` and there is a file at the
/// path, whoever comes to the point of that name first removes the file and sends itself the signal; with `PANIC` in place
/// of the signal it panics.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::OnceLock;

    use nix::sys::signal::{Signal, raise};

    enum Fault {
        Raise(Signal),
        Panic,
    }

    static WANTED: OnceLock<Option<(String, Fault, String)>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("FAULT_POINT").ok()?;
        let (name, rest) = text.split_once(':')?;
        let (fault, path) = rest.split_once(':')?;
        let fault = match fault {
            "PANIC" => Fault::Panic,
            signal => Fault::Raise(signal.parse().ok()?),
        };
        Some((name.to_owned(), fault, path.to_owned()))
    });
    let Some((_, fault, path)) = wanted.as_ref().filter(|(wanted, ..)| wanted == name) else { return };
    if std::fs::remove_file(path).is_err() {
        return;
    }
    match fault {
        // It fails for no signal that there is.
        Fault::Raise(signal) => drop(raise(*signal)),
        Fault::Panic => panic!("fault point: {name}"),
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub fn point(_name: &str) {}
