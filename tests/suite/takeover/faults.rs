//! A process is killed at each step of a takeover, on each side.

use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use super::{SECOND, Succession, builder, crowd};
use crate::harness::oracle::What;
use crate::harness::procfs::is_alive;
use crate::harness::{Oracle, Service, eventually, seed};
