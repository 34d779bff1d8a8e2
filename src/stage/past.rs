//! A file as it was.

use std::fs::File;
use std::path::Path;

use super::named::{Meant, in_layers};
use super::{Failure, Stage};
use crate::error::Context;
use crate::layer::Stack;
use crate::tree::Kind;
use crate::tree::shown::shown;

impl Stage {
    /// A regular file as it was with this layer on top: the layer's own, else what
    /// shows from below it. It can be read as long as it is open, whatever becomes
    /// of the layers.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a layer, or if nothing was there then;
    /// [`Failure::Usage`] for a word that can mean several layers, a path outside
    /// of the mapped ones, and for what is no regular file; or what the layers
    /// report.
    pub fn file_as_of(&self, layer: &str, path: &Path) -> Result<File, Failure> {
        let (state, _lease) = self.lease(|state| state.layers().cloned().collect());
        let meant = self.meant(&state, layer)?;
        let inside = in_layers(&state.options.mapped, path)?;
        let (below, with) = self.around(&meant)?;
        let Some(found) = with.find(&inside)? else {
            return Err(absent(&meant, &below, path, &inside));
        };
        let what = match found.attr.kind {
            Kind::File => {
                let file = with.open(&found).context(|| shown(path).into_owned())?;
                return Ok(File::from(file));
            }
            Kind::Symlink => format!(
                "a symbolic link to {}",
                shown(Path::new(&with.readlink(&found)?))
            ),
            Kind::Dir => "a directory".to_owned(),
            Kind::Fifo => "a FIFO".to_owned(),
            Kind::Socket => "a socket".to_owned(),
            Kind::CharDevice | Kind::BlockDevice => "a device".to_owned(),
        };
        Err(Failure::Usage(format!(
            "{} is {what} in {}: only regular files have content to print",
            shown(path),
            name(&meant)
        )))
    }
}

fn absent(layer: &Meant, below: &Stack, path: &Path, inside: &Path) -> Failure {
    let deleted = !layer.is_base() && matches!(below.find(inside), Ok(Some(_)));
    let why = match deleted {
        true => "is deleted in",
        false => "is not there in",
    };
    Failure::NotFound(format!(
        "{} {why} {}: `harness-fs log` lists the layers",
        shown(path),
        name(layer)
    ))
}

fn name(layer: &Meant) -> String {
    match layer.is_base() {
        true => "the base".to_owned(),
        false => format!("layer '{}'", layer.id),
    }
}
