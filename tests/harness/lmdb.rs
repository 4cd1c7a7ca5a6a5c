//! The store's file, looked at and written to from outside.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, WithoutTls};

type Table = Database<'static, Bytes, Bytes>;

/// Runs `act` in the environment of this directory, and closes it: heed lets no process open one twice.
fn with_env<T>(directory: &Path, act: impl FnOnce(&Env<WithoutTls>) -> T) -> T {
    // The map of the workers: whoever opens it with another size changes the file's length under them.
    let length = directory.join("data.mdb").metadata().expect("a store").len();
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(length.next_multiple_of(4096) as usize).max_dbs(4).max_readers(1024);
    // SAFETY: these are the flags of the workers, who share the file through its lock file.
    let env =
        unsafe { options.flags(EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC | EnvFlags::NO_META_SYNC).open(directory) };
    let env = env.expect("an LMDB environment");
    let value = act(&env);
    env.prepare_for_closing().wait();
    value
}

fn sessions(env: &Env<WithoutTls>) -> Table {
    let txn = env.read_txn().expect("a transaction");
    let opened = env.open_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
        let table = opener.open_database::<Bytes, Bytes>(txn, Some("sessions"))?;
        Ok(CommitOrAbort::<_, ()>::Commit(table.expect("a store")))
    });
    opened.expect("a table").unwrap_commit()
}

fn key(session: &str) -> Vec<u8> {
    [b"t", session.as_bytes()].concat()
}

/// The count of a session in a file that nobody uses, such as a checkpoint; the file itself is left alone.
pub fn count_in(file: &Path, session: &str) -> Option<u64> {
    let copy = tempfile::tempdir().expect("a temporary directory");
    std::fs::copy(file, copy.path().join("data.mdb")).expect("a copy");
    with_env(copy.path(), |env| {
        let sessions = sessions(env);
        let txn = env.read_txn().expect("a transaction");
        let record = sessions.get(&txn, &key(session)).expect("a lookup")?;
        Some(u64::from_le_bytes(record[1..9].try_into().expect("a record")))
    })
}

/// Lets the store of a running service grow until it uses this many bytes of its file, by sessions that were last used
/// so many seconds from now.
pub fn grow_to(directory: &Path, bytes: u64, seconds: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    const PIECE: usize = 64 * 1024;
    with_env(directory, |env| {
        let sessions = sessions(env);
        for n in 0u32.. {
            let used = (env.info().last_page_number as u64 + 1) * 4096;
            if used + 2 * PIECE as u64 > bytes {
                break;
            }
            let mut txn = env.write_txn().expect("a transaction");
            // A record of this version, with much behind it.
            let mut record = vec![0; PIECE];
            record[..2].copy_from_slice(&[1, 1]);
            record[9..17].copy_from_slice(&(now + seconds).to_le_bytes());
            sessions.put(&mut txn, &key(&format!("much-{n}")), &record).expect("room");
            txn.commit().expect("a commit");
        }
    });
}
