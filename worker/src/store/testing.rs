//! Real environments for the tests, and a real process that writes to one until it is killed.
#![allow(unsafe_code)] // heed's open is unsafe: the file must not be changed behind its back. Tests keep to that.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{RwLock, RwLockReadGuard};

use heed::types::{Bytes, U64};
use heed::{CommitOrAbort, CompactionOption, Database, DatabaseFlags, Env, EnvFlags, EnvOpenOptions, WithTls};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Keys and values without meaning.
pub(super) type Raw = Database<'static, Bytes, Bytes>;
type Counts = Database<'static, Bytes, U64<heed::byteorder::LittleEndian>>;

/// The flags of the workers.
pub(super) fn worker_flags() -> EnvFlags {
    EnvFlags::WRITE_MAP | EnvFlags::NO_SYNC
}

pub(super) fn open(directory: &Path, flags: EnvFlags) -> Env<WithTls> {
    let mut options = EnvOpenOptions::new();
    options.map_size(256 * 1024 * 1024).max_dbs(16);
    // SAFETY: WRITE_MAP and NO_SYNC only give up safety against power loss, and each test has its directory to itself.
    unsafe { options.flags(flags).open(directory) }.unwrap()
}

/// Runs `body` in the environment and closes it: heed lets no process open one twice.
pub(super) fn with_env<T>(directory: &Path, flags: EnvFlags, body: impl FnOnce(&Env<WithTls>) -> T) -> T {
    let env = open(directory, flags);
    let result = body(&env);
    env.prepare_for_closing().wait();
    result
}

/// Opens the database of this name, none being the main one, and creates it if it is missing.
pub(super) fn database(env: &Env<WithTls>, name: Option<&str>, flags: DatabaseFlags) -> Raw {
    let txn = env.write_txn().unwrap();
    let opened = env.create_databases_and_commit(txn, |opener, txn| -> heed::Result<_> {
        let mut options = opener.database_options().types::<Bytes, Bytes>();
        if let Some(name) = name {
            options.name(name);
        }
        options.flags(flags).create(txn).map(CommitOrAbort::<_, ()>::Commit)
    });
    opened.unwrap().unwrap_commit()
}

fn counts(env: &Env<WithTls>) -> Counts {
    database(env, Some("counts"), DatabaseFlags::empty()).remap_types()
}

/// Stores `count` under `name`.
pub(super) fn put(directory: &Path, name: &str, count: u64) {
    with_env(directory, worker_flags(), |env| {
        let counts = counts(env);
        let mut txn = env.write_txn().unwrap();
        counts.put(&mut txn, name.as_bytes(), &count).unwrap();
        txn.commit().unwrap();
    });
}

/// What is stored under `name`.
pub(super) fn get(directory: &Path, name: &str) -> Option<u64> {
    with_env(directory, worker_flags(), |env| {
        let counts = counts(env);
        let txn = env.read_txn().unwrap();
        counts.get(&txn, name.as_bytes()).unwrap()
    })
}

/// Writes `checkpoint.mdb` as a worker does.
pub(super) fn checkpoint(directory: &Path) {
    with_env(directory, worker_flags(), |env| {
        let mut file = std::fs::File::create(directory.join("checkpoint.mdb")).unwrap();
        env.copy_to_file(&mut file, CompactionOption::Disabled).unwrap();
        file.sync_all().unwrap();
    });
}

/// Between fork and exec a child holds duplicates of all descriptors of all tests, and so their locks.
static SPAWNING: RwLock<()> = RwLock::new(());

/// While it is held, no lock is kept alive by a child that is just coming into being.
pub(crate) fn no_spawning() -> RwLockReadGuard<'static, ()> {
    SPAWNING.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Starts a process whose output is read, and waits for the first of it: then the process has come to its exec.
pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let _spawning = SPAWNING.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    let child = command.stdout(Stdio::piped()).spawn()?;
    if let Some(stdout) = &child.stdout {
        poll(&mut [PollFd::new(stdout.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    }
    Ok(child)
}

const WRITER: &str = "BATON_TEST_WRITER";

/// This very test binary as a process that commits counts 1, 2, 3 … and prints each one after its commit.
pub(super) struct Writer {
    child: Child,
    committed: BufReader<ChildStdout>,
}

impl Writer {
    pub(super) fn start(directory: &Path, name: &str) -> Writer {
        let test = format!("{}::writer_process", module_path!().split_once("::").unwrap().1);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &test, "--nocapture"]).env(WRITER, format!("{name}:{}", directory.display()));
        let mut child = spawn(&mut command).unwrap();
        let committed = BufReader::new(child.stdout.take().unwrap());
        Writer { child, committed }
    }

    fn next(&mut self) -> Option<u64> {
        let mut line = String::new();
        while self.committed.read_line(&mut line).unwrap() > 0 {
            if let Some(count) = line.strip_prefix("committed ").and_then(|rest| rest.trim().parse().ok()) {
                return Some(count);
            }
            line.clear();
        }
        None
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `count` is committed.
    pub(super) fn wait_for(&mut self, count: u64) {
        while self.next().expect("the writer goes on until it is killed") < count {}
    }

    /// SIGKILL, whatever it is doing; returns the last count that it told of.
    pub(super) fn kill(mut self) -> u64 {
        self.child.kill().unwrap();
        let mut last = 0;
        while let Some(count) = self.next() {
            last = count;
        }
        self.child.wait().unwrap();
        last
    }
}

/// No test by itself: the body of a [`Writer`].
#[test]
fn writer_process() {
    let Ok(order) = std::env::var(WRITER) else { return };
    let (name, directory) = order.split_once(':').unwrap();
    let env = open(Path::new(directory), worker_flags());
    env.clear_stale_readers().unwrap();
    let (counts, values) = (counts(&env), database(&env, Some("values"), DatabaseFlags::empty()));
    let first = counts.get(&env.read_txn().unwrap(), name.as_bytes()).unwrap().unwrap_or(0) + 1;
    let mut out = std::io::stdout();
    writeln!(out).unwrap();
    for count in first.. {
        let mut txn = env.write_txn().unwrap();
        // Beside the count, enough coming and going that pages split, merge, are freed and used again.
        for _ in 0..8 {
            let key = fastrand::u16(..4096).to_be_bytes();
            match fastrand::u8(..4) {
                0 => drop(values.delete(&mut txn, &key).unwrap()),
                1 => values.put(&mut txn, &key, &vec![1; fastrand::usize(..9000)]).unwrap(),
                _ => values.put(&mut txn, &key, &vec![2; fastrand::usize(..200)]).unwrap(),
            }
        }
        counts.put(&mut txn, name.as_bytes(), &count).unwrap();
        txn.commit().unwrap();
        writeln!(out, "committed {count}").unwrap();
    }
}
