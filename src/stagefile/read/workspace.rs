//! `workspace:`, our own block, `sharedPaths` and `caching`.

use std::path::{Component, Path, PathBuf};

use super::Reader;
use crate::merge::{Policies, Policy, SharingMode, SuffixPattern};
use crate::stagefile::place::shown;
use crate::stagefile::yaml::{Node, Value};
use crate::stagefile::{
    CachePolicy, Caching, FailedLayer, Notice, Place, PolicyRule, SharedPath, Text, Workspace,
};

/// The workspace of Harness CI.
const DEFAULT: &str = "/harness";

impl Reader {
    /// `workspace` of a stage, and what it says of shared paths' modes.
    pub fn workspace(
        &mut self,
        node: Option<&Node>,
    ) -> (Workspace, Vec<(PathBuf, SharingMode, Place)>) {
        let mut workspace = Workspace {
            path: PathBuf::from(DEFAULT),
            policies: Vec::new(),
            keep_both_as: None,
            on_conflict: None,
            strict: false,
            on_failure: FailedLayer::Discard,
        };
        let mut sharing = Vec::new();
        let fields = node.and_then(|node| self.fields(node, "workspace"));
        let Some(mut fields) = fields else {
            return (workspace, sharing);
        };
        if let Some(path) = fields.take("path").and_then(|node| self.path(node)) {
            workspace.path = path;
        }
        if let Some(node) = fields.take("policies") {
            workspace.policies = self.policies(node);
        }
        if let Some(node) = fields.take("keepBothAs") {
            workspace.keep_both_as = self.suffix(node);
        }
        if let Some(node) = fields.take("onConflict") {
            workspace.on_conflict = self.policy(node);
        }
        if let Some(node) = fields.take("strict") {
            workspace.strict = self.bool(node, "strict").unwrap_or_default();
        }
        if let Some(node) = fields.take("onFailure") {
            workspace.on_failure = self.failed_layer(node).unwrap_or(FailedLayer::Discard);
        }
        if let Some(node) = fields.take("sharing") {
            sharing = self.sharing(node);
        }
        fields.elsewhere(&["sharedPaths"], "it belongs beside 'workspace'");
        fields.finish(self);
        (workspace, sharing)
    }

    /// `workspace` of a step.
    pub fn step_workspace(&mut self, node: &Node) -> (Option<FailedLayer>, Option<Policy>) {
        let Some(mut fields) = self.fields(node, "workspace of a step") else {
            return (None, None);
        };
        let on_failure = fields.take("onFailure");
        let on_conflict = fields.take("onConflict");
        fields.elsewhere(
            &["path", "policies", "keepBothAs", "strict", "sharing"],
            "it belongs in 'workspace' of the stage",
        );
        fields.finish(self);
        (
            on_failure.and_then(|node| self.failed_layer(node)),
            on_conflict.and_then(|node| self.policy(node)),
        )
    }

    fn policies(&mut self, node: &Node) -> Vec<PolicyRule> {
        let mut rules = Vec::new();
        for item in self.list(node, "policies") {
            let Some(mut fields) = self.fields(item, "a policy") else {
                continue;
            };
            let place = fields.place;
            let pattern = fields.take("match");
            let policy = fields.take("onConflict");
            fields.finish(self);
            let (Some(pattern), Some(policy)) = (pattern, policy) else {
                let text = "a policy has 'match', such as \"reports/**\", and 'onConflict'";
                self.problem(place, text);
                continue;
            };
            let pattern = self.pattern(pattern);
            let policy = self.policy(policy);
            if let (Some(pattern), Some(policy)) = (pattern, policy) {
                rules.push(PolicyRule { pattern, policy });
            }
        }
        rules
    }

    fn policy(&mut self, node: &Node) -> Option<Policy> {
        self.choice(
            node,
            "policy",
            &Policy::ALL.map(|policy| (policy.as_str(), policy)),
        )
    }

    fn pattern(&mut self, node: &Node) -> Option<String> {
        let pattern = self.known(node, "a pattern")?;
        if pattern.is_empty() {
            self.problem(node.place, "a pattern is empty");
            return None;
        }
        match Policies::new(Vec::new()).rule(&pattern, Policy::Fail) {
            Ok(_) => Some(pattern),
            Err(error) => {
                self.problem(node.place, shown(&error.to_string()));
                None
            }
        }
    }

    fn suffix(&mut self, node: &Node) -> Option<SuffixPattern> {
        let text = self.known(node, "keepBothAs")?;
        match text.parse::<SuffixPattern>() {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                self.problem(
                    node.place,
                    format!("keepBothAs: {}", shown(&error.to_string())),
                );
                None
            }
        }
    }

    /// `discard`, `keep`, `merge`, or `{merge: [GLOB, …]}`.
    fn failed_layer(&mut self, node: &Node) -> Option<FailedLayer> {
        if let Value::Map(_) = &node.value {
            let mut fields = self.fields(node, "onFailure")?;
            let place = fields.place;
            let merge = fields.take("merge");
            fields.finish(self);
            let Some(merge) = merge else {
                self.problem(place, "onFailure as a map has 'merge', a list of patterns");
                return None;
            };
            let items = self.list(merge, "merge");
            if items.is_empty() {
                self.problem(
                    merge.place,
                    "merge names no pattern, such as \"reports/**\"",
                );
                return None;
            }
            let mut patterns = Vec::new();
            for item in items {
                patterns.push(self.pattern(item)?);
            }
            return Some(FailedLayer::MergeMatching(patterns));
        }
        let word = self.known(node, "onFailure")?;
        match word.as_str() {
            "discard" => Some(FailedLayer::Discard),
            "keep" => Some(FailedLayer::Keep),
            "merge" => Some(FailedLayer::Merge),
            _ => {
                let text = format!(
                    "onFailure is discard, keep, merge or {{merge: [PATTERN, …]}}, not '{}'",
                    shown(&word)
                );
                self.problem(node.place, text);
                None
            }
        }
    }

    fn sharing(&mut self, node: &Node) -> Vec<(PathBuf, SharingMode, Place)> {
        let mut modes = Vec::new();
        let choices = SharingMode::ALL.map(|mode| (mode.as_str(), mode));
        for entry in self.entries(node, "sharing") {
            let path = self.absolute(&entry.key, entry.place);
            let mode = self.choice(&entry.node, "sharing mode", &choices);
            if let (Some(path), Some(mode)) = (path, mode) {
                modes.push((path, mode, entry.place));
            }
        }
        modes
    }

    /// `sharedPaths`, with their modes. A path that only `sharing` names is an error: Harness
    /// itself would not share it.
    pub fn shared_paths(
        &mut self,
        node: Option<&Node>,
        sharing: Vec<(PathBuf, SharingMode, Place)>,
    ) -> Vec<SharedPath> {
        let mut shared: Vec<SharedPath> = Vec::new();
        let items = match node {
            Some(node) => self.short_list(node, "sharedPaths"),
            None => Vec::new(),
        };
        for item in items {
            let Some(path) = self.path(item) else {
                continue;
            };
            if shared.iter().any(|other| other.path == path) {
                let text = format!("'{}' is shared already", shown(&path.to_string_lossy()));
                self.problem(item.place, text);
                continue;
            }
            shared.push(SharedPath {
                path,
                mode: SharingMode::default(),
                place: item.place,
            });
        }
        for (path, mode, place) in sharing {
            match shared.iter_mut().find(|shared| shared.path == path) {
                Some(shared) => shared.mode = mode,
                None => {
                    let path = shown(&path.to_string_lossy());
                    let text = format!("sharing names '{path}', which is not in sharedPaths");
                    self.problem(place, text);
                }
            }
        }
        shared
    }

    fn path(&mut self, node: &Node) -> Option<PathBuf> {
        let text = self.known(node, "a path")?;
        self.absolute(&text, node.place)
    }

    /// The one form of an absolute path. What else keeps it from being mapped is found by who
    /// mounts it.
    fn absolute(&mut self, text: &str, place: Place) -> Option<PathBuf> {
        let path = Path::new(text);
        let wrong = if !path.is_absolute() {
            "must be absolute, such as /vol"
        } else if path.components().any(|part| part == Component::ParentDir) {
            "contains '..'"
        } else {
            return Some(path.components().collect());
        };
        self.problem(place, format!("the path '{}' {wrong}", shown(text)));
        None
    }

    /// `caching`.
    pub fn caching(&mut self, field: Option<(Place, &Node)>) -> Option<Caching> {
        let (place, node) = field?;
        let mut fields = self.fields(node, "caching")?;
        let enabled = fields.take("enabled");
        let key = fields.take("key");
        let paths = fields.take("paths");
        let policy = fields.take("policy");
        let overwrite = fields.take("override");
        let [restore_keys, scope_fallback] =
            ["restoreKeys", "scopeFallback"].map(|name| (name, fields.take(name)));
        let [store, scope] = ["store", "scope"].map(|name| (name, fields.take(name)));
        let [not_found, on_failure] =
            ["failIfKeyNotFound", "saveOnFailure"].map(|name| (name, fields.take(name)));
        let store_error = fields.take("onStoreError");
        fields.finish(self);
        let enabled = match enabled {
            Some(node) => self.bool(node, "enabled")?,
            None => false,
        };
        let policies = [
            ("pull", CachePolicy::Pull),
            ("push", CachePolicy::Push),
            ("pull-push", CachePolicy::PullPush),
        ];
        let on_store_error = [("warn", false), ("fail", true)];
        let mut caching = Caching {
            enabled,
            key: key.and_then(|node| self.text(node, "key")),
            paths: self.texts(("paths", paths), "a path"),
            restore_keys: self.texts(restore_keys, "a restore key"),
            scope_fallback: self.texts(scope_fallback, "a scope"),
            store: store.1.and_then(|node| self.text(node, store.0)),
            scope: scope.1.and_then(|node| self.text(node, scope.0)),
            fail_if_key_not_found: not_found
                .1
                .and_then(|node| self.bool(node, not_found.0))
                .unwrap_or(false),
            save_on_failure: on_failure
                .1
                .and_then(|node| self.bool(node, on_failure.0))
                .unwrap_or(false),
            fail_on_store_error: store_error
                .and_then(|node| self.choice(node, "onStoreError", &on_store_error))
                .unwrap_or(false),
            policy: policy
                .and_then(|node| self.choice(node, "caching policy", &policies))
                .unwrap_or_default(),
            overwrite: overwrite
                .and_then(|node| self.bool(node, "override"))
                .unwrap_or(true),
            place,
        };
        if caching.enabled
            && let Some(why) = not_known(&caching)
        {
            caching.enabled = false;
            self.notices.push(Notice {
                place,
                text: format!("caching at line {} is left out: {why}", place.line),
            });
        }
        Some(caching)
    }

    /// A list of texts, if it is there.
    fn texts(
        &mut self,
        (name, list): (&'static str, Option<&Node>),
        what: &'static str,
    ) -> Vec<Text> {
        let mut all = Vec::new();
        if let Some(node) = list {
            for item in self.list(node, name) {
                all.extend(self.text(item, what));
            }
        }
        all
    }
}

/// What of a cache this version does not know.
fn not_known(caching: &Caching) -> Option<&'static str> {
    let template = |text: &Text| text.has_literal("{{");
    if caching.key.is_none() || caching.paths.is_empty() {
        Some("without a key and paths the tools that are used would have to be detected")
    } else if caching
        .key
        .iter()
        .chain(&caching.restore_keys)
        .any(template)
    {
        Some("templates in keys ({{ … }}) are not known")
    } else {
        None
    }
}
