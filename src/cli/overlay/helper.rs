//! `mount.fuse.harness-fs`: what mount(8) runs for the type `fuse.harness-fs`, as it runs such
//! (mount(8), "External helpers"):
//!
//! `mount.fuse.harness-fs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]`

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;

use super::options::{self, Options};
use super::{background, config, remount};
use crate::cli::output::{Trouble, note};
use crate::error::Context;
use crate::overlay;

/// The names that mount(8) knows it by.
const NAMES: [&str; 2] = ["mount.fuse.harness-fs", "mount.harness-fs"];
/// The exit codes of mount(8).
const USAGE: u8 = 1;
const FAILED: u8 = 32;

const HELP: &str = "\
Usage: mount.fuse.harness-fs SPEC DIR [-sfnv] [-N NAMESPACE] [-o OPTIONS]

mount(8) runs this for `mount -t fuse.harness-fs SPEC DIR -o OPTIONS`; SPEC is only a name. The options are those of
`harness-fs overlay`, which its --help tells.

  -o OPTIONS    lowerdir=A:B,upperdir=U,workdir=W and others
  -f            only check, mount nothing
  -s            pass over options that are not known
  -v            say what is done
  -n            nothing: there is no mtab to be written
  -N NAMESPACE  mount in this mount namespace (a process, or a file)";

/// What mount(8) asks for.
#[derive(Debug, Default)]
struct Asked {
    spec: OsString,
    dir: PathBuf,
    lists: Vec<OsString>,
    sloppy: bool,
    fake: bool,
    verbose: bool,
    namespace: Option<OsString>,
}

/// Carries it out if this program was started under the helper's name. Returns the exit code.
pub fn run(arguments: &[OsString]) -> Option<u8> {
    let name = Path::new(arguments.first()?).file_name()?;
    if !NAMES.iter().any(|known| name == *known) {
        return None;
    }
    let told = |trouble: Trouble, code| {
        note(trouble.message());
        code
    };
    Some(match read(&arguments[1..]) {
        Ok(None) => {
            println!("{HELP}");
            0
        }
        Ok(Some(asked)) => match mount(&asked) {
            Ok(()) => 0,
            Err(trouble) if trouble.code == 2 => told(trouble, USAGE),
            Err(trouble) => told(trouble, FAILED),
        },
        Err(text) => told(Trouble::new(2, text), USAGE),
    })
}

/// Reads the arguments; nothing if help is wanted.
fn read(arguments: &[OsString]) -> Result<Option<Asked>, String> {
    let mut asked = Asked::default();
    let mut names = Vec::new();
    let mut rest = arguments.iter();
    let value = |rest: &mut std::slice::Iter<'_, OsString>, letter: char| {
        let value = rest.next().cloned();
        value.ok_or_else(|| format!("-{letter} needs a value"))
    };
    while let Some(argument) = rest.next() {
        let letters = match argument.to_str() {
            Some("--help") => return Ok(None),
            Some(text) if text.len() > 1 && text.starts_with('-') => &text[1..],
            _ => {
                names.push(argument.clone());
                continue;
            }
        };
        for letter in letters.chars() {
            match letter {
                's' => asked.sloppy = true,
                'f' => asked.fake = true,
                'n' => {}
                'v' => asked.verbose = true,
                'h' => return Ok(None),
                'o' => asked.lists.push(value(&mut rest, letter)?),
                'N' => asked.namespace = Some(value(&mut rest, letter)?),
                't' => drop(value(&mut rest, letter)?),
                _ => {
                    return Err(format!(
                        "'{argument}' is not known: see --help",
                        argument = argument.display()
                    ));
                }
            }
        }
    }
    match <[OsString; 2]>::try_from(names) {
        Ok([spec, dir]) => {
            asked.spec = spec;
            asked.dir = dir.into();
            Ok(Some(asked))
        }
        Err(names) => Err(format!(
            "what to mount and where is needed, two names and not {}: see --help",
            names.len()
        )),
    }
}

fn mount(asked: &Asked) -> Result<(), Trouble> {
    let mut options = Options::default();
    for list in &asked.lists {
        let read = options::read(list, asked.sloppy, &mut options);
        read.map_err(|text| Trouble::new(2, text))?;
    }
    if let Some(namespace) = &asked.namespace {
        enter(namespace)?;
    }
    if options.remount {
        if !asked.fake {
            remount(&options, &asked.dir)?;
        }
        return Ok(());
    }
    options.source.get_or_insert_with(|| asked.spec.clone());
    let config = config(options, &asked.dir)?;
    if asked.fake {
        overlay::check(&config)?;
        return Ok(());
    }
    background(&config)?;
    if asked.verbose {
        println!("{} mounted on {}", config.source, config.at.display());
    }
    Ok(())
}

/// Goes into a mount namespace: of a process, or the one that a file stands for. Names are those
/// of what is mounted there.
fn enter(namespace: &OsStr) -> Result<(), Trouble> {
    let path = match namespace.to_str().and_then(|text| text.parse::<u32>().ok()) {
        Some(process) => PathBuf::from(format!("/proc/{process}/ns/mnt")),
        None => PathBuf::from(namespace),
    };
    let file = File::open(&path).context(|| path.display().to_string())?;
    // setns(2) leads to the root.
    let here = std::env::current_dir().context(|| "the working directory")?;
    nix::sched::setns(file, CloneFlags::CLONE_NEWNS).context(|| path.display().to_string())?;
    std::env::set_current_dir(&here).context(|| here.display().to_string())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_line(line: &str) -> Result<Option<Asked>, String> {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        read(&arguments)
    }

    #[test]
    fn arguments_are_read_in_mounts_order_and_in_others() {
        for line in [
            "spec /dir -sv -o a,b -t fuse.harness-fs",
            "-o a,b -s spec -v /dir -n",
        ] {
            let asked = read_line(line).unwrap().unwrap();
            assert_eq!((asked.spec, asked.dir), ("spec".into(), "/dir".into()));
            assert_eq!(asked.lists, ["a,b"]);
            assert!(asked.sloppy && asked.verbose && !asked.fake);
        }
        assert!(read_line("spec /dir -h").unwrap().is_none());
        for line in ["spec", "spec /dir more", "spec /dir -o", "spec /dir -q"] {
            read_line(line).unwrap_err();
        }
    }
}
