//! The images that are in a store, and which of them is meant.

use std::io::Write;
use std::time::SystemTime;

use nix::errno::Errno;

use super::{Progress, Trouble};
use crate::error::Error;
use crate::export::cache::Image;
use crate::store::{Digest, Failure, Kind, Ref, RefName, Store, Target};

/// An image in a store, without its layers.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What the ref stands for.
    pub target: Target,
    /// When the ref was written.
    pub created: SystemTime,
    /// The manifest, as it is stored.
    pub manifest: String,
    /// The configuration.
    pub config: String,
    /// What they say.
    pub image: Image,
}

/// Under which name a cache was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The ref.
    pub name: RefName,
    /// It is the key that was asked for, and not one that begins like it.
    pub exact: bool,
}

/// What is not in the store though it has to be is damage, not a miss.
fn must_be_there(failure: Failure) -> Failure {
    match failure.kind() {
        Kind::NotFound => failure.as_damage(),
        _ => failure,
    }
}

fn text(bytes: Vec<u8>, what: &str) -> Result<String, Error> {
    let wrong = |_| Error::new(Errno::EINVAL, format!("{what} is not UTF-8"));
    String::from_utf8(bytes).map_err(wrong)
}

/// Reads the image that a ref stands for, all but its layers, each verified.
///
/// # Errors
/// What the store says, and what is wrong with the image.
pub fn read(store: &Store, read: Ref) -> Result<Stored, Trouble> {
    let manifest = store.get_manifest(&read.target).map_err(must_be_there)?;
    let described = Image::config_of(&manifest)?;
    let digest: Digest = described.digest().to_string().parse()?;
    let mut config = Vec::new();
    store
        .get_blob(&digest, described.size(), &mut config)
        .map_err(must_be_there)?;
    let image = Image::read(&manifest, &config)?;
    Ok(Stored {
        target: read.target,
        created: read.created,
        manifest: text(manifest, "the manifest")?,
        config: text(config, "the configuration")?,
        image,
    })
}

/// Finds a cache: `key` in the first scope that has it; else the newest that begins with
/// the first of `prefixes` that one begins with, in the first scope that has one.
///
/// # Errors
/// What the store says; a miss is `None`.
pub fn find(
    store: &Store,
    scopes: &[String],
    key: &str,
    prefixes: &[String],
) -> Result<Option<(Found, Ref)>, Trouble> {
    for scope in scopes {
        let name = RefName::new(scope.as_str(), key)?;
        match store.read_ref(&name) {
            Ok(read) => return Ok(Some((Found { name, exact: true }, read))),
            Err(failure) if failure.kind() == Kind::NotFound => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    for prefix in prefixes {
        for scope in scopes {
            for listed in store.list_refs(Some(scope), prefix)? {
                let name = listed.name;
                match store.read_ref(&name) {
                    Ok(read) => return Ok(Some((Found { name, exact: false }, read))),
                    // Somebody has removed it since.
                    Err(failure) if failure.kind() == Kind::NotFound => {}
                    Err(failure) => return Err(failure.into()),
                }
            }
        }
    }
    Ok(None)
}

/// Tells of what is written to it.
pub(super) struct Counting<'a, T> {
    pub inner: T,
    pub progress: &'a dyn Progress,
}

impl<T: Write> Write for Counting<'_, T> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.progress.advance(written as u64);
        Ok(written)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the layers of an image to these, each verified.
///
/// # Errors
/// What the store says; a layer that is not there is damage.
pub(super) fn fetch(
    store: &Store,
    image: &Image,
    sinks: Vec<Box<dyn Write>>,
    progress: &dyn Progress,
) -> Result<(), Trouble> {
    progress.begin("fetching", image.size());
    for (layer, inner) in image.layers.iter().zip(sinks) {
        let digest: Digest = layer.descriptor.digest().to_string().parse()?;
        let mut sink = Counting { inner, progress };
        store
            .get_blob(&digest, layer.descriptor.size(), &mut sink)
            .map_err(must_be_there)?;
    }
    progress.end();
    Ok(())
}

/// Fetches all of an image, and sees that it is undamaged.
///
/// # Errors
/// What the store says, and what is wrong with the image.
pub fn verify(store: &Store, read_ref: Ref, progress: &dyn Progress) -> Result<Stored, Trouble> {
    let stored = read(store, read_ref)?;
    let sinks = stored.image.layers.iter();
    let sinks = sinks.map(|_| Box::new(std::io::sink()) as Box<dyn Write>);
    fetch(store, &stored.image, sinks.collect(), progress)?;
    Ok(stored)
}
