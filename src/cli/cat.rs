//! `cat`: a file as it was.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::output::{Trouble, expect_report};
use super::place::{Place, in_tree};
use crate::control::{Problem, Request};
use crate::tree::shown::shown;

/// Print a file as it was in a layer.
///
/// That is the file as the layer has it or, if the layer did not touch it, as it
/// shows from the layers below. What came on top of the layer is left out, and
/// so is what the merge of its step decided (the "join" layer). LAYER is an id
/// as `log` lists it, the beginning of one, a step (its newest layer), or `base`
/// for what the mapped path held at `mount`. PATH is absolute, or relative to
/// the current directory. Symbolic links are not followed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs cat build:/harness/out/version
  cd /harness && harness-fs cat base:Makefile | diff - Makefile")]
pub struct Arguments {
    /// A layer, and a file in it.
    #[arg(value_name = "LAYER:PATH")]
    file: OsString,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: &Arguments, place: &Place) -> Result<u8, Trouble> {
    let (layer, path) = split(&arguments.file)?;
    let request = Request::Cat {
        layer,
        path: in_tree(&path)?,
    };
    let mut out = std::io::stdout().lock();
    let mut left = false;
    let asked = place.connect()?.ask_for_content(&request, &mut |bytes| {
        let written = out.write_all(bytes).and_then(|()| out.flush());
        written.map_err(|error| {
            left = error.kind() == std::io::ErrorKind::BrokenPipe;
            crate::error::Error::from(error).context("the content could not be written")
        })
    });
    match asked {
        // `| head` is no failure.
        Err(Problem::Other(_)) if left => Ok(0),
        reply => expect_report(reply?, false).map(|_| 0),
    }
}

/// An absolute path begins with the first `/`, for no layer and no step has one in
/// its name; a relative one after the first colon.
fn split(file: &OsStr) -> Result<(String, PathBuf), Trouble> {
    let bytes = file.as_bytes();
    let slash = bytes.iter().position(|byte| *byte == b'/');
    let before = slash.and_then(|at| at.checked_sub(1));
    let absolute = before.filter(|at| bytes[*at] == b':');
    let colon = absolute.or_else(|| bytes.iter().position(|byte| *byte == b':'));
    let both = colon.and_then(|at| {
        let layer = std::str::from_utf8(&bytes[..at]).ok()?;
        Some((layer, OsStr::from_bytes(&bytes[at + 1..])))
    });
    match both {
        Some((layer, path)) if !layer.is_empty() && !path.is_empty() => {
            Ok((layer.to_owned(), PathBuf::from(path)))
        }
        _ => Err(Trouble::new(
            2,
            format!(
                "'{}' names no file of a layer: say LAYER:PATH, as in build:/harness/file",
                shown(Path::new(file))
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_layer_ends_and_the_path_begins() {
        let parts = |text: &'static [u8]| {
            let (layer, path) = split(OsStr::from_bytes(text)).ok()?;
            Some((layer, path.into_os_string()))
        };
        for (text, layer, path) in [
            (&b"a:/b"[..], "a", &b"/b"[..]),
            (b"a:b:c", "a", b"b:c"),
            (b"step:a:/b:/c", "step:a", b"/b:/c"),
            (b"a:b/c:/d", "a", b"b/c:/d"),
            (b"base:\xff", "base", b"\xff"),
        ] {
            let expected = (layer.to_owned(), OsStr::from_bytes(path).to_owned());
            assert_eq!(parts(text), Some(expected));
        }
        for nothing in [&b""[..], b"a", b"/a", b":/a", b"a:", b"\xff:/a"] {
            assert_eq!(parts(nothing), None, "{nothing:?}");
        }
    }
}
