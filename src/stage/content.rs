//! Comparing what two stacks have at a path.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::layer::Stack;
use crate::tree::Kind;
use crate::tree::union::{Found, Part};

/// Where content lies: the layer and the path in it.
type Place = (String, PathBuf);

/// What has been read of content. Layers do not change, so it stays true, and a merge that is
/// prepared a second time, while nobody can write in the stage view, need not read it again.
#[derive(Debug, Default)]
pub(super) struct Known {
    equal: RefCell<HashMap<(Place, Place), bool>>,
    digests: RefCell<HashMap<Place, String>>,
}

impl Known {
    fn equal(&self, places: (Place, Place), read: impl FnOnce() -> Result<bool>) -> Result<bool> {
        if let Some(equal) = self.equal.borrow().get(&places) {
            return Ok(*equal);
        }
        let equal = read()?;
        self.equal.borrow_mut().insert(places, equal);
        Ok(equal)
    }

    fn digest(&self, place: Place, read: impl FnOnce() -> Result<String>) -> Result<String> {
        if let Some(digest) = self.digests.borrow().get(&place) {
            return Ok(digest.clone());
        }
        let digest = read()?;
        self.digests.borrow_mut().insert(place, digest.clone());
        Ok(digest)
    }
}

/// An entry and the stack it was found in.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub stack: &'a Stack,
    pub found: &'a Found,
    known: Option<&'a Known>,
}

const CHUNK: usize = 128 << 10;

impl<'a> Seen<'a> {
    pub fn new(stack: &'a Stack, found: &'a Found) -> Seen<'a> {
        Seen {
            stack,
            found,
            known: None,
        }
    }

    /// The same; what it reads is remembered, and not read twice.
    pub fn knowing(self, known: &'a Known) -> Seen<'a> {
        Seen {
            known: Some(known),
            ..self
        }
    }

    fn place(self, part: &Part) -> Place {
        let layer = self.stack.layer(part.layer).id();
        (layer.to_owned(), part.path.to_path_buf())
    }

    /// True if both are the same entry of the same layer.
    pub fn is(self, other: Seen<'_>) -> bool {
        let (a, b) = (&self.found.parts[0], &other.found.parts[0]);
        a.path == b.path
            && std::ptr::addr_eq(
                std::sync::Arc::as_ptr(self.stack.layer(a.layer)),
                std::sync::Arc::as_ptr(other.stack.layer(b.layer)),
            )
    }

    /// True if type, content, link target or device number are equal. For
    /// directories only the type counts.
    pub fn same_content(self, other: Seen<'_>) -> Result<bool> {
        let (a, b) = (&self.found.attr, &other.found.attr);
        if a.kind != b.kind {
            return Ok(false);
        }
        // One metadata-only copy has as many contents as there are stacks that hold it.
        if self.is(other) && !self.found.marks.metacopy {
            return Ok(true);
        }
        match a.kind {
            Kind::File => {
                if a.size != b.size {
                    return Ok(false);
                }
                let (own, others) = (
                    self.stack.content(self.found)?,
                    other.stack.content(other.found)?,
                );
                let same_layer = std::ptr::addr_eq(
                    std::sync::Arc::as_ptr(self.stack.layer(own.layer)),
                    std::sync::Arc::as_ptr(other.stack.layer(others.layer)),
                );
                if own.path == others.path && same_layer {
                    return Ok(true);
                }
                let read = || equal(self.file()?, other.file()?, a.size);
                match self.known {
                    Some(known) => known.equal((self.place(&own), other.place(&others)), read),
                    None => read(),
                }
            }
            Kind::Symlink => {
                Ok(self.stack.readlink(self.found)? == other.stack.readlink(other.found)?)
            }
            Kind::CharDevice | Kind::BlockDevice => Ok(a.rdev == b.rdev),
            Kind::Dir | Kind::Fifo | Kind::Socket => Ok(true),
        }
    }

    /// True if mode, owner and extended attributes are equal; times do not count.
    pub fn same_metadata(self, other: Seen<'_>) -> Result<bool> {
        let (a, b) = (&self.found.attr, &other.found.attr);
        if (a.perm, a.uid, a.gid) != (b.perm, b.uid, b.gid) {
            return Ok(false);
        }
        Ok(self.is(other) || self.stack.xattrs(self.found)? == other.stack.xattrs(other.found)?)
    }

    /// True if this file begins with all of `prefix`.
    pub fn begins_with(self, prefix: Seen<'_>) -> Result<bool> {
        let length = prefix.found.attr.size;
        if self.found.attr.size < length {
            return Ok(false);
        }
        equal(self.file()?.take(length), prefix.file()?, length)
    }

    /// The digest of a file's content.
    pub fn digest(self) -> Result<String> {
        match self.known {
            Some(known) => {
                let part = self.stack.content(self.found)?;
                known.digest(self.place(&part), || self.read_digest())
            }
            None => self.read_digest(),
        }
    }

    fn read_digest(self) -> Result<String> {
        let mut file = self.file()?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            let got = file.read(&mut buffer)?;
            if got == 0 {
                break;
            }
            hasher.update(&buffer[..got]);
        }
        let hex: String = hasher
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(format!("sha256:{hex}"))
    }

    fn file(self) -> Result<File> {
        Ok(File::from(self.stack.open(self.found)?))
    }
}

/// Fills the buffer as far as the file goes.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}

/// Whether both read the same, of which about `length` bytes are expected.
fn equal(mut a: impl Read, mut b: impl Read, length: u64) -> Result<bool> {
    // Most files are small, and large buffers take longer to make than those to read. One byte
    // more, so that the end is seen.
    let chunk = usize::try_from(length).map_or(CHUNK, |length| CHUNK.min(length + 1));
    let (mut left, mut right) = (vec![0; chunk], vec![0; chunk]);
    loop {
        let got = fill(&mut a, &mut left)?;
        if got != fill(&mut b, &mut right)? || left[..got] != right[..got] {
            return Ok(false);
        }
        if got < chunk {
            return Ok(true);
        }
    }
}
