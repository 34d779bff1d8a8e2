//! The stage that a file is run in: one that is there, or one of its own for the run.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::cli::mount;
use crate::cli::output::{Trouble, expect_report, note, unexpected};
use crate::cli::place::{Place, absolute};
use crate::control::{ExportRequest, Reply, Request, WhereStage, find};
use crate::daemon::Ready;
use crate::error::Context;
use crate::export::{check_layout, target};
use crate::merge::SharingMode;
use crate::stage::PolicyRule;
use crate::stagefile::Stage;
use crate::tree::shown::{path_of, shown};

/// What becomes of the stage's tree at the end.
#[derive(Clone, Debug, Default)]
pub struct Afterwards {
    /// It is written into this directory.
    pub apply: Option<PathBuf>,
    /// With every mapped path, below its own name.
    pub all: bool,
    /// What is there besides may be removed.
    pub replace: bool,
    /// It is exported into this directory.
    pub export: Option<PathBuf>,
    /// The stage stays mounted.
    pub keep: bool,
}

/// A stage that is mounted.
#[derive(Debug)]
pub struct Mounted {
    place: Place,
    /// It was mounted for this run.
    own: bool,
    afterwards: Afterwards,
    /// Where to write to, checked.
    apply: Option<PathBuf>,
    stays: bool,
}

impl Mounted {
    /// Finds the stage, or mounts one with what the file says.
    ///
    /// # Errors
    /// A stage with other paths than those of the file; what keeps one from being mounted, or
    /// the directories from being written to at the end.
    pub fn find_or_mount(
        stage: &Stage,
        place: &Place,
        afterwards: &Afterwards,
    ) -> Result<Mounted, Trouble> {
        let own = match find(&place.state_dir) {
            WhereStage::Socket => {
                fits(stage, place)?;
                false
            }
            _ => {
                mount(stage, place)?;
                true
            }
        };
        let mut mounted = Mounted {
            place: place.clone(),
            own,
            afterwards: afterwards.clone(),
            apply: None,
            stays: true,
        };
        match mounted.check_targets() {
            Ok(()) => Ok(mounted),
            Err(trouble) => {
                if own {
                    mounted.unmount(None)?;
                }
                Err(trouble)
            }
        }
    }

    /// What messages call it.
    pub fn label(&self) -> &str {
        &self.place.label
    }

    /// Whether it is still mounted.
    pub fn stays(&self) -> bool {
        self.stays
    }

    /// Whether it ends with this run.
    pub fn goes(&self) -> bool {
        self.own && !self.afterwards.keep
    }

    fn check_targets(&mut self) -> Result<(), Trouble> {
        let wanted = &self.afterwards;
        if let Some(dir) = &wanted.apply {
            let mut client = self.place.connect()?;
            let (all, replace) = (wanted.all, wanted.replace);
            let real = self.place.to_replace(&mut client, dir, all, replace)?;
            if !self.own || wanted.keep {
                self.can_apply(&real, all)?;
            }
            self.apply = Some(real);
        }
        if let Some(dir) = &wanted.export {
            let to = absolute(dir)?;
            check_export(&to)?;
            let (_, status) = expect_report(self.place.status()?, false)?;
            let real = target::settle(&to)?;
            if let Some(path) = list(&status["mapped"])
                .into_iter()
                .find(|path| real.starts_with(path))
            {
                return Err(Trouble::new(
                    2,
                    format!(
                        "--export {}: it lies inside the mapped path {}: choose a directory outside of the stage",
                        shown(&to),
                        shown(&path)
                    ),
                ));
            }
            self.afterwards.export = Some(to);
        }
        Ok(())
    }

    /// Says that the stage is there, and with it what its steps have made, though that could
    /// not be written.
    pub fn tell_what_stays(&self) {
        if self.own && self.stays && matches!(find(&self.place.state_dir), WhereStage::Socket) {
            note(&format!(
                "the stage '{}' stays mounted with what its steps made: `harness-fs unmount --apply DIR` or \
                 `harness-fs snapshot create` and `export` write it elsewhere, `harness-fs unmount` discards it",
                self.place.label
            ));
        }
    }

    /// Into a mapped path only the end of a stage can write.
    fn can_apply(&self, dir: &std::path::Path, all: bool) -> Result<(), Trouble> {
        let (_, status) = expect_report(self.place.status()?, false)?;
        let mapped = status["mapped"].as_array().into_iter().flatten();
        let mut mapped = mapped.filter_map(|path| path.as_str().map(path_of));
        if mapped.any(|path| dir.starts_with(&path)) || all && dir == std::path::Path::new("/") {
            return Err(Trouble::new(
                2,
                format!(
                    "--apply {}: the stage stays mounted there; `harness-fs unmount --apply` writes it when it ends",
                    shown(dir)
                ),
            ));
        }
        Ok(())
    }

    /// Writes and exports the tree as was asked for, if the stage succeeded, and ends a stage
    /// that was mounted for the run.
    ///
    /// # Errors
    /// What could not be written; then the stage stays mounted.
    pub fn finish(&mut self, stage: &Stage, succeeded: bool) -> Result<(), Trouble> {
        let apply = self.apply.take();
        if !succeeded && (apply.is_some() || self.afterwards.export.is_some()) {
            note("the stage did not succeed, so nothing is written or exported");
        }
        if succeeded && let Some(to) = self.afterwards.export.take() {
            self.export(stage, to)?;
        }
        let apply = apply.filter(|_| succeeded);
        if !self.goes() {
            if let Some(dir) = apply {
                let all = self.afterwards.all;
                let reply = self.place.ask(&Request::Apply { dir, all })?;
                note(&expect_report(reply, false)?.0);
            }
            if self.own {
                note(&format!(
                    "the stage '{}' stays mounted; `harness-fs unmount` ends it",
                    self.place.label
                ));
            }
            return Ok(());
        }
        self.unmount(apply)
    }

    fn export(&self, stage: &Stage, to: PathBuf) -> Result<(), Trouble> {
        let name = format!("{}-end", stage.identifier);
        let there = Request::SnapshotRm { name: name.clone() };
        // One of an earlier run.
        let _ = self.place.ask(&there)?;
        let made = self
            .place
            .ask(&Request::SnapshotCreate { name: name.clone() })?;
        expect_report(made, false)?;
        let request = Request::Export(ExportRequest {
            snapshot: name,
            to,
            without_base: false,
            allow_secret: Vec::new(),
            compat: None,
        });
        note(&expect_report(self.place.ask(&request)?, false)?.0);
        Ok(())
    }

    fn unmount(&mut self, apply: Option<PathBuf>) -> Result<(), Trouble> {
        // Not to be in the way ourselves.
        std::env::set_current_dir("/").context(|| "/")?;
        let mut client = self.place.connect()?;
        let request = Request::Unmount {
            keep_state: false,
            all: apply.is_some() && self.afterwards.all,
            apply,
        };
        match client.ask(&request)? {
            Reply::Report { text, .. } => {
                self.stays = false;
                note(&text);
                if client.wait_for_the_end() {
                    return Ok(());
                }
                let text = "the stage is unmounted, but its daemon does not end";
                Err(Trouble::new(1, text))
            }
            other => Err(unexpected(other, false)),
        }
    }
}

/// Sees that an export can go there, before it has taken hours to make what is exported.
fn check_export(to: &Path) -> Result<(), Trouble> {
    check_layout(to).map_err(|error| Trouble::new(2, format!("--export {}: {error}", shown(to))))
}

fn mount(stage: &Stage, place: &Place) -> Result<(), Trouble> {
    let shared = stage.shared_paths.iter();
    let shared = shared.map(|shared| (shared.path.clone(), shared.mode));
    let rules = stage.workspace.policies.iter().map(|rule| PolicyRule {
        pattern: rule.pattern.clone(),
        policy: rule.policy,
    });
    let arguments = mount::Arguments::of(stage.workspace.path.clone(), shared.collect());
    let arguments = arguments.policies(rules.collect(), stage.workspace.keep_both_as.clone());
    match mount::start_daemon(&arguments, place)? {
        Ready::No { code, message } => Err(Trouble::new(code, message)),
        Ready::Yes { notes, .. } => {
            notes.iter().for_each(|text| note(text));
            Ok(())
        }
    }
}

/// Whether the stage that is mounted has the paths of the file.
fn fits(stage: &Stage, place: &Place) -> Result<(), Trouble> {
    let (_, status) = expect_report(place.status()?, false)?;
    let mapped = list(&status["mapped"]);
    let refuse = |what: String| {
        let text = format!("the stage '{}' is mounted, and {what}", place.label);
        Err(Trouble::new(2, text))
    };
    let workspace = &stage.workspace.path;
    if mapped.first() != Some(workspace) {
        let other = mapped
            .first()
            .map_or(String::new(), |path| shown(path).into_owned());
        return refuse(format!(
            "its workspace is {other}, not {}: --workspace {other} runs the file there",
            shown(workspace)
        ));
    }
    let mut wanted = stage.shared_paths.iter().map(|shared| &shared.path);
    if let Some(missing) = wanted.find(|path| !mapped.contains(path)) {
        return refuse(format!(
            "{} is not among its shared paths: mount it with `--shared-path {0}`, or leave it out of the file",
            shown(missing)
        ));
    }
    for path in &stage.shared_paths {
        let mode = mode_of(&status, &path.path);
        if mode != path.mode.as_str() {
            let (name, wanted) = (shown(&path.path), path.mode.as_str());
            return refuse(format!(
                "{name} is {mode} there, and {wanted} in the file: mount it with `--sharing {name}={wanted}`"
            ));
        }
    }
    if !stage.workspace.policies.is_empty() {
        note(
            "the stage is mounted already: conflicts are decided by the policies it was mounted with, not by those of the file",
        );
    }
    Ok(())
}

/// The mode of a shared path in a stage's status.
fn mode_of<'a>(status: &'a Value, path: &Path) -> &'a str {
    let mode = status["sharing"][shown(path).as_ref()].as_str();
    mode.unwrap_or(SharingMode::Merge.as_str())
}

fn list(paths: &Value) -> Vec<PathBuf> {
    let paths = paths.as_array().into_iter().flatten();
    paths
        .filter_map(|path| path.as_str().map(path_of))
        .collect()
}
