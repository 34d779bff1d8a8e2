//! Starts a program as a shell does, and says as a shell does why it cannot.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use nix::libc;

use crate::control::Ended;
use crate::error::Error;
use crate::tree::shown::shown;

/// What runs a script that does not say what runs it.
const SHELL: &str = "/bin/sh";
/// How much of a file is looked at.
const HEAD: u64 = 256;

/// A program that was not started.
#[derive(Debug, PartialEq, Eq)]
pub struct NotStarted {
    /// 127 if there is none, 126 if it cannot be executed.
    pub exit_code: u8,
    /// Why.
    pub sentence: String,
}

impl NotStarted {
    /// How it ended, to the daemon.
    pub fn ended(&self) -> Ended {
        Ended {
            started: false,
            exit_code: self.exit_code,
            signal: None,
            timed_out: false,
        }
    }
}

/// Starts a command; `make` prepares the program and its arguments.
///
/// # Errors
/// What a shell would say.
pub fn spawn(
    make: impl Fn(&OsStr, &[OsString]) -> Command,
    command: &[OsString],
) -> Result<Child, NotStarted> {
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.as_os_str(), arguments),
        None => (OsStr::new(""), command),
    };
    let error = match make(program, arguments).spawn() {
        Ok(child) => return Ok(child),
        Err(error) => error,
    };
    let name = shown(Path::new(program));
    let not_started = |exit_code, why: &str| NotStarted {
        exit_code,
        sentence: format!("{name}: {why}"),
    };
    let found = find(program);
    // The C library's execvp(3) does the same, posix_spawnp(3) does not.
    let no_format = error.raw_os_error() == Some(libc::ENOEXEC);
    match (error.kind(), found) {
        (_, found) if no_format => {
            let Some(script) = found.filter(|file| is_text(file)) else {
                return Err(not_started(126, &Error::from(error).to_string()));
            };
            let whole: Vec<OsString> = std::iter::once(script.into_os_string())
                .chain(arguments.iter().cloned())
                .collect();
            make(OsStr::new(SHELL), &whole)
                .spawn()
                .map_err(|error| not_started(126, &format!("{SHELL}: {}", Error::from(error))))
        }
        (ErrorKind::NotFound, None) => Err(not_started(127, "command not found")),
        // execve(2): it is there, but not what its first line names, or its loader.
        (ErrorKind::NotFound, Some(file)) => Err(match interpreter(&file) {
            Some(interpreter) => not_started(
                127,
                &format!("its interpreter {} is not there", shown(&interpreter)),
            ),
            None => not_started(127, "the loader that it was linked for is not there"),
        }),
        _ => Err(not_started(126, &Error::from(error).to_string())),
    }
}

/// The file that a program's name means: a path, or the first in `PATH`.
fn find(program: &OsStr) -> Option<PathBuf> {
    if program.is_empty() {
        return None;
    }
    let path = Path::new(program);
    if program.as_bytes().contains(&b'/') {
        return path.is_file().then(|| path.to_path_buf());
    }
    let dirs = std::env::var_os("PATH")?;
    let mut files = std::env::split_paths(&dirs).map(|dir| dir.join(path));
    files.find(|file| {
        let may = nix::unistd::access(file, nix::unistd::AccessFlags::X_OK);
        file.is_file() && may.is_ok()
    })
}

fn head(file: &Path) -> Vec<u8> {
    let mut line = Vec::new();
    if let Ok(file) = File::open(file) {
        // What cannot be read says nothing.
        let _ = BufReader::new(file.take(HEAD)).read_until(b'\n', &mut line);
    }
    line
}

/// Whether the first line is text; of another machine's program it is not.
fn is_text(file: &Path) -> bool {
    !head(file).contains(&0)
}

/// What the first line names after `#!`.
fn interpreter(file: &Path) -> Option<PathBuf> {
    let line = head(file);
    let named = line.strip_prefix(b"#!")?.trim_ascii();
    let named = named.split(u8::is_ascii_whitespace).next()?;
    Some(OsString::from_vec(named.to_vec()).into())
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn run(dir: &Path, content: &[u8]) -> Result<String, NotStarted> {
        let (content_at, file) = (dir.join("content"), dir.join("program"));
        std::fs::write(&content_at, content).unwrap();
        // Not by this process: what another test starts at that moment has a copy of the
        // descriptor until its exec, and the program is busy (execve(2), ETXTBSY).
        let mut install = Command::new("install");
        install.arg("-m755").args([&content_at, &file]);
        assert!(install.status().unwrap().success());
        let make = |program: &OsStr, arguments: &[OsString]| {
            let mut command = Command::new(program);
            command.args(arguments).stdout(Stdio::piped());
            command
        };
        let child = spawn(make, &[file.into(), "one".into()])?;
        let output = child.wait_with_output().unwrap();
        Ok(String::from_utf8(output.stdout).unwrap())
    }

    #[test]
    fn a_script_without_a_first_line_is_the_shells() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(run(dir.path(), b"echo \"$1\"\n").unwrap(), "one\n");
        assert_eq!(run(dir.path(), b"").unwrap(), "");
        let binary = run(dir.path(), b"\x7fEL\0F\n").unwrap_err();
        assert_eq!(binary.exit_code, 126, "{binary:?}");
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = run(dir.path(), b"#! /no/such/python -u\n").unwrap_err();
        assert_eq!(missing.exit_code, 127);
        let expected = "program: its interpreter /no/such/python is not there";
        assert!(missing.sentence.ends_with(expected), "{missing:?}");
        let make = |program: &OsStr, _: &[OsString]| Command::new(program);
        let none = spawn(make, &["no-such-program".into()]).unwrap_err();
        assert_eq!(none.sentence, "no-such-program: command not found");
    }
}
