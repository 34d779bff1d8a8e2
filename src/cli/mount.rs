//! `mount`: makes a stage of directories, and leaves a daemon that serves it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::builder::{FalseyValueParser, TypedValueParser};
use serde_json::json;

use super::output::{Trouble, note, print, print_json};
use super::place::{Place, absolute};
use crate::control::{WhereStage, find, has_stage, in_step, only_discarded};
use crate::daemon::{self, Config, Ready, Start};
use crate::error::{Context, Error};
use crate::export::target;
use crate::merge::{SharingMode, SuffixPattern};
use crate::stage::{KEEP, Options, PolicyRule, Slot, State, bind, mapped};
use crate::sys::location::lies_in;
use crate::sys::{mount, mountinfo};
use crate::tree::shown::shown;

/// Where slots are, if nothing else is said.
const SLOTS: &str = "/run/harness-fs";

/// Make a stage of the workspace and the shared paths.
///
/// What they hold becomes the base of the stage, which is never written: every
/// change goes to the state directory, and after `unmount` the directories are
/// as they were. Missing directories are created. Returns when the tree can be
/// used; a daemon keeps serving it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs mount
  harness-fs mount --shared-path /root/.m2 --shared-path /root/.npm
  harness-fs mount --shared-path /root/.npm --sharing /root/.npm=shared
  harness-fs mount --from /cache/built        # start from what `export` wrote
  harness-fs mount --from /cache/all:built    # one of several snapshots in a layout
  harness-fs mount --resume                   # go on after `unmount --keep-state` or a crash
  harness-fs mount --foreground --resume-if-kept          # a container that may be started again

HARNESS_FS_LOG says how much is logged: error, warn, info (the default), debug or trace.")]
pub struct Arguments {
    /// The main directory, where steps start.
    #[arg(long, value_name = "PATH", default_value = "/harness")]
    workspace: PathBuf,
    /// A further absolute path to have in the stage; may be a single file, may be repeated.
    #[arg(long, value_name = "PATH")]
    shared_path: Vec<PathBuf>,
    /// How steps share a shared path: merge (the default: each has its own view, and what it changed
    /// is merged), shared (all work in the stage's own, live), locked (as shared, and steps take
    /// turns) or private (each has its own, dropped when it ends). May be repeated.
    #[arg(long, value_name = "PATH=MODE", value_parser = super::policy::sharing)]
    sharing: Vec<(PathBuf, SharingMode)>,
    /// An OCI image layout that `export` wrote, to start from; may be repeated, the later above.
    /// With several images in it, LAYOUT:NAME says which: the name of the snapshot.
    #[arg(long, value_name = "LAYOUT[:NAME]")]
    from: Vec<PathBuf>,
    /// What to do about conflicts at paths that match: fail, last, first, keep-both, append or
    /// ignore. The first match wins; may be repeated.
    #[arg(long, value_name = "GLOB=POLICY", value_parser = super::policy::rule)]
    policy: Vec<PolicyRule>,
    /// How many layers of failed steps are kept: of those with `--on-failure keep`, and of those put
    /// aside by `step keep`. When one more is kept, the oldest is discarded, and named. What is kept
    /// after a conflict, or because it was interrupted, does not count, nor what waits in a group.
    #[arg(long, value_name = "N", default_value_t = KEEP, value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,
    /// How keep-both names the later version. {path} is the path in conflict, {stem} and {ext} its
    /// name up to the last dot and from there on, {step} the step: {stem}.{step}{ext} makes
    /// junit.lint.xml of junit.xml [default: {path}.{step}]
    #[arg(long, value_name = "PATTERN")]
    keep_both_as: Option<SuffixPattern>,
    /// A slot, in which containers of their own see the steps of `step begin --slot NAME`, one after
    /// another: in DIR is a place for each mapped path (DIR/harness, DIR/root/.m2), to be bound to
    /// that path in the container, as rslave, before a step begins. May be repeated
    /// [default DIR: /run/harness-fs/STAGE/NAME]
    #[arg(long, value_name = "NAME[=DIR]", value_parser = slot)]
    slot: Vec<(String, Option<PathBuf>)>,
    /// Take it for a conflict if a step read what another changed at the same time, and merge
    /// nothing. Without it that is a warning, as it is with --strict=false of `step run` and `step
    /// merge`.
    #[arg(long)]
    strict: bool,
    /// Bring back a stage whose state was kept, with the options it had; where it logs is said anew.
    #[arg(long, conflicts_with_all = [
        "workspace", "shared_path", "sharing", "from", "policy", "keep", "keep_both_as", "slot", "strict",
        "no_passthrough",
        "durable", "resume_if_kept",
    ])]
    resume: bool,
    /// Bring back a stage whose state was kept, which must have been mounted with the same options;
    /// without one, start anew.
    #[arg(long)]
    resume_if_kept: bool,
    /// Stay in the foreground and log to standard error, as the main process of a container.
    #[arg(long)]
    foreground: bool,
    /// Log to this file [default: daemon.log in the state directory].
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Pass every read and write through the daemon, also where the kernel could do without it
    /// [env: HARNESS_FS_NO_PASSTHROUGH]
    // The variable is read below: to clap it would be an option that --resume cannot have.
    #[arg(long)]
    no_passthrough: bool,
    /// Sync every merge and snapshot to the disk, so that they survive a power failure.
    #[arg(long)]
    durable: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Those for a new stage of these paths.
    pub fn of(workspace: PathBuf, shared: Vec<(PathBuf, SharingMode)>) -> Arguments {
        let shared_path = shared.iter().map(|(path, _)| path.clone()).collect();
        Arguments {
            workspace,
            shared_path,
            sharing: shared,
            from: Vec::new(),
            policy: Vec::new(),
            keep: KEEP,
            keep_both_as: None,
            slot: Vec::new(),
            strict: false,
            resume: false,
            resume_if_kept: false,
            foreground: false,
            log_file: None,
            no_passthrough: false,
            durable: false,
            json: false,
        }
    }

    /// With these rules for conflicts.
    pub fn policies(mut self, rules: Vec<PolicyRule>, suffix: Option<SuffixPattern>) -> Arguments {
        self.policy = rules;
        self.keep_both_as = suffix;
        self
    }
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    if arguments.foreground {
        let config = checked(&arguments, place)?;
        return foreground(&config, place, arguments.json);
    }
    tell(&start_daemon(&arguments, place)?, place, arguments.json)
}

/// Mounts a stage, and leaves a daemon that serves it.
///
/// # Errors
/// What is wrong with the arguments, or keeps the daemon from being started.
pub fn start_daemon(arguments: &Arguments, place: &Place) -> Result<Ready, Trouble> {
    let config = checked(arguments, place)?;
    crate::sys::process::close_on_exec()?;
    let mut supervisor = Command::new("/proc/self/exe");
    std::os::unix::process::CommandExt::arg0(&mut supervisor, "harness-fs");
    let mut supervisor = supervisor
        .arg(daemon::SUPERVISE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(|| "start the daemon")?;
    if let Some(mut stdin) = supervisor.stdin.take() {
        let text = serde_json::to_vec(&config).map_err(Error::from)?;
        stdin.write_all(&text).context(|| "start the daemon")?;
    }
    let Some(said) = supervisor.stdout.take() else {
        return Err(Trouble::new(1, "the daemon has no voice"));
    };
    let ready = daemon::wait_until_ready(said);
    if matches!(ready, Ready::No { .. }) {
        // It cleans up; the next command shall find it done.
        let _ = supervisor.wait();
    }
    Ok(ready)
}

fn checked(arguments: &Arguments, place: &Place) -> Result<Config, Trouble> {
    // First: others may not even see whether there is a stage.
    if !nix::unistd::geteuid().is_root() {
        return Err(Trouble::new(1, "mounting needs root: run it with sudo"));
    }
    daemon::log_level().map_err(|error| Trouble::new(2, error.to_string()))?;
    let config = config(arguments, place)?;
    if arguments.log_file.is_some()
        && let Some(log) = &config.log
    {
        daemon::try_log(log).map_err(|error| Trouble::new(2, format!("--log-file: {error}")))?;
    }
    Ok(config)
}

fn config(arguments: &Arguments, place: &Place) -> Result<Config, Trouble> {
    let own = match find(&place.state_dir) {
        WhereStage::Socket => place.connect().ok(),
        _ => None,
    };
    if let Some(client) = own {
        let text = format!(
            "the stage '{}' is mounted already (daemon: pid {}); `harness-fs unmount` ends it",
            place.label, client.daemon.pid
        );
        return Err(Trouble::new(1, text));
    }
    let nowhere = matches!(find(&place.state_dir), WhereStage::Nowhere);
    if nowhere {
        outside_of_steps(place)?;
    }
    let (start, mapped) = if arguments.resume {
        if nowhere {
            let text = format!(
                "there is no stage '{}' to resume in {}",
                place.label,
                place.state_dir.display()
            );
            return Err(Trouble::new(3, text));
        }
        let kept = State::read(&place.state_dir).map(|kept| kept.options.mapped);
        // What is wrong with the state is for the daemon to tell.
        (Start::Resume, kept.unwrap_or_default())
    } else {
        start(arguments, place)?
    };
    let log = match &arguments.log_file {
        Some(file) => Some(outside(file, &mapped)?),
        None if arguments.foreground => None,
        None => Some(place.state_dir.join(daemon::LOG)),
    };
    Ok(Config {
        state_dir: place.state_dir.clone(),
        label: place.label.clone(),
        start,
        log,
        own_processes: vec![nix::unistd::getpid().as_raw()],
    })
}

/// Sees that the stage is not at work here, with its state out of sight: then
/// nothing tells its live mounts from those of a daemon that was killed, which
/// a start takes away.
fn outside_of_steps(place: &Place) -> Result<(), Trouble> {
    let dir = &place.state_dir;
    let text = match bind::served_at(&place.label)? {
        Some(at) => format!(
            "the stage '{}' is mounted at {}, and {} holds nothing of it: this is a step, which cannot give \
             commands, or the directory was removed; then end its daemon first",
            place.label,
            shown(&at),
            shown(dir)
        ),
        None if mount::is_hidden(dir)? => format!(
            "no stage '{}' is seen from inside a step: steps cannot give commands",
            place.label
        ),
        None => return Ok(()),
    };
    Err(Trouble::new(3, in_step(&place.label).unwrap_or(text)))
}

/// A new stage, or the one that is kept; and its mapped paths.
fn start(arguments: &Arguments, place: &Place) -> Result<(Start, Vec<PathBuf>), Trouble> {
    let shared = &arguments.shared_path;
    // The rules that need no daemon to be told.
    let mapped = mapped::resolve(&arguments.workspace, shared, &place.state_dir)?.paths;
    let given: Vec<_> = std::iter::once(&arguments.workspace)
        .chain(shared)
        .collect();
    let names: Vec<&Path> = given.iter().map(|path| path.as_path()).collect();
    let sharing = mapped::sharing(&mapped, &names, &arguments.sharing)?;
    let from = arguments.from.iter().map(|layout| absolute(layout));
    let from = from.collect::<Result<_, _>>()?;
    let options = Options {
        name: place.label.clone(),
        mapped: given.into_iter().cloned().collect(),
        single_files: Vec::new(),
        passthrough: !(arguments.no_passthrough || without_passthrough()),
        durable: arguments.durable,
        policies: arguments.policy.clone(),
        keep: arguments.keep,
        keep_both_as: arguments.keep_both_as.clone().unwrap_or_default(),
        sharing,
        slots: slots(&arguments.slot, place)?,
        strict: arguments.strict,
    };
    if !arguments.resume_if_kept || !has_stage(&place.state_dir)? {
        let options = Box::new(options);
        return Ok((Start::New { options, from }, mapped));
    }
    if let Some(error) = only_discarded(&place.state_dir) {
        return Err(error.into());
    }
    let kept = State::read(&place.state_dir)?.options;
    let wanted = Options {
        mapped: mapped.clone(),
        single_files: kept.single_files.clone(),
        ..options
    };
    if kept == wanted {
        return Ok((Start::Resume, mapped));
    }
    let kept: Vec<_> = kept.mapped.iter().map(|path| shown(path)).collect();
    Err(Trouble::new(
        1,
        format!(
            "the stage that is kept in {} was mounted with other options, for {}: `harness-fs mount --resume` \
             continues it with those, `harness-fs unmount` discards it",
            shown(&place.state_dir),
            kept.join(", ")
        ),
    ))
}

/// Reads `NAME` or `NAME=DIR`.
fn slot(text: &str) -> Result<(String, Option<PathBuf>), String> {
    let (name, dir) = match text.split_once('=') {
        Some((_, "")) => return Err("no directory after '='".to_owned()),
        Some((name, dir)) => (name, Some(PathBuf::from(dir))),
        None => (text, None),
    };
    Ok((name.to_owned(), dir))
}

/// The slots with their directories as they really are, for mounts are listed by that.
fn slots(given: &[(String, Option<PathBuf>)], place: &Place) -> Result<Vec<Slot>, Trouble> {
    let usual = Path::new(SLOTS).join(place.label.trim_start_matches('/').replace('/', "-"));
    let slot = |(name, dir): &(String, Option<PathBuf>)| {
        // A bad name is told of later; it is no path here.
        let dir = match dir {
            Some(dir) => absolute(dir)?,
            None => usual.join(name.replace('/', "-")),
        };
        let settled = target::settle(&dir);
        let dir = settled.map_err(|error| Trouble::new(2, format!("--slot {name}: {error}")))?;
        Ok(Slot {
            name: name.clone(),
            dir,
        })
    };
    given.iter().map(slot).collect()
}

/// What the variable says, as clap reads one of a flag.
pub fn without_passthrough() -> bool {
    let set = std::env::var_os("HARNESS_FS_NO_PASSTHROUGH");
    set.is_some_and(|value| {
        FalseyValueParser::new()
            .parse_ref(&clap::Command::new(""), None, &value)
            .unwrap_or(true)
    })
}

/// The absolute path of a log, which cannot be in the stage: the daemon would
/// wait for itself.
fn outside(file: &Path, mapped: &[PathBuf]) -> Result<PathBuf, Trouble> {
    let file = absolute(file)?;
    let real = target::settle(&file).unwrap_or_else(|_| file.clone());
    let mounts = mountinfo::own()?;
    let mut mapped = mapped.iter();
    match mapped.find(|mapped| lies_in(&real, mapped, &mounts)) {
        None => Ok(file),
        Some(mapped) => Err(Trouble::new(
            2,
            format!(
                "--log-file: {} lies inside the mapped path {}: choose a file outside of the stage",
                shown(&file),
                shown(mapped)
            ),
        )),
    }
}

/// This process becomes the supervisor; a thread tells when the tree is usable.
fn foreground(config: &Config, place: &Place, json: bool) -> Result<u8, Trouble> {
    let (reader, writer) = std::io::pipe().context(|| "pipe")?;
    let place = place.clone();
    let told = std::thread::spawn(move || {
        let told = tell(&daemon::wait_until_ready(reader), &place, json);
        if let Err(trouble) = &told {
            trouble.tell();
        }
        told.is_ok()
    });
    let code = daemon::supervise(config, File::from(std::os::fd::OwnedFd::from(writer)));
    let _ = told.join();
    Ok(code)
}

fn tell(ready: &Ready, place: &Place, json: bool) -> Result<u8, Trouble> {
    match ready {
        Ready::No { code, message } => Err(Trouble::new(*code, message.clone())),
        Ready::Yes {
            mapped,
            slots,
            notes,
            pid,
        } => {
            for text in notes {
                note(text);
            }
            if json {
                print_json(&json!({
                    "stage": place.label,
                    "state_dir": shown(&place.state_dir),
                    "mapped": mapped.iter().map(|path| shown(path)).collect::<Vec<_>>(),
                    "slots": slots.iter().map(|slot| {
                        json!({ "name": slot.name, "dir": shown(&slot.dir) })
                    }).collect::<Vec<_>>(),
                    "notes": notes,
                    "daemon": { "pid": pid },
                }))?;
            } else {
                let paths: Vec<_> = mapped.iter().map(|path| shown(path)).collect();
                print(&format!(
                    "mounted {} (stage '{}')",
                    paths.join(", "),
                    place.label
                ))?;
                for slot in slots {
                    print(&format!("slot {}: {}", slot.name, shown(&slot.dir)))?;
                }
            }
            Ok(0)
        }
    }
}
