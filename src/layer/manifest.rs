//! `layer.json`: what is told of a sealed layer.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{OFlag, RenameFlags};
use serde::{Deserialize, Serialize};

use super::Whiteouts;
use crate::error::{Context, Result};
use crate::sys::at;
use crate::tree::Ino;

/// The name of the file beside a layer's tree.
pub const FILE: &str = "layer.json";

/// What is told of a sealed layer, beside its tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The layer's id in the stage.
    pub id: String,
    /// What made it: a step's name, `head`, `join` or `import`.
    pub step: String,
    /// When it was sealed, in seconds since the epoch.
    pub sealed: u64,
    /// Files, directories, and other entries that it adds or changes;
    /// directories that only lead to them not counted.
    pub entries: u64,
    /// Names that it deletes.
    pub whiteouts: u64,
    /// Bytes of file content that it holds.
    pub bytes: u64,
    /// By how much it changes the number of names of inodes of lower layers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub links: BTreeMap<Ino, i64>,
    /// Files some of whose content still lay below when it was sealed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub partial: u64,
    /// How deletions are marked: `true` for xattrs in place of 0:0 devices.
    #[serde(default)]
    pub xattr_whiteouts: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Manifest {
    /// How deletions are marked in this layer.
    pub fn whiteout_form(&self) -> Whiteouts {
        if self.xattr_whiteouts {
            Whiteouts::Xattr
        } else {
            Whiteouts::Device
        }
    }

    /// Reads the manifest in the layer's directory.
    ///
    /// # Errors
    /// As openat(2), or `EINVAL` with the place where the text is wrong.
    pub fn read(dir: impl AsFd) -> Result<Manifest> {
        let fd = at::open(dir, Path::new(FILE), OFlag::O_RDONLY, 0)?;
        Ok(serde_json::from_reader(std::fs::File::from(fd))?)
    }

    /// Writes it into the layer's directory, whole or not at all.
    ///
    /// # Errors
    /// As write(2) and renameat(2).
    pub fn write(&self, dir: impl AsFd) -> Result<()> {
        let dir = dir.as_fd();
        let temporary = Path::new("layer.json.new");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC;
        let file = std::fs::File::from(at::open(dir, temporary, flags, 0o600)?);
        serde_json::to_writer_pretty(&file, self)?;
        file.sync_all()?;
        at::rename(dir, temporary, dir, Path::new(FILE), RenameFlags::empty())
            .context(|| format!("{FILE} of layer {}", self.id))
    }
}
