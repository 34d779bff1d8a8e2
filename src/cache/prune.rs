//! Pruning: refs that are too old or too many, and blobs that no ref names.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Trouble;
use super::image::read;
use crate::store::{Digest, Kind, RefName, Store};

/// Blobs that are younger stay: a save that is under way has sent them, and no ref
/// names them yet.
const YOUNG: Duration = Duration::from_secs(24 * 3600);

/// Which refs go.
#[derive(Clone, Debug, Default)]
pub struct Pruning {
    /// Of this scope, or of all.
    pub scope: Option<String>,
    /// Those whose key begins with this.
    pub prefix: String,
    /// Those that were written longer ago.
    pub older_than: Option<Duration>,
    /// All but so many, the newest.
    pub keep: Option<usize>,
    /// The oldest, until what is left has at most so many bytes.
    pub max_bytes: Option<u64>,
    /// How old a blob without a ref has to be; a day, if it is not said.
    pub blob_age: Option<Duration>,
    /// Only tell.
    pub dry_run: bool,
}

/// What went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// Refs, as `scope/key`.
    pub removed: Vec<String>,
    /// How many refs are left.
    pub left: usize,
    /// Blobs that no ref named.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Removes refs, and then blobs that no ref names.
///
/// # Errors
/// What the store says; `Unsupported` where blobs are the registry's own business, and
/// then only refs have gone.
pub fn prune(store: &Store, wish: &Pruning) -> Result<PruneReport, Trouble> {
    let mut report = PruneReport::default();
    // Before the refs: a blob that is written later is not in it.
    let blobs = match store.list_blobs() {
        Err(failure) if failure.kind() == Kind::Unsupported => Vec::new(),
        listed => listed?,
    };
    let now = SystemTime::now();
    let age = |moment: SystemTime| now.duration_since(moment).unwrap_or_default();
    let mut bytes = 0;
    let mut gone: HashSet<RefName> = HashSet::new();
    for (index, listed) in store
        .list_refs(wish.scope.as_deref(), &wish.prefix)?
        .into_iter()
        .enumerate()
    {
        let mut goes = wish
            .older_than
            .is_some_and(|limit| age(listed.modified) > limit)
            || wish.keep.is_some_and(|keep| index >= keep);
        if let (false, Some(limit)) = (goes, wish.max_bytes) {
            // What two share counts twice: who restores either fetches it.
            bytes += size_of(store, &listed.name)?;
            goes = bytes > limit;
        }
        if goes {
            if !wish.dry_run {
                store.delete_ref(&listed.name)?;
            }
            let (scope, key) = (listed.name.scope(), listed.name.key());
            report.removed.push(format!("{scope}/{key}"));
            gone.insert(listed.name);
        }
    }
    let mut named: HashSet<Digest> = HashSet::new();
    for listed in store.list_refs(None, "")? {
        if gone.contains(&listed.name) && wish.dry_run {
            continue;
        }
        report.left += 1;
        name_blobs(store, &listed.name, &mut named)?;
    }
    let limit = wish.blob_age.unwrap_or(YOUNG);
    for blob in blobs {
        if !named.contains(&blob.digest) && age(blob.modified) >= limit {
            if !wish.dry_run {
                store.delete_blob(&blob.digest)?;
            }
            report.blobs += 1;
            report.bytes += blob.size;
        }
    }
    Ok(report)
}

fn size_of(store: &Store, name: &RefName) -> Result<u64, Trouble> {
    match store.read_ref(name) {
        Ok(reference) => Ok(read(store, reference)?.image.size()),
        Err(failure) if failure.kind() == Kind::NotFound => Ok(0),
        Err(failure) => Err(failure.into()),
    }
}

/// Adds all blobs that a ref needs.
fn name_blobs(store: &Store, name: &RefName, named: &mut HashSet<Digest>) -> Result<(), Trouble> {
    let reference = match store.read_ref(name) {
        Err(failure) if failure.kind() == Kind::NotFound => return Ok(()),
        read => read?,
    };
    named.insert(reference.target.digest);
    let stored = read(store, reference)?;
    let config = crate::export::cache::Image::config_of(stored.manifest.as_bytes())?;
    named.insert(config.digest().to_string().parse()?);
    for layer in &stored.image.layers {
        named.insert(layer.descriptor.digest().to_string().parse()?);
    }
    Ok(())
}
