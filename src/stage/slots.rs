//! Slots: directories through which running containers see steps.
//!
//! A slot's directory is a small filesystem of its own, read-only and shared,
//! with an empty place for each mapped path. A container has these places bound
//! as slaves (`rslave`, `HostToContainer`). A view that is mounted on a place is
//! mounted on its copies too, whether the place is below the copy or is its root
//! (propagate_one in fs/pnode.c asks no more), and goes from there with the
//! original. Being a filesystem of its own, it leads to none of the state's files
//! by file handle either (open_by_handle_at(2)).

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::Serialize;

use super::bind;
use super::mapped::normalise;
use super::names;
use super::state::{Phase, Slot, State};
use super::survivors::Guests;
use super::{Failure, Options, Stage};
use crate::error::{Context, Error, Result};
use crate::sys::location::lies_in;
use crate::sys::made::Made;
use crate::sys::mount;
use crate::sys::mountinfo::{self, Mount};
use crate::tree::shown;
use crate::tree::shown::shown as readable;

/// How the source of a slot's filesystem begins; the stage's label follows.
const SOURCE: &str = "harness-fs-slot:";

/// A slot, as `status` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct SlotInfo {
    /// Its name.
    pub name: String,
    /// Its directory.
    #[serde(serialize_with = "shown::serialize")]
    pub dir: PathBuf,
    /// The step that is in it.
    pub step: Option<String>,
}

/// Checks the slots of a stage against the rules, the mapped paths, the state
/// directory, and each other.
///
/// # Errors
/// [`Failure::Usage`] with one sentence; as read(2) for the list of mounts.
pub fn check(slots: &[Slot], mapped: &[PathBuf], state_dir: &Path) -> Result<(), Failure> {
    let mounts = mountinfo::own()?;
    for (index, slot) in slots.iter().enumerate() {
        names::check("slot", &slot.name)?;
        let refuse = |why: String| {
            let text = format!("slot '{}': {} {why}", slot.name, readable(&slot.dir));
            Err(Failure::Usage(text))
        };
        if normalise(&slot.dir).ok().as_ref() != Some(&slot.dir) {
            return refuse("cannot be a slot's directory".to_owned());
        }
        if slots[..index].iter().any(|other| other.name == slot.name) {
            return Err(Failure::Usage(format!(
                "the slot '{}' is given twice",
                slot.name
            )));
        }
        let near =
            |other: &Path| lies_in(&slot.dir, other, &mounts) || lies_in(other, &slot.dir, &mounts);
        if let Some(path) = mapped.iter().find(|path| near(path)) {
            return refuse(format!(
                "and the mapped path {} lie in each other",
                readable(path)
            ));
        }
        if near(state_dir) {
            return refuse(format!(
                "and the state directory {} lie in each other: containers would get at the state",
                readable(state_dir)
            ));
        }
        if let Some(other) = slots[..index].iter().find(|other| near(&other.dir)) {
            return refuse(format!("and the slot '{}' lie in each other", other.name));
        }
    }
    Ok(())
}

/// Makes the slots, or takes up those that a daemon which died has left: they
/// are the ones that running containers have bound.
///
/// Returns sentences that the user should read.
///
/// # Errors
/// One sentence for a directory that is in use; as mount(2). Those that were
/// made before stay.
pub fn open(options: &Options, made: &mut Made) -> Result<Vec<String>, Failure> {
    for slot in &options.slots {
        open_one(slot, options, made)?;
    }
    let mounts = mountinfo::own()?;
    let around: Vec<Mount> = mounts.into_iter().filter(|mount| !is_slot(mount)).collect();
    let unseen = |slot: &&Slot| {
        let around = mountinfo::holding(&around, &slot.dir);
        !around.is_some_and(|mount| mount.shared)
    };
    let unseen = options.slots.iter().filter(unseen);
    let unseen: Vec<_> = unseen.map(|slot| readable(&slot.dir)).collect();
    if unseen.is_empty() {
        return Ok(Vec::new());
    }
    Ok(vec![format!(
        "no mount that is shared holds {}: only containers that are started in this mount namespace see the steps \
         that begin there; for others, a volume that is bound as rshared has to be there",
        unseen.join(", ")
    )])
}

fn open_one(slot: &Slot, options: &Options, made: &mut Made) -> Result<(), Failure> {
    let refuse = |why: &str| {
        let text = format!("slot '{}': {} {why}", slot.name, readable(&slot.dir));
        Err(Failure::Failed(Error::new(Errno::EBUSY, text)))
    };
    let label = options.name.as_str();
    let source = format!("{SOURCE}{label}");
    let places = slot.places(&options.mapped);
    let mounts = mountinfo::own()?;
    let top = mounts.iter().rfind(|mount| mount.at == slot.dir);
    if let Some(stage) = top.and_then(stage_of) {
        if stage != label {
            return refuse(&format!(
                "is a slot of the stage '{stage}', which `harness-fs unmount` ends"
            ));
        }
        bind::unbind(&places)?;
        if fits(&places, options) {
            return Ok(());
        }
        mount::detach(&slot.dir)?;
    }
    // Above it only for root: what is in the slot is not for every user of this machine to see.
    made.dir(&slot.dir, 0o755, 0o700)?;
    let mut there = std::fs::read_dir(&slot.dir).context(|| slot.dir.display().to_string())?;
    if there.next().is_some() {
        return refuse("is not empty: choose another directory, or empty it");
    }
    let names = options.mapped.iter().map(|path| path.components().count());
    // The root of a path counts as the root of the filesystem.
    mount::small(&source, &slot.dir, names.sum(), || {
        let mut filled = Made::default();
        for (place, path) in places.iter().zip(&options.mapped) {
            if options.single_files.contains(path) {
                filled.file(place, 0o444, 0o555)?;
            } else {
                filled.dir(place, 0o555, 0o555)?;
            }
        }
        filled.keep();
        Ok(())
    })?;
    Ok(())
}

/// Whether a slot that is there has the places that it should have.
fn fits(places: &[PathBuf], options: &Options) -> bool {
    let fits = |(place, path): (&PathBuf, &PathBuf)| {
        let is_file = options.single_files.contains(path);
        place
            .symlink_metadata()
            .is_ok_and(|there| there.is_file() == is_file)
    };
    places.iter().zip(&options.mapped).all(fits)
}

/// The label of the stage whose slot is mounted there.
fn stage_of(mount: &Mount) -> Option<&str> {
    let source = mount.source.to_str().filter(|_| mount.kind == "tmpfs")?;
    source.strip_prefix(SOURCE)
}

/// Whether it is a slot, of whatever stage.
pub fn is_slot(mount: &Mount) -> bool {
    stage_of(mount).is_some()
}

/// Takes away the slots of a stage, from all containers too.
///
/// # Errors
/// As read(2) on the list of mounts, and umount2(2); all are tried.
pub fn close(label: &str) -> Result<()> {
    let mounts = mountinfo::own()?;
    let ours = |mount: &&Mount| stage_of(mount) == Some(label);
    let mut result = Ok(());
    for slot in mounts.iter().rev().filter(ours) {
        result = result.and(mount::detach(&slot.at));
    }
    result
}

impl Stage {
    /// The slot that a step is to be in, and the places where it is to be shown.
    ///
    /// # Errors
    /// [`Failure::NotFound`] without such a slot, [`Failure::Usage`] if another
    /// step is in it, `ENOENT` if somebody has unmounted it.
    pub(super) fn slot_for(
        &self,
        step: &str,
        slot: Option<&str>,
    ) -> Result<Option<(String, Vec<PathBuf>)>, Failure> {
        let Some(slot) = slot else {
            return Ok(None);
        };
        let known = self.known_slot(slot)?;
        let state = self.state.lock().clone();
        if let Some(step) = step_in(slot, &state).filter(|there| *there != step) {
            let text =
                format!("step '{step}' is in the slot '{slot}'; merge, keep or discard it first");
            return Err(Failure::Usage(text));
        }
        let mounts = mountinfo::own()?;
        if !mounts
            .iter()
            .any(|mount| mount.at == known.dir && is_slot(mount))
        {
            let text = format!(
                "slot '{slot}': {} was unmounted; `unmount --keep-state` and `mount --resume` bring it back",
                readable(&known.dir)
            );
            return Err(Error::new(Errno::ENOENT, text).into());
        }
        Ok(Some((slot.to_owned(), known.places(&state.options.mapped))))
    }

    /// A slot of the stage.
    ///
    /// # Errors
    /// [`Failure::NotFound`], naming those that there are.
    pub(super) fn known_slot(&self, slot: &str) -> Result<Slot, Failure> {
        let slots = self.options().slots;
        if let Some(known) = slots.iter().find(|known| known.name == slot) {
            return Ok(known.clone());
        }
        let names: Vec<&str> = slots.iter().map(|slot| &*slot.name).collect();
        let has = match names.is_empty() {
            true => "it was mounted without --slot".to_owned(),
            false => format!("it has {}", names.join(", ")),
        };
        let text = format!("the stage has no slot '{slot}': {has}");
        Err(Failure::NotFound(text))
    }

    /// Takes open steps out of their slots, so that no container sees them any
    /// more; they stay open. Returns the containers that did.
    ///
    /// # Errors
    /// As umount2(2).
    pub fn leave_slots(&self, steps: &[String]) -> Result<Guests> {
        if self.options().slots.is_empty() {
            return Ok(Guests::default());
        }
        // Or a step that begins in the slot of one that has just ended would be taken out.
        let _life = self.life.lock();
        let running = self.running.lock().clone();
        let of_steps = running.iter().filter(|(name, _)| steps.contains(name));
        let places = of_steps.flat_map(|(_, view)| view.shown_at.clone());
        let places: Vec<PathBuf> = places.collect();
        let guests = Guests::of(&places)?;
        bind::unbind(&places)?;
        Ok(guests)
    }

    /// Brings those steps back into their slots that are still open.
    pub fn return_to_slots(&self, steps: &[String]) {
        let _life = self.life.lock();
        let running = self.running.lock().clone();
        let state = self.state.lock().clone();
        for (name, view) in running.iter().filter(|(name, _)| steps.contains(name)) {
            let private = state.steps.get(name).map(|step| step.private.as_slice());
            let live = state.options.live(private.unwrap_or_default());
            let back = bind::unbind(&view.shown_at)
                .and_then(|()| self.show_at(&view.mount, &live, &view.shown_at));
            if let Err(error) = back {
                log::error!("step '{name}' is shown in its slot no more: {error}");
            }
        }
    }

    /// Shows a view at its places in a slot; at those of the paths that steps share
    /// live, the stage's own.
    ///
    /// # Errors
    /// As [`bind::bind_mapped`].
    pub(super) fn show_at(&self, view: &Path, live: &[PathBuf], places: &[PathBuf]) -> Result<()> {
        let mapped = self.state.lock().options.mapped.clone();
        let stage = names::stage_mount(&self.dir);
        let shown = |index: usize| match live.contains(&mapped[index]) {
            true => stage.as_path(),
            false => view,
        };
        bind::bind_each(shown, places)
    }

    /// The directories of the slots.
    pub(super) fn slot_dirs(state: &State) -> impl Iterator<Item = PathBuf> {
        state.options.slots.iter().map(|slot| slot.dir.clone())
    }
}

/// The slots of a stage.
pub(super) fn infos(state: &State) -> Vec<SlotInfo> {
    let info = |slot: &Slot| SlotInfo {
        name: slot.name.clone(),
        dir: slot.dir.clone(),
        step: step_in(&slot.name, state).cloned(),
    };
    state.options.slots.iter().map(info).collect()
}

fn step_in<'a>(slot: &str, state: &'a State) -> Option<&'a String> {
    let mut steps = state.steps.iter();
    let there =
        steps.find(|(_, step)| step.state == Phase::Open && step.slot.as_deref() == Some(slot));
    there.map(|(name, _)| name)
}
