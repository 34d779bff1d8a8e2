//! `overlay`: a union of directories at a mount point, without a stage.

mod helper;
mod options;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::MsFlags;
use nix::sys::statvfs::{FsFlags, statvfs};

use super::output::Trouble;
use crate::daemon;
use crate::error::{Context, Error};
use crate::overlay::{self, Config, Flags, Said, Upper};
use crate::tree::shown::shown;

pub use helper::run as help_mount;
use options::Options;

/// Mount a union of directories, as `mount -t overlay` and fuse-overlayfs do.
///
/// The lower directories show through one another and are never written; every change goes to the
/// upper directory, in the format of the kernel's overlayfs. Returns when the tree can be used;
/// `umount DIR` ends it. No stage is needed, and none is made.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Options, with commas between them; a comma or a colon in a name has a backslash before it:
  lowerdir=A:B:C        the lower directories, the uppermost first
  lowerdir+=A           one more below those; a colon in its name needs no backslash
  upperdir=U,workdir=W  where changes go, and an empty directory on the same mount; without both,
                        nothing can be changed
  ro                    nothing can be changed; upperdir may then come without workdir
  fsname=NAME           what `mount` shows as the source [default: harness-fs]
  redirect_dir=on|off   whether lower directories can be renamed; else EXDEV [default: on]
  metacopy=on|off       whether chmod and the like leave the content below; the kernel then needs
                        metacopy=on as well to read the upper directory [default: off]
  passthrough=on|off    whether the kernel reads and writes files of the upper directory by itself
                        [default: on]
  log_file=FILE         where the log goes [default: standard error, with --foreground]
  remount               only change the flags of what is mounted: remount,ro
  nosuid nodev noexec noatime sync dirsync …  as in mount(8)

Examples:
  harness-fs overlay -o lowerdir=/usr/share/base,upperdir=/var/up,workdir=/var/work /mnt
  harness-fs overlay -o lowerdir=/srv/b:/srv/a /mnt         # read-only
  harness-fs overlay -o remount,ro /mnt
  umount /mnt

With a link to this program at /sbin/mount.fuse.harness-fs, mount(8) and fstab(5) know it:
  mount -t fuse.harness-fs -o lowerdir=/a,upperdir=/u,workdir=/w overlay /mnt")]
pub struct Arguments {
    /// What to mount, and how
    #[arg(short = 'o', value_name = "OPTIONS", required = true)]
    options: Vec<OsString>,
    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// Where to mount it
    #[arg(value_name = "DIR")]
    at: PathBuf,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments) -> Result<u8, Trouble> {
    let mut options = Options::default();
    for list in &arguments.options {
        options::read(list, false, &mut options).map_err(|text| Trouble::new(2, text))?;
    }
    if options.remount {
        return remount(&options, &arguments.at);
    }
    let config = config(options, &arguments.at)?;
    match arguments.foreground {
        true => foreground(&config),
        false => background(&config),
    }
}

fn remount(options: &Options, at: &Path) -> Result<u8, Trouble> {
    overlay::remount(&real("", at)?, options.set, options.cleared)?;
    Ok(0)
}

fn usage<T>(text: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::new(2, text))
}

/// The absolute path without symbolic links of what has to be there.
fn real(name: &str, path: &Path) -> Result<PathBuf, Trouble> {
    let there = path.canonicalize().and_then(|path| {
        // Who serves it may have died, and the kernel still know its names and attributes.
        statvfs(&path)?;
        Ok(path)
    });
    there.map_err(|error| {
        let error = Error::from(error);
        let lead = match name {
            "" => String::new(),
            name => format!("{name} "),
        };
        let more = match error.errno() {
            // The second to who was just asking it (fs/fuse/dev.c, fuse_abort_conn).
            Errno::ENOTCONN | Errno::ECONNABORTED => {
                ", what is mounted there has died: unmount it first"
            }
            _ => "",
        };
        Trouble::new(1, format!("{lead}{}: {error}{more}", shown(path)))
    })
}

fn config(options: Options, at: &Path) -> Result<Config, Trouble> {
    daemon::log_level().map_err(|error| Trouble::new(2, error.to_string()))?;
    if options.lower.is_empty() {
        return usage("lowerdir= is missing: it names the directories to show");
    }
    let dirs = options.lower.iter().map(|dir| real("lowerdir", dir));
    let mut lower: Vec<PathBuf> = dirs.collect::<Result<_, _>>()?;
    let upper = options.upper.as_deref().map(|dir| real("upperdir", dir));
    let upper = upper.transpose()?;
    // Without an upper directory it is of no use, and the kernel passes it over as well.
    let work = match &upper {
        Some(_) => options.work.as_deref().map(|dir| real("workdir", dir)),
        None => None,
    };
    let read_only = options.set.contains(MsFlags::MS_RDONLY);
    let upper = match (upper, work.transpose()?) {
        (Some(dir), work) if read_only && (work.is_none() || is_read_only(&dir)?) => {
            lower.insert(0, dir);
            None
        }
        (Some(_), None) => {
            return usage("workdir= is missing: an empty directory on the same mount as upperdir");
        }
        (Some(dir), Some(work)) => Some(Upper { dir, work }),
        (None, _) => None,
    };
    let dirs = lower.iter().map(|dir| ("lowerdir", dir));
    let written = upper.iter();
    let written = written.flat_map(|upper| [("upperdir", &upper.dir), ("workdir", &upper.work)]);
    for (name, dir) in dirs.chain(written) {
        if !dir.is_dir() {
            return Err(Trouble::new(
                1,
                format!("{name} {} is not a directory", shown(dir)),
            ));
        }
    }
    let log = options.log.map(|file| super::place::absolute(&file));
    let log = log.transpose()?;
    if let Some(log) = &log {
        daemon::try_log(log).map_err(|error| Trouble::new(2, format!("log_file: {error}")))?;
    }
    let flags = match upper {
        Some(_) => options.set,
        None => options.set | MsFlags::MS_RDONLY,
    };
    let source = options.source.unwrap_or_else(|| "harness-fs".into());
    Ok(Config {
        lower,
        upper,
        at: real("", at)?,
        source: source.to_string_lossy().into_owned(),
        flags: Flags::of(flags),
        passthrough: options.passthrough && !super::mount::without_passthrough(),
        metacopy: options.metacopy,
        redirects: options.redirects,
        log,
    })
}

fn is_read_only(dir: &Path) -> Result<bool, Trouble> {
    let stat = statvfs(dir).context(|| shown(dir).into_owned())?;
    Ok(stat.flags().contains(FsFlags::ST_RDONLY))
}

/// Leaves a process that serves it, and returns when it is mounted.
fn background(config: &Config) -> Result<u8, Trouble> {
    crate::sys::process::close_on_exec()?;
    let mut server = Command::new("/proc/self/exe");
    server.arg0("harness-fs").arg(overlay::SERVE);
    let server = server.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut server = server
        .stderr(Stdio::null())
        .spawn()
        .context(|| "start the server")?;
    if let Some(mut stdin) = server.stdin.take() {
        let text = serde_json::to_vec(config).map_err(Error::from)?;
        stdin.write_all(&text).context(|| "start the server")?;
    }
    let said = server.stdout.take().map(Said::wait);
    let told = tell(said.unwrap_or_else(|| Said::Failed("the server has no voice".to_owned())));
    if told.is_err() {
        let _ = server.wait();
    }
    told
}

fn foreground(config: &Config) -> Result<u8, Trouble> {
    let (reader, writer) = std::io::pipe().context(|| "pipe")?;
    let told = std::thread::spawn(move || tell(Said::wait(reader)));
    let code = overlay::serve(config, File::from(OwnedFd::from(writer)));
    match told.join() {
        Ok(Err(trouble)) => Err(trouble),
        _ => Ok(code),
    }
}

fn tell(said: Said) -> Result<u8, Trouble> {
    match said {
        Said::Mounted => Ok(0),
        Said::Failed(text) => Err(Trouble::new(1, text)),
    }
}
