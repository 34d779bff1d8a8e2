//! The order of a directory: by a cookie made from the name, so that a listing
//! can go on after changes without a snapshot per handle.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::hash::Hasher;
use std::os::unix::ffi::OsStrExt;

use super::{Ino, Kind};

/// The first cookie a name can have; `.` and `..` come before.
pub const FIRST: u64 = 3;

/// One name in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The name.
    pub name: OsString,
    /// Its type.
    pub kind: Kind,
    /// Its inode number, 0 while unknown.
    pub ino: Ino,
}

/// A directory's names in the order of their cookies.
///
/// `telldir(3)` cookies must fit a positive `long` and stay valid while other
/// names come and go, so they are a 62-bit hash of the name; where two names
/// collide the later takes the next free number.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    by_cookie: BTreeMap<u64, Listed>,
}

/// 64-bit FNV-1a, then a final mix so that similar names spread; at least [`FIRST`].
pub fn hash(name: &OsStr) -> u64 {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            let mut value = self.0;
            value ^= value >> 32;
            value = value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            value ^ (value >> 29)
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    fnv.write(name.as_bytes());
    (fnv.finish() >> 2).max(FIRST)
}

impl Listing {
    /// The cookie that `name` has in this listing.
    fn cookie(&self, name: &OsStr) -> Option<u64> {
        let mut cookie = hash(name);
        loop {
            match self.by_cookie.get(&cookie) {
                Some(listed) if listed.name == name => return Some(cookie),
                Some(_) => cookie += 1,
                None => return None,
            }
        }
    }

    /// Adds a name, or replaces what it stood for.
    pub fn insert(&mut self, listed: Listed) {
        let mut cookie = hash(&listed.name);
        while self
            .by_cookie
            .get(&cookie)
            .is_some_and(|other| other.name != listed.name)
        {
            cookie += 1;
        }
        self.by_cookie.insert(cookie, listed);
    }

    /// Takes a name away.
    pub fn remove(&mut self, name: &OsStr) {
        if let Some(cookie) = self.cookie(name) {
            self.by_cookie.remove(&cookie);
        }
    }

    /// The names after a cookie, in order, each with its own cookie.
    pub fn after(&self, cookie: u64) -> impl Iterator<Item = (u64, &Listed)> {
        self.by_cookie
            .range(cookie.saturating_add(1)..)
            .map(|(cookie, listed)| (*cookie, listed))
    }

    /// The number of names.
    pub fn len(&self) -> usize {
        self.by_cookie.len()
    }

    /// True for an empty directory.
    pub fn is_empty(&self) -> bool {
        self.by_cookie.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str) -> Listed {
        Listed {
            name: name.into(),
            kind: Kind::File,
            ino: 7,
        }
    }

    #[test]
    fn a_listing_goes_on_where_it_was_while_names_come_and_go() {
        let mut listing = Listing::default();
        for i in 0..1000 {
            listing.insert(listed(&format!("n{i}")));
        }
        let mut seen = std::collections::HashSet::new();
        let mut at = 0;
        let mut round = 0;
        loop {
            let next = listing.after(at).next();
            let Some((cookie, name)) = next.map(|(cookie, entry)| (cookie, entry.name.clone()))
            else {
                break;
            };
            assert!(seen.insert(name.clone()));
            at = cookie;
            listing.remove(&name);
            if round < 500 {
                listing.insert(listed(&format!("later{round}")));
            }
            round += 1;
        }
        assert!((0..1000).all(|i| seen.contains(OsStr::new(&format!("n{i}")))));
    }
}
