//! Importing: an image layout as sealed layers of a stage.
//!
//! Every blob's digest is checked before a byte of it is looked at, and every
//! tar's once more while it is unpacked into a directory of its own. Only when
//! all layers are there do they get their names; a failure leaves nothing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest, MediaType};

use super::ahead::read_ahead;
use super::layout::{Hashing, LAYOUT, open_blob, read_blob, read_index, ref_name};
use super::paths::{Id, Paths};
use super::unpack::{Mapping, Unpacking};
use super::untar::TarReader;
use super::wanting::{Wanted, Wanting};
use super::{BASE, BASE_INCLUDED, BASE_NONE, MAPPED_PATHS, SINGLE_FILES};
use crate::error::{Context, Error, Result};
use crate::layer::{Inos, LinkState, OpenLayer, Stack, TREE, seal};
use crate::sys::at;
use crate::tree::union::Entry;
use crate::tree::{Ino, Kind, marker};

/// What an import brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The ids of the new layers, the lowest first.
    pub layers: Vec<String>,
    /// The lowest layer is the new base, and the stage's own has to be left
    /// out of the stack.
    pub has_base: bool,
    /// The mapped paths that were single files, also those that are withheld.
    pub single_files: Vec<PathBuf>,
}

/// Where the layers of an image go, and on what terms.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    /// The directory that gets a directory for each layer.
    pub layers: &'a Path,
    /// The stage's mapped paths.
    pub mapped: &'a [PathBuf],
    /// The numbers of the new inodes.
    pub inos: &'a Inos,
    /// Asked all the time; its failure ends the import.
    pub wanted: Wanted<'a>,
}

fn bad(what: impl Into<String>) -> Error {
    Error::new(Errno::EINVAL, what.into())
}

/// Reads an image into layers `<layers>/<id>`, all or none.
///
/// `layout` is the directory, or `DIR:NAME` where it holds several images.
/// `ids` makes a layer's id from what it is called. The image's paths are
/// matched with the stage's by name. Where a complete image lacks some of the
/// stage's paths (it does not know them, or they are files that it withholds),
/// those keep the stage's own base: the lowest layer then hides the base under
/// all other paths, and `has_base` is false.
///
/// Inodes get new numbers. Names of the stage's own base that are hard links,
/// and that the image deletes, still count in `st_nlink` of the others.
///
/// # Errors
/// One sentence that says which file, image or path is wrong.
pub fn import(
    layout: &Path,
    target: Destination<'_>,
    ids: &mut dyn FnMut(&str) -> String,
) -> Result<Imported> {
    let (root, name) = split(layout);
    let image = Image::read(&root, name.as_deref())?;
    let mapping = image.mapping(target.mapped)?;
    std::fs::create_dir_all(target.layers).context(|| target.layers.display().to_string())?;
    let mut import = Import {
        image,
        mapping,
        target,
        made: Vec::new(),
        paths: Paths::default(),
        names: LinkedNames::default(),
        done: false,
    };
    import.run(ids)
}

/// Splits `DIR:NAME`; a directory of the whole name comes first.
///
/// Both parts can hold a `:`, so it is the layout that tells where the name
/// begins. A directory that is none is for its reader to complain of.
fn split(layout: &Path) -> (PathBuf, Option<String>) {
    let whole = (layout.to_path_buf(), None);
    if layout.is_dir() {
        return whole;
    }
    let Some(text) = layout.to_str() else {
        return whole;
    };
    let splits = text.match_indices(':');
    let splits = splits.map(|(at, _)| (Path::new(&text[..at]), &text[at + 1..]));
    let mut dirs = splits.filter(|(dir, _)| dir.is_dir());
    let first = dirs.clone().next();
    match dirs.find(|(dir, _)| dir.join(LAYOUT).exists()).or(first) {
        Some((dir, name)) => (dir.to_path_buf(), Some(name.to_owned())),
        None => whole,
    }
}

/// An image of a layout: verified, but for its layers.
struct Image {
    root: PathBuf,
    layers: Vec<Descriptor>,
    diff_ids: Vec<String>,
    mapped: Vec<PathBuf>,
    single_files: Vec<PathBuf>,
    has_base: bool,
}

impl Image {
    fn read(root: &Path, name: Option<&str>) -> Result<Image> {
        let index = read_index(root)?;
        let all = index.manifests();
        let chosen = match (name, all.as_slice()) {
            (Some(name), _) => all
                .iter()
                .find(|entry| ref_name(entry) == Some(name))
                .ok_or_else(|| Error::new(Errno::ENOENT, format!("no image is called {name}")))?,
            (None, [only]) => only,
            (None, []) => return Err(bad("the layout holds no image")),
            (None, several) => {
                let names: Vec<&str> = several.iter().filter_map(ref_name).collect();
                let names = names.join(", ");
                return Err(bad(format!(
                    "it holds several images ({names}); say which with {}:NAME",
                    root.display()
                )));
            }
        };
        if *chosen.media_type() != MediaType::ImageManifest {
            let what = chosen.media_type();
            return Err(bad(format!("{what} is no image manifest")));
        }
        let manifest: ImageManifest = read_blob(root, chosen)?;
        let annotation = |key: &str| manifest.annotations().as_ref()?.get(key);
        let foreign = "this image was not exported by harness-fs";
        let paths = annotation(MAPPED_PATHS)
            .ok_or_else(|| bad(format!("{foreign}: it has no annotation {MAPPED_PATHS}")))?;
        let list = |key: &str, text: &str| -> Result<Vec<PathBuf>> {
            serde_json::from_str(text).context(|| format!("the annotation {key} is damaged"))
        };
        let mapped = list(MAPPED_PATHS, paths)?;
        let single_files = annotation(SINGLE_FILES);
        let single_files = single_files.map(|files| list(SINGLE_FILES, files));
        let single_files = single_files.transpose()?.unwrap_or_default();
        let has_base = match annotation(BASE).map(String::as_str) {
            Some(BASE_INCLUDED) => true,
            Some(BASE_NONE) => false,
            _ => {
                return Err(bad(format!(
                    "{foreign}: its annotation {BASE} is not known"
                )));
            }
        };
        let config: ImageConfiguration = read_blob(root, manifest.config())?;
        let diff_ids = config.rootfs().diff_ids().clone();
        let layers = manifest.layers().clone();
        if diff_ids.len() != layers.len() {
            return Err(bad(format!(
                "the image has {} layers, its configuration names {}",
                layers.len(),
                diff_ids.len()
            )));
        }
        if has_base && layers.is_empty() {
            return Err(bad("the image says it has a base, but has no layer"));
        }
        Ok(Image {
            root: root.to_path_buf(),
            layers,
            diff_ids,
            mapped,
            single_files,
            has_base,
        })
    }

    /// Which of the stage's paths the image's are.
    fn mapping(&self, mapped: &[PathBuf]) -> Result<Mapping> {
        let mut mapping: Mapping = Vec::new();
        for path in &self.mapped {
            let index = mapped.iter().position(|known| known == path);
            let index = index.ok_or_else(|| {
                let path = path.display();
                bad(format!("it holds {path}, which this stage does not map"))
            })?;
            let index = PathBuf::from(index.to_string());
            if mapping.iter().any(|(_, known)| *known == index) {
                return Err(bad(format!("it holds {} twice", path.display())));
            }
            mapping.push((path.clone(), index));
        }
        Ok(mapping)
    }
}

/// An import under way. Dropping it before the end removes what it made.
struct Import<'a> {
    image: Image,
    mapping: Mapping,
    target: Destination<'a>,
    made: Vec<PathBuf>,
    paths: Paths,
    names: LinkedNames,
    done: bool,
}

impl Import<'_> {
    fn run(&mut self, ids: &mut dyn FnMut(&str) -> String) -> Result<Imported> {
        // All digests first: a damaged image is found before it costs a disk.
        for descriptor in self.image.layers.clone() {
            let (file, digest) = open_blob(&self.image.root, &descriptor)?;
            let wanted = self.target.wanted;
            let mut hashing = Hashing::new(Wanting {
                inner: file,
                wanted,
            });
            std::io::copy(&mut hashing, &mut std::io::sink())
                .context(|| format!("blob {digest}"))?;
            if hashing.finish().1 != digest {
                return Err(bad(format!("blob {digest} does not match its digest")));
            }
        }
        let mut absent = self.target.mapped.len() > self.mapping.len();
        let mut layers = Vec::new();
        for index in 0..self.image.layers.len() {
            let work = format!(".import-{}-{index}", std::process::id());
            let work = self.target.layers.join(work);
            at::remove_all(AT_FDCWD, &work).context(|| work.display().to_string())?;
            self.made.push(work.clone());
            let open = OpenLayer::open(&work)?;
            let number = index + 1;
            let names = self
                .unpack(index, &open)
                .context(|| format!("layer {number} of the image"))?;
            if index == 0 && self.image.has_base {
                for (_, root) in &self.mapping {
                    absent |= open.entry(root)?.is_none();
                }
                if absent {
                    self.cover_own_base(&open)?;
                }
            }
            self.count_names(&open, names)?;
            let id = ids("import");
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |now| now.as_secs());
            seal(
                &open,
                &Stack::default(),
                self.target.layers,
                &id,
                "import",
                now,
            )?;
            self.made.push(self.target.layers.join(&id));
            layers.push(id);
        }
        self.done = true;
        Ok(Imported {
            layers,
            has_base: self.image.has_base && !absent,
            single_files: std::mem::take(&mut self.image.single_files),
        })
    }

    /// Unpacks one layer and checks both its digests once more on the way.
    fn unpack(&mut self, index: usize, open: &OpenLayer) -> Result<HashMap<Id, Ino>> {
        let descriptor = &self.image.layers[index];
        let (file, digest) = open_blob(&self.image.root, descriptor)?;
        let unpacking = Unpacking::new(open, &self.mapping, self.target.inos, &mut self.paths);
        let wanted = self.target.wanted;
        let (names, digests) = read_ahead(file, descriptor, |tar| {
            // What is unpacked may be a thousand times as much as what it is read from.
            unpacking.run(&mut TarReader::new(Wanting { inner: tar, wanted }))
        })?;
        let names = names?;
        if digests.blob != digest {
            return Err(bad(format!("blob {digest} changed while it was read")));
        }
        let diff_id = digests.tar;
        let expected = &self.image.diff_ids[index];
        if format!("sha256:{diff_id}") != *expected {
            return Err(bad(format!(
                "its content is sha256:{diff_id}, the image says {expected}"
            )));
        }
        Ok(names)
    }

    /// Hides the stage's own base below the lowest layer, where the stage has
    /// paths that the image does not know. A mapped path itself cannot be
    /// opaque, so all that is in it is hidden one by one.
    fn cover_own_base(&self, open: &OpenLayer) -> Result<()> {
        for (shown, root) in &self.mapping {
            let mut held = HashSet::new();
            match open.entry(root)? {
                Some(Entry::Present(attr, _)) if attr.is_dir() => {}
                _ => continue,
            }
            for name in open.tree().names(root)? {
                if name.kind == Some(Kind::Dir) {
                    let path = root.join(&name.name);
                    if let Some(Entry::Present(attr, _)) = open.entry(&path)? {
                        let path = Path::new(TREE).join(path);
                        open.mark(&path, attr.ino, marker::OPAQUE, OsStr::new("y"))?;
                    }
                }
                held.insert(name.name);
            }
            let Some(base) = at::stat_if_there(AT_FDCWD, shown)? else {
                continue;
            };
            if !base.attr.is_dir() {
                continue;
            }
            let path = Path::new(TREE).join(root);
            crate::layer::copy_up::keeping_times(open, &path, || {
                for entry in at::list(AT_FDCWD, shown)? {
                    if !held.contains(&entry.name) {
                        open.whiteout_file(&path.join(&entry.name))?;
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn count_names(&mut self, open: &OpenLayer, new: HashMap<Id, Ino>) -> Result<()> {
        self.names.count(&self.paths, open, new)
    }
}

/// Names that show and share an inode with others.
#[derive(Debug, Default)]
pub struct LinkedNames(BTreeMap<Id, Ino>);

impl LinkedNames {
    /// Keeps count of the names of hard-linked files: where a layer hides some
    /// of those that lower layers of the image show, it says so. `new` are those that
    /// it has.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn count(&mut self, paths: &Paths, open: &OpenLayer, new: HashMap<Id, Ino>) -> Result<()> {
        let mut before: HashMap<Ino, u32> = HashMap::new();
        let mut hidden: HashMap<Ino, u32> = HashMap::new();
        let mut gone = Vec::new();
        for (name, ino) in &self.0 {
            *before.entry(*ino).or_default() += 1;
            if hides(open, &paths.path(*name))? {
                *hidden.entry(*ino).or_default() += 1;
                gone.push(*name);
            }
        }
        for name in gone {
            self.0.remove(&name);
        }
        for (ino, count) in hidden {
            // `origin` is what the file had in its own layer less what layers
            // between took away, which is what still shows.
            let origin = before[&ino];
            let nlink = origin - count;
            open.set_link_state(
                ino,
                LinkState {
                    nlink,
                    origin,
                    here: false,
                },
            )?;
        }
        self.0.extend(new);
        Ok(())
    }
}

/// Whether a layer hides a name of lower layers.
fn hides(open: &OpenLayer, path: &Path) -> Result<bool> {
    let mut at = PathBuf::new();
    let whole = path.components().count();
    for (index, component) in path.components().enumerate() {
        at.push(component);
        match open.entry(&at)? {
            None => return Ok(false),
            Some(Entry::Whiteout) => return Ok(true),
            Some(Entry::Present(attr, marks)) => {
                if index + 1 == whole || !attr.is_dir() || marks.opaque {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

impl Drop for Import<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        for path in &self.made {
            if let Err(error) = at::remove_all(AT_FDCWD, path) {
                log::warn!("{}: {error}", path.display());
            }
        }
    }
}
