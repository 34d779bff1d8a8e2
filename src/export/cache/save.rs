//! Saving: the next layer of a cache, or the first.

use std::fs::File;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::super::chunked::{self, Written};
use super::super::content::{Findings, LayerContent};
use super::super::guard::Guard;
use super::super::wanting::Wanted;
use super::super::{Compat, LeftOut};
use super::content::{Changes, differs};
use super::{Image, ImageLayer, Place};
use crate::error::{Context, Error, Result};
use crate::layer::Stack;

/// What to save, and how.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// The paths, none in another.
    pub paths: Vec<Place>,
    /// Secret files that leave all the same: see [`Guard::survey`].
    pub allow_secret: Vec<String>,
    /// For other tools than ours and those of today.
    pub compat: Option<Compat>,
    /// By which wishes something is left out, or let through.
    pub filter: String,
}

/// A cache that the stage has had.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Its image, of the same paths and with the same filter.
    pub image: Image,
    /// So many layers of the stack show it.
    pub depth: usize,
}

/// What was saved.
#[derive(Debug)]
pub struct Saved {
    /// The image. If nothing has changed it is the parent's.
    pub image: Image,
    /// The blob of its uppermost layer, if that is new.
    pub blob: Option<File>,
    /// Saved paths that are not there, and so not in it.
    pub missing: Vec<PathBuf>,
    /// Files that the guard kept in.
    pub secrets: Vec<LeftOut>,
    /// What an image layer cannot hold.
    pub left_out: Vec<LeftOut>,
}

/// Saves what a stack shows of some paths. `scratch` makes empty files that go when
/// they are closed; the blob is in one of them.
///
/// # Errors
/// One sentence with the path, or what `wanted` says; `ENOENT` if none of the paths
/// is there.
pub fn save(
    stack: &Stack,
    mapped: &[PathBuf],
    parent: Option<Parent>,
    options: &SaveOptions,
    scratch: &mut dyn FnMut() -> Result<File>,
    wanted: Wanted<'_>,
) -> Result<Saved> {
    let mut missing = Vec::new();
    let mut paths = Vec::new();
    for place in &options.paths {
        let found = stack.find(&place.inner);
        match found.context(|| place.shown.display().to_string())? {
            Some(_) => paths.push(place.clone()),
            None => missing.push(place.shown.clone()),
        }
    }
    if paths.is_empty() {
        let all: Vec<String> = missing.iter().map(|path| shown(path)).collect();
        let text = format!("there is nothing to save: no {}", all.join(", no "));
        return Err(Error::new(Errno::ENOENT, text));
    }
    paths.sort();
    let named: Vec<PathBuf> = paths.iter().map(|place| place.shown.clone()).collect();
    // A path that is new or gone since is no change that a layer could tell.
    let parent = parent
        .filter(|parent| parent.image.paths == named && parent.image.filter == options.filter);
    let was = parent.as_ref().map(|parent| stack.below(parent.depth));
    let image = parent.map_or_else(
        || Image {
            paths: named,
            filter: options.filter.clone(),
            layers: Vec::new(),
        },
        |parent| parent.image,
    );
    let mut saved = Saved {
        image,
        blob: None,
        missing,
        secrets: Vec::new(),
        left_out: Vec::new(),
    };
    if let Some(was) = &was
        && !differs(stack, was, &paths)?
    {
        return Ok(saved);
    }
    let guard = Guard::survey(stack, mapped, &options.allow_secret, wanted)?;
    let mut findings = Findings::default();
    let top = stack.layers().len().saturating_sub(1);
    let content = LayerContent::new(stack, top, 0, mapped, &guard, &mut findings);
    let mut changes = Changes::new(stack, was.as_ref(), &paths, content, wanted);
    if changes.find()? {
        let written = write(changes, options.compat, scratch, wanted)?;
        let gzip = options.compat == Some(Compat::Gzip);
        saved.image.layers.push(ImageLayer::of(&written, gzip)?);
        saved.blob = Some(written.file);
    }
    saved.secrets = findings.secrets.into_iter().collect();
    saved.left_out = findings.left_out.into_iter().collect();
    Ok(saved)
}

fn write(
    changes: Changes<'_>,
    compat: Option<Compat>,
    scratch: &mut dyn FnMut() -> Result<File>,
    wanted: Wanted<'_>,
) -> Result<Written> {
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let (file, gzip) = (scratch()?, compat == Some(Compat::Gzip));
    chunked::write(file, gzip, threads, scratch, wanted, |archive| {
        changes.write(archive)
    })
}

fn shown(path: &Path) -> String {
    crate::tree::shown::shown(path).into_owned()
}
