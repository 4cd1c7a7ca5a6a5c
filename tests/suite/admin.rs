//! `/admin/`: the pages of operators.

mod clients;
mod login;
mod page;
mod redis;
mod sessions;
mod superusers;
