//! `debug`: what a report of a problem needs.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::output::{Trouble, print};
use super::place::Place;
use crate::control::{DIED, PROTOCOL, Reply, STAGE_FILE, VERSION};
use crate::daemon;
use crate::error::{Context, Result};

/// Help with problems.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Collect what a report of a problem needs into one archive.
    ///
    /// The status, the stage's own description, the logs, the mounts and the
    /// versions. No content of files and no environment variables; names of
    /// files can occur in the log.
    #[command(after_help = "Example:\n  harness-fs debug bundle --output /tmp/harness-fs.tar.zst")]
    Bundle {
        /// The archive [default: harness-fs-debug-SECONDS.tar.zst in this directory].
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Carries it out. Works without a daemon too: that may be the problem.
///
/// # Errors
/// One sentence.
pub fn run(command: Command, place: &Place) -> Result<u8, Trouble> {
    let Command::Bundle { output } = command;
    if !place.state_dir.is_dir() {
        // Says how to start one, or that it is hidden here.
        place.connect()?;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let output = output.unwrap_or_else(|| format!("harness-fs-debug-{now}.tar.zst").into());
    let files = collect(place);
    let written = write(&output, &files, now);
    // A part of an archive is none; what is no file, such as a pipe, stays.
    if written.is_err() && output.symlink_metadata().is_ok_and(|there| there.is_file()) {
        let _ = std::fs::remove_file(&output);
    }
    written.context(|| format!("write {}", output.display()))?;
    print(&output.display().to_string())?;
    Ok(0)
}

fn collect(place: &Place) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let status = match place.status() {
        Ok(Reply::Report { data, .. }) => data,
        Ok(Reply::Failure { message, .. }) => json!({ "failure": message }),
        Ok(_) => json!(null),
        Err(problem) => json!({ "failure": Trouble::from(problem).message() }),
    };
    files.push((
        "status.json".to_owned(),
        format!("{status:#}\n").into_bytes(),
    ));
    for name in [STAGE_FILE, DIED] {
        if let Ok(content) = std::fs::read(place.state_dir.join(name)) {
            files.push((name.to_owned(), content));
        }
    }
    for path in daemon::log_files(&place.state_dir.join(daemon::LOG)) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Ok(content) = std::fs::read(&path) {
            files.push((name.into_owned(), content));
        }
    }
    files.push(("mountinfo".to_owned(), mounts()));
    files.push(("versions.json".to_owned(), versions()));
    files
}

/// Our mounts only: those of others can have credentials in their options.
fn mounts() -> Vec<u8> {
    let all = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let needle = b"fuse.harness-fs";
    let ours = all.split_inclusive(|byte| *byte == b'\n');
    let ours = ours.filter(|line| line.windows(needle.len()).any(|part| part == needle));
    ours.flatten().copied().collect()
}

fn versions() -> Vec<u8> {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let versions = json!({
        "harness-fs": VERSION,
        "protocol": PROTOCOL,
        "kernel": read("/proc/sys/kernel/osrelease"),
        "kernel_build": read("/proc/sys/kernel/version"),
        "machine": std::env::consts::ARCH,
    });
    format!("{versions:#}\n").into_bytes()
}

fn write(output: &Path, files: &[(String, Vec<u8>)], now: u64) -> Result<()> {
    let file = File::create(output)?;
    let mut archive = tar::Builder::new(zstd::Encoder::new(file, 0)?);
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now);
        let path = format!("harness-fs-debug/{name}");
        archive.append_data(&mut header, path, content.as_slice())?;
    }
    let mut file = archive.into_inner()?.finish()?;
    Ok(file.flush()?)
}
