//! Damaged files, lost power, and how a start finds out what it can trust.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::{count_to, on, refused};
use crate::harness::lmdb::count_in;
use crate::harness::service::Builder;
use crate::harness::{Service, eventually};

/// As `/proc/sys/kernel/random/boot_id` of another boot.
const ANOTHER_BOOT: &str = "00000000-0000-4000-8000-000000000000\n";

/// A store that was left by SIGKILL to everything.
struct Left {
    dir: TempDir,
}

impl Left {
    /// The session `abc` has counted to 5.
    async fn without_checkpoint() -> Left {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut service = on(dir.path()).with("--checkpoint-interval", "60s").start();
        count_to(&service, "abc", 5).await;
        service.kill_all();
        let left = Left { dir };
        // One is made as soon as there is something, and then every minute.
        let _ = fs::remove_file(left.file("checkpoint.mdb"));
        left
    }

    /// The same, 3 of the 5 in a checkpoint.
    async fn with_checkpoint() -> Left {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let left = Left { dir };
        let mut service = left.builder().with("--checkpoint-interval", "1s").start();
        count_to(&service, "abc", 3).await;
        left.wait_for_checkpoint(3);
        service.kill_all();
        let mut service = left.builder().with("--checkpoint-interval", "60s").start();
        assert_eq!((service.count_one("abc").await, service.count_one("abc").await), (4, 5));
        service.kill_all();
        assert_eq!(left.in_checkpoint(), Some(3));
        left
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn builder(&self) -> Builder {
        on(self.dir.path())
    }

    fn in_checkpoint(&self) -> Option<u64> {
        count_in(&self.file("checkpoint.mdb"), "abc")
    }

    fn wait_for_checkpoint(&self, count: u64) {
        let path = self.file("checkpoint.mdb");
        let is_there = || (path.exists() && self.in_checkpoint() == Some(count)).then_some(());
        eventually("a checkpoint with the count", is_there);
    }

    fn lose_power(&self) {
        assert!(self.file("boot").exists() && !self.file("clean").exists());
        fs::write(self.file("boot"), ANOTHER_BOOT).expect("a file");
    }
}

/// The warning of a start that does not go on where the last one ended.
#[track_caller]
fn warning(service: &Service, words: &[&str]) -> Value {
    let line = service.wait_log("the store starts");
    let text = line["message"].as_str().expect("a sentence");
    assert!(line["level"] == "WARN" && words.iter().all(|word| text.contains(word)), "{line}");
    line
}

/// One way to damage a file.
type Harm = (&'static str, fn(&Path));

const HARMS: [Harm; 5] = [
    ("garbage", |path| {
        let garbage = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>();
        fs::write(path, garbage).expect("a file");
    }),
    ("a text", |path| fs::write(path, "this was a store once\n").expect("a file")),
    ("cut off in the second page", |path| truncate(path, 6000)),
    ("cut off behind the head", |path| truncate(path, 2 * 4096)),
    ("zeros behind the head", |path| {
        let file = fs::File::options().write(true).open(path).expect("a file");
        file.write_all_at(&[0; 1 << 20], 2 * 4096).expect("written");
    }),
];

/// What is in use of a file, and more.
fn head(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    fs::File::open(path).expect("a file").take(1 << 20).read_to_end(&mut bytes).expect("its bytes");
    bytes
}

fn truncate(path: &Path, length: u64) {
    fs::File::options().write(true).open(path).and_then(|file| file.set_len(length)).expect("a file");
}

#[tokio::test]
async fn a_damaged_store_starts_from_its_checkpoint() {
    for (harm, act) in HARMS {
        let left = Left::with_checkpoint().await;
        act(&left.file("data.mdb"));
        let service = left.builder().start();
        let words = ["from a checkpoint", " s old, what came later is lost", "data.mdb is damaged: page", "is kept as"];
        let line = warning(&service, &words);
        let kept = line["message"].as_str().and_then(|text| text.rsplit_once(' ')).expect("a path").1;
        assert!(Path::new(kept).exists(), "{harm}: {line}");
        assert_eq!(service.count_one("abc").await, 4, "{harm}: 3 were in the checkpoint");
        assert_eq!(service.stop().code(), Some(0));
        let service = left.builder().start();
        assert_eq!(service.wait_log("the store was left in good order")["level"], "INFO");
        assert_eq!(service.count_one("abc").await, 5, "{harm}");
    }
}

#[tokio::test]
async fn a_damaged_store_without_a_checkpoint_is_refused_and_left_alone() {
    for (harm, act) in HARMS {
        let left = Left::without_checkpoint().await;
        act(&left.file("data.mdb"));
        let before = head(&left.file("data.mdb"));
        for _ in 0..2 {
            let said = refused(&left.builder(), &["data.mdb is damaged: page", "there is no checkpoint", "backup"]);
            assert!(said.contains("move data.mdb elsewhere"), "{harm}: {said}");
        }
        assert!(head(&left.file("data.mdb")) == before, "{harm}");
    }
    let left = Left::with_checkpoint().await;
    for name in ["data.mdb", "checkpoint.mdb"] {
        truncate(&left.file(name), 6000);
    }
    refused(&left.builder(), &["data.mdb is damaged", "checkpoint.mdb is damaged too"]);
}

/// Whatever page is hit, the service starts, and no worker dies of it.
#[tokio::test]
async fn any_page_may_be_hit() {
    let left = Left::with_checkpoint().await;
    let sound = head(&left.file("data.mdb"));
    let pages = sound.chunks(4096).rposition(|page| page.iter().any(|byte| *byte != 0)).expect("a page") + 1;
    let mut damaged = 0;
    for page in 0..pages {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for name in ["baton-store", "boot", "checkpoint.mdb"] {
            fs::copy(left.file(name), dir.path().join(name)).expect("a copy");
        }
        let mut bytes = sound.clone();
        bytes[page * 4096..][..4096].iter_mut().for_each(|byte| *byte ^= 0xa5);
        fs::write(dir.path().join("data.mdb"), bytes).expect("a file");
        let service = on(dir.path()).with("--workers", 1).start();
        let pids = service.worker_pids();
        let found = service.log().contains("from a checkpoint");
        damaged += usize::from(found);
        // A page that is free or old says nothing about counts.
        assert_eq!(service.count_one("abc").await, if found { 4 } else { 6 }, "page {page}");
        assert_eq!(service.worker_pids(), pids, "page {page}");
    }
    assert!(damaged >= 3, "the head, and the roots at least: {damaged} of {pages}");
}

#[tokio::test]
async fn after_a_power_loss_it_starts_from_the_checkpoint() {
    let left = Left::with_checkpoint().await;
    left.lose_power();
    let mut service = left.builder().start();
    warning(&service, &["from a checkpoint", " s old", "the machine went down while the store was in use", "unclean"]);
    assert_eq!(service.count_one("abc").await, 4);
    // Only a loss of power is one.
    service.kill_all();
    let service = left.builder().start();
    service.wait_log("the last run was killed, but the store is whole and nothing is lost");
    assert_eq!(service.count_one("abc").await, 5);
}

#[tokio::test]
async fn a_power_loss_before_the_first_checkpoint_costs_everything_and_is_told() {
    let left = Left::without_checkpoint().await;
    left.lose_power();
    let service = left.builder().start();
    warning(&service, &["starts empty", "before the first checkpoint", "is kept as"]);
    assert_eq!(service.count_one("abc").await, 1);
}

#[tokio::test]
async fn a_clean_stop_is_trusted_on_any_boot() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let service = on(dir.path()).start();
    service.wait_log("the store is new");
    count_to(&service, "abc", 5).await;
    assert_eq!(service.stop().code(), Some(0));
    assert!(dir.path().join("clean").exists());
    fs::write(dir.path().join("boot"), ANOTHER_BOOT).expect("a file");
    let service = on(dir.path()).start();
    service.wait_log("the store was left in good order and is whole");
    assert_eq!(service.count_one("abc").await, 6);
}

#[tokio::test]
async fn checkpoints_follow_what_is_counted() {
    let left = Left { dir: tempfile::tempdir().expect("a temporary directory") };
    let service = left.builder().with("--checkpoint-interval", "1s").start();
    for expected in 1..=3 {
        assert_eq!(service.count_one("abc").await, expected);
        left.wait_for_checkpoint(expected);
    }
    assert!(!left.file("checkpoint.tmp").exists());
}

#[tokio::test]
async fn a_backup_alone_in_the_directory_is_restored() {
    let left = Left::with_checkpoint().await;
    let backup = fs::read(left.file("checkpoint.mdb")).expect("a file");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let state = dir.path().join("state");
    fs::create_dir(&state).expect("a directory");
    // One that was cut off on its way is not taken, nor is it gone; and the whole one is, in its place.
    fs::write(state.join("checkpoint.mdb"), &backup[..6000]).expect("a file");
    refused(&on(&state), &["data.mdb is missing", "checkpoint.mdb is damaged too", "copy a backup to"]);
    assert_eq!(fs::read(state.join("checkpoint.mdb")).expect("a file"), &backup[..6000]);
    fs::write(state.join("checkpoint.mdb"), &backup).expect("a file");
    let service = on(&state).start();
    warning(&service, &["from a checkpoint", "data.mdb is missing"]);
    assert_eq!(service.count_one("abc").await, 4, "3 were in the backup");
    // A backup beside anything that is not ours is no backup of ours.
    let theirs = dir.path().join("theirs");
    fs::create_dir(&theirs).expect("a directory");
    fs::write(theirs.join("checkpoint.mdb"), &backup).expect("a file");
    fs::write(theirs.join("letters.txt"), "not ours").expect("a file");
    refused(&on(&theirs), &["it holds \"letters.txt\" but no store of baton", "nothing but a backup"]);
}
