//! `step merge`: brings what steps changed into the stage.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::output::{Trouble, show};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::control::{OfOne, Request};
use crate::merge::{Policy, SuffixPattern};

/// Merge steps into the stage, all or none, in the order given.
///
/// Takes steps that are open, and those that were kept after a conflict or a
/// failure. On a conflict nothing is merged, the exit code is 4, and the report
/// says what to add.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs step merge build
  harness-fs step merge unit lint --on-conflict last
  harness-fs step merge unit --only 'reports/**'    # of one that failed and is kept
  harness-fs step merge unit lint --on-conflict keep-both --keep-both-as '{stem}.{step}{ext}'")]
pub struct Arguments {
    /// The steps.
    #[arg(value_name = "NAME", required = true)]
    steps: Vec<String>,
    /// What to do about every path that both sides changed.
    #[arg(long, value_name = "POLICY", value_parser = policy::parser())]
    on_conflict: Option<Policy>,
    /// How keep-both names their versions in this merge; see `mount` [default: as mounted].
    #[arg(long, value_name = "PATTERN")]
    keep_both_as: Option<SuffixPattern>,
    /// Merge of each step only what this pattern matches, as those of `mount --policy` do, and
    /// forget the rest; may be repeated.
    #[arg(long, value_name = "GLOB")]
    only: Vec<String>,
    /// Merge nothing if one of them read what another changed at the same time;
    /// --strict=false: merge all the same [default: as mounted].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    strict: Option<bool>,
    /// How long processes left in the steps have to end before they are killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = policy::duration)]
    grace: Duration,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence, or the report of the conflicts.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let of_one = OfOne {
        on_conflict: None,
        only: arguments.only,
    };
    let mut each = BTreeMap::new();
    if !of_one.only.is_empty() {
        let steps = arguments.steps.iter();
        each.extend(steps.map(|step| (step.clone(), of_one.clone())));
    }
    let request = Request::StepMerge {
        steps: arguments.steps,
        on_conflict: arguments.on_conflict,
        keep_both_as: arguments.keep_both_as,
        each,
        strict: arguments.strict,
        grace_ms: policy::millis(arguments.grace),
    };
    show(place.ask(&request)?, arguments.json)
}
