//! Names of steps, snapshots and groups, and ids of layers.

use std::path::{Path, PathBuf};

use super::Failure;
use super::shell::DIRS;

/// Names become directory names; what is longer would not fit beside a suffix.
const LONGEST: usize = 200;

/// The name of the stage's own view.
pub const STAGE_VIEW: &str = "stage";

/// Where a stage's own view is mounted first, before it is bound.
pub fn stage_mount(state_dir: &Path) -> PathBuf {
    state_dir.join(super::VIEWS).join(STAGE_VIEW).join("mnt")
}

/// What layers that no step wrote are said to be written by.
const WRITERS: [&str; 4] = ["base", "head", "join", "import"];

/// Checks a name that a user chose; `what` is what it names.
///
/// # Errors
/// [`Failure::Usage`] saying what is wrong with it.
pub fn check(what: &str, name: &str) -> Result<(), Failure> {
    let wrong = if name.is_empty() {
        "is empty"
    } else if name == "." || name == ".." {
        "cannot be '.' or '..'"
    } else if name.contains('/') {
        "cannot contain '/'"
    } else if name.chars().any(char::is_control) {
        "cannot contain control characters"
    } else if name.len() > LONGEST {
        "is longer than 200 bytes"
    } else if what == "step" && name == STAGE_VIEW {
        "cannot be 'stage', which is the stage's own view"
    } else if what == "step" && WRITERS.contains(&name) {
        "cannot be 'base', 'head', 'join' or 'import', which are the stage's own layers"
    } else if what == "step" && name.starts_with(DIRS) {
        "cannot begin with '.shell-', as the views of `step shell` do"
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(60).flat_map(char::escape_debug).collect();
    Err(Failure::Usage(format!("{what} name '{shown}' {wrong}")))
}

/// The id of the `number`th layer, made for `name`.
pub fn layer_id(number: u64, name: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().take(80).map(safe).collect();
    format!("{number:06}-{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_directories_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a\nb",
            "stage",
            "join",
            ".shell-1",
            &"x".repeat(201),
        ] {
            assert!(
                matches!(check("step", bad), Err(Failure::Usage(_))),
                "{bad:?}"
            );
        }
        for good in ["build", "Run tests (3.12)", "..x", "ünit", "stage 2"] {
            assert!(check("step", good).is_ok(), "{good:?}");
        }
        assert_eq!(layer_id(7, "a b/ü"), "000007-a_b__");
    }
}
