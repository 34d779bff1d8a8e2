//! From a config to a mounted stage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use super::{Config, Start};
use crate::control::{DIED, STAGE_FILE};
use crate::error::{Context, Error, Result};
use crate::export;
use crate::fuse::FuseSessions;
use crate::layer::Inos;
use crate::stage::{Failure, Options, Sessions, Stage, State, bind, mapped};

/// Imported layers take their inode numbers from the range of a start that
/// never comes, so that they meet no others (see [`Inos::new`]).
const IMPORT_RUN: u64 = 65_535;

/// A stage that is mounted.
pub struct Started {
    /// The stage.
    pub stage: Stage,
    /// Its mapped paths.
    pub mapped: Vec<PathBuf>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Makes or resumes the stage and mounts it over the mapped paths. When that
/// fails, nothing is mounted and a new stage is gone.
///
/// # Errors
/// One sentence.
pub fn start(config: &Config) -> Result<Started, Failure> {
    let dir = &config.state_dir;
    // What a supervisor that was killed could not clean up.
    super::clean(dir, &config.label)?;
    match &config.start {
        Start::New { options, from } => new(config, options, from),
        Start::Resume => {
            let options = State::read(dir)?.options;
            let resolved = resolve(&options, dir)?;
            let notes = prepare(&resolved.paths, config)?;
            let stage = Stage::resume(dir, sessions(&options, config))?;
            let told = stage.notes().to_vec();
            let mounted = mount(stage, options.mapped, true)?;
            // From here on the stage lives again.
            let _ = std::fs::remove_file(dir.join(DIED));
            Ok(mounted.with_notes([told, notes]))
        }
    }
}

impl Started {
    fn with_notes(mut self, more: [Vec<String>; 2]) -> Started {
        self.notes = more.concat();
        self
    }
}

fn new(config: &Config, options: &Options, from: &[PathBuf]) -> Result<Started, Failure> {
    let dir = &config.state_dir;
    if dir.join(STAGE_FILE).exists() {
        let text = format!(
            "{} holds the state of an earlier run: `harness-fs mount --resume` continues it, `harness-fs unmount` discards it",
            dir.display()
        );
        return Err(Failure::Failed(Error::new(Errno::EEXIST, text)));
    }
    let resolved = resolve(options, dir)?;
    let options = Options {
        mapped: resolved.paths.clone(),
        ..options.clone()
    };
    let notes = prepare(&options.mapped, config)?;
    let imported = import(from, dir, &options.mapped)?;
    let sessions = sessions(&options, config);
    let has_base = imported.has_base;
    let stage = Stage::create(dir, options.clone(), imported.layers, !has_base, sessions)?;
    Ok(mount(stage, options.mapped, false)?.with_notes([resolved.notes, notes]))
}

fn resolve(options: &Options, state_dir: &Path) -> Result<mapped::Mapped, Failure> {
    match options.mapped.split_first() {
        Some((workspace, shared)) => mapped::resolve(workspace, shared, state_dir),
        None => Err(Failure::Usage("no path is mapped".to_owned())),
    }
}

/// Checks the world, and makes the mapped paths that are missing.
fn prepare(paths: &[PathBuf], config: &Config) -> Result<Vec<String>, Failure> {
    let notes = bind::check(paths, &config.own_processes)?;
    bind::create_missing(paths)?;
    Ok(notes)
}

fn sessions(options: &Options, config: &Config) -> Arc<dyn Sessions> {
    let source = format!("harness-fs:{}", config.label);
    Arc::new(FuseSessions::new(options, source))
}

fn mount(stage: Stage, mapped: Vec<PathBuf>, keep: bool) -> Result<Started, Failure> {
    let mounted = stage
        .open_stage_view()
        .and_then(|view| Ok(bind::bind_mapped(&view, &mapped)?));
    match mounted {
        Ok(()) => Ok(Started {
            stage,
            mapped,
            notes: Vec::new(),
        }),
        Err(failure) => {
            if let Err(second) = stage.end(keep) {
                log::error!("{second}");
            }
            Err(failure)
        }
    }
}

struct Imports {
    layers: Vec<String>,
    has_base: bool,
}

/// Brings the layers of layouts into the state directory, one layout above
/// the other; the base of the first is the stage's.
fn import(from: &[PathBuf], state_dir: &Path, mapped: &[PathBuf]) -> Result<Imports> {
    let mut imports = Imports {
        layers: Vec::new(),
        has_base: false,
    };
    let layers = state_dir.join("layers");
    if !from.is_empty() {
        std::fs::create_dir_all(&layers).context(|| layers.display().to_string())?;
    }
    let inos = Inos::new(IMPORT_RUN);
    let mut next = 0_u64;
    for (index, layout) in from.iter().enumerate() {
        let mut id = |name: &str| {
            next += 1;
            crate::stage::layer_id(next, name)
        };
        let imported = export::import(layout, &layers, mapped, &mut id, &inos)
            .context(|| format!("--from {}", layout.display()))?;
        if imported.has_base && index > 0 {
            let text = format!(
                "--from {}: it has a base of its own and can only come first",
                layout.display()
            );
            return Err(Error::new(Errno::EINVAL, text));
        }
        imports.has_base |= imported.has_base;
        imports.layers.extend(imported.layers);
    }
    Ok(imports)
}
