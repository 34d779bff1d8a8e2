//! Caches that the stage has: what was restored into it or saved of it, and which of
//! its layers show it.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::state::{State, now};
use super::{Failure, Lent, OBJECTS, Stage, failpoint};
use crate::error::{Error, Result};
use crate::layer::Stack;

/// How many caches are remembered, the newest.
const REMEMBERED: usize = 32;

/// One layer of a cache's image, and where the stage has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLink {
    /// The layer of the stage's stack up to which the paths show this layer of the
    /// image and those below it; empty for the base.
    pub top: String,
    /// What the image says of the layer.
    pub layer: Value,
}

/// A cache: the layers of its image, the lowest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheState {
    /// The paths that it holds, as users see them, sorted.
    pub paths: Vec<PathBuf>,
    /// By which wishes something was left out of it, or let through.
    pub filter: String,
    /// Its layers.
    pub links: Vec<CacheLink>,
}

/// A cache, as the stage has it now.
#[derive(Clone, Debug)]
pub struct KnownCache {
    /// The paths that it holds.
    pub paths: Vec<PathBuf>,
    /// By which wishes something was left out of it, or let through.
    pub filter: String,
    /// Its layers, the lowest first.
    pub links: Vec<KnownLink>,
}

/// A layer of a cache's image, in the stack as it is now.
#[derive(Clone, Debug)]
pub struct KnownLink {
    /// As the state has it.
    pub link: CacheLink,
    /// So many layers of the stack show the image up to there.
    pub depth: usize,
}

/// The stage's tree, to be saved.
pub struct ToSave<'a> {
    /// All of it.
    pub stack: Lent<'a>,
    /// Its uppermost layer; empty for the base.
    pub top: String,
    /// Caches that it has.
    pub caches: Vec<KnownCache>,
}

/// Layers that are ready to be placed on the stack.
pub trait Placing {
    /// How many there are.
    fn depth(&self) -> usize;
    /// Seals those that do not depend on the stack as `layers/<id>`, for all ids but
    /// the first.
    ///
    /// # Errors
    /// What the disk reports.
    fn seal(&mut self, layers: &Path, ids: &[String], now: u64) -> Result<()>;
    /// Fits them to the stack, and seals the first. No request is served meanwhile.
    ///
    /// # Errors
    /// What the disk reports.
    fn place(&mut self, stack: &Stack, layers: &Path, ids: &[String], now: u64) -> Result<()>;
}

impl Stage {
    /// The tree as it is now, with everything that was written sealed into it, and
    /// the caches that it has.
    ///
    /// # Errors
    /// What sealing the head or committing it reports.
    pub fn to_save(&self) -> Result<ToSave<'_>, Failure> {
        let _life = self.life.lock();
        self.seal_dirty_head()?;
        let (state, lease) = self.lease(|state| state.stack.clone());
        let own_base = usize::from(self.own_base());
        let depth = |top: &String| match top.as_str() {
            "" => Some(own_base),
            top => Some(state.stack.iter().position(|id| id == top)? + 1 + own_base),
        };
        let known = |cache: &CacheState| {
            let links = cache.links.iter();
            let links = links.map_while(|link| {
                let depth = depth(&link.top)?;
                let link = link.clone();
                Some(KnownLink { link, depth })
            });
            KnownCache {
                paths: cache.paths.clone(),
                filter: cache.filter.clone(),
                links: links.collect(),
            }
        };
        Ok(ToSave {
            stack: Lent::new(self.stage_view.stack(), lease),
            top: state.stack.last().cloned().unwrap_or_default(),
            caches: state.caches.iter().map(known).collect(),
        })
    }

    /// A path that a user sees as the layers have it.
    ///
    /// # Errors
    /// [`Failure::Usage`] for one that is in none of the mapped paths.
    pub fn in_layers(&self, path: &Path) -> Result<PathBuf, Failure> {
        super::named::in_layers(&self.options().mapped, path)
    }

    /// Where files may be made that are on their way into the stage or out of it.
    pub fn objects_dir(&self) -> PathBuf {
        self.dir.join(OBJECTS)
    }

    /// Remembers a cache, in place of what was known of the same paths.
    ///
    /// # Errors
    /// What committing reports.
    pub fn remember_cache(&self, cache: CacheState) -> Result<(), Failure> {
        let _life = self.life.lock();
        let mut next = self.state.lock().clone();
        remember(&mut next, cache);
        if next.caches != self.state.lock().caches {
            self.commit(&mut next)?;
        }
        Ok(())
    }

    /// Puts the layers of a cache onto the stack, in one commit: from then on the
    /// stage shows it, whatever its paths held. `image` says what its layers are, but
    /// the first, which only hides what was there. Returns what the user should know,
    /// a sentence each.
    ///
    /// # Errors
    /// `EBUSY` while something at the paths is open for writing in the stage view;
    /// else what placing them or committing reports. Then the stage is unchanged.
    pub fn push_cache(
        &self,
        cache: &mut dyn Placing,
        places: &[PathBuf],
        (paths, filter, image): (&[PathBuf], &str, &[Value]),
    ) -> Result<(Vec<String>, Vec<String>), Failure> {
        let _life = self.life.lock();
        self.seal_dirty_head()?;
        self.not_busy(places)?;
        let ids: Vec<String> = {
            let mut state = self.state.lock();
            let id = |_| state.new_layer_id("cache");
            (0..cache.depth()).map(id).collect()
        };
        let layers = self.layers_dir();
        let mut stacks = None;
        let pushed = cache.seal(&layers, &ids, now()).map_err(Failure::from);
        let pushed = pushed.and_then(|()| {
            failpoint::hit("cache-before-place");
            self.swap_stage_view(|old| {
                // No request gets in between from here on.
                self.not_busy(places)?;
                cache.place(old, &layers, &ids, now())?;
                let mut next = self.state.lock().clone();
                next.stack.extend(ids.iter().cloned());
                next.together.extend(ids.iter().skip(1).cloned());
                let links = ids.iter().skip(1).zip(image);
                let links = links.map(|(id, layer)| CacheLink {
                    top: id.clone(),
                    layer: layer.clone(),
                });
                let cache = CacheState {
                    paths: paths.to_vec(),
                    filter: filter.to_owned(),
                    links: links.collect(),
                };
                remember(&mut next, cache);
                let new = self.stack_of(&next.stack)?;
                failpoint::hit("cache-before-commit");
                self.commit(&mut next)?;
                stacks = Some((old.clone(), new.clone()));
                Ok(new)
            })
        });
        if let Err(failure) = pushed {
            self.drop_layers(&ids);
            return Err(failure);
        }
        failpoint::hit("cache-after-commit");
        let notes = stacks.and_then(|(old, new)| self.tell_kernel(&old, &new));
        Ok((ids, notes.into_iter().collect()))
    }

    /// That nobody is writing to what is to be replaced.
    fn not_busy(&self, places: &[PathBuf]) -> Result<(), Failure> {
        let busy = self.stage_view.busy();
        let inside = |path: &&PathBuf| places.iter().any(|place| path.starts_with(place));
        let Some(path) = busy.iter().find(inside) else {
            return Ok(());
        };
        let path = super::diff::as_seen(&self.options().mapped, path);
        let text = format!(
            "{} is open for writing outside of steps: what writes there has to end first",
            crate::tree::shown::shown(&path)
        );
        Err(Error::new(Errno::EBUSY, text).into())
    }
}

fn remember(state: &mut State, cache: CacheState) {
    let State { caches, stack, .. } = state;
    let same = |other: &CacheState| other.paths == cache.paths && other.filter == cache.filter;
    let there = |link: &CacheLink| link.top.is_empty() || stack.contains(&link.top);
    caches.retain(|other| !same(other) && other.links.first().is_some_and(there));
    if !cache.links.is_empty() {
        caches.push(cache);
    }
    let many = caches.len().saturating_sub(REMEMBERED);
    caches.drain(..many);
}
