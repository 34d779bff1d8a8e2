//! Restoring: what a key of a store stands for, into a stage.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use nix::errno::Errno;
use serde::Serialize;
use serde_json::Value;

use super::image::{fetch, find, read};
use super::{Progress, Trouble};
use crate::control::{CacheRestoreRequest, Client, Reply, Request};
use crate::error::{Context, Error};
use crate::store::{Kind, Store};

/// What is to be restored.
#[derive(Clone, Debug)]
pub struct RestoreWish {
    /// The key.
    pub key: String,
    /// What other keys may begin with if there is no such key, best first.
    pub prefixes: Vec<String>,
    /// Where keys are looked for, first to last.
    pub scopes: Vec<String>,
    /// Which of its paths; all of them if there are none.
    pub paths: Vec<PathBuf>,
    /// Devices, capabilities and set-id bits of root are welcome.
    pub trust: bool,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RestoreReport {
    /// Whether anything was restored.
    pub cache_hit: bool,
    /// `complete` for the key itself, `partial` for one that begins like it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_state: Option<&'static str>,
    /// The key that was found, or the one that was looked for.
    pub key: String,
    /// The scope that it was found in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Digest of the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// Digest of the tree, however it is compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree_digest: Option<String>,
    /// The paths that were restored.
    pub paths: Vec<String>,
    /// Files and other entries in all layers.
    pub entries: u64,
    /// Bytes that were fetched.
    pub bytes: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What was not restored, and why.
    pub refused: Value,
    /// What there is to tell, for people.
    #[serde(skip)]
    pub text: String,
}

/// Restores a cache into the stage, all or nothing. A miss is no failure.
///
/// # Errors
/// What the store or the stage says; then the stage is as it was.
pub fn restore(
    client: &mut Client,
    store: &Store,
    wish: &RestoreWish,
    progress: &dyn Progress,
) -> Result<RestoreReport, Trouble> {
    let begun = Instant::now();
    let mut report = RestoreReport {
        key: wish.key.clone(),
        refused: Value::Array(Vec::new()),
        ..RestoreReport::default()
    };
    let Some((found, reference)) = find(store, &wish.scopes, &wish.key, &wish.prefixes)? else {
        report.seconds = begun.elapsed().as_secs_f64();
        return Ok(report);
    };
    let stored = read(store, reference)?;
    let count = stored.image.layers.len();
    expect(client.ask(&Request::CacheFiles { count })?)?;
    let files: Vec<File> = client.take_files().into_iter().map(File::from).collect();
    if files.len() != count {
        let text = format!("the stage gave {} files for {count} layers", files.len());
        return Err(Error::new(Errno::EPROTO, text).into());
    }
    let sink = |file: &File| -> Result<Box<dyn Write>, Error> {
        let file = file.try_clone().context(|| "the file of a layer")?;
        Ok(Box::new(file))
    };
    let sinks = files.iter().map(sink).collect::<Result<_, _>>()?;
    fetch(store, &stored.image, sinks, progress).map_err(no_room)?;
    let request = Request::CacheRestore(CacheRestoreRequest {
        manifest: stored.manifest,
        config: stored.config,
        paths: wish.paths.clone(),
        trust: wish.trust,
    });
    let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    client.send_with(&request, &fds)?;
    let (text, data) = expect(client.reply()?)?;
    report.text = text;
    report.cache_hit = true;
    report.cache_state = Some(if found.exact { "complete" } else { "partial" });
    report.key = found.name.key().to_owned();
    report.scope = Some(found.name.scope().to_owned());
    report.manifest = Some(stored.target.digest.to_string());
    report.tree_digest = Some(stored.image.tree_digest());
    let texts = data["paths"].as_array().into_iter().flatten();
    let texts = texts.filter_map(|path| Some(path.as_str()?.to_owned()));
    report.paths = texts.collect();
    report.entries = stored
        .image
        .layers
        .iter()
        .map(|layer| layer.members())
        .sum();
    report.bytes = stored.image.size();
    report.refused = data["refused"].clone();
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

fn expect(reply: Reply) -> Result<(String, Value), Trouble> {
    match reply {
        Reply::Report { text, data } => Ok((text, data)),
        other => Err(Trouble::Refused(Box::new(other))),
    }
}

/// What cannot be written cannot be written to the files of the stage.
fn no_room(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Store(failure) if failure.kind() == Kind::Local => {
            let error = Error::from(failure);
            Trouble::Here(error.context("on the disk of the stage's state"))
        }
        other => other,
    }
}
