//! What a user's word for a layer, or for a moment of the stage, means.

use std::path::{Path, PathBuf};

use super::diff::as_layered;
use super::merge::MERGED;
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
        if let Some(up_to) = up_to(state, word) {
            return Ok(meant(word, up_to));
        }
        let step = word.strip_prefix("step:").unwrap_or(word);
        for name in [word, step] {
            if let Some(id) = self.newest_of(state, name)?
                && let Some(up_to) = up_to(state, &id)
            {
                return Ok(meant(&id, up_to));
            }
        }
        let mut begun: Vec<&String> = state.layers().filter(|id| id.starts_with(word)).collect();
        begun.sort();
        begun.dedup();
        match begun[..] {
            [id] if !word.is_empty() => {
                let up_to = up_to(state, id).unwrap_or_default();
                Ok(meant(id, up_to))
            }
            [] => Err(Failure::NotFound(no_layer(state, step))),
            _ => {
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
            return Ok(meant(BASE, Vec::new()));
        }
        let lowest = state.stack.first().map_or("", String::as_str);
        Err(Failure::NotFound(format!(
            "the stage has no base, for it was mounted from a complete image; its lowest layer is '{lowest}'"
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

fn meant(id: &str, up_to: Vec<String>) -> Meant {
    Meant {
        id: id.to_owned(),
        up_to,
    }
}

/// A layer and what lies below it: in the stage, else where a step or a snapshot has it.
pub(super) fn up_to(state: &State, id: &str) -> Option<Vec<String>> {
    let steps = state.steps.values();
    let steps = steps.map(|step| step.base_stack.iter().chain(&step.layer).cloned().collect());
    let snapshots = state.snapshots.values();
    let snapshots = snapshots.map(|snapshot| snapshot.stack.clone());
    let stacks = std::iter::once(state.stack.clone())
        .chain(steps)
        .chain(snapshots);
    for mut stack in stacks {
        if let Some(at) = stack.iter().position(|layer| layer == id) {
            stack.truncate(at + 1);
            return Some(stack);
        }
    }
    None
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
