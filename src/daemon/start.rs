//! From a config to a mounted stage.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use super::wanted::Wanted;
use super::{Config, Start};
use crate::control::{DIED, has_stage, only_discarded};
use crate::error::{Context, Error, Result};
use crate::export::{self, Destination};
use crate::fuse::FuseSessions;
use crate::layer::{Inos, TREE};
use crate::stage::{
    Failure, Options, Sessions, Slot, Stage, State, bind, make_state_dir, mapped, slots,
};
use crate::sys::at;
use crate::sys::made::Made;
use crate::tree::Kind;

/// Imported layers take their inode numbers from the range of a start that
/// never comes, so that they meet no others (see [`Inos::new`]).
const IMPORT_RUN: u64 = 65_535;

/// A stage that is mounted.
pub struct Started {
    /// The stage.
    pub stage: Stage,
    /// Its mapped paths.
    pub mapped: Vec<PathBuf>,
    /// Its slots.
    pub slots: Vec<Slot>,
    /// What the user should know.
    pub notes: Vec<String>,
    /// What was made for it outside of its state.
    pub made: Made,
}

/// Makes or resumes the stage and mounts it over the mapped paths. When that
/// fails, or is not wanted any more, nothing is mounted and a new stage is gone.
///
/// # Errors
/// One sentence.
pub fn start(config: &Config, wanted: &Wanted<'_>) -> Result<Started, Failure> {
    let dir = &config.state_dir;
    // What a supervisor that was killed could not clean up.
    super::clean(dir, &config.label)?;
    match &config.start {
        Start::New { options, from } => new(config, options, from, wanted),
        Start::Resume => {
            resumable(dir)?;
            let state = State::read(dir)?;
            let options = state.options;
            let paths = resolve(&options, dir)?.paths;
            slots::check(&options.slots, &paths, dir)?;
            let notes = bind::check(&paths, &config.own_processes)?;
            let kinds = kinds(dir, &state.stack, &paths, &options.single_files)?;
            let made = bind::create_missing(&paths, &kinds)?;
            let stage = Stage::resume(dir, sessions(&options, config))?;
            let told = stage.notes().to_vec();
            let mounted = mount(stage, options.mapped, true, made)?;
            // From here on the stage lives again.
            let _ = std::fs::remove_file(dir.join(DIED));
            Ok(mounted.with_notes([told, notes]))
        }
    }
}

impl Started {
    fn with_notes(mut self, more: [Vec<String>; 2]) -> Started {
        self.notes.splice(..0, more.concat());
        self
    }
}

/// Says of state that can only be discarded that it is so.
fn resumable(state_dir: &Path) -> Result<()> {
    only_discarded(state_dir).map_or(Ok(()), Err)
}

fn new(
    config: &Config,
    options: &Options,
    from: &[PathBuf],
    wanted: &Wanted<'_>,
) -> Result<Started, Failure> {
    let dir = &config.state_dir;
    resumable(dir)?;
    if has_stage(dir)? {
        let text = format!(
            "{} holds the state of an earlier run: `harness-fs mount --resume` continues it, `harness-fs unmount` discards it",
            dir.display()
        );
        return Err(Failure::Failed(Error::new(Errno::EEXIST, text)));
    }
    let resolved = resolve(options, dir)?;
    let mut options = Options {
        mapped: resolved.paths.clone(),
        ..options.clone()
    };
    slots::check(&options.slots, &options.mapped, dir)?;
    let notes = bind::check(&options.mapped, &config.own_processes)?;
    let imported = import(from, dir, &options.mapped, wanted);
    // Where it was stopped is nobody's business.
    wanted.check()?;
    let imported = imported?;
    let kinds = kinds(
        dir,
        &imported.layers,
        &options.mapped,
        &imported.single_files,
    )?;
    let made = bind::create_missing(&options.mapped, &kinds)?;
    let mut single_files = options.mapped.clone();
    single_files.retain(|path| path.is_file());
    options.single_files = single_files;
    let sessions = sessions(&options, config);
    let has_base = imported.has_base;
    let stage = Stage::create(dir, options.clone(), imported.layers, !has_base, sessions)?;
    Ok(mount(stage, options.mapped, false, made)?.with_notes([resolved.notes, notes]))
}

fn resolve(options: &Options, state_dir: &Path) -> Result<mapped::Mapped, Failure> {
    match options.mapped.split_first() {
        Some((workspace, shared)) => mapped::resolve(workspace, shared, state_dir),
        None => Err(Failure::Usage("no path is mapped".to_owned())),
    }
}

/// What the mapped paths are in the uppermost layer that has them, or were when
/// it was told of them; `None` where only the base can tell.
fn kinds(
    state_dir: &Path,
    layers: &[String],
    paths: &[PathBuf],
    single_files: &[PathBuf],
) -> Result<Vec<Option<Kind>>> {
    let kind = |index: usize| -> Result<Option<Kind>> {
        let root = index.to_string();
        for id in layers.iter().rev() {
            let path = state_dir.join("layers").join(id).join(TREE).join(&root);
            let found = at::stat_if_there(AT_FDCWD, &path);
            if let Some(root) = found.context(|| path.display().to_string())? {
                return Ok(Some(root.attr.kind));
            }
        }
        Ok(single_files.contains(&paths[index]).then_some(Kind::File))
    };
    (0..paths.len()).map(kind).collect()
}

fn sessions(options: &Options, config: &Config) -> Arc<dyn Sessions> {
    let source = format!("harness-fs:{}", config.label);
    Arc::new(FuseSessions::new(options, source))
}

fn mount(
    stage: Stage,
    mapped: Vec<PathBuf>,
    keep: bool,
    mut made: Made,
) -> Result<Started, Failure> {
    let options = stage.options();
    let mounted = slots::open(&options, &mut made).and_then(|notes| {
        let view = stage.open_stage_view()?;
        bind::bind_mapped(&view, &mapped)?;
        Ok(notes)
    });
    match mounted {
        Ok(notes) => Ok(Started {
            stage,
            mapped,
            slots: options.slots,
            notes,
            made,
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
    single_files: Vec<PathBuf>,
}

/// Brings the layers of layouts into the state directory, one layout above
/// the other; the base of the first is the stage's.
fn import(
    from: &[PathBuf],
    state_dir: &Path,
    mapped: &[PathBuf],
    wanted: &Wanted<'_>,
) -> Result<Imports> {
    let mut imports = Imports {
        layers: Vec::new(),
        has_base: false,
        single_files: Vec::new(),
    };
    let layers = state_dir.join("layers");
    if !from.is_empty() {
        make_state_dir(state_dir)?;
    }
    let inos = Inos::new(IMPORT_RUN);
    let mut next = 0_u64;
    for (index, layout) in from.iter().enumerate() {
        let mut id = |name: &str| {
            next += 1;
            crate::stage::layer_id(next, name)
        };
        let target = Destination {
            layers: &layers,
            mapped,
            inos: &inos,
            wanted: &|| wanted.check(),
        };
        let imported = export::import(layout, target, &mut id)
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
        imports.single_files.extend(imported.single_files);
    }
    Ok(imports)
}
