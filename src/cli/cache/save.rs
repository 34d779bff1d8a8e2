//! `cache save`: paths of the stage under a key.

use std::path::PathBuf;

use super::super::output::{Trouble, note, print, print_json};
use super::super::place::{Place, absolute};
use super::progress::Shown;
use super::which::{DEFAULT_SCOPE, DEFAULT_STORE, open};
use super::{OnStoreError, Policy};
use crate::cache::{self, SaveReport, SaveWish};
use crate::daemon::bytes;
use crate::export::Compat;
use crate::store::RefName;

/// Save paths of the stage under a key.
///
/// What is saved is what the stage shows of the paths, in a step too: what the step has
/// written is not in the stage before it is merged. Only what has changed since the
/// stage saved or restored the same paths is read and sent. A key that is there is left
/// as it is, unless --override is given. Files that are well-known secrets are left out.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs cache save --key deps-1f3a --path /root/.m2
  harness-fs cache save --key deps --override --path /harness/node_modules --to s3://ci-caches/app
  harness-fs cache save --key deps --path /root/.npm --to oci://registry.example/ci/caches")]
pub struct Arguments {
    /// The key.
    #[arg(long, value_name = "KEY")]
    key: String,
    /// A mapped path, or a part of one; may be repeated.
    #[arg(long, value_name = "PATH", required = true)]
    path: Vec<PathBuf>,
    /// The store: file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or oci://REGISTRY/REPOSITORY.
    #[arg(long, value_name = "URL", env = "HARNESS_FS_STORE", default_value = DEFAULT_STORE)]
    to: String,
    /// The scope of the key: whose builds read it.
    #[arg(long, value_name = "NAME", env = "HARNESS_FS_CACHE_SCOPE", default_value = DEFAULT_SCOPE)]
    scope: String,
    /// Replace what is there under the key.
    #[arg(long = "override")]
    replace: bool,
    /// With pull, nothing is saved.
    #[arg(
        long,
        value_name = "POLICY",
        env = "HARNESS_FS_CACHE_POLICY",
        default_value = "pull-push"
    )]
    policy: Policy,
    /// What it does if the store cannot be reached, or takes no credentials.
    #[arg(long, value_name = "WHAT", default_value = "warn")]
    on_store_error: OnStoreError,
    /// Save this secret file all the same: its path as listed, a glob for such paths, or a name such
    /// as .npmrc; may be repeated. It is an error if no file has it.
    #[arg(long, value_name = "PATH")]
    allow_secret: Vec<String>,
    /// Write layers that older tools read too: gzip, tar+gzip without a table of contents.
    #[arg(long, value_name = "FORM")]
    compat: Option<Form>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Forms of layers for other tools.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Form {
    Gzip,
}

/// Carries it out.
///
/// # Errors
/// One sentence.
pub fn run(arguments: Arguments, place: &Place) -> Result<u8, Trouble> {
    let name = RefName::new(arguments.scope.as_str(), arguments.key.as_str());
    let name = name.map_err(cache::Trouble::from)?;
    if arguments.policy == Policy::Pull {
        return tell(&not_saved(&name, "the policy is pull"), arguments.json);
    }
    let paths = arguments.path.iter().map(|path| absolute(path));
    let wish = SaveWish {
        name,
        paths: paths.collect::<Result<_, _>>()?,
        replace: arguments.replace,
        allow_secret: arguments.allow_secret,
        compat: arguments.compat.map(|Form::Gzip| Compat::Gzip),
    };
    let store = open(&arguments.to)?;
    let mut client = place.connect_from_steps()?;
    let progress = Shown::new(arguments.json);
    let report = match cache::save(&mut client, &store, &wish, &progress) {
        Err(trouble) if trouble.is_outage() && arguments.on_store_error == OnStoreError::Warn => {
            let trouble = Trouble::from(trouble);
            note(&format!("not saved: {}", trouble.message()));
            not_saved(&wish.name, trouble.message())
        }
        saved => saved?,
    };
    tell(&report, arguments.json)
}

fn not_saved(name: &RefName, why: &str) -> SaveReport {
    SaveReport {
        key: name.key().to_owned(),
        scope: name.scope().to_owned(),
        why: Some(why.to_owned()),
        ..SaveReport::default()
    }
}

fn tell(report: &SaveReport, json: bool) -> Result<u8, Trouble> {
    if json {
        print_json(report)?;
        return Ok(0);
    }
    print(&report.text)?;
    match &report.why {
        Some(why) => print(&format!("not saved '{}': {why}", report.key))?,
        None => print(&format!(
            "saved '{}': {} in {} layer{}, {} sent, {} entries, {:.1} s",
            report.key,
            bytes(report.bytes),
            report.layers,
            if report.layers == 1 { "" } else { "s" },
            bytes(report.sent_bytes),
            report.entries,
            report.seconds
        ))?,
    }
    Ok(0)
}
