//! The daemon's log: a file that is rotated by size, or standard error.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file that has become this long is put aside.
const LONGEST: u64 = 8 << 20;
/// How many files there are at most, the one being written among them.
const FILES: u32 = 3;

/// Starts logging for this process: to a file, or to standard error.
///
/// `HARNESS_FS_LOG` says how much, as `RUST_LOG` does elsewhere.
pub fn start(file: Option<&Path>) {
    let mut builder = env_logger::Builder::new();
    builder.filter_level(log::LevelFilter::Info);
    builder.parse_env("HARNESS_FS_LOG");
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
                let mut options = OpenOptions::new();
                let file = options
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .open(&self.path)?;
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

/// The log's files that are there, the newest first.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let older = (1..FILES).map(|number| aside(path, number));
    std::iter::once(path.to_path_buf())
        .chain(older)
        .filter(|path| path.exists())
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
    fn a_log_that_cannot_be_written_is_no_failure() {
        let mut log = LogFile::new(Path::new("/no/such/dir/log"), 10);
        log.write_all(b"line\n").unwrap();
    }
}
