//! What was done to the stage since steps began, read once for all steps that are merged at once.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use super::Stage;
use super::content::Known;
use super::delta::Scan;
use super::merge::JOIN;
use crate::error::Result;
use crate::layer::Stack;

/// What the layers above a base did, as far as they have been read.
#[derive(Debug, Default)]
pub(super) struct Since {
    pub scan: Scan,
    /// How many of the stack's ids have been read, those of the base among them.
    read: usize,
    writer: Option<Arc<str>>,
}

impl Since {
    fn new(base: usize) -> Since {
        Since {
            read: base,
            ..Since::default()
        }
    }
}

/// By the number of layers in the base: all bases are the lower part of one stack.
#[derive(Debug)]
pub(super) struct AllSince {
    by_base: BTreeMap<usize, Since>,
    known: Rc<Known>,
}

impl AllSince {
    /// Nothing has been read yet, but for content.
    pub fn new(known: &Rc<Known>) -> AllSince {
        AllSince {
            by_base: BTreeMap::new(),
            known: known.clone(),
        }
    }

    /// What has been read of content.
    pub fn known(&self) -> &Rc<Known> {
        &self.known
    }

    /// What is known of this base, to be read on and put back.
    pub fn take(&mut self, base: usize) -> Since {
        self.by_base
            .remove(&base)
            .unwrap_or_else(|| Since::new(base))
    }

    /// Remembers it for the next step.
    pub fn put(&mut self, base: usize, since: Since) {
        self.by_base.insert(base, since);
    }
}

impl Stage {
    /// Reads on up to the top of the stack. A join layer is read together with
    /// the step's layer below it.
    ///
    /// # Errors
    /// What the layers report.
    pub(super) fn read_since(
        &self,
        since: &mut Since,
        stage: &Stack,
        ids: &[String],
    ) -> Result<()> {
        let below_ids = stage.layers().len() - ids.len();
        // No step has to do with what is there, and it may be much.
        let apart = self.unmerged_roots();
        let mut step: Option<(Scan, usize)> = None;
        for (index, id) in ids.iter().enumerate().skip(since.read) {
            let depth = below_ids + index;
            let made_by = self.layer(id)?.manifest().step.clone();
            if made_by == JOIN {
                // It belongs to the step whose layer lies below it, except for
                // what it restores of the state that the step was merged into.
                let writer = since.writer.get_or_insert_with(|| Arc::from("stage"));
                let mut join = Scan::but_for(stage, depth, writer, &apart)?;
                if let Some((step, depth_then)) = step.take() {
                    let (here, then) = (stage.below(depth + 1), stage.below(depth_then));
                    join.credit(here, &since.scan.delta, then)?;
                    since.scan.then(step);
                }
                since.scan.then(join);
                continue;
            }
            if let Some((step, _)) = step.take() {
                since.scan.then(step);
            }
            let writer: Arc<str> = match made_by.as_str() {
                "head" | "import" => Arc::from("stage"),
                step => Arc::from(step),
            };
            step = Some((Scan::but_for(stage, depth, &writer, &apart)?, depth));
            since.writer = Some(writer);
        }
        if let Some((step, _)) = step {
            since.scan.then(step);
        }
        since.read = ids.len();
        Ok(())
    }
}
