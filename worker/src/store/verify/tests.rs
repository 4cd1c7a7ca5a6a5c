//! Healthy files are never refused, damaged ones never crash the check, and the ones that matter are found.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use heed::{CompactionOption, DatabaseFlags, Env, EnvFlags, WithTls};
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::testing::{Writer, database, get, with_env, worker_flags};
use super::{Contents, Fault, Summary, verify};

fn check(path: &Path) -> Result<Contents, Fault> {
    verify(&fs::File::open(path).unwrap())
}

#[track_caller]
fn assert_whole(path: &Path) -> Summary {
    match check(path) {
        Ok(Contents::Snapshot(summary)) => summary,
        other => panic!("{}: {other:?}", path.display()),
    }
}

/// A directory with an environment that has been through `body`.
fn environment(flags: EnvFlags, body: impl FnOnce(&Env<WithTls>)) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    with_env(directory.path(), flags, body);
    directory
}

fn data(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("data.mdb")
}

/// All kinds of databases that LMDB knows, filled and thinned out again in many transactions.
#[allow(deprecated)] // heed prefers comparator types; the flags are what is in the file.
fn everything(env: &Env<WithTls>, random: &mut fastrand::Rng, transactions: usize) {
    const FLAGS: [DatabaseFlags; 7] = [
        DatabaseFlags::empty(),
        DatabaseFlags::REVERSE_KEY,
        DatabaseFlags::INTEGER_KEY,
        DatabaseFlags::DUP_SORT,
        DatabaseFlags::DUP_SORT.union(DatabaseFlags::DUP_FIXED),
        DatabaseFlags::DUP_SORT.union(DatabaseFlags::DUP_FIXED).union(DatabaseFlags::INTEGER_DUP),
        DatabaseFlags::DUP_SORT.union(DatabaseFlags::REVERSE_DUP),
    ];
    let databases = FLAGS.map(|flags| (flags, database(env, Some(&format!("{:x}", flags.bits())), flags)));
    for _ in 0..transactions {
        let mut txn = env.write_txn().unwrap();
        for _ in 0..random.usize(..40) {
            let (flags, database) = &databases[random.usize(..databases.len())];
            let duplicates = flags.contains(DatabaseFlags::DUP_SORT);
            let key: Vec<u8> = match () {
                () if flags.contains(DatabaseFlags::INTEGER_KEY) => random.u64(..2000).to_le_bytes().into(),
                () if duplicates => vec![random.u8(..4); 5],
                () => (0..random.usize(1..=511)).map(|_| random.u8(..)).collect(),
            };
            let value: Vec<u8> = match () {
                () if flags.contains(DatabaseFlags::DUP_FIXED) => random.u64(..5000).to_le_bytes().into(),
                () if duplicates => (0..random.usize(1..=511)).map(|_| random.u8(..)).collect(),
                () if random.u8(..8) == 0 => vec![7; random.usize(..40_000)],
                () => vec![8; random.usize(..300)],
            };
            match random.u8(..5) {
                0 => {
                    // One that is surely there.
                    let found = database.get_greater_than_or_equal_to(&txn, &key).unwrap();
                    if let Some((key, value)) = found.map(|(key, value)| (key.to_vec(), value.to_vec())) {
                        match duplicates && random.bool() {
                            true => drop(database.delete_one_duplicate(&mut txn, &key, &value).unwrap()),
                            false => drop(database.delete(&mut txn, &key).unwrap()),
                        }
                    }
                }
                _ => database.put(&mut txn, &key, &value).unwrap(),
            }
        }
        if random.u8(..50) == 0 {
            databases[random.usize(..databases.len())].1.clear(&mut txn).unwrap();
        }
        match random.u8(..10) {
            0 => txn.abort(),
            _ => txn.commit().unwrap(),
        }
    }
}

#[test]
fn an_empty_file_and_one_cut_off_at_birth_hold_nothing() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(data(&directory), "").unwrap();
    assert_eq!(check(&data(&directory)).unwrap(), Contents::Nothing);

    with_env(directory.path(), EnvFlags::empty(), |_| ());
    assert_eq!(assert_whole(&data(&directory)).transaction, 0);
    OpenOptions::new().write(true).open(data(&directory)).unwrap().set_len(4096).unwrap();
    assert_eq!(check(&data(&directory)).unwrap(), Contents::Nothing);
}

#[test]
fn whatever_lmdb_writes_is_whole() {
    for seed in 0..24 {
        let mut random = fastrand::Rng::with_seed(seed);
        let flags = [EnvFlags::NO_SYNC, worker_flags()][seed as usize % 2];
        let transactions = random.usize(..400);
        let directory = environment(flags, |env| {
            everything(env, &mut random, transactions / 2);
            // A reader keeps pages from being used again, so that the free list gets long.
            let reader = env.clone().static_read_txn().unwrap();
            everything(env, &mut random, transactions / 2);
            drop(reader);
            everything(env, &mut random, 5);
            for (name, option) in [("copy", CompactionOption::Disabled), ("compact", CompactionOption::Enabled)] {
                let path = env.path().join(name);
                let mut file = fs::File::create(&path).unwrap();
                env.copy_to_file(&mut file, option).unwrap();
                assert_eq!(assert_whole(&path).entries, assert_whole(&env.path().join("data.mdb")).entries);
            }
        });
        assert_whole(&data(&directory));
    }
}

#[test]
fn deep_trees_and_free_lists_on_overflow_pages_are_whole() {
    let directory = environment(worker_flags(), |env| {
        let database = database(env, None, DatabaseFlags::empty());
        let mut txn = env.write_txn().unwrap();
        for key in 0..100_000_u32 {
            database.put(&mut txn, &key.to_be_bytes(), &[1; 100]).unwrap();
        }
        txn.commit().unwrap();
        let mut txn = env.write_txn().unwrap();
        for key in 1_000..99_000_u32 {
            database.delete(&mut txn, &key.to_be_bytes()).unwrap();
        }
        txn.commit().unwrap();
    });
    let summary = assert_whole(&data(&directory));
    assert_eq!(summary.entries, 2_000);
    assert!(summary.pages > 2_500, "{summary:?}");
}

#[test]
fn a_killed_writer_leaves_a_whole_file_with_all_that_it_committed() {
    let directory = tempfile::tempdir().unwrap();
    let mut known = [0; 2];
    for round in 0..25 {
        // Two at once, so that some deaths leave the write lock to the other one.
        let mut writers = ["a", "b"].map(|name| Writer::start(directory.path(), name));
        let more = fastrand::u64(1..60);
        for (writer, known) in writers.iter_mut().zip(known) {
            writer.wait_for(known + more);
        }
        let told = writers.map(Writer::kill);
        let summary = assert_whole(&data(&directory));
        assert!(summary.entries > 0);
        for ((name, told), known) in ["a", "b"].into_iter().zip(told).zip(&mut known) {
            let stored = get(directory.path(), name).unwrap();
            // One more than told: killed between the commit and the telling.
            assert!(stored >= told.max(*known), "round {round}: {name} told of {told}, the file holds {stored}");
            *known = stored;
        }
    }
}

/// A healthy file of some hundred pages, the same each time.
fn sample() -> Vec<u8> {
    let directory = environment(EnvFlags::NO_SYNC, |env| {
        everything(env, &mut fastrand::Rng::with_seed(1), 60);
    });
    assert_whole(&data(&directory));
    fs::read(data(&directory)).unwrap()
}

#[test]
fn no_bytes_make_the_check_panic() {
    let sample = sample();
    let file = tempfile::tempfile().unwrap();
    let mut random = fastrand::Rng::new();
    let seed = random.get_seed();
    let (mut whole, mut damaged) = (0, 0);
    for _ in 0..1_500 {
        let mut bytes = sample.clone();
        for _ in 0..random.usize(1..8) {
            // Most of a page's structure is at its start.
            let page = random.usize(..bytes.len() / 4096) * 4096;
            let at = page + [random.usize(..4096), random.usize(..64), random.usize(..200)][random.usize(..3)];
            bytes[at] = [random.u8(..), 0, 0xFF, bytes[at].wrapping_add(1)][random.usize(..4)];
        }
        if random.u8(..8) == 0 {
            bytes.truncate(random.usize(..bytes.len()));
        }
        file.set_len(0).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        match verify(&file) {
            Ok(_) => whole += 1,
            Err(Fault::Damage { .. }) => damaged += 1,
            Err(Fault::Io(error)) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(whole > 0 && damaged > 0, "seed {seed}: {whole} whole, {damaged} damaged");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise_is_no_environment(bytes in prop::collection::vec(any::<u8>(), 1..20_000)) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        prop_assert!(verify(&file).is_err());
    }

    /// Right up to the roots; then noise.
    #[test]
    fn noise_behind_good_meta_pages_is_damage(noise in prop::collection::vec(any::<u8>(), 4096)) {
        let sample = sample_once();
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&sample[..8192], 0).unwrap();
        for page in 2..sample.len() / 4096 {
            file.write_all_at(&noise, page as u64 * 4096).unwrap();
        }
        prop_assert!(verify(&file).is_err());
    }
}

fn sample_once() -> &'static [u8] {
    static SAMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(sample)
}

/// Offsets in the newest meta page of `bytes`.
fn newest_meta(bytes: &[u8]) -> usize {
    let transaction = |meta: usize| super::u64_at(bytes, meta + 16 + 24 + 96 + 8).unwrap();
    if transaction(0) < transaction(4096) { 4096 } else { 0 }
}

#[track_caller]
fn assert_damaged(bytes: &[u8], expected: &str) {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    match verify(&file) {
        Err(Fault::Damage { flaw, .. }) if flaw.contains(expected) => {}
        other => panic!("{other:?} instead of {expected:?}"),
    }
}

#[test]
fn each_kind_of_damage_is_named() {
    let sample = sample_once();
    let meta = newest_meta(sample);
    let main_root = super::u64_at(sample, meta + 16 + 24 + 48 + 40).unwrap() as usize * 4096;
    let damage = |at: usize, value: &[u8], expected: &str| {
        let mut bytes = sample.to_vec();
        bytes[at..at + value.len()].copy_from_slice(value);
        assert_damaged(&bytes, expected);
    };
    damage(16, &[0], "magic");
    damage(20, &[2], "data version");
    damage(10, &[0], "not a meta page");
    damage(meta + 16 + 24, &[1], "page size");
    damage(meta + 16 + 24 + 96, &u64::MAX.to_le_bytes(), "last page");
    damage(meta + 16 + 24 + 96, &5_u64.to_le_bytes(), "outside of the snapshot");
    damage(meta + 16 + 24 + 48 + 32, &9_u64.to_le_bytes(), "as many entries");
    damage(meta + 16 + 24 + 48 + 6, &[33], "deeper");
    damage(meta + 16 + 24 + 48 + 6, &[9], "level");
    damage(meta + 16 + 24 + 48 + 40, &u64::MAX.to_le_bytes(), "without a root");
    damage(main_root, &[0xEE], "another page's number");
    damage(main_root + 10, &[0x03], "flags");
    damage(main_root + 12, &[0xFF, 0xFF], "free space");
    damage(main_root + 12, &[16, 0], "empty");
    damage(main_root + 16, &[0xFF, 0xFF], "outside of the page");
    damage(main_root + 16, &[18, 0], "in the free space");
    // Two neighbours change places.
    let (first, second) = (&sample[main_root + 16..main_root + 18], &sample[main_root + 18..main_root + 20]);
    damage(main_root + 16, &[second, first].concat(), "out of order");
    assert_damaged(&sample[..5000], "ends before");
    assert_damaged(&sample[..8192], "ends before");
}

#[test]
fn a_page_that_is_in_use_and_free_is_damage() {
    let directory = environment(EnvFlags::NO_SYNC, |env| {
        let database = database(env, None, DatabaseFlags::empty());
        for value in 0..3 {
            let mut txn = env.write_txn().unwrap();
            database.put(&mut txn, b"key", &[value; 10]).unwrap();
            txn.commit().unwrap();
        }
    });
    let mut bytes = fs::read(data(&directory)).unwrap();
    let meta = newest_meta(&bytes);
    let free_root = super::u64_at(&bytes, meta + 16 + 24 + 40).unwrap() as usize * 4096;
    let main_root = super::u64_at(&bytes, meta + 16 + 24 + 48 + 40).unwrap();
    let node = free_root + usize::from(super::u16_at(&bytes, free_root + 16).unwrap());
    let list = node + 8 + 8;
    assert!(super::u64_at(&bytes, list).unwrap() >= 1);
    // One page number in the first list: that of the main root.
    bytes[list..list + 8].copy_from_slice(&1_u64.to_le_bytes());
    bytes[list + 8..list + 16].copy_from_slice(&main_root.to_le_bytes());
    assert_damaged(&bytes, "twice");
}
