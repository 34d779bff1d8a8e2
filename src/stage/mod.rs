//! A stage's life: its stack, the commit point, steps, merges, snapshots.
//!
//! # Locks
//!
//! `life` serialises the operations that change the stage; it may be held for
//! long. `state`, `running`, `layers`, `leases`, `background` and `pending` are
//! leaves: held for moments, nothing is called under them, so `status` never waits
//! for a merge. A view's own locks come after `life` and before the leaves.

mod abort;
mod background;
mod begin;
pub mod bind;
mod blame;
mod cached;
mod caches;
mod changes;
mod compare;
mod completing;
mod content;
mod delta;
mod diff;
mod ended;
pub mod failpoint;
mod failure;
mod groups;
mod head;
mod invalidate;
mod join;
pub(crate) mod journal;
mod kept;
mod lease;
mod log;
pub mod mapped;
mod merge;
mod named;
mod names;
pub mod namespace;
mod numbers;
pub mod occupants;
mod part;
mod past;
mod places;
mod races;
mod recover;
mod renamed;
mod reserve;
mod rollback;
mod sessions;
mod sharing;
mod shell;
mod since;
pub mod slots;
mod snapshots;
mod state;
mod status;
mod steps;
pub mod survivors;
mod teardown;
pub mod watches;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Context, Result};
use crate::layer::{Base, Inos, Layer, OpenLayer, SealedLayer, Stack};
use crate::sys::inherit::hand_nothing_down;
use crate::sys::ordered::{Mutex, Rank};
use crate::sys::{at, mount};
use crate::tree::reads::Reads;
use crate::view::View;

pub use begin::{Beginning, Start};
pub use blame::{BlameLine, Did};
pub use caches::{CacheLink, CacheState, KnownCache, KnownLink, Placing, ToSave};
pub use diff::{Change, DiffLine};
pub use failure::{ConflictReport, Failure};
pub use groups::{GroupEnd, MemberOutcome, OnFailure};
pub use head::SealCost;
pub use lease::Lent;
pub use log::{LayerKind, LayerReport, LogLine, StepEnd};
pub use merge::{MergeReport, Overrides};
pub use rollback::RollbackReport;
pub use sessions::{Invalidation, Session, Sessions};
pub use shell::Shell;
pub use slots::SlotInfo;
pub use snapshots::{RestoreReport, SnapshotInfo};
pub use state::{
    Ended as MemberEnded, GroupState, IfOneFails, KEEP, Options, Phase, PolicyRule, Slot, State,
    boot_id,
};
pub use status::{LayerInfo, Status, StepInfo, StepKind, ViewInfo};
pub use steps::{SealedStep, StepView};
pub use teardown::EndReport;
pub use watches::{Event, Happening};

pub use names::{layer_id, stage_mount};

use background::Background;
use completing::Completing;
use journal::Record;
use lease::Leases;
use names::STAGE_VIEW;

/// The directories of a state directory that the stage itself owns.
const LAYERS: &str = "layers";
const OBJECTS: &str = "objects";
/// The one that holds the open layers, and where views are mounted.
pub const VIEWS: &str = "views";

/// A view that is there now.
struct Running {
    view: Arc<View>,
    /// Absent until it is mounted.
    session: Option<Arc<dyn Session>>,
    mount: PathBuf,
    /// Of a view that `step shell` has, the layers that are lent to it.
    lent: Option<Vec<String>>,
    /// The places of a slot, in the order of the mapped paths, where it is shown too.
    shown_at: Vec<PathBuf>,
}

/// One stage.
pub struct Stage {
    dir: PathBuf,
    sessions: Arc<dyn Sessions>,
    inos: Arc<Inos>,
    base: Option<Arc<dyn Layer>>,
    /// A read-only clone of the mount that holds `layers/`, so that there can
    /// be no writable descriptor to a file of a sealed layer.
    sealed: OwnedFd,
    stage_view: Arc<View>,
    life: Mutex<()>,
    state: Mutex<State>,
    running: Mutex<BTreeMap<String, Arc<Running>>>,
    layers: Mutex<HashMap<String, Arc<SealedLayer>>>,
    leases: Mutex<Leases>,
    /// Commands that live in the stage view.
    background: Mutex<BTreeMap<String, Background>>,
    /// What steps have seen that have ended since the daemon started, and are neither merged nor
    /// discarded.
    reads: Mutex<HashMap<String, Arc<Reads>>>,
    /// Journal records that the next commit makes superfluous.
    pending: Mutex<Vec<String>>,
    /// Gives partial files of sealed layers the rest of their content.
    completing: Completing,
    /// What `resume` has to tell.
    notes: Vec<String>,
    /// Requests that views served which are gone, per opcode.
    past_requests: Mutex<BTreeMap<String, u64>>,
}

impl Stage {
    /// Makes a new stage with its state directory (mode 0700), and takes hold
    /// of the mapped paths' content as its base. `imported` are layers that lie
    /// in `layers/` already; they are the stack. With `own_base` false the
    /// lowest of them stands in for the mapped paths' own content.
    ///
    /// # Errors
    /// [`Failure::Usage`] if there is a stage in that directory, else what the
    /// disk or taking the base reports.
    pub fn create(
        state_dir: &Path,
        options: Options,
        imported: Vec<String>,
        own_base: bool,
        sessions: Arc<dyn Sessions>,
    ) -> Result<Stage, Failure> {
        if state_dir.join(state::FILE).exists() {
            let text = format!("{}: there is a stage already", state_dir.display());
            return Err(Failure::Usage(text));
        }
        make_state_dir(state_dir)?;
        let highest = imported
            .iter()
            .filter_map(|id| id.split('-').next()?.parse::<u64>().ok())
            .max();
        let mut state = State {
            format: state::FORMAT,
            boot_id: boot_id()?,
            durable: false,
            run: 1,
            commits: 0,
            next_layer: highest.unwrap_or(0) + 1,
            options,
            own_base,
            imported: imported.len(),
            stack: imported,
            snapshots: BTreeMap::new(),
            steps: BTreeMap::new(),
            groups: BTreeMap::new(),
            finished: BTreeMap::new(),
            gone: BTreeMap::new(),
            races: Vec::new(),
            together: std::collections::BTreeSet::new(),
            caches: Vec::new(),
        };
        let stage = Stage::assemble(state_dir, &state, sessions, Vec::new())?;
        stage.commit(&mut state)?;
        Ok(stage)
    }

    /// Puts the parts together; the state directory is in order.
    fn assemble(
        dir: &Path,
        state: &State,
        sessions: Arc<dyn Sessions>,
        notes: Vec<String>,
    ) -> Result<Stage> {
        let inos = Arc::new(Inos::new(state.run));
        let base: Option<Arc<dyn Layer>> = if state.own_base {
            Some(Arc::new(Base::take(&state.options.mapped, inos.clone())?))
        } else {
            None
        };
        let layers = dir.join(LAYERS);
        let sealed = mount::clone_read_only(&layers)?;
        let cache = Mutex::new(Rank::StageTables, HashMap::new());
        let stack = build_stack(base.as_ref(), &sealed, &layers, &cache, &state.stack)?;
        let open = OpenLayer::open(&dir.join(VIEWS).join(STAGE_VIEW).join("open"))?;
        let mount = names::stage_mount(dir);
        std::fs::create_dir_all(&mount).context(|| mount.display().to_string())?;
        let stage_view = View::new(stack, open, inos.clone(), true)?;
        let running = Running {
            view: stage_view.clone(),
            session: None,
            mount,
            lent: None,
            shown_at: Vec::new(),
        };
        Ok(Stage {
            dir: dir.to_path_buf(),
            sessions,
            inos,
            base,
            sealed,
            stage_view,
            life: Mutex::new(Rank::StageLife, ()),
            state: Mutex::new(Rank::StageState, state.clone()),
            running: Mutex::new(
                Rank::StageTables,
                BTreeMap::from([(STAGE_VIEW.to_owned(), Arc::new(running))]),
            ),
            layers: cache,
            leases: Mutex::new(Rank::StageTables, Leases::default()),
            background: Mutex::new(Rank::StageTables, BTreeMap::new()),
            reads: Mutex::new(Rank::StageTables, HashMap::new()),
            pending: Mutex::new(Rank::StageTables, Vec::new()),
            completing: Completing::new(),
            notes,
            past_requests: Mutex::new(Rank::StageTables, BTreeMap::new()),
        })
    }

    /// Mounts the stage view at `<state>/views/stage/mnt` and returns that path.
    ///
    /// # Errors
    /// What mounting reports.
    pub fn open_stage_view(&self) -> Result<PathBuf, Failure> {
        let _life = self.life.lock();
        let running = self.running(STAGE_VIEW)?;
        if running.session.is_some() {
            return Ok(running.mount.clone());
        }
        let view = self.stage_view.clone();
        let session = self.sessions.mount(view, &running.mount, STAGE_VIEW)?;
        let mounted = Running {
            view: self.stage_view.clone(),
            session: Some(session.into()),
            mount: running.mount.clone(),
            lent: None,
            shown_at: Vec::new(),
        };
        let mut all = self.running.lock();
        all.insert(STAGE_VIEW.to_owned(), Arc::new(mounted));
        Ok(running.mount.clone())
    }

    /// The state directory.
    pub fn state_dir(&self) -> &Path {
        &self.dir
    }

    /// The inode numbers of this stage, for importing layers.
    pub fn inos(&self) -> &Arc<Inos> {
        &self.inos
    }

    /// What there is to tell of how the stage was resumed, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the mapped paths' own content lies below the stack.
    pub fn own_base(&self) -> bool {
        self.base.is_some()
    }

    /// What the stage was mounted with.
    pub fn options(&self) -> Options {
        self.state.lock().options.clone()
    }

    /// The stack as it is now, with everything that was written sealed into it.
    ///
    /// # Errors
    /// What sealing the head or committing it reports.
    pub fn current_stack(&self) -> Result<Lent<'_>, Failure> {
        let _life = self.life.lock();
        self.seal_dirty_head()?;
        let (_, lease) = self.lease(|state| state.stack.clone());
        Ok(Lent::new(self.stage_view.stack(), lease))
    }

    fn running(&self, name: &str) -> Result<Arc<Running>, Failure> {
        let found = self.running.lock().get(name).cloned();
        found.ok_or_else(|| Failure::NotFound(format!("there is no open view '{name}'")))
    }

    fn layers_dir(&self) -> PathBuf {
        self.dir.join(LAYERS)
    }

    fn view_dir(&self, name: &str) -> PathBuf {
        self.dir.join(VIEWS).join(name)
    }

    fn stack_of(&self, ids: &[String]) -> Result<Stack> {
        build_stack(
            self.base.as_ref(),
            &self.sealed,
            &self.layers_dir(),
            &self.layers,
            ids,
        )
    }

    fn layer(&self, id: &str) -> Result<Arc<SealedLayer>> {
        open_layer(&self.sealed, &self.layers_dir(), &self.layers, id)
    }

    /// Makes `next` the state: the commit point of every operation.
    ///
    /// # Errors
    /// What syncing and writing report; then the old state holds, in memory too.
    fn commit(&self, next: &mut State) -> Result<()> {
        let durable = next.options.durable;
        self.commit_as(next, durable)
    }

    /// [`Stage::commit`], that survives a loss of power if `durable`.
    fn commit_as(&self, next: &mut State, durable: bool) -> Result<()> {
        next.durable = durable;
        if next.durable {
            self.sync()?;
        }
        next.boot_id = boot_id()?;
        next.commits += 1;
        next.write(&self.dir)?;
        *self.state.lock() = next.clone();
        for id in std::mem::take(&mut *self.pending.lock()) {
            Record::remove(&self.dir, &id);
        }
        Ok(())
    }

    /// Brings all that was written to the state's disk.
    fn sync(&self) -> Result<()> {
        let dir = at::open_dir(nix::fcntl::AT_FDCWD, &self.dir)?;
        nix::unistd::syncfs(&dir).context(|| format!("syncfs {}", self.dir.display()))
    }
}

fn open_layer(
    sealed: &OwnedFd,
    layers: &Path,
    cache: &Mutex<HashMap<String, Arc<SealedLayer>>>,
    id: &str,
) -> Result<Arc<SealedLayer>> {
    if let Some(layer) = cache.lock().get(id) {
        return Ok(layer.clone());
    }
    let layer = SealedLayer::open(sealed, id)?.writable_at(layers.join(id));
    let layer = Arc::new(layer);
    let mut cache = cache.lock();
    Ok(cache.entry(id.to_owned()).or_insert(layer).clone())
}

fn build_stack(
    base: Option<&Arc<dyn Layer>>,
    sealed: &OwnedFd,
    path: &Path,
    cache: &Mutex<HashMap<String, Arc<SealedLayer>>>,
    ids: &[String],
) -> Result<Stack> {
    let mut layers: Vec<Arc<dyn Layer>> = base.cloned().into_iter().collect();
    for id in ids {
        layers.push(open_layer(sealed, path, cache, id)?);
    }
    Ok(Stack::new(layers))
}

/// Makes the state directory and those of the stage in it, or sees to it that
/// they are as they should be: for root only, and with nothing to hand down. An
/// ACL or a group that came from above would be inherited by all that a view
/// makes (acl(5), inode(7)), and let others at it.
///
/// # Errors
/// As mkdir(2), chmod(2) and removexattr(2), naming the path.
pub fn make_state_dir(dir: &Path) -> Result<()> {
    let make = |dir: &Path| -> Result<()> {
        let mut directory = std::fs::DirBuilder::new();
        directory.recursive(true).mode(0o700).create(dir)?;
        let made = std::fs::File::open(dir)?;
        hand_nothing_down(&made, Path::new(""), 0o700)
    };
    make(dir).context(|| dir.display().to_string())?;
    for name in [LAYERS, VIEWS, journal::DIR, OBJECTS] {
        let dir = dir.join(name);
        make(&dir).context(|| dir.display().to_string())?;
    }
    Ok(())
}
