//! `export`: a snapshot leaves as an OCI image layout.

use std::path::PathBuf;

use super::output::{Trouble, show};
use super::place::{Place, absolute};
use crate::control::{ExportRequest, Request};
use crate::export::Compat;

/// Write a snapshot as an OCI image layout.
///
/// Each layer becomes one zstd:chunked layer, the base lowest: a tar+zstd of which
/// single files can be read. podman, skopeo and `mount --from` read it; for what knows
/// no zstd there is `--compat gzip`. Files that are well-known secrets are left out under
/// all their names, and listed: some by their name (.netrc, id_rsa, *.p12, …),
/// most only if a private key, a password or a token is in them (*.pem, *.key,
/// .npmrc, .git/config, .env, …).
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs export built --to /cache/built
  harness-fs export built --to /cache/built --without-base
  harness-fs export built --to /cache/built --allow-secret /harness/test/server.pem")]
pub struct Arguments {
    /// The snapshot.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,
    /// The directory for the layout; created if it is missing.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Leave out what the directories held before `mount`; layers that came with `mount --from` stay in, a base among them.
    #[arg(long)]
    without_base: bool,
    /// Export this secret file all the same: its path as listed, a glob for such paths, or a
    /// name such as .npmrc; may be repeated. It is an error if no file has it.
    #[arg(long, value_name = "PATH")]
    allow_secret: Vec<String>,
    /// Write layers that older tools read too: gzip, tar+gzip without a table of contents.
    #[arg(long, value_name = "FORM")]
    compat: Option<Form>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Forms of layers for other tools.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    Gzip,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let request = Request::Export(ExportRequest {
        snapshot: arguments.snapshot,
        to: absolute(&arguments.to)?,
        without_base: arguments.without_base,
        allow_secret: arguments.allow_secret,
        compat: arguments.compat.map(|Form::Gzip| Compat::Gzip),
    });
    show(place.ask(&request)?, arguments.json)
}
