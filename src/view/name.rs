//! The name of an entry, as small as can be: there is one for every inode that the kernel knows.

use std::ffi::OsStr;
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::node::Node;
use crate::tree::Ino;

/// So many bytes need no room of their own: then a name is as large as an `OsString`.
const SHORT: usize = 22;

/// A name. Cloning shares it.
#[derive(Clone)]
pub(super) enum Name {
    Short { length: u8, bytes: [u8; SHORT] },
    Long(Arc<OsStr>),
}

/// A name that an entry has, or had.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub parent: Arc<Node>,
    pub name: Name,
}

impl Place {
    pub fn keyed(self) -> ((Ino, Name), Arc<Node>) {
        ((self.parent.ino, self.name), self.parent)
    }

    pub fn is(&self, parent: &Arc<Node>, name: &OsStr) -> bool {
        Arc::ptr_eq(&self.parent, parent) && *self.name == *name
    }
}

impl From<&OsStr> for Name {
    fn from(name: &OsStr) -> Name {
        let given = name.as_bytes();
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..given.len()), u8::try_from(given.len())) {
            (Some(short), Ok(length)) => {
                short.copy_from_slice(given);
                Name::Short { length, bytes }
            }
            _ => Name::Long(name.into()),
        }
    }
}

impl Deref for Name {
    type Target = OsStr;

    fn deref(&self) -> &OsStr {
        match self {
            Name::Short { length, bytes } => OsStr::from_bytes(&bytes[..usize::from(*length)]),
            Name::Long(name) => name,
        }
    }
}

impl AsRef<Path> for Name {
    fn as_ref(&self) -> &Path {
        Path::new(&**self)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        **self == **other
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_or_long_it_is_the_same_name() {
        for length in 0..=255 {
            let mut text = vec![0xff; length];
            let name = Name::from(OsStr::from_bytes(&text));
            assert_eq!(name.as_bytes(), text);
            assert_eq!(matches!(name, Name::Short { .. }), length <= SHORT);
            if let Some(last) = text.last_mut() {
                *last = b'a';
                let other = Name::from(OsStr::from_bytes(&text));
                assert!(other < name && other != name);
            }
        }
        assert_eq!(size_of::<Name>(), size_of::<std::ffi::OsString>());
    }
}
