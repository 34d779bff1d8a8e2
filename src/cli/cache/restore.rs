//! `cache restore`: what a key stands for, into the stage.

use std::path::PathBuf;

use serde_json::Value;

use super::super::output::{Trouble, note, print, print_json};
use super::super::place::{Place, absolute};
use super::progress::Shown;
use super::which::{DEFAULT_SCOPE, DEFAULT_STORE, open};
use super::{OnStoreError, Policy};
use crate::cache::{self, RestoreReport, RestoreWish};
use crate::daemon::bytes;

/// Have the stage show what was saved under a key.
///
/// The paths are then as they were saved, and what they held before is gone from the
/// stage: it is verified first, and all or nothing. Steps that have begun do not see it.
/// A key that is not there is no failure.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs cache restore --key deps-1f3a --restore-key deps-
  harness-fs cache restore --key deps --from s3://ci-caches/app --scope fork-7 --scope-fallback main

Prints cache_hit=true or cache_hit=false, and with a hit cache_state=complete, or partial for a --restore-key.")]
pub struct Arguments {
    /// The key.
    #[arg(long, value_name = "KEY")]
    key: String,
    /// If there is no such key, the newest that begins with this; may be repeated, the best first.
    #[arg(long, value_name = "PREFIX")]
    restore_key: Vec<String>,
    /// Only this path of those that were saved; may be repeated.
    #[arg(long, value_name = "PATH")]
    path: Vec<PathBuf>,
    /// The store: file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY.
    #[arg(long, value_name = "URL", env = "HARNESS_FS_STORE", default_value = DEFAULT_STORE)]
    from: String,
    /// The scope of the key.
    #[arg(long, value_name = "NAME", env = "HARNESS_FS_CACHE_SCOPE", default_value = DEFAULT_SCOPE)]
    scope: String,
    /// A scope to look in as well, after the first; may be repeated.
    #[arg(long, value_name = "NAME")]
    scope_fallback: Vec<String>,
    /// With push, nothing is restored.
    #[arg(
        long,
        value_name = "POLICY",
        env = "HARNESS_FS_CACHE_POLICY",
        default_value = "pull-push"
    )]
    policy: Policy,
    /// Fail, with code 3, if neither the key nor one that begins as said is there.
    #[arg(long)]
    fail_if_key_not_found: bool,
    /// What it does if the store cannot be reached, or takes no credentials.
    #[arg(long, value_name = "WHAT", default_value = "warn")]
    on_store_error: OnStoreError,
    /// Restore devices, file capabilities, and the setuid and setgid bits of root's files too.
    #[arg(long)]
    trust: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let paths = arguments.path.iter().map(|path| absolute(path));
    let wish = RestoreWish {
        key: arguments.key,
        prefixes: arguments.restore_key,
        scopes: [vec![arguments.scope], arguments.scope_fallback].concat(),
        paths: paths.collect::<Result<_, _>>()?,
        trust: arguments.trust,
    };
    let miss = || RestoreReport {
        key: wish.key.clone(),
        refused: Value::Array(Vec::new()),
        ..RestoreReport::default()
    };
    if arguments.policy == Policy::Push {
        note("not restored: the policy is push");
        return tell(&miss(), arguments.json);
    }
    let store = open(&arguments.from)?;
    let mut client = place.connect_from_steps()?;
    let progress = Shown::new(arguments.json);
    let report = match cache::restore(&mut client, &store, &wish, &progress) {
        Err(trouble) if trouble.is_outage() && arguments.on_store_error == OnStoreError::Warn => {
            let trouble = Trouble::from(trouble);
            note(&format!("not restored: {}", trouble.message()));
            miss()
        }
        restored => restored?,
    };
    if !report.cache_hit && arguments.fail_if_key_not_found {
        let text = format!("{}: there is no key '{}'", store.url(), wish.key);
        tell(&report, arguments.json)?;
        return Err(Trouble::new(3, text));
    }
    tell(&report, arguments.json)
}

fn tell(report: &RestoreReport, json: bool) -> Result<u8, Trouble> {
    if json {
        print_json(report)?;
        return Ok(0);
    }
    print(&report.text)?;
    print(&format!("cache_hit={}", report.cache_hit))?;
    if let Some(state) = report.cache_state {
        print(&format!(
            "cache_state={state}\nrestored '{}': {}, {}, {} entries, {:.1} s",
            report.key,
            report.paths.join(", "),
            bytes(report.bytes),
            report.entries,
            report.seconds
        ))?;
    }
    Ok(0)
}
