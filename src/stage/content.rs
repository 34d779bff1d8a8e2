//! Comparing what two stacks have at a path.

use std::fs::File;
use std::io::Read;

use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::layer::Stack;
use crate::tree::Kind;
use crate::tree::union::Found;

/// An entry and the stack it was found in.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub stack: &'a Stack,
    pub found: &'a Found,
}

const CHUNK: usize = 128 << 10;

impl<'a> Seen<'a> {
    pub fn new(stack: &'a Stack, found: &'a Found) -> Seen<'a> {
        Seen { stack, found }
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
                equal(self.file()?, other.file()?)
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
        equal(self.file()?.take(length), prefix.file()?)
    }

    /// The digest of a file's content.
    pub fn digest(self) -> Result<String> {
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

fn equal(mut a: impl Read, mut b: impl Read) -> Result<bool> {
    let (mut left, mut right) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let got = fill(&mut a, &mut left)?;
        if got != fill(&mut b, &mut right)? || left[..got] != right[..got] {
            return Ok(false);
        }
        if got < CHUNK {
            return Ok(true);
        }
    }
}
