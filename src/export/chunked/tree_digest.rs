//! The digest of a layer's tree: of what its entries are, not of how they are
//! compressed. Another version of zstd makes other blobs of the same tree.

use std::os::unix::ffi::OsStrExt;

use nix::sys::stat::{major, minor};
use sha2::{Digest, Sha256};

use super::super::layout::hex;
use super::super::tar::{Member, What};
use super::toc::kind;

/// What every digest begins with: the version of what follows.
const HEAD: &[u8] = b"io.harness.fs tree 1\n";

/// Takes entries in their order in the archive; `docs/format.md` says what of
/// them is hashed.
#[derive(Clone)]
pub struct TreeDigest(Sha256);

impl Default for TreeDigest {
    fn default() -> TreeDigest {
        TreeDigest(Sha256::new_with_prefix(HEAD))
    }
}

impl TreeDigest {
    /// Adds the next entry; `content` is the digest of a file that is not empty.
    pub fn add(&mut self, member: &Member, content: Option<&[u8; 32]>) {
        let (link, device) = match &member.what {
            What::HardLink(target) | What::Symlink(target) => (target.as_slice(), 0),
            What::CharDevice(number) | What::BlockDevice(number) => (&[][..], *number),
            _ => (&[][..], 0),
        };
        let mut line = Vec::new();
        let mut field = |bytes: &[u8]| {
            line.extend_from_slice(bytes);
            line.push(0);
        };
        field(kind(&member.what).as_bytes());
        field(&member.name());
        field(link);
        field(format!("{:o}", member.perm).as_bytes());
        let numbers = [
            i128::from(member.uid),
            i128::from(member.gid),
            i128::from(member.mtime.sec),
            i128::from(member.mtime.nsec),
            i128::from(major(device)),
            i128::from(minor(device)),
            i128::from(member.size()),
        ];
        for number in numbers {
            field(number.to_string().as_bytes());
        }
        field(
            content
                .map(|digest| hex(digest))
                .unwrap_or_default()
                .as_bytes(),
        );
        field(member.xattrs.len().to_string().as_bytes());
        for (name, value) in &member.xattrs {
            field(name.as_bytes());
            field(value.len().to_string().as_bytes());
            field(value);
        }
        self.0.update(&line);
    }

    /// The digest, `sha256:…`.
    pub fn finish(self) -> String {
        format!("sha256:{}", hex(&self.0.finalize()))
    }
}
