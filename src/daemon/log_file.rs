//! The daemon's log: a file that is rotated by size, or standard error.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use log::LevelFilter;
use nix::errno::Errno;

use crate::error::{Context, Error, Result};

/// Says how much is logged.
const VARIABLE: &str = "HARNESS_FS_LOG";
/// A file that has become this long is put aside.
const LONGEST: u64 = 8 << 20;
/// How many files there are at most, the one being written among them.
const FILES: u32 = 3;

/// Starts logging for this process: to a file, or to standard error.
///
/// [`level`] says how much; who mounts is told where that is wrong.
pub fn start(file: Option<&Path>) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(level().unwrap_or(LevelFilter::Info));
    if let Some(file) = file {
        let file = LogFile::new(file, LONGEST);
        builder.target(env_logger::Target::Pipe(Box::new(file)));
    }
    // A second start (in a test) keeps the first one's target.
    let _ = builder.try_init();
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::force_capture();
        log::error!("{panic}\n{trace}");
    }));
}

/// How much is logged, by `HARNESS_FS_LOG`; an empty one is none.
///
/// # Errors
/// `EINVAL` for what is no level.
pub fn level() -> Result<LevelFilter> {
    let said = std::env::var_os(VARIABLE).filter(|said| !said.is_empty());
    let Some(said) = said else {
        return Ok(LevelFilter::Info);
    };
    let level = said.to_str().and_then(|said| said.parse().ok());
    level.ok_or_else(|| {
        let text = format!(
            "{VARIABLE}: '{}' is no level: choose error, warn, info, debug or trace",
            said.display()
        );
        Error::new(Errno::EINVAL, text)
    })
}

/// Sees whether a log can be kept there: what cannot be written later is
/// passed over, so whoever asks for a log must be told now.
///
/// # Errors
/// `EINVAL` for what is no regular file, else as open(2).
pub fn try_at(path: &Path) -> Result<()> {
    let not_a_file = |path: &Path| path.metadata().is_ok_and(|meta| !meta.is_file());
    if not_a_file(path) {
        let text = format!("{} is not a regular file", path.display());
        return Err(Error::new(Errno::EINVAL, text));
    }
    open(path).context(|| path.display().to_string()).map(drop)
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path)
}

/// Leaves word at `own`, the log's usual place, of where the log is instead.
///
/// # Errors
/// As rename(2) and symlink(2).
pub fn point_to(own: &Path, log: &Path) -> Result<()> {
    let moved = |result: std::io::Result<()>| match result {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(|| own.display().to_string())
        }
        _ => Ok(()),
    };
    if own.is_symlink() {
        moved(std::fs::remove_file(own))?;
    }
    if own != log {
        // What an earlier daemon logged there is kept.
        moved(std::fs::rename(own, aside(own, 1)))?;
        moved(std::os::unix::fs::symlink(log, own))?;
    }
    Ok(())
}

/// Appends to a file, and begins a new one when it has become too long.
///
/// Nothing is lost that matters when a line cannot be written, so failures are
/// passed over: a full disk must not end the daemon.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    longest: u64,
    open: Option<(File, u64)>,
}

impl LogFile {
    fn new(path: &Path, longest: u64) -> LogFile {
        LogFile {
            path: path.to_path_buf(),
            longest,
            open: None,
        }
    }

    fn file(&mut self, coming: u64) -> std::io::Result<&mut (File, u64)> {
        if self
            .open
            .as_ref()
            .is_some_and(|(_, length)| length + coming > self.longest)
        {
            self.open = None;
            for number in (1..FILES).rev() {
                let older = if number == 1 {
                    self.path.clone()
                } else {
                    aside(&self.path, number - 1)
                };
                let _ = std::fs::rename(older, aside(&self.path, number));
            }
        }
        match &mut self.open {
            Some(_) => {}
            none => {
                let file = open(&self.path)?;
                let length = file.metadata()?.len();
                *none = Some((file, length));
            }
        }
        self.open
            .as_mut()
            .ok_or(std::io::ErrorKind::NotFound.into())
    }
}

fn aside(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Ok((file, length)) = self.file(bytes.len() as u64)
            && file.write_all(bytes).is_ok()
        {
            *length += bytes.len() as u64;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The log's files that are there, the newest first; the first can be the link
/// of [`point_to`].
pub fn files(path: &Path) -> Vec<PathBuf> {
    let older = (1..FILES).map(|number| aside(path, number));
    std::iter::once(path.to_path_buf())
        .chain(older)
        .filter(|path| path.symlink_metadata().is_ok())
        .collect()
}

/// As `files`, with those of the log elsewhere that the first leads to.
pub fn all_files(path: &Path) -> Vec<PathBuf> {
    let elsewhere = std::fs::read_link(path).map(|log| files(&log));
    let own = files(path).into_iter().filter(|file| !file.is_symlink());
    elsewhere
        .unwrap_or_default()
        .into_iter()
        .chain(own)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_put_aside_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = LogFile::new(&path, 10);
        for line in ["one 11\n", "two 22\n", "three3\n", "four 4\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        let files = files(&path);
        let read = |index: usize| std::fs::read_to_string(&files[index]).unwrap();
        assert_eq!(files.len(), 3);
        assert_eq!(
            (&*read(0), &*read(1), &*read(2)),
            ("four 4\n", "three3\n", "two 22\n")
        );
    }

    #[test]
    fn a_log_elsewhere_is_found_by_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let (own, log) = (dir.path().join("daemon.log"), dir.path().join("elsewhere"));
        std::fs::write(&own, "earlier").unwrap();
        try_at(&log).unwrap();
        point_to(&own, &log).unwrap();
        point_to(&own, &log).unwrap();
        assert_eq!(all_files(&own), [log.clone(), aside(&own, 1)]);
        assert_eq!(files(&own), [own.clone(), aside(&own, 1)]);
        point_to(&own, &own).unwrap();
        assert_eq!(all_files(&own), [aside(&own, 1)]);
        assert!(log.exists());
    }

    #[test]
    fn a_log_is_tried_before_it_is_needed() {
        let dir = tempfile::tempdir().unwrap();
        for wrong in [
            dir.path(),
            &dir.path().join("no/such"),
            Path::new("/dev/full"),
        ] {
            assert!(try_at(wrong).is_err(), "{}", wrong.display());
        }
    }

    #[test]
    fn a_log_that_cannot_be_written_is_no_failure() {
        let mut log = LogFile::new(Path::new("/no/such/dir/log"), 10);
        log.write_all(b"line\n").unwrap();
    }
}
