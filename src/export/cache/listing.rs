//! What a layer of an image holds, for who compares images.

use std::fs::File;
use std::io::{BufReader, Read};

use sha2::{Digest, Sha256};

use super::super::ahead::decoder;
use super::super::chunked::{Blob, ReadAt};
use super::super::layout::hex;
use super::super::tar::Member;
use super::super::untar::TarReader;
use super::ImageLayer;
use crate::error::Result;

/// A member of a layer, and the digest of its content in hexadecimal, if it has any.
pub type Listed = (Member, Option<String>);

/// The members of a layer, by its table of contents; `None` if it has none. `source` is
/// its blob.
///
/// # Errors
/// `EINVAL` saying what is wrong with it, or what `source` says.
pub fn listed(layer: &ImageLayer, source: impl ReadAt) -> Result<Option<Vec<Listed>>> {
    let annotations = layer.descriptor.annotations().clone().unwrap_or_default();
    let Some(blob) = Blob::open(source, &annotations)? else {
        return Ok(None);
    };
    let entries = blob.entries().iter();
    let listed = entries.map(|entry| {
        (
            entry.member.clone(),
            entry.digest.map(|digest| hex(&digest)),
        )
    });
    Ok(Some(listed.collect()))
}

/// The members of a layer, by reading all of its blob, which was verified before.
///
/// # Errors
/// `EINVAL` saying what is wrong with it, or as read(2).
pub fn read_through(layer: &ImageLayer, blob: File) -> Result<Vec<Listed>> {
    let mut blob = BufReader::with_capacity(1 << 20, blob);
    let mut tar = TarReader::new(decoder(&layer.descriptor, &mut blob)?);
    let mut all = Vec::new();
    let mut buffer = vec![0; 128 << 10];
    while let Some(member) = tar.next_member()? {
        let mut digest = None;
        if member.size() > 0 {
            let mut hash = Sha256::new();
            loop {
                match tar.read(&mut buffer)? {
                    0 => break,
                    length => hash.update(&buffer[..length]),
                }
            }
            digest = Some(hex(&hash.finalize()));
        }
        all.push((member, digest));
    }
    Ok(all)
}
