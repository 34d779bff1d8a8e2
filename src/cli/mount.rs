//! `mount`: makes a stage of directories, and leaves a daemon that serves it.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::builder::FalseyValueParser;
use serde_json::json;

use super::output::{Trouble, note, print, print_json};
use super::place::{Place, absolute};
use crate::control::{Client, WhereStage, find};
use crate::daemon::{self, Config, Ready, Start};
use crate::error::{Context, Error};
use crate::stage::{Options, PolicyRule};
use crate::tree::shown::shown;

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
  harness-fs mount --from /cache/built        # start from what `export` wrote
  harness-fs mount --resume                   # go on after `unmount --keep-state` or a crash")]
pub struct Arguments {
    /// The main directory, where steps start.
    #[arg(long, value_name = "PATH", default_value = "/harness")]
    workspace: PathBuf,
    /// A further absolute path to have in the stage; may be a single file, may be repeated.
    #[arg(long, value_name = "PATH")]
    shared_path: Vec<PathBuf>,
    /// An OCI image layout that `export` wrote, to start from; may be repeated, the later above.
    #[arg(long, value_name = "LAYOUT")]
    from: Vec<PathBuf>,
    /// What to do about conflicts at paths that match, the first match wins; may be repeated.
    #[arg(long, value_name = "GLOB=POLICY", value_parser = super::policy::rule)]
    policy: Vec<PolicyRule>,
    /// Bring back a stage whose state was kept, with the options it had.
    #[arg(long, conflicts_with_all = ["shared_path", "from", "policy"])]
    resume: bool,
    /// Stay in the foreground and log to standard error, as the main process of a container.
    #[arg(long)]
    foreground: bool,
    /// Log to this file [default: daemon.log in the state directory].
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Pass every read and write through the daemon, also where the kernel could do without it.
    #[arg(long, env = "HARNESS_FS_NO_PASSTHROUGH", value_parser = FalseyValueParser::new())]
    no_passthrough: bool,
    /// Sync every merge and snapshot to the disk, so that they survive a power failure.
    #[arg(long)]
    durable: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let config = config(&arguments, place)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Trouble::new(1, "mounting needs root: run it with sudo"));
    }
    if arguments.foreground {
        return foreground(&config, place, arguments.json);
    }
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
    tell(&ready, place, arguments.json)
}

fn config(arguments: &Arguments, place: &Place) -> Result<Config, Trouble> {
    let own = match find(&place.state_dir) {
        WhereStage::Socket => Client::connect(&place.state_dir, &place.label).ok(),
        _ => None,
    };
    if let Some(client) = own {
        let text = format!(
            "the stage '{}' is mounted already (daemon: pid {}); `harness-fs unmount` ends it",
            place.label, client.daemon.pid
        );
        return Err(Trouble::new(1, text));
    }
    let start = if arguments.resume {
        if matches!(find(&place.state_dir), WhereStage::Nowhere) {
            let text = format!(
                "there is no stage '{}' to resume in {}",
                place.label,
                place.state_dir.display()
            );
            return Err(Trouble::new(3, text));
        }
        Start::Resume
    } else {
        let shared: Vec<PathBuf> = arguments.shared_path.clone();
        // The rules that need no daemon to be told.
        crate::stage::mapped::resolve(&arguments.workspace, &shared, &place.state_dir)?;
        let mapped = std::iter::once(arguments.workspace.clone()).chain(shared);
        let from = arguments.from.iter().map(|layout| absolute(layout));
        Start::New {
            options: Options {
                name: place.label.clone(),
                mapped: mapped.collect(),
                passthrough: !arguments.no_passthrough,
                durable: arguments.durable,
                policies: arguments.policy.clone(),
            },
            from: from.collect::<Result<_, _>>()?,
        }
    };
    let log = match &arguments.log_file {
        Some(file) => Some(absolute(file)?),
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
        Ready::Yes { mapped, notes, pid } => {
            for text in notes {
                note(text);
            }
            if json {
                print_json(&json!({
                    "stage": place.label,
                    "state_dir": shown(&place.state_dir),
                    "mapped": mapped.iter().map(|path| shown(path)).collect::<Vec<_>>(),
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
            }
            Ok(0)
        }
    }
}
