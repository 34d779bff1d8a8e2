//! What can go wrong with a store, so that a miss, an outage and damage can be
//! treated as differently as they are.

use std::fmt;

use nix::errno::Errno;

use crate::error::Error;

/// The result of everything a store does.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is not there: a miss.
    NotFound,
    /// A condition did not hold: somebody else has written the ref meanwhile.
    Conflict,
    /// What the store gave is not what its digest or its size says.
    Corrupt,
    /// No credentials, or such that are not allowed this.
    Denied,
    /// An outage: the store does not answer, answers with errors of its own after all retries, or its disk is full.
    Unreachable,
    /// What was to be sent could not be read, or is not what its digest says; or what was received could not be written.
    Local,
    /// The store cannot do this at all.
    Unsupported,
    /// The URL, or what it names, is wrong: no such bucket, a directory of something else.
    Invalid,
}

/// A failure of a store: its kind, and a text that names the URL without credentials.
#[derive(Clone, Debug)]
pub struct Failure {
    kind: Kind,
    error: Error,
}

impl Failure {
    pub(super) fn new(kind: Kind, text: impl Into<String>) -> Failure {
        let errno = match kind {
            Kind::NotFound => Errno::ENOENT,
            Kind::Conflict => Errno::EEXIST,
            Kind::Corrupt => Errno::EBADMSG,
            Kind::Denied => Errno::EACCES,
            Kind::Unreachable => Errno::EHOSTUNREACH,
            Kind::Local => Errno::EIO,
            Kind::Unsupported => Errno::EOPNOTSUPP,
            Kind::Invalid => Errno::EINVAL,
        };
        Failure {
            kind,
            error: Error::new(errno, text.into()),
        }
    }

    /// Of the caller's own file or reader, with its errno.
    pub(super) fn local(error: impl Into<Error>) -> Failure {
        Failure {
            kind: Kind::Local,
            error: error.into(),
        }
    }

    /// Of the disk that a store in a directory lies on, with its errno.
    pub(super) fn disk(error: impl Into<Error>) -> Failure {
        let error = error.into();
        let kind = match error.errno() {
            Errno::ENOENT => Kind::NotFound,
            Errno::EACCES | Errno::EPERM | Errno::EROFS => Kind::Denied,
            // A link, a pipe or a file where something else ought to be.
            Errno::ENOTDIR | Errno::EISDIR | Errno::ELOOP | Errno::ENXIO | Errno::ENAMETOOLONG => {
                Kind::Invalid
            }
            _ => Kind::Unreachable,
        };
        Failure { kind, error }
    }

    /// What kind of failure it was.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same, of what has to be there.
    #[must_use]
    pub fn as_damage(self) -> Failure {
        Failure {
            kind: Kind::Corrupt,
            ..self
        }
    }

    /// Puts what was being done in front of the text.
    #[must_use]
    pub(super) fn context(self, what: impl fmt::Display) -> Failure {
        Failure {
            kind: self.kind,
            error: self.error.context(what),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failure {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        failure.error
    }
}

/// The server's own words, on one line and not too many of them.
pub(super) fn excerpt(text: &str) -> String {
    const MOST: usize = 300;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_miss_an_outage_and_damage_are_told_apart_by_errno_as_well() {
        let of = |kind| Error::from(Failure::new(kind, "x")).errno();
        assert_eq!(of(Kind::NotFound), Errno::ENOENT);
        assert_eq!(of(Kind::Unreachable), Errno::EHOSTUNREACH);
        assert_eq!(of(Kind::Corrupt), Errno::EBADMSG);
    }

    #[test]
    fn a_full_disk_is_an_outage_and_keeps_its_errno() {
        let failure = Failure::disk(Errno::ENOSPC);
        assert_eq!(failure.kind(), Kind::Unreachable);
        assert_eq!(Error::from(failure).errno(), Errno::ENOSPC);
    }

    #[test]
    fn what_a_server_says_is_cut_at_a_character() {
        assert_eq!(excerpt("<a>\n  b</a>\n"), "<a> b</a>");
        assert_eq!(excerpt(&"é".repeat(400)).chars().count(), 301);
    }
}
