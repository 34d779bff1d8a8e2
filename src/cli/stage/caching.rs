//! The cache of a stage file: restored before the first step, saved after the last.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cache::{self, RestoreReport, RestoreWish, SaveReport, SaveWish};
use crate::cli::cache::progress::Shown;
use crate::cli::cache::which::{self, DEFAULT_SCOPE, DEFAULT_STORE};
use crate::cli::output::{Trouble, note};
use crate::cli::place::Place;
use crate::daemon::bytes;
use crate::stagefile::{CachePolicy, Caching, Context, Stage, Text};
use crate::store::{RefName, Store};

/// What `caching` of a stage file asks for.
pub struct StageCache {
    store: Store,
    key: String,
    prefixes: Vec<String>,
    scopes: Vec<String>,
    paths: Vec<PathBuf>,
    policy: CachePolicy,
    replace: bool,
    fail_if_key_not_found: bool,
    save_on_failure: bool,
    fail_on_store_error: bool,
    restored: Option<RestoreReport>,
    saved: Option<SaveReport>,
}

fn from_variable(name: &str, default: &str) -> String {
    let value = std::env::var(name).ok();
    let value = value.filter(|value| !value.is_empty());
    value.unwrap_or_else(|| default.to_owned())
}

fn texts(texts: &[Text], context: &Context) -> Result<Vec<String>, Trouble> {
    texts.iter().map(|text| value(text, context)).collect()
}

fn value(text: &Text, context: &Context) -> Result<String, Trouble> {
    let wrong = |problem: crate::stagefile::Problem| Trouble::new(2, problem.to_string());
    text.evaluate(context).map_err(wrong)
}

impl StageCache {
    /// Of a stage; `None` if it has none, or none that is known.
    ///
    /// # Errors
    /// A URL that is none, or an expression without a value.
    pub fn of(stage: &Stage) -> Result<Option<StageCache>, Trouble> {
        let caching = match &stage.caching {
            Some(caching) if caching.enabled => caching,
            _ => return Ok(None),
        };
        let context = stage.context();
        let one = |text: &Option<Text>, variable: &str, default: &str| match text {
            Some(text) => value(text, &context),
            None => Ok(from_variable(variable, default)),
        };
        let Caching { key, .. } = caching;
        let key = key.as_ref().map(|key| value(key, &context));
        let scope = one(&caching.scope, "HARNESS_FS_CACHE_SCOPE", DEFAULT_SCOPE)?;
        let paths = texts(&caching.paths, &context)?.into_iter();
        let paths = paths.map(|path| stage.workspace.path.join(path));
        Ok(Some(StageCache {
            store: which::open(&one(&caching.store, "HARNESS_FS_STORE", DEFAULT_STORE)?)?,
            key: key.transpose()?.unwrap_or_default(),
            prefixes: texts(&caching.restore_keys, &context)?,
            scopes: [vec![scope], texts(&caching.scope_fallback, &context)?].concat(),
            paths: paths.collect(),
            policy: caching.policy,
            replace: caching.overwrite,
            fail_if_key_not_found: caching.fail_if_key_not_found,
            save_on_failure: caching.save_on_failure,
            fail_on_store_error: caching.fail_on_store_error,
            restored: None,
            saved: None,
        }))
    }

    /// Has the stage show it, before its first step.
    ///
    /// # Errors
    /// What is damaged, or a miss or an outage that is to be a failure.
    pub fn restore(&mut self, place: &Place) -> Result<(), Trouble> {
        if self.policy == CachePolicy::Push {
            return Ok(());
        }
        let wish = RestoreWish {
            key: self.key.clone(),
            prefixes: self.prefixes.clone(),
            scopes: self.scopes.clone(),
            paths: Vec::new(),
            trust: false,
        };
        let mut client = place.connect()?;
        let restored = cache::restore(&mut client, &self.store, &wish, &Shown::new(true));
        let report = match restored {
            Err(trouble) if trouble.is_outage() && !self.fail_on_store_error => {
                note(&format!(
                    "cache: not restored: {}",
                    Trouble::from(trouble).message()
                ));
                return Ok(());
            }
            restored => restored?,
        };
        if !report.cache_hit && self.fail_if_key_not_found {
            let text = format!("{}: there is no key '{}'", self.store.url(), self.key);
            return Err(Trouble::new(3, text));
        }
        note(&match report.cache_hit {
            true => format!(
                "cache: restored '{}': {}, {:.1} s\n{}",
                report.key,
                bytes(report.bytes),
                report.seconds,
                report.text
            ),
            false => format!("cache: nothing is saved under '{}'", report.key),
        });
        self.restored = Some(report);
        Ok(())
    }

    /// Saves it, after the last step.
    ///
    /// # Errors
    /// What kept it from being saved, but for an outage that is to be none.
    pub fn save(&mut self, place: &Place, succeeded: bool) -> Result<(), Trouble> {
        if self.policy == CachePolicy::Pull {
            return Ok(());
        }
        if !succeeded && !self.save_on_failure {
            note("cache: not saved, since the stage did not succeed");
            return Ok(());
        }
        let scope = self.scopes.first().map_or("", String::as_str);
        let name = RefName::new(scope, self.key.as_str());
        let wish = SaveWish {
            name: name.map_err(cache::Trouble::from)?,
            paths: self.paths.clone(),
            replace: self.replace,
            allow_secret: Vec::new(),
            compat: None,
        };
        let mut client = place.connect()?;
        let saved = cache::save(&mut client, &self.store, &wish, &Shown::new(true));
        let report = match saved {
            Err(trouble) if trouble.is_outage() && !self.fail_on_store_error => {
                note(&format!(
                    "cache: not saved: {}",
                    Trouble::from(trouble).message()
                ));
                return Ok(());
            }
            saved => saved?,
        };
        note(&match &report.why {
            Some(why) => format!("cache: not saved '{}': {why}", report.key),
            None => format!(
                "cache: saved '{}': {}, {} sent, {:.1} s\n{}",
                report.key,
                bytes(report.bytes),
                bytes(report.sent_bytes),
                report.seconds,
                report.text
            ),
        });
        self.saved = Some(report);
        Ok(())
    }

    /// What became of it, for programs.
    pub fn told(&self) -> Value {
        json!({ "restored": self.restored, "saved": self.saved })
    }
}
