//! Restoring: an image as layers that show the saved paths as they were, whatever
//! lies below.
//!
//! First everything is verified and unpacked, beside the stage. Then the layers are
//! placed on the stack as it is at that moment, which is a matter of a few names: a
//! *cover* hides what the stack shows of the paths, and the directories that lead
//! there get the attributes that they have in the stack.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use super::super::LeftOut;
use super::super::ahead::read_ahead;
use super::super::paths::{Id, Paths};
use super::super::reader::LinkedNames;
use super::super::unpack::{Mapping, Refusals, Unpacking};
use super::super::untar::TarReader;
use super::super::wanting::{Wanted, Wanting};
use super::{Image, Place};
use crate::error::{Context, Error, Result};
use crate::layer::copy_up::{copy_dir, dress_dir, keeping_times};
use crate::layer::{Inos, LinkState, OpenLayer, Stack, TREE, Visit, seal, set_ino, walk};
use crate::stage::Placing;
use crate::sys::at::{self, SetTime};
use crate::tree::Ino;

/// What made these layers, as their manifests say it.
const WRITER: &str = "import";

/// On what terms an image is unpacked.
#[derive(Clone, Copy)]
pub struct Terms<'a> {
    /// Where its layers are made; on the disk of the stage's layers.
    pub work: &'a Path,
    /// The paths of the image that are restored.
    pub paths: &'a [Place],
    /// The numbers of the new inodes.
    pub inos: &'a Inos,
    /// Whether devices, capabilities and set-id bits of root are welcome.
    pub trusting: bool,
    /// Asked all the time; its failure ends it.
    pub wanted: Wanted<'a>,
}

/// An image that is unpacked, and in no stack yet. Dropping it removes it.
pub struct Unpacked {
    work: PathBuf,
    paths: Vec<Place>,
    layers: Vec<OpenLayer>,
    /// Numbers for the directories that lead to the paths, where the stack has none.
    above: BTreeMap<PathBuf, Ino>,
    /// What was not restored, and why.
    pub refused: Vec<LeftOut>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Errno::EINVAL, what.into())
}

/// Verifies and unpacks the layers of an image, all or none. `blobs` are theirs, in
/// order; nothing is believed of them.
///
/// # Errors
/// One sentence that says which layer is wrong; `EINVAL` for what is not what the
/// image says, or what the disk reports.
pub fn unpack(image: &Image, blobs: Vec<File>, terms: Terms<'_>) -> Result<Unpacked> {
    if blobs.len() != image.layers.len() {
        let text = format!("{} blobs for {} layers", blobs.len(), image.layers.len());
        return Err(bad(text));
    }
    at::remove_all(AT_FDCWD, terms.work).context(|| terms.work.display().to_string())?;
    let mut unpacked = Unpacked {
        work: terms.work.to_path_buf(),
        paths: terms.paths.to_vec(),
        layers: Vec::new(),
        above: BTreeMap::new(),
        refused: Vec::new(),
    };
    for path in terms.paths.iter().flat_map(|place| above(&place.inner)) {
        let number = || terms.inos.allocate();
        unpacked
            .above
            .entry(path.to_path_buf())
            .or_insert_with(number);
    }
    let mapping: Mapping = terms
        .paths
        .iter()
        .map(|place| (place.shown.clone(), place.inner.clone()))
        .collect();
    let mut others = image.paths.clone();
    others.retain(|path| terms.paths.iter().all(|place| place.shown != *path));
    let mut refusals = Refusals {
        trusting: terms.trusting,
        ..Refusals::default()
    };
    let (mut paths, mut names) = (Paths::default(), LinkedNames::default());
    for (index, blob) in blobs.into_iter().enumerate() {
        let open = OpenLayer::open(&terms.work.join(index.to_string()))?;
        let new = {
            let mut unpacking = Unpacking::new(&open, &mapping, terms.inos, &mut paths)
                .wary(Some(&mut refusals))
                .without(&others);
            unpacking.lead_there()?;
            layer(image, index, blob, unpacking, terms.wanted)
                .context(|| format!("layer {} of the cache", index + 1))?
        };
        names.count(&paths, &open, new)?;
        unpacked.layers.push(open);
    }
    unpacked.refused = refusals.told.into_iter().collect();
    Ok(unpacked)
}

/// Unpacks one layer, and checks both its digests while it is read: what is wrong
/// with it is known before it is placed.
fn layer(
    image: &Image,
    index: usize,
    blob: File,
    unpacking: Unpacking<'_>,
    wanted: Wanted<'_>,
) -> Result<HashMap<Id, Ino>> {
    let layer = &image.layers[index];
    let descriptor = &layer.descriptor;
    let size = blob.metadata()?.len();
    if size != descriptor.size() {
        let text = format!("{size} bytes, its descriptor says {}", descriptor.size());
        return Err(bad(text));
    }
    let (names, digests) = read_ahead(blob, descriptor, |tar| {
        unpacking.run(&mut TarReader::new(Wanting { inner: tar, wanted }))
    })?;
    wanted()?;
    // A damaged blob is told as such, not as what its damage looks like.
    let digest = format!("sha256:{}", digests.blob);
    if digest != descriptor.digest().to_string() {
        let text = format!("it is {digest}, the cache says {}", descriptor.digest());
        return Err(bad(text));
    }
    let (names, diff_id) = (names?, digests.tar);
    if format!("sha256:{diff_id}") != layer.diff_id {
        let text = format!(
            "its content is sha256:{diff_id}, the cache says {}",
            layer.diff_id
        );
        return Err(bad(text));
    }
    Ok(names)
}

impl Placing for Unpacked {
    fn depth(&self) -> usize {
        self.layers.len() + 1
    }

    fn seal(&mut self, layers: &Path, ids: &[String], now: u64) -> Result<()> {
        let ids = ids.iter().skip(1);
        for (open, id) in self.layers.iter().zip(ids) {
            seal(open, &Stack::default(), layers, id, WRITER, now)?;
        }
        Ok(())
    }

    fn place(&mut self, stack: &Stack, layers: &Path, ids: &[String], now: u64) -> Result<()> {
        let cover = OpenLayer::open(&self.work.join("cover"))?;
        for place in &self.paths {
            self.hide(&cover, stack, place)
                .context(|| place.shown.display().to_string())?;
            for open in &self.layers {
                self.lead(open, stack, &place.inner)?;
            }
        }
        let id = ids.first().ok_or(Errno::EINVAL)?;
        seal(&cover, stack, layers, id, WRITER, now)?;
        Ok(())
    }
}

impl Unpacked {
    /// Has the cover hide what the stack shows of a path.
    fn hide(&self, cover: &OpenLayer, stack: &Stack, place: &Place) -> Result<()> {
        let inner = &place.inner;
        let Some(found) = stack.find(inner)? else {
            return Ok(());
        };
        count_hidden(cover, stack, inner)?;
        let is_mapped = inner.components().count() == 1;
        if !is_mapped {
            let parent = inner.parent().unwrap_or(Path::new(""));
            copy_dir(cover, stack, parent)?;
            let (parent, target) = (Path::new(TREE).join(parent), Path::new(TREE).join(inner));
            return keeping_times(cover, &parent, || cover.whiteout_file(&target));
        }
        // A mapped path itself cannot be hidden, so all that is in it is, one by one.
        if !found.attr.is_dir() {
            return Ok(());
        }
        copy_dir(cover, stack, inner)?;
        let dir = Path::new(TREE).join(inner);
        keeping_times(cover, &dir, || {
            for name in stack.list(&found.parts)?.into_keys() {
                cover.whiteout_file(&dir.join(name))?;
            }
            Ok(())
        })
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        if let Err(error) = at::remove_all(AT_FDCWD, &self.work) {
            log::warn!("{}: {error}", self.work.display());
        }
    }
}

/// Files that have names elsewhere too have fewer names from now on.
fn count_hidden(cover: &OpenLayer, stack: &Stack, inner: &Path) -> Result<()> {
    let mut hidden: HashMap<Ino, (u32, u32)> = HashMap::new();
    walk(stack, inner, &mut |_, found| {
        let attr = &found.attr;
        if !attr.is_dir() && attr.nlink > 1 && attr.ino != 0 {
            hidden.entry(attr.ino).or_insert((attr.nlink, 0)).1 += 1;
        }
        Ok(Visit::Enter)
    })?;
    for (ino, (names, gone)) in hidden {
        // Of several paths each hides some.
        let before = cover.link_state(ino);
        let left = before.map_or(names, |state| state.nlink);
        cover.set_link_state(
            ino,
            LinkState {
                nlink: left.saturating_sub(gone),
                origin: names,
                here: false,
            },
        )?;
    }
    Ok(())
}

/// The directories that lead to a path, the uppermost first.
fn above(inner: &Path) -> impl Iterator<Item = &Path> {
    let above: Vec<&Path> = inner.ancestors().skip(1).collect();
    let named = |path: &&Path| !path.as_os_str().is_empty();
    above.into_iter().rev().filter(named)
}

impl Unpacked {
    /// Gives the directories that lead to a path what they have in the stack, if they
    /// are directories there.
    fn lead(&self, open: &OpenLayer, stack: &Stack, inner: &Path) -> Result<()> {
        let mut parts = stack.roots();
        let mut is_dir = true;
        for path in above(inner) {
            let target = Path::new(TREE).join(path);
            let name = path.file_name().unwrap_or_default();
            let found = match is_dir {
                true => stack.lookup(&parts, name)?,
                false => None,
            };
            match found.filter(|found| found.attr.is_dir()) {
                Some(found) => {
                    dress_dir(open, stack, &found, &target)?;
                    parts = found.parts;
                }
                None => {
                    is_dir = false;
                    let ino = self.above.get(path).copied();
                    set_ino(open, &target, ino.ok_or(Errno::ENOENT)?, false)?;
                }
            }
        }
        if stack.find(inner)?.is_none()
            && let Some(parent) = inner.parent().filter(|path| !path.as_os_str().is_empty())
        {
            // It gets a name (inode(7), mtime).
            let target = Path::new(TREE).join(parent);
            at::utimens(open, &target, SetTime::Keep, SetTime::Now)?;
        }
        Ok(())
    }
}
