//! System calls, typed. The only place with `unsafe`.
#![allow(unsafe_code)]

pub mod at;
pub mod boot;
pub mod cached;
pub mod connection;
pub mod copy;
pub mod inherit;
pub mod inode;
pub mod lease;
pub mod location;
pub mod made;
pub mod memory;
pub mod mount;
pub mod mountinfo;
pub mod ordered;
pub mod passing;
pub mod process;
pub mod scheduling;
pub mod xattr;
