//! Requests from the socket, carried out on the stage.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::holder::{Holder, Lease};
use super::open_steps::Steps;
use super::queue::{Queue, Waiting};
use super::{StateLock, end, render};
use crate::control::{
    Connection, ExportRequest, Handler, PROTOCOL, Reply, Request, SOCKET, STEP_SOCKET, VERSION,
};
use crate::error::Error;
use crate::export::{self, ApplyReport, ExportOptions, Wanted, target};
use crate::stage::{Beginning, Failure, Overrides, Stage};
use crate::sys::location::lies_in;
use crate::sys::mountinfo;
use crate::tree::shown::shown;

/// How long requests in flight may take once `unmount` was asked for.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(600);
/// How long processes in steps may take then.
const UNMOUNT_GRACE: Duration = Duration::from_secs(10);

/// Carries out requests on one stage.
pub struct Requests {
    /// The stage, until it ends.
    pub stage: Holder<Stage>,
    /// Its mapped paths.
    pub mapped: Vec<PathBuf>,
    state_dir: PathBuf,
    /// The steps that processes may be in.
    pub steps: Steps,
    /// Whose turn it is at locked paths.
    pub queue: Queue,
    /// The process that watches over this one.
    pub supervisor: i32,
    started: Instant,
    ending: AtomicBool,
    /// What may take longer than a signal leaves time for is given up.
    hurried: AtomicBool,
    /// The exit code, once `unmount` has ended the stage.
    ended: Mutex<Option<u8>>,
    _lock: StateLock,
}

/// The exit code for a failure.
pub fn code_of(failure: &Failure) -> u8 {
    match failure {
        Failure::Failed(_) => 1,
        Failure::Usage(_) => 2,
        Failure::NotFound(_) => 3,
        Failure::Conflict(_) => 4,
    }
}

/// A failure as a reply.
pub fn refusal(failure: &Failure) -> Reply {
    let (message, data) = match failure {
        Failure::Conflict(report) => (render::conflict(report), json!(report)),
        other => (other.to_string(), Value::Null),
    };
    if let Failure::Failed(error) = failure {
        log::log!(error.level().min(log::Level::Info), "{error}");
    }
    let code = code_of(failure);
    Reply::Failure {
        code,
        message,
        data,
    }
}

fn being_unmounted() -> Failure {
    Error::new(Errno::ESHUTDOWN, "the stage is being unmounted").into()
}

/// Adds the steps that wait for their turn to those that there are.
fn add_waiting(steps: &mut Value, waiting: &[Waiting]) -> Result<(), Error> {
    for one in waiting {
        let step = json!({
            "name": one.name,
            "state": "waiting",
            "layer": null,
            "started": one.since,
            "ended": null,
            "group": null,
            "exit": null,
            "reason": null,
            "waits_for": serde_json::to_value(&one.waits_for)?,
        });
        if let Value::Array(steps) = &mut *steps {
            steps.push(step);
        }
    }
    Ok(())
}

impl Requests {
    /// Serves this stage; `lock` is held until it ends.
    pub fn new(stage: Stage, mapped: Vec<PathBuf>, lock: StateLock, supervisor: i32) -> Requests {
        Requests {
            state_dir: stage.state_dir().to_path_buf(),
            stage: Holder::new(stage),
            mapped,
            steps: Steps::default(),
            queue: Queue::default(),
            supervisor,
            started: Instant::now(),
            ending: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            ended: Mutex::new(None),
            _lock: lock,
        }
    }

    /// The stage, for one request.
    ///
    /// # Errors
    /// One sentence once the stage is ending.
    pub fn stage(&self) -> Result<Lease<'_, Stage>, Failure> {
        self.stage.lend().ok_or_else(being_unmounted)
    }

    /// The stage, for a request that brings processes into a step.
    ///
    /// # Errors
    /// One sentence once somebody has begun to end the stage.
    pub fn stage_to_enter(&self) -> Result<Lease<'_, Stage>, Failure> {
        // In this order: the end waits for who has it lent.
        let stage = self.stage()?;
        if self.is_ending() {
            return Err(being_unmounted());
        }
        Ok(stage)
    }

    /// The mount points of views that steps have processes in.
    pub fn views(&self) -> Vec<PathBuf> {
        self.steps.views()
    }

    /// Claims the end for the caller; false if somebody else has it.
    pub fn start_ending(&self) -> bool {
        let first = !self.ending.swap(true, Ordering::AcqRel);
        if first {
            self.queue.close();
        }
        first
    }

    /// Whether what may take long is to go on for this client.
    ///
    /// # Errors
    /// `ECANCELED` with one sentence if not.
    pub(super) fn wanted(&self, connection: &Connection) -> Result<(), Error> {
        let text = if connection.given_up() {
            "the command that asked for it is gone"
        } else if self.hurried.load(Ordering::Acquire) {
            "the daemon was told to end"
        } else {
            return Ok(());
        };
        Err(Error::new(Errno::ECANCELED, text))
    }

    /// The daemon has to end within seconds: gives up what may take longer.
    pub fn hurry(&self) {
        self.hurried.store(true, Ordering::Release);
    }

    /// Whether somebody has claimed the end.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Gives the end back.
    pub fn stop_ending(&self) {
        self.ending.store(false, Ordering::Release);
        self.queue.open();
    }

    /// The exit code if `unmount` has ended the stage.
    pub fn ended(&self) -> Option<u8> {
        *self.ended.lock()
    }

    /// From here on commands find no daemon, not a dead one.
    pub fn remove_socket(&self, state_dir: &Path) {
        for socket in [SOCKET, STEP_SOCKET] {
            let _ = std::fs::remove_file(state_dir.join(socket));
        }
    }

    /// What lies inside the stage cannot be written to from outside of it: the
    /// copy would become part of what is copied. Nor can what lies beside its
    /// layers, which a tree would replace.
    fn outside(&self, dir: &Path) -> Result<(), Failure> {
        let settled =
            |dir: &Path| target::settle(dir).map_err(|error| Failure::Usage(error.to_string()));
        let (real, state_dir) = (settled(dir)?, settled(&self.state_dir)?);
        let mounts = mountinfo::own()?;
        if lies_in(&real, &state_dir, &mounts) {
            return Err(Failure::Usage(format!(
                "{} lies inside the state directory {}, which goes with the stage: choose another one",
                shown(dir),
                shown(&self.state_dir)
            )));
        }
        let mut mapped = self.mapped.iter();
        let Some(mapped) = mapped.find(|mapped| lies_in(&real, mapped, &mounts)) else {
            return Ok(());
        };
        let how = match real.starts_with(mapped) {
            true => "",
            false => ", which a mount shows there too",
        };
        Err(Failure::Usage(format!(
            "{} lies inside the mapped path {}{how}: choose a directory outside of the stage",
            dir.display(),
            mapped.display()
        )))
    }

    /// [`Requests::outside`] for each place that `apply --all` writes to.
    fn all_outside(&self, dir: &Path) -> Result<(), Failure> {
        self.outside(dir)?;
        let inner = |path: &PathBuf| dir.join(path.strip_prefix("/").unwrap_or(path));
        let mut places = self.mapped.iter().map(inner);
        places.try_for_each(|place| self.outside(&place))
    }

    /// What an `unmount --apply` writes to where it came from; `None` if it goes
    /// elsewhere.
    fn in_place(&self, dir: &Path, all: bool) -> Result<Option<end::InPlaceOf>, Failure> {
        if all && dir == Path::new("/") {
            return Ok(Some(end::InPlaceOf::All));
        }
        if all {
            return self.all_outside(dir).map(|()| None);
        }
        if self
            .mapped
            .first()
            .is_some_and(|workspace| workspace == dir)
        {
            return Ok(Some(end::InPlaceOf::Workspace));
        }
        self.outside(dir).map(|()| None)
    }

    fn carry_out(&self, request: Request, connection: &mut Connection) -> Result<Reply, Failure> {
        match request {
            Request::Status {} => self.status(),
            Request::Unmount {
                keep_state,
                apply,
                all,
            } => self.unmount(keep_state, apply.as_deref(), all, connection),
            Request::StepRun(run) => super::runs::run(self, run, connection),
            Request::StepExec { step } => {
                super::steps::exec(self, &step, String::new(), connection)
            }
            Request::StepShell { step, grace_ms } => {
                super::shell::shell(self, &step, Duration::from_millis(grace_ms), connection)
            }
            Request::StepEnded(_) => {
                let text = "no command is running on this connection".to_owned();
                Err(Failure::Usage(text))
            }
            Request::StepBegin {
                step,
                tied,
                like,
                after,
                private,
                slot,
            } => {
                let beginning = Beginning {
                    start: super::steps::start(like, after)?,
                    private,
                    slot,
                };
                super::steps::begin(self, &step, &beginning, tied, connection)
            }
            Request::StepReset { step, grace_ms } => {
                super::steps::reset(self, &step, Duration::from_millis(grace_ms))
            }
            Request::StepBackground { step, grace_ms } => {
                super::background::run(self, &step, Duration::from_millis(grace_ms), connection)
            }
            Request::StepStop { step, grace_ms } => {
                super::background::stop(self, &step, Duration::from_millis(grace_ms), connection)
            }
            Request::StepMerge {
                steps,
                on_conflict,
                keep_both_as,
                each,
                strict,
                grace_ms,
            } => {
                let all = Overrides {
                    on_conflict,
                    keep_both_as,
                    only: Vec::new(),
                    strict,
                };
                let grace = Duration::from_millis(grace_ms);
                super::steps::merge(self, &steps, &all, each, grace)
            }
            Request::StepSeal {
                step,
                only,
                grace_ms,
            } => super::steps::seal(self, &step, &only, Duration::from_millis(grace_ms)),
            Request::StepKeep {
                step,
                exit_code,
                grace_ms,
            } => super::steps::keep(self, &step, exit_code, Duration::from_millis(grace_ms)),
            Request::StepDiscard { step, grace_ms } => {
                super::steps::discard(self, &step, Duration::from_millis(grace_ms))
            }
            Request::StepList { reads: true } => {
                let races = self.stage()?.races()?;
                Ok(Reply::report(render::all_races(&races), &races))
            }
            Request::StepList { reads: false } => {
                let stage = self.stage()?;
                let (steps, (keep, made_way)) = (
                    [stage.steps(), stage.background_steps()].concat(),
                    stage.room(),
                );
                let waiting = self.queue.waiting();
                let text = render::steps(&steps)
                    + &render::waiting(&waiting)
                    + &render::made_way(keep, &made_way);
                let mut data = serde_json::to_value(&steps).map_err(Error::from)?;
                add_waiting(&mut data, &waiting)?;
                Ok(Reply::Report { text, data })
            }
            Request::GroupClose { group } => {
                let report = self.stage()?.close_group(&group)?;
                Ok(Reply::report(render::merged(&report), &report))
            }
            Request::GroupRemove { group } => {
                self.stage()?.remove_group(&group)?;
                Ok(Reply::done())
            }
            Request::GroupDeclare {
                group,
                members,
                if_one_fails,
            } => {
                self.stage()?
                    .declare_group_as(&group, &members, if_one_fails)?;
                Ok(Reply::done())
            }
            Request::GroupAbort { group } => super::abort::abort(self, &group, connection),
            Request::Diff { of } => {
                let lines = self.stage()?.diff(of.as_deref())?;
                Ok(Reply::report(render::diff(&lines), &lines))
            }
            Request::Log {} => {
                let layers = self.stage()?.log()?;
                Ok(Reply::report(render::log(&layers), &layers))
            }
            Request::Show { layer } => {
                let report = self.stage()?.show(&layer)?;
                Ok(Reply::report(render::show(&report), &report))
            }
            Request::Blame { path } => {
                let lines = self.stage()?.blame(&path)?;
                Ok(Reply::report(render::blame(&lines), &lines))
            }
            Request::Cat { layer, path } => self.cat(&layer, &path, connection),
            Request::CacheSave(request) => self.cache_save(request, connection),
            Request::CacheFiles { count } => self.cache_files(count, connection),
            Request::CacheRestore(request) => self.cache_restore(&request, connection),
            other => self.snapshot(other, connection),
        }
    }

    fn snapshot(&self, request: Request, connection: &Connection) -> Result<Reply, Failure> {
        let stage = self.stage()?;
        match request {
            Request::SnapshotCreate { name } => {
                let (made, cost) = stage.snapshot_create_told(&name)?;
                render::with_cost(&made, cost)
            }
            Request::SnapshotList {} => {
                let list = stage.snapshot_list();
                Ok(Reply::report(render::snapshots(&list), &list))
            }
            Request::SnapshotRm { name } => {
                stage.snapshot_rm(&name)?;
                Ok(Reply::done())
            }
            Request::SnapshotRestore { name } => {
                let report = stage.snapshot_restore(&name)?;
                Ok(Reply::report(render::restored(&report), &report))
            }
            Request::Rollback { layer } => {
                let report = stage.rollback(&layer)?;
                Ok(Reply::report(render::rolled_back(&report), &report))
            }
            Request::Export(request) => self.export(&stage, request, connection),
            Request::Apply { dir, all } => self.apply(&stage, &dir, all, connection),
            _ => Err(Failure::Usage("no such request".to_owned())),
        }
    }

    fn export(
        &self,
        stage: &Stage,
        request: ExportRequest,
        connection: &Connection,
    ) -> Result<Reply, Failure> {
        self.outside(&request.to)?;
        let (stack, _) = stage.stack_of_snapshot(&request.snapshot)?;
        let own_base = stage.own_base();
        let options = ExportOptions {
            name: request.snapshot,
            with_base: !request.without_base,
            allow_secret: request.allow_secret,
            compat: request.compat,
            threads: None,
        };
        let wanted = || self.wanted(connection);
        let report = export::export(
            &stack,
            own_base,
            &self.mapped,
            &request.to,
            options,
            &wanted,
        )?;
        Ok(Reply::report(render::exported(&report), &report))
    }

    fn apply(
        &self,
        stage: &Stage,
        dir: &Path,
        all: bool,
        connection: &Connection,
    ) -> Result<Reply, Failure> {
        match all {
            true => self.all_outside(dir)?,
            false => self.outside(dir)?,
        }
        let report = self.applied(stage, dir, all, &|| self.wanted(connection))?;
        Ok(Reply::report(render::applied(&report), &report))
    }

    /// Writes the tree as it is now.
    ///
    /// # Errors
    /// As [`export::apply`].
    pub fn applied(
        &self,
        stage: &Stage,
        dir: &Path,
        all: bool,
        wanted: Wanted<'_>,
    ) -> Result<ApplyReport, Failure> {
        let stack = stage.current_stack()?;
        Ok(match all {
            true => export::apply_all(&stack, &self.mapped, dir, wanted)?,
            false => export::apply(&stack, &self.mapped, dir, wanted)?,
        })
    }

    fn status(&self) -> Result<Reply, Failure> {
        let status = self.stage()?.status();
        let uptime = self.started.elapsed().as_secs();
        let mut data = serde_json::to_value(&status).map_err(Error::from)?;
        if let Value::Object(fields) = &mut data {
            let daemon = json!({
                "pid": nix::unistd::getpid().as_raw(),
                "supervisor": self.supervisor,
                "version": VERSION,
                "protocol": PROTOCOL,
                "uptime_seconds": uptime,
            });
            fields.insert("daemon".to_owned(), daemon);
        }
        let waiting = self.queue.waiting();
        add_waiting(&mut data["steps"], &waiting)?;
        let text = render::status(&status, uptime, &waiting);
        Ok(Reply::Report { text, data })
    }

    fn unmount(
        &self,
        keep_state: bool,
        apply: Option<&Path>,
        all: bool,
        connection: &mut Connection,
    ) -> Result<Reply, Failure> {
        let apply = match apply {
            Some(dir) => Some(match self.in_place(dir, all)? {
                Some(_) if keep_state => {
                    let text = "--keep-state keeps nothing that could be resumed when the tree \
                                is written to where it came from: leave out one of both";
                    return Err(Failure::Usage(text.to_owned()));
                }
                Some(of) => end::Apply::InPlace(of),
                None => end::Apply::Elsewhere {
                    dir: dir.to_path_buf(),
                    all,
                },
            }),
            None => None,
        };
        let how = end::How {
            keep_state,
            apply,
            grace: UNMOUNT_GRACE,
            patience: UNMOUNT_PATIENCE,
        };
        match end::end(self, how) {
            Ok((report, applied)) => {
                *self.ended.lock() = Some(0);
                let mut text = applied.as_ref().map(render::applied).unwrap_or_default();
                text.push_str(&render::ended(&report));
                let data = json!({ "ended": report, "applied": applied });
                let _ = connection.answer(&Reply::Report { text, data });
            }
            Err(end::NotEnded::ByOther) => {
                let text = "the stage is being unmounted already";
                return Err(Error::new(Errno::EALREADY, text).into());
            }
            Err(end::NotEnded::Failed(failure)) => {
                if self.stage.lend().is_some() {
                    return Err(failure);
                }
                *self.ended.lock() = Some(1);
                let _ = connection.answer(&refusal(&failure));
            }
        }
        // Wakes the thread that waits for signals; it finds the stage ended.
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGTERM);
        Ok(Reply::done())
    }
}

impl Handler for Requests {
    fn handle(&self, request: Request, connection: &mut Connection) -> Reply {
        self.carry_out(request, connection)
            .unwrap_or_else(|failure| refusal(&failure))
    }

    fn left(&self, connection: u64) {
        super::steps::left(self, connection);
    }
}
