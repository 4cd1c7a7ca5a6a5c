//! Any file instead of a store: the check says what is wrong with it, and never panics.
#![no_main]

use std::io::Write;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile();
    file.write_all(bytes).expect("memory");
    let _ = baton_worker::store::verify::verify(&file);
});

fn tempfile() -> std::fs::File {
    let name = format!("/dev/shm/baton-fuzz-{}", std::process::id());
    let file = std::fs::File::options().read(true).write(true).create(true).truncate(true).open(&name);
    let file = file.expect("/dev/shm is there");
    let _ = std::fs::remove_file(name);
    file
}
