//! Each start ends with data that is trusted for a reason, or says what is lost; wherever it is cut off before.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::super::testing::{Writer, checkpoint, get, no_spawning, put, spawn};
use super::super::{LastMember, claim, join};
use super::*;

const BOOT_A: &str = "boot-a";
const BOOT_B: &str = "boot-b";

/// A state directory whose parent exists.
struct Store {
    _parent: TempDir,
    path: PathBuf,
}

impl Store {
    fn new() -> Store {
        let parent = tempfile::tempdir().unwrap();
        Store { path: parent.path().join("state"), _parent: parent }
    }

    fn start(&self, boot: &str) -> Result<(Prepared, Membership), PrepareError> {
        self.start_observed(boot, &mut |_| Ok(()))
    }

    fn start_observed(&self, boot: &str, observer: Observer<'_>) -> Result<(Prepared, Membership), PrepareError> {
        let _quiet = no_spawning();
        let now = SystemTime::now();
        // No patience, where a test does not bring its own.
        prepare_in(
            &self.path,
            &Surroundings { boot, now, patience: Duration::ZERO, leaving: Duration::from_secs(60) },
            observer,
        )
    }

    /// The outcome of a start whose process then dies.
    #[track_caller]
    fn outcome(&self, boot: &str) -> Prepared {
        self.start(boot).unwrap().0
    }

    /// Starts, and dies when `steps` steps are done and the next one is.
    fn cut_off_after(&self, steps: usize, boot: &str) -> CutOff {
        let (mut left, mut told) = (steps, false);
        let result = self.start_observed(boot, &mut |step| {
            told |= step == Step::LeftoversRemoved;
            match left {
                0 => {
                    Err(PrepareError::Io { doing: "outlive", path: PathBuf::new(), source: io::Error::other("death") })
                }
                _ => {
                    left -= 1;
                    Ok(())
                }
            }
        });
        CutOff { ended: result.is_ok(), told }
    }

    /// A run in `boot` that stores this count and is killed.
    fn run(&self, boot: &str, count: u64) {
        let (_, membership) = self.start(boot).unwrap();
        put(&self.path, "session", count);
        drop(membership);
    }

    fn count(&self) -> Option<u64> {
        get(&self.path, "session")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Breaks the file at its roots.
    fn damage(&self, name: &str) {
        let file = OpenOptions::new().write(true).open(self.file(name)).unwrap();
        for page in 2..20 {
            file.write_all_at(&[0xA5; 4096], page * 4096).unwrap();
        }
    }

    fn aside(&self) -> Vec<String> {
        let names = fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut aside: Vec<_> = names.filter(|name| name.starts_with("data.mdb.")).collect();
        aside.sort();
        aside
    }
}

fn leave(membership: Membership) -> Option<LastMember> {
    let _quiet = no_spawning();
    membership.leave_as_last().unwrap()
}

/// How far a start came.
struct CutOff {
    /// To its end, before it was time to die.
    ended: bool,
    /// To where its outcome is logged.
    told: bool,
}

/// A checkpoint that says 5, data that says 7, used in boot A by a run that was killed.
fn used() -> Store {
    let store = Store::new();
    store.run(BOOT_A, 5);
    checkpoint(&store.path);
    store.run(BOOT_A, 7);
    store
}

fn is_from_checkpoint(prepared: &Prepared) -> bool {
    matches!(prepared, Prepared::FromCheckpoint { .. })
}

#[test]
fn a_first_start_makes_a_private_directory_with_room_in_it() {
    let parent = tempfile::tempdir().unwrap();
    let store = Store { path: parent.path().join("var/lib/state"), _parent: parent };
    assert_eq!(store.outcome(BOOT_A), Prepared::Fresh);
    assert_eq!(fs::metadata(&store.path).unwrap().permissions().mode() & 0o777, 0o700);

    let data = fs::metadata(store.file(DATA)).unwrap();
    assert_eq!((data.len(), data.permissions().mode() & 0o777), (0, 0o600));
    let has_room = || {
        let blocks = |name| fs::metadata(store.file(name)).unwrap().blocks() * 512;
        blocks(DATA) >= CHUNK && blocks(LMDB_LOCK) >= LOCK_ROOM
    };
    assert!(has_room());

    // LMDB takes them for new, and keeps the room.
    put(&store.path, "session", 1);
    assert!(has_room());
    assert_eq!((store.outcome(BOOT_A), store.count()), (Prepared::Recovered, Some(1)));
}

#[test]
fn a_store_left_in_good_order_outlives_the_boot() {
    let store = used();
    let (prepared, membership) = store.start(BOOT_A).unwrap();
    assert_eq!(prepared, Prepared::Recovered);
    leave(membership).unwrap().mark_clean().unwrap();
    assert_eq!(store.outcome(BOOT_B), Prepared::Clean);
    assert_eq!(store.count(), Some(7));
    // The mark is good for one start.
    assert_eq!(store.outcome(BOOT_B), Prepared::Recovered);
    assert!(is_from_checkpoint(&store.outcome("boot-c")));
}

#[test]
fn a_killed_run_loses_nothing() {
    let store = Store::new();
    let mut known = 0;
    for _ in 0..20 {
        let (prepared, membership) = store.start(BOOT_A).unwrap();
        assert!(matches!(prepared, Prepared::Fresh | Prepared::Recovered), "{prepared}");
        let mut writer = Writer::start(&store.path, "session");
        writer.wait_for(known + fastrand::u64(1..40));
        known = writer.kill();
        drop(membership);
        let (prepared, membership) = store.start(BOOT_A).unwrap();
        assert_eq!(prepared, Prepared::Recovered);
        let stored = store.count().unwrap();
        assert!(stored >= known, "told of {known}, stored {stored}");
        known = stored;
        drop(membership);
    }
}

#[test]
fn after_a_power_loss_it_starts_from_the_checkpoint() {
    let store = used();
    let Prepared::FromCheckpoint { age, moved_to: Some(moved_to), .. } = store.outcome(BOOT_B) else {
        panic!("the checkpoint was not taken");
    };
    assert!(age < Duration::from_secs(600));
    assert!(moved_to.to_string_lossy().contains("data.mdb.unclean-") && moved_to.exists());
    assert_eq!(store.count(), Some(5));
    assert_eq!(store.outcome(BOOT_B), Prepared::Recovered);
}

#[test]
fn a_power_loss_before_the_first_checkpoint_is_said() {
    let store = Store::new();
    store.run(BOOT_A, 3);
    assert!(matches!(store.outcome(BOOT_B), Prepared::EmptyAfterPowerLoss { moved_to: Some(path) } if path.exists()));
    assert_eq!(store.count(), None);

    // Not even LMDB's first page had reached the disk.
    let store = Store::new();
    assert_eq!(store.outcome(BOOT_A), Prepared::Fresh);
    assert_eq!(store.outcome(BOOT_B), Prepared::EmptyAfterPowerLoss { moved_to: None });

    let store = Store::new();
    assert_eq!(store.outcome(BOOT_A), Prepared::Fresh);
    fs::remove_file(store.file(DATA)).unwrap();
    assert_eq!(store.outcome(BOOT_B), Prepared::Fresh);
}

#[test]
fn damaged_data_is_replaced_by_the_checkpoint() {
    let store = used();
    store.damage(DATA);
    let prepared = store.outcome(BOOT_A);
    let Prepared::FromCheckpoint { reason, moved_to: Some(moved_to), .. } = &prepared else { panic!("{prepared}") };
    assert!(reason.contains("data.mdb is damaged: page"), "{reason}");
    assert!(moved_to.to_string_lossy().contains("data.mdb.damaged-"));
    assert!(prepared.to_string().contains("is kept as"), "{prepared}");
    assert_eq!(store.count(), Some(5));
}

#[test]
fn data_that_is_gone_is_replaced_by_the_checkpoint() {
    for boot in [BOOT_A, BOOT_B] {
        let store = used();
        fs::remove_file(store.file(DATA)).unwrap();
        assert!(is_from_checkpoint(&store.outcome(boot)));
        assert_eq!(store.count(), Some(5));
    }
}

#[test]
fn damage_without_a_checkpoint_is_refused_and_the_advice_works() {
    let store = Store::new();
    store.run(BOOT_A, 5);
    store.damage(DATA);
    for _ in 0..2 {
        let refusal = store.start(BOOT_A).unwrap_err().to_string();
        assert!(refusal.contains("there is no checkpoint") && refusal.contains("move data.mdb elsewhere"), "{refusal}");
    }
    fs::rename(store.file(DATA), store.file("elsewhere")).unwrap();
    assert_eq!(store.outcome(BOOT_A), Prepared::Fresh);

    let store = used();
    let backup = fs::read(store.file(CHECKPOINT)).unwrap();
    store.damage(DATA);
    store.damage(CHECKPOINT);
    let refusal = store.start(BOOT_A).unwrap_err().to_string();
    assert!(refusal.contains("move data.mdb and checkpoint.mdb elsewhere"), "{refusal}");
    fs::write(store.file(CHECKPOINT), backup).unwrap();
    assert!(is_from_checkpoint(&store.outcome(BOOT_A)));
    assert_eq!(store.count(), Some(5));
}

#[test]
fn a_file_whose_creation_was_cut_off_is_new() {
    let store = Store::new();
    store.run(BOOT_A, 1);
    let mut page = fs::read(store.file(DATA)).unwrap()[..4096].to_vec();
    let store = Store::new();
    assert_eq!(store.outcome(BOOT_A), Prepared::Fresh);
    // The first meta page as it is written at birth: no transaction yet.
    page[16 + 24 + 96 + 8..16 + 24 + 96 + 16].fill(0);
    fs::write(store.file(DATA), page).unwrap();
    assert_eq!(store.outcome(BOOT_A), Prepared::Fresh);
    store.run(BOOT_A, 9);
    assert_eq!(store.count(), Some(9));
}

/// A name, a store, the boot in which it starts next, and the count that it must then have.
type Scenario = (&'static str, fn() -> Store, &'static str, Option<u64>);

const SCENARIOS: [Scenario; 6] = [
    ("fresh", Store::new, BOOT_A, None),
    ("killed", used, BOOT_A, Some(7)),
    ("clean", left_in_good_order, BOOT_B, Some(7)),
    ("power loss", used, BOOT_B, Some(5)),
    ("power loss without checkpoint", used_for_a_moment, BOOT_B, None),
    ("damage", damaged, BOOT_A, Some(5)),
];

fn left_in_good_order() -> Store {
    let store = used();
    let (_, membership) = store.start(BOOT_A).unwrap();
    leave(membership).unwrap().mark_clean().unwrap();
    store
}

fn used_for_a_moment() -> Store {
    let store = Store::new();
    store.run(BOOT_A, 3);
    store
}

fn damaged() -> Store {
    let store = used();
    store.damage(DATA);
    store
}

fn is_lossy(prepared: &Prepared) -> bool {
    match prepared {
        Prepared::FromCheckpoint { .. } | Prepared::EmptyAfterPowerLoss { .. } => true,
        Prepared::Fresh | Prepared::Clean | Prepared::Recovered | Prepared::InUse => false,
    }
}

#[test]
fn a_start_that_is_cut_off_anywhere_is_finished_by_the_next() {
    for (name, scenario, boot, expected) in SCENARIOS {
        let lossy = is_lossy(&scenario().outcome(boot));
        for first in 0.. {
            let mut ended = false;
            // A recovery, which takes the most steps, may even be cut off twice.
            for second in if lossy { 0 } else { usize::MAX - 1 }..usize::MAX {
                let store = scenario();
                let cuts = [store.cut_off_after(first, boot), store.cut_off_after(second, boot)];
                let prepared = store.outcome(boot);
                let what = format!("{name}, cut off after {first} and {second} steps: {prepared}");
                assert_eq!(store.count(), expected, "{what}");
                // A loss is told of by one of the three, and nothing else is called a loss.
                assert!(lossy || !is_lossy(&prepared), "{what}");
                assert_eq!(lossy, is_lossy(&prepared) || lossy && cuts.iter().any(|cut| cut.told), "{what}");
                assert_eq!(store.aside().len(), usize::from(lossy), "{what}");
                ended = cuts[0].ended;
                if cuts[1].ended {
                    break;
                }
            }
            if ended {
                break;
            }
        }
    }
}

#[test]
fn a_power_loss_during_a_start_is_one_more_reason_to_recover() {
    for (name, scenario, boot, expected) in SCENARIOS {
        for steps in 0.. {
            let store = scenario();
            let cut = store.cut_off_after(steps, boot);
            let prepared = store.outcome("boot-c");
            let what = format!("{name}, cut off after {steps} steps: {prepared}");
            match prepared {
                Prepared::FromCheckpoint { .. } => assert_eq!(store.count(), Some(5), "{what}"),
                Prepared::EmptyAfterPowerLoss { .. } => assert_eq!(store.count(), None, "{what}"),
                Prepared::Clean => assert_eq!(store.count(), expected, "{what}"),
                Prepared::Fresh => assert_eq!((store.count(), name), (None, "fresh"), "{what}"),
                Prepared::Recovered | Prepared::InUse => panic!("{what}"),
            }
            if cut.ended {
                break;
            }
        }
    }
}

#[test]
fn no_policy_starts_empty_beside_a_checkpoint_or_keeps_what_it_does_not_trust() {
    let conditions = [
        Condition::Missing,
        Condition::Empty,
        Condition::Unverified,
        Condition::Whole(9),
        Condition::Damaged("x".into()),
    ];
    for trust in [Trust::Clean, Trust::SameBoot, Trust::PowerLoss, Trust::Unknown] {
        for data in &conditions {
            for checkpoint in &conditions {
                let plan = decide::<()>(trust, data.clone(), || Ok(checkpoint.clone())).unwrap();
                let taken = matches!(data, Condition::Whole(_)) && matches!(trust, Trust::Clean | Trust::SameBoot);
                let holds = match &plan {
                    Plan::Keep(Prepared::Fresh, used) => *checkpoint == Condition::Missing && *used == 0 && !taken,
                    Plan::Keep(_, used) => taken && *used == 9,
                    Plan::Recover { source: Source::Checkpoint, .. } => !taken && *checkpoint == Condition::Whole(9),
                    Plan::Recover { source: Source::Nothing, .. } => !taken && *checkpoint == Condition::Missing,
                    Plan::Refuse { .. } => !taken && *checkpoint != Condition::Whole(9),
                };
                assert!(holds, "{trust:?} {data:?} {checkpoint:?}: {plan:?}");
            }
        }
    }
}

#[test]
fn users_vouch_for_the_store() {
    let store = used();
    let (_, first) = store.start(BOOT_A).unwrap();
    // What a start may not touch while someone is in it.
    store.damage(DATA);
    fs::write(store.file(CHECKPOINT_TEMPORARY), "half").unwrap();
    let (prepared, second) = store.start(BOOT_B).unwrap();
    assert_eq!(prepared, Prepared::InUse);
    assert!(store.file(CHECKPOINT_TEMPORARY).exists());

    assert!(leave(first).is_none());
    let third = join(&store.path).unwrap();
    assert!(leave(second).is_none());
    assert!(leave(third).is_some());
    assert!(is_from_checkpoint(&store.outcome(BOOT_A)));
}

#[test]
fn a_start_does_not_overlook_that_the_last_user_was_just_leaving() {
    let store = used();
    let (_, membership) = store.start(BOOT_A).unwrap();
    let last = leave(membership).unwrap();
    let prepared = std::thread::scope(|scope| {
        let start = scope.spawn(|| store.outcome(BOOT_A));
        last.mark_clean().unwrap();
        start.join().unwrap()
    });
    assert_eq!(prepared, Prepared::Clean);
    assert!(!store.file(CLEAN).exists());
}

#[test]
fn a_stranger_in_the_database_is_named() {
    let store = used();
    let mut stranger = Writer::start(&store.path, "session");
    stranger.wait_for(8);
    let refusal = store.start(BOOT_B).unwrap_err().to_string();
    assert!(refusal.contains(&format!("process {} has the database open", stranger.id())), "{refusal}");
    stranger.kill();
    assert!(is_from_checkpoint(&store.outcome(BOOT_B)));
}

#[test]
fn another_start_is_not_waited_for_forever() {
    let store = used();
    let other = private::open(&store.file("store.lock")).unwrap();
    other.lock().unwrap();
    let refusal = store.start(BOOT_A).unwrap_err();
    assert!(matches!(refusal, PrepareError::Locked { .. }), "{refusal}");
    drop(other);
    assert_eq!(store.outcome(BOOT_A), Prepared::Recovered);
}

#[test]
fn only_the_two_newest_files_are_kept_aside() {
    let store = used();
    for old in ["data.mdb.unclean-100", "data.mdb.damaged-200", "data.mdb.unclean-99"] {
        fs::write(store.file(old), "old").unwrap();
    }
    fs::write(store.file("data.mdb.mine"), "untouched").unwrap();
    store.outcome(BOOT_B);
    let aside = store.aside();
    assert_eq!(aside.len(), 3, "{aside:?}");
    assert!(aside.contains(&"data.mdb.damaged-200".to_owned()) && aside.contains(&"data.mdb.mine".to_owned()));
}

#[test]
fn what_is_not_ours_is_refused_untouched() {
    let parent = tempfile::tempdir().unwrap();
    let at = |name: &str| parent.path().join(name);

    fs::write(at("file"), "").unwrap();
    for path in [at("file"), at("file/state")] {
        let refusal = prepare(&path).unwrap_err();
        assert!(matches!(refusal, PrepareError::NotADirectory(_)), "{refusal}");
    }

    fs::create_dir(at("foreign")).unwrap();
    for name in ["data.mdb", "a", "b", "c"] {
        fs::write(at("foreign").join(name), "theirs").unwrap();
    }
    let refusal = prepare(&at("foreign")).unwrap_err().to_string();
    assert!(refusal.contains(r#"it holds "a", "b", "c" and 1 more"#), "{refusal}");
    assert_eq!(fs::read_dir(at("foreign")).unwrap().count(), 4);

    fs::create_dir(at("newer")).unwrap();
    fs::write(
        at("newer/baton-store"),
        "baton store, format 2
",
    )
    .unwrap();
    let refusal = prepare(&at("newer")).unwrap_err().to_string();
    assert!(refusal.contains("format 2, but this version reads format 1"), "{refusal}");
    assert_eq!(fs::read_dir(at("newer")).unwrap().count(), 1);

    // An empty one, a mount point, and one that was claimed before something else was put there.
    fs::create_dir_all(at("mount/lost+found")).unwrap();
    assert_eq!(prepare(&at("mount")).unwrap().0, Prepared::Fresh);
    claim(&at("claimed")).unwrap();
    fs::write(at("claimed/users.json"), "{}").unwrap();
    assert_eq!(prepare(&at("claimed")).unwrap().0, Prepared::Fresh);
}

const STARTER: &str = "BATON_TEST_STARTER";

/// No test by itself: a start in a process of its own, that prints what came of it.
#[test]
fn starter_process() {
    let Some(path) = std::env::var_os(STARTER) else { return };
    match prepare(Path::new(&path)) {
        Ok((prepared, _)) => println!("\nprepared: {prepared}"),
        Err(refusal) => println!("\nrefused: {refusal}"),
    }
}

fn starter(path: &Path, program: &str, before: &[&str]) -> Command {
    let test = format!("{}::starter_process", module_path!().split_once("::").unwrap().1);
    let mut command = Command::new(program);
    command.args(before).args(["--exact", &test, "--nocapture"]).env(STARTER, path);
    command
}

#[test]
fn another_users_directory_and_one_without_write_permission_are_refused() {
    if !geteuid().is_root() {
        return; // Only root can become another user.
    }
    const NOBODY: u32 = 65534;
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (theirs, mine) = (parent.path().join("theirs"), parent.path().join("mine"));
    fs::create_dir(&theirs).unwrap();
    fs::create_dir(&mine).unwrap();
    std::os::unix::fs::chown(&mine, Some(NOBODY), None).unwrap();
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o500)).unwrap();
    let test_binary = std::env::current_exe().unwrap();
    for (path, expected) in [(theirs, "belongs to user 0, but this is user 65534"), (mine, "cannot make files in it")] {
        let Ok(child) = spawn(starter(&path, test_binary.to_str().unwrap(), &[]).uid(NOBODY)) else {
            return; // The test binary is somewhere where others may not go.
        };
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert!(said.contains("refused: ") && said.contains(expected), "{said}");
    }
}

#[test]
fn a_full_disk_is_refused_before_anything_touches_it() {
    let mount = tempfile::tempdir().unwrap();
    let test_binary = std::env::current_exe().unwrap();
    let script = r#"mount -t tmpfs -o size=8m,mode=700 none "$1" && shift && exec "$@""#;
    let mut command = starter(
        mount.path(),
        "unshare",
        &["--mount", "sh", "-c", script, "sh", mount.path().to_str().unwrap(), test_binary.to_str().unwrap()],
    );
    let Ok(child) = spawn(&mut command) else { return };
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(said.contains("no space left for the store") && said.contains("free at least 16 MiB"), "{said}");
    } // Else: mounting needs root.
}
