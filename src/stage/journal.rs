//! `journal/`: what was being sealed, so that a death in between loses nothing.
//!
//! Sealing moves an open layer to `layers/<id>` and only then commits. A record
//! written before and removed after tells whose content an uncommitted layer is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::state::replace_file;
use crate::error::{Context, Result};
use crate::sys::at;

/// The directory's name.
pub const DIR: &str = "journal";

/// The record of an `unmount --apply` into the stage's own directories. What it
/// says is for who writes it; while it is there, the base may be changing.
const APPLY: &str = "apply";

/// Writes the record of an apply, whole or not at all.
///
/// # Errors
/// As write(2) and rename(2).
pub fn write_apply(state_dir: &Path, content: &[u8]) -> Result<()> {
    replace_file(&state_dir.join(DIR).join(APPLY), content)
}

/// Reads the record of an apply, if there is one.
///
/// # Errors
/// As read(2).
pub fn read_apply(state_dir: &Path) -> Result<Option<Vec<u8>>> {
    let path = state_dir.join(DIR).join(APPLY);
    match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).context(|| path.display().to_string()),
    }
}

/// Removes the record of an apply.
///
/// # Errors
/// As unlink(2).
pub fn remove_apply(state_dir: &Path) -> Result<()> {
    let path = state_dir.join(DIR).join(APPLY);
    at::remove_all(nix::fcntl::AT_FDCWD, &path).context(|| path.display().to_string())
}

/// One layer that is being sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The view whose open layer it is: a step's name, or `stage` for the head.
    pub view: String,
    /// The id it gets.
    pub id: String,
    /// [`super::state::State::commits`] when it began. If `stage.json` has a
    /// higher number, the commit came and decides alone.
    pub commits: u64,
}

impl Record {
    fn path(state_dir: &Path, id: &str) -> PathBuf {
        state_dir.join(DIR).join(format!("{id}.json"))
    }

    /// Writes the record.
    ///
    /// # Errors
    /// As write(2) and rename(2).
    pub fn write(&self, state_dir: &Path) -> Result<()> {
        replace_file(&Self::path(state_dir, &self.id), &serde_json::to_vec(self)?)
            .inspect_err(|_| Self::remove(state_dir, &self.id))
    }

    /// Removes the record of a layer. One that stays is harmless.
    pub fn remove(state_dir: &Path, id: &str) {
        let path = Self::path(state_dir, id);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("{}: {error}", path.display());
        }
    }

    /// All records, in the order in which the layers got their numbers.
    ///
    /// # Errors
    /// As readdir(3) and read(2), or `EINVAL` for a damaged record.
    pub fn read_all(state_dir: &Path) -> Result<Vec<Record>> {
        let dir = state_dir.join(DIR);
        let mut records = Vec::new();
        for entry in std::fs::read_dir(&dir).context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let text = std::fs::read(&path)?;
                let record: Record =
                    serde_json::from_slice(&text).context(|| path.display().to_string())?;
                records.push(record);
            } else if path.file_name().is_some_and(|name| name != APPLY) {
                std::fs::remove_file(&path)?;
            }
        }
        records.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(records)
    }
}
