//! The one error type: an errno, what failed, and how loud the log should be.

use std::borrow::Cow;
use std::fmt;

use nix::errno::Errno;

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: the errno a local filesystem would give, and what failed.
///
/// Inside the filesystem only the errno reaches the caller; on the command
/// line and in the log the text does.
#[derive(Clone)]
pub struct Error {
    errno: Errno,
    what: Option<Box<str>>,
}

impl Error {
    /// An error with a text for people: what failed, on which path.
    pub fn new(errno: Errno, what: impl Into<Cow<'static, str>>) -> Error {
        Error {
            errno,
            what: Some(what.into().into()),
        }
    }

    /// The errno to answer with.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// Puts what was being done in front of the text.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Error {
        let text = match self.what {
            Some(inner) => format!("{what}: {inner}"),
            None => format!("{what}: {}", self.errno.desc()),
        };
        Error {
            errno: self.errno,
            what: Some(text.into()),
        }
    }

    /// How loud this is in the log: what programs ask for all day (a missing
    /// name, a refused permission) is no news, a failing disk is.
    pub fn level(&self) -> log::Level {
        match self.errno {
            Errno::EIO | Errno::ENOTRECOVERABLE | Errno::EUCLEAN => log::Level::Error,
            Errno::ENOSPC | Errno::EDQUOT | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => {
                log::Level::Warn
            }
            _ => log::Level::Debug,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Some(what) => f.write_str(what),
            None => f.write_str(self.errno.desc()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.errno as i32)
    }
}

impl std::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error { errno, what: None }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(code) => Errno::from_raw(code).into(),
            None => Error::new(Errno::EIO, error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Error {
        match error.io_error_kind() {
            Some(_) => std::io::Error::from(error).into(),
            None => Error::new(Errno::EINVAL, error.to_string()),
        }
    }
}

/// Adds what was being done to a failure.
pub trait Context<T> {
    /// Puts the text in front of the error's own; the text is built only on failure.
    ///
    /// # Errors
    /// The same errno as before.
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.into().context(what()))
    }
}
