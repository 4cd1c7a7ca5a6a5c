//! Any bytes from a client, however they are cut: the engine never panics, and says the same of the whole and the pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8])| {
    let (cut, stream) = input;
    let whole = baton_worker::fuzzing::feed(stream, stream.len());
    let pieces = baton_worker::fuzzing::feed(stream, cut.into());
    assert_eq!(whole.0, pieces.0);
    assert_eq!(whole.1.is_some(), pieces.1.is_some());
});
