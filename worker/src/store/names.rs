//! The files of a state directory.

/// Says whose directory it is, and the format of what is in it.
pub(super) const MARKER: &str = "baton-store";
/// LMDB's data.
pub(super) const DATA: &str = "data.mdb";
/// LMDB's readers and write lock; without a user it means nothing.
pub(super) const LMDB_LOCK: &str = "lock.mdb";
/// The newest copy of the data that is wholly on the disk.
pub(super) const CHECKPOINT: &str = "checkpoint.mdb";
/// A checkpoint while it is written.
pub(super) const CHECKPOINT_TEMPORARY: &str = "checkpoint.tmp";
/// A copy of the checkpoint that becomes the data.
pub(super) const RESTORE_TEMPORARY: &str = "restore.tmp";
/// Locked while a start looks at the store.
pub(super) const STORE_LOCK: &str = "store.lock";
/// Locked, shared, by each user of the store.
pub(super) const USERS_LOCK: &str = "users.lock";
/// The boot in which the store was used last.
pub(super) const BOOT: &str = "boot";
/// There while everything is on the disk and nobody uses the store.
pub(super) const CLEAN: &str = "clean";
/// A recovery that has begun and is not over.
pub(super) const RECOVERY: &str = "recovery";
/// Made and removed to see whether files can be made.
pub(super) const PROBE: &str = "probe.tmp";
/// Operators, if they are not in Redis.
pub(crate) const SUPERUSERS: &str = "superusers.json";
