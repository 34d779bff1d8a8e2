//! What a user's word for a layer, or for a moment of the stage, means.

use std::path::{Path, PathBuf};

use super::diff::as_layered;
use super::merge::{JOIN, MERGED};
use super::state::{Phase, State};
use super::{Failure, Stage};
use crate::error::Result;
use crate::layer::Stack;
use crate::tree::shown::shown;

/// What the lowest layer is called: what the mapped paths held.
pub(super) const BASE: &str = "base";
/// So many layers that an ambiguous word may mean are named.
const EXAMPLES: usize = 4;

/// A layer, and a stack that has it on top.
pub(super) struct Meant {
    /// Its id, or `base`.
    pub id: String,
    /// It and the layers below it, the lowest first, without the base.
    pub up_to: Vec<String>,
    /// The one right above it there.
    next: Option<String>,
    /// It was named by the step that made it.
    by_step: bool,
}

impl Meant {
    /// Whether it is the base.
    pub fn is_base(&self) -> bool {
        self.up_to.is_empty()
    }
}

impl Stage {
    /// The layer that is meant by an id, the beginning of only one id, or the
    /// name of a step: its newest layer. `step:NAME` is a step in any case.
    ///
    /// # Errors
    /// [`Failure::NotFound`] for a word that means none, [`Failure::Usage`] for
    /// one that can mean several, or what opening the layers reports.
    pub(super) fn meant(&self, state: &State, word: &str) -> Result<Meant, Failure> {
        if word == BASE {
            return self.base_meant(state);
        }
        if let Some(meant) = exactly(state, word, false) {
            return Ok(meant);
        }
        let step = word.strip_prefix("step:").unwrap_or(word);
        for name in [word, step] {
            if let Some(id) = self.newest_of(state, name)?
                && let Some(meant) = exactly(state, &id, true)
            {
                return Ok(meant);
            }
        }
        let mut begun: Vec<&String> = state.layers().filter(|id| id.starts_with(word)).collect();
        begun.sort();
        begun.dedup();
        let only = match begun[..] {
            [id] if !word.is_empty() => exactly(state, id, false),
            _ => None,
        };
        match only {
            Some(meant) => Ok(meant),
            None if begun.is_empty() => Err(Failure::NotFound(no_layer(state, step))),
            None => {
                let some: Vec<&str> = begun.iter().take(EXAMPLES).map(|id| id.as_str()).collect();
                let more = if begun.len() > EXAMPLES { ", …" } else { "" };
                Err(Failure::Usage(format!(
                    "'{word}' can be several layers: {}{more}; give more of the id",
                    some.join(", ")
                )))
            }
        }
    }

    fn base_meant(&self, state: &State) -> Result<Meant, Failure> {
        if self.own_base() {
            return Ok(Meant {
                id: BASE.to_owned(),
                up_to: Vec::new(),
                next: None,
                by_step: false,
            });
        }
        let imported = state.imported.checked_sub(1);
        let imported = imported.and_then(|top| state.stack.get(top));
        Err(Failure::NotFound(format!(
            "the stage has no base, for it was mounted from a complete image, whose uppermost layer is '{}'",
            imported.map_or("", String::as_str)
        )))
    }

    /// The newest layer that a step made.
    fn newest_of(&self, state: &State, step: &str) -> Result<Option<String>> {
        if let Some(id) = state.steps.get(step).and_then(|step| step.layer.clone()) {
            return Ok(Some(id));
        }
        let known = state.gone.contains_key(step) || state.steps.contains_key(step);
        let mut ids: Vec<&String> = match known {
            true => state.layers().collect(),
            false => Vec::new(),
        };
        // Ids begin with their number.
        ids.sort_by(|a, b| b.cmp(a));
        for id in ids {
            if self.layer(id)?.manifest().step == step {
                return Ok(Some(id.clone()));
            }
        }
        Ok(None)
    }

    /// What two words with `..` between them mean: the layers of both moments.
    /// `None` if it is one word.
    ///
    /// # Errors
    /// As [`Stage::moment`].
    pub(super) fn range(
        &self,
        state: &State,
        words: &str,
    ) -> Result<Option<[Vec<String>; 2]>, Failure> {
        let name = words.strip_prefix("snapshot:").unwrap_or(words);
        if known(state, words) || state.snapshots.contains_key(name) {
            return Ok(None);
        }
        // Names may have dots in them, too.
        let mut first = None;
        for (at, _) in words.match_indices('.') {
            let Some(end) = words[at..].strip_prefix("..") else {
                continue;
            };
            let start = self.moment(state, &words[..at]);
            match start.and_then(|start| Ok([start, self.moment(state, end)?])) {
                Ok(both) => return Ok(Some(both)),
                Err(failure) => first = first.or(Some(failure)),
            }
        }
        first.map_or(Ok(None), Err)
    }

    /// The layers of a moment: of a snapshot, with a layer on top, or of now for
    /// an empty word. A step that was merged brings along what its merge decided.
    ///
    /// # Errors
    /// As [`Stage::meant`].
    fn moment(&self, state: &State, word: &str) -> Result<Vec<String>, Failure> {
        if word.is_empty() {
            return Ok(state.stack.clone());
        }
        let named = word.strip_prefix("snapshot:").unwrap_or(word);
        let snapshots = [state.snapshots.get(word), state.snapshots.get(named)];
        let snapshot = snapshots.into_iter().flatten().next();
        match (snapshot, self.meant(state, word)) {
            (Some(_), Ok(layer)) if layer.id == word || layer.by_step => {
                Err(Failure::Usage(format!(
                    "'{word}' is the name of a snapshot, and of a step or a layer: say `snapshot:{word}`, or the id of the layer"
                )))
            }
            (Some(snapshot), _) => Ok(snapshot.stack.clone()),
            (None, Ok(layer)) => self.with_join(layer),
            (None, Err(Failure::NotFound(_))) if !known(state, word) && word != BASE => {
                Err(Failure::NotFound(format!(
                    "there is no layer and no snapshot '{word}': `harness-fs log` and `harness-fs snapshot list` name them"
                )))
            }
            (None, Err(failure)) => Err(failure),
        }
    }

    fn with_join(&self, layer: Meant) -> Result<Vec<String>, Failure> {
        let mut ids = layer.up_to;
        if layer.by_step
            && let Some(next) = layer.next
            && self.layer(&next)?.manifest().step == JOIN
        {
            ids.push(next);
        }
        Ok(ids)
    }

    /// The tree below a layer, and with it.
    ///
    /// # Errors
    /// What opening the layers reports.
    pub(super) fn around(&self, layer: &Meant) -> Result<(Stack, Stack)> {
        let with = self.stack_of(&layer.up_to)?;
        let below = layer.up_to.len().saturating_sub(1);
        Ok((self.stack_of(&layer.up_to[..below])?, with))
    }
}

/// The layer with this id, as far as there is one.
fn exactly(state: &State, id: &str, by_step: bool) -> Option<Meant> {
    let (mut stack, at) = holding(state, id)?;
    let next = stack.get(at + 1).cloned();
    stack.truncate(at + 1);
    Some(Meant {
        id: id.to_owned(),
        up_to: stack,
        next,
        by_step,
    })
}

/// A stack that has a layer, and at which place: the stage's, else one that a step
/// or a snapshot has.
pub(super) fn holding(state: &State, id: &str) -> Option<(Vec<String>, usize)> {
    let steps = state.steps.values();
    let steps = steps.map(|step| step.base_stack.iter().chain(&step.layer).cloned().collect());
    let snapshots = state.snapshots.values();
    let snapshots = snapshots.map(|snapshot| snapshot.stack.clone());
    let stacks = std::iter::once(state.stack.clone())
        .chain(steps)
        .chain(snapshots);
    for stack in stacks {
        if let Some(at) = stack.iter().position(|layer| layer == id) {
            return Some((stack, at));
        }
    }
    None
}

fn known(state: &State, word: &str) -> bool {
    let step = word.strip_prefix("step:").unwrap_or(word);
    state.steps.contains_key(step) || state.gone.contains_key(step)
}

/// Why a word means no layer.
fn no_layer(state: &State, word: &str) -> String {
    let open = |phase: Phase| phase == Phase::Open;
    if state.steps.get(word).is_some_and(|step| open(step.state)) {
        return format!(
            "step '{word}' is open and has no layer yet: `harness-fs diff {word}` lists what it has changed so far"
        );
    }
    match state.gone.get(word).map(String::as_str) {
        _ if state.steps.contains_key(word) => {
            format!("step '{word}' has changed nothing, so it has no layer")
        }
        Some(MERGED) => format!(
            "there is no layer of step '{word}': it changed nothing, or what it changed was left behind"
        ),
        Some(what) => format!("step '{word}' was {what}; there is nothing left of it"),
        None => {
            format!("there is no layer and no step '{word}': `harness-fs log` lists the layers")
        }
    }
}

/// A path that a user sees as the layers have it.
///
/// # Errors
/// [`Failure::Usage`] for one that is in none of the mapped paths.
pub(super) fn in_layers(mapped: &[PathBuf], path: &Path) -> Result<PathBuf, Failure> {
    as_layered(mapped, path).ok_or_else(|| {
        let all: Vec<_> = mapped.iter().map(|path| shown(path)).collect();
        Failure::Usage(format!(
            "{} lies in none of the mapped paths, which are {}",
            shown(path),
            all.join(", ")
        ))
    })
}
