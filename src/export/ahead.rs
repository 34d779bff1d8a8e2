//! A layer's tar, read ahead: one thread decompresses it and computes both digests
//! while another makes of it what it is for.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::thread::ScopedJoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use oci_spec::image::{Descriptor, MediaType};

use super::layout::Hashing;
use crate::error::{Context, Error, Result};

/// How much is handed over at a time.
const PIECE: usize = 256 << 10;
/// How many pieces there are.
const PIECES: usize = 8;

/// What a blob was, all of it, and so much of its tar as was read.
pub struct Digests {
    /// Digest of the blob in hexadecimal.
    pub blob: String,
    /// Digest of the tar in hexadecimal.
    pub tar: String,
}

/// Hands over what was read.
struct Ahead {
    pieces: Receiver<std::io::Result<Vec<u8>>>,
    used: Sender<Vec<u8>>,
    now: Vec<u8>,
    at: usize,
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.now.len() {
            let Ok(next) = self.pieces.recv() else {
                return Ok(0);
            };
            let used = std::mem::replace(&mut self.now, next?);
            self.at = 0;
            let _ = self.used.try_send(used);
        }
        let length = buffer.len().min(self.now.len() - self.at);
        buffer[..length].copy_from_slice(&self.now[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// Gives `read` the tar in a blob that has this descriptor. Returns what that gave, and
/// what the blob really was: nothing that was made of it is to be used if that is not
/// what it ought to be.
///
/// # Errors
/// As read(2) on the blob, `EAGAIN` if there can be no further thread, `EINVAL` for a
/// type of layer that is not known.
pub fn read_ahead<T>(
    mut blob: File,
    descriptor: &Descriptor,
    read: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<(Result<T>, Digests)> {
    blob.rewind()?;
    let (send, pieces) = bounded(PIECES);
    let (give_back, used) = bounded(PIECES);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("unpack".to_owned());
        let ahead: ScopedJoinHandle<'_, Result<Digests>> = thread
            .spawn_scoped(scope, move || go_ahead(blob, descriptor, &send, &used))
            .context(|| "start a thread")?;
        let mut reader = Ahead {
            pieces,
            used: give_back,
            now: Vec::new(),
            at: 0,
        };
        let made = read(&mut reader);
        // It goes on without us, to the end of the blob.
        drop(reader);
        let digests = ahead.join();
        let digests = digests.map_err(|_| Error::new(Errno::EIO, "the thread has panicked"))??;
        Ok((made, digests))
    })
}

fn go_ahead(
    blob: File,
    descriptor: &Descriptor,
    pieces: &Sender<std::io::Result<Vec<u8>>>,
    used: &Receiver<Vec<u8>>,
) -> Result<Digests> {
    let mut blob = Hashing::new(BufReader::with_capacity(1 << 20, blob));
    let mut tar = Hashing::new(decoder(descriptor, &mut blob)?);
    loop {
        let mut piece = used.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let got = tar.read(&mut piece);
        let ended = matches!(got, Ok(0) | Err(_));
        let interrupted =
            matches!(&got, Err(error) if error.kind() == std::io::ErrorKind::Interrupted);
        if interrupted {
            continue;
        }
        let piece = got.map(|length| {
            piece.truncate(length);
            piece
        });
        if !matches!(&piece, Ok(piece) if piece.is_empty()) && pieces.send(piece).is_err() {
            break;
        }
        if ended {
            break;
        }
    }
    let (decoder, tar, _) = tar.finish();
    drop(decoder);
    std::io::copy(&mut blob, &mut std::io::sink())?;
    let blob = blob.finish().1;
    Ok(Digests { blob, tar })
}

/// Reads the tar in a blob.
///
/// # Errors
/// `EINVAL` for a type of layer that is not known.
pub fn decoder<'a>(
    descriptor: &Descriptor,
    blob: &'a mut (impl Read + 'a),
) -> Result<Box<dyn Read + 'a>> {
    Ok(match descriptor.media_type() {
        MediaType::ImageLayer => Box::new(blob),
        MediaType::ImageLayerGzip => Box::new(flate2::read::MultiGzDecoder::new(blob)),
        MediaType::ImageLayerZstd => Box::new(zstd::Decoder::new(blob)?),
        other => {
            let text = format!("a layer of the unknown type {other}");
            return Err(Error::new(Errno::EINVAL, text));
        }
    })
}
